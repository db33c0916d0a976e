//! The text notation of the tables (described in `docs/design/schema.md`).

use std::collections::HashMap;

use crate::types::{Field, ListType, Merge, PatchStrategy, Presence, Shape, Type, TypeId, Types};

/// A table that is not in the notation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {what}")]
pub struct NotationError {
    /// The offending line or type.
    pub place: String,
    /// What is wrong with it.
    pub what: &'static str,
}

fn wrong<T>(place: &str, what: &'static str) -> Result<T, NotationError> {
    Err(NotationError {
        place: place.trim().to_owned(),
        what,
    })
}

/// Reads tables; types may refer to types of any of the texts.
pub(crate) fn parse(texts: &[&str]) -> Result<Types, NotationError> {
    let mut types = Types::default();
    // First the names, so that types can refer forward.
    for text in texts {
        let mut package = "";
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("package") => package = words.next().unwrap_or(""),
                Some("type" | "kind") if !line.starts_with(' ') => {
                    let name = format!("{package}.{}", words.next().unwrap_or(""));
                    let id = TypeId(types.names.len() as u32);
                    if types.names.insert(name.into_boxed_str(), id).is_some() {
                        return wrong(line, "type is defined twice");
                    }
                }
                _ => {}
            }
        }
    }
    for text in texts {
        let (mut package, mut openapi) = ("", "");
        for line in text.lines().filter(|line| !line.trim().is_empty()) {
            if line.starts_with('#') {
                continue;
            }
            if line.starts_with(' ') {
                let field = field(line, package, &types.names)?;
                match types.types.last_mut() {
                    Some(ty) => ty.declared.push(field),
                    None => return wrong(line, "field without a type"),
                }
                continue;
            }
            let mut words = line.split_whitespace();
            let keyword = words.next().unwrap_or("");
            let name = words.next().unwrap_or("");
            if keyword == "package" {
                package = name;
                openapi = words.next().unwrap_or("");
                continue;
            }
            if !matches!(keyword, "type" | "kind") {
                return wrong(line, "expected package, type or kind");
            }
            let flags: Vec<&str> = words.collect();
            types.types.push(Type {
                name: format!("{package}.{name}").into(),
                openapi_name: format!("{openapi}.{name}").into(),
                is_kind: keyword == "kind",
                atomic: flags.contains(&"atomic"),
                open: flags.contains(&"open"),
                declared: Vec::new(),
                fields: Vec::new(),
                index: HashMap::new(),
            });
        }
    }
    dissolve(&mut types);
    Ok(types)
}

/// Computes the JSON view of each type.
fn dissolve(types: &mut Types) {
    fn flatten(types: &Types, ty: &Type, into: &mut Vec<Field>) {
        for field in &ty.declared {
            match (&field.shape, field.inline) {
                (Shape::Struct(id), true) => flatten(types, types.get(*id), into),
                _ => into.push(field.clone()),
            }
        }
    }
    let flat: Vec<Vec<Field>> = types
        .types
        .iter()
        .map(|ty| {
            let mut fields = Vec::new();
            flatten(types, ty, &mut fields);
            fields
        })
        .collect();
    for (ty, fields) in types.types.iter_mut().zip(flat) {
        ty.index = fields
            .iter()
            .enumerate()
            .map(|(index, field)| (field.name.clone(), index as u16))
            .collect();
        ty.fields = fields;
    }
}

