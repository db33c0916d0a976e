//! The tables in the kernel: replaced whole, changed by differences, removed.
//!
//! All sockets belong to the network namespace in which they were opened.

use std::collections::BTreeSet;
use std::net::IpAddr;

use dhow_netlink::{Error, IsIpv4, Prefix, Socket};
use dhow_nft::{Element, Family, Table, Touched, Transaction, Watch, learned, tables};

use crate::elements::{Elements, sets};
use crate::flows::is_stale;
use crate::rules::{Pods, add_chains, add_pick, add_stay};
use crate::services::{Frontends, Protocol};

const FAMILIES: [Family; 2] = [Family::Ip, Family::Ip6];

/// Removes the tables named `table`, there or not, in the caller's network
/// namespace. Connections that they translated go on.
///
/// # Errors
///
/// The kernel's refusal.
pub fn remove(table: &str) -> Result<(), Error> {
    let socket = Socket::netfilter()?;
    for family in FAMILIES {
        let table = Table {
            family,
            name: table.into(),
        };
        remove_table(&socket, &table)?;
    }
    Ok(())
}

/// What the kernel holds of one family.
#[derive(Debug)]
struct Held {
    table: Table,
    /// `None` when it is not known, which makes the next change a replacement.
    elements: Option<Elements>,
}

/// The proxy's tables and the sockets that lead to them.
#[derive(Debug)]
pub(crate) struct Kernel {
    socket: Socket,
    port: u32,
    name: String,
    pods: Vec<Prefix>,
    held: Vec<Held>,
    /// Whom flows were last compared with.
    frontends: Frontends,
}

impl Kernel {
    pub(crate) fn open(table: &str, pods: Vec<Prefix>) -> Result<Self, Error> {
        let socket = Socket::netfilter()?;
        Ok(Self {
            port: socket.port()?,
            socket,
            name: table.into(),
            pods,
            held: FAMILIES
                .map(|family| Held {
                    table: Table {
                        family,
                        name: table.into(),
                    },
                    elements: None,
                })
                .into(),
            frontends: Frontends::default(),
        })
    }

    /// Makes the tables hold what `frontends` needs; each table changes in one
    /// transaction. Flows of datagrams that lead elsewhere are forgotten.
    pub(crate) fn apply(&mut self, frontends: Frontends) -> Result<(), Error> {
        for held in &mut self.held {
            let family = held.table.family;
            let desired = Elements::desired(family, &frontends, &self.pods);
            match held.elements.take() {
                // A family that nobody uses needs no table, and may be switched
                // off on this machine.
                old if desired.is_empty() => {
                    if old.is_none_or(|old| !old.is_empty()) {
                        remove_table(&self.socket, &held.table)?;
                    }
                }
                Some(old) if !old.is_empty() => {
                    change(&self.socket, &held.table, &old, &desired)?;
                    if old.sticky.difference(&desired.sticky).next().is_some() {
                        forget_clients(&self.socket, &held.table, &desired)?;
                    }
                }
                _ => replace(&self.socket, &held.table, &desired)?,
            }
            held.elements = Some(desired);
        }
        let old = std::mem::replace(&mut self.frontends, frontends);
        self.forget_stale(&old)
    }

    fn forget_stale(&self, old: &Frontends) -> Result<(), Error> {
        let new = &self.frontends;
        let changed: BTreeSet<_> = old
            .balances
            .keys()
            .chain(new.balances.keys())
            .filter(|frontend| old.balances.get(frontend) != new.balances.get(frontend))
            .filter(|frontend| frontend.protocol == Protocol::Udp)
            .collect();
        for family in [IsIpv4::Yes, IsIpv4::No] {
            let is_ours = |address: IpAddr| address.is_ipv4() == (family == IsIpv4::Yes);
            if !changed.iter().any(|frontend| is_ours(frontend.address)) {
                continue;
            }
            let mut stale = self.socket.flows(family, Protocol::Udp as u8)?;
            stale.retain(|flow| is_stale(flow, old, new));
            self.socket.forget_flows(&stale)?;
        }
        Ok(())
    }

    /// Takes note that the tables may not hold what they did.
    pub(crate) fn distrust(&mut self) {
        for held in &mut self.held {
            held.elements = None;
        }
    }

