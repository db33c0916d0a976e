//! Kubernetes protobuf: the envelope, and the types by their field numbers.
//!
//! Upstream's encoder writes every field that is no pointer, zero or not, in
//! order of numbers; so does this one, as far as JSON tells zero from missing.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Number, Value};

use crate::decode::{print_micros, print_seconds};
use crate::types::{Field, Presence, Shape, Type, Types};

/// The bytes before every Kubernetes protobuf message.
pub const MAGIC: &[u8; 4] = b"k8s\0";

/// Messages nest no deeper.
const DEEPEST: usize = 100;

/// Why bytes are no object.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtoError {
    /// The bytes do not begin with the envelope's magic.
    #[error(
        "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
    )]
    Magic,
    /// The bytes end inside a field or hold an illegal key.
    #[error("proto: illegal or truncated message")]
    Malformed,
    /// A text is not UTF-8.
    #[error("proto: a string contains invalid UTF-8")]
    Text,
    /// Messages nest too deep.
    #[error("proto: message nests too deep")]
    Deep,
    /// Embedded JSON is none.
    #[error("proto: a raw field holds no JSON")]
    Raw,
}

/// An opened envelope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope<'b> {
    /// `apps/v1`.
    pub api_version: String,
    /// `Deployment`.
    pub kind: String,
    /// The message.
    pub raw: &'b [u8],
}

/// Opens the envelope.
///
/// # Errors
/// When the bytes are no envelope.
pub fn open(bytes: &[u8]) -> Result<Envelope<'_>, ProtoError> {
    let rest = bytes.strip_prefix(MAGIC).ok_or(ProtoError::Magic)?;
    let mut envelope = Envelope {
        api_version: String::new(),
        kind: String::new(),
        raw: &[],
    };
    let mut reader = Reader { bytes: rest };
    while let Some((number, wire)) = reader.key()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut reader = Reader { bytes: meta };
                while let Some((number, wire)) = reader.key()? {
                    match (number, wire) {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Puts a message into the envelope.
pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = MAGIC.to_vec();
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// Decodes a message of a type to its JSON tree.
///
/// # Errors
/// When the bytes are no message; unknown fields are skipped, as protobuf has it.
pub fn decode(types: &Types, shape: &Shape, bytes: &[u8]) -> Result<Value, ProtoError> {
    message(types, shape, bytes, 0)
}

#[derive(Clone, Copy)]
enum Wire<'b> {
    Varint(u64),
    Fixed64(u64),
    Fixed32(u32),
    Bytes(&'b [u8]),
}

struct Reader<'b> {
    bytes: &'b [u8],
}

impl<'b> Reader<'b> {
    fn varint(&mut self) -> Result<u64, ProtoError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.bytes.split_first().ok_or(ProtoError::Malformed)?;
            self.bytes = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(ProtoError::Malformed)
    }

    fn take(&mut self, length: usize) -> Result<&'b [u8], ProtoError> {
        let (taken, rest) = self
            .bytes
            .split_at_checked(length)
            .ok_or(ProtoError::Malformed)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn key(&mut self) -> Result<Option<(u32, Wire<'b>)>, ProtoError> {
        if self.bytes.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).map_err(|_| ProtoError::Malformed)?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                let bytes = self.take(8)?;
                Wire::Fixed64(u64::from_le_bytes(bytes.try_into().expect("eight bytes")))
            }
            2 => {
                let length = usize::try_from(self.varint()?).map_err(|_| ProtoError::Malformed)?;
                Wire::Bytes(self.take(length)?)
            }
            5 => {
                let bytes = self.take(4)?;
                Wire::Fixed32(u32::from_le_bytes(bytes.try_into().expect("four bytes")))
            }
            _ => return Err(ProtoError::Malformed),
        };
        Ok(Some((number, wire)))
    }
}

fn utf8(bytes: &[u8]) -> Result<String, ProtoError> {
    std::str::from_utf8(bytes)
        .map(str::to_owned)
        .map_err(|_| ProtoError::Text)
}

