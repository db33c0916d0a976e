//! A token server beside a registry: it knows one account and says who may do what
//! there (the specification of Docker's registry tokens, and OAuth's second form).

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::executables::require;
use crate::host::Host;

const SERVICE: &str = "tests";
const ISSUER: &str = "the tests";
/// Digits and letters of base64 for addresses.
const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// What may be done with a repository: its name, whether somebody is known, and what
/// is allowed.
pub type Policy = fn(&str, bool) -> &'static [&'static str];

/// A server that gives tokens until the process ends.
#[derive(Debug)]
pub struct TokenServer {
    shared: Arc<Shared>,
    address: String,
}

#[derive(Debug)]
struct Shared {
    account: (&'static str, &'static str),
    policy: Policy,
    folder: PathBuf,
    /// The identity token that is good.
    identity: Mutex<String>,
    asked: Mutex<Vec<String>>,
}

impl TokenServer {
    /// Starts one at an address of a host (`127.0.0.1:5001`) for one account, a name
    /// and a password.
    ///
    /// # Panics
    ///
    /// When it does not listen, and without openssl.
    pub fn start(
        host: &Host,
        address: &str,
        account: (&'static str, &'static str),
        policy: Policy,
    ) -> Self {
        let folder = host.folder().join("tokens");
        std::fs::create_dir_all(&folder).expect("a folder");
        let openssl = require("openssl", "the Debian package openssl");
        let made = Command::new(openssl)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days=2"])
            .args(["-subj", "/CN=tokens", "-keyout", "key.pem"])
            .args(["-out", "certificate.pem"])
            .current_dir(&folder)
            .output()
            .expect("openssl starts");
        assert!(made.status.success(), "{made:?}");
        let listener = host.inside(|| TcpListener::bind(address));
        let listener = listener.expect("the port is free");
        let shared = Arc::new(Shared {
            account,
            policy,
            folder,
            identity: Mutex::new("an-identity".into()),
            asked: Mutex::default(),
        });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let serving = Arc::clone(&serving);
                // A client that goes away is none of ours.
                std::thread::spawn(move || serving.serve(stream));
            }
        });
        Self {
            shared,
            address: address.into(),
        }
    }

    /// What a registry that asks for these tokens has in its configuration.
    #[must_use]
    pub fn configuration(&self) -> String {
        let certificate = self.shared.folder.join("certificate.pem");
        format!(
            "auth:\n  token: {{realm: \"http://{}/token\", service: \"{SERVICE}\", issuer: \"{ISSUER}\", rootcertbundle: \"{}\"}}\n",
            self.address,
            certificate.display()
        )
    }

    /// What it was asked for since the last time, with what was granted.
    ///
    /// # Panics
    ///
    /// Never; nobody panics with the list.
    pub fn asked(&self) -> Vec<String> {
        std::mem::take(&mut self.shared.asked.lock().expect("nobody panics with it"))
    }

    /// Takes the identity token back that was given.
    ///
    /// # Panics
    ///
    /// Never; nobody panics with the token.
    pub fn revoke(&self) {
        let mut identity = self.shared.identity.lock().expect("nobody panics with it");
        *identity = "another-identity".into();
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> Option<()> {
        let mut reader = BufReader::new(stream.try_clone().ok()?);
        loop {
            let (mut line, mut credentials, mut length) = (String::new(), None, 0);
            reader.read_line(&mut line).ok().filter(|n| *n > 0)?;
            loop {
                let mut header = String::new();
                reader.read_line(&mut header).ok().filter(|n| *n > 0)?;
                let Some((name, value)) = header.trim().split_once(": ") else {
                    break;
                };
                match name.to_ascii_lowercase().as_str() {
                    "authorization" => {
                        credentials = value.strip_prefix("Basic ").map(str::to_owned);
                    }
                    "content-length" => length = value.parse().ok()?,
                    _ => {}
                }
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).ok()?;
            let (method, target) = line.split_once(' ')?;
            let target = target.split(' ').next()?;
            let query = target.split_once('?').map_or("", |(_, query)| query);
            let form = String::from_utf8(body).ok()?;
            let pairs = pairs(if method == "POST" { &form } else { query });
            let (status, answer) = self.answer(&pairs, credentials.as_deref());
            let text = answer.to_string();
            let head = format!(
                "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                text.len()
            );
            (&stream).write_all((head + &text).as_bytes()).ok()?;
        }
    }

    fn answer(
        &self,
        pairs: &[(String, String)],
        credentials: Option<&str>,
    ) -> (&'static str, Value) {
        let get = |name: &str| {
            let found = pairs.iter().find(|(known, _)| known == name);
            found.map_or("", |(_, value)| value.as_str())
        };
        let (name, password) = self.account;
        let identity = self.identity.lock().expect("nobody panics with it").clone();
        let proof = match (get("grant_type"), credentials) {
            ("refresh_token", _) => Some(get("refresh_token") == identity),
            ("password", _) => Some((get("username"), get("password")) == (name, password)),
            (_, Some(given)) => {
                Some(given == encoded(format!("{name}:{password}").as_bytes(), true))
            }
            (_, None) => None,
        };
        // Several are one word in one form, and several words in the other.
        let scopes = pairs.iter().filter(|(name, _)| name == "scope");
        let scopes =
            scopes.flat_map(|(_, value)| value.split(' ').filter(|scope| !scope.is_empty()));
        let how = match (get("grant_type"), proof) {
            (_, None) => "nobody",
            (_, Some(false)) => "stranger",
            ("refresh_token", _) => "identity",
            _ => "password",
        };
        let mut access = Vec::new();
        let mut asked = self.asked.lock().expect("nobody panics with it");
        asked.push(format!(
            "{how} {}",
            scopes.clone().collect::<Vec<_>>().join(" ")
        ));
        drop(asked);
        if proof == Some(false) {
            let errors = json!([{ "code": "UNAUTHORIZED", "message": "no such account" }]);
            return ("401 Unauthorized", json!({ "errors": errors }));
        }
        for scope in scopes {
            let parts: Vec<&str> = scope.rsplitn(2, ':').collect();
            let [wanted, subject] = parts[..] else {
                continue;
            };
            let (kind, repository) = subject.split_once(':').unwrap_or((subject, ""));
            let allowed = (self.policy)(repository, proof.is_some());
            let actions: Vec<&str> = wanted
                .split(',')
                .filter(|action| allowed.contains(action))
                .collect();
            access.push(json!({ "type": kind, "name": repository, "actions": actions }));
        }
        let mut answer = json!({ "token": self.token(&access), "expires_in": 300 });
        answer["access_token"] = answer["token"].clone();
        if get("offline_token") == "true" || get("access_type") == "offline" {
            answer["refresh_token"] = json!(identity);
        }
        ("200 OK", answer)
    }

    /// A signed token that grants access.
    fn token(&self, access: &[Value]) -> String {
        let pem = std::fs::read_to_string(self.folder.join("certificate.pem")).expect("made");
        let certificate: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.expect("it is later").as_secs();
        let header = json!({ "typ": "JWT", "alg": "RS256", "x5c": [certificate] });
        let claims = json!({
            "iss": ISSUER, "aud": SERVICE, "sub": self.account.0, "jti": now.to_string(),
            "iat": now, "nbf": now - 60, "exp": now + 300, "access": access,
        });
        let part = |value: &Value| encoded(value.to_string().as_bytes(), false);
        let signed = format!("{}.{}", part(&header), part(&claims));
        let mut openssl = Command::new(require("openssl", "the Debian package openssl"))
            .args(["dgst", "-sha256", "-sign", "key.pem", "-binary"])
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("openssl starts");
        let mut input = openssl.stdin.take().expect("it was piped");
        input.write_all(signed.as_bytes()).expect("it reads");
        drop(input);
        let output = openssl.wait_with_output().expect("it ends");
        format!("{signed}.{}", encoded(&output.stdout, false))
    }
}

