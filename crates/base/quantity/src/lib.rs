//! Kubernetes resource quantities: `500m`, `1.5Gi`, `2e3`.
//!
//! A quantity is an exact number of billionths with the notation it was
//! written in, so that it prints in upstream's canonical form. Not a unit
//! system: what the number counts (cores, bytes, pods) is its user's matter.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// Billionths in one.
const NANOS: i128 = 1_000_000_000;

/// Upstream caps the magnitude of every quantity at 2^63-1.
const LARGEST: i128 = i64::MAX as i128 * NANOS;

/// How a quantity is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// `m`, none, `k`, `M`, `G`…: powers of 1000.
    DecimalSi,
    /// `Ki`, `Mi`, `Gi`…: powers of 1024.
    BinarySi,
    /// `e3`, `e6`…: powers of 1000 as exponents.
    DecimalExponent,
}

/// An exact amount.
///
/// Equality and order look at the amount only: `1Gi` equals `1073741824`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The form `<sign><digits><suffix>` is not met.
    #[error(
        "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
    )]
    Form,
    /// The number part has no digit or two points.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is not one of SI, IEC or an exponent.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// A whole number in decimal notation.
    pub fn from_units(units: i64) -> Self {
        Self {
            nanos: i128::from(units) * NANOS,
            format: Format::DecimalSi,
        }
    }

    /// Thousandths, the usual unit of processor time.
    pub fn from_milli(milli: i64) -> Self {
        Self {
            nanos: i128::from(milli) * (NANOS / 1000),
            format: Format::DecimalSi,
        }
    }

    /// A whole number of bytes in binary notation.
    pub fn from_bytes(bytes: i64) -> Self {
        Self {
            nanos: i128::from(bytes) * NANOS,
            format: Format::BinarySi,
        }
    }

    /// The amount rounded up to a whole number.
    pub fn value(&self) -> i64 {
        clamp(div_up(self.nanos, NANOS))
    }

    /// The amount in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        clamp(div_up(self.nanos, NANOS / 1000))
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// -1, 0 or 1.
    pub fn sign(&self) -> i32 {
        self.nanos.signum() as i32
    }

    /// The notation it prints in.
    pub fn format(&self) -> Format {
        self.format
    }

    /// Sum, capped at the largest amount; keeps this one's notation unless it is zero.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            nanos: (self.nanos + other.nanos).clamp(-LARGEST, LARGEST),
            format: if self.is_zero() {
                other.format
            } else {
                self.format
            },
        }
    }

    /// Difference, capped likewise.
    #[must_use]
    pub fn minus(&self, other: &Self) -> Self {
        self.plus(&Self {
            nanos: -other.nanos,
            format: other.format,
        })
    }
}

fn div_up(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

fn clamp(n: i128) -> i64 {
    n.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl Default for Quantity {
    fn default() -> Self {
        Self::from_units(0)
    }
}

impl FromStr for Quantity {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            Some(_) => (false, text),
            None => return Err(ParseError::Form),
        };
        let end = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if number.is_empty() {
            return Err(ParseError::Form);
        }
        if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
            return Err(ParseError::Numeric);
        }
        let (format, scale) = suffix_of(suffix)?;
        let magnitude = scaled(whole, fraction, scale);
        Ok(Self {
            nanos: if negative { -magnitude } else { magnitude },
            format,
        })
    }
}

/// A suffix as numerator and denominator of the number of nanos in one of it.
type Scale = (i128, i128);

fn suffix_of(suffix: &str) -> Result<(Format, Scale), ParseError> {
    let si = |scale| Ok((Format::DecimalSi, scale));
    let iec = |power: u32| Ok((Format::BinarySi, (NANOS << (10 * power), 1)));
    match suffix {
        "n" => si((1, 1)),
        "u" => si((1_000, 1)),
        "m" => si((1_000_000, 1)),
        "" => si((NANOS, 1)),
        "k" => si((NANOS * 1_000, 1)),
        "M" => si((NANOS * 1_000_000, 1)),
        "G" => si((NANOS * NANOS, 1)),
        "T" => si((NANOS * NANOS * 1_000, 1)),
        "P" => si((NANOS * NANOS * 1_000_000, 1)),
        "E" => si((NANOS * NANOS * NANOS, 1)),
        "Ki" => iec(1),
        "Mi" => iec(2),
        "Gi" => iec(3),
        "Ti" => iec(4),
        "Pi" => iec(5),
        "Ei" => iec(6),
        _ => {
            let exponent = suffix
                .strip_prefix(['e', 'E'])
                .and_then(|e| e.parse::<i32>().ok())
                .ok_or(ParseError::Suffix)?;
            let scale = if exponent >= 0 {
                (NANOS.saturating_mul(power_of_ten(exponent)), 1)
            } else {
                (NANOS, power_of_ten(exponent.saturating_neg()))
            };
            Ok((Format::DecimalExponent, scale))
        }
    }
}

