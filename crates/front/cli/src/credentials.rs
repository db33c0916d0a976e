//! Who we are to registries: Docker's `config.json` and its credential
//! helpers, so that who logged in with `docker` need not do so again.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use serde_json::{Value, json};

use crate::config::Config;
use crate::error::Error;

/// What Docker Hub is called among credentials.
pub(crate) const DOCKER_HUB: &str = "https://index.docker.io/v1/";
/// User name that says that the password is an identity token.
const TOKEN_USER: &str = "<token>";
/// What helpers say when they have nothing.
const NOT_FOUND: &str = "credentials not found";

/// A user's credentials.
#[derive(Debug)]
pub(crate) struct Credentials {
    config: Config,
}

impl Credentials {
    /// Those of a folder's `config.json`.
    ///
    /// # Errors
    /// If it is there but cannot be read.
    pub(crate) fn open(folder: &Path) -> Result<Credentials, Error> {
        Config::read(folder).map(|config| Credentials { config })
    }

    /// The header that says who we are to the registry of an image.
    ///
    /// # Errors
    /// If a helper fails.
    pub(crate) fn header_for(&self, image: &str) -> Result<(&'static str, String), Error> {
        let auth = self.get(registry_of(image))?.unwrap_or_else(|| json!({}));
        Ok(("x-registry-auth", URL_SAFE.encode(auth.to_string())))
    }

    /// Docker's `AuthConfig` for a registry; none if we are nobody there.
    fn get(&self, registry: &str) -> Result<Option<Value>, Error> {
        if let Some(helper) = self.helper(registry) {
            return helper.get(registry);
        }
        let Some(entry) = self.entry(registry) else {
            return Ok(None);
        };
        let mut auth = json!({ "serveraddress": registry });
        let text = |field: &str| entry[field].as_str().filter(|text| !text.is_empty());
        let decoded = text("auth")
            .and_then(|encoded| STANDARD.decode(encoded).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok());
        if let Some((user, password)) = decoded.as_deref().and_then(|text| text.split_once(':')) {
            auth["username"] = json!(user);
            // Docker pads passwords with zero bytes.
            auth["password"] = json!(password.trim_end_matches('\0'));
        }
        for field in ["identitytoken", "registrytoken"] {
            if let Some(token) = text(field) {
                auth[field] = json!(token);
            }
        }
        Ok(Some(auth))
    }

    /// The entry of a registry, also if it was written as an address.
    fn entry(&self, registry: &str) -> Option<&Value> {
        let auths = self.config.values["auths"].as_object()?;
        auths.get(registry).or_else(|| {
            let same = |key: &str| host_of(key) == host_of(registry);
            auths
                .iter()
                .find(|(key, _)| same(key))
                .map(|(_, entry)| entry)
        })
    }

    /// Remembers a user and password, or an identity token. Returns whether
    /// they lie in `config.json`, where whoever reads it reads them.
    ///
    /// # Errors
    /// If the helper fails, or the file cannot be written.
    pub(crate) fn store(
        &mut self,
        registry: &str,
        user: &str,
        password: &str,
        token: &str,
    ) -> Result<bool, Error> {
        if let Some(helper) = self.helper(registry) {
            let (user, secret) = match token {
                "" => (user, password),
                token => (TOKEN_USER, token),
            };
            helper.store(registry, user, secret)?;
            self.set(registry, json!({}))?;
            return Ok(false);
        }
        let entry = match token {
            "" => json!({ "auth": STANDARD.encode(format!("{user}:{password}")) }),
            token => json!({
                "auth": STANDARD.encode(format!("{user}:")),
                "identitytoken": token,
            }),
        };
        self.set(registry, entry)?;
        Ok(true)
    }

    /// Forgets a registry. Returns whether it was known.
    ///
    /// # Errors
    /// As for [`Credentials::store`].
    pub(crate) fn erase(&mut self, registry: &str) -> Result<bool, Error> {
        let mut was_known = false;
        if let Some(helper) = self.helper(registry) {
            was_known = helper.get(registry)?.is_some();
            helper.erase(registry)?;
        }
        if let Some(auths) = self.config.values["auths"].as_object_mut()
            && auths.remove(registry).is_some()
        {
            was_known = true;
            self.config.write()?;
        }
        Ok(was_known)
    }

    fn set(&mut self, registry: &str, entry: Value) -> Result<(), Error> {
        if !self.config.values["auths"].is_object() {
            self.config.values["auths"] = json!({});
        }
        self.config.values["auths"][registry] = entry;
        self.config.write()
    }

    fn helper(&self, registry: &str) -> Option<Helper> {
        let own = self.config.values["credHelpers"]
            .as_object()
            .and_then(|helpers| {
                helpers
                    .iter()
                    .find(|(key, _)| host_of(key) == host_of(registry))
                    .and_then(|(_, name)| name.as_str())
            });
        let name = own.or_else(|| self.config.values["credsStore"].as_str())?;
        (!name.is_empty()).then(|| Helper(format!("docker-credential-{name}")))
    }
}

/// A program that keeps secrets.
struct Helper(String);

