//! Pieces of classic BPF over `struct seccomp_data`.

use dhow_sys::seccomp::Instruction;

use crate::spec::{Argument, Comparison};

/// Offsets into `struct seccomp_data`.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const RETURN: u16 = 0x06;
const JUMP: u16 = 0x05;
const EQUAL: u16 = 0x15;
const GREATER: u16 = 0x25;
const GREATER_OR_EQUAL: u16 = 0x35;

pub(super) fn load(offset: u32) -> Instruction {
    Instruction {
        code: LOAD,
        jt: 0,
        jf: 0,
        k: offset,
    }
}

pub(super) fn answer(value: u32) -> Instruction {
    Instruction {
        code: RETURN,
        jt: 0,
        jf: 0,
        k: value,
    }
}

/// Chooses between two pieces by `loaded >= bound`; the second follows the first.
pub(super) fn choose(
    bound: u32,
    below: Vec<Instruction>,
    from: &[Instruction],
) -> Vec<Instruction> {
    branch(GREATER_OR_EQUAL, bound, below, from)
}

/// Chooses between two pieces by `loaded == value`.
pub(super) fn choose_equal(
    value: u32,
    others: Vec<Instruction>,
    equal: &[Instruction],
) -> Vec<Instruction> {
    branch(EQUAL, value, others, equal)
}

fn branch(code: u16, k: u32, not: Vec<Instruction>, holds: &[Instruction]) -> Vec<Instruction> {
    let mut program = Vec::with_capacity(2 + not.len() + holds.len());
    if let Ok(jt) = u8::try_from(not.len()) {
        program.push(Instruction { code, jt, jf: 0, k });
    } else {
        // Conditions reach 255 instructions only; a plain jump reaches all.
        let reach = u32::try_from(not.len()).unwrap_or(u32::MAX);
        program.push(Instruction {
            code,
            jt: 0,
            jf: 1,
            k,
        });
        program.push(Instruction {
            code: JUMP,
            jt: 0,
            jf: 0,
            k: reach,
        });
    }
    program.extend(not);
    program.extend_from_slice(holds);
    program
}

/// Answers if every condition holds, falls through otherwise.
pub(super) fn guarded(conditions: &[Argument], value: u32) -> Vec<Instruction> {
    // From the back: each piece knows how far it is to the end.
    let mut program = vec![answer(value)];
    for condition in conditions.iter().rev() {
        let mut piece = condition_piece(condition, program.len());
        piece.extend(program);
        program = piece;
    }
    program
}

/// Code that falls through if a condition holds, and jumps over itself and
/// `n_after` further instructions if it does not.
fn condition_piece(condition: &Argument, n_after: usize) -> Vec<Instruction> {
    let low = ARGUMENTS + 8 * condition.index;
    let high = low + 4;
    let (value_high, value_low) = halves(condition.value);
    let (two_high, two_low) = halves(condition.value_two);
    // Each word: load, maybe mask, compare. `fail` and `hold` are where a
    // comparison goes; `next` is the following instruction.
    use Target::{Fail, Hold, Next};
    let compare = |code, k, jt, jf| Part::Compare { code, k, jt, jf };
    let parts = match condition.op {
        Comparison::Equal => vec![
            Part::Plain(load(high)),
            compare(EQUAL, value_high, Next, Fail),
            Part::Plain(load(low)),
            compare(EQUAL, value_low, Hold, Fail),
        ],
        Comparison::NotEqual => vec![
            Part::Plain(load(high)),
            compare(EQUAL, value_high, Next, Hold),
            Part::Plain(load(low)),
            compare(EQUAL, value_low, Fail, Hold),
        ],
        Comparison::MaskedEqual => vec![
            Part::Plain(load(high)),
            Part::Plain(Instruction {
                code: AND,
                jt: 0,
                jf: 0,
                k: value_high,
            }),
            compare(EQUAL, two_high, Next, Fail),
            Part::Plain(load(low)),
            Part::Plain(Instruction {
                code: AND,
                jt: 0,
                jf: 0,
                k: value_low,
            }),
            compare(EQUAL, two_low, Hold, Fail),
        ],
        Comparison::Greater => ordered(high, low, value_high, value_low, GREATER, Order::Above),
        Comparison::GreaterOrEqual => ordered(
            high,
            low,
            value_high,
            value_low,
            GREATER_OR_EQUAL,
            Order::Above,
        ),
        Comparison::Less => ordered(
            high,
            low,
            value_high,
            value_low,
            GREATER_OR_EQUAL,
            Order::Below,
        ),
        Comparison::LessOrEqual => ordered(high, low, value_high, value_low, GREATER, Order::Below),
    };
    let n_parts = parts.len();
    let place = |at: usize, target: Target| match target {
        Next => 0,
        Hold => n_parts - at - 1,
        Fail => n_parts - at - 1 + n_after,
    };
    // Six conditions are at most 6 * 6 instructions, so every distance fits.
    let distance = |at, target| u8::try_from(place(at, target)).unwrap_or(u8::MAX);
    parts
        .into_iter()
        .enumerate()
        .map(|(at, part)| match part {
            Part::Plain(instruction) => instruction,
            Part::Compare { code, k, jt, jf } => Instruction {
                code,
                jt: distance(at, jt),
                jf: distance(at, jf),
                k,
            },
        })
        .collect()
}

enum Order {
    Above,
    Below,
}

/// High words decide unless they are equal; then low words do by `code`.
fn ordered(high: u32, low: u32, of_high: u32, of_low: u32, code: u16, order: Order) -> Vec<Part> {
    use Target::{Fail, Hold, Next};
    let (above, not_above) = match order {
        Order::Above => (Hold, Fail),
        Order::Below => (Fail, Hold),
    };
    vec![
        Part::Plain(load(high)),
        Part::Compare {
            code: GREATER,
            k: of_high,
            jt: above,
            jf: Next,
        },
        Part::Compare {
            code: EQUAL,
            k: of_high,
            jt: Next,
            jf: not_above,
        },
        Part::Plain(load(low)),
        Part::Compare {
            code,
            k: of_low,
            jt: above,
            jf: not_above,
        },
    ]
}

enum Part {
    Plain(Instruction),
    Compare {
        code: u16,
        k: u32,
        jt: Target,
        jf: Target,
    },
}

#[derive(Clone, Copy)]
enum Target {
    Next,
    Hold,
    Fail,
}

fn halves(value: u64) -> (u32, u32) {
    // Deliberately the two words of it.
    ((value >> 32) as u32, value as u32)
}
