//! The functions of templates: Go's, and Docker's.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::{Number, Value};

use super::eval::Data;
use super::parse::Operand;
use super::printf;

/// All functions there are.
const KNOWN: [&str; 26] = [
    "and", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt",
    "ne", "not", "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate",
    "upper", "urlquery",
];

pub(super) fn is_known(name: &str) -> bool {
    KNOWN.contains(&name)
}

/// Whether a function leaves the titles of a table as they are.
pub(super) fn leaves_headings(name: &str) -> bool {
    matches!(name, "json" | "lower" | "title" | "truncate" | "upper")
}

/// What a value is, for messages.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "nil",
        Value::Bool(_) => "bool",
        Value::Number(number) if number.is_f64() => "float64",
        Value::Number(_) => "int",
        Value::String(_) => "string",
        Value::Array(_) => "[]interface {}",
        Value::Object(_) => "map[string]interface {}",
    }
}

/// An operand, for messages.
pub(super) fn shown(operand: &Operand) -> String {
    match operand {
        Operand::Field(names) => format!(".{}", names.join(".")),
        Operand::Variable(name, _) | Operand::Function(name) => name.clone(),
        Operand::Constant(value) => value.as_ref().map_or("nil".into(), Value::to_string),
        Operand::Group(..) => "(…)".into(),
    }
}

/// A value as Go prints it.
pub(super) fn printed(value: &Data<'_>) -> String {
    match value {
        Data::Json(value) => plain(value),
        Data::Nothing => "<no value>".into(),
        Data::NoList => "[]".into(),
        Data::NoMap => "map[]".into(),
    }
}

/// A value as Go's `%v` writes it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Null => "<nil>".into(),
        Value::Bool(is) => is.to_string(),
        Value::Number(number) => number_text(number),
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            let items: Vec<String> = items.iter().map(plain).collect();
            format!("[{}]", items.join(" "))
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            let fields: Vec<String> = fields
                .iter()
                .map(|(name, value)| format!("{name}:{}", plain(value)))
                .collect();
            format!("map[{}]", fields.join(" "))
        }
    }
}

fn number_text(number: &Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(value) => printf::shortest(value),
        None => number.to_string(),
    }
}

type Result<'a> = std::result::Result<Data<'a>, String>;

