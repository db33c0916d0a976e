//! Rules to a program: a search tree over the numbers, conditions at its leaves.

use std::collections::BTreeMap;

use dhow_sys::seccomp::{Filter, Instruction, N_INSTRUCTIONS, NEW_LISTENER};

use super::assemble::{ARCHITECTURE, NUMBER, answer, choose, choose_equal, guarded, load};
use super::table::{NATIVE, Table};
use crate::spec::{Action, Argument, Seccomp};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

/// Why rules cannot be made a program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SeccompError {
    /// A condition on an argument that does not exist.
    #[error("system call argument {0}: there are six, numbered from 0")]
    Argument(u32),
    /// A flag this runtime does not know.
    #[error("unknown flag {0:?}")]
    Flag(String),
    /// A supervisor is asked about everything, so also about how it is reached.
    #[error("SCMP_ACT_NOTIFY cannot be the default action; name the calls it is for")]
    NotifyDefault,
    /// A supervisor is asked about the call by which it is reached.
    #[error(
        "SCMP_ACT_NOTIFY cannot be used for sendmsg: the runtime needs it to reach the listener"
    )]
    NotifySend,
    /// A supervisor is asked, and nobody says where it listens.
    #[error("SCMP_ACT_NOTIFY needs an absolute listenerPath, not {0:?}")]
    NoListener(String),
    /// Somebody listens, and is never asked.
    #[error("listenerPath and listenerMetadata need a rule with SCMP_ACT_NOTIFY")]
    NothingToHear,
    /// A flag of filters that ask.
    #[error("flag {0} needs a rule with SCMP_ACT_NOTIFY")]
    OnlyNotify(&'static str),
    /// More instructions than the kernel takes.
    #[error(
        "{0} instructions are more than the {N_INSTRUCTIONS} the kernel takes; use fewer rules"
    )]
    TooLong(usize),
}

/// Compiles rules for this machine.
///
/// Architectures that are not this machine's, and calls of an architecture not
/// listed, are answered with `ENOSYS`. So are calls with numbers above all that
/// the rules name where the default is an error: programs take that as "not
/// there" and fall back, while `EPERM` confuses them.
///
/// # Errors
///
/// [`SeccompError`]; names of calls that do not exist are no error.
pub fn compile(seccomp: &Seccomp) -> Result<Filter, SeccompError> {
    let mut architectures = vec![NATIVE];
    for architecture in &seccomp.architectures {
        if !architectures.contains(architecture) {
            architectures.push(*architecture);
        }
    }
    let unavailable = encode(Action::Errno, Some(ENOSYS));
    let mut program = vec![answer(unavailable)];
    for table in architectures.into_iter().rev().filter_map(Table::of) {
        let mut piece = vec![load(NUMBER)];
        piece.extend(tree(&intervals(seccomp, table)?));
        program = choose_equal(table.audit, program, &piece);
    }
    program.insert(0, load(ARCHITECTURE));
    if program.len() > N_INSTRUCTIONS {
        return Err(SeccompError::TooLong(program.len()));
    }
    let asks = if check_notify(seccomp)? {
        NEW_LISTENER
    } else {
        0
    };
    Ok(Filter {
        program,
        flags: flags(seccomp, asks)?,
    })
}

/// Whether the rules ask somebody; refuses what could not be answered.
fn check_notify(seccomp: &Seccomp) -> Result<bool, SeccompError> {
    if seccomp.default_action == Action::Notify {
        return Err(SeccompError::NotifyDefault);
    }
    let path = &seccomp.listener_path;
    if !seccomp.asks() {
        let nobody = path.is_empty() && seccomp.listener_metadata.is_empty();
        return if nobody {
            Ok(false)
        } else {
            Err(SeccompError::NothingToHear)
        };
    }
    let mut asked = seccomp
        .syscalls
        .iter()
        .filter(|rule| rule.action == Action::Notify)
        .flat_map(|rule| &rule.names);
    if asked.any(|name| name == "sendmsg") {
        return Err(SeccompError::NotifySend);
    }
    if path.starts_with('/') {
        Ok(true)
    } else {
        Err(SeccompError::NoListener(path.clone()))
    }
}

