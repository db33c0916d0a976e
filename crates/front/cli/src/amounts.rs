//! Amounts as Docker's flags have them: bytes, processors, times, and lists
//! behind commas.

/// A number of bytes: `512m`, `1.5g`, `10`; units are powers of 1024.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn bytes(text: &str) -> Result<i64, String> {
    let wrong = || format!("invalid size: '{text}'");
    let lower = text.to_ascii_lowercase();
    let digits = lower.trim_end_matches(|letter: char| letter.is_ascii_alphabetic());
    let unit = lower[digits.len()..].trim_end_matches('b');
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let exponent = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(wrong()),
    };
    let digits = digits.strip_suffix(' ').unwrap_or(digits);
    let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.';
    if !digits.starts_with(|letter: char| letter.is_ascii_digit()) || !digits.chars().all(is_digit)
    {
        return Err(wrong());
    }
    let number: f64 = digits.parse().map_err(|_| wrong())?;
    let bytes = number * 1024f64.powi(exponent);
    if bytes >= 9.2e18 {
        return Err(wrong());
    }
    Ok(bytes as i64)
}

/// Bytes of memory and swap together; -1 is no limit.
pub(crate) fn bytes_or_all(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { bytes(text) }
}

/// Billionths of a processor, of a number such as `1.5` or `3/2`.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn nano_cpus(text: &str) -> Result<i64, String> {
    let wrong = || format!("failed to parse {text} as a rational number");
    let (number, divisor) = text.split_once('/').unwrap_or((text, "1"));
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let divisor: f64 = divisor.parse().map_err(|_| wrong())?;
    let nano = number / divisor * 1e9;
    if !nano.is_finite() || nano.abs() > 9.2e18 {
        return Err(wrong());
    }
    if (nano - nano.round()).abs() > 1e-3 {
        return Err("value is too precise".into());
    }
    Ok(nano.round() as i64)
}

/// Nanoseconds of a time such as `1m30s`, as Go reads it.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn nanoseconds(text: &str) -> Result<i64, String> {
    let wrong = || format!("time: invalid duration {text:?}");
    let (sign, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (-1.0, rest),
        None => (1.0, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Ok(0);
    }
    if rest.is_empty() {
        return Err(wrong());
    }
    let is_digit = |letter: char| letter.is_ascii_digit() || letter == '.';
    let mut total = 0.0;
    while !rest.is_empty() {
        let end = rest
            .find(|letter| !is_digit(letter))
            .ok_or_else(|| format!("time: missing unit in duration {text:?}"))?;
        let number: f64 = rest[..end].parse().map_err(|_| wrong())?;
        rest = &rest[end..];
        let end = rest.find(is_digit).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            unit => {
                return Err(format!("time: unknown unit {unit:?} in duration {text:?}"));
            }
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Ok((sign * total) as i64)
}

/// The fields of a line of values behind commas; one in double quotes may have
/// commas of its own, and two quotes for one.
///
/// # Errors
///
/// What is wrong.
pub(crate) fn fields(text: &str) -> Result<Vec<String>, String> {
    let mut fields = Vec::new();
    let mut letters = text.chars().peekable();
    loop {
        let mut field = String::new();
        if letters.next_if_eq(&'"').is_some() {
            loop {
                match letters.next() {
                    Some('"') if letters.next_if_eq(&'"').is_some() => field.push('"'),
                    Some('"') => break,
                    Some(letter) => field.push(letter),
                    None => return Err("a quote is not closed".into()),
                }
            }
        }
        match letters.peek() {
            Some(',') | None => {}
            Some(_) if !field.is_empty() => return Err("a comma has to follow a quote".into()),
            Some(_) => {
                while let Some(letter) = letters.next_if(|letter| *letter != ',') {
                    if letter == '"' {
                        return Err(
                            "there is a quote within a field that does not begin with one".into(),
                        );
                    }
                    field.push(letter);
                }
            }
        }
        fields.push(field);
        if letters.next().is_none() {
            return Ok(fields);
        }
    }
}

/// A truth value in the words of Docker's options.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn truth(name: &str, value: &str) -> Result<bool, String> {
    crate::arguments::truth(value.as_ref())
        .ok_or_else(|| format!("invalid value for '{name}': invalid boolean value ({value:?}): must be one of \"true\", \"1\", \"false\", or \"0\" (default \"true\")"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512m", 512 << 20),
            ("1.5g", 3 << 29),
            ("10", 10),
            ("0", 0),
            ("7b", 7),
            ("1 k", 1024),
            ("1kib", 1024),
            ("2KB", 2048),
            ("1T", 1 << 40),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for bad in ["", "m", "-1", "1x", "inf", "nan", "1mm", "1..2", "9999999p"] {
            assert!(bytes(bad).is_err(), "{bad}");
        }
        assert_eq!(bytes_or_all("-1"), Ok(-1));
        assert!(bytes_or_all("-2").is_err());
    }

    #[test]
    fn processors() {
        for (text, expected) in [
            ("1.5", 1_500_000_000),
            ("1/2", 500_000_000),
            ("2", 2_000_000_000),
        ] {
            assert_eq!(nano_cpus(text), Ok(expected), "{text}");
        }
        for bad in ["", "x", "1..2", "1/0", "0.00000000001"] {
            assert!(nano_cpus(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn times() {
        for (text, expected) in [
            ("30s", 30_000_000_000),
            ("1m30s", 90_000_000_000),
            ("1.5ms", 1_500_000),
            ("0", 0),
            ("-1s", -1_000_000_000),
        ] {
            assert_eq!(nanoseconds(text), Ok(expected), "{text}");
        }
        for bad in ["", "30", "s", "1x", "-"] {
            assert!(nanoseconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn fields_may_be_quoted() {
        for (text, expected) in [
            ("a", &["a"] as &[&str]),
            ("a=b,c", &["a=b", "c"]),
            (r#"a,"b,c",d"#, &["a", "b,c", "d"]),
            (r#""o=addr=1,rw""#, &["o=addr=1,rw"]),
            (r#""a""b""#, &["a\"b"]),
            ("a,", &["a", ""]),
        ] {
            assert_eq!(fields(text).expect(text), expected);
        }
        for bad in [r#""a"#, r#"a"b"#, r#""a"b"#] {
            assert!(fields(bad).is_err(), "{bad}");
        }
    }
}
