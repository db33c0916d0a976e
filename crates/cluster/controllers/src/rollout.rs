//! How a Deployment moves from old to new: arithmetic, nothing else.
//!
//! The promise is upstream's: while pods are replaced there are at most
//! `desired + surge` of them, and at least `desired - unavailable` are
//! available.

use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// One ReplicaSet's numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Set {
    /// Pods it was told to have.
    pub wanted: i32,
    /// Pods it has that have been ready for long enough.
    pub available: i32,
}

/// How many pods may be too many and too few during a rollout.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Pods above the desired number.
    pub surge: i32,
    /// Pods below the desired number that may be unavailable.
    pub unavailable: i32,
}

impl Bounds {
    /// Resolves numbers and percentages: the surge is rounded up, the
    /// unavailable down; when both come to zero one may be unavailable, or
    /// nothing would ever move.
    pub fn resolve(
        surge: Option<&IntOrString>,
        unavailable: Option<&IntOrString>,
        desired: i32,
    ) -> Self {
        let quarter = IntOrString::String("25%".into());
        let surge = scaled(surge.unwrap_or(&quarter), desired, Rounding::Up);
        let mut unavailable = scaled(unavailable.unwrap_or(&quarter), desired, Rounding::Down);
        if surge == 0 && unavailable == 0 {
            unavailable = 1;
        }
        Self {
            surge,
            unavailable: unavailable.min(desired),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Up,
    Down,
}

fn scaled(value: &IntOrString, of: i32, rounding: Rounding) -> i32 {
    match value {
        IntOrString::Int(number) => (*number).max(0),
        IntOrString::String(text) => {
            let percent: i64 = text
                .trim_end_matches('%')
                .parse::<i64>()
                .unwrap_or(0)
                .clamp(0, 1_000_000);
            let product = percent * i64::from(of.max(0));
            let share = match rounding {
                Rounding::Up => (product + 99) / 100,
                Rounding::Down => product / 100,
            };
            i32::try_from(share).unwrap_or(i32::MAX)
        }
    }
}

/// The next numbers of a rolling update: of the new set, and of the old ones
/// in the order given (oldest first).
pub fn next(desired: i32, bounds: Bounds, new: Set, old: &[Set]) -> (i32, Vec<i32>) {
    let old_wanted: i32 = old.iter().map(|set| set.wanted).sum();
    let most = desired + bounds.surge;

    // Up as far as the ceiling lets it.
    let new_wanted = if new.wanted >= desired {
        desired
    } else {
        let room = (most - new.wanted - old_wanted).max(0);
        (new.wanted + room).min(desired)
    };

    // Down as far as the floor lets them: first pods that serve nobody.
    let least = desired - bounds.unavailable;
    let mut next: Vec<i32> = old.iter().map(|set| set.wanted).collect();
    let new_unavailable = new_wanted - new.available.min(new_wanted);
    let mut budget = (new_wanted + old_wanted - least - new_unavailable).max(0);
    for (wanted, set) in next.iter_mut().zip(old) {
        let broken = (set.wanted - set.available).clamp(0, *wanted).min(budget);
        *wanted -= broken;
        budget -= broken;
    }
    let old_available: i32 = old.iter().map(|set| set.available.min(set.wanted)).sum();
    let mut spare = (new.available.min(new_wanted) + old_available - least)
        .max(0)
        .min(budget);
    for wanted in &mut next {
        let taken = spare.min(*wanted);
        *wanted -= taken;
        spare -= taken;
    }
    (new_wanted, next)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentages_round_as_upstream_has_them() {
        let percent = |text: &str| IntOrString::String(text.into());
        let bounds = Bounds::resolve(Some(&percent("25%")), Some(&percent("25%")), 3);
        assert_eq!(
            bounds,
            Bounds {
                surge: 1,
                unavailable: 0
            }
        );
        let zero = IntOrString::Int(0);
        let bounds = Bounds::resolve(Some(&zero), Some(&percent("10%")), 3);
        assert_eq!(
            bounds,
            Bounds {
                surge: 0,
                unavailable: 1
            }
        );
    }

    proptest! {
        /// Whatever fails on the way, the bounds hold at each step; and when
        /// pods become available in the end, the rollout ends.
        #[test]
        fn a_rollout_keeps_its_promise_and_ends(
            desired in 0i32..30,
            surge in 0i32..10,
            unavailable in 0i32..10,
            old in prop::collection::vec(0i32..15, 0..4),
            luck in prop::collection::vec(0i32..=3, 40),
        ) {
            let bounds = Bounds::resolve(
                Some(&IntOrString::Int(surge)),
                Some(&IntOrString::Int(unavailable)),
                desired,
            );
            let mut new = Set::default();
            let mut old: Vec<Set> =
                old.iter().map(|wanted| Set { wanted: *wanted, available: *wanted }).collect();
            let total: i32 = old.iter().map(|set| set.wanted).sum();
            for step in 0..400 {
                let available = new.available + old.iter().map(|set| set.available).sum::<i32>();
                let (wanted, olds) = next(desired, bounds, new, &old);
                prop_assert!(wanted <= desired);
                let after = wanted + olds.iter().sum::<i32>();
                prop_assert!(after <= (desired + bounds.surge).max(total));
                for (set, wanted) in old.iter_mut().zip(&olds) {
                    prop_assert!(*wanted <= set.wanted, "an old set never grows");
                    // A set gives up its unavailable pods first.
                    set.available = set.available.min(*wanted);
                    set.wanted = *wanted;
                }
                new.wanted = wanted;
                new.available = new.available.min(wanted);
                let left = new.available + old.iter().map(|set| set.available).sum::<i32>();
                let least = desired - bounds.unavailable;
                prop_assert!(left >= least.min(available), "{left} of at least {least}");
                // Some of the new pods come up, sooner or later.
                let luck = luck.get(step).copied().unwrap_or(3);
                new.available = (new.available + luck).min(new.wanted);
            }
            prop_assert_eq!(new.wanted, desired);
            prop_assert!(old.iter().all(|set| set.wanted == 0));
        }
    }
}
