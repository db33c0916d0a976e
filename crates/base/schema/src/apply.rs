//! Structured merge: what fields a tree has, how two trees differ, and how an
//! applied configuration joins a live object.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::fields::{Element, FieldSet, Node, canonical};
use crate::types::{Field, ListType, Presence, Shape, Type, Types};

/// A value's place in the table: its shape and how it merges.
#[derive(Clone, Copy)]
struct Place<'t> {
    types: &'t Types,
    shape: &'t Shape,
    list: &'t ListType,
    atomic: bool,
}

const ATOMIC: &ListType = &ListType::Atomic;

impl<'t> Place<'t> {
    fn whole(types: &'t Types, shape: &'t Shape) -> Self {
        Self {
            types,
            shape,
            list: ATOMIC,
            atomic: false,
        }
    }

    fn field(&self, field: &'t Field) -> Self {
        Self {
            types: self.types,
            shape: &field.shape,
            list: &field.list,
            atomic: field.atomic,
        }
    }

    fn item(&self, shape: &'t Shape) -> Self {
        Self::whole(self.types, shape)
    }

    fn ty(&self) -> Option<&'t Type> {
        self.types.of(self.shape)
    }

    /// The place of a field or map entry; fields the table lacks are one value.
    fn child(&self, name: &str) -> Self {
        match self.shape {
            Shape::Struct(_) => match self.ty().and_then(|ty| ty.field(name)) {
                Some(field) => self.field(field),
                None => Self::whole(self.types, &Shape::Any),
            },
            Shape::Map(item) => self.item(item),
            _ => Self::whole(self.types, &Shape::Any),
        }
    }

    fn has_parts(&self) -> bool {
        match self.shape {
            Shape::Struct(_) => !self.atomic && self.ty().is_some_and(|ty| !ty.atomic),
            Shape::Map(_) => !self.atomic,
            Shape::List(_) => *self.list != ListType::Atomic,
            _ => false,
        }
    }

    /// The element that names a list item.
    fn element(&self, item: &Value) -> Option<Element> {
        let Shape::List(shape) = self.shape else {
            return None;
        };
        match self.list {
            ListType::Atomic => None,
            ListType::Set => Some(Element::Value(canonical(item))),
            ListType::Map(keys) => {
                let ty = self.types.of(shape);
                let mut name = BTreeMap::new();
                for key in keys {
                    let default = || ty?.field(key)?.default.as_ref();
                    if let Some(value) = item.get(&**key).or_else(default) {
                        name.insert(&**key, value);
                    }
                }
                (!name.is_empty())
                    .then(|| Element::Key(serde_json::to_string(&name).expect("a tree serializes")))
            }
        }
    }

    fn item_place(&self) -> Self {
        match self.shape {
            Shape::List(item) => self.item(item),
            _ => Self::whole(self.types, &Shape::Any),
        }
    }
}

/// Every field a tree has, as an applier owns them.
pub fn fields_of(types: &Types, shape: &Shape, value: &Value) -> FieldSet {
    collect(Place::whole(types, shape), value)
}

fn collect(place: Place<'_>, value: &Value) -> FieldSet {
    let mut set = FieldSet::default();
    if !place.has_parts() {
        return set;
    }
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let child = place.child(name);
                let children = collect(child, value);
                let is_map_entry = matches!(place.shape, Shape::Map(_));
                let empty = value.is_null()
                    || value.as_object().is_some_and(Map::is_empty)
                    || value.as_array().is_some_and(Vec::is_empty);
                let member = is_map_entry || empty || !child.has_parts();
                set.insert(Element::Field(name.clone()), Node { member, children });
            }
        }
        Value::Array(items) => {
            for item in items {
                if let Some(element) = place.element(item) {
                    let children = collect(place.item_place(), item);
                    set.insert(
                        element,
                        Node {
                            member: true,
                            children,
                        },
                    );
                }
            }
        }
        _ => {}
    }
    set
}

/// How two trees differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Fields that only the new tree has.
    pub added: FieldSet,
    /// Fields that only the old tree has.
    pub removed: FieldSet,
    /// Fields that both have with different values.
    pub modified: FieldSet,
}

impl Comparison {
    /// Whether the trees are the same.
    pub fn is_same(&self) -> bool {
        self.added.is_empty() && self.removed.is_empty() && self.modified.is_empty()
    }

    /// What the new tree added or modified.
    pub fn changed(&self) -> FieldSet {
        self.added.clone().union(self.modified.clone())
    }

    fn put(&mut self, element: &Element, below: Self, added: bool, removed: bool, modified: bool) {
        for (set, children, member) in [
            (&mut self.added, below.added, added),
            (&mut self.removed, below.removed, removed),
            (&mut self.modified, below.modified, modified),
        ] {
            set.insert(element.clone(), Node { member, children });
        }
    }
}

