//! Where the published ports of a sandbox lead, as its networks come and go.
//!
//! A port of the host leads to the endpoint that has the default route of its
//! family, if that is on a bridge that translates. Endpoints that are routed are
//! reached with their own addresses, whichever has the default route.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::{Endpoint, PortMapping, PublishSpec};
use crate::error::Error;
use crate::spec::{GatewayMode, Network};
use crate::state::State;

/// An endpoint, by sandbox and network.
type Key = (String, String);

impl State {
    /// Publishes what a sandbox wants published where it leads now. Ports of the
    /// host stay what they are as long as they lead anywhere; those that lead
    /// nowhere are let go, among them the `loose`, which no endpoint has.
    ///
    /// # Errors
    ///
    /// Why the first port that could not be published was not; the others are.
    pub(crate) fn settle_ports(
        &mut self,
        sandbox: &str,
        loose: Vec<PortMapping>,
    ) -> Result<(), Error> {
        let wanted = self.wanted(sandbox);
        let keys: Vec<Key> = self.of_sandbox(sandbox).map(key).collect();
        let mut held = loose;
        for key in &keys {
            let endpoint = self.endpoints.get_mut(key).expect("it was just found");
            held.append(&mut endpoint.ports);
        }
        held.retain(PortMapping::is_of_host);
        let mut refused = Ok(());
        let mut missing = Vec::new();
        for spec in &wanted {
            for (key, mapping) in self.openings(sandbox, spec) {
                self.hand(&key, mapping);
            }
            let places = self.places(sandbox, spec).unwrap_or_else(|error| {
                refused = Err(error);
                Vec::new()
            });
            // One number at all addresses.
            let number = held.iter().find(|one| spec.allows(one));
            let number = number.map(|one| one.host_port);
            let mut vacant = Vec::new();
            for (address, key) in places {
                let found = held.iter().position(|one| {
                    one.host_address == address && spec.allows(one) && number == Some(one.host_port)
                });
                match found {
                    Some(found) => self.hand(&key, held.remove(found)),
                    None => vacant.push((address, key)),
                }
            }
            missing.push((spec, number, vacant));
        }
        for mapping in &held {
            self.ports.release(mapping);
        }
        for (spec, number, vacant) in missing {
            if vacant.is_empty() {
                continue;
            }
            let addresses: Vec<IpAddr> = vacant.iter().map(|(address, _)| *address).collect();
            let kept = number.map(|number| PublishSpec {
                host_ports: number..=number,
                ..spec.clone()
            });
            let taken = match kept.map(|spec| self.ports.take(&spec, &addresses)) {
                Some(Ok(taken)) => Ok(taken),
                _ => self.ports.take(spec, &addresses),
            };
            match taken {
                Ok(taken) => {
                    for (mapping, (_, key)) in taken.into_iter().zip(&vacant) {
                        self.hand(key, mapping);
                    }
                }
                Err(error) => refused = refused.and(Err(error)),
            }
        }
        refused
    }

    /// Makes the endpoints of a sandbox what they were, with the ports they had.
    pub(crate) fn restore_ports(&mut self, sandbox: &str, before: Vec<Endpoint>) {
        let ports = |endpoints: &mut dyn Iterator<Item = &Endpoint>| {
            let ports = endpoints.flat_map(|endpoint| endpoint.ports.clone());
            let ports = ports.filter(PortMapping::is_of_host);
            ports.collect::<Vec<PortMapping>>()
        };
        let (now, then) = (
            ports(&mut self.of_sandbox(sandbox)),
            ports(&mut before.iter()),
        );
        for mapping in now.iter().filter(|one| !then.contains(one)) {
            self.ports.release(mapping);
        }
        for mapping in then.iter().filter(|one| !now.contains(one)) {
            self.ports.retake(mapping);
        }
        self.endpoints.retain(|_, one| one.sandbox != sandbox);
        let before = before.into_iter().map(|one| (key(&one), one));
        self.endpoints.extend(before);
    }

    /// What a sandbox wants published.
    fn wanted(&self, sandbox: &str) -> Vec<PublishSpec> {
        let mut endpoints = self.of_sandbox(sandbox);
        let first = endpoints.find(|endpoint| !endpoint.wanted.is_empty());
        first.map_or(Vec::new(), |endpoint| endpoint.wanted.clone())
    }

    fn hand(&mut self, key: &Key, mapping: PortMapping) {
        let endpoint = self.endpoints.get_mut(key).expect("it was just found");
        endpoint.ports.push(mapping);
    }

    /// What opens a port of a sandbox's endpoints that are routed.
    fn openings(&self, sandbox: &str, spec: &PublishSpec) -> Vec<(Key, PortMapping)> {
        let mut openings = Vec::new();
        for endpoint in self.of_sandbox(sandbox) {
            let network = self.networks.get(&endpoint.network);
            let Some(network) = network.filter(|one| one.is_bridge() && !one.spec.internal) else {
                continue;
            };
            for is_ipv4 in [true, false] {
                let is_routed = network.gateway_mode(is_ipv4) == GatewayMode::Routed;
                if !is_routed || endpoint.address(is_ipv4).is_none() {
                    continue;
                }
                let Some(address) = host_address(spec, endpoint, network, is_ipv4) else {
                    continue;
                };
                let mapping = PortMapping {
                    protocol: spec.protocol,
                    container_port: spec.container_port,
                    host_address: address,
                    host_port: 0,
                };
                openings.push((key(endpoint), mapping));
            }
        }
        openings
    }

    /// The addresses of the host at which a port is published, and where it leads
    /// from there. A sandbox that has no way out has no way in either.
    fn places(&self, sandbox: &str, spec: &PublishSpec) -> Result<Vec<(IpAddr, Key)>, Error> {
        let ways = [true, false].into_iter().filter_map(|is_ipv4| {
            let (endpoint, network) = self.gateway(sandbox, is_ipv4)?;
            network.is_bridge().then_some((is_ipv4, endpoint, network))
        });
        let ways: Vec<(bool, &Endpoint, &Network)> = ways.collect();
        if let (Some(address), Some((_, _, network))) = (spec.host_address, ways.first())
            && ways
                .iter()
                .all(|(is_ipv4, ..)| *is_ipv4 != address.is_ipv4())
        {
            return Err(Error::Invalid(format!(
                "cannot publish {}/{} at {address}: network {} has no addresses of that family",
                spec.container_port, spec.protocol, network.spec.name
            )));
        }
        let translated = ways
            .into_iter()
            .filter(|(is_ipv4, _, network)| network.gateway_mode(*is_ipv4) != GatewayMode::Routed);
        let places = translated.filter_map(|(is_ipv4, endpoint, network)| {
            let address = host_address(spec, endpoint, network, is_ipv4)?;
            Some((address, key(endpoint)))
        });
        Ok(places.collect())
    }
}

/// The address of the host, of one family, at which a port is published that leads
/// to an endpoint: the one asked for, or the one that its network binds ports to.
fn host_address(
    spec: &PublishSpec,
    endpoint: &Endpoint,
    network: &Network,
    is_ipv4: bool,
) -> Option<IpAddr> {
    let has = |address: &IpAddr| endpoint.address(address.is_ipv4()).is_some();
    let bound = || network.spec.host_address.filter(has);
    let address = spec.host_address.or_else(bound).unwrap_or(match is_ipv4 {
        true => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        false => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    });
    (address.is_ipv4() == is_ipv4).then_some(address)
}

fn key(endpoint: &Endpoint) -> Key {
    (endpoint.sandbox.clone(), endpoint.network.clone())
}
