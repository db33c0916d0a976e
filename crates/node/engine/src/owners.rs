//! Who owns the entries of an archive, inside a user namespace and outside: what
//! goes into a running container whose users are mapped, and what comes out of it.

use std::io;

use dhow_image::tar::Entry;
use dhow_sys::idmap::IdMaps;

const CAPABILITY: &[u8] = b"security.capability";
/// `struct vfs_cap_data`: little-endian words, the form in the highest byte of the
/// first. The third form has the namespace's root at its end, the second means the
/// host's.
const REVISION: usize = 3;
const SECOND: (u8, usize) = (2, 20);
const THIRD: (u8, usize) = (3, 24);

/// From how the container sees it to how the host does.
///
/// # Errors
///
/// [`io::ErrorKind::InvalidData`] for an owner that has no place in the container.
pub(crate) fn outwards(entry: &mut Entry, maps: &IdMaps) -> io::Result<()> {
    let owner = maps.outside(entry.uid, entry.gid).ok_or_else(|| {
        let why = format!(
            "owner {}:{} cannot be mapped: the container has no such user or group",
            entry.uid, entry.gid
        );
        io::Error::new(io::ErrorKind::InvalidData, why)
    })?;
    (entry.uid, entry.gid) = owner;
    for (name, value) in &mut entry.xattrs {
        if name == CAPABILITY
            && let Some(root) = root_of(value)
            && let Some((root, _)) = maps.outside(root, 0)
        {
            set_root(value, root);
        }
    }
    Ok(())
}

/// From how the host sees it to how the container does.
pub(crate) fn inwards(entry: &mut Entry, maps: &IdMaps) {
    (entry.uid, entry.gid) = maps.inside(entry.uid, entry.gid);
    for (name, value) in &mut entry.xattrs {
        if name == CAPABILITY
            && let Some(root) = root_of(value)
        {
            set_root(value, maps.inside(root, 0).0);
        }
    }
}

/// The root for whom a file's capabilities count; none for what is malformed.
fn root_of(value: &[u8]) -> Option<u32> {
    match (*value.get(REVISION)?, value.len()) {
        SECOND => Some(0),
        THIRD => {
            let word = value.get(SECOND.1..)?.try_into().ok()?;
            Some(u32::from_le_bytes(word))
        }
        _ => None,
    }
}

fn set_root(value: &mut Vec<u8>, root: u32) {
    let (revision, length) = if root == 0 { SECOND } else { THIRD };
    value.resize(SECOND.1, 0);
    value[REVISION] = revision;
    if length > value.len() {
        value.extend_from_slice(&root.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dhow_image::tar::Kind;
    use dhow_sys::idmap::Range;

    #[test]
    fn owners_and_capabilities_come_back_as_they_went() {
        let ranges = vec![Range {
            inside: 0,
            outside: 100_000,
            count: 1000,
        }];
        let maps = IdMaps {
            users: ranges.clone(),
            groups: ranges,
        };
        let mut entry = Entry::new(Kind::File, b"file".to_vec());
        (entry.uid, entry.gid) = (5, 6);
        let mut capability = vec![0; 20];
        (capability[0], capability[3], capability[5]) = (1, 2, 4);
        entry.xattrs = vec![(CAPABILITY.to_vec(), capability)];
        let before = entry.clone();
        outwards(&mut entry, &maps).expect("it is mapped");
        assert_eq!((entry.uid, entry.gid), (100_005, 100_006));
        let value = &entry.xattrs[0].1;
        assert_eq!((value.len(), value[3]), (24, 3));
        assert_eq!(root_of(value), Some(100_000));
        inwards(&mut entry, &maps);
        assert_eq!(entry, before);
        entry.uid = 1000;
        assert!(outwards(&mut entry, &maps).is_err());
    }
}
