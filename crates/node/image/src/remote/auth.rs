//! Proving who we are: challenges and the tokens they ask for
//! (RFC 7235; Docker registry token authentication).

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;
use serde::Deserialize;

use crate::types::RegistryAuth;

/// What a registry that says no more than 401 means.
pub(crate) const UNAUTHORIZED: &str = "unauthorized: authentication required";

/// What a registry asks for with 401.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Challenge {
    /// User name and password.
    Basic,
    /// A token from somewhere else.
    Bearer {
        /// Where to get it.
        realm: String,
        /// For whom.
        service: String,
        /// For what.
        scope: String,
        /// What was wrong with the token that came, if one came (RFC 6750, 3.1).
        error: String,
    },
}

impl Challenge {
    /// Reads a `WWW-Authenticate` header; none if it asks for what we do not
    /// know.
    pub(crate) fn parse(header: &str) -> Option<Challenge> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Challenge::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let (mut realm, mut service, mut scope) = (None, String::new(), String::new());
        let mut error = String::new();
        for (key, value) in parameters(rest) {
            match key.to_ascii_lowercase().as_str() {
                "realm" => realm = Some(value),
                "service" => service = value,
                "scope" => scope = value,
                "error" => error = value,
                _ => {}
            }
        }
        Some(Challenge::Bearer {
            realm: realm?,
            service,
            scope,
            error,
        })
    }

    /// The challenge among an answer's headers that we can meet.
    pub(crate) fn among(headers: &HeaderMap) -> Option<Challenge> {
        headers
            .get_all(WWW_AUTHENTICATE)
            .iter()
            .find_map(|value| Challenge::parse(value.to_str().ok()?))
    }

    /// What it says of the token that came, as registries say such things.
    pub(crate) fn reason(&self) -> Option<&'static str> {
        match self {
            Challenge::Bearer { error, .. } if error == "insufficient_scope" => {
                Some("denied: requested access to the resource is denied")
            }
            Challenge::Bearer { error, .. } if error == "invalid_token" => Some(UNAUTHORIZED),
            _ => None,
        }
    }
}

/// `key="value", key=value, …`
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    while let Some((key, after)) = rest.split_once('=') {
        let mut value = String::new();
        let mut characters = after.char_indices();
        let end = match after.strip_prefix('"') {
            Some(_) => {
                characters.next();
                let mut end = after.len();
                let mut escaped = false;
                for (at, character) in characters {
                    if escaped {
                        value.push(character);
                        escaped = false;
                    } else if character == '\\' {
                        escaped = true;
                    } else if character == '"' {
                        end = at + 1;
                        break;
                    } else {
                        value.push(character);
                    }
                }
                end
            }
            None => {
                let end = after.find(',').unwrap_or(after.len());
                value.push_str(after[..end].trim());
                end
            }
        };
        found.push((key.trim().to_owned(), value));
        rest = after[end..].trim_start_matches([',', ' ', '\t']);
    }
    found
}

/// What a token server answers.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TokenAnswer {
    token: String,
    access_token: String,
    pub(crate) refresh_token: String,
}

impl TokenAnswer {
    pub(crate) fn token(self) -> Option<String> {
        [self.token, self.access_token]
            .into_iter()
            .find(|token| !token.is_empty())
    }
}

/// User name and password, if there are any.
pub(crate) fn credentials(auth: &RegistryAuth) -> Option<(String, String)> {
    if !auth.username.is_empty() {
        return Some((auth.username.clone(), auth.password.clone()));
    }
    let decoded = STANDARD.decode(auth.auth.trim()).ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    // Docker pads passwords with zero bytes.
    (!user.is_empty()).then(|| (user.to_owned(), password.trim_end_matches('\0').to_owned()))
}

/// The header that carries them.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="https://auth.example/token",service="reg, istry",scope="repository:a/b:pull,push""#;
        assert_eq!(
            Challenge::parse(header),
            Some(Challenge::Bearer {
                realm: "https://auth.example/token".into(),
                service: "reg, istry".into(),
                scope: "repository:a/b:pull,push".into(),
                error: String::new(),
            })
        );
        let refused = format!(r#"{header},error="insufficient_scope""#);
        let refused = Challenge::parse(&refused).expect("it is one");
        assert!(
            refused
                .reason()
                .is_some_and(|why| why.starts_with("denied: "))
        );
        assert_eq!(
            Challenge::parse("Basic realm=\"x\""),
            Some(Challenge::Basic)
        );
        assert_eq!(Challenge::parse("Bearer service=x"), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn credentials_come_in_two_forms() {
        let plain = RegistryAuth {
            username: "u".into(),
            password: "p".into(),
            ..RegistryAuth::default()
        };
        let encoded = RegistryAuth {
            auth: "dTpw".into(),
            ..RegistryAuth::default()
        };
        assert_eq!(credentials(&plain), Some(("u".into(), "p".into())));
        assert_eq!(credentials(&encoded), Some(("u".into(), "p".into())));
        assert_eq!(credentials(&RegistryAuth::default()), None);
        assert!(!format!("{plain:?}").contains('p') || !format!("{plain:?}").contains("\"p\""));
    }

    proptest! {
        #[test]
        fn any_header_is_safe(header: String) {
            let _ = Challenge::parse(&header);
            let _ = Challenge::parse(&format!("Bearer {header}"));
        }
    }
}
