//! Files that a container gets from us, and files of its own that we read.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::path::Path;

use dhow_image::Rootfs;
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags};

use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::record::Record;

/// Longest file of accounts that is read, in bytes.
const MAX_ACCOUNTS: u64 = 4 << 20;
/// Where names are answered on networks that have them.
const NAME_SERVER: &str = "127.0.0.11";
/// Name servers of last resort, when the host has only its own loopback ones.
const PUBLIC_NAME_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Reads a small file of a root filesystem that is not mounted: from the
/// topmost layer that has it. Symbolic links are not followed; a file that is
/// not there is empty.
pub(crate) fn read_in_layers(rootfs: &Rootfs, path: &Path) -> String {
    std::iter::once(&rootfs.upper)
        .chain(&rootfs.lower)
        .find_map(|layer| read_below(layer, path, ResolveFlags::NO_SYMLINKS))
        .unwrap_or_default()
}

/// Reads a small file below a root, with links resolved inside it; a file that
/// is not there is empty.
pub(crate) fn read_in_root(root: &Path, path: &Path) -> String {
    read_below(
        root,
        path,
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )
    .unwrap_or_default()
}

fn read_below(root: &Path, path: &Path, resolve: ResolveFlags) -> Option<String> {
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::openat(CWD, root, directory, Mode::empty()).ok()?;
    // Not to hang on a named pipe, nor to take a terminal.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file: OwnedFd = rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve).ok()?;
    let stat = rustix::fs::fstat(&file).ok()?;
    if !rustix::fs::FileType::from_raw_mode(stat.st_mode).is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    File::from(file)
        .take(MAX_ACCOUNTS)
        .read_to_end(&mut bytes)
        .ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// The host's name.
pub(crate) fn host_name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Writes `resolv.conf`, `hosts` and `hostname` into a folder.
pub(crate) fn write_to(engine: &Engine, folder: &Path, record: &Record) -> Result<()> {
    let (mut resolv_conf, mut hosts, mut hostname) = (String::new(), String::new(), String::new());
    if let Some(sandbox) = &record.sandbox {
        resolv_conf.clone_from(&sandbox.resolv_conf);
        hosts.clone_from(&sandbox.hosts);
        hostname.clone_from(&sandbox.hostname);
    }
    if resolv_conf.is_empty() {
        resolv_conf = compose_resolv_conf(engine, record);
    }
    if hosts.is_empty() {
        hosts = compose_hosts(engine, record)?;
    }
    if hostname.is_empty() {
        hostname = record.hostname().into();
    }
    hostname.push('\n');
    for (name, text) in [
        ("resolv.conf", resolv_conf),
        ("hosts", hosts),
        ("hostname", hostname),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).map_err(at("write", path))?;
    }
    Ok(())
}

fn compose_resolv_conf(engine: &Engine, record: &Record) -> String {
    let host = std::fs::read_to_string(&engine.config().resolv_conf).unwrap_or_default();
    let has_names = record
        .networks
        .keys()
        .filter_map(|name| engine.networks().get(name).ok())
        .any(|network| network.spec.names);
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
    if has_names {
        line("nameserver", NAME_SERVER);
    } else if !record.host.dns.is_empty() {
        record
            .host
            .dns
            .iter()
            .for_each(|server| line("nameserver", server));
    } else {
        // The host's own loopback is out of a container's reach.
        let reachable: Vec<String> = own("nameserver")
            .filter(|server| !server.starts_with("127.") && server != "::1")
            .collect();
        if reachable.is_empty() {
            PUBLIC_NAME_SERVERS
                .iter()
                .for_each(|server| line("nameserver", server));
        }
        reachable
            .iter()
            .for_each(|server| line("nameserver", server));
    }
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
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::\tip6-localnet\n\
         ff00::\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    let endpoints = engine.networks().sandbox_endpoints(&record.id);
    for extra in &record.host.extra_hosts {
        let (name, address) = extra
            .split_once(':')
            .or_else(|| extra.split_once('='))
            .ok_or_else(|| Error::Invalid(format!("bad format for add-host: {extra:?}")))?;
        let address = match address {
            "host-gateway" => match endpoints.first().and_then(|endpoint| {
                Some(
                    engine
                        .networks()
                        .get(&endpoint.network)
                        .ok()?
                        .pool(true)?
                        .gateway
                        .to_string(),
                )
            }) {
                Some(gateway) => gateway,
                None => "127.0.0.1".into(),
            },
            address => address.trim_matches(['[', ']']).to_owned(),
        };
        let _ = writeln!(text, "{address}\t{name}");
    }
    // Names of linked containers, where no name service knows them.
    for link in &record.host.links {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        let other = engine.get(target)?;
        let alias = alias.rsplit('/').next().unwrap_or(alias);
        for endpoint in engine
            .networks()
            .sandbox_endpoints(&other.id)
            .iter()
            .take(1)
        {
            for address in &endpoint.addresses {
                let _ = writeln!(
                    text,
                    "{address}\t{alias} {} {}",
                    other.hostname(),
                    other.name
                );
            }
        }
    }
    for endpoint in &endpoints {
        for address in &endpoint.addresses {
            let _ = write!(text, "{address}\t{}", record.hostname());
            if !record.config.domainname.is_empty() {
                let _ = write!(text, ".{} {}", record.config.domainname, record.hostname());
            }
            text.push('\n');
        }
    }
    Ok(text)
}
