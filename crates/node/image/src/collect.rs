//! Automatic collection: what nobody has used for long goes, and under pressure
//! of the disk what has been used longest ago, until there is room again.
//!
//! [`choose`] decides, and is pure; [`Images::collect`] looks and removes.

use std::collections::HashMap;
use std::sync::PoisonError;
use std::time::Duration;

use dhow_oci::Digest;

use crate::error::at;
use crate::images::{Images, Users};
use crate::table::Write;
use crate::types::{Listed, Pruned};
use crate::{Error, Result};

/// When images go by themselves. Those that containers use never do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CollectPolicy {
    /// What was used within this time stays in any case.
    pub min_age: Duration,
    /// What was not used for this time goes in any case; none: nothing does.
    pub max_age: Option<Duration>,
    /// Bounds on how full the disk gets; none: it may.
    pub pressure: Option<Pressure>,
}

/// Bounds on how full a disk gets, in per cent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pressure {
    /// Fuller than this, and images go,
    pub high: u8,
    /// until it is no fuller than this.
    pub low: u8,
}

/// A disk, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Its size.
    pub total: u64,
    /// What is left of it.
    pub free: u64,
}

/// An image that nobody uses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Which.
    pub id: Digest,
    /// Seconds since the epoch at which it was last used, or got a name.
    pub used: i64,
    /// Bytes that go with it.
    pub bytes: u64,
}

impl CollectPolicy {
    /// Bytes to be freed.
    fn wanted(&self, disk: Disk) -> u64 {
        let Some(Pressure { high, low }) = self.pressure else {
            return 0;
        };
        let share = |part: u8| u128::from(disk.total) * u128::from(part.min(100)) / 100;
        let filled = u128::from(disk.total.saturating_sub(disk.free));
        if filled <= share(high) {
            return 0;
        }
        u64::try_from(filled.saturating_sub(share(low.min(high)))).unwrap_or(u64::MAX)
    }
}

/// Which of `candidates` go, those used longest ago first. `now` is in seconds
/// since the epoch.
pub fn choose(
    candidates: &[Candidate],
    policy: &CollectPolicy,
    disk: Disk,
    now: i64,
) -> Vec<Digest> {
    let age = |candidate: &Candidate| {
        let seconds = now.saturating_sub(candidate.used);
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
    };
    let mut old: Vec<&Candidate> = candidates
        .iter()
        .filter(|candidate| age(candidate) >= policy.min_age)
        .collect();
    old.sort_by(|a, b| (a.used, &a.id).cmp(&(b.used, &b.id)));
    let wanted = policy.wanted(disk);
    let mut freed = 0u64;
    let goes = |candidate: &&&Candidate| {
        let is_too_old = policy.max_age.is_some_and(|most| age(candidate) >= most);
        let goes = is_too_old || freed < wanted;
        freed = freed.saturating_add(if goes { candidate.bytes } else { 0 });
        goes
    };
    old.iter()
        .filter(goes)
        .map(|candidate| candidate.id.clone())
        .collect()
}

impl Images {
    /// Removes what the policy says, build steps before images. Blocks.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Table`]; what went before stays gone.
    pub fn collect(&self, policy: &CollectPolicy, users: Users<'_>) -> Result<Pruned> {
        let now = self.now();
        self.remember_use()?;
        let before =
            |age: Duration| now.saturating_sub(i64::try_from(age.as_secs()).unwrap_or(now));
        let oldest = match policy.wanted(self.disk()?) {
            0 => policy.max_age,
            _ => Some(policy.min_age),
        };
        let mut pruned = match oldest {
            Some(age) => self.prune_steps(&|_, step| step.used <= before(age))?,
            None => Pruned::default(),
        };
        let candidates: Vec<Candidate> = self
            .list()
            .iter()
            .filter(|listed| users(&listed.image.id).is_empty())
            .map(|listed| Candidate {
                id: listed.image.id.clone(),
                used: self.used(listed),
                bytes: listed.image.size() - listed.shared_size,
            })
            .collect();
        let chosen = choose(&candidates, policy, self.disk()?, now);
        let mut removed = Vec::new();
        for listed in self.list() {
            if chosen.contains(&listed.image.id) {
                removed.extend(self.remove_unused(&listed, users)?);
            }
        }
        if !removed.is_empty() {
            let swept = self.sweep_all()?;
            pruned.removed.extend(removed);
            pruned.removed.extend(swept.removed);
            pruned.reclaimed += swept.reclaimed;
        }
        Ok(pruned)
    }

    /// Notes that an image is being used.
    pub(crate) fn note_use(&self, id: &Digest) {
        let now = self.now();
        let mut used = self.uses();
        used.insert(id.clone(), now);
    }

    /// When an image was last used, or got a name.
    fn used(&self, listed: &Listed) -> i64 {
        let noted = self.uses().get(&listed.image.id).copied();
        let kept = self.inner.book.read().used.get(&listed.image.id).copied();
        noted.max(kept).unwrap_or(0).max(listed.image.tagged)
    }

    /// Makes durable what was noted: using an image waits for no disk.
    fn remember_use(&self) -> Result<()> {
        let noted = std::mem::take(&mut *self.uses());
        self.inner.book.change(|state| {
            let writes = noted
                .into_iter()
                .filter(|(id, _)| state.images.contains_key(id))
                .map(|(id, used)| Write::Used(id, used));
            Ok((writes.collect(), ()))
        })
    }