/// Names and values of a query or form.
fn pairs(text: &str) -> Vec<(String, String)> {
    let pairs = text.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(name, value)| (name.to_owned(), unescaped(value)))
        .collect()
}

fn unescaped(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        let digits = (byte == b'%').then(|| [rest.next(), rest.next()]);
        let digit = |one: Option<u8>| one.and_then(|one| char::from(one).to_digit(16));
        bytes.push(match digits {
            Some([high, low]) => {
                let byte = digit(high).unwrap_or(0) * 16 + digit(low).unwrap_or(0);
                u8::try_from(byte).expect("two digits")
            }
            None if byte == b'+' => b' ',
            None => byte,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Base64, for addresses without padding or for headers with it.
fn encoded(bytes: &[u8], is_padded: bool) -> String {
    let mut text = String::new();
    for group in bytes.chunks(3) {
        let mut number = 0_u32;
        for place in 0..3 {
            number = number << 8 | u32::from(group.get(place).copied().unwrap_or(0));
        }
        for place in 0..=group.len() {
            let digit = (number >> (18 - 6 * place)) & 63;
            text.push(char::from(DIGITS[digit as usize]));
        }
        if is_padded {
            text.extend(std::iter::repeat_n('=', 3 - group.len()));
        }
    }
    match is_padded {
        true => text.replace('-', "+").replace('_', "/"),
        false => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_and_forms() {
        for (bytes, text) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo?>", "Zm9vPz4="),
        ] {
            assert_eq!(encoded(bytes.as_bytes(), true), text);
        }
        assert_eq!(encoded(&[0xfb, 0xff], false), "-_8");
        let expected = [("a".to_owned(), "b c:d".to_owned())];
        assert_eq!(pairs("a=b+c%3Ad"), expected);
    }
}
