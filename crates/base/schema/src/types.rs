//! The table as a value: types, fields, shapes.

use std::collections::HashMap;
use std::sync::OnceLock;

use serde_json::{Map, Value};

use crate::notation;

/// Every table text of the built-in kinds.
const BUILTIN: &[&str] = &[
    include_str!("../types/meta.v1.txt"),
    include_str!("../types/core.v1.txt"),
    include_str!("../types/admissionregistration.v1.txt"),
    include_str!("../types/apiextensions.v1.txt"),
    include_str!("../types/apps.v1.txt"),
    include_str!("../types/authentication.v1.txt"),
    include_str!("../types/authorization.v1.txt"),
    include_str!("../types/autoscaling.v1.txt"),
    include_str!("../types/autoscaling.v2.txt"),
    include_str!("../types/batch.v1.txt"),
    include_str!("../types/certificates.v1.txt"),
    include_str!("../types/coordination.v1.txt"),
    include_str!("../types/discovery.v1.txt"),
    include_str!("../types/events.v1.txt"),
    include_str!("../types/networking.v1.txt"),
    include_str!("../types/node.v1.txt"),
    include_str!("../types/policy.v1.txt"),
    include_str!("../types/rbac.v1.txt"),
    include_str!("../types/scheduling.v1.txt"),
    include_str!("../types/storage.v1.txt"),
];

/// The built-in kinds, read once at first use.
pub fn builtin() -> &'static Types {
    static TYPES: OnceLock<Types> = OnceLock::new();
    TYPES.get_or_init(|| notation::parse(BUILTIN).expect("the shipped tables are well-formed"))
}

/// Index of a type in its [`Types`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TypeId(pub(crate) u32);

/// What a JSON value may be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `true` or `false`.
    Bool,
    /// A 32-bit signed integer.
    Int32,
    /// A 64-bit signed integer.
    Int64,
    /// A floating point number.
    Double,
    /// A text.
    String,
    /// Base64 text; raw bytes in protobuf.
    Bytes,
    /// A resource quantity, kept in canonical form.
    Quantity,
    /// A 32-bit integer or a text.
    IntOrString,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 with microseconds.
    MicroTime,
    /// A Go duration such as `1h30m`.
    Duration,
    /// A managed-fields set.
    Fields,
    /// Any JSON, kept as it is.
    Any,
    /// A list of one shape.
    List(Box<Shape>),
    /// A map from text to one shape.
    Map(Box<Shape>),
    /// A type of the table.
    Struct(TypeId),
}

/// Whether a field must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// It may be missing.
    Optional,
    /// It must be there and not be empty.
    Required,
    /// It is always written, if need be with its zero value.
    Written,
}

/// How the items of a list belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListType {
    /// The list is one value.
    Atomic,
    /// The items are unique scalars.
    Set,
    /// The items are known by these fields.
    Map(Box<[Box<str>]>),
}

/// What a strategic merge patch does with a list or struct it does not replace item by item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    /// Take the patch's value whole.
    Replace,
    /// Merge item by item.
    Items,
}

/// The strategic-merge-patch strategy of a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatchStrategy {
    /// Whether items merge.
    pub merge: Merge,
    /// Whether keys the patch does not retain are cleared (`$retainKeys`).
    pub retain_keys: bool,
    /// The field that names an item, for lists of structs.
    pub key: Option<Box<str>>,
}

/// One field of a type.
#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    /// Its JSON name.
    pub name: Box<str>,
    /// Its protobuf number.
    pub number: u32,
    /// What it holds.
    pub shape: Shape,
    /// Whether it must be there.
    pub presence: Presence,
    /// A zero value differs from a missing one: a pointer upstream.
    pub pointer: bool,
    /// In JSON the fields of the struct stand in the parent itself.
    pub inline: bool,
    /// How list items belong together.
    pub list: ListType,
    /// A map or struct that is one value for apply.
    pub atomic: bool,
    /// The strategic-merge-patch strategy.
    pub patch: Option<PatchStrategy>,
    /// The only legal texts, if not empty.
    pub one_of: Box<[Box<str>]>,
    /// The value of a missing field.
    pub default: Option<Value>,
}

/// One type: a struct of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// `core/v1.Pod`: package and name.
    pub name: Box<str>,
    /// `io.k8s.api.core.v1.Pod`: the name in OpenAPI documents.
    pub openapi_name: Box<str>,
    /// The object carries `kind` and `apiVersion` in JSON.
    pub is_kind: bool,
    /// One value for apply.
    pub atomic: bool,
    /// Unknown fields are kept.
    pub open: bool,
    /// Fields as protobuf has them: inlined structs are one field.
    pub declared: Vec<Field>,
    /// Fields as JSON has them: inlined structs are dissolved.
    pub fields: Vec<Field>,
    pub(crate) index: HashMap<Box<str>, u16>,
}

impl Type {
    /// The JSON field of a name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.index
            .get(name)
            .map(|&index| &self.fields[usize::from(index)])
    }

    /// The name without its package.
    pub fn short_name(&self) -> &str {
        self.name.rsplit_once('.').map_or(&self.name, |(_, n)| n)
    }

    /// Go's name of the type in messages: `v1.Pod`.
    pub fn go_name(&self) -> &str {
        self.name.rsplit_once('/').map_or(&self.name, |(_, n)| n)
    }
}

/// A set of types that refer to one another.
#[derive(Clone, Debug, Default)]
pub struct Types {
    pub(crate) types: Vec<Type>,
    pub(crate) names: HashMap<Box<str>, TypeId>,
}

impl Types {
    /// Reads tables in our notation (`docs/design/schema.md`).
    ///
    /// # Errors
    /// When a line is not in the notation or a name is not defined.
    pub fn parse(texts: &[&str]) -> Result<Self, crate::NotationError> {
        notation::parse(texts)
    }

    /// The type of a name such as `core/v1.Pod`.
    pub fn id(&self, name: &str) -> Option<TypeId> {
        self.names.get(name).copied()
    }

    /// The shape of a named type.
    ///
    /// # Panics
    /// When the table has no such type; names come from our own tables.
    pub fn shape(&self, name: &str) -> Shape {
        match self.id(name) {
            Some(id) => Shape::Struct(id),
            None => panic!("the tables have no type {name}"),
        }
    }

    /// A type by its index.
    pub fn get(&self, id: TypeId) -> &Type {
        &self.types[id.0 as usize]
    }

    /// Every type, in the order of the tables.
    pub fn iter(&self) -> impl Iterator<Item = &Type> {
        self.types.iter()
    }

    /// The type of a struct shape.
    pub fn of(&self, shape: &Shape) -> Option<&Type> {
        match shape {
            Shape::Struct(id) => Some(self.get(*id)),
            _ => None,
        }
    }
}

/// The zero value Go writes for a field that is always written.
pub(crate) fn zero(shape: &Shape) -> Value {
    match shape {
        Shape::Bool => Value::Bool(false),
        Shape::Int32 | Shape::Int64 | Shape::Double | Shape::IntOrString => Value::from(0),
        Shape::String | Shape::Bytes => Value::String(String::new()),
        Shape::Quantity => Value::String("0".to_owned()),
        Shape::Duration => Value::String("0s".to_owned()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Map(_) | Shape::Struct(_) => Value::Object(Map::new()),
        Shape::Time | Shape::MicroTime | Shape::Fields | Shape::Any => Value::Null,
    }
}