/// Calls a function.
pub(super) fn call<'a>(name: &str, arguments: Vec<Data<'a>>) -> Result<'a> {
    let count = |least: usize, most: usize| {
        let n = arguments.len();
        if (least..=most).contains(&n) {
            return Ok(());
        }
        let wanted = match (least, most) {
            (least, usize::MAX) => format!("at least {least}"),
            (least, _) => least.to_string(),
        };
        Err(format!(
            "wrong number of args for {name}: want {wanted} got {n}"
        ))
    };
    match name {
        "not" => {
            count(1, 1)?;
            Ok(Data::of(!arguments[0].is_true()))
        }
        "eq" => {
            count(2, usize::MAX)?;
            let first = &arguments[0];
            let mut is_equal = false;
            for other in &arguments[1..] {
                is_equal |= equal(first, other)?;
            }
            Ok(Data::of(is_equal))
        }
        "ne" => {
            count(2, 2)?;
            Ok(Data::of(!equal(&arguments[0], &arguments[1])?))
        }
        "lt" | "le" | "gt" | "ge" => {
            count(2, 2)?;
            let order = order(&arguments[0], &arguments[1])?;
            Ok(Data::of(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        "len" => {
            count(1, 1)?;
            let length = match (&arguments[0], arguments[0].json()) {
                (Data::NoList | Data::NoMap, _) => 0,
                (_, Value::String(text)) => text.len(),
                (_, Value::Array(items)) => items.len(),
                (_, Value::Object(fields)) => fields.len(),
                (_, other) => {
                    return Err(format!("error calling len: len of type {}", kind(other)));
                }
            };
            Ok(Data::of(length))
        }
        "index" => {
            count(1, usize::MAX)?;
            let mut arguments = arguments.into_iter();
            let mut found = arguments.next().unwrap_or(Data::Nothing);
            for key in arguments {
                found = index(found, &key)?;
            }
            Ok(found)
        }
        "slice" => {
            count(1, 4)?;
            slice(&arguments)
        }
        "print" => Ok(Data::of(print(&arguments))),
        "println" => {
            let words: Vec<String> = arguments.iter().map(nil_or_printed).collect();
            Ok(Data::of(format!("{}\n", words.join(" "))))
        }
        "printf" => {
            count(1, usize::MAX)?;
            let values: Vec<&Value> = arguments[1..].iter().map(Data::json).collect();
            Ok(Data::of(printf::format(
                text(name, &arguments[0])?,
                &values,
            )))
        }
        "json" => {
            count(1, 1)?;
            Ok(Data::of(arguments[0].json().to_string()))
        }
        "html" => Ok(Data::of(escape_html(&print(&arguments)))),
        "js" => Ok(Data::of(escape_script(&print(&arguments)))),
        "urlquery" => Ok(Data::of(escape_query(&print(&arguments)))),
        "join" => {
            count(2, 2)?;
            let words: Vec<String> = match arguments[0].json() {
                Value::Null => Vec::new(),
                Value::Array(items) => items.iter().map(plain).collect(),
                other => return Err(format!("wrong type for join: {}", kind(other))),
            };
            Ok(Data::of(words.join(text(name, &arguments[1])?)))
        }
        "split" => {
            count(2, 2)?;
            let (whole, separator) = (text(name, &arguments[0])?, text(name, &arguments[1])?);
            let words: Vec<Value> = if separator.is_empty() {
                whole
                    .chars()
                    .map(|letter| letter.to_string().into())
                    .collect()
            } else {
                whole.split(separator).map(Value::from).collect()
            };
            Ok(Data::of(words))
        }
        "lower" | "upper" | "title" => {
            count(1, 1)?;
            let whole = text(name, &arguments[0])?;
            Ok(Data::of(match name {
                "lower" => whole.to_lowercase(),
                "upper" => whole.to_uppercase(),
                _ => title(whole),
            }))
        }
        "pad" => {
            count(3, 3)?;
            let whole = text(name, &arguments[0])?;
            if whole.is_empty() {
                return Ok(Data::of(""));
            }
            let (before, after) = (size(name, &arguments[1])?, size(name, &arguments[2])?);
            Ok(Data::of(format!(
                "{}{whole}{}",
                " ".repeat(before),
                " ".repeat(after)
            )))
        }
        "truncate" => {
            count(2, 2)?;
            let (whole, length) = (text(name, &arguments[0])?, size(name, &arguments[1])?);
            Ok(Data::of(whole.chars().take(length).collect::<String>()))
        }
        other => Err(format!("function {other:?} not defined")),
    }
}

fn text<'d>(name: &str, data: &'d Data<'_>) -> std::result::Result<&'d str, String> {
    data.json().as_str().ok_or_else(|| {
        format!(
            "wrong type for value in {name}; expected string; got {}",
            kind(data.json())
        )
    })
}

fn size(name: &str, data: &Data<'_>) -> std::result::Result<usize, String> {
    let number = data
        .json()
        .as_u64()
        .and_then(|number| usize::try_from(number).ok());
    number.ok_or_else(|| {
        format!(
            "wrong type for value in {name}; expected int; got {}",
            kind(data.json())
        )
    })
}

fn nil_or_printed(data: &Data<'_>) -> String {
    match data {
        Data::Nothing => "<nil>".into(),
        other => printed(other),
    }
}

/// Words one after the other, with a blank between two that are no strings.
fn print(arguments: &[Data<'_>]) -> String {
    let mut out = String::new();
    let mut was_text = true;
    for (at, argument) in arguments.iter().enumerate() {
        let is_text = argument.json().is_string();
        if at > 0 && !is_text && !was_text {
            out.push(' ');
        }
        out.push_str(&nil_or_printed(argument));
        was_text = is_text;
    }
    out
}

fn incompatible<T>() -> std::result::Result<T, String> {
    Err("incompatible types for comparison".into())
}

fn equal(one: &Data<'_>, other: &Data<'_>) -> std::result::Result<bool, String> {
    match (one.json(), other.json()) {
        (Value::Null, Value::Null) => Ok(true),
        (Value::Null, _) | (_, Value::Null) => Ok(false),
        (Value::Bool(one), Value::Bool(other)) => Ok(one == other),
        (Value::String(one), Value::String(other)) => Ok(one == other),
        (Value::Number(_), Value::Number(_)) => Ok(order(one, other)? == Ordering::Equal),
        (Value::Array(_) | Value::Object(_), _) | (_, Value::Array(_) | Value::Object(_)) => {
            Err("non-comparable type in comparison".into())
        }
        _ => incompatible(),
    }
}

fn order(one: &Data<'_>, other: &Data<'_>) -> std::result::Result<Ordering, String> {
    match (one.json(), other.json()) {
        (Value::String(one), Value::String(other)) => Ok(one.cmp(other)),
        (Value::Number(one), Value::Number(other)) if one.is_f64() == other.is_f64() => {
            match (one.as_i64(), other.as_i64()) {
                (Some(one), Some(other)) => Ok(one.cmp(&other)),
                _ => {
                    let order = one.as_f64().partial_cmp(&other.as_f64());
                    Ok(order.unwrap_or(Ordering::Equal))
                }
            }
        }
        _ => incompatible(),
    }
}

fn index<'a>(data: Data<'a>, key: &Data<'_>) -> Result<'a> {
    let value = match data {
        Data::Json(value) => value,
        Data::NoMap => return Ok(Data::of("")),
        Data::Nothing | Data::NoList => {
            return Err("error calling index: index of untyped nil".into());
        }
    };
    let missing = |value: &Value| match value.as_object() {
        // Of texts, what is not there is empty.
        Some(fields) if fields.values().all(Value::is_string) => Data::of(""),
        _ => Data::Nothing,
    };
    let found = match (value.as_ref(), key.json()) {
        (Value::Object(_), Value::String(name)) => match &value {
            Cow::Borrowed(whole) => whole.get(name).map(Cow::Borrowed),
            Cow::Owned(whole) => whole.get(name).cloned().map(Cow::Owned),
        },
        (Value::Array(items), Value::Number(number)) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            let Some(at) = at.filter(|at| *at < items.len()) else {
                return Err(format!("error calling index: index out of range: {number}"));
            };
            match &value {
                Cow::Borrowed(whole) => whole.get(at).map(Cow::Borrowed),
                Cow::Owned(whole) => whole.get(at).cloned().map(Cow::Owned),
            }
        }
        (Value::String(text), Value::Number(number)) => {
            let at = number.as_u64().and_then(|at| usize::try_from(at).ok());
            let byte = at.and_then(|at| text.as_bytes().get(at));
            let byte =
                byte.ok_or_else(|| format!("error calling index: index out of range: {number}"))?;
            Some(Cow::Owned((*byte).into()))
        }
        (other, key) => {
            return Err(format!(
                "error calling index: can't index item of type {} with {}",
                kind(other),
                kind(key)
            ));
        }
    };
    Ok(match found {
        Some(found) if found.is_null() => Data::Nothing,
        Some(found) => Data::Json(found),
        None => missing(&value),
    })
}

fn slice<'a>(arguments: &[Data<'a>]) -> Result<'a> {
    let whole = arguments[0].json();
    let length = match whole {
        Value::String(text) => text.len(),
        Value::Array(items) => items.len(),
        other => {
            return Err(format!(
                "error calling slice: can't slice item of type {}",
                kind(other)
            ));
        }
    };
    let bound = |at: usize, otherwise| match arguments.get(at) {
        None => Ok(otherwise),
        Some(bound) => size("slice", bound).and_then(|bound| {
            if bound > length {
                return Err(format!("error calling slice: index out of range: {bound}"));
            }
            Ok(bound)
        }),
    };
    let (first, last) = (bound(1, 0)?, bound(2, length)?);
    if first > last {
        return Err(format!(
            "error calling slice: invalid slice index: {first} > {last}"
        ));
    }
    Ok(match whole {
        Value::String(text) => Data::of(String::from_utf8_lossy(&text.as_bytes()[first..last])),
        Value::Array(items) => Data::of(items[first..last].to_vec()),
        _ => Data::Nothing,
    })
}

/// The first letter of each word large.
fn title(text: &str) -> String {
    let mut out = String::new();
    let mut before = ' ';
    for letter in text.chars() {
        let is_within = before.is_alphanumeric() || before == '_' || before == '\'';
        if is_within {
            out.push(letter);
        } else {
            out.extend(letter.to_uppercase());
        }
        before = letter;
    }
    out
}

fn escape_html(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\0' => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}

fn escape_script(text: &str) -> String {
    let mut out = String::new();
    for letter in text.chars() {
        match letter {
            '\\' | '\'' | '"' => out.extend(['\\', letter]),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(letter))),
            control if control < ' ' => out.push_str(&format!("\\u{:04X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b' ' => out.push('+'),
            b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            byte if byte.is_ascii_alphanumeric() => out.push(char::from(byte)),
            byte => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}