/// The fields of a small message whose fields are numbered from one.
fn small<'b>(bytes: &'b [u8], fields: &mut [Option<Wire<'b>>]) -> Result<(), ProtoError> {
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.key()? {
        if let Some(slot) = (number as usize)
            .checked_sub(1)
            .and_then(|index| fields.get_mut(index))
        {
            *slot = Some(wire);
        }
    }
    Ok(())
}

fn integer(wire: Option<Wire<'_>>) -> i64 {
    match wire {
        Some(Wire::Varint(n)) => n as i64,
        _ => 0,
    }
}

fn message(types: &Types, shape: &Shape, bytes: &[u8], depth: usize) -> Result<Value, ProtoError> {
    if depth > DEEPEST {
        return Err(ProtoError::Deep);
    }
    Ok(match shape {
        Shape::Struct(id) => {
            let mut fields = Map::new();
            into(types, types.get(*id), bytes, &mut fields, depth)?;
            Value::Object(fields)
        }
        Shape::Quantity => {
            let mut slots = [None];
            small(bytes, &mut slots)?;
            text_of(slots[0])?
        }
        Shape::IntOrString => {
            let mut slots = [None; 3];
            small(bytes, &mut slots)?;
            if integer(slots[0]) == 0 {
                Value::from(integer(slots[1]) as i32)
            } else {
                text_of(slots[2])?
            }
        }
        // The zero time is an empty message.
        Shape::Time | Shape::MicroTime if bytes.is_empty() => Value::Null,
        Shape::Time | Shape::MicroTime => {
            let mut slots = [None; 2];
            small(bytes, &mut slots)?;
            let nanos = i32::try_from(integer(slots[1])).map_err(|_| ProtoError::Malformed)?;
            let time = jiff::Timestamp::new(integer(slots[0]), nanos)
                .map_err(|_| ProtoError::Malformed)?;
            Value::String(if *shape == Shape::Time {
                print_seconds(time)
            } else {
                print_micros(time)
            })
        }
        Shape::Duration => {
            let mut slots = [None];
            small(bytes, &mut slots)?;
            Value::String(format!("{}ns", integer(slots[0])))
        }
        Shape::Fields | Shape::Any => {
            let mut slots = [None];
            small(bytes, &mut slots)?;
            match slots[0] {
                Some(Wire::Bytes(raw)) if !raw.is_empty() => {
                    serde_json::from_slice(raw).map_err(|_| ProtoError::Raw)?
                }
                _ => Value::Null,
            }
        }
        // A list inside a map or another list is wrapped in a message.
        Shape::List(item) => {
            let mut items = Vec::new();
            let mut reader = Reader { bytes };
            while let Some((number, wire)) = reader.key()? {
                if number == 1 {
                    items.push(single(types, item, wire, depth)?);
                }
            }
            Value::Array(items)
        }
        _ => return Err(ProtoError::Malformed),
    })
}

fn text_of(wire: Option<Wire<'_>>) -> Result<Value, ProtoError> {
    match wire {
        Some(Wire::Bytes(text)) => Ok(Value::String(utf8(text)?)),
        _ => Ok(Value::String(String::new())),
    }
}

fn single(types: &Types, shape: &Shape, wire: Wire<'_>, depth: usize) -> Result<Value, ProtoError> {
    Ok(match (shape, wire) {
        (Shape::Bool, Wire::Varint(n)) => Value::Bool(n != 0),
        (Shape::Int32, Wire::Varint(n)) => Value::from(n as i32),
        (Shape::Int64, Wire::Varint(n)) => Value::from(n as i64),
        (Shape::Double, Wire::Fixed64(bits)) => {
            Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)
        }
        (Shape::Double, Wire::Fixed32(bits)) => {
            Number::from_f64(f32::from_bits(bits).into()).map_or(Value::Null, Value::Number)
        }
        (Shape::String, Wire::Bytes(text)) => Value::String(utf8(text)?),
        (Shape::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (shape, Wire::Bytes(bytes)) => message(types, shape, bytes, depth + 1)?,
        _ => return Err(ProtoError::Malformed),
    })
}

