//! One table per API type, and the interpreters that read it.
//!
//! A [`Types`] value says of every type what upstream's generated code says of
//! its structs: fields, their shapes, protobuf numbers, defaults, how lists and
//! maps merge. [`builtin`] is the table of the built-in kinds; a custom
//! resource's schema becomes the same value. Defaulting, strict decoding,
//! validation, the patch types, server-side apply and OpenAPI are functions of
//! it. What a table cannot say (rules between fields, allocation) is the API
//! server's.

pub mod apply;
pub mod decode;
pub mod defaults;
pub mod fields;
mod notation;
pub mod openapi;
pub mod patch;
pub mod path;
pub mod proto;
mod types;
pub mod validate;

pub use notation::NotationError;
pub use types::{
    Field, ListType, Merge, PatchStrategy, Presence, Shape, Type, TypeId, Types, builtin,
};
