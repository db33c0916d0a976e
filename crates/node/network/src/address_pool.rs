//! Which subnet a network gets, and which address an endpoint.
//!
//! Pure: what is taken is handed in, so the state on disk stays the only truth.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use dhow_netlink::Prefix;

use crate::error::Error;
use crate::spec::{Pool, first};

/// Where default networks come from, as Docker has them: one /16 each of
/// 172.17 to 172.31, then one /20 each of 192.168.
fn defaults() -> impl Iterator<Item = Prefix> {
    let sixteens = (17..32u8).map(|second| Prefix {
        address: Ipv4Addr::new(172, second, 0, 0).into(),
        length: 16,
    });
    let twenties = (0..16u8).map(|third| Prefix {
        address: Ipv4Addr::new(192, 168, third * 16, 0).into(),
        length: 20,
    });
    sixteens.chain(twenties)
}

/// The first default subnet that overlaps nothing `taken`.
pub(crate) fn default_pool(taken: &[Prefix]) -> Result<Pool, Error> {
    let subnet = defaults()
        .find(|subnet| is_free(*subnet, taken))
        .ok_or(Error::PoolsExhausted)?;
    Ok(whole(subnet))
}

/// A unique local /64 (RFC 4193) derived from the network's identifier, that
/// overlaps nothing `taken`.
pub(crate) fn ipv6_pool(id: &str, taken: &[Prefix]) -> Result<Pool, Error> {
    let mut octets = [0u8; 16];
    octets[0] = 0xfd;
    for (octet, digits) in octets[1..8].iter_mut().zip(id.as_bytes().chunks(2)) {
        let text = std::str::from_utf8(digits).unwrap_or("0");
        *octet = u8::from_str_radix(text, 16).unwrap_or(0);
    }
    // The last sixteen bits number the subnets of one site.
    let site = u128::from_be_bytes(octets) & !(0xffff << 64);
    let number = u16::from_be_bytes([octets[6], octets[7]]);
    (0..=u16::MAX)
        .map(|step| Prefix {
            address: Ipv6Addr::from(site | u128::from(number.wrapping_add(step)) << 64).into(),
            length: 64,
        })
        .find(|subnet| is_free(*subnet, taken))
        .map(whole)
        .ok_or(Error::PoolsExhausted)
}

fn is_free(subnet: Prefix, taken: &[Prefix]) -> bool {
    !taken.iter().any(|other| other.overlaps(subnet))
}

fn whole(subnet: Prefix) -> Pool {
    Pool {
        subnet,
        range: None,
        gateway: first(subnet),
        auxiliary: BTreeMap::new(),
    }
}

/// The next address of `pool` after `last` that nobody in `taken` has; wraps
/// round, so that an address rests before it is given away again.
pub(crate) fn allocate(
    pool: &Pool,
    taken: &BTreeSet<IpAddr>,
    last: Option<IpAddr>,
) -> Result<IpAddr, Error> {
    let range = pool.range.unwrap_or(pool.subnet);
    let (low, high) = bounds(pool, range);
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let address = |number: u128| match pool.subnet.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::from(number as u32)),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from(number)),
    };
    let (low, high) = (number(low), number(high));
    let start = last
        .map(number)
        .filter(|last| (low..high).contains(last))
        .map_or(low, |last| last + 1);
    // No more steps than there are taken and reserved addresses can fail.
    (start..=high)
        .chain(low..start)
        .take(taken.len() + pool.auxiliary.len() + 2)
        .map(address)
        .find(|candidate| !pool.reserves(*candidate) && !taken.contains(candidate))
        .ok_or_else(|| Error::AddressesExhausted(range.to_string()))
}

