//! Cluster addresses and node ports of Services, given out and taken back.
//!
//! What is taken is in the Services themselves; this is an index of it. A
//! claim is taken before the write and given back if the write fails, so two
//! Services never hold the same address.

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr};

use dhow_schema::path::Path;
use dhow_schema::validate::{FieldError, Problem};
use parking_lot::Mutex;
use rand::RngExt as _;
use serde_json::{Value, json};

use crate::config::Config;
use crate::error::ApiError;
use crate::resource::Resource;
use crate::tree;

/// What is taken.
#[derive(Default)]
struct Taken {
    addresses: HashSet<u32>,
    ports: HashSet<u16>,
}

/// Gives out addresses and ports.
pub(crate) struct Addresses {
    first: u32,
    count: u32,
    cidr: String,
    ports: (u16, u16),
    taken: Mutex<Taken>,
}

/// Addresses and ports held for a write that is under way.
pub(crate) struct Claim<'a> {
    owner: &'a Addresses,
    addresses: Vec<u32>,
    ports: Vec<u16>,
}

impl Claim<'_> {
    /// The write is done: what was claimed is the object's.
    pub(crate) fn keep(&mut self) {
        self.addresses.clear();
        self.ports.clear();
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        if self.addresses.is_empty() && self.ports.is_empty() {
            return;
        }
        let mut taken = self.owner.taken.lock();
        for address in &self.addresses {
            taken.addresses.remove(address);
        }
        for port in &self.ports {
            taken.ports.remove(port);
        }
    }
}

fn is_service(resource: &Resource) -> bool {
    resource.prefix == "services/specs"
}

/// The address a Service holds.
fn address_of(service: &Value) -> Option<u32> {
    let text = tree::text(service, &["spec", "clusterIP"]);
    text.parse::<Ipv4Addr>().ok().map(u32::from)
}

