//! How objects are shown: whole, as PartialObjectMetadata, or as rows of a Table.

use bytes::{BufMut, Bytes, BytesMut};
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::object::{Object, Shared};
use crate::request::Format;
use crate::resource::{Resource, columns};
use crate::tree;

/// Shows objects of one resource to one request.
pub(crate) struct Show<'r> {
    pub resource: &'r Resource,
    pub format: Format,
    /// What Table rows carry: `None`, `Metadata` or `Object`.
    pub include: &'r str,
}

impl Show<'_> {
    /// Whether the stored bytes are what is shown.
    pub(crate) fn is_plain(&self) -> bool {
        self.format == Format::Object && self.resource.view.is_none()
    }

    /// An object's JSON.
    pub(crate) fn one(&self, object: &Object) -> Bytes {
        if self.is_plain() {
            return object.json.clone();
        }
        self.tree(object.tree())
    }

    /// The JSON of an object that need not be in the store.
    pub(crate) fn tree(&self, mut value: Value) -> Bytes {
        self.convert(&mut value);
        let shown = match self.format {
            Format::Object => value,
            Format::Metadata => partial(&value, "PartialObjectMetadata"),
            Format::Table => {
                let mut table = self.table(true);
                table["metadata"] = json!({"resourceVersion": tree::text(&value, &["metadata", "resourceVersion"])});
                table["rows"] = json!([self.row(&value)]);
                table
            }
        };
        serialize(&shown)
    }

    fn convert(&self, value: &mut Value) {
        if let Some((_, conversion)) = self.resource.view {
            (conversion.from_stored)(value);
        }
    }

    /// A list's JSON.
    pub(crate) fn list(&self, objects: &[Shared], metadata: &Value) -> Bytes {
        if self.format == Format::Table {
            let mut table = self.table(true);
            table["metadata"] = metadata.clone();
            table["rows"] = objects
                .iter()
                .map(|object| {
                    let mut value = object.tree();
                    self.convert(&mut value);
                    self.row(&value)
                })
                .collect();
            return serialize(&table);
        }
        let (kind, version) = match self.format {
            Format::Metadata => (
                "PartialObjectMetadataList".to_owned(),
                "meta.k8s.io/v1".to_owned(),
            ),
            _ => (
                format!("{}List", self.resource.kind),
                self.resource.group_version(),
            ),
        };
        let size: usize = objects.iter().map(|object| object.json.len() + 1).sum();
        let mut json = BytesMut::with_capacity(size + 256);
        json.put_slice(
            format!("{{\"kind\":\"{kind}\",\"apiVersion\":\"{version}\",\"metadata\":{metadata},\"items\":[")
                .as_bytes(),
        );
        for (n, object) in objects.iter().enumerate() {
            if n > 0 {
                json.put_u8(b',');
            }
            json.put_slice(&self.one(object));
        }
        json.put_slice(b"]}");
        json.freeze()
    }

    /// What a watch shows of an object; only the first Table has columns.
    pub(crate) fn watched(&self, object: &Object, first: &mut bool) -> Bytes {
        if self.format != Format::Table {
            return self.one(object);
        }
        let mut value = object.tree();
        self.convert(&mut value);
        let mut table = self.table(std::mem::take(first));
        table["metadata"] = json!({"resourceVersion": object.revision.to_string()});
        table["rows"] = json!([self.row(&value)]);
        serialize(&table)
    }

    fn table(&self, definitions: bool) -> Value {
        let columns = if definitions {
            columns::definitions(self.resource.columns)
        } else {
            Value::Null
        };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {},
            "columnDefinitions": columns, "rows": []})
    }

    fn row(&self, value: &Value) -> Value {
        let now = Timestamp::now();
        let cells: Value = self
            .resource
            .columns
            .iter()
            .map(|column| (column.cell)(value, now))
            .collect();
        let object = match self.include {
            "None" => Value::Null,
            "Object" => value.clone(),
            _ => partial(value, "PartialObjectMetadata"),
        };
        let mut row = Map::new();
        row.insert("cells".to_owned(), cells);
        if !object.is_null() {
            row.insert("object".to_owned(), object);
        }
        Value::Object(row)
    }
}

fn partial(value: &Value, kind: &str) -> Value {
    json!({"kind": kind, "apiVersion": "meta.k8s.io/v1",
        "metadata": value.get("metadata").cloned().unwrap_or_default()})
}

/// A tree's JSON.
pub(crate) fn serialize(value: &Value) -> Bytes {
    Bytes::from(serde_json::to_vec(value).expect("a tree serializes"))
}
