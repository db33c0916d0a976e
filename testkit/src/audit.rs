//! What is left on a throw-away host.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use dhow_netlink::{Batch, Socket};
use dhow_nft::Family;

/// Folders of a daemon that are empty when its last container is gone.
const EMPTIED: [&str; 6] = [
    "data/containers",
    "run/containers",
    "run/runtime",
    "run/steps",
    "run/network/netns",
    "run/network/endpoints",
];
/// `RTM_GETRULE`, and the flags of a dump.
const GET_RULE: (u16, u16) = (34, 0x300);

/// A host's network as its kernel tells it, but for links and the packet filter.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Network {
    /// Addresses and routes of both families, as lines.
    tables: Vec<String>,
    /// How many rules choose among routing tables.
    rules: usize,
    /// Kernel parameters of all links, of future ones, and of loopback.
    settings: BTreeMap<PathBuf, String>,
}

impl Network {
    /// Reads that of the namespace that the thread is in.
    pub(crate) fn read() -> Self {
        let mut tables = Vec::new();
        for name in ["if_inet6", "ipv6_route", "fib_trie"] {
            let path = Path::new("/proc/thread-self/net").join(name);
            let text = fs::read_to_string(path).unwrap_or_default();
            tables.extend(text.lines().map(|line| format!("{name}: {}", plain(line))));
        }
        let socket = Socket::route().expect("a socket");
        let mut rules = 0;
        let mut batch = Batch::new();
        batch.request(GET_RULE.0, GET_RULE.1).header(&[0; 12]);
        socket
            .dump(&mut batch, |_| rules += 1)
            .expect("the kernel tells its rules");
        let mut settings = BTreeMap::new();
        for folder in ["ipv4/conf", "ipv6/conf"] {
            for link in ["all", "default", "lo"] {
                let folder = Path::new("/proc/sys/net").join(folder).join(link);
                for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                    // Passing packets on is what a host of containers does; one
                    // that does so listens to no redirects.
                    let name = entry.file_name();
                    if name == "forwarding" || name == "accept_redirects" {
                        continue;
                    }
                    if let Ok(value) = fs::read_to_string(entry.path()) {
                        settings.insert(entry.path(), value.trim().to_owned());
                    }
                }
            }
        }
        Self {
            tables,
            rules,
            settings,
        }
    }

    /// What is there and was not before, or is otherwise.
    pub(crate) fn differences(&self, before: &Self) -> Vec<String> {
        let mut found: Vec<String> = self
            .tables
            .iter()
            .filter(|line| !before.tables.contains(line))
            .cloned()
            .collect();
        if self.rules != before.rules {
            found.push(format!(
                "{} routing rules where there were {}",
                self.rules, before.rules
            ));
        }
        for (path, value) in &self.settings {
            if before.settings.get(path) != Some(value) {
                found.push(format!("setting {} = {value}", path.display()));
            }
        }
        found
    }
}

/// A line without the counts of users, which come and go.
fn plain(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    match words.as_slice() {
        // Destination, its length, source, its length, gateway, metric, two
        // counts, flags, link.
        [first @ .., _, _, flags, link] if words.len() == 10 => {
            format!("{} {flags} {link}", first.join(" "))
        }
        _ => words.join(" "),
    }
}

/// What a host leaves in the kernel outside of its own namespace, and in files.
#[derive(Debug)]
pub(crate) struct Traces<'a> {
    /// The host's folder.
    pub(crate) folder: &'a Path,
    /// The name in its control groups.
    pub(crate) instance: &'a str,
    /// Where its network namespace is pinned.
    pub(crate) pin: &'a Path,
}

