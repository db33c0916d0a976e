//! The files that tell a container its names: `hosts`, `hostname` and
//! `resolv.conf`. They lie in the container's folder and are mounted over those
//! of its image.
//!
//! They are written when a container starts, and follow when it is joined to a
//! network or taken off one while it runs; lines of the container's own stay.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use dhow_network::Endpoint;

use crate::endpoints::DEFAULT_NETWORK;
use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::links;
use crate::record::Record;
use crate::relabel::relabel;

/// Where names are answered on networks that have them.
const NAME_SERVER: &str = "127.0.0.11";
/// Name servers of last resort, when the host has only its own loopback ones.
const PUBLIC_NAME_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];
/// The host's own names.
const HOSTS: &str = "/etc/hosts";
/// What every container's `hosts` begins with.
const LOOPBACK_HOSTS: &str = "127.0.0.1\tlocalhost\n\
     ::1\tlocalhost ip6-localhost ip6-loopback\n\
     fe00::\tip6-localnet\n\
     ff00::\tip6-mcastprefix\n\
     ff02::1\tip6-allnodes\n\
     ff02::2\tip6-allrouters\n";

/// The host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// The host name that a container's processes see; empty leaves the host's.
pub(crate) fn hostname(engine: &Engine, record: &Record) -> Result<String> {
    if let Some(sandbox) = &record.sandbox {
        return Ok(if sandbox.host_network {
            host_name()
        } else {
            sandbox.hostname.clone()
        });
    }
    let host = &record.host;
    if host.uts_mode == "host" {
        return Ok(String::new());
    }
    if let Some(other) = host.network_mode.strip_prefix("container:") {
        return hostname(engine, &*engine.get(other)?);
    }
    if host.network_mode == "host" && record.config.hostname.is_empty() {
        return Ok(host_name());
    }
    Ok(record.hostname().to_owned())
}

/// The folder whose files a container gets: its own, or that of the container
/// whose network it shares.
pub(crate) fn folder(engine: &Engine, record: &Record) -> Result<PathBuf> {
    let mode = &record.host.network_mode;
    let of = match mode.strip_prefix("container:") {
        Some(other) if record.sandbox.is_none() => engine.get(other)?,
        _ => return Ok(of_container(engine, &record.id)),
    };
    folder(engine, &of)
}

fn of_container(engine: &Engine, id: &str) -> PathBuf {
    engine.config().data.join("containers").join(id)
}

/// Writes the three files into a folder.
pub(crate) fn write_to(engine: &Engine, folder: &Path, record: &Record) -> Result<()> {
    let (mut resolv_conf, mut hosts) = (String::new(), String::new());
    if let Some(sandbox) = &record.sandbox {
        resolv_conf.clone_from(&sandbox.resolv_conf);
        hosts.clone_from(&sandbox.hosts);
    }
    if resolv_conf.is_empty() {
        resolv_conf = compose_resolv_conf(engine, record);
    }
    if hosts.is_empty() {
        hosts = compose_hosts(engine, record)?;
    }
    let mut hostname = hostname(engine, record)?;
    if hostname.is_empty() {
        hostname = host_name();
    }
    hostname.push('\n');
    for (name, text) in [
        ("resolv.conf", resolv_conf),
        ("hosts", hosts),
        ("hostname", hostname),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(at("write", &path))?;
        if !record.mount_label.is_empty() {
            relabel(&path, &record.mount_label).map_err(at("label", path))?;
        }
    }
    Ok(())
}