impl Helper {
    fn get(&self, registry: &str) -> Result<Option<Value>, Error> {
        let Some(answer) = self.run("get", registry.as_bytes())? else {
            return Ok(None);
        };
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| Error::Usage(format!("{}: {error}", self.0)))?;
        let text = |field: &str| answer[field].as_str().unwrap_or_default();
        let mut auth = json!({ "serveraddress": registry });
        match text("Username") {
            TOKEN_USER => auth["identitytoken"] = json!(text("Secret")),
            user => {
                auth["username"] = json!(user);
                auth["password"] = json!(text("Secret"));
            }
        }
        Ok(Some(auth))
    }

    fn store(&self, registry: &str, user: &str, secret: &str) -> Result<(), Error> {
        let entry = json!({ "ServerURL": registry, "Username": user, "Secret": secret });
        self.run("store", entry.to_string().as_bytes()).map(drop)
    }

    fn erase(&self, registry: &str) -> Result<(), Error> {
        self.run("erase", registry.as_bytes()).map(drop)
    }

    /// None if there are no credentials of that name.
    fn run(&self, verb: &str, input: &[u8]) -> Result<Option<Vec<u8>>, Error> {
        let failed = |error| Error::File(self.0.clone(), error);
        let mut child = Command::new(&self.0)
            .arg(verb)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(|error| match error.kind() {
                std::io::ErrorKind::NotFound => Error::Usage(format!(
                    "{} is not installed, but config.json asks for it: install it, or remove it \
                     from credsStore and credHelpers",
                    self.0
                )),
                _ => failed(error),
            })?;
        let mut stdin = child.stdin.take().expect("it was asked for");
        // One that does not read says why with its exit code.
        let _ = stdin.write_all(input);
        drop(stdin);
        let output = child.wait_with_output().map_err(failed)?;
        if output.status.success() {
            return Ok(Some(output.stdout));
        }
        let why = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if why.contains(NOT_FOUND) {
            return Ok(None);
        }
        Err(Error::Usage(format!("{} {verb}: {why}", self.0)))
    }
}

/// The registry of an image, as credentials name it.
pub(crate) fn registry_of(image: &str) -> &str {
    match image.split_once('/') {
        Some(("docker.io" | "index.docker.io", _)) => DOCKER_HUB,
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => DOCKER_HUB,
    }
}

/// Host and port of a registry that may be written as an address.
fn host_of(registry: &str) -> &str {
    let text = registry
        .strip_prefix("https://")
        .or_else(|| registry.strip_prefix("http://"))
        .unwrap_or(registry);
    match text.split('/').next().unwrap_or_default() {
        "docker.io" => "index.docker.io",
        host => host,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn opened(folder: &Path, config: &Value) -> Credentials {
        fs::write(folder.join("config.json"), config.to_string()).unwrap();
        Credentials::open(folder).unwrap()
    }

    #[test]
    fn registries_have_names() {
        for (image, registry) in [
            ("busybox", DOCKER_HUB),
            ("team/app:1", DOCKER_HUB),
            ("docker.io/team/app", DOCKER_HUB),
            ("localhost/app", "localhost"),
            ("a.example/app", "a.example"),
            ("a:5000/team/app:1", "a:5000"),
        ] {
            assert_eq!(registry_of(image), registry, "{image}");
        }
    }

    #[test]
    fn entries_are_found_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let config = json!({
            "auths": {
                "https://a.example/v1/": { "auth": STANDARD.encode("me:pass:word") },
                "b.example": { "identitytoken": "token" },
            },
            "proxies": { "kept": true },
        });
        let mut credentials = opened(folder.path(), &config);
        let auth = credentials.get("a.example").unwrap().unwrap();
        assert_eq!(
            (&auth["username"], &auth["password"]),
            (&json!("me"), &json!("pass:word"))
        );
        let auth = credentials.get("b.example").unwrap().unwrap();
        assert_eq!(auth["identitytoken"], "token");
        assert!(credentials.get("c.example").unwrap().is_none());

        assert!(credentials.store("c.example", "you", "secret", "").unwrap());
        let mut again = Credentials::open(folder.path()).unwrap();
        assert_eq!(
            again.get("c.example").unwrap().unwrap()["password"],
            "secret"
        );
        assert_eq!(again.config.values["proxies"]["kept"], true);
        assert!(again.erase("c.example").unwrap());
        assert!(!again.erase("c.example").unwrap());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_file_is_its_owners() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("new");
        let path = new.join("config.json");
        let mut credentials = Credentials::open(&new).unwrap();
        credentials.store("a.example", "me", "secret", "").unwrap();
        assert_eq!(
            fs::metadata(path).unwrap().permissions().mode() & 0o777,
            0o600
        );
    }

    #[test]
    fn helpers_keep_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("docker-credential-tests");
        // Keeps what it is given in a file beside itself.
        let script = "#!/bin/sh\nkept=\"$0.kept\"\ncase $1 in\n\
             store) cat > \"$kept\";;\n\
             get) cat > /dev/null; [ -e \"$kept\" ] && cat \"$kept\" || { echo credentials not found in native keychain; exit 1; };;\n\
             erase) rm \"$kept\";;\nesac\n";
        fs::write(&program, script).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        // The name may be a path here: it only has to be found.
        let name = program.display().to_string();
        let helper = Helper(name);
        assert!(helper.get("a.example").unwrap().is_none());
        helper.store("a.example", "me", "secret").unwrap();
        let auth = helper.get("a.example").unwrap().unwrap();
        assert_eq!(
            (&auth["username"], &auth["password"]),
            (&json!("me"), &json!("secret"))
        );
        helper.store("a.example", TOKEN_USER, "token").unwrap();
        assert_eq!(
            helper.get("a.example").unwrap().unwrap()["identitytoken"],
            "token"
        );
        helper.erase("a.example").unwrap();
        assert!(helper.get("a.example").unwrap().is_none());

        let credentials = opened(
            folder.path(),
            &json!({ "credsStore": "nowhere", "credHelpers": { "a.example": "tests" } }),
        );
        let error = credentials.get("b.example").unwrap_err().to_string();
        assert!(
            error.contains("docker-credential-nowhere is not installed"),
            "{error}"
        );
        assert_eq!(
            credentials.helper("a.example").unwrap().0,
            "docker-credential-tests"
        );
    }
}