/// The first and the last address of `range` that may name an endpoint: the
/// network's own address and its broadcast address do not.
fn bounds(pool: &Pool, range: Prefix) -> (IpAddr, IpAddr) {
    let mut low = range.network().address;
    let mut high = range.last();
    if low == pool.subnet.network().address {
        low = first(pool.subnet);
    }
    if let (IpAddr::V4(last), true) = (high, high == pool.subnet.last()) {
        high = IpAddr::V4((u32::from(last) - 1).into());
    }
    (low, high)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(subnet: &str) -> Pool {
        Pool::parse(subnet, None, None).expect("a pool")
    }

    #[test]
    fn default_pools_avoid_what_is_taken() {
        let taken: Vec<Prefix> = ["172.16.0.0/14", "172.20.5.0/24"]
            .map(|text| text.parse().expect("a prefix"))
            .into();
        let first = default_pool(&taken).expect("there is room");
        assert_eq!(first.subnet.to_string(), "172.21.0.0/16");
        let everything =
            ["172.16.0.0/12", "192.168.0.0/16"].map(|text| text.parse().expect("a prefix"));
        assert!(matches!(
            default_pool(&everything),
            Err(Error::PoolsExhausted)
        ));
    }

    #[test]
    fn ipv6_pools_are_unique_local_and_avoid_what_is_taken() {
        let id = "a1b2c3d4e5f60718";
        let pool = ipv6_pool(id, &[]).expect("there is room");
        assert_eq!(pool.subnet.to_string(), "fda1:b2c3:d4e5:f607::/64");
        assert_eq!(pool.gateway.to_string(), "fda1:b2c3:d4e5:f607::1");
        let next = ipv6_pool(id, &[pool.subnet]).expect("there is room");
        assert_eq!(next.subnet.to_string(), "fda1:b2c3:d4e5:f608::/64");
        let all = "fc00::/7".parse().expect("a prefix");
        assert!(matches!(ipv6_pool(id, &[all]), Err(Error::PoolsExhausted)));
    }

    /// What happens to a pool: an address is asked for, or the so-many-th that
    /// is taken comes back.
    #[derive(Debug, Clone)]
    enum Step {
        Take,
        GiveBack(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => Just(Step::Take),
            2 => (0usize..64).prop_map(Step::GiveBack),
        ];
        prop::collection::vec(step, 0..200)
    }

    proptest! {
        #[test]
        fn every_address_is_given_once_until_all_are(length in 24u8..=30, skip in 0usize..5) {
            let pool = pool(&format!("10.0.0.0/{length}"));
            let capacity = (1usize << (32 - length)) - 3;
            let mut taken = BTreeSet::new();
            let mut last = None;
            for _ in 0..capacity {
                let address = allocate(&pool, &taken, last).expect("there is room");
                prop_assert!(pool.subnet.contains(address));
                prop_assert!(address != pool.gateway && address != pool.subnet.last());
                prop_assert!(address != pool.subnet.network().address);
                prop_assert!(taken.insert(address));
                last = Some(address);
            }
            prop_assert!(allocate(&pool, &taken, last).is_err());
            if let Some(freed) = taken.iter().nth(skip.min(taken.len() - 1)).copied() {
                taken.remove(&freed);
                prop_assert_eq!(allocate(&pool, &taken, last).expect("one is free"), freed);
            }
        }

        /// Whatever the order of taking and giving back: never an address
        /// twice, never one outside of the range or reserved, and none refused
        /// while one is free.
        #[test]
        fn no_address_is_given_twice_or_from_outside(
            is_ipv4: bool,
            range_bits in 1u8..5,
            place in 0u8..8,
            kept in prop::collection::vec(0u8..64, 0..4),
            steps in steps(),
        ) {
            let (subnet, base) = if is_ipv4 { ("10.0.0.0/24", "10.0.0.") } else { ("fd00::/120", "fd00::") };
            let full = if is_ipv4 { 32 } else { 128 };
            let number = |n: u8| if is_ipv4 { format!("{base}{n}") } else { format!("{base}{n:x}") };
            let start = place << range_bits;
            let range = format!("{}/{}", number(start), full - range_bits);
            let mut pool = Pool::parse(subnet, Some(&range), None).expect("a pool");
            for (index, address) in kept.iter().enumerate() {
                pool = pool.with_auxiliary(&index.to_string(), &number(*address)).expect("inside");
            }
            let range = pool.range.expect("given");
            let usable: BTreeSet<IpAddr> = (0..=255u8)
                .map(|n| number(n).parse().expect("an address"))
                .filter(|one| range.contains(*one) && !pool.reserves(*one))
                .filter(|one| *one != pool.subnet.network().address)
                .filter(|one| !is_ipv4 || *one != pool.subnet.last())
                .collect();
            let (mut taken, mut last) = (BTreeSet::new(), None);
            for step in steps {
                match step {
                    Step::Take => match allocate(&pool, &taken, last) {
                        Ok(address) => {
                            prop_assert!(usable.contains(&address), "{address} of {range}");
                            prop_assert!(taken.insert(address), "{address} twice");
                            last = Some(address);
                        }
                        Err(_) => prop_assert_eq!(&taken, &usable),
                    },
                    Step::GiveBack(index) => {
                        let back = taken.iter().nth(index).copied();
                        back.map(|address| taken.remove(&address));
                    }
                }
            }
        }

        #[test]
        fn default_pools_overlap_nothing(taken in prop::collection::vec((0u32.., 8u8..=32), 0..40)) {
            let taken: Vec<Prefix> = taken
                .into_iter()
                .map(|(bits, length)| Prefix { address: Ipv4Addr::from(bits).into(), length }.network())
                .collect();
            if let Ok(pool) = default_pool(&taken) {
                prop_assert!(!taken.iter().any(|other| other.overlaps(pool.subnet)));
            }
        }
    }
}
