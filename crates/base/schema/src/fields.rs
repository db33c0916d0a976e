//! Sets of fields: who owns what (`fieldsV1` of managed fields).

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path in a set.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Element {
    /// `f:NAME`: a field of a struct or a key of a map.
    Field(String),
    /// `k:JSON`: an item of a list, by its key fields.
    Key(String),
    /// `v:JSON`: an item of a set.
    Value(String),
    /// `i:N`: an item by its place.
    Index(u64),
}

impl Element {
    fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let json = || serde_json::from_str::<Value>(rest).ok();
        Some(match kind {
            "f" => Self::Field(rest.to_owned()),
            "k" => Self::Key(canonical(&json()?)),
            "v" => Self::Value(canonical(&json()?)),
            "i" => Self::Index(rest.parse().ok()?),
            _ => return None,
        })
    }

    fn text(&self) -> String {
        match self {
            Self::Field(name) => format!("f:{name}"),
            Self::Key(json) => format!("k:{json}"),
            Self::Value(json) => format!("v:{json}"),
            Self::Index(n) => format!("i:{n}"),
        }
    }
}

/// JSON with sorted keys, so that equal values are equal texts.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> = fields.iter().collect();
            serde_json::to_string(&sorted).expect("a tree serializes")
        }
        value => value.to_string(),
    }
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Field(name) => write!(f, ".{name}"),
            Self::Value(json) => write!(f, "[={json}]"),
            Self::Index(n) => write!(f, "[{n}]"),
            Self::Key(json) => {
                f.write_str("[")?;
                if let Ok(Value::Object(fields)) = serde_json::from_str(json) {
                    for (n, (key, value)) in fields.iter().enumerate() {
                        let comma = if n > 0 { "," } else { "" };
                        write!(f, "{comma}{key}={value}")?;
                    }
                }
                f.write_str("]")
            }
        }
    }
}

/// What a set says of one element.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Node {
    /// The element itself is in the set.
    pub member: bool,
    /// What is in the set below it.
    pub children: FieldSet,
}

/// A set of paths.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FieldSet {
    nodes: BTreeMap<Element, Node>,
}

/// No set of a stranger nests deeper.
const DEEPEST: usize = 64;

impl FieldSet {
    /// Reads the `fieldsV1` form; what is malformed is left out.
    pub fn parse(value: &Value) -> Self {
        Self::parse_at(value, 0)
    }

    fn parse_at(value: &Value, depth: usize) -> Self {
        let mut set = Self::default();
        if let (Value::Object(fields), true) = (value, depth < DEEPEST) {
            for (key, value) in fields {
                let Some(element) = Element::parse(key) else {
                    continue;
                };
                let children = Self::parse_at(value, depth + 1);
                let dot = value.get(".").is_some();
                let member = dot || children.is_empty();
                set.nodes.insert(element, Node { member, children });
            }
        }
        set
    }

    /// The `fieldsV1` form.
    pub fn to_json(&self) -> Value {
        let mut fields = Map::new();
        for (element, node) in &self.nodes {
            let mut json = node.children.to_json();
            if node.member && !node.children.is_empty() {
                let Value::Object(children) = &mut json else {
                    continue;
                };
                children.shift_insert(0, ".".to_owned(), Value::Object(Map::new()));
            }
            fields.insert(element.text(), json);
        }
        Value::Object(fields)
    }

    /// Whether nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// What the set says of an element.
    pub fn get(&self, element: &Element) -> Option<&Node> {
        self.nodes.get(element)
    }

    /// The elements and what is said of them.
    pub fn iter(&self) -> impl Iterator<Item = (&Element, &Node)> {
        self.nodes.iter()
    }

    /// Says something of an element, in addition to what is said already.
    pub fn insert(&mut self, element: Element, node: Node) {
        if !node.member && node.children.is_empty() {
            return;
        }
        let own = self.nodes.entry(element).or_default();
        own.member |= node.member;
        let children = std::mem::take(&mut own.children);
        own.children = children.union(node.children);
    }