    /// Whether somebody else changed our tables, as far as `watch` heard.
    pub(crate) fn is_touched(&self, watch: &Watch) -> Result<bool, Error> {
        match watch.look(&self.name, self.port)? {
            Touched::No => Ok(false),
            Touched::Yes => Ok(true),
            Touched::Unknown => self.is_missing(),
        }
    }

    /// Whether one of our tables is gone.
    pub(crate) fn is_missing(&self) -> Result<bool, Error> {
        for held in &self.held {
            let is_wanted = held
                .elements
                .as_ref()
                .is_some_and(|elements| !elements.is_empty());
            if is_wanted && !is_there(&self.socket, &held.table)? {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

fn is_there(socket: &Socket, table: &Table) -> Result<bool, Error> {
    Ok(tables(socket, table.family)?.contains(&table.name))
}

fn remove_table(socket: &Socket, table: &Table) -> Result<(), Error> {
    if !is_there(socket, table)? {
        return Ok(());
    }
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table();
    transaction.commit(socket)
}

fn replace(socket: &Socket, table: &Table, elements: &Elements) -> Result<(), Error> {
    let pods = if elements.of("pods").next().is_some() {
        Pods::Known
    } else {
        Pods::Unknown
    };
    let mut transaction = Transaction::new(table.clone());
    transaction.remove_table().add_table();
    for set in sets(table.family) {
        transaction.add_set(&set);
    }
    add_chains(&mut transaction, table.family, pods);
    for pick in &elements.picks {
        add_pick(&mut transaction, table.family, *pick);
    }
    for stay in &elements.stays {
        add_stay(&mut transaction, table.family, *stay);
    }
    for set in sets(table.family) {
        let wanted: Vec<Element> = elements.of(set.name).cloned().collect();
        transaction.add_elements(set.name, &wanted);
    }
    transaction.commit(socket)
}

fn change(socket: &Socket, table: &Table, old: &Elements, new: &Elements) -> Result<(), Error> {
    if old == new {
        return Ok(());
    }
    let mut transaction = Transaction::new(table.clone());
    for pick in new.picks.difference(&old.picks) {
        add_pick(&mut transaction, table.family, *pick);
    }
    for stay in new.stays.difference(&old.stays) {
        add_stay(&mut transaction, table.family, *stay);
    }
    for set in sets(table.family) {
        let (before, after): (BTreeSet<_>, BTreeSet<_>) =
            (old.of(set.name).collect(), new.of(set.name).collect());
        let gone: Vec<Element> = before.difference(&after).map(|e| (*e).clone()).collect();
        let come: Vec<Element> = after.difference(&before).map(|e| (*e).clone()).collect();
        transaction
            .delete_elements(set.name, &gone)
            .add_elements(set.name, &come);
    }
    let picks = old.picks.difference(&new.picks).map(|pick| pick.chain());
    let stays = old.stays.difference(&new.stays).map(|stay| stay.chain());
    for chain in picks.chain(stays) {
        transaction.flush_chain(&chain).delete_chain(&chain);
    }
    transaction.commit(socket)
}

/// Forgets clients of targets that are gone. One that comes while this happens
/// may be learnt again with its old target, so it is looked until none is left.
fn forget_clients(socket: &Socket, table: &Table, elements: &Elements) -> Result<(), Error> {
    loop {
        let clients = learned(socket, table, "affinity")?;
        let stale: Vec<Element> = clients
            .into_iter()
            .filter_map(|client| match client {
                Element::Map(key, target) => {
                    (!elements.knows(table.family, &key, &target)).then_some(Element::Key(key))
                }
                _ => None,
            })
            .collect();
        if stale.is_empty() {
            return Ok(());
        }
        let mut transaction = Transaction::new(table.clone());
        transaction.delete_elements("affinity", &stale);
        match transaction.commit(socket) {
            // One whose time was up meanwhile fails the transaction.
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::time::Instant;

    use dhow_netlink::Namespace;
    use proptest::prelude::*;
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;

    use super::*;
    use crate::services::{Balance, Frontend, Source, WhenEmpty};

    /// Runs `body` in a network namespace of its own, which goes with its pin
    /// even when `body` panics.
    fn in_namespace<T: Send>(body: impl FnOnce() -> T + Send) -> T {
        struct Pin(std::path::PathBuf);
        impl Drop for Pin {
            fn drop(&mut self) {
                let _ = Namespace::remove_pinned(&self.0);
            }
        }
        let folder = tempfile::tempdir().expect("a folder");
        let pin = Pin(folder.path().join("node"));
        let namespace = Namespace::create_pinned(&pin.0).expect("needs root");
        namespace.run(body).expect("enter")
    }

    /// Services with three endpoints each, numbered from `first`.
    fn many(first: u32, count: u32) -> Frontends {
        let mut frontends = Frontends::default();
        for number in first..first + count {
            let [_, _, high, low] = number.to_be_bytes();
            let address = IpAddr::from([10, 96, high, low]);
            frontends.cluster_ips.insert(address);
            let targets = (1..=3).map(|pod| SocketAddr::from(([10, pod, high, low], 8080)));
            let balance = Balance {
                targets: targets.collect(),
                inside: None,
                affinity: None,
                source: Source::Kept,
                allowed: Vec::new(),
                when_empty: WhenEmpty::Reject,
            };
            let frontend = Frontend {
                address,
                protocol: Protocol::Tcp,
                port: 80,
            };
            frontends.balances.insert(frontend, balance);
        }
        frontends
    }

    /// Lines of `nft` that are rules: neither sets nor braces.
    fn n_rules() -> usize {
        let output = std::process::Command::new("nft")
            .args(["--stateless", "--terse", "list", "table", "ip", "many"])
            .output()
            .expect("nft is installed (Debian package nftables)");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(text.contains("chain dispatch"), "{output:?}");
        text.lines()
            .skip_while(|line| !line.trim_start().starts_with("chain"))
            .filter(|line| !line.trim().is_empty() && !line.contains(['{', '}']))
            .count()
    }

    fn some_targets() -> impl Strategy<Value = Vec<SocketAddr>> {
        proptest::collection::btree_set(1u8..5, 0..5).prop_map(|numbers| {
            let targets = numbers.into_iter();
            targets
                .map(|number| SocketAddr::from(([10, 1, 0, number], 8080)))
                .collect()
        })
    }

    fn some_balance() -> impl Strategy<Value = Balance> {
        let affinity = prop_oneof![Just(None), Just(Some(60)), Just(Some(90))];
        let source = prop_oneof![Just(Source::Kept), Just(Source::Masqueraded)];
        let when_empty = prop_oneof![Just(WhenEmpty::Reject), Just(WhenEmpty::Drop)];
        let inside = proptest::option::of(some_targets());
        let allowed = prop_oneof![
            Just(vec![]),
            Just(vec!["192.0.2.0/24"]),
            Just(vec!["192.0.2.0/25", "10.0.0.0/8"])
        ];
        let parts = (
            some_targets(),
            inside,
            affinity,
            source,
            allowed,
            when_empty,
        );
        parts.prop_map(
            |(targets, inside, affinity, source, allowed, when_empty)| Balance {
                targets,
                inside,
                affinity,
                source,
                allowed: allowed
                    .into_iter()
                    .map(|range| range.parse().expect("a prefix"))
                    .collect(),
                when_empty,
            },
        )
    }

    fn some_frontends() -> impl Strategy<Value = Frontends> {
        let address = prop_oneof![
            Just(IpAddr::from([0, 0, 0, 0])),
            (1u8..4).prop_map(|number| IpAddr::from([10, 96, 0, number])),
        ];
        let protocol = prop_oneof![
            Just(Protocol::Tcp),
            Just(Protocol::Udp),
            Just(Protocol::Sctp)
        ];
        let frontend =
            (address, protocol, 80u16..82).prop_map(|(address, protocol, port)| Frontend {
                address,
                protocol,
                port,
            });
        proptest::collection::btree_map(frontend, some_balance(), 0..10).prop_map(|balances| {
            let addresses = balances.keys().map(|frontend| frontend.address);
            Frontends {
                cluster_ips: addresses.filter(|ip| !ip.is_unspecified()).collect(),
                balances,
            }
        })
    }

    /// The words of a table, in whatever order chains and elements came.
    fn words(table: &str) -> Vec<String> {
        let output = std::process::Command::new("nft")
            .args(["--stateless", "list", "table", "ip", table])
            .output()
            .expect("nft is installed (Debian package nftables)");
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("nft prints text");
        let words = text.split([',', ' ', '\n', '\t']);
        let mut words: Vec<String> = words
            .filter(|word| !word.is_empty() && *word != table)
            .map(str::to_owned)
            .collect();
        words.sort();
        words
    }

    /// Whatever came before: what changes lead to is what a replacement makes.
    #[test]
    fn changes_lead_to_what_a_replacement_makes() {
        in_namespace(|| {
            let pods = vec!["10.1.0.0/16".parse().expect("a prefix")];
            let mut changed = Kernel::open("changed", pods.clone()).expect("a kernel");
            let mut replaced = Kernel::open("replaced", pods).expect("a kernel");
            let mut runner = TestRunner::deterministic();
            for _ in 0..40 {
                let state = some_frontends().new_tree(&mut runner).expect("a value");
                let state = state.current();
                changed.apply(state.clone()).expect("applied");
                replaced.distrust();
                replaced.apply(state.clone()).expect("applied");
                assert_eq!(words("changed"), words("replaced"), "{state:#?}");
            }
        });
    }

    #[test]
    fn a_thousand_services_are_elements_only() {
        let measured = in_namespace(|| {
            let mut kernel = Kernel::open("many", Vec::new()).expect("a kernel");
            kernel.apply(many(0, 1)).expect("applied");
            let rules_of_one = n_rules();
            kernel.distrust();
            let began = Instant::now();
            kernel.apply(many(0, 1000)).expect("applied");
            let whole = began.elapsed();
            assert_eq!(n_rules(), rules_of_one);
            let began = Instant::now();
            kernel.apply(many(1, 1000)).expect("applied");
            let one = began.elapsed();
            assert_eq!(n_rules(), rules_of_one);
            kernel.apply(Frontends::default()).expect("applied");
            let left = tables(&kernel.socket, Family::Ip).expect("tables");
            assert_eq!(left, [""; 0], "without Services there is no table");
            kernel.apply(many(0, 1)).expect("applied");
            remove("many").expect("removed");
            (whole, one)
        });
        let (whole, one) = measured;
        println!("1,000 Services: whole table {whole:?}, one going and one coming {one:?}");
        // Far from what is measured, so that only another order is a failure.
        assert!(whole.as_millis() < 5000 && one.as_millis() < 5000);
    }

    /// Everything on one machine without links: endpoints are addresses of its
    /// own, and what is bound elsewhere is routed to nowhere.
    fn on_an_ipv6_machine(body: impl FnOnce() + Send) {
        use dhow_netlink::{Batch, Route};

        in_namespace(|| {
            let mut batch = Batch::new();
            batch.set_up(1);
            for number in 1..=3 {
                let address = format!("fd00:1::{number}/128");
                batch.add_address(1, address.parse().expect("a prefix"));
            }
            batch.add_route(Route {
                destination: "fd00:96::/64".parse().expect("a prefix"),
                gateway: None,
                link: 1,
            });
            let route = Socket::route().expect("a socket");
            route.run(&mut batch).expect("the kernel takes it");
            body();
        });
    }

    #[test]
    fn ipv6_has_the_same_rules() {
        use std::io::{self, Read, Write};
        use std::net::{TcpListener, TcpStream, UdpSocket};

        on_an_ipv6_machine(|| {
            for number in 1..=3u8 {
                let at = format!("[fd00:1::{number}]:8080");
                let listener = TcpListener::bind(at).expect("a listener");
                std::thread::spawn(move || {
                    for mut stream in listener.incoming().flatten() {
                        let _ = stream.write_all(&[number]);
                    }
                });
            }
            let ask = |to: &str| {
                let mut said = [0];
                TcpStream::connect(to)?.read_exact(&mut said)?;
                io::Result::Ok(said[0])
            };
            let often = |to: &str| -> BTreeSet<u8> {
                (0..60).map(|_| ask(to).expect("an answer")).collect()
            };
            let frontend = |address: &str, protocol, port| Frontend {
                address: address.parse().expect("an address"),
                protocol,
                port,
            };
            let balance = |targets: &[u8], affinity| Balance {
                targets: targets
                    .iter()
                    .map(|number| format!("[fd00:1::{number}]:8080"))
                    .map(|target| target.parse().expect("an address"))
                    .collect(),
                inside: None,
                affinity,
                source: Source::Masqueraded,
                allowed: Vec::new(),
                when_empty: WhenEmpty::Reject,
            };
            let mut frontends = Frontends::default();
            let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
            frontends.cluster_ips = [ip("fd00:96::1"), ip("fd00:96::2"), ip("fd00:96::3")].into();
            frontends.balances = [
                (
                    frontend("fd00:96::1", Protocol::Tcp, 80),
                    balance(&[1, 2, 3], None),
                ),
                (
                    frontend("fd00:96::2", Protocol::Tcp, 80),
                    balance(&[1, 2, 3], Some(60)),
                ),
                (
                    frontend("fd00:96::3", Protocol::Tcp, 80),
                    balance(&[], None),
                ),
                (
                    frontend("fd00:96::3", Protocol::Udp, 80),
                    balance(&[], None),
                ),
                (frontend("::", Protocol::Tcp, 30080), balance(&[2, 3], None)),
                (
                    frontend("fd00:96::1", Protocol::Tcp, 82),
                    Balance {
                        allowed: vec!["fd00:1::/64".parse().expect("a prefix")],
                        ..balance(&[3], None)
                    },
                ),
                (
                    frontend("::", Protocol::Tcp, 30082),
                    balance(&[1, 2], Some(60)),
                ),
                (frontend("::", Protocol::Tcp, 30081), balance(&[], None)),
            ]
            .into();
            let pods = vec!["fd00:1::/64".parse().expect("a prefix")];
            let mut kernel = Kernel::open("six", pods).expect("a kernel");
            kernel.apply(frontends.clone()).expect("applied");

            assert_eq!(often("[fd00:96::1]:80"), [1, 2, 3].into());
            assert_eq!(often("[fd00:1::1]:30080"), [2, 3].into());
            assert_eq!(often("[::1]:30080"), [2, 3].into());
            let stays = often("[fd00:96::2]:80");
            assert_eq!(stays.len(), 1);
            assert_eq!(often("[::1]:30082").len(), 1);
            assert_eq!(often("[fd00:96::1]:82"), [3].into());
            let refused = |to: &str| {
                let error = ask(to).expect_err("nobody is there");
                assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused, "{to}");
            };
            for to in ["[fd00:96::1]:81", "[fd00:96::3]:80", "[fd00:1::1]:30081"] {
                refused(to);
            }
            let socket = UdpSocket::bind("[::]:0").expect("a socket");
            socket.connect("[fd00:96::3]:80").expect("connected");
            // A datagram of the machine itself is refused as it is sent.
            let error = socket.send(b"x").expect_err("nobody is there");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);

            // Its endpoint goes, and the client moves.
            let rest: Vec<u8> = (1..=3).filter(|number| !stays.contains(number)).collect();
            let sticky = frontend("fd00:96::2", Protocol::Tcp, 80);
            frontends.balances.insert(sticky, balance(&rest, Some(60)));
            kernel.apply(frontends.clone()).expect("applied");
            let moved = often("[fd00:96::2]:80");
            assert!(
                moved.len() == 1 && moved != stays,
                "{moved:?} after {stays:?}"
            );

            // Each connection begins the time again.
            let short = frontend("fd00:96::2", Protocol::Tcp, 80);
            frontends
                .balances
                .insert(short, balance(&[1, 2, 3], Some(1)));
            kernel.apply(frontends).expect("applied");
            let began = Instant::now();
            let mut seen = BTreeSet::new();
            while began.elapsed().as_millis() < 3500 {
                seen.insert(ask("[fd00:96::2]:80").expect("an answer"));
            }
            assert_eq!(seen.len(), 1, "{seen:?}");

            let listed = std::process::Command::new("nft")
                .args(["list", "ruleset"])
                .output();
            let listed = listed.expect("nft is installed (Debian package nftables)");
            assert!(listed.status.success(), "{listed:?}");
            remove("six").expect("removed");
        });
    }
}