impl Traces<'_> {
    /// All of them, one a line.
    pub(crate) fn find(&self) -> Vec<String> {
        let mut left = self.processes();
        left.extend(self.mounts());
        left.extend(self.groups());
        left.extend(self.units());
        left.extend(self.files());
        left
    }

    fn group(&self) -> String {
        format!("dhow-{}", self.instance)
    }

    /// Processes that name the folder, live below it, or are in a control group or
    /// the network namespace of the host.
    fn processes(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let group = self.group();
        let is_group = |line: &str| line.split('/').any(|part| is_of(part, &group));
        let namespace = fs::metadata(self.pin).expect("it is pinned").ino();
        let mut left = Vec::new();
        for entry in fs::read_dir("/proc").expect("proc is mounted").flatten() {
            let name = entry.file_name();
            if !name.to_string_lossy().bytes().all(|b| b.is_ascii_digit()) {
                continue;
            }
            let path = entry.path();
            let command = fs::read(path.join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let by = if command.contains(&folder) {
                "named"
            } else if fs::read_to_string(path.join("cgroup"))
                .is_ok_and(|text| text.lines().any(is_group))
            {
                "by its control group"
            } else if fs::read_link(path.join("root"))
                .is_ok_and(|root| root.starts_with(self.folder))
            {
                "by its root"
            } else if fs::metadata(path.join("ns/net")).is_ok_and(|net| net.ino() == namespace) {
                "by its network namespace"
            } else {
                continue;
            };
            // One that has ended waits for its parent, who is found for himself.
            let state = fs::read_to_string(path.join("stat")).unwrap_or_default();
            if state
                .rsplit(')')
                .next()
                .is_some_and(|rest| rest.starts_with(" Z"))
            {
                continue;
            }
            left.push(format!(
                "process {} ({by}): {command}",
                name.to_string_lossy()
            ));
        }
        left
    }

    /// Mounts below the folder, pins of namespaces among them.
    fn mounts(&self) -> Vec<String> {
        let folder = self.folder.display().to_string();
        let own = self.pin.display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("proc is mounted");
        mounts
            .lines()
            .filter(|mount| mount.contains(&folder))
            .filter(|mount| mount.split_whitespace().nth(4) != Some(own.as_str()))
            .map(|mount| format!("mount {mount}"))
            .collect()
    }

    /// Control groups of the host, wherever they are.
    fn groups(&self) -> Vec<String> {
        let name = self.group();
        let mut left = Vec::new();
        let mut pending = vec![PathBuf::from("/sys/fs/cgroup")];
        while let Some(parent) = pending.pop() {
            for entry in fs::read_dir(&parent).into_iter().flatten().flatten() {
                if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    continue;
                }
                let path = entry.path();
                if is_of(&entry.file_name().to_string_lossy(), &name) {
                    left.push(format!("control group {}", path.display()));
                } else if fs::metadata(&path).is_ok_and(|group| group.nlink() > 2) {
                    // Only those that have groups in them.
                    pending.push(path);
                }
            }
        }
        left
    }

    /// Scopes that systemd keeps for containers of the host.
    fn units(&self) -> Vec<String> {
        let name = self.group();
        let units = fs::read_dir("/run/systemd/transient").into_iter().flatten();
        units
            .flatten()
            .map(|unit| unit.file_name().to_string_lossy().into_owned())
            .filter(|unit| is_of(unit, &name))
            .map(|unit| format!("unit {unit}"))
            .collect()
    }

    /// What a daemon keeps of containers that are gone.
    fn files(&self) -> Vec<String> {
        let folders = EMPTIED.iter().map(|name| self.folder.join(name));
        folders
            .flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten())
            .map(|entry| format!("file {}", entry.path().display()))
            .collect()
    }
}

/// Whether a control group is that of a host's containers, or one of theirs that
/// systemd has made.
fn is_of(name: &str, group: &str) -> bool {
    let rest = name.strip_prefix(group);
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Links and tables of the packet filter in the namespace that the thread is in.
pub(crate) fn links_and_tables() -> Vec<String> {
    let links = Socket::route().expect("a socket").links().expect("links");
    let mut left: Vec<String> = links
        .iter()
        .filter(|link| link.name != "lo")
        .map(|link| format!("link {}", link.name))
        .collect();
    let socket = Socket::netfilter().expect("a socket");
    for family in [Family::Ip, Family::Ip6, Family::Inet] {
        for table in dhow_nft::tables(&socket, family).expect("tables") {
            left.push(format!("table {family:?} {table}"));
        }
    }
    left
}

#[cfg(test)]
mod tests {
    use std::process::Command;
    use std::time::{Duration, Instant};

    use crate::host::Host;

    /// Fails unless the audit tells of all of these, and of nothing when they are
    /// gone.
    #[test]
    fn whatever_is_left_is_told() {
        let host = Host::new();
        assert_eq!(host.left(), Vec::<String>::new());
        let group = format!("dhow-{}", host.instance());
        let hierarchy = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup"]
            .into_iter()
            .find(|path| std::fs::create_dir_all(format!("{path}/{group}-above/{group}")).is_ok())
            .expect("control groups are mounted");
        let below = format!("{hierarchy}/{group}-above");
        let mut by_group = Command::new("sleep").arg("60").spawn().expect("sleep runs");
        let members = format!("{below}/{group}/cgroup.procs");
        std::fs::write(members, by_group.id().to_string()).expect("it is moved");
        let mut inside = host.command("sleep").arg("61").spawn().expect("sleep runs");
        let file = host.folder().join("run/containers/one");
        std::fs::create_dir_all(&file).expect("a folder");
        for words in [
            "addr add 10.0.0.9/32 dev lo",
            "-6 addr add fd00::9/128 dev lo",
            "route add 10.9.0.0/16 dev lo",
            "rule add from 10.9.0.1 table 9",
            "link add left0 type bridge",
        ] {
            let words: Vec<&str> = words.split(' ').collect();
            host.run("ip", &words).ok();
        }
        host.run("sysctl", &["-qw", "net.ipv4.conf.all.rp_filter=2"])
            .ok();
        let began = Instant::now();
        let left = host.left();
        let took = began.elapsed();
        for part in [
            "(by its control group): sleep 60",
            "(by its network namespace): sleep 61",
            "control group ",
            "run/containers/one",
            "fib_trie: |-- 10.0.0.9",
            "fib_trie: |-- 10.9.0.0",
            "if_inet6: fd000000000000000000000000000009",
            "routing rules where there were",
            "rp_filter = 2",
            "link left0",
        ] {
            assert!(
                left.iter().any(|line| line.contains(part)),
                "{part}: {left:#?}"
            );
        }
        for child in [&mut by_group, &mut inside] {
            child.kill().expect("it runs");
            child.wait().expect("it ends");
        }
        std::fs::remove_dir(format!("{below}/{group}")).expect("it is empty");
        std::fs::remove_dir(below).expect("it is empty");
        eprintln!("the audit took {took:?}");
        assert!(
            took < Duration::from_secs(1),
            "{took:?}: every test ends with it"
        );
    }
}