    /// What is in either.
    #[must_use]
    pub fn union(mut self, other: Self) -> Self {
        if self.is_empty() {
            return other;
        }
        for (element, node) in other.nodes {
            self.insert(element, node);
        }
        self
    }

    /// What is in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for (element, node) in &self.nodes {
            if let Some(theirs) = other.nodes.get(element) {
                set.insert(
                    element.clone(),
                    Node {
                        member: node.member && theirs.member,
                        children: node.children.intersection(&theirs.children),
                    },
                );
            }
        }
        set
    }

    /// What is in this and not in the other.
    #[must_use]
    pub fn difference(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for (element, node) in &self.nodes {
            let rest = match other.nodes.get(element) {
                None => node.clone(),
                Some(theirs) => Node {
                    member: node.member && !theirs.member,
                    children: node.children.difference(&theirs.children),
                },
            };
            set.insert(element.clone(), rest);
        }
        set
    }

    /// This without the paths at or below the other's members.
    #[must_use]
    pub fn without(&self, other: &Self) -> Self {
        let mut set = Self::default();
        for (element, node) in &self.nodes {
            match other.nodes.get(element) {
                Some(theirs) if theirs.member => {}
                Some(theirs) => set.insert(
                    element.clone(),
                    Node {
                        member: node.member,
                        children: node.children.without(&theirs.children),
                    },
                ),
                None => set.insert(element.clone(), node.clone()),
            }
        }
        set
    }

    /// Leaves out a path of field names and everything below it.
    pub fn remove(&mut self, path: &[&str]) {
        let Some((first, rest)) = path.split_first() else {
            return;
        };
        let element = Element::Field((*first).to_owned());
        if rest.is_empty() {
            self.nodes.remove(&element);
            return;
        }
        if let Some(node) = self.nodes.get_mut(&element) {
            node.children.remove(rest);
            if node.children.is_empty() && !node.member {
                self.nodes.remove(&element);
            }
        }
    }

    /// The members as upstream prints paths, in order.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.gather(&mut String::new(), &mut paths);
        paths
    }

    fn gather(&self, prefix: &mut String, paths: &mut Vec<String>) {
        for (element, node) in &self.nodes {
            let length = prefix.len();
            prefix.push_str(&element.to_string());
            if node.member {
                paths.push(prefix.clone());
            }
            node.children.gather(prefix, paths);
            prefix.truncate(length);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_wire_form_goes_both_ways() {
        let json = json!({"f:metadata": {"f:labels": {".": {}, "f:app": {}}},
            "f:spec": {"f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}}},
                "f:finalizers": {"v:\"x\"": {}}}});
        let set = FieldSet::parse(&json);
        assert_eq!(set.to_json(), json);
        assert_eq!(
            set.paths(),
            [
                ".metadata.labels",
                ".metadata.labels.app",
                ".spec.containers[name=\"c\"]",
                ".spec.containers[name=\"c\"].image",
                ".spec.finalizers[=\"x\"]",
            ]
        );
    }

    fn set() -> impl Strategy<Value = FieldSet> {
        let leaf = Just(FieldSet::default());
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop::collection::btree_map("[a-c]", (any::<bool>(), inner), 0..4).prop_map(|nodes| {
                let mut set = FieldSet::default();
                for (name, (member, children)) in nodes {
                    let member = member || children.is_empty();
                    set.insert(Element::Field(name), Node { member, children });
                }
                set
            })
        })
    }

    proptest! {
        #[test]
        fn sets_obey_their_laws(a in set(), b in set()) {
            prop_assert_eq!(FieldSet::parse(&a.to_json()), a.clone());
            prop_assert_eq!(a.clone().union(b.clone()), b.clone().union(a.clone()));
            prop_assert_eq!(a.intersection(&b), b.intersection(&a));
            prop_assert!(a.difference(&a).is_empty());
            prop_assert!(a.difference(&b).intersection(&b).is_empty());
            prop_assert_eq!(a.difference(&b).union(a.intersection(&b)), a);
        }
    }
}