fn ports_of(service: &Value) -> Vec<u16> {
    let mut ports: Vec<u16> = tree::list(service, &["spec", "ports"])
        .iter()
        .filter_map(|port| tree::int(port, &["nodePort"]))
        .chain(tree::int(service, &["spec", "healthCheckNodePort"]))
        .filter_map(|port| u16::try_from(port).ok())
        .filter(|port| *port > 0)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

impl Addresses {
    pub(crate) fn new(config: &Config) -> Self {
        let (network, bits) = config.service_cidr;
        let (first, count) = match network {
            IpAddr::V4(network) => {
                let size = 1u32
                    .checked_shl(32 - u32::from(bits.clamp(1, 30)))
                    .unwrap_or(4);
                (u32::from(network) & !(size - 1), size)
            }
            // Addresses of version 6 are not given out.
            IpAddr::V6(_) => (0, 0),
        };
        Self {
            first,
            count,
            cidr: format!("{network}/{bits}"),
            ports: config.node_ports,
            taken: Mutex::default(),
        }
    }

    /// The first address: the API server's own Service.
    pub(crate) fn first(&self) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from(self.first + 1))
    }

    /// Notes what a Service that is stored already holds.
    pub(crate) fn note(&self, service: &Value) {
        let mut taken = self.taken.lock();
        taken.addresses.extend(address_of(service));
        taken.ports.extend(ports_of(service));
    }

    /// Fills in what a new or changed Service needs and holds it.
    pub(crate) fn claim(
        &self,
        resource: &Resource,
        service: &mut Value,
        old: Option<&Value>,
    ) -> Result<Claim<'_>, ApiError> {
        let mut claim = Claim {
            owner: self,
            addresses: Vec::new(),
            ports: Vec::new(),
        };
        if is_service(resource) {
            self.claim_address(resource, service, old, &mut claim)?;
            self.claim_ports(resource, service, old, &mut claim)?;
        }
        Ok(claim)
    }

    fn claim_address(
        &self,
        resource: &Resource,
        service: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim<'_>,
    ) -> Result<(), ApiError> {
        let name = tree::text(service, &["metadata", "name"]).to_owned();
        if tree::text(service, &["spec", "type"]) == "ExternalName" {
            for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"] {
                tree::remove(service, &["spec", field]);
            }
            return Ok(());
        }
        // An update that leaves the address out keeps it.
        let kept = old.map_or("", |old| tree::text(old, &["spec", "clusterIP"]));
        if tree::text(service, &["spec", "clusterIP"]).is_empty() && !kept.is_empty() {
            tree::set(service, &["spec", "clusterIP"], kept);
        }
        let wished = tree::text(service, &["spec", "clusterIP"]).to_owned();
        let invalid = |why: String| {
            let spec = Path::ROOT.field("spec");
            let list = spec.field("clusterIPs");
            let error = FieldError::new(list.index(0), Problem::Invalid(json!([wished]), why));
            ApiError::invalid(resource, &name, &[error])
        };
        let address = if wished.is_empty() {
            let free = self.free_address().ok_or_else(|| {
                ApiError::internal("failed to allocate a serviceIP: range is full")
            })?;
            claim.addresses.push(free);
            Ipv4Addr::from(free).to_string()
        } else if wished == "None" {
            wished.clone()
        } else {
            let Ok(address) = wished.parse::<Ipv4Addr>().map(u32::from) else {
                return Err(invalid(
                    "must be a valid IPv4 address, 'None', or empty".to_owned(),
                ));
            };
            if old.and_then(address_of) != Some(address) {
                let inside = address > self.first && address - self.first < self.count - 1;
                if !inside {
                    return Err(invalid(format!(
                        "failed to allocate IP {wished}: the provided IP ({wished}) is not in the valid range. The range of valid IPs is {}",
                        self.cidr
                    )));
                }
                if !self.taken.lock().addresses.insert(address) {
                    return Err(invalid(format!(
                        "failed to allocate IP {wished}: provided IP is already allocated"
                    )));
                }
                claim.addresses.push(address);
            }
            wished.clone()
        };
        tree::set(service, &["spec", "clusterIP"], address.as_str());
        tree::set(service, &["spec", "clusterIPs"], json!([address]));
        tree::set_missing(service, &["spec", "ipFamilies"], json!(["IPv4"]));
        tree::set_missing(service, &["spec", "ipFamilyPolicy"], "SingleStack");
        Ok(())
    }

    fn claim_ports(
        &self,
        resource: &Resource,
        service: &mut Value,
        old: Option<&Value>,
        claim: &mut Claim<'_>,
    ) -> Result<(), ApiError> {
        let kind = tree::text(service, &["spec", "type"]).to_owned();
        let allocates = kind == "NodePort"
            || kind == "LoadBalancer"
                && tree::flag(service, &["spec", "allocateLoadBalancerNodePorts"]);
        if !matches!(&*kind, "NodePort" | "LoadBalancer") {
            // A Service that was a NodePort gives its ports back.
            if let Some(ports) = service
                .get_mut("spec")
                .and_then(|spec| spec.get_mut("ports"))
                .and_then(Value::as_array_mut)
                && old.is_some_and(|old| tree::text(old, &["spec", "type"]) != kind)
            {
                for port in ports {
                    tree::remove(port, &["nodePort"]);
                }
            }
            return Ok(());
        }
        let name = tree::text(service, &["metadata", "name"]).to_owned();
        let held = old.map(ports_of).unwrap_or_default();
        let old_ports = old
            .map(|old| tree::list(old, &["spec", "ports"]).to_vec())
            .unwrap_or_default();
        let mut own = HashSet::new();
        let n_ports = tree::list(service, &["spec", "ports"]).len();
        for index in 0..n_ports {
            let port = &mut service["spec"]["ports"][index];
            let same = |other: &&Value| {
                other.get("port") == port.get("port")
                    && other.get("protocol") == port.get("protocol")
            };
            if tree::int(port, &["nodePort"]).unwrap_or(0) == 0
                && let Some(kept) = old_ports
                    .iter()
                    .find(same)
                    .and_then(|old| tree::int(old, &["nodePort"]))
            {
                tree::set(port, &["nodePort"], kept);
            }
            let wished = tree::int(port, &["nodePort"])
                .and_then(|port| u16::try_from(port).ok())
                .unwrap_or(0);
            if wished == 0 {
                if allocates {
                    let free = self.free_port().ok_or_else(|| {
                        ApiError::internal("failed to allocate a nodePort: range is full")
                    })?;
                    claim.ports.push(free);
                    own.insert(free);
                    tree::set(port, &["nodePort"], free);
                }
                continue;
            }
            let (low, high) = self.ports;
            let why = if !(low..=high).contains(&wished) {
                Some(format!(
                    "provided port is not in the valid range. The range of valid ports is {low}-{high}"
                ))
            } else if held.contains(&wished) || own.contains(&wished) {
                None
            } else if self.taken.lock().ports.insert(wished) {
                claim.ports.push(wished);
                own.insert(wished);
                None
            } else {
                Some("provided port is already allocated".to_owned())
            };
            if let Some(why) = why {
                let error = FieldError::new(
                    format!("spec.ports[{index}].nodePort"),
                    Problem::Invalid(wished.into(), why),
                );
                return Err(ApiError::invalid(resource, &name, &[error]));
            }
        }
        Ok(())
    }

    fn free_address(&self) -> Option<u32> {
        let mut taken = self.taken.lock();
        // Not the network's own and not the broadcast address.
        let usable = self.count.checked_sub(2).filter(|n| *n > 0)?;
        let start = rand::rng().random_range(0..usable);
        let address = (0..usable)
            .map(|n| self.first + 1 + (start + n) % usable)
            .find(|address| !taken.addresses.contains(address))?;
        taken.addresses.insert(address);
        Some(address)
    }

    fn free_port(&self) -> Option<u16> {
        let mut taken = self.taken.lock();
        let (low, high) = self.ports;
        let usable = u32::from(high.checked_sub(low)?) + 1;
        let start = rand::rng().random_range(0..usable);
        let port = (0..usable)
            .map(|n| low + ((start + n) % usable) as u16)
            .find(|port| !taken.ports.contains(port))?;
        taken.ports.insert(port);
        Some(port)
    }

    /// Gives back what a changed or deleted Service no longer holds.
    pub(crate) fn released(&self, resource: &Resource, old: &Value, new: Option<&Value>) {
        if !is_service(resource) {
            return;
        }
        let mut taken = self.taken.lock();
        if let Some(address) = address_of(old)
            && new.and_then(address_of) != Some(address)
        {
            taken.addresses.remove(&address);
        }
        let kept = new.map(ports_of).unwrap_or_default();
        for port in ports_of(old) {
            if !kept.contains(&port) {
                taken.ports.remove(&port);
            }
        }
    }
}
