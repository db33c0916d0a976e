//! Which hosts stand for a registry, and whom to trust there: mirrors and
//! insecure registries from the daemon's options, containerd's `hosts.toml`,
//! the certificates in Docker's `certs.d`.
//!
//! Reads files, opens no connection.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dhow_oci::DEFAULT_REGISTRY;
use http::{HeaderMap, HeaderName, HeaderValue};
use indexmap::IndexMap;
use serde::Deserialize;
use url::Url;

use crate::types::RegistryOptions;
use crate::{Error, Result};

/// Docker Hub's registry is not where its name says.
const DOCKER_HUB: &str = "registry-1.docker.io";
/// The folder for registries without a folder of their own.
const DEFAULT_FOLDER: &str = "_default";

/// A host that stands for a registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    /// Address of its API; ends with `/`.
    pub(crate) base: Url,
    /// What it may be asked.
    pub(crate) may: May,
    /// What every request to it carries.
    pub(crate) header: HeaderMap,
    /// Whom to believe that it is the host.
    pub(crate) trust: Trust,
    /// Whether it may speak plain HTTP although its address says HTTPS.
    pub(crate) perhaps_plain: bool,
    /// Whether it is the registry itself: only there our credentials go.
    pub(crate) is_home: bool,
}

/// What a host may be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct May {
    /// For content by digest.
    pub(crate) pull: bool,
    /// What a tag means.
    pub(crate) resolve: bool,
    /// To take content.
    pub(crate) push: bool,
}

impl May {
    const ANYTHING: May = May {
        pull: true,
        resolve: true,
        push: true,
    };
    const GIVE: May = May {
        push: false,
        ..May::ANYTHING
    };
}

/// Certificates for a host, in PEM.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trust {
    /// Authorities beyond the system's.
    pub(crate) authorities: Vec<Vec<u8>>,
    /// Our certificate there, and its key.
    pub(crate) identity: Option<(Vec<u8>, Vec<u8>)>,
    /// Any certificate will do.
    pub(crate) skip_verify: bool,
}

/// The hosts to be asked for a registry, in order; the last one is the
/// registry itself.
///
/// # Errors
/// [`Error::Invalid`] with the file's name, for configuration that makes no
/// sense.
pub(crate) fn of(registry: &str, options: &RegistryOptions) -> Result<Vec<Host>> {
    let mut hosts = Vec::new();
    if registry == DEFAULT_REGISTRY {
        for mirror in &options.mirrors {
            hosts.push(Host {
                may: May::GIVE,
                is_home: false,
                ..host(mirror, false, options)?
            });
        }
    }
    for root in &options.certificates {
        for name in folders(registry) {
            let folder = root.join(name);
            let file = folder.join("hosts.toml");
            if let Some(text) = read(&file)? {
                let text = String::from_utf8_lossy(&text);
                let found = parse(registry, &text, &folder)
                    .map_err(|why| Error::Invalid(format!("{}: {why}", file.display())))?;
                hosts.extend(found);
                return Ok(hosts);
            }
            if folder.is_dir() {
                let mut home = home(registry, options)?;
                let beside = beside(&folder)?;
                home.trust.authorities = beside.authorities;
                home.trust.identity = beside.identity;
                hosts.push(home);
                return Ok(hosts);
            }
        }
    }
    hosts.push(home(registry, options)?);
    Ok(hosts)
}

/// Whether this host (`host` or `host:port`) may do without TLS, or with a
/// certificate nobody vouches for.
pub(crate) fn is_insecure(authority: &str, options: &RegistryOptions) -> bool {
    let name = name_of(authority);
    let address = name.parse::<IpAddr>().ok();
    name == "localhost"
        || address.is_some_and(|address| address.is_loopback())
        || options.insecure.iter().any(|known| {
            known == authority
                || known == name
                || address.is_some_and(|address| covers(known, address))
        })
}

/// `host` of `host`, `host:port`, `[address]:port`.
fn name_of(authority: &str) -> &str {
    match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority
            .rsplit_once(':')
            .map_or(authority, |(name, _)| name),
    }
}

