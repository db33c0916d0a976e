//! PAX extended headers: `length key=value\n` records (POSIX pax, "Extended
//! Header").

/// Splits an extended header into its records; none if it is malformed.
pub fn records(mut data: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let mut records = Vec::new();
    // Some writers pad with zeros.
    while !data.is_empty() && data[0] != 0 {
        let space = data.iter().position(|byte| *byte == b' ')?;
        let length: usize = number(&data[..space])?;
        if length > data.len() || length < space + 2 || data[length - 1] != b'\n' {
            return None;
        }
        let record = &data[space + 1..length - 1];
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((&record[..equals], &record[equals + 1..]));
        data = &data[length..];
    }
    Some(records)
}

/// Appends a record.
pub fn append(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    // The length counts its own digits.
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

/// A decimal number without sign.
pub fn number<T: std::str::FromStr>(text: &[u8]) -> Option<T> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Seconds with an optional fraction, perhaps negative.
pub fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let digits: String = fraction
        .chars()
        .chain("000000000".chars())
        .take(9)
        .collect();
    let nanoseconds: u32 = digits.parse().ok()?;
    if whole.starts_with('-') && nanoseconds > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds));
    }
    Some((seconds, nanoseconds))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn lengths_count_themselves() {
        for n in [1, 3, 4, 5, 6, 90, 92, 93, 94, 95, 989, 990, 991, 992] {
            let mut out = Vec::new();
            append(&mut out, b"k", &vec![b'v'; n]);
            assert_eq!(
                records(&out).unwrap(),
                [(&b"k"[..], &vec![b'v'; n][..])],
                "{n}"
            );
        }
    }

    #[test]
    fn times_are_read() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"x"), None);
        assert_eq!(time(b"1.x"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_safe(data: Vec<u8>) {
            let _ = records(&data);
        }
    }
}