    fn uses(&self) -> std::sync::MutexGuard<'_, HashMap<Digest, i64>> {
        self.inner
            .uses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn disk(&self) -> Result<Disk> {
        let root = &self.inner.options.root;
        let found = rustix::fs::statvfs(root).map_err(at::<rustix::io::Errno>("look at", root))?;
        Ok(Disk {
            total: found.f_blocks.saturating_mul(found.f_frsize),
            free: found.f_bavail.saturating_mul(found.f_frsize),
        })
    }
}

impl Pressure {
    /// Bounds that make sense: images go above `high` per cent, until five per
    /// cent less are full.
    ///
    /// # Errors
    /// [`Error::Invalid`] if it is more than a hundred, or nothing.
    pub fn above(high: u8) -> Result<Pressure> {
        if !(1..=100).contains(&high) {
            return Err(Error::Invalid(format!(
                "a disk cannot be {high} per cent full"
            )));
        }
        let low = high.saturating_sub(5);
        Ok(Pressure { high, low })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: i64 = 1_000_000;

    fn candidates() -> impl Strategy<Value = Vec<Candidate>> {
        // Some from the future: clocks are set back.
        let one = (0..=NOW + 1000, 0u64..1000);
        proptest::collection::vec(one, 0..20).prop_map(|all| {
            let all = all.into_iter().enumerate();
            all.map(|(n, (used, bytes))| Candidate {
                id: Digest::of(&n.to_le_bytes()),
                used,
                bytes,
            })
            .collect()
        })
    }

    fn policies() -> impl Strategy<Value = CollectPolicy> {
        let age = (0u64..1_200_000).prop_map(Duration::from_secs);
        let pressure = (0u8..=100, 0u8..=100).prop_map(|(high, low)| Pressure { high, low });
        (
            age.clone(),
            proptest::option::of(age),
            proptest::option::of(pressure),
        )
            .prop_map(|(min_age, max_age, pressure)| CollectPolicy {
                min_age,
                max_age,
                pressure,
            })
    }

    #[test]
    fn an_idle_policy_removes_nothing() {
        let policy = CollectPolicy {
            min_age: Duration::ZERO,
            max_age: None,
            pressure: None,
        };
        let old = Candidate {
            id: Digest::of(b""),
            used: 0,
            bytes: 1,
        };
        let disk = Disk { total: 10, free: 0 };
        assert_eq!(choose(&[old], &policy, disk, NOW), []);
    }

    #[test]
    fn a_full_disk_is_relieved_by_the_oldest() {
        let policy = CollectPolicy {
            min_age: Duration::from_secs(100),
            max_age: None,
            pressure: Some(Pressure::above(90).unwrap()),
        };
        let made = |name: &[u8], age: i64, bytes| Candidate {
            id: Digest::of(name),
            used: NOW - age,
            bytes,
        };
        let all = [
            made(b"new", 10, 500),
            made(b"old", 5000, 30),
            made(b"older", 6000, 40),
            made(b"used", 200, 90),
        ];
        let full = |free| Disk { total: 1000, free };
        assert_eq!(choose(&all, &policy, full(100), NOW), []);
        let names = |names: &[&[u8]]| names.iter().map(|n| Digest::of(n)).collect::<Vec<_>>();
        assert_eq!(
            choose(&all, &policy, full(99), NOW),
            names(&[b"older", b"old"])
        );
        assert_eq!(
            choose(&all, &policy, full(0), NOW),
            names(&[b"older", b"old", b"used"])
        );
    }

    proptest! {
        #[test]
        fn the_policy_is_kept(
            all in candidates(),
            policy in policies(),
            total in 0u64..20_000,
            free in 0u64..20_000,
        ) {
            let disk = Disk { total, free: free.min(total) };
            let chosen = choose(&all, &policy, disk, NOW);
            let age = |candidate: &Candidate| (NOW - candidate.used).max(0) as u64;
            let is_chosen = |candidate: &Candidate| chosen.contains(&candidate.id);
            let is_old = |candidate: &Candidate| age(candidate) >= policy.min_age.as_secs();
            let is_too_old = |candidate: &Candidate| {
                is_old(candidate)
                    && policy.max_age.is_some_and(|most| age(candidate) >= most.as_secs())
            };
            let wanted = policy.wanted(disk);
            let freed: u64 = all.iter().filter(|c| is_chosen(c)).map(|c| c.bytes).sum();
            // The young stay, the too old go.
            prop_assert!(all.iter().filter(|c| is_chosen(c)).all(is_old));
            prop_assert!(all.iter().filter(|c| is_too_old(c)).all(is_chosen));
            // There is room again, or nothing else to remove.
            prop_assert!(freed >= wanted || all.iter().filter(|c| is_old(c)).all(is_chosen));
            // None goes before one that was used longer ago.
            for gone in all.iter().filter(|c| is_chosen(c)) {
                for kept in all.iter().filter(|c| is_old(c) && !is_chosen(c)) {
                    prop_assert!(gone.used <= kept.used);
                }
            }
            // None goes in vain: without the last one there would be too
            // little room.
            if let Some(last) = chosen.last().and_then(|id| all.iter().find(|c| c.id == *id)) {
                prop_assert!(is_too_old(last) || freed - last.bytes < wanted);
            }
        }
    }
}
