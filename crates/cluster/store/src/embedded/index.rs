//! The index in memory: every kept version of every key and where it lies.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;

use super::log::Place;
use crate::{Range, StoreError};

/// One version of a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Version {
    pub mod_revision: u64,
    pub create_revision: u64,
    /// 0: the key was deleted.
    pub version: u64,
    pub place: Place,
}

impl Version {
    pub(crate) fn is_deletion(&self) -> bool {
        self.version == 0
    }
}

/// Keys to their versions, oldest first.
#[derive(Default)]
pub(crate) struct Index {
    pub keys: BTreeMap<Arc<str>, Vec<Version>>,
    pub compacted: u64,
    pub revision: u64,
    /// Bytes of the kept versions on disk, roughly.
    pub live: u64,
}

/// What a version takes on disk beside its value, roughly.
const OVERHEAD: u64 = 48;

fn weight(key: &str, version: &Version) -> u64 {
    OVERHEAD + key.len() as u64 + u64::from(version.place.length)
}

impl Index {
    pub(crate) fn insert(&mut self, key: Arc<str>, version: Version) {
        self.live += weight(&key, &version);
        let versions = self.keys.entry(key).or_default();
        let at = versions.partition_point(|other| other.mod_revision < version.mod_revision);
        versions.insert(at, version);
        self.revision = self.revision.max(version.mod_revision);
    }

    /// The version of a key as of a revision, deletions left out.
    pub(crate) fn at(&self, key: &str, revision: u64) -> Option<Version> {
        newest(self.keys.get(key)?, revision)
    }

    /// Checks a revision somebody wants to read at.
    pub(crate) fn readable(&self, revision: Option<u64>) -> Result<u64, StoreError> {
        match revision {
            None => Ok(self.revision),
            Some(asked) if asked > self.revision => Err(StoreError::Future {
                asked,
                newest: self.revision,
            }),
            Some(asked) if asked < self.compacted => Err(StoreError::Compacted {
                compacted: self.compacted,
            }),
            Some(asked) => Ok(asked),
        }
    }

    /// The versions of a range as of a revision, and whether there are more
    /// than the limit; the count is of all.
    pub(crate) fn range(&self, range: &Range, revision: u64) -> (Vec<(Arc<str>, Version)>, usize) {
        let end = if range.end.is_empty() {
            Bound::Included(&*range.start)
        } else {
            Bound::Excluded(&*range.end)
        };
        let mut found = Vec::new();
        let mut count = 0;
        if !range.end.is_empty() && range.end <= range.start {
            return (found, count);
        }
        let keys = self
            .keys
            .range::<str, _>((Bound::Included(&*range.start), end));
        for (key, versions) in keys {
            if let Some(version) = newest(versions, revision) {
                count += 1;
                if range.limit.is_none_or(|limit| found.len() < limit) {
                    found.push((key.clone(), version));
                }
            }
        }
        (found, count)
    }

    /// Every kept version from a revision on of keys that begin with a prefix,
    /// in order of revision.
    pub(crate) fn since(&self, prefix: &str, from: u64, to: u64) -> Vec<(Arc<str>, Version)> {
        let mut found = Vec::new();
        let keys = self
            .keys
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        for (key, versions) in keys {
            let start = versions.partition_point(|version| version.mod_revision < from);
            for version in &versions[start..] {
                if version.mod_revision <= to {
                    found.push((key.clone(), *version));
                }
            }
        }
        found.sort_by_key(|(_, version)| version.mod_revision);
        found
    }

    /// Forgets what nobody can read at or after a revision.
    pub(crate) fn compact(&mut self, revision: u64) {
        self.compacted = revision;
        let mut live = 0;
        self.keys.retain(|key, versions| {
            let kept = versions.partition_point(|version| version.mod_revision <= revision);
            if kept > 0 {
                let keep_last = !versions[kept - 1].is_deletion();
                versions.drain(..kept - usize::from(keep_last));
            }
            live += versions.iter().map(|v| weight(key, v)).sum::<u64>();
            !versions.is_empty()
        });
        self.live = live;
    }
}

fn newest(versions: &[Version], revision: u64) -> Option<Version> {
    let after = versions.partition_point(|version| version.mod_revision <= revision);
    let version = versions[..after].last()?;
    (!version.is_deletion()).then_some(*version)
}