fn power_of_ten(exponent: i32) -> i128 {
    10i128.saturating_pow(exponent.unsigned_abs().min(38))
}

/// The number times its scale, rounded up to a nano and capped.
fn scaled(whole: &str, fraction: &str, (numerator, denominator): Scale) -> i128 {
    let digits = |text: &str| {
        text.bytes().try_fold(0i128, |n, digit| {
            n.checked_mul(10)?.checked_add(i128::from(digit - b'0'))
        })
    };
    let Some(whole) = digits(whole) else {
        return LARGEST;
    };
    let Some(whole_part) = whole.checked_mul(numerator) else {
        return LARGEST;
    };
    // Digits past the eighteenth are below any nano this side of `Ei`, but
    // still round up.
    let kept = &fraction[..fraction.len().min(18)];
    let lost = fraction[kept.len()..].bytes().any(|digit| digit != b'0');
    let parts = digits(kept).unwrap_or(0);
    let unit = power_of_ten(kept.len() as i32);
    // parts/unit × numerator without overflow: split the numerator at the unit.
    let fraction_part = parts
        .checked_mul(numerator / unit)
        .zip(parts.checked_mul(numerator % unit))
        .map_or(LARGEST, |(high, low)| {
            high.saturating_add(div_up(low, unit))
        });
    let total = whole_part
        .saturating_add(fraction_part)
        .saturating_add(i128::from(lost));
    div_up(total, denominator).min(LARGEST)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.pad("0");
        }
        // What would be rounded, or is small, is told in decimal suffixes.
        let is_binary = self.nanos.abs() >= 1024 * NANOS && self.nanos % NANOS == 0;
        let text = match self.format {
            Format::BinarySi if is_binary => binary(self.nanos / NANOS),
            Format::DecimalExponent => decimal(self.nanos, |exponent| {
                if exponent == 0 {
                    String::new()
                } else {
                    format!("e{exponent}")
                }
            }),
            _ => decimal(self.nanos, |exponent| {
                let names = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
                names[((exponent + 9) / 3) as usize].to_owned()
            }),
        };
        f.pad(&text)
    }
}

fn binary(mut n: i128) -> String {
    let names = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let mut power = 0;
    while n % 1024 == 0 && power + 1 < names.len() {
        n /= 1024;
        power += 1;
    }
    format!("{n}{}", names[power])
}

fn decimal(mut n: i128, suffix: impl Fn(i32) -> String) -> String {
    let mut exponent = -9;
    while n % 1000 == 0 && exponent < 18 {
        n /= 1000;
        exponent += 3;
    }
    format!("{n}{}", suffix(exponent))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().expect("a quantity").to_string()
    }

    #[test]
    fn canonical_form_is_upstreams() {
        for (given, printed) in [
            ("0", "0"),
            ("0.5", "500m"),
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1000Mi", "1000Mi"),
            ("512", "512"),
            ("100Ki", "100Ki"),
            ("0.5Ki", "512"),
            ("1e3", "1e3"),
            ("1E", "1E"),
            ("12e6", "12e6"),
            ("0.1n", "1n"),
            ("-1.5", "-1500m"),
            ("+3", "3"),
            ("1000k", "1M"),
            ("100E", "9223372036854775807"),
            ("1e-3", "1e-3"),
            ("5e-1", "500e-3"),
        ] {
            assert_eq!(canonical(given), printed, "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for text in ["", "abc", "1.2.3", "1Kib", ".", "-", "1 Gi", "1e", "i"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }

    #[test]
    fn values_round_up() {
        let quantity: Quantity = "1500m".parse().expect("a quantity");
        assert_eq!(quantity.value(), 2);
        assert_eq!(quantity.milli_value(), 1500);
        let quantity: Quantity = "-1500m".parse().expect("a quantity");
        assert_eq!(quantity.value(), -1);
    }

    proptest! {
        #[test]
        fn printing_and_parsing_agree(nanos in -1_000_000_000_000_000_000i64..1_000_000_000_000_000_000, format in 0..3) {
            let format = [Format::DecimalSi, Format::BinarySi, Format::DecimalExponent][format as usize];
            let nanos = match format {
                Format::BinarySi => i128::from(nanos) * NANOS,
                _ => i128::from(nanos),
            };
            let quantity = Quantity { nanos, format };
            let again: Quantity = quantity.to_string().parse().expect("own output");
            prop_assert_eq!(quantity, again);
            // Without a suffix nothing says that the suffixes were binary.
            if format != Format::BinarySi || quantity.to_string().ends_with('i') {
                prop_assert_eq!(quantity.to_string(), again.to_string());
            }
        }

        #[test]
        fn strangers_do_not_panic(text in "[-+]?[0-9.]{0,40}[eEinumkKMGTP]{0,3}[-+]?[0-9]{0,6}") {
            if let Ok(quantity) = text.parse::<Quantity>() {
                let again: Quantity = quantity.to_string().parse().expect("own output");
                prop_assert_eq!(quantity, again);
            }
        }
    }
}
