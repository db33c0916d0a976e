//! Numbers of system calls by name, in hash tables made at compile time.
//!
//! A filter names some 350 calls for two architectures and is compiled for each
//! container that starts, so a look-up has to be a handful of instructions.

use crate::spec::Architecture;

/// Slots of a table; more than twice the number of calls, a power of two.
const N_SLOTS: usize = 1024;

/// Calls of one architecture.
pub(super) struct Table {
    slots: [(&'static str, u32); N_SLOTS],
    /// Value of `arch` in the kernel's `struct seccomp_data`.
    pub(super) audit: u32,
    /// First number that stands for a call of another convention: x32 under
    /// x86-64's name.
    pub(super) first_foreign: Option<u32>,
}

/// FNV-1a.
const fn hash(name: &[u8]) -> usize {
    let mut hash = 0x811c_9dc5_u32;
    let mut at = 0;
    while at < name.len() {
        hash = (hash ^ name[at] as u32).wrapping_mul(0x0100_0193);
        at += 1;
    }
    hash as usize % N_SLOTS
}

macro_rules! table {
    ($architecture:ident, $audit:expr, $first_foreign:expr) => {{
        let mut slots = [("", 0); N_SLOTS];
        let mut number = 0;
        let last = syscalls::$architecture::Sysno::last().id() as usize;
        while number <= last {
            if let Some(call) = syscalls::$architecture::Sysno::new(number) {
                let name = call.name();
                let mut slot = hash(name.as_bytes());
                while !slots[slot].0.is_empty() {
                    slot = (slot + 1) % N_SLOTS;
                }
                slots[slot] = (name, number as u32);
            }
            number += 1;
        }
        Table {
            slots,
            audit: $audit,
            first_foreign: $first_foreign,
        }
    }};
}

impl Table {
    /// Number of a call; none if the architecture does not have it.
    pub(super) fn number(&self, name: &str) -> Option<u32> {
        let mut slot = hash(name.as_bytes());
        loop {
            match self.slots[slot] {
                ("", _) => return None,
                (known, number) if known == name => return Some(number),
                _ => slot = (slot + 1) % N_SLOTS,
            }
        }
    }

    /// The table of an architecture this machine can execute; none for others.
    pub(super) fn of(architecture: Architecture) -> Option<&'static Self> {
        match architecture {
            #[cfg(target_arch = "x86_64")]
            Architecture::X86_64 => Some(&X86_64),
            #[cfg(target_arch = "x86_64")]
            Architecture::X86 => Some(&X86),
            #[cfg(target_arch = "aarch64")]
            Architecture::Aarch64 => Some(&AARCH64),
            #[cfg(target_arch = "aarch64")]
            Architecture::Arm => Some(&ARM),
            _ => None,
        }
    }
}

/// What this program is compiled for.
#[cfg(target_arch = "x86_64")]
pub(super) const NATIVE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
pub(super) const NATIVE: Architecture = Architecture::Aarch64;

#[cfg(target_arch = "x86_64")]
static X86_64: Table = table!(x86_64, 0xc000_003e, Some(0x4000_0000));
#[cfg(target_arch = "x86_64")]
static X86: Table = table!(x86, 0x4000_0003, None);
#[cfg(target_arch = "aarch64")]
static AARCH64: Table = table!(aarch64, 0xc000_00b7, None);
#[cfg(target_arch = "aarch64")]
static ARM: Table = table!(arm, 0x4000_0028, None);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_call_is_found() {
        let native = Table::of(NATIVE).unwrap();
        for call in syscalls::Sysno::iter() {
            assert_eq!(
                native.number(call.name()),
                u32::try_from(call.id()).ok(),
                "{call}"
            );
        }
        assert_eq!(native.number("no_such_call"), None);
        assert_eq!(native.number(""), None);
    }
}