fn into(
    types: &Types,
    ty: &Type,
    bytes: &[u8],
    fields: &mut Map<String, Value>,
    depth: usize,
) -> Result<(), ProtoError> {
    let mut reader = Reader { bytes };
    while let Some((number, wire)) = reader.key()? {
        let Some(field) = ty.declared.iter().find(|field| field.number == number) else {
            continue;
        };
        match (&field.shape, wire) {
            (Shape::Struct(id), Wire::Bytes(bytes)) if field.inline => {
                into(types, types.get(*id), bytes, fields, depth + 1)?;
            }
            (Shape::List(item), wire) => {
                let slot = fields
                    .entry(&*field.name)
                    .or_insert_with(|| Value::Array(Vec::new()));
                let Value::Array(items) = slot else {
                    return Err(ProtoError::Malformed);
                };
                match wire {
                    // `Verbs` is a list wrapped in a message of its own.
                    Wire::Bytes(bytes) if is_wrapped(ty, field) => {
                        if let Value::Array(inner) = message(types, &field.shape, bytes, depth)? {
                            items.extend(inner);
                        }
                    }
                    // Repeated numbers may come packed.
                    Wire::Bytes(bytes) if matches!(**item, Shape::Int32 | Shape::Int64) => {
                        let mut reader = Reader { bytes };
                        while !reader.bytes.is_empty() {
                            let n = Wire::Varint(reader.varint()?);
                            items.push(single(types, item, n, depth)?);
                        }
                    }
                    wire => items.push(single(types, item, wire, depth)?),
                }
            }
            (Shape::Map(item), Wire::Bytes(bytes)) => {
                let mut slots = [None; 2];
                small(bytes, &mut slots)?;
                let key = match slots[0] {
                    Some(Wire::Bytes(key)) => utf8(key)?,
                    _ => String::new(),
                };
                let value = match slots[1] {
                    Some(wire) => single(types, item, wire, depth)?,
                    None => crate::types::zero(item),
                };
                let slot = fields
                    .entry(&*field.name)
                    .or_insert_with(|| Value::Object(Map::new()));
                if let Value::Object(entries) = slot {
                    entries.insert(key, value);
                }
            }
            (shape, wire) => {
                let value = single(types, shape, wire, depth)?;
                if keeps(field, &value) {
                    fields.insert(field.name.to_string(), value);
                }
            }
        }
    }
    Ok(())
}

fn is_wrapped(ty: &Type, field: &Field) -> bool {
    &*ty.name == "meta/v1.APIResource" && &*field.name == "verbs"
}

/// Zero values that Go would leave out of JSON are left out here.
fn keeps(field: &Field, value: &Value) -> bool {
    let zero = match value {
        Value::Null => return false,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    };
    !zero
        || field.pointer
        || field.presence != Presence::Optional
        || matches!(field.shape, Shape::IntOrString)
}

