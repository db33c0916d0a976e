//! `--filter`.

use serde_json::{Map, Value, json};

/// `NAME=VALUE`.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn filter(text: &str) -> Result<String, String> {
    match text.split_once('=') {
        Some((name, value)) => Ok(format!(
            "{}={}",
            name.trim().to_ascii_lowercase(),
            value.trim()
        )),
        None => Err("bad format of filter (expected name=value)".into()),
    }
}

/// Filters as the API wants them; none are empty.
pub(crate) fn filters(texts: &[String]) -> String {
    let mut map = Map::new();
    for text in texts {
        let (name, value) = text.split_once('=').unwrap_or((text, ""));
        let values = map.entry(name).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    if map.is_empty() {
        return String::new();
    }
    Value::Object(map).to_string()
}
