//! Sets of completion indexes in the form that a Job's status has: `1,3-5,7`.

use std::collections::BTreeSet;

/// Reads the form; what is not in it is left out, as are indexes beyond the
/// completions that are wanted.
pub(crate) fn parse(text: &str, completions: i32) -> BTreeSet<i32> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i32>(), last.parse::<i32>()) {
            indexes.extend(first.max(0)..=last.min(completions - 1));
        }
    }
    indexes
}

/// Writes the form; only runs of three and more become ranges, as upstream's.
pub(crate) fn print(indexes: &BTreeSet<i32>) -> String {
    let mut runs: Vec<(i32, i32)> = Vec::new();
    for index in indexes {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => runs.push((*index, *index)),
        }
    }
    let runs: Vec<String> = runs
        .into_iter()
        .map(|(first, last)| match last - first {
            0 => first.to_string(),
            1 => format!("{first},{last}"),
            _ => format!("{first}-{last}"),
        })
        .collect();
    runs.join(",")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_form_is_upstreams() {
        assert_eq!(print(&[1, 3, 4, 5, 7, 8].into()), "1,3-5,7,8");
        assert_eq!(parse("1,3-5,7,x,9-", 6), [1, 3, 4, 5].into());
        assert_eq!(print(&BTreeSet::new()), "");
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(indexes in prop::collection::btree_set(0i32..60, 0..40)) {
            prop_assert_eq!(parse(&print(&indexes), 60), indexes);
        }
    }
}