/// Encodes a tree as a message of its type.
pub fn encode(types: &Types, shape: &Shape, value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    if let (Shape::Struct(id), Value::Object(fields)) = (shape, value) {
        put_fields(&mut out, types, types.get(*id), fields);
    }
    out
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_key(out: &mut Vec<u8>, number: u32, wire: u64) {
    put_varint(out, u64::from(number) << 3 | wire);
}

fn put_bytes(out: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    put_key(out, number, 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_int(out: &mut Vec<u8>, number: u32, n: i64) {
    put_key(out, number, 0);
    put_varint(out, n as u64);
}

fn put_fields(out: &mut Vec<u8>, types: &Types, ty: &Type, fields: &Map<String, Value>) {
    let mut declared: Vec<&Field> = ty.declared.iter().collect();
    declared.sort_unstable_by_key(|field| field.number);
    for field in declared {
        if field.inline {
            if let Shape::Struct(id) = field.shape {
                let mut inner = Vec::new();
                put_fields(&mut inner, types, types.get(id), fields);
                put_bytes(out, field.number, &inner);
            }
            continue;
        }
        match fields.get(&*field.name) {
            Some(value) if !value.is_null() => put_field(out, types, ty, field, value),
            _ => put_zero(out, field),
        }
    }
}

/// Go writes fields that are no pointers even when they are zero.
fn put_zero(out: &mut Vec<u8>, field: &Field) {
    if field.pointer {
        return;
    }
    match field.shape {
        Shape::String => put_bytes(out, field.number, b""),
        Shape::Bool | Shape::Int32 | Shape::Int64 => put_int(out, field.number, 0),
        _ => {}
    }
}

fn put_field(out: &mut Vec<u8>, types: &Types, ty: &Type, field: &Field, value: &Value) {
    match (&field.shape, value) {
        (Shape::List(_), value) if is_wrapped(ty, field) => {
            put_bytes(out, field.number, &wrapped(types, &field.shape, value));
        }
        (Shape::List(item), Value::Array(items)) => {
            for value in items {
                put_single(out, types, item, field.number, value);
            }
        }
        (Shape::Map(item), Value::Object(entries)) => {
            let mut entries: Vec<_> = entries.iter().collect();
            entries.sort_unstable_by_key(|(key, _)| key.as_str());
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put_single(&mut entry, types, item, 2, value);
                put_bytes(out, field.number, &entry);
            }
        }
        (shape, value) => put_single(out, types, shape, field.number, value),
    }
}

/// A list as the message `{ repeated items = 1 }`.
fn wrapped(types: &Types, shape: &Shape, value: &Value) -> Vec<u8> {
    let mut inner = Vec::new();
    if let (Shape::List(item), Value::Array(items)) = (shape, value) {
        for value in items {
            put_single(&mut inner, types, item, 1, value);
        }
    }
    inner
}

fn put_single(out: &mut Vec<u8>, types: &Types, shape: &Shape, number: u32, value: &Value) {
    let text = value.as_str().unwrap_or("");
    let mut inner = Vec::new();
    match shape {
        Shape::Bool => return put_int(out, number, i64::from(value == &Value::Bool(true))),
        Shape::Int32 | Shape::Int64 => return put_int(out, number, value.as_i64().unwrap_or(0)),
        Shape::Double => {
            put_key(out, number, 1);
            out.extend_from_slice(&value.as_f64().unwrap_or(0.0).to_le_bytes());
            return;
        }
        Shape::String => return put_bytes(out, number, text.as_bytes()),
        Shape::Bytes => {
            let bytes = STANDARD.decode(text).unwrap_or_default();
            return put_bytes(out, number, &bytes);
        }
        Shape::Quantity => put_bytes(&mut inner, 1, text.as_bytes()),
        Shape::IntOrString => {
            put_int(&mut inner, 1, i64::from(value.is_string()));
            put_int(&mut inner, 2, value.as_i64().unwrap_or(0));
            put_bytes(&mut inner, 3, text.as_bytes());
        }
        Shape::Time | Shape::MicroTime => {
            if let Ok(time) = text.parse::<jiff::Timestamp>() {
                put_int(&mut inner, 1, time.as_second());
                put_int(&mut inner, 2, time.subsec_nanosecond().into());
            }
        }
        Shape::Duration => {
            let nanos = text.strip_suffix("ns").and_then(|text| text.parse().ok());
            put_int(&mut inner, 1, nanos.unwrap_or(0));
        }
        Shape::Fields | Shape::Any => put_bytes(&mut inner, 1, value.to_string().as_bytes()),
        Shape::Struct(id) => {
            if let Value::Object(fields) = value {
                put_fields(&mut inner, types, types.get(*id), fields);
            }
        }
        Shape::List(_) => inner = wrapped(types, shape, value),
        Shape::Map(_) => {}
    }
    put_bytes(out, number, &inner);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{builtin, decode};
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn objects_survive_the_way_there_and_back() {
        let types = builtin();
        let shape = types.shape("apps/v1.Deployment");
        let deployment = json!({
            "metadata": {"name": "a", "labels": {"x": "y"}, "creationTimestamp": "2026-01-02T03:04:05Z"},
            "spec": {"replicas": 0, "selector": {"matchLabels": {"x": "y"}},
                "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 1}},
                "template": {"spec": {
                    "volumes": [{"name": "v", "emptyDir": {}}],
                    "containers": [{"name": "c", "image": "i",
                    "resources": {"limits": {"cpu": "500m"}},
                    "livenessProbe": {"httpGet": {"port": "http"}, "periodSeconds": 5}}]}}},
        });
        let bytes = seal("apps/v1", "Deployment", &encode(types, &shape, &deployment));
        let envelope = open(&bytes).expect("an envelope");
        assert_eq!(
            (&*envelope.api_version, &*envelope.kind),
            ("apps/v1", "Deployment")
        );
        let back = decode(types, &shape, envelope.raw).expect("a message");
        let back = decode::conform(types, &shape, back)
            .expect("conforms")
            .value;
        assert_eq!(back["spec"]["replicas"], 0);
        assert_eq!(
            back["spec"]["template"]["spec"]["volumes"],
            deployment["spec"]["template"]["spec"]["volumes"]
        );
        assert_eq!(back["metadata"]["labels"], deployment["metadata"]["labels"]);
        let container = &back["spec"]["template"]["spec"]["containers"][0];
        assert_eq!(container["livenessProbe"]["httpGet"]["port"], "http");
        assert_eq!(encode(types, &shape, &back), envelope.raw);
    }

    /// Upstream's own round-trip data, where it is at hand.
    #[test]
    fn upstreams_vectors_decode_to_their_json() {
        let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .map(|root| root.join("shared/kube/roundtrip"))
            .find(|folder| folder.exists());
        let Some(Ok(entries)) = folder.map(std::fs::read_dir) else {
            return;
        };
        let types = builtin();
        let mut wrong = Vec::new();
        for entry in entries.flatten() {
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "pb") {
                continue;
            }
            let bytes = std::fs::read(&path).expect("readable");
            let envelope = open(&bytes).expect("an envelope");
            let package = match envelope.api_version.split_once('/') {
                Some((group, version)) => {
                    format!("{}/{version}", group.split('.').next().unwrap_or(""))
                }
                None => format!("core/{}", envelope.api_version),
            };
            let Some(id) = types.id(&format!("{package}.{}", envelope.kind)) else {
                continue;
            };
            let shape = Shape::Struct(id);
            let json: Value = serde_json::from_slice(
                &std::fs::read(path.with_extension("json")).expect("its JSON"),
            )
            .expect("JSON");
            let decoded = decode(types, &shape, envelope.raw);
            let mut wanted = match decode::conform(types, &shape, json) {
                Ok(conformed) => {
                    // Upstream dropped these fields since the data was made.
                    let known = |path: &&String| {
                        !path.ends_with("metadata.clusterName")
                            && !path.ends_with("status.resizeStatus")
                            && !matches!(path.as_str(), "kind" | "apiVersion")
                    };
                    let unknown: Vec<&String> = conformed.unknown.iter().filter(known).collect();
                    if !unknown.is_empty() {
                        wrong.push(format!("{}: unknown {unknown:?}", path.display()));
                    }
                    conformed.value
                }
                Err(error) => {
                    wrong.push(format!("{}: {error}", path.display()));
                    continue;
                }
            };
            for field in ["kind", "apiVersion"] {
                wanted.as_object_mut().map(|map| map.shift_remove(field));
            }
            match decoded.map(|value| decode::conform(types, &shape, value)) {
                Ok(Ok(decoded)) if decoded.value == wanted => {}
                Ok(Ok(decoded)) => {
                    let difference = difference(&decoded.value, &wanted, "");
                    wrong.push(format!("{}: {difference}", path.display()));
                }
                other => wrong.push(format!("{}: {other:?}", path.display())),
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    fn difference(a: &Value, b: &Value, path: &str) -> String {
        match (a, b) {
            (Value::Object(x), Value::Object(y)) => {
                for key in x.keys().chain(y.keys()) {
                    let (x, y) = (x.get(key), y.get(key));
                    if x != y {
                        let path = format!("{path}.{key}");
                        return difference(
                            x.unwrap_or(&Value::Null),
                            y.unwrap_or(&Value::Null),
                            &path,
                        );
                    }
                }
                String::new()
            }
            (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
                let at = x.iter().zip(y).position(|(x, y)| x != y).unwrap_or(0);
                difference(&x[at], &y[at], &format!("{path}[{at}]"))
            }
            _ => format!("{path}: {a} is not {b}"),
        }
    }

    proptest! {
        #[test]
        fn strangers_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let types = builtin();
            let _ = decode(types, &types.shape("core/v1.Pod"), &bytes);
            let _ = open(&bytes);
        }
    }
}
