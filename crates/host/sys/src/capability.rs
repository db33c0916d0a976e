//! Capability sets by number and by name (capabilities(7)).

use crate::{Result, check};

/// All capabilities of Linux 5.9 and later, in the order of their numbers.
pub const NAMES: [&str; 41] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_DAC_READ_SEARCH",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETPCAP",
    "CAP_LINUX_IMMUTABLE",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_BROADCAST",
    "CAP_NET_ADMIN",
    "CAP_NET_RAW",
    "CAP_IPC_LOCK",
    "CAP_IPC_OWNER",
    "CAP_SYS_MODULE",
    "CAP_SYS_RAWIO",
    "CAP_SYS_CHROOT",
    "CAP_SYS_PTRACE",
    "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN",
    "CAP_SYS_BOOT",
    "CAP_SYS_NICE",
    "CAP_SYS_RESOURCE",
    "CAP_SYS_TIME",
    "CAP_SYS_TTY_CONFIG",
    "CAP_MKNOD",
    "CAP_LEASE",
    "CAP_AUDIT_WRITE",
    "CAP_AUDIT_CONTROL",
    "CAP_SETFCAP",
    "CAP_MAC_OVERRIDE",
    "CAP_MAC_ADMIN",
    "CAP_SYSLOG",
    "CAP_WAKE_ALARM",
    "CAP_BLOCK_SUSPEND",
    "CAP_AUDIT_READ",
    "CAP_PERFMON",
    "CAP_BPF",
    "CAP_CHECKPOINT_RESTORE",
];

/// A set of capabilities, one bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set(u64);

impl Set {
    /// The empty set.
    pub const NONE: Self = Self(0);

    /// The set of one capability, by a name such as `CAP_CHOWN`, in any case.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        let number = NAMES
            .iter()
            .position(|known| known.eq_ignore_ascii_case(name))?;
        Some(Self(1 << number))
    }

    /// What is in either set.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both sets.
    #[must_use]
    pub fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// What is in this set and not in the other.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Names of what is in it, in the kernel's order.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        (0..NAMES.len())
            .filter(move |number| self.0 & (1 << number) != 0)
            .map(|number| NAMES[number])
    }
}

/// Every name this build knows.
#[must_use]
pub fn names() -> &'static [&'static str] {
    &NAMES
}

/// What this process may hand on at all: its bounding set.
#[must_use]
pub fn bounding() -> Set {
    let mut set = 0;
    for number in 0..64 {
        // SAFETY: reads one bit; unknown numbers are answered with an error.
        match unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) } {
            0 => {}
            1 => set |= 1 << number,
            _ => break,
        }
    }
    Set(set)
}

/// What this process is permitted now.
///
/// # Errors
///
/// What capget(2) says.
pub fn permitted() -> Result<Set> {
    let sets = rustix::thread::capabilities(None)?;
    Ok(Set(sets.permitted.bits()))
}

/// Drops everything outside `keep` from the bounding set. Allocates nothing.
///
/// # Errors
///
/// What prctl(2) says; `EPERM` without `CAP_SETPCAP`.
pub(crate) fn limit_bounding(keep: Set) -> Result<()> {
    for number in 0..64 {
        // SAFETY: plain numbers; an unknown capability is answered with an error.
        let present = unsafe { libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) };
        if present < 0 {
            break;
        }
        if present == 1 && keep.0 & (1 << number) == 0 {
            // SAFETY: as above.
            check(unsafe { libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0) }.into())?;
        }
    }
    Ok(())
}

/// Puts the three sets of this thread in force. Allocates nothing.
///
/// # Errors
///
/// What capset(2) says.
pub(crate) fn apply(effective: Set, permitted: Set, inheritable: Set) -> Result<()> {
    use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities};
    let bits = |set: Set| CapabilitySet::from_bits_retain(set.0);
    let sets = CapabilitySets {
        effective: bits(effective),
        permitted: bits(permitted),
        inheritable: bits(inheritable),
    };
    set_capabilities(None, sets)
}

/// Makes the ambient set exactly this. Allocates nothing.
///
/// # Errors
///
/// What prctl(2) says; `EPERM` for what is not permitted and inheritable.
pub(crate) fn apply_ambient(ambient: Set) -> Result<()> {
    let clear = libc::PR_CAP_AMBIENT_CLEAR_ALL;
    // SAFETY: plain numbers.
    check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, clear, 0, 0, 0) }.into())?;
    for number in 0..64 {
        if ambient.0 & (1 << number) != 0 {
            let raise = libc::PR_CAP_AMBIENT_RAISE;
            // SAFETY: plain numbers.
            check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, number, 0, 0) }.into())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_kernels_numbers() {
        assert_eq!(Set::named("CAP_CHOWN"), Some(Set(1)));
        assert_eq!(Set::named("cap_checkpoint_restore"), Some(Set(1 << 40)));
        assert_eq!(Set::named("CAP_NONSENSE"), None);
        let set = Set::named("CAP_SYS_ADMIN")
            .unwrap()
            .with(Set::named("CAP_KILL").unwrap());
        assert_eq!(
            set.names().collect::<Vec<_>>(),
            ["CAP_KILL", "CAP_SYS_ADMIN"]
        );
    }

    #[test]
    fn what_is_permitted_is_within_the_bounds() {
        assert!(permitted().unwrap().without(bounding()).is_empty());
    }
}
