//! OpenAPI v3: the table's types as component schemas.

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use crate::types::{Field, ListType, Merge, Presence, Shape, Type, TypeId, Types};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";
const RAW: &str = "io.k8s.apimachinery.pkg.runtime.RawExtension";

/// A reference to a component.
pub fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

/// Component schemas of everything that the given types reach.
#[derive(Debug, Default)]
pub struct Components {
    schemas: Map<String, Value>,
    seen: BTreeSet<String>,
}

impl Components {
    /// Adds a type and what it refers to.
    pub fn add(&mut self, types: &Types, shape: &Shape) {
        if let Shape::Struct(id) = shape {
            self.add_type(types, *id);
        }
    }

    /// Adds a schema that is not in the table.
    pub fn insert(&mut self, name: &str, schema: Value) {
        self.schemas.insert(name.to_owned(), schema);
    }

    /// Says of a component which kinds it is.
    pub fn is_kind(&mut self, name: &str, group: &str, version: &str, kind: &str) {
        if let Some(schema) = self.schemas.get_mut(name) {
            let kinds = &mut schema["x-kubernetes-group-version-kind"];
            let own = json!({"group": group, "version": version, "kind": kind});
            match kinds {
                Value::Array(kinds) if !kinds.contains(&own) => kinds.push(own),
                Value::Array(_) => {}
                _ => *kinds = json!([own]),
            }
        }
    }

    /// The schemas, in order of their names.
    pub fn finish(mut self) -> Value {
        self.schemas.sort_keys();
        Value::Object(self.schemas)
    }

    fn add_type(&mut self, types: &Types, id: TypeId) {
        let ty = types.get(id);
        if !self.seen.insert(ty.openapi_name.to_string()) {
            return;
        }
        let schema = self.schema(types, ty);
        self.schemas.insert(ty.openapi_name.to_string(), schema);
    }

    fn schema(&mut self, types: &Types, ty: &Type) -> Value {
        let mut properties = Map::new();
        let mut required = Vec::new();
        if ty.is_kind {
            for name in ["apiVersion", "kind"] {
                properties.insert(name.to_owned(), json!({"type": "string"}));
            }
        }
        for field in &ty.fields {
            properties.insert(field.name.to_string(), self.property(types, field));
            if field.presence == Presence::Required && &*field.name != "metadata"
                || field.presence == Presence::Written
            {
                required.push(field.name.to_string());
            }
        }
        properties.sort_keys();
        required.sort_unstable();
        let mut schema = json!({"type": "object"});
        if !properties.is_empty() {
            schema["properties"] = Value::Object(properties);
        }
        if !required.is_empty() {
            schema["required"] = required.into();
        }
        if ty.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        schema
    }

    fn property(&mut self, types: &Types, field: &Field) -> Value {
        let mut schema = self.value(types, &field.shape);
        // A reference with anything beside it must be wrapped.
        if schema.get("$ref").is_some() {
            schema = json!({"allOf": [schema]});
        }
        if let Shape::List(_) = field.shape {
            match &field.list {
                ListType::Atomic => {
                    if field.patch.is_none() {
                        schema["x-kubernetes-list-type"] = "atomic".into();
                    }
                }
                ListType::Set => schema["x-kubernetes-list-type"] = "set".into(),
                ListType::Map(keys) => {
                    schema["x-kubernetes-list-type"] = "map".into();
                    schema["x-kubernetes-list-map-keys"] =
                        keys.iter().map(|key| Value::from(&**key)).collect();
                }
            }
        }
        if field.atomic {
            schema["x-kubernetes-map-type"] = "atomic".into();
        }
        if let Some(patch) = &field.patch {
            let mut words = Vec::new();
            if patch.merge == Merge::Items {
                words.push("merge");
            }
            if patch.retain_keys {
                words.push("retainKeys");
            }
            if words.is_empty() {
                words.push("replace");
            }
            schema["x-kubernetes-patch-strategy"] = words.join(",").into();
            if let Some(key) = &patch.key {
                schema["x-kubernetes-patch-merge-key"] = (**key).into();
            }
        }
        if !field.one_of.is_empty() {
            let legal: Value = field
                .one_of
                .iter()
                .map(|text| Value::from(&**text))
                .collect();
            match schema.get_mut("items") {
                Some(items) => items["enum"] = legal,
                None => schema["enum"] = legal,
            }
        }
        // Upstream tells the defaults that hold for every object of the type.
        if let Some(default) = field.default.as_ref().filter(|default| {
            matches!(field.shape, Shape::Struct(_))
                || default.is_string() && !field.one_of.is_empty()
        }) {
            schema["default"] = default.clone();
        } else if field.presence != Presence::Optional
            && let Some(zero) = openapi_zero(&field.shape)
        {
            schema["default"] = zero;
        }
        match schema {
            Value::Object(ref fields) if fields.len() == 1 && fields.contains_key("allOf") => {
                schema["allOf"][0].clone()
            }
            schema => schema,
        }
    }