fn flags(seccomp: &Seccomp, asks: u32) -> Result<u32, SeccompError> {
    const WAIT_KILLABLE: &str = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
    seccomp.flags.iter().try_fold(asks, |flags, name| {
        Ok(flags
            | match name.as_str() {
                // All threads: there is one.
                "SECCOMP_FILTER_FLAG_TSYNC" => 0,
                "SECCOMP_FILTER_FLAG_LOG" => 1 << 1,
                "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => 1 << 2,
                WAIT_KILLABLE if asks == 0 => return Err(SeccompError::OnlyNotify(WAIT_KILLABLE)),
                WAIT_KILLABLE => 1 << 5,
                _ => return Err(SeccompError::Flag(name.clone())),
            })
    })
}

/// `SECCOMP_RET_*` of an action.
fn encode(action: Action, datum: Option<u32>) -> u32 {
    match action {
        Action::KillProcess => 0x8000_0000,
        Action::KillThread => 0,
        Action::Trap => 0x0003_0000,
        Action::Errno => 0x0005_0000 | datum.unwrap_or(EPERM) & 0xffff,
        Action::Trace => 0x7ff0_0000 | datum.unwrap_or(EPERM) & 0xffff,
        Action::Log => 0x7ffc_0000,
        Action::Allow => 0x7fff_0000,
        Action::Notify => 0x7fc0_0000,
    }
}

/// From this number on (to the next interval), this is done.
struct Interval {
    start: u32,
    code: Vec<Instruction>,
}

/// What the rules say of one call, in their order.
type Verdict = Vec<(Vec<Argument>, u32)>;

fn intervals(seccomp: &Seccomp, table: &Table) -> Result<Vec<Interval>, SeccompError> {
    let default = encode(seccomp.default_action, seccomp.default_errno_ret);
    let mut verdicts: BTreeMap<u32, Verdict> = BTreeMap::new();
    for rule in &seccomp.syscalls {
        let value = encode(rule.action, rule.errno_ret);
        if let Some(argument) = rule.args.iter().find(|argument| argument.index > 5) {
            return Err(SeccompError::Argument(argument.index));
        }
        let alternatives = alternatives(&rule.args);
        for number in rule.names.iter().filter_map(|name| table.number(name)) {
            let verdict = verdicts.entry(number).or_default();
            verdict.extend(alternatives.iter().map(|args| (args.clone(), value)));
        }
    }
    let above = match seccomp.default_action {
        Action::Errno => encode(Action::Errno, Some(ENOSYS)),
        _ => default,
    };
    let highest = verdicts.last_key_value().map(|(number, _)| *number);

    let mut intervals: Vec<Interval> = Vec::new();
    let mut push = |start: u32, code: Vec<Instruction>| {
        if intervals.last().is_none_or(|last| last.code != code) {
            intervals.push(Interval { start, code });
        }
    };
    let mut next = 0;
    for (number, verdict) in verdicts {
        if number > next {
            push(next, vec![answer(default)]);
        }
        push(number, leaf(&verdict, default));
        next = number + 1;
    }
    let rest = if highest.is_some() { above } else { default };
    push(next, vec![answer(rest)]);
    // Another convention under this one's name, which no rule speaks of.
    if let Some(first) = table.first_foreign {
        push(first, vec![answer(encode(Action::Errno, Some(ENOSYS)))]);
    }
    Ok(intervals)
}

/// Conditions on different arguments must all hold; of several on the same
/// argument one must, as runc has it.
fn alternatives(arguments: &[Argument]) -> Vec<Vec<Argument>> {
    let mut seen = [false; 6];
    let repeated = arguments.iter().any(|argument| {
        let at = argument.index as usize % 6;
        std::mem::replace(&mut seen[at], true)
    });
    if repeated {
        arguments
            .iter()
            .map(|argument| vec![argument.clone()])
            .collect()
    } else {
        vec![arguments.to_vec()]
    }
}

fn leaf(verdict: &Verdict, default: u32) -> Vec<Instruction> {
    let mut code = Vec::new();
    for (conditions, value) in verdict {
        code.extend(guarded(conditions, *value));
        if conditions.is_empty() {
            return code;
        }
    }
    code.push(answer(default));
    code
}