/// Makes the files of a running container follow from `before` to `after`, when
/// one of its endpoints came or went.
pub(crate) fn follow(
    engine: &Engine,
    before: &Record,
    after: &Record,
    change: Change<'_>,
) -> Result<()> {
    let folder = of_container(engine, &after.id);
    let path = folder.join("hosts");
    let current = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    let text = match change {
        Change::Came(endpoint) => current + &own_lines(after, endpoint),
        Change::Went(endpoint) => {
            without(&current, |address, _| endpoint.addresses.contains(&address))
        }
        Change::Stay(endpoints) => without(&current, |address, names| {
            let is_own = names
                .split_whitespace()
                .any(|name| name == after.hostname());
            let stays = |one: &Endpoint| one.addresses.contains(&address);
            is_own && !address.is_loopback() && !endpoints.iter().any(stays)
        }),
    };
    rewrite(&path, &text)?;

    let path = folder.join("resolv.conf");
    let current = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    // Whoever wrote another keeps it.
    if current == compose_resolv_conf(engine, before) {
        rewrite(&path, &compose_resolv_conf(engine, after))?;
    }
    Ok(())
}

/// What happened to a running container.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Change<'a> {
    /// An endpoint was joined.
    Came(&'a Endpoint),
    /// An endpoint was taken off.
    Went(&'a Endpoint),
    /// Others were taken off than these.
    Stay(&'a [Endpoint]),
}

/// Puts other addresses behind a linked container's alias, in the file of a
/// running container.
pub(crate) fn replace_link(
    engine: &Engine,
    record: &Record,
    alias: &str,
    lines: &str,
) -> Result<()> {
    let path = of_container(engine, &record.id).join("hosts");
    let current = std::fs::read_to_string(&path).map_err(at("read", &path))?;
    let kept = without(&current, |_, names| {
        names.split_whitespace().next() == Some(alias)
    });
    rewrite(&path, &(kept + lines))
}

/// Changes a file in place: it is mounted, and another of that name is not. Whoever
/// is killed meanwhile leaves the old text or the new, and perhaps empty lines.
fn rewrite(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).open(path)?;
        let before = file.metadata()?.len() as usize;
        let mut bytes = text.as_bytes().to_vec();
        bytes.resize(before.max(bytes.len()), b'\n');
        file.write_all(&bytes)?;
        file.set_len(text.len() as u64)
    };
    write().map_err(at("write", path))
}

/// The lines of a `hosts` file but those that `is_it` says go.
fn without(text: &str, is_it: impl Fn(IpAddr, &str) -> bool) -> String {
    let goes = |line: &&str| {
        let Some((address, names)) = line.split_once(char::is_whitespace) else {
            return false;
        };
        address.parse().is_ok_and(|address| is_it(address, names))
    };
    let mut kept = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !goes(line)) {
        kept.push_str(line);
        kept.push('\n');
    }
    kept
}

fn compose_resolv_conf(engine: &Engine, record: &Record) -> String {
    let host = std::fs::read_to_string(&engine.config().resolv_conf).unwrap_or_default();
    let has_names = record
        .networks
        .keys()
        .filter_map(|name| engine.networks().get(name).ok())
        .any(|network| network.spec.names);
    resolv_conf(&host, record, has_names)
}

fn resolv_conf(host: &str, record: &Record, has_names: bool) -> String {
    let own = |keyword: &'static str| {
        host.lines()
            .filter_map(move |line| line.trim().strip_prefix(keyword))
            .map(|rest| rest.trim().to_owned())
            .filter(|rest| !rest.is_empty())
    };
    let mut text = String::new();
    let mut line = |keyword: &str, value: &str| {
        let _ = writeln!(text, "{keyword} {value}");
    };
    let servers: Vec<String> = if has_names {
        vec![NAME_SERVER.into()]
    } else if !record.host.dns.is_empty() {
        record.host.dns.clone()
    } else if record.host.network_mode == "host" {
        own("nameserver").collect()
    } else {
        // The host's own loopback is out of a container's reach.
        let reachable: Vec<String> = own("nameserver")
            .filter(|server| !server.starts_with("127.") && server != "::1")
            .collect();
        if reachable.is_empty() {
            PUBLIC_NAME_SERVERS.map(str::to_owned).into()
        } else {
            reachable
        }
    };
    servers.iter().for_each(|server| line("nameserver", server));
    if record.host.dns_search.is_empty() {
        own("search").for_each(|domains| line("search", &domains));
    } else if record.host.dns_search != ["."] {
        line("search", &record.host.dns_search.join(" "));
    }
    let mut options = record.host.dns_options.clone();
    if options.is_empty() {
        options = own("options").collect();
    }
    if has_names && !options.iter().any(|option| option.contains("ndots:")) {
        options.push("ndots:0".into());
    }
    if !options.is_empty() {
        line("options", &options.join(" "));
    }
    text
}

