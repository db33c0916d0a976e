//! An object in the server: its JSON as it is sent, and what everybody asks of it.

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use serde_json::Value;

use crate::error::ApiError;
use crate::resource::Resource;
use crate::tree;

/// One version of an object, shared by whoever shows it.
#[derive(Debug)]
pub(crate) struct Object {
    /// JSON with its resource version.
    pub json: Bytes,
    /// The revision that wrote it.
    pub revision: u64,
    pub name: Box<str>,
    pub namespace: Box<str>,
    pub labels: Box<[(Box<str>, Box<str>)]>,
    /// Values of the resource's selectable fields, in its order.
    pub fields: Box<[Box<str>]>,
}

impl Object {
    /// Reads an object as the store has it.
    pub(crate) fn from_stored(
        resource: &Resource,
        stored: &Bytes,
        revision: u64,
    ) -> Result<Self, ApiError> {
        let value: Value = serde_json::from_slice(stored).map_err(|error| {
            ApiError::internal(format!("a stored {} is no JSON: {error}", resource.kind))
        })?;
        Ok(Self::new(resource, &value, stored, revision))
    }

    /// Describes an object whose tree is at hand.
    pub(crate) fn new(resource: &Resource, value: &Value, stored: &[u8], revision: u64) -> Self {
        let labels = tree::entries(value, &["metadata", "labels"])
            .map(|(key, value)| (key.into(), value.as_str().unwrap_or("").into()))
            .collect();
        let fields = resource
            .strategy
            .fields
            .iter()
            .map(|(_, path)| field_text(tree::at(value, path)))
            .collect();
        Self {
            json: with_revision(stored, revision),
            revision,
            name: tree::text(value, &["metadata", "name"]).into(),
            namespace: tree::text(value, &["metadata", "namespace"]).into(),
            labels,
            fields,
        }
    }

    /// The same object as it is shown at another revision: a deletion's.
    pub(crate) fn at_revision(&self, revision: u64) -> Self {
        let own = format!("\"resourceVersion\":\"{}\",", self.revision);
        let json = match find(&self.json, own.as_bytes()) {
            Some(at) => {
                let new = format!("\"resourceVersion\":\"{revision}\",");
                let mut json = BytesMut::with_capacity(self.json.len() + 8);
                json.put_slice(&self.json[..at]);
                json.put_slice(new.as_bytes());
                json.put_slice(&self.json[at + own.len()..]);
                json.freeze()
            }
            None => self.json.clone(),
        };
        Self {
            json,
            revision,
            name: self.name.clone(),
            namespace: self.namespace.clone(),
            labels: self.labels.clone(),
            fields: self.fields.clone(),
        }
    }

    /// The whole tree, with its resource version.
    pub(crate) fn tree(&self) -> Value {
        serde_json::from_slice(&self.json).expect("an object's JSON was parsed before")
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels
            .iter()
            .find(|(name, _)| **name == *key)
            .map(|(_, value)| &**value)
    }

    pub(crate) fn field(&self, resource: &Resource, path: &str) -> Option<&str> {
        match path {
            "metadata.name" => Some(&self.name),
            "metadata.namespace" => Some(&self.namespace),
            path => {
                let at = resource
                    .strategy
                    .fields
                    .iter()
                    .position(|(name, _)| *name == path)?;
                self.fields.get(at).map(|value| &**value)
            }
        }
    }
}

/// Shared form.
pub(crate) type Shared = Arc<Object>;

fn field_text(value: Option<&Value>) -> Box<str> {
    match value {
        None | Some(Value::Null) => "".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}

/// Serializes a tree for the store: kind, version and metadata first, no
/// resource version.
pub(crate) fn to_stored(value: &Value) -> Bytes {
    let mut ordered = serde_json::Map::new();
    for key in ["kind", "apiVersion", "metadata"] {
        if let Some(field) = value.get(key) {
            ordered.insert(key.to_owned(), field.clone());
        }
    }
    if let Some(fields) = value.as_object() {
        for (key, field) in fields {
            if !ordered.contains_key(key) {
                ordered.insert(key.clone(), field.clone());
            }
        }
    }
    if let Some(metadata) = ordered.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.shift_remove("resourceVersion");
    }
    Bytes::from(serde_json::to_vec(&ordered).expect("a tree serializes"))
}

/// The stored bytes with the resource version spliced into their metadata.
fn with_revision(stored: &[u8], revision: u64) -> Bytes {
    let Some(at) = metadata_start(stored) else {
        return Bytes::copy_from_slice(stored);
    };
    let mut json = BytesMut::with_capacity(stored.len() + 40);
    json.put_slice(&stored[..at]);
    json.put_slice(format!("\"resourceVersion\":\"{revision}\"").as_bytes());
    if stored.get(at) != Some(&b'}') {
        json.put_u8(b',');
    }
    json.put_slice(&stored[at..]);
    json.freeze()
}

/// The offset after the brace that opens the top-level `metadata`.
fn metadata_start(json: &[u8]) -> Option<usize> {
    let mut depth = 0usize;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = string_end(json, at)?;
                if depth == 1 && &json[at..end] == b"\"metadata\"" {
                    let rest = &json[end..];
                    let colon = rest.iter().position(|byte| !byte.is_ascii_whitespace())?;
                    if rest[colon] == b':' {
                        let brace = rest[colon + 1..]
                            .iter()
                            .position(|byte| !byte.is_ascii_whitespace())?;
                        return (rest[colon + 1 + brace] == b'{')
                            .then_some(end + colon + brace + 2);
                    }
                }
                at = end;
                continue;
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset after the string that begins at `start`.
fn string_end(json: &[u8], start: usize) -> Option<usize> {
    let mut at = start + 1;
    loop {
        match json.get(at)? {
            b'\\' => at += 2,
            b'"' => return Some(at + 1),
            _ => at += 1,
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack
        .windows(needle.len())
        .position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_revision_is_spliced_into_the_right_metadata() {
        let value = json!({
            "spec": {"template": {"metadata": {"name": "not me"}}},
            "metadata": {"name": "a\"b", "resourceVersion": "old"},
            "kind": "K",
        });
        let stored = to_stored(&value);
        let shown: Value = serde_json::from_slice(&with_revision(&stored, 7)).expect("JSON");
        assert_eq!(
            shown["metadata"],
            json!({"resourceVersion": "7", "name": "a\"b"})
        );
        assert_eq!(shown["spec"], value["spec"]);
        let empty = with_revision(br#"{"a":"\"metadata\":{","metadata":{}}"#, 7);
        assert_eq!(
            serde_json::from_slice::<Value>(&empty).expect("JSON")["metadata"],
            json!({"resourceVersion": "7"})
        );
    }
}
