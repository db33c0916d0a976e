//! Device rules as a program, for version 2, which has no files for them.
//!
//! Rules are first brought into the form version 1 keeps them in: an answer for
//! everything, and exceptions from it. So they mean the same in both versions.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{Mode, OFlags};

use crate::bpf::{self, Instruction};
use crate::device::{DeviceKind, DeviceRule};
use crate::error::{CgroupError, Result};

/// Bits of an access, as the kernel passes them.
const MKNOD: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const EVERY: u32 = MKNOD | READ | WRITE;

/// Kinds of devices, as the kernel passes them.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// What version 1 makes of rules, one after the other.
#[derive(Debug, PartialEq, Eq)]
struct Answers {
    /// The answer where no exception holds.
    allow: bool,
    exceptions: Vec<Exception>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Exception {
    kind: u32,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

/// The same rules in the form version 1 keeps them in: first one for everything,
/// then the exceptions from it.
#[must_use]
pub fn in_short(rules: &[DeviceRule]) -> Vec<DeviceRule> {
    Answers::of(rules).rules()
}

impl Answers {
    /// From what a new group has: everything is allowed.
    fn of(rules: &[DeviceRule]) -> Self {
        let mut answers = Self {
            allow: true,
            exceptions: Vec::new(),
        };
        rules.iter().for_each(|rule| answers.take(rule));
        answers
    }

    fn take(&mut self, rule: &DeviceRule) {
        let kind = match rule.kind {
            DeviceKind::All => {
                self.allow = rule.allow;
                self.exceptions.clear();
                return;
            }
            DeviceKind::Block => BLOCK,
            DeviceKind::Character => CHARACTER,
        };
        let bits = [(rule.mknod, MKNOD), (rule.read, READ), (rule.write, WRITE)];
        let access = bits
            .iter()
            .filter(|(granted, _)| *granted)
            .fold(0, |access, (_, bit)| access | bit);
        let same = |known: &&mut Exception| {
            (known.kind, known.major, known.minor) == (kind, rule.major, rule.minor)
        };
        let known = self.exceptions.iter_mut().find(same);
        match (known, rule.allow == self.allow) {
            (Some(known), true) => known.access &= !access,
            (Some(known), false) => known.access |= access,
            (None, true) => {}
            (None, false) => self.exceptions.push(Exception {
                kind,
                major: rule.major,
                minor: rule.minor,
                access,
            }),
        }
        self.exceptions.retain(|known| known.access != 0);
    }

    /// The same as rules.
    fn rules(&self) -> Vec<DeviceRule> {
        let everything = DeviceRule {
            allow: self.allow,
            kind: DeviceKind::All,
            major: None,
            minor: None,
            read: true,
            write: true,
            mknod: true,
        };
        let exceptions = self.exceptions.iter().map(|exception| DeviceRule {
            allow: !self.allow,
            kind: if exception.kind == BLOCK {
                DeviceKind::Block
            } else {
                DeviceKind::Character
            },
            major: exception.major,
            minor: exception.minor,
            read: exception.access & READ != 0,
            write: exception.access & WRITE != 0,
            mknod: exception.access & MKNOD != 0,
        });
        std::iter::once(everything).chain(exceptions).collect()
    }

    /// The program that answers: 1 allows, 0 does not.
    fn program(&self) -> Vec<Instruction> {
        // The context's words: kind and access, major, minor.
        let mut program = vec![
            load(KIND, 0),
            move_register(ACCESS, KIND),
            with_immediate(AND, KIND, 0xffff),
            with_immediate(SHIFT_RIGHT, ACCESS, 16),
            load(MAJOR, 4),
            load(MINOR, 8),
        ];
        for exception in &self.exceptions {
            program.extend(self.exception(exception));
        }
        program.extend(answer(self.allow));
        program
    }

    /// Answers if the exception holds, falls through otherwise.
    fn exception(&self, exception: &Exception) -> Vec<Instruction> {
        // From the back, since each jump knows how far it is to the end.
        let mut piece: Vec<Instruction> = answer(!self.allow).into();
        let mut before = |register: u8, jump: u8, value: u32, first: Option<[Instruction; 2]>| {
            let distance = i16::try_from(piece.len()).unwrap_or(i16::MAX);
            piece.insert(0, jump_over(jump, register, value, distance));
            if let Some(first) = first {
                piece.splice(0..0, first);
            }
        };
        if let Some(minor) = exception.minor {
            before(MINOR, UNLESS_EQUAL, minor, None);
        }
        if let Some(major) = exception.major {
            before(MAJOR, UNLESS_EQUAL, major, None);
        }
        if self.allow {
            // What is refused in part is refused.
            let some = [
                move_register(RESULT, ACCESS),
                with_immediate(AND, RESULT, exception.access),
            ];
            before(RESULT, IF_EQUAL, 0, Some(some));
        } else if exception.access != EVERY {
            // What is allowed must be allowed as a whole.
            let rest = [
                move_register(RESULT, ACCESS),
                with_immediate(AND, RESULT, EVERY & !exception.access),
            ];
            before(RESULT, UNLESS_EQUAL, 0, Some(rest));
        }
        before(KIND, UNLESS_EQUAL, exception.kind, None);
        piece
    }
}

const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE: u8 = 0xb7;
const AND: u8 = 0x57;
const SHIFT_RIGHT: u8 = 0x77;
const IF_EQUAL: u8 = 0x15;
const UNLESS_EQUAL: u8 = 0x55;
const EXIT: u8 = 0x95;

fn load(register: u8, offset: i16) -> Instruction {
    Instruction {
        code: LOAD_WORD,
        registers: register | CONTEXT << 4,
        offset,
        immediate: 0,
    }
}

fn move_register(to: u8, from: u8) -> Instruction {
    Instruction {
        code: MOVE_REGISTER,
        registers: to | from << 4,
        offset: 0,
        immediate: 0,
    }
}

fn with_immediate(code: u8, register: u8, value: u32) -> Instruction {
    jump_over(code, register, value, 0)
}

fn jump_over(code: u8, register: u8, value: u32, offset: i16) -> Instruction {
    Instruction {
        code,
        registers: register,
        offset,
        immediate: value.cast_signed(),
    }
}

fn answer(allow: bool) -> [Instruction; 2] {
    [
        with_immediate(MOVE, RESULT, u32::from(allow)),
        with_immediate(EXIT, 0, 0),
    ]
}

/// Has a version 2 group answer as the rules say, instead of as earlier rules did.
pub(crate) fn apply(group: &Path, rules: &[DeviceRule]) -> Result<()> {
    let failed = |action| move |error: rustix::io::Errno| CgroupError::io(action, group, error);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(group, flags, Mode::empty()).map_err(failed("open"))?;
    let program = bpf::load(&Answers::of(rules).program())
        .map_err(failed("load the program of the device rules of"))?;
    let earlier =
        bpf::attached(directory.as_fd()).map_err(failed("ask for the device rules of"))?;
    // At every moment the old rules, the new ones or both hold.
    bpf::attach(directory.as_fd(), program.as_fd())
        .map_err(failed("attach the device rules to"))?;
    for program in earlier {
        bpf::detach(directory.as_fd(), program.as_fd())
            .map_err(failed("detach the earlier device rules of"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], request: [u32; 3]) -> u32 {
        let mut registers = [0_u64; 6];
        let mut at = 0;
        loop {
            let Instruction {
                code,
                registers: both,
                offset,
                immediate,
            } = program[at];
            let (to, from) = (usize::from(both & 15), usize::from(both >> 4));
            let value = u64::from(immediate.cast_unsigned());
            at += 1;
            let jumps = match code {
                LOAD_WORD => {
                    registers[to] = u64::from(request[usize::try_from(offset).unwrap() / 4]);
                    false
                }
                MOVE_REGISTER => {
                    registers[to] = registers[from];
                    false
                }
                MOVE => {
                    registers[to] = value;
                    false
                }
                AND => {
                    registers[to] &= value;
                    false
                }
                SHIFT_RIGHT => {
                    registers[to] >>= value;
                    false
                }
                IF_EQUAL => registers[to] == value,
                UNLESS_EQUAL => registers[to] != value,
                EXIT => return u32::try_from(registers[0]).unwrap(),
                _ => panic!("instruction {code:#x}"),
            };
            if jumps {
                at += usize::try_from(offset).unwrap();
            }
        }
    }

    /// What the kernel's version 1 answers (`devcgroup_legacy_check_permission`).
    fn expected(answers: &Answers, kind: u32, major: u32, minor: u32, access: u32) -> bool {
        let holds = answers.exceptions.iter().any(|exception| {
            let here = exception.kind == kind
                && exception.major.is_none_or(|known| known == major)
                && exception.minor.is_none_or(|known| known == minor);
            let far_enough = if answers.allow {
                access & exception.access != 0
            } else {
                access & !exception.access == 0
            };
            here && far_enough
        });
        holds != answers.allow
    }

    fn rule() -> impl Strategy<Value = DeviceRule> {
        let kind = prop::sample::select(vec![
            DeviceKind::All,
            DeviceKind::Character,
            DeviceKind::Block,
            DeviceKind::Character,
        ]);
        let number = || prop::option::of(0..3_u32);
        (any::<[bool; 4]>(), kind, number(), number()).prop_map(
            |([allow, read, write, mknod], kind, major, minor)| DeviceRule {
                allow,
                kind,
                major,
                minor,
                read,
                write,
                mknod,
            },
        )
    }

    proptest! {
        #[test]
        fn programs_answer_as_version_1(
            rules in prop::collection::vec(rule(), 0..12),
            kind in 1..3_u32,
            major in 0..4_u32,
            minor in 0..4_u32,
            access in 1..8_u32,
        ) {
            let answers = Answers::of(&rules);
            let request = [access << 16 | kind, major, minor];
            let answer = run(&answers.program(), request);
            prop_assert_eq!(answer == 1, expected(&answers, kind, major, minor, access));
        }
    }

    #[test]
    fn rules_become_exceptions() {
        let rule = |allow, kind, major, access: &str| DeviceRule {
            allow,
            kind,
            major,
            minor: None,
            read: access.contains('r'),
            write: access.contains('w'),
            mknod: access.contains('m'),
        };
        let answers = Answers::of(&[
            rule(true, DeviceKind::Block, None, "rwm"),
            rule(false, DeviceKind::All, None, "rwm"),
            rule(true, DeviceKind::Character, Some(1), "r"),
            rule(true, DeviceKind::Character, Some(1), "wm"),
            rule(true, DeviceKind::Character, Some(5), "rw"),
            rule(false, DeviceKind::Character, Some(5), "w"),
        ]);
        assert!(!answers.allow);
        let seen: Vec<_> = answers
            .exceptions
            .iter()
            .map(|one| (one.major, one.access))
            .collect();
        assert_eq!(seen, [(Some(1), EVERY), (Some(5), READ)]);
    }
}
