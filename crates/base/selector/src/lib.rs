//! Kubernetes label and field selectors: the query form (`a=b,c in (d,e),!f`)
//! and what they match.
//!
//! Not the JSON form of a LabelSelector: whoever holds one builds the
//! [`Requirement`]s from it.

mod field;
mod label;

pub use field::{FieldSelector, FieldTerm};
pub use label::{LabelSelector, Operator, Requirement, SelectorError};
