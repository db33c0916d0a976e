//! What names mean to whoever asks, as far as this instance knows.

use std::net::{IpAddr, Ipv4Addr};

use crate::endpoint::Endpoint;
use crate::networks::Networks;

/// Where names are asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Place {
    /// At our own address on a bridge, by all that are on it.
    Gateway(Ipv4Addr),
    /// Inside a sandbox that no bridge of ours leads to, by itself.
    Sandbox(String),
}

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Asker<'a> {
    /// Whoever has this address.
    Address(IpAddr),
    /// This sandbox.
    Sandbox(&'a str),
}

/// What is known about a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Known<T> {
    /// The answer.
    Answer(T),
    /// Nothing; these servers may be asked, or the host's own if there are none.
    Ask(Vec<IpAddr>),
    /// Nothing, and whoever asks has no way to those who might.
    Nothing,
}

impl Networks {
    /// The addresses that `name` has for whoever asks.
    pub(crate) fn resolve(&self, asker: Asker<'_>, name: &str) -> Known<Vec<IpAddr>> {
        let name = name.trim_end_matches('.');
        let mut addresses = Vec::new();
        let known = self.for_asker(asker, |state, sandbox| {
            for own in state.of_sandbox(sandbox) {
                let Some(network) = state.networks.get(&own.network) else {
                    continue;
                };
                if !network.spec.names {
                    continue;
                }
                let target = own
                    .links
                    .iter()
                    .find(|(alias, _)| alias.eq_ignore_ascii_case(name))
                    .map_or(name, |(_, target)| target.as_str());
                // A name may carry its network's name as its domain.
                let bare = target
                    .strip_suffix(network.spec.name.as_str())
                    .and_then(|rest| rest.strip_suffix('.'))
                    .unwrap_or(target);
                for other in state.of_network(&own.network) {
                    let is = |known: &String| known.eq_ignore_ascii_case(bare);
                    if is(&other.name) || other.aliases.iter().any(is) {
                        addresses.extend(&other.addresses);
                    }
                }
            }
        });
        if addresses.is_empty() {
            return known;
        }
        Known::Answer(addresses)
    }

    /// The names that `address` has for whoever asks from `client`, in full.
    pub(crate) fn reverse(&self, asker: Asker<'_>, address: IpAddr) -> Known<Vec<String>> {
        let mut names = Vec::new();
        let known = self.for_asker(asker, |state, sandbox| {
            for own in state.of_sandbox(sandbox) {
                let Some(network) = state.networks.get(&own.network) else {
                    continue;
                };
                let has_it = state
                    .of_network(&own.network)
                    .filter(|other| network.spec.names && other.addresses.contains(&address));
                names.extend(has_it.map(|other| format!("{}.{}.", other.name, network.spec.name)));
            }
        });
        match known {
            _ if !names.is_empty() => Known::Answer(names),
            Known::Answer(_) | Known::Nothing => Known::Nothing,
            Known::Ask(servers) => Known::Ask(servers),
        }
    }

    /// Who else may be asked on behalf of somebody. A sandbox without a way out
    /// asks nobody: its questions would be one.
    pub(crate) fn elsewhere(&self, asker: Asker<'_>) -> Known<Vec<IpAddr>> {
        self.for_asker(asker, |_, _| ())
    }

    fn for_asker(
        &self,
        asker: Asker<'_>,
        look: impl FnOnce(&crate::state::State, &str),
    ) -> Known<Vec<IpAddr>> {
        let state = self.state.lock();
        let sandbox = match asker {
            Asker::Sandbox(sandbox) => sandbox,
            Asker::Address(address) => {
                let has_it = |endpoint: &&Endpoint| endpoint.addresses.contains(&address);
                match state.endpoints.values().find(has_it) {
                    Some(endpoint) => endpoint.sandbox.as_str(),
                    // Somebody else on the bridge, such as the host itself.
                    None => return Known::Ask(Vec::new()),
                }
            }
        };
        look(&state, sandbox);
        let ways = state.ways(sandbox);
        if ways.v4.is_none() && ways.v6.is_none() {
            return Known::Nothing;
        }
        let servers = state
            .of_sandbox(sandbox)
            .flat_map(|endpoint| endpoint.name_servers.iter().copied());
        let mut unique: Vec<IpAddr> = Vec::new();
        for server in servers {
            if !unique.contains(&server) {
                unique.push(server);
            }
        }
        Known::Ask(unique)
    }
}