fn field(
    line: &str,
    package: &str,
    names: &HashMap<Box<str>, TypeId>,
) -> Result<Field, NotationError> {
    let mut words = line.split_whitespace();
    let (Some(name), Some(number), Some(shape)) = (words.next(), words.next(), words.next()) else {
        return wrong(line, "expected name, number and shape");
    };
    let Ok(number) = number.parse() else {
        return wrong(line, "the number is no number");
    };
    let (shape, pointer) = match shape.strip_suffix('?') {
        Some(shape) => (shape, true),
        None => (shape, false),
    };
    let (shape, presence) = match (shape.strip_suffix('!'), shape.strip_suffix('~')) {
        (Some(shape), _) => (shape, Presence::Required),
        (_, Some(shape)) => (shape, Presence::Written),
        _ => (shape, Presence::Optional),
    };
    let Some(shape) = parse_shape(shape, package, names) else {
        return wrong(line, "unknown shape");
    };
    let mut field = Field {
        name: name.into(),
        number,
        shape,
        presence,
        pointer,
        inline: false,
        list: ListType::Atomic,
        atomic: false,
        patch: None,
        one_of: Box::default(),
        default: None,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("inline", _) => field.inline = true,
            ("atomic", _) => field.atomic = true,
            ("nullable", _) => {}
            ("list", kind) => {
                field.list = match arguments(kind) {
                    ("set", _) => ListType::Set,
                    ("map", keys) => ListType::Map(keys.split(',').map(Box::from).collect()),
                    _ => return wrong(line, "unknown list type"),
                }
            }
            ("patch", strategy) => {
                let (names, key) = arguments(strategy);
                field.patch = Some(PatchStrategy {
                    merge: if names.split(',').any(|name| name == "merge") {
                        Merge::Items
                    } else {
                        Merge::Replace
                    },
                    retain_keys: names.split(',').any(|name| name == "retainKeys"),
                    key: Some(key).filter(|key| !key.is_empty()).map(Box::from),
                });
            }
            ("enum", texts) => field.one_of = texts.split('|').map(Box::from).collect(),
            ("default", json) => match serde_json::from_str(json) {
                Ok(value) => field.default = Some(value),
                Err(_) => return wrong(line, "the default is no JSON"),
            },
            _ => return wrong(line, "unknown word"),
        }
    }
    Ok(field)
}

/// `map(a,b)` as `map` and `a,b`.
fn arguments(word: &str) -> (&str, &str) {
    word.strip_suffix(')')
        .and_then(|word| word.split_once('('))
        .unwrap_or((word, ""))
}

fn parse_shape(text: &str, package: &str, names: &HashMap<Box<str>, TypeId>) -> Option<Shape> {
    let inner = |open, close| {
        text.strip_prefix(open)
            .and_then(|text: &str| text.strip_suffix(close))
    };
    if let Some(item) = inner('[', ']') {
        return Some(Shape::List(Box::new(parse_shape(item, package, names)?)));
    }
    if let Some(item) = inner('{', '}') {
        return Some(Shape::Map(Box::new(parse_shape(item, package, names)?)));
    }
    Some(match text {
        "bool" => Shape::Bool,
        "int32" | "uint32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "string" => Shape::String,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "intorstring" => Shape::IntOrString,
        "time" => Shape::Time,
        "microtime" => Shape::MicroTime,
        "duration" => Shape::Duration,
        "fields" => Shape::Fields,
        "any" => Shape::Any,
        name => {
            let id = if name.contains('.') {
                names.get(name)
            } else {
                names.get(&*format!("{package}.{name}"))
            };
            Shape::Struct(*id?)
        }
    })
}

#[cfg(test)]
mod tests {
    use crate::{ListType, Presence, Shape, Types, builtin};

    #[test]
    fn the_shipped_tables_read() {
        let types = builtin();
        let pod = types.get(types.id("core/v1.Pod").expect("pods are built in"));
        assert!(pod.is_kind);
        let Shape::Struct(spec) = pod.field("spec").expect("pods have a spec").shape else {
            panic!("a pod's spec is a struct");
        };
        let containers = types.get(spec).field("containers").expect("a field");
        assert_eq!(containers.presence, Presence::Required);
        assert_eq!(containers.list, ListType::Map([Box::from("name")].into()));
    }

    #[test]
    fn inlined_structs_are_dissolved_in_json_only() {
        let types = builtin();
        let volume = types.get(types.id("core/v1.Volume").expect("volumes are built in"));
        assert!(volume.field("emptyDir").is_some());
        assert!(volume.field("volumeSource").is_none());
        assert!(volume.declared.iter().any(|field| field.inline));
    }

    #[test]
    fn protobuf_numbers_are_unique_in_a_type() {
        for ty in builtin().iter() {
            let mut numbers: Vec<u32> = ty.declared.iter().map(|field| field.number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), ty.declared.len(), "{}", ty.name);
            assert_eq!(ty.index.len(), ty.fields.len(), "{}", ty.name);
        }
    }

    #[test]
    fn a_bad_table_says_where() {
        for text in [
            "package p p\ntype A\n  x 1 nowhere",
            "package p p\n  x 1 string",
            "package p p\ntype A\n  x one string",
            "package p p\ntype A\ntype A",
            "package p p\ntype A\n  x 1 string wobble",
            "hello",
        ] {
            assert!(Types::parse(&[text]).is_err(), "{text}");
        }
    }
}
