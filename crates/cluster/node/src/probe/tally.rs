//! Counting answers: how many in a row make a difference.

/// Answers of one probe.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    n_successes: u32,
    n_failures: u32,
    /// What is believed; nothing before enough answers.
    believed: Option<bool>,
    last: bool,
    in_a_row: u32,
}

impl Tally {
    /// So many successes, or failures, in a row are believed.
    pub(super) fn new(n_successes: u32, n_failures: u32) -> Self {
        Self {
            n_successes,
            n_failures,
            believed: None,
            last: false,
            in_a_row: 0,
        }
    }

    /// Believes something without having asked.
    pub(super) fn assume(&mut self, good: bool) {
        self.believed = Some(good);
    }

    /// Takes an answer; what is believed from now on, if that is new.
    pub(super) fn count(&mut self, good: bool) -> Option<bool> {
        if self.last == good {
            self.in_a_row = self.in_a_row.saturating_add(1);
        } else {
            self.last = good;
            self.in_a_row = 1;
        }
        let enough = if good {
            self.n_successes
        } else {
            self.n_failures
        };
        if self.in_a_row < enough || self.believed == Some(good) {
            return None;
        }
        self.believed = Some(good);
        Some(good)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn enough_in_a_row_make_a_difference() {
        let mut tally = Tally::new(2, 3);
        tally.assume(true);
        let turns: Vec<Option<bool>> = [false, false, true, false, false, false, false, true, true]
            .into_iter()
            .map(|answer| tally.count(answer))
            .collect();
        let expected = [
            None,
            None,
            None,
            None,
            None,
            Some(false),
            None,
            None,
            Some(true),
        ];
        assert_eq!(turns, expected);
    }

    proptest! {
        /// A turn is always away from what was believed, and only after as
        /// many answers in a row as were asked for.
        #[test]
        fn turns_alternate(answers: Vec<bool>, successes in 1..5_u32, failures in 1..5_u32) {
            let mut tally = Tally::new(successes, failures);
            let mut believed = None;
            for (index, answer) in answers.iter().enumerate() {
                if let Some(turn) = tally.count(*answer) {
                    prop_assert_ne!(believed, Some(turn));
                    let enough = if turn { successes } else { failures } as usize;
                    prop_assert!(index + 1 >= enough);
                    let row = &answers[index + 1 - enough..=index];
                    prop_assert!(row.iter().all(|one| *one == turn));
                    believed = Some(turn);
                }
            }
        }
    }
}