/// Compares two trees of a type.
pub fn compare(types: &Types, shape: &Shape, old: &Value, new: &Value) -> Comparison {
    parts(Place::whole(types, shape), Some(old), Some(new))
}

/// Compares what is below two values.
fn parts(place: Place<'_>, old: Option<&Value>, new: Option<&Value>) -> Comparison {
    let mut all = Comparison::default();
    if matches!(place.shape, Shape::List(_)) {
        let index = |value: Option<&Value>| -> Vec<(Element, Value)> {
            value
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|item| Some((place.element(item)?, item.clone())))
                .collect()
        };
        let (old, new) = (index(old), index(new));
        let find = |items: &[(Element, Value)], element: &Element| {
            items
                .iter()
                .find(|(other, _)| other == element)
                .map(|(_, item)| item.clone())
        };
        for (element, item) in &old {
            let other = find(&new, element);
            one(
                place.item_place(),
                element,
                Some(item),
                other.as_ref(),
                true,
                &mut all,
            );
        }
        for (element, item) in &new {
            if find(&old, element).is_none() {
                one(
                    place.item_place(),
                    element,
                    None,
                    Some(item),
                    true,
                    &mut all,
                );
            }
        }
        return all;
    }
    let entries = |value: Option<&Value>| value.and_then(Value::as_object).cloned();
    let (old, new) = (entries(old), entries(new));
    let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
    let is_struct = matches!(place.shape, Shape::Struct(_));
    for name in old
        .keys()
        .chain(new.keys().filter(|name| !old.contains_key(*name)))
    {
        // Fields that upstream always writes are never added themselves.
        let always = is_struct
            && place
                .ty()
                .and_then(|ty| ty.field(name))
                .is_some_and(|field| {
                    field.presence != Presence::Optional
                        || field.default.as_ref().is_some_and(Value::is_object)
                        || matches!(&*field.name, "metadata" | "spec" | "status")
                });
        one(
            place.child(name),
            &Element::Field(name.clone()),
            old.get(name),
            new.get(name),
            !always,
            &mut all,
        );
    }
    all
}

fn one(
    place: Place<'_>,
    element: &Element,
    old: Option<&Value>,
    new: Option<&Value>,
    itself: bool,
    all: &mut Comparison,
) {
    if old == new {
        return;
    }
    let same_kind =
        |a: &Value, b: &Value| a.is_object() == b.is_object() && a.is_array() == b.is_array();
    let split = place.has_parts()
        && match (old, new) {
            (Some(old), Some(new)) => same_kind(old, new),
            _ => true,
        };
    if !split {
        all.put(
            element,
            Comparison::default(),
            old.is_none(),
            new.is_none(),
            old.is_some() && new.is_some(),
        );
        return;
    }
    let below = parts(place, old, new);
    let bare = below.is_same();
    let itself = itself || bare;
    all.put(
        element,
        below,
        itself && old.is_none(),
        itself && new.is_none(),
        false,
    );
}

/// The live tree with an applied configuration merged into it.
pub fn merge(types: &Types, shape: &Shape, live: &Value, applied: &Value) -> Value {
    join(Place::whole(types, shape), live, applied)
}

fn join(place: Place<'_>, live: &Value, applied: &Value) -> Value {
    if !place.has_parts() {
        return applied.clone();
    }
    match (live, applied) {
        (Value::Object(live), Value::Object(applied)) => {
            let mut merged = live.clone();
            for (name, value) in applied {
                let joined = match live.get(name) {
                    Some(own) => join(place.child(name), own, value),
                    None => value.clone(),
                };
                merged.insert(name.clone(), joined);
            }
            Value::Object(merged)
        }
        (Value::Array(live), Value::Array(applied)) => join_lists(place, live, applied),
        (_, applied) => applied.clone(),
    }
}

/// Applied items in their order; live-only items stay where they stood among them.
fn join_lists(place: Place<'_>, live: &[Value], applied: &[Value]) -> Value {
    let name = |item: &Value| place.element(item);
    let mut merged = Vec::with_capacity(live.len() + applied.len());
    let mut next = 0;
    for own in live {
        let element = name(own);
        match applied.iter().position(|item| name(item) == element) {
            None => merged.push(own.clone()),
            Some(at) => {
                while next <= at {
                    merged.push(applied_item(place, live, &applied[next]));
                    next += 1;
                }
            }
        }
    }
    for item in &applied[next..] {
        merged.push(applied_item(place, live, item));
    }
    Value::Array(merged)
}

fn applied_item(place: Place<'_>, live: &[Value], item: &Value) -> Value {
    let element = place.element(item);
    match live.iter().find(|own| place.element(own) == element) {
        Some(own) => join(place.item_place(), own, item),
        None => item.clone(),
    }
}

/// Removes what a manager owned before and nobody owns any more.
pub fn prune(types: &Types, shape: &Shape, value: &mut Value, last: &FieldSet, kept: &FieldSet) {
    cut(Place::whole(types, shape), value, last, kept);
}