fn tree(intervals: &[Interval]) -> Vec<Instruction> {
    match intervals {
        [] => Vec::new(),
        [only] => only.code.clone(),
        _ => {
            let (below, from) = intervals.split_at(intervals.len() / 2);
            choose(from[0].start, tree(below), &tree(from))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Architecture, Comparison, SyscallRule};
    use proptest::prelude::*;

    /// Runs a program as the kernel would.
    fn run(program: &[Instruction], number: u32, arch: u32, args: [u64; 6]) -> u32 {
        let word = |offset: u32| match offset {
            0 => number,
            4 => arch,
            _ => {
                let value = args[(offset as usize - 16) / 8];
                if offset.is_multiple_of(8) {
                    value as u32
                } else {
                    (value >> 32) as u32
                }
            }
        };
        let (mut at, mut loaded) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let holds = match code {
                0x20 => {
                    loaded = word(k);
                    continue;
                }
                0x54 => {
                    loaded &= k;
                    continue;
                }
                0x06 => return k,
                0x05 => {
                    at += k as usize;
                    continue;
                }
                0x15 => loaded == k,
                0x25 => loaded > k,
                0x35 => loaded >= k,
                _ => panic!("instruction {code:#x}"),
            };
            at += usize::from(if holds { jt } else { jf });
        }
    }

    fn holds(argument: &Argument, args: &[u64; 6]) -> bool {
        let value = args[argument.index as usize];
        match argument.op {
            Comparison::NotEqual => value != argument.value,
            Comparison::Less => value < argument.value,
            Comparison::LessOrEqual => value <= argument.value,
            Comparison::Equal => value == argument.value,
            Comparison::GreaterOrEqual => value >= argument.value,
            Comparison::Greater => value > argument.value,
            Comparison::MaskedEqual => value & argument.value == argument.value_two,
        }
    }

    fn interesting() -> impl Strategy<Value = u64> {
        prop_oneof![
            0..4_u64,
            Just(u64::from(u32::MAX)),
            Just(1 << 32),
            Just((1 << 32) + 1),
            Just(u64::MAX),
        ]
    }

    fn argument() -> impl Strategy<Value = Argument> {
        let op = prop::sample::select(vec![
            Comparison::NotEqual,
            Comparison::Less,
            Comparison::LessOrEqual,
            Comparison::Equal,
            Comparison::GreaterOrEqual,
            Comparison::Greater,
            Comparison::MaskedEqual,
        ]);
        (0..6_u32, interesting(), interesting(), op).prop_map(|(index, value, value_two, op)| {
            Argument {
                index,
                value,
                value_two,
                op,
            }
        })
    }

    fn rule() -> impl Strategy<Value = SyscallRule> {
        let names = prop::collection::vec(
            prop::sample::select(vec![
                "read", "write", "open", "close", "stat", "clone3", "nonsense",
            ]),
            1..4,
        );
        let action = prop::sample::select(vec![Action::Allow, Action::Errno, Action::KillProcess]);
        (
            names,
            action,
            0..200_u32,
            prop::collection::vec(argument(), 0..4),
        )
            .prop_map(|(names, action, errno, args)| SyscallRule {
                names: names.into_iter().map(str::to_owned).collect(),
                action,
                errno_ret: Some(errno),
                args,
            })
    }

    proptest! {
        #[test]
        fn programs_answer_as_the_rules_say(
            rules in prop::collection::vec(rule(), 1..8),
            number in prop_oneof![0..8_u32, Just(435), Just(436), Just(0x4000_0000)],
            args in prop::array::uniform6(interesting()),
        ) {
            let seccomp = Seccomp {
                default_action: Action::Errno,
                default_errno_ret: None,
                architectures: vec![],
                flags: vec![],
                listener_path: String::new(),
                listener_metadata: String::new(),
                syscalls: rules.clone(),
            };
            let table = Table::of(NATIVE).unwrap();
            let numbers = |rule: &SyscallRule| -> Vec<u32> {
                rule.names.iter().filter_map(|name| table.number(name)).collect()
            };
            let named: Vec<u32> = rules.iter().flat_map(numbers).collect();
            let above = number == 0x4000_0000 || named.iter().max().is_some_and(|highest| number > *highest);
            let expected = rules
                .iter()
                .filter(|rule| numbers(rule).contains(&number))
                .find(|rule| alternatives(&rule.args).iter().any(|all| all.iter().all(|one| holds(one, &args))))
                .map(|rule| encode(rule.action, rule.errno_ret))
                .unwrap_or(if above { 0x0005_0000 | ENOSYS } else { 0x0005_0000 | EPERM });
            let filter = compile(&seccomp).unwrap();
            prop_assert_eq!(run(&filter.program, number, table.audit, args), expected);
            prop_assert_eq!(run(&filter.program, number, 1, args), 0x0005_0000 | ENOSYS);
        }
    }

    #[test]
    fn what_cannot_be_compiled_is_told() {
        let mut seccomp = super::super::docker_default::<&str>(&[]);
        seccomp.flags = vec!["SECCOMP_FILTER_FLAG_NONSENSE".to_owned()];
        assert!(matches!(compile(&seccomp), Err(SeccompError::Flag(_))));
        let waits = "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV";
        seccomp.flags = vec![waits.to_owned()];
        assert_eq!(compile(&seccomp), Err(SeccompError::OnlyNotify(waits)));
        seccomp.listener_path = "/run/agent.sock".to_owned();
        assert_eq!(compile(&seccomp), Err(SeccompError::NothingToHear));
        let mut rule = SyscallRule {
            names: vec!["mkdir".to_owned()],
            action: Action::Notify,
            errno_ret: None,
            args: vec![],
        };
        seccomp.syscalls.insert(0, rule.clone());
        assert_eq!(compile(&seccomp).unwrap().flags, NEW_LISTENER | 1 << 5);
        seccomp.listener_path = "agent.sock".to_owned();
        assert!(matches!(
            compile(&seccomp),
            Err(SeccompError::NoListener(_))
        ));
        rule.names.push("sendmsg".to_owned());
        seccomp.syscalls.push(rule);
        assert_eq!(compile(&seccomp), Err(SeccompError::NotifySend));
        seccomp.default_action = Action::Notify;
        assert_eq!(compile(&seccomp), Err(SeccompError::NotifyDefault));
    }

    /// Regression: rules that refuse a few calls did not reach the same calls by
    /// their x32 numbers.
    #[test]
    #[cfg(target_arch = "x86_64")]
    fn calls_have_no_second_name() {
        let refused = SyscallRule {
            names: vec!["mount".to_owned()],
            action: Action::Errno,
            errno_ret: None,
            args: vec![],
        };
        let seccomp = Seccomp {
            default_action: Action::Allow,
            default_errno_ret: None,
            architectures: vec![Architecture::X32],
            flags: vec![],
            listener_path: String::new(),
            listener_metadata: String::new(),
            syscalls: vec![refused],
        };
        let filter = compile(&seccomp).unwrap();
        let table = Table::of(NATIVE).unwrap();
        let mount = table.number("mount").unwrap();
        let ask = |number| run(&filter.program, number, table.audit, [0; 6]);
        assert_eq!(ask(mount), 0x0005_0000 | EPERM);
        assert_eq!(ask(mount | 0x4000_0000), 0x0005_0000 | ENOSYS);
        assert_eq!(ask(0x3fff_ffff), 0x7fff_0000);
    }

    #[test]
    fn the_default_profile_is_small_and_right() {
        let filter = compile(&super::super::docker_default::<&str>(&[])).unwrap();
        assert!(filter.program.len() < 1000, "{}", filter.program.len());
        let table = Table::of(NATIVE).unwrap();
        let ask = |name: &str, args: [u64; 6]| {
            run(
                &filter.program,
                table.number(name).unwrap(),
                table.audit,
                args,
            )
        };
        let none = [0; 6];
        assert_eq!(ask("read", none), 0x7fff_0000);
        assert_eq!(ask("mount", none), 0x0005_0001);
        assert_eq!(ask("clone3", none), 0x0005_0000 | ENOSYS);
        assert_eq!(ask("clone", [0x11, 0, 0, 0, 0, 0]), 0x7fff_0000);
        assert_eq!(ask("clone", [0x1000_0000, 0, 0, 0, 0, 0]), 0x0005_0001);
        assert_eq!(ask("socket", [40, 0, 0, 0, 0, 0]), 0x0005_0001);
        assert_eq!(ask("socket", [2, 0, 0, 0, 0, 0]), 0x7fff_0000);
        if let Some(table) = Table::of(Architecture::X86) {
            let number = table.number("mount").unwrap();
            assert_eq!(run(&filter.program, number, table.audit, none), 0x0005_0001);
        }
        let filter = compile(&super::super::docker_default(&["CAP_SYS_ADMIN"])).unwrap();
        let ask = |name| {
            run(
                &filter.program,
                table.number(name).unwrap(),
                table.audit,
                none,
            )
        };
        assert_eq!((ask("mount"), ask("clone3")), (0x7fff_0000, 0x7fff_0000));
    }
}
