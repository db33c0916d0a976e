//! Kernel parameters of the container's own namespaces, as steps.

use dhow_sys::child::Step;
use dhow_sys::namespace::Kind;

use super::namespaces::Namespaces;
use super::text;
use crate::error::{Result, RuntimeError};
use crate::spec::Linux;

/// Parameters of the IPC namespace that do not begin with `fs.mqueue.`.
const OF_IPC: [&str; 8] = [
    "kernel.msgmax",
    "kernel.msgmnb",
    "kernel.msgmni",
    "kernel.sem",
    "kernel.shmall",
    "kernel.shmmax",
    "kernel.shmmni",
    "kernel.shm_rmid_forced",
];

/// The namespace a parameter belongs to; none if it is the whole machine's.
fn owner(name: &str) -> Option<Kind> {
    if OF_IPC.contains(&name) || name.starts_with("fs.mqueue.") {
        Some(Kind::Ipc)
    } else if name.starts_with("net.") {
        Some(Kind::Network)
    } else if name == "kernel.domainname" {
        Some(Kind::Uts)
    } else {
        None
    }
}

pub(super) fn compile(
    linux: &Linux,
    namespaces: &Namespaces,
    add: &mut impl FnMut(Step),
) -> Result<()> {
    for (name, value) in &linux.sysctl {
        let field = format!("linux.sysctl ({name})");
        let path = path(name);
        let dotted = path.replace('/', ".");
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(RuntimeError::spec(field, "is no name of a parameter"));
        }
        if !owner(&dotted).is_some_and(|kind| namespaces.has(kind)) {
            return Err(RuntimeError::spec(
                field,
                "is not in a separate kernel namespace; it would change the host",
            ));
        }
        add(Step::WriteProc {
            path: text(&field, format!("sys/{path}"))?,
            value: text(&field, value)?,
        });
    }
    Ok(())
}

/// A name with dots or with slashes, as a path (sysctl(8)): whichever comes
/// first separates, the other stands for the first.
fn path(name: &str) -> String {
    match name.find(['.', '/']) {
        Some(at) if name.as_bytes()[at] == b'.' => {
            let swap = |letter| match letter {
                '.' => '/',
                '/' => '.',
                other => other,
            };
            name.chars().map(swap).collect()
        }
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_paths() {
        assert_eq!(path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(
            path("net/ipv4/conf/eth0.1/forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
        assert_eq!(
            path("net.ipv4.conf.eth0/1.forwarding"),
            "net/ipv4/conf/eth0.1/forwarding"
        );
    }

    #[test]
    fn what_is_the_machines_has_no_owner() {
        assert_eq!(owner("net.core.somaxconn"), Some(Kind::Network));
        assert_eq!(owner("fs.mqueue.msg_max"), Some(Kind::Ipc));
        for name in [
            "kernel.hostname",
            "vm.swappiness",
            "kernel.core_pattern",
            "fs.file-max",
        ] {
            assert_eq!(owner(name), None, "{name}");
        }
    }
}