fn compose_hosts(engine: &Engine, record: &Record) -> Result<String> {
    let mut text = if record.host.network_mode == "host" {
        std::fs::read_to_string(HOSTS).unwrap_or_else(|_| LOOPBACK_HOSTS.into())
    } else {
        LOOPBACK_HOSTS.to_owned()
    };
    let endpoints = engine.networks().sandbox_endpoints(&record.id);
    for extra in &record.host.extra_hosts {
        let (name, address) = extra_host(extra)?;
        let addresses = match address {
            Some(address) => vec![address],
            None => host_gateway(engine, &endpoints),
        };
        for address in addresses {
            let _ = writeln!(text, "{address}\t{name}");
        }
    }
    text.push_str(&links::host_lines(engine, record)?);
    for endpoint in &endpoints {
        text.push_str(&own_lines(record, endpoint));
    }
    Ok(text)
}

/// `NAME:ADDRESS` or `NAME=ADDRESS`; no address is the host's own, as
/// `host-gateway` says it.
pub(crate) fn extra_host(text: &str) -> Result<(&str, Option<IpAddr>)> {
    let parts = text.split_once('=').or_else(|| text.split_once(':'));
    let Some((name, address)) = parts.filter(|(name, _)| !name.is_empty()) else {
        return Err(Error::Invalid(format!("bad format for add-host: {text:?}")));
    };
    if address == "host-gateway" {
        return Ok((name, None));
    }
    match address.trim_matches(['[', ']']).parse() {
        Ok(address) => Ok((name, Some(address))),
        Err(_) => Err(Error::Invalid(format!(
            "invalid IP address in add-host: {address:?}"
        ))),
    }
}

/// Addresses of the host that a container reaches it by: those on its own
/// bridge, else those on the default one.
fn host_gateway(engine: &Engine, endpoints: &[Endpoint]) -> Vec<IpAddr> {
    let own = endpoints
        .iter()
        .filter_map(|endpoint| engine.networks().get(&endpoint.network).ok())
        .find(dhow_network::Network::is_bridge);
    own.or_else(|| engine.networks().get(DEFAULT_NETWORK).ok())
        .map(|network| network.spec.pools.iter().map(|pool| pool.gateway).collect())
        .unwrap_or_default()
}

fn own_lines(record: &Record, endpoint: &Endpoint) -> String {
    let mut text = String::new();
    let host = record.hostname();
    for address in &endpoint.addresses {
        let _ = match record.config.domainname.as_str() {
            "" => writeln!(text, "{address}\t{host}"),
            domain => writeln!(text, "{address}\t{host}.{domain} {host}"),
        };
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_hosts_are_checked() {
        let address = |text: &str| Some(text.parse::<IpAddr>().expect("an address"));
        for (text, expected) in [
            ("a:10.0.0.1", ("a", address("10.0.0.1"))),
            ("a=fd00::1", ("a", address("fd00::1"))),
            ("a:fd00::1", ("a", address("fd00::1"))),
            ("a:[fd00::1]", ("a", address("fd00::1"))),
            ("a:host-gateway", ("a", None)),
        ] {
            assert_eq!(extra_host(text).expect(text), expected);
        }
        for bad in ["a", ":10.0.0.1", "a:b", "a:"] {
            assert!(extra_host(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn lines_of_others_stay() {
        let text = "127.0.0.1\tlocalhost\n10.0.0.2\tbox\n# 10.0.0.2 is ours\n10.0.0.20 other\n";
        let address: IpAddr = [10, 0, 0, 2].into();
        assert_eq!(
            without(text, |found, _| found == address),
            "127.0.0.1\tlocalhost\n# 10.0.0.2 is ours\n10.0.0.20 other\n"
        );
    }
}
