//! Platforms: `linux/arm64/v8`, as the API has them.

use serde_json::{Map, Value, json};

/// A platform in JSON, of `OS[/ARCHITECTURE[/VARIANT]]`.
///
/// # Errors
///
/// What is wrong.
pub(crate) fn platform(text: &str) -> Result<String, String> {
    let parts: Vec<&str> = text.split('/').collect();
    let is_word = |part: &&str| {
        !part.is_empty()
            && part
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_.-".contains(letter))
    };
    if parts.len() > 3 || !parts.iter().all(is_word) {
        return Err(format!(
            "invalid platform: {text}: it is OS[/ARCHITECTURE[/VARIANT]]"
        ));
    }
    let (architecture, variant) = normal(
        parts.get(1).copied().unwrap_or(std::env::consts::ARCH),
        parts.get(2).copied().unwrap_or_default(),
    );
    let mut platform = Map::new();
    platform.insert("architecture".into(), json!(architecture));
    platform.insert("os".into(), json!(parts[0].to_ascii_lowercase()));
    if !variant.is_empty() {
        platform.insert("variant".into(), json!(variant));
    }
    Ok(Value::Object(platform).to_string())
}

/// An architecture by the name that images know it by.
fn normal(architecture: &str, variant: &str) -> (String, String) {
    let architecture = architecture.to_ascii_lowercase();
    let (name, implied) = match architecture.as_str() {
        "x86_64" | "x86-64" | "amd64" => ("amd64", if variant == "v1" { "" } else { variant }),
        "i386" | "i486" | "i586" | "i686" => ("386", ""),
        "aarch64" | "arm64" => ("arm64", if variant == "8" { "v8" } else { variant }),
        "armhf" => ("arm", "v7"),
        "armel" => ("arm", "v6"),
        "arm" => (
            "arm",
            match variant {
                "" | "7" => "v7",
                "5" | "6" | "8" => return ("arm".into(), format!("v{variant}")),
                other => other,
            },
        ),
        other => (other, variant),
    };
    (name.to_owned(), implied.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn platforms_have_their_usual_names() {
        for (text, expected) in [
            ("linux/amd64", r#"{"architecture":"amd64","os":"linux"}"#),
            ("Linux/x86_64", r#"{"architecture":"amd64","os":"linux"}"#),
            ("linux/aarch64", r#"{"architecture":"arm64","os":"linux"}"#),
            (
                "linux/arm64/8",
                r#"{"architecture":"arm64","os":"linux","variant":"v8"}"#,
            ),
            (
                "linux/arm/v6",
                r#"{"architecture":"arm","os":"linux","variant":"v6"}"#,
            ),
        ] {
            assert_eq!(platform(text).as_deref(), Ok(expected), "{text}");
        }
        for bad in ["", "linux/", "a/b/c/d", "a b"] {
            assert!(platform(bad).is_err(), "{bad}");
        }
    }
}
