//! Names of a document's fields, as Go reads them: capitals make no difference.
//!
//! Docker's documentation has not always written a field as the daemon does
//! (`NanoCPUs`), and clients follow the one or the other. What is named otherwise must
//! not be passed over.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde_json::Value;

/// Gives the fields of an object the names that `T` has for them. One that is there
/// under its own name as well is left alone.
pub(crate) fn rename<T: for<'d> Deserialize<'d>>(value: &mut Value, more: &[&str]) {
    let Value::Object(fields) = value else {
        return;
    };
    let known = names::<T>().iter().chain(more);
    for name in known {
        if fields.contains_key(*name) {
            continue;
        }
        let other = fields.keys().find(|other| other.eq_ignore_ascii_case(name));
        if let Some(other) = other.cloned()
            && let Some(value) = fields.remove(&other)
        {
            fields.insert((*name).to_owned(), value);
        }
    }
}

/// The names of the fields of a structure, as documents have them.
fn names<T: for<'d> Deserialize<'d>>() -> &'static [&'static str] {
    match T::deserialize(Asked) {
        Err(Names(names)) => names,
        Ok(_) => &[],
    }
}

/// Says what it is asked for, and gives nothing.
struct Asked;

/// What was asked for.
#[derive(Debug)]
struct Names(&'static [&'static str]);

impl fmt::Display for Names {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "fields {:?}", self.0)
    }
}

impl std::error::Error for Names {}

impl Error for Names {
    fn custom<T: fmt::Display>(_: T) -> Self {
        Self(&[])
    }
}

impl<'de> Deserializer<'de> for Asked {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes
        byte_buf option unit unit_struct newtype_struct seq tuple tuple_struct map
        enum identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use dhow_engine::spec::HostConfig;
    use serde_json::json;

    use super::*;

    #[test]
    fn capitals_make_no_difference() {
        let mut value = json!({
            "NanoCPUs": 5, "MEMORY": 1, "Memory": 2, "portbindings": { "80/tcp": null },
            "odd": 3, "more": 4,
        });
        rename::<HostConfig>(&mut value, &["More"]);
        let expected = json!({
            "NanoCpus": 5, "MEMORY": 1, "Memory": 2, "PortBindings": { "80/tcp": null },
            "odd": 3, "More": 4,
        });
        assert_eq!(value, expected);
        rename::<HostConfig>(&mut Value::Null, &[]);
        assert!(names::<String>().is_empty());
    }
}
