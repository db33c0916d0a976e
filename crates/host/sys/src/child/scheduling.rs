//! Limits, priorities and places of execution of this process. Nothing here
//! allocates.

use std::fmt;

use crate::{Errno, Result, check};

/// Most processors a mask has room for.
const N_PROCESSORS: usize = 1024;

/// A set of numbers, of processors or of memory nodes, in the kernel's layout.
#[derive(Clone, PartialEq, Eq)]
pub struct Numbers([u64; N_PROCESSORS / 64]);

impl Numbers {
    /// Reads a list such as `0-3,6`; none if it is no list, or a number is above
    /// 1023.
    #[must_use]
    pub fn parse(list: &str) -> Option<Self> {
        let mut words = [0_u64; N_PROCESSORS / 64];
        for range in list
            .split(',')
            .map(str::trim)
            .filter(|range| !range.is_empty())
        {
            let (first, last) = range.split_once('-').unwrap_or((range, range));
            let first: usize = first.trim().parse().ok()?;
            let last: usize = last.trim().parse().ok()?;
            if first > last || last >= N_PROCESSORS {
                return None;
            }
            for number in first..=last {
                words[number / 64] |= 1 << (number % 64);
            }
        }
        Some(Self(words))
    }

    /// Whether there is no number in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = (0..N_PROCESSORS).filter(|number| self.0[number / 64] & 1 << (number % 64) != 0);
        formatter.debug_set().entries(held).finish()
    }
}

pub(super) fn set_limit(resource: u32, soft: u64, hard: u64) -> Result<()> {
    let limit = libc::rlimit64 {
        rlim_cur: soft,
        rlim_max: hard,
    };
    let refused = match prlimit(resource, Some(&limit)) {
        Err(Errno::PERM) => Errno::PERM,
        result => return result.map(drop),
    };
    let now = prlimit(resource, None)?;
    let within = libc::rlimit64 {
        rlim_cur: soft.min(now.rlim_max),
        rlim_max: hard.min(now.rlim_max),
    };
    prlimit(resource, Some(&within))?;
    Err(refused)
}

/// Sets a limit, if there is a new one; what it was before.
fn prlimit(resource: u32, new: Option<&libc::rlimit64>) -> Result<libc::rlimit64> {
    let mut old = libc::rlimit64 {
        rlim_cur: 0,
        rlim_max: 0,
    };
    let new: *const libc::rlimit64 = new.map_or(std::ptr::null(), std::ptr::from_ref);
    // SAFETY: the new limit is null or lives through the call; the old one is
    // written to and is ours.
    check(unsafe { libc::syscall(libc::SYS_prlimit64, 0, resource, new, &raw mut old) })?;
    Ok(old)
}

/// Takes a `struct sched_attr`, which begins with its size.
pub(super) fn set_scheduler(attributes: &[u8; 48]) -> Result<()> {
    // SAFETY: the attributes live through the call and begin with their size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, attributes.as_ptr(), 0) }).map(drop)
}

pub(super) fn set_io_priority(priority: i32) -> Result<()> {
    const IOPRIO_WHO_PROCESS: libc::c_int = 1;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, IOPRIO_WHO_PROCESS, 0, priority) }).map(drop)
}

pub(super) fn set_affinity(processors: &Numbers) -> Result<()> {
    let words = &processors.0;
    // SAFETY: the mask lives through the call, and the size passed is its own.
    check(unsafe {
        libc::syscall(
            libc::SYS_sched_setaffinity,
            0,
            size_of_val(words),
            words.as_ptr(),
        )
    })
    .map(drop)
}

pub(super) fn set_personality(persona: u64) -> Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

pub(super) fn set_memory_policy(mode: i32, nodes: &Numbers) -> Result<()> {
    // The kernel takes one bit less than it is told; no nodes are no mask.
    let (mask, n_bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        (nodes.0.as_ptr(), N_PROCESSORS + 1)
    };
    // SAFETY: the mask lives through the call and has that many bits, the one
    // above not being read.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, mask, n_bits) }).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_numbers() {
        let numbers = |list| format!("{:?}", Numbers::parse(list).unwrap());
        assert_eq!(numbers("0-3,6"), "{0, 1, 2, 3, 6}");
        assert_eq!(numbers("1023, 64"), "{64, 1023}");
        assert!(Numbers::parse("").unwrap().is_empty());
        for list in ["3-1", "1024", "-1", "a", "1-", "0x1", "1--2"] {
            assert_eq!(Numbers::parse(list), None, "{list}");
        }
    }
}
