//! Chain ids: the name of a stack of layers (OCI image specification,
//! "Layer ChainID").

use crate::Digest;

/// The chain id of the whole stack, or nothing for an empty one.
pub fn chain_id(diff_ids: &[Digest]) -> Option<Digest> {
    let mut stack = diff_ids.iter();
    let bottom = stack.next()?.clone();
    Some(stack.fold(bottom, |below, diff_id| join(&below, diff_id)))
}

/// The chain id after each layer, bottom first.
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let id = match chain.last() {
            None => diff_id.clone(),
            Some(below) => join(below, diff_id),
        };
        chain.push(id);
    }
    chain
}

fn join(below: &Digest, diff_id: &Digest) -> Digest {
    Digest::of(format!("{below} {diff_id}").as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn follows_the_specification() {
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        assert_eq!(chain_id(&[]), None);
        assert_eq!(chain_id(std::slice::from_ref(&a)), Some(a.clone()));
        let both = Digest::of(format!("{a} {b}").as_bytes());
        assert_eq!(chain_id(&[a, b]), Some(both));
    }

    proptest! {
        #[test]
        fn every_prefix_has_its_own_name(seeds in proptest::collection::vec(any::<u8>(), 1..20)) {
            let diff_ids: Vec<Digest> = seeds.iter().map(|seed| Digest::of(&[*seed])).collect();
            let chain = chain_ids(&diff_ids);
            prop_assert_eq!(chain.last().cloned(), chain_id(&diff_ids));
            for n in 1..=diff_ids.len() {
                prop_assert_eq!(Some(chain[n - 1].clone()), chain_id(&diff_ids[..n]));
            }
            let distinct: std::collections::HashSet<_> = chain.iter().collect();
            prop_assert_eq!(distinct.len(), chain.len());
        }
    }
}