/// Whether a network (`10.0.0.0/8`) has an address.
fn covers(network: &str, address: IpAddr) -> bool {
    let Some((start, length)) = network.split_once('/') else {
        return false;
    };
    let (Ok(start), Ok(length)) = (start.parse::<IpAddr>(), length.parse::<u32>()) else {
        return false;
    };
    let (start, address, width): (u128, u128, u32) = match (start, address) {
        (IpAddr::V4(start), IpAddr::V4(address)) => (
            u128::from(start.to_bits()),
            u128::from(address.to_bits()),
            32,
        ),
        (IpAddr::V6(start), IpAddr::V6(address)) => (start.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let Some(rest) = width.checked_sub(length) else {
        return false;
    };
    // A shift by the whole width leaves nothing to differ.
    (start ^ address).checked_shr(rest).unwrap_or_default() == 0
}

/// Names a registry's folder may have, best first.
fn folders(registry: &str) -> Vec<String> {
    let mut names = vec![registry.to_owned()];
    if let Some((name, port)) = registry.rsplit_once(':') {
        // containerd's other spelling.
        names.insert(0, format!("{name}_{port}_"));
    }
    if registry == DEFAULT_REGISTRY {
        names.push(DOCKER_HUB.to_owned());
    }
    names.push(DEFAULT_FOLDER.to_owned());
    names
}

/// The registry itself, without any configuration.
fn home(registry: &str, options: &RegistryOptions) -> Result<Host> {
    let authority = authority_of(registry);
    let may_be_plain = registry != DEFAULT_REGISTRY;
    host(authority, may_be_plain, options)
}

fn authority_of(registry: &str) -> &str {
    match registry {
        DEFAULT_REGISTRY => DOCKER_HUB,
        registry => registry,
    }
}

/// A host by its address, which is HTTPS unless it says otherwise.
fn host(address: &str, may_be_plain: bool, options: &RegistryOptions) -> Result<Host> {
    let base = address_of(address, true).map_err(Error::Invalid)?;
    let authority = authority(&base);
    let is_insecure = is_insecure(&authority, options)
        || base
            .host_str()
            .is_some_and(|name| is_insecure(name, options));
    Ok(Host {
        perhaps_plain: may_be_plain && is_insecure,
        base,
        may: May::ANYTHING,
        header: HeaderMap::new(),
        trust: Trust {
            skip_verify: is_insecure,
            ..Trust::default()
        },
        is_home: true,
    })
}

/// Host and port of an address, the port also where it goes without saying.
pub(crate) fn authority(url: &Url) -> String {
    let name = url.host_str().unwrap_or_default();
    let port = url.port_or_known_default().unwrap_or_default();
    format!("{name}:{port}")
}

/// The address of a host's API.
fn address_of(text: &str, with_version: bool) -> std::result::Result<Url, String> {
    let full = match text.contains("://") {
        true => text.to_owned(),
        false => format!("https://{text}"),
    };
    let mut url = Url::parse(&full).map_err(|error| format!("host {text:?}: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("host {text:?} is no http or https address"));
    }
    url.set_query(None);
    url.set_fragment(None);
    let mut path = url.path().trim_end_matches('/').to_owned();
    if with_version && !path.ends_with("/v2") {
        path.push_str("/v2");
    }
    url.set_path(&format!("{path}/"));
    Ok(url)
}

/// `hosts.toml`, as containerd documents it.
#[derive(Debug, Default, Deserialize)]
struct File {
    server: Option<String>,
    #[serde(default)]
    host: IndexMap<String, Table>,
    #[serde(flatten)]
    own: Table,
}

/// What is said about one host.
#[derive(Debug, Default, Deserialize)]
struct Table {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<OneOrMany<String>>>,
    #[serde(default)]
    skip_verify: bool,
    #[serde(default)]
    override_path: bool,
    #[serde(default)]
    header: IndexMap<String, OneOrMany<String>>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// Reads `hosts.toml`; the files it names lie relative to `folder`.
fn parse(registry: &str, text: &str, folder: &Path) -> std::result::Result<Vec<Host>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string().trim().to_owned())?;
    let home = authority_of(registry);
    let mut hosts = Vec::new();
    for (address, table) in file.host {
        hosts.push(table.host(&address, folder)?);
    }
    let server = file.server.unwrap_or_default();
    let server = if server.is_empty() { home } else { &server };
    hosts.push(file.own.host(server, folder)?);
    let home = address_of(home, true)?;
    let n_before = hosts.len() - 1;
    for (n, host) in hosts.iter_mut().enumerate() {
        host.is_home = n == n_before || authority(&host.base) == authority(&home);
    }
    Ok(hosts)
}

impl Table {
    fn host(self, address: &str, folder: &Path) -> std::result::Result<Host, String> {
        let wanted = self.capabilities.unwrap_or_default();
        let mut may = May {
            pull: false,
            resolve: false,
            push: false,
        };
        for capability in &wanted {
            match capability.to_ascii_lowercase().as_str() {
                "pull" => may.pull = true,
                "resolve" => may.resolve = true,
                "push" => may.push = true,
                other => {
                    return Err(format!(
                        "unknown capability {other:?}: it is pull, resolve or push"
                    ));
                }
            }
        }
        if wanted.is_empty() {
            may = May::ANYTHING;
        }
        let mut header = HeaderMap::new();
        for (name, values) in self.header {
            let key = HeaderName::try_from(&name).map_err(|_| format!("header {name:?}"))?;
            for value in values.into_vec() {
                let value =
                    HeaderValue::from_str(&value).map_err(|_| format!("value of header {name}"))?;
                header.append(key.clone(), value);
            }
        }
        let file = |path: &str| {
            let path = folder.join(path);
            std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let mut trust = Trust {
            skip_verify: self.skip_verify,
            ..Trust::default()
        };
        for path in self.ca.map(OneOrMany::into_vec).unwrap_or_default() {
            trust.authorities.push(file(&path)?);
        }
        // Several are for servers that ask for different ones; the first is
        // the one we have.
        let mut clients = self.client.map(OneOrMany::into_vec).unwrap_or_default();
        if !clients.is_empty() {
            trust.identity = Some(match clients.remove(0).into_vec().as_slice() {
                [both] => (file(both)?, file(both)?),
                [certificate, key] if key.is_empty() => (file(certificate)?, file(certificate)?),
                [certificate, key] => (file(certificate)?, file(key)?),
                _ => return Err("client is a file, or a certificate and its key".to_owned()),
            });
        }
        Ok(Host {
            base: address_of(address, !self.override_path)?,
            may,
            header,
            trust,
            perhaps_plain: false,
            is_home: false,
        })
    }
}

/// Docker's way: every `*.crt` is an authority, `NAME.cert` and `NAME.key` are
/// ours.
fn beside(folder: &Path) -> Result<Trust> {
    let failed = |error| Error::Io {
        action: "list",
        path: folder.to_owned(),
        source: error,
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        paths.push(entry.map_err(failed)?.path());
    }
    paths.sort();
    let mut trust = Trust::default();
    for path in paths {
        match path.extension().and_then(|extension| extension.to_str()) {
            Some("crt") => trust.authorities.extend(read(&path)?),
            Some("cert") => {
                let key = path.with_extension("key");
                let missing = || {
                    Error::Invalid(format!(
                        "missing key {} for client certificate {}",
                        key.display(),
                        path.display()
                    ))
                };
                let key_bytes = read(&key)?.ok_or_else(missing)?;
                trust.identity = read(&path)?.map(|certificate| (certificate, key_bytes));
            }
            _ => {}
        }
    }
    Ok(trust)
}

fn read(path: &Path) -> Result<Option<Vec<u8>>> {
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error)
            if matches!(
                error.kind(),
                std::io::ErrorKind::NotFound | std::io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(crate::error::at("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shown(hosts: &[Host]) -> Vec<String> {
        hosts
            .iter()
            .map(|host| {
                let May {
                    pull,
                    resolve,
                    push,
                } = host.may;
                let may = [(pull, "pull"), (resolve, "resolve"), (push, "push")];
                let may: Vec<&str> = may.iter().filter(|may| may.0).map(|may| may.1).collect();
                let home = if host.is_home { " home" } else { "" };
                format!("{} {}{home}", host.base, may.join(","))
            })
            .collect()
    }

    #[test]
    fn hosts_are_read_in_order() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("ca.pem"), "an authority").unwrap();
        std::fs::write(folder.path().join("me.pem"), "me").unwrap();
        std::fs::write(folder.path().join("me.key"), "my key").unwrap();
        let text = r#"
            server = "https://registry-1.docker.io"
            [host."https://zebra.example/"]
              capabilities = ["pull", "Resolve"]
              ca = "ca.pem"
              client = [["me.pem", "me.key"]]
              dial_timeout = "1s"
              [host."https://zebra.example/".header]
                x-one = "1"
                x-many = ["2", "3"]
            [host."http://aardvark.example:5000/some/v2"]
              capabilities = ["push"]
              skip_verify = true
            [host."bare.example/api"]
              override_path = true
        "#;
        let hosts = parse("docker.io", text, folder.path()).unwrap();
        assert_eq!(
            shown(&hosts),
            [
                "https://zebra.example/v2/ pull,resolve",
                "http://aardvark.example:5000/some/v2/ push",
                "https://bare.example/api/ pull,resolve,push",
                "https://registry-1.docker.io/v2/ pull,resolve,push home",
            ]
        );
        assert_eq!(hosts[0].trust.authorities, [b"an authority"]);
        let identity = (b"me".to_vec(), b"my key".to_vec());
        assert_eq!(hosts[0].trust.identity, Some(identity));
        let many: Vec<_> = hosts[0].header.get_all("x-many").iter().collect();
        assert_eq!(many, ["2", "3"]);
        assert!(hosts[1].trust.skip_verify && !hosts[0].trust.skip_verify);
    }

    #[test]
    fn what_is_not_said_goes_without_saying() {
        let folder = Path::new("/nonexistent");
        let hosts = parse("a.example:5000", "", folder).unwrap();
        assert_eq!(
            shown(&hosts),
            ["https://a.example:5000/v2/ pull,resolve,push home"]
        );
        let hosts = parse("docker.io", "capabilities = ['pull']", folder).unwrap();
        assert_eq!(
            shown(&hosts),
            ["https://registry-1.docker.io/v2/ pull home"]
        );
        for (text, why) in [
            ("server = 1", "expected a string"),
            ("capabilities = ['sing']", "unknown capability \"sing\""),
            ("ca = 'missing.pem'", "/nonexistent/missing.pem"),
            ("[host.'ftp://x']", "is no http or https address"),
            ("header = {'a b' = 'c'}", "header \"a b\""),
        ] {
            let error = parse("x", text, folder).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn folders_are_found() {
        let root = tempfile::tempdir().unwrap();
        let options = RegistryOptions {
            certificates: vec!["/nonexistent".into(), root.path().to_owned()],
            mirrors: vec!["https://mirror.example".into()],
            insecure: vec!["10.0.0.0/8".into()],
            ..RegistryOptions::default()
        };
        let of = |registry: &str| of(registry, &options);
        let folder = root.path().join("a.example:5000");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("x.crt"), "x").unwrap();
        std::fs::write(folder.join("me.cert"), "me").unwrap();
        let error = of("a.example:5000").unwrap_err().to_string();
        assert!(error.contains("missing key"), "{error}");
        std::fs::write(folder.join("me.key"), "key").unwrap();
        let host = of("a.example:5000").unwrap().remove(0);
        assert_eq!(host.trust.authorities, [b"x"]);
        assert!(host.trust.identity.is_some() && !host.trust.skip_verify);

        let host = of("10.1.2.3:5000").unwrap().remove(0);
        assert!(host.trust.skip_verify && host.perhaps_plain);
        assert!(!of("11.1.2.3:5000").unwrap()[0].perhaps_plain);
        let hub = [
            "https://mirror.example/v2/ pull,resolve",
            "https://registry-1.docker.io/v2/ pull,resolve,push home",
        ];
        assert_eq!(shown(&of("docker.io").unwrap()), hub);

        let folder = root.path().join("_default");
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("hosts.toml"), "[host.'https://all.example']").unwrap();
        assert_eq!(
            shown(&of("any.example").unwrap()),
            [
                "https://all.example/v2/ pull,resolve,push",
                "https://any.example/v2/ pull,resolve,push home",
            ]
        );
        std::fs::write(folder.join("hosts.toml"), "nonsense").unwrap();
        let error = of("any.example").unwrap_err().to_string();
        assert!(error.contains("_default/hosts.toml"), "{error}");
    }

    #[test]
    fn networks_cover_addresses() {
        for (network, address, is_in) in [
            ("10.0.0.0/8", "10.255.0.1", true),
            ("10.0.0.0/8", "11.0.0.1", false),
            ("0.0.0.0/0", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.4", true),
            ("1.2.3.4/32", "1.2.3.5", false),
            ("1.2.3.4/33", "1.2.3.4", false),
            ("fd00::/8", "fd12::1", true),
            ("::/0", "fd12::1", true),
            ("::/0", "1.2.3.4", false),
            ("10.0.0.0", "10.0.0.0", false),
        ] {
            assert_eq!(
                covers(network, address.parse().unwrap()),
                is_in,
                "{network} {address}"
            );
        }
    }

    proptest! {
        #[test]
        fn any_file_is_safe(registry in "[a-z.:0-9]{1,20}", text: String) {
            let _ = parse(&registry, &text, Path::new("/nonexistent"));
        }

        #[test]
        fn any_address_ends_with_a_slash(address in "[a-z]{1,8}(:[0-9]{1,4})?(/[a-z0-9]{0,4}){0,3}") {
            for with_version in [true, false] {
                if let Ok(url) = address_of(&address, with_version) {
                    prop_assert!(url.path().ends_with('/'));
                    prop_assert!(!with_version || url.path().ends_with("/v2/"));
                }
            }
        }
    }
}
