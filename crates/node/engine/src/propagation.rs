//! Whether a bind can be passed mounts on as it is to be: that takes a source whose
//! own mount passes them on.

use std::path::{Path, PathBuf};

use crate::error::{Error, Result, at};
use crate::mounts::{MountKind, MountPoint};

/// A mount of the host, as far as this matters.
#[derive(Debug, PartialEq, Eq)]
struct HostMount {
    place: PathBuf,
    is_shared: bool,
    is_slave: bool,
}

/// Refuses binds that ask for what their source cannot give. Others cost nothing.
///
/// # Errors
///
/// [`Error::Invalid`], with Docker's words.
pub(crate) fn check(mounts: &[MountPoint]) -> Result<()> {
    let asks = |point: &&MountPoint| {
        point.kind == MountKind::Bind
            && matches!(
                point.propagation.as_str(),
                "shared" | "rshared" | "slave" | "rslave"
            )
    };
    let asking: Vec<&MountPoint> = mounts.iter().filter(asks).collect();
    if asking.is_empty() {
        return Ok(());
    }
    let path = Path::new("/proc/self/mountinfo");
    let table = std::fs::read_to_string(path).map_err(at("read", path))?;
    let table = parse(&table);
    for point in asking {
        let source = Path::new(&point.source);
        let real = source.canonicalize().map_err(at("find", source))?;
        let Some(mount) = holder(&table, &real) else {
            continue;
        };
        let needs = match point.propagation.trim_start_matches('r') {
            "shared" if !mount.is_shared => "shared",
            "slave" if !mount.is_shared && !mount.is_slave => "shared or slave",
            _ => continue,
        };
        return Err(Error::Invalid(format!(
            "path {} is mounted on {} but it is not a {needs} mount",
            point.source,
            mount.place.display()
        )));
    }
    Ok(())
}

/// The mount that a path is on: of those above it the deepest, and of several at one
/// place the last.
fn holder<'a>(table: &'a [HostMount], path: &Path) -> Option<&'a HostMount> {
    table
        .iter()
        .filter(|mount| path.starts_with(&mount.place))
        .max_by_key(|mount| mount.place.components().count())
}

/// The lines of `/proc/PID/mountinfo` (proc_pid_mountinfo(5)).
fn parse(table: &str) -> Vec<HostMount> {
    let line = |line: &str| {
        let (before, _) = line.split_once(" - ")?;
        let mut fields = before.split(' ').skip(4);
        let place = dhow_cgroup::unescape(fields.next()?);
        let tags: Vec<&str> = fields.skip(1).collect();
        let has = |tag: &str| tags.iter().any(|one| one.starts_with(tag));
        Some(HostMount {
            place,
            is_shared: has("shared:"),
            is_slave: has("master:"),
        })
    };
    table.lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "\
21 1 0:5 / / rw - ext4 /dev/vda rw
22 21 0:6 / /srv rw,nosuid shared:7 - tmpfs a rw
23 21 0:7 / /srv/in\\040side rw master:7 propagate_from:2 - tmpfs b rw
24 21 0:8 / /srv rw - tmpfs c rw
";

    #[test]
    fn mounts_are_read_with_what_they_pass_on() {
        let table = parse(TABLE);
        let place = |path: &str| {
            let mount = holder(&table, Path::new(path)).expect("there is a root");
            (
                mount.place.display().to_string(),
                mount.is_shared,
                mount.is_slave,
            )
        };
        assert_eq!(place("/srvs"), ("/".into(), false, false));
        assert_eq!(
            place("/srv/in side/x"),
            ("/srv/in side".into(), false, true)
        );
        // The later mount covers the earlier.
        assert_eq!(place("/srv/x"), ("/srv".into(), false, false));
    }

    #[test]
    fn what_asks_for_nothing_is_not_looked_up() {
        let point = MountPoint {
            source: "/no/such/place".into(),
            propagation: "rprivate".into(),
            ..MountPoint::default()
        };
        assert!(check(&[point]).is_ok());
    }
}