fn cut(place: Place<'_>, value: &mut Value, last: &FieldSet, kept: &FieldSet) {
    for (element, node) in last.iter() {
        let keeper = kept.get(element);
        match (element, &mut *value) {
            (Element::Field(name), Value::Object(fields)) => match keeper {
                None => {
                    fields.shift_remove(name);
                }
                Some(keeper) => {
                    if let Some(child) = fields.get_mut(name) {
                        cut(place.child(name), child, &node.children, &keeper.children);
                    }
                }
            },
            (_, Value::Array(items)) => {
                let at = items
                    .iter()
                    .position(|item| place.element(item).as_ref() == Some(element));
                let Some(at) = at else { continue };
                match keeper {
                    None => {
                        items.remove(at);
                    }
                    Some(keeper) => cut(
                        place.item_place(),
                        &mut items[at],
                        &node.children,
                        &keeper.children,
                    ),
                }
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;
    use serde_json::json;

    fn shape(name: &str) -> Shape {
        builtin().shape(name)
    }

    fn pod(containers: Value) -> Value {
        json!({"metadata": {"name": "p", "labels": {"a": "b"}}, "spec": {"containers": containers}})
    }

    #[test]
    fn an_applier_owns_leaves_items_and_entries() {
        let value = json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"nodeSelector": {"x": "y"}, "containers": [
                {"name": "c", "args": ["1"], "ports": [{"containerPort": 80}]}],
                "volumes": [{"name": "v", "emptyDir": {}}]}});
        assert_eq!(
            fields_of(builtin(), &shape("core/v1.Pod"), &value).to_json(),
            json!({"f:metadata": {"f:labels": {"f:a": {}}},
                "f:spec": {
                    "f:containers": {"k:{\"name\":\"c\"}": {".": {}, "f:args": {}, "f:name": {},
                        "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}}}},
                    "f:nodeSelector": {},
                    "f:volumes": {"k:{\"name\":\"v\"}": {".": {}, "f:emptyDir": {}, "f:name": {}}}}})
        );
    }

    #[test]
    fn differences_name_fields() {
        let types = builtin();
        let old = pod(json!([{"name": "a", "image": "1"}, {"name": "b"}]));
        let mut new =
            pod(json!([{"name": "a", "image": "2", "env": [{"name": "E", "value": "v"}]}]));
        new["metadata"]["labels"] = json!({"a": "b", "n": "m"});
        let found = compare(types, &shape("core/v1.Pod"), &old, &new);
        assert_eq!(
            found.added.paths(),
            [
                ".metadata.labels.n",
                ".spec.containers[name=\"a\"].env",
                ".spec.containers[name=\"a\"].env[name=\"E\"]",
                ".spec.containers[name=\"a\"].env[name=\"E\"].name",
                ".spec.containers[name=\"a\"].env[name=\"E\"].value",
            ]
        );
        assert_eq!(
            found.removed.paths(),
            [
                ".spec.containers[name=\"b\"]",
                ".spec.containers[name=\"b\"].name"
            ]
        );
        assert_eq!(
            found.modified.paths(),
            [".spec.containers[name=\"a\"].image"]
        );
        assert!(compare(types, &shape("core/v1.Pod"), &old, &old).is_same());
    }

    #[test]
    fn applying_merges_by_key_and_twice_is_once() {
        let types = builtin();
        let shape = shape("core/v1.Pod");
        let live =
            pod(json!([{"name": "s", "image": "x"}, {"name": "a", "image": "1", "tty": true}]));
        let applied = json!({"spec": {"containers": [{"name": "a", "image": "2"}, {"name": "n"}]}});
        let merged = merge(types, &shape, &live, &applied);
        assert_eq!(
            merged["spec"]["containers"],
            json!([{"name": "s", "image": "x"}, {"name": "a", "image": "2", "tty": true}, {"name": "n"}])
        );
        assert_eq!(merged["metadata"], live["metadata"]);
        assert_eq!(merge(types, &shape, &merged, &applied), merged);
    }

    #[test]
    fn what_nobody_wants_any_more_goes() {
        let types = builtin();
        let shape = shape("core/v1.Pod");
        let mut value = pod(json!([
            {"name": "a", "image": "1", "livenessProbe": {"exec": {"command": ["x"]}, "periodSeconds": 10}},
            {"name": "b", "image": "2", "terminationMessagePath": "/t"},
        ]));
        let last = fields_of(
            types,
            &shape,
            &json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [
                {"name": "a", "image": "1", "livenessProbe": {"exec": {"command": ["x"]}}},
                {"name": "b", "image": "2"}]}}),
        );
        let kept = fields_of(
            types,
            &shape,
            &json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "1"}]}}),
        );
        prune(types, &shape, &mut value, &last, &kept);
        assert_eq!(
            value,
            json!({"metadata": {"name": "p"}, "spec": {"containers": [{"name": "a", "image": "1"}]}})
        );
    }
}