    fn value(&mut self, types: &Types, shape: &Shape) -> Value {
        match shape {
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::String => json!({"type": "string"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Duration => self.scalar(&format!("{META}.Duration"), || json!({"type": "string"})),
            Shape::Quantity => self.scalar(QUANTITY, || {
                json!({"oneOf": [{"type": "string"}, {"type": "number"}]})
            }),
            Shape::IntOrString => self.scalar(INT_OR_STRING, || {
                json!({"format": "int-or-string", "oneOf": [{"type": "integer"}, {"type": "string"}]})
            }),
            Shape::Time => self.scalar(&format!("{META}.Time"), || {
                json!({"type": "string", "format": "date-time"})
            }),
            Shape::MicroTime => self.scalar(&format!("{META}.MicroTime"), || {
                json!({"type": "string", "format": "date-time"})
            }),
            Shape::Fields => self.scalar(&format!("{META}.FieldsV1"), || json!({"type": "object"})),
            Shape::Any => self.scalar(RAW, || json!({"type": "object"})),
            Shape::List(item) => json!({"type": "array", "items": self.item(types, item)}),
            Shape::Map(item) => {
                json!({"type": "object", "additionalProperties": self.item(types, item)})
            }
            Shape::Struct(id) => {
                self.add_type(types, *id);
                reference(&types.get(*id).openapi_name)
            }
        }
    }

    /// An item of a list or map, with the zero value upstream gives it.
    fn item(&mut self, types: &Types, shape: &Shape) -> Value {
        let schema = self.value(types, shape);
        let Some(zero) = openapi_zero(shape) else {
            return schema;
        };
        let mut schema = if schema.get("$ref").is_some() {
            json!({"allOf": [schema]})
        } else {
            schema
        };
        schema["default"] = zero;
        schema
    }

    fn scalar(&mut self, name: &str, schema: impl FnOnce() -> Value) -> Value {
        if self.seen.insert(name.to_owned()) {
            self.schemas.insert(name.to_owned(), schema());
        }
        reference(name)
    }
}

fn openapi_zero(shape: &Shape) -> Option<Value> {
    Some(match shape {
        Shape::Bool => false.into(),
        Shape::Int32 | Shape::Int64 | Shape::Double => 0.into(),
        Shape::String => "".into(),
        Shape::Struct(_) => json!({}),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::builtin;

    #[test]
    fn everything_reached_is_there() {
        let types = builtin();
        let mut components = Components::default();
        components.add(types, &types.shape("apps/v1.Deployment"));
        components.is_kind("io.k8s.api.apps.v1.Deployment", "apps", "v1", "Deployment");
        let schemas = components.finish();
        let container = &schemas["io.k8s.api.core.v1.Container"]["properties"];
        assert_eq!(container["env"]["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(
            container["ports"]["x-kubernetes-list-map-keys"],
            json!(["containerPort", "protocol"])
        );
        assert_eq!(container["name"], json!({"type": "string", "default": ""}));
        let text = schemas.to_string();
        for part in text.split("#/components/schemas/").skip(1) {
            let name = part.split('"').next().expect("a name");
            assert!(schemas.get(name).is_some(), "{name} is referred to");
        }
        assert_eq!(
            schemas["io.k8s.api.apps.v1.Deployment"]["x-kubernetes-group-version-kind"],
            json!([{"group": "apps", "version": "v1", "kind": "Deployment"}])
        );
    }
}
