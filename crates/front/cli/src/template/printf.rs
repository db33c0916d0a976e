//! `printf`: Go's verbs over the values of JSON.

use serde_json::Value;

use super::functions;

/// What stands between `%` and the verb.
#[derive(Debug, Default)]
struct Flags {
    minus: bool,
    plus: bool,
    zero: bool,
    sharp: bool,
    blank: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Writes values by a format. As Go has it, what does not fit is told in the
/// text.
pub(super) fn format(format: &str, values: &[&Value]) -> String {
    let mut out = String::new();
    let mut letters = format.chars().peekable();
    let mut rest = values.iter();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let mut flags = Flags::default();
        while let Some(flag) = letters.peek() {
            match flag {
                '-' => flags.minus = true,
                '+' => flags.plus = true,
                '0' => flags.zero = true,
                '#' => flags.sharp = true,
                ' ' => flags.blank = true,
                _ => break,
            }
            letters.next();
        }
        flags.width = number(&mut letters, &mut rest);
        if letters.next_if_eq(&'.').is_some() {
            flags.precision = Some(number(&mut letters, &mut rest).unwrap_or(0));
        }
        match letters.next() {
            None => out.push_str("%!(NOVERB)"),
            Some('%') => out.push('%'),
            Some(verb) => match rest.next() {
                None => out.push_str(&format!("%!{verb}(MISSING)")),
                Some(value) => out.push_str(&padded(written(verb, value, &flags), &flags, value)),
            },
        }
    }
    let extra: Vec<String> = rest
        .map(|value| format!("{}={}", functions::kind(value), functions::plain(value)))
        .collect();
    if !extra.is_empty() {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// A number of the format, or one of the values for `*`.
fn number(
    letters: &mut std::iter::Peekable<std::str::Chars<'_>>,
    values: &mut std::slice::Iter<'_, &Value>,
) -> Option<usize> {
    if letters.next_if_eq(&'*').is_some() {
        return values.next()?.as_u64()?.try_into().ok();
    }
    let mut digits = String::new();
    while let Some(digit) = letters.next_if(char::is_ascii_digit) {
        digits.push(digit);
    }
    // More than this is no width but a way to use up memory.
    digits.parse().ok().map(|number: usize| number.min(10_000))
}

fn written(verb: char, value: &Value, flags: &Flags) -> String {
    let plus = |text: String| {
        if text.starts_with('-') {
            text
        } else if flags.plus {
            format!("+{text}")
        } else if flags.blank {
            format!(" {text}")
        } else {
            text
        }
    };
    let wrong = || {
        format!(
            "%!{verb}({}={})",
            functions::kind(value),
            functions::plain(value)
        )
    };
    match (verb, value) {
        ('T', value) => functions::kind(value).into(),
        ('v', Value::Number(number)) if !number.is_f64() => plus(number.to_string()),
        ('v' | 's', Value::String(text)) => match flags.precision {
            Some(most) => text.chars().take(most).collect(),
            None => text.clone(),
        },
        ('v', value) => functions::plain(value),
        ('q', Value::String(text)) => format!("{text:?}"),
        ('x' | 'X', Value::String(text)) => {
            let hex: String = text.bytes().map(|byte| format!("{byte:02x}")).collect();
            if verb == 'X' { hex.to_uppercase() } else { hex }
        }
        ('t', Value::Bool(is)) => is.to_string(),
        ('s' | 'q' | 'd' | 'x' | 'X', Value::Array(items)) => {
            let items: Vec<String> = items
                .iter()
                .map(|item| written(verb, item, flags))
                .collect();
            format!("[{}]", items.join(" "))
        }
        (_, Value::Number(number)) => match (verb, number.as_i64(), number.as_f64()) {
            ('d', Some(integer), _) => plus(integer.to_string()),
            ('x', Some(integer), _) => signed(integer, |n| format!("{n:x}"), flags, "0x"),
            ('X', Some(integer), _) => signed(integer, |n| format!("{n:X}"), flags, "0X"),
            ('o', Some(integer), _) => signed(integer, |n| format!("{n:o}"), flags, "0"),
            ('b', Some(integer), _) => signed(integer, |n| format!("{n:b}"), flags, "0b"),
            ('c', Some(integer), _) => u32::try_from(integer)
                .ok()
                .and_then(char::from_u32)
                .unwrap_or('\u{fffd}')
                .to_string(),
            ('f' | 'F', None, Some(float)) => {
                plus(format!("{float:.*}", flags.precision.unwrap_or(6)))
            }
            ('e', None, Some(float)) => plus(exponent(float, flags.precision.unwrap_or(6))),
            ('g', None, Some(float)) => plus(shortest(float)),
            _ => wrong(),
        },
        _ => wrong(),
    }
}

fn signed(integer: i64, write: impl Fn(u64) -> String, flags: &Flags, prefix: &str) -> String {
    let sign = if integer < 0 { "-" } else { "" };
    let prefix = if flags.sharp { prefix } else { "" };
    format!("{sign}{prefix}{}", write(integer.unsigned_abs()))
}

fn padded(text: String, flags: &Flags, value: &Value) -> String {
    let missing = flags
        .width
        .unwrap_or(0)
        .saturating_sub(text.chars().count());
    if missing == 0 {
        return text;
    }
    if flags.minus {
        return format!("{text}{}", " ".repeat(missing));
    }
    if flags.zero && value.is_number() {
        let (sign, digits) = match text.strip_prefix(['-', '+']) {
            Some(digits) => (&text[..1], digits),
            None => ("", text.as_str()),
        };
        return format!("{sign}{}{digits}", "0".repeat(missing));
    }
    format!("{}{text}", " ".repeat(missing))
}

/// The shortest text that reads as this number, with an exponent where Go has
/// one.
pub(super) fn shortest(number: f64) -> String {
    if number != 0.0 && !(1e-4..1e21).contains(&number.abs()) {
        let plain = format!("{number:e}");
        let (digits, power) = plain.split_once('e').unwrap_or((&plain, "0"));
        return format!("{digits}e{}", power_text(power));
    }
    number.to_string()
}

fn exponent(number: f64, precision: usize) -> String {
    let plain = format!("{number:.precision$e}");
    let (digits, power) = plain.split_once('e').unwrap_or((&plain, "0"));
    format!("{digits}e{}", power_text(power))
}

/// A power with its sign and at least two digits.
fn power_text(power: &str) -> String {
    match power.strip_prefix('-') {
        Some(digits) => format!("-{digits:0>2}"),
        None => format!("+{power:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_written_as_in_go() {
        for (pattern, values, expected) in [
            (
                "%d|%5d|%-5d|%05d|%+d",
                vec![json!(7); 5],
                "7|    7|7    |00007|+7",
            ),
            (
                "%x %X %#x %o %b %c",
                vec![json!(65); 6],
                "41 41 0x41 101 1000001 A",
            ),
            (
                "%s|%10s|%-10s|%.2s",
                vec![json!("word"); 4],
                "word|      word|word      |wo",
            ),
            ("%q %x", vec![json!("a\"b"), json!("ab")], "\"a\\\"b\" 6162"),
            (
                "%f %.2f %8.1f %e %g",
                vec![json!(1.5); 5],
                "1.500000 1.50      1.5 1.500000e+00 1.5",
            ),
            (
                "%v %v %v",
                vec![json!(true), json!(["a", 1]), json!({ "b": 1, "a": null })],
                "true [a 1] map[a:<nil> b:1]",
            ),
            ("%d", vec![json!("x")], "%!d(string=x)"),
            ("%d", vec![], "%!d(MISSING)"),
            ("x", vec![json!(1)], "x%!(EXTRA int=1)"),
            ("%*d|%", vec![json!(4), json!(1)], "   1|%!(NOVERB)"),
            ("%g %v", vec![json!(1e21), json!(0.00001)], "1e+21 1e-05"),
            ("%T", vec![json!("")], "string"),
        ] {
            let values: Vec<&Value> = values.iter().collect();
            assert_eq!(format(pattern, &values), expected, "{pattern}");
        }
    }
}
