//! The names of the cluster's domain, as a function of Services, EndpointSlices
//! and Namespaces. Pure.
//!
//! Names are kept in lower case, absolute, with their final dot. A name that
//! only has names below it is there without records, so that it is "no data"
//! and not "no such name" (RFC 8020).

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use hickory_proto::rr::rdata::name::{CNAME, NS, PTR};
use hickory_proto::rr::rdata::{A, AAAA, SOA, SRV, TXT};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Version of the specification that is followed (its section 2.2).
const SPECIFICATION: &str = "1.1.0";
/// How long an answer is good, in seconds; a denial too.
pub(crate) const TIME_TO_LIVE: u32 = 5;

/// One record's data; names are absolute and in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Data {
    Address(IpAddr),
    Service { port: u16, target: String },
    Alias(String),
    Text(&'static str),
}

/// What the zone says about a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Found {
    /// The name is not the zone's.
    Outside,
    /// There is no such name.
    NoName,
    /// The name is there, but nothing of this type.
    NoData,
    /// Records of the type asked for, and what goes with them.
    Records {
        answers: Vec<Record>,
        additionals: Vec<Record>,
    },
    /// The name stands for another.
    Alias { record: Box<Record>, target: Name },
}

/// All names of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Zone {
    domain: Name,
    /// The domain as the keys of `nodes` end.
    suffix: String,
    nodes: HashMap<String, BTreeSet<Data>>,
    reverse: HashMap<IpAddr, BTreeSet<String>>,
    namespaces: HashSet<String>,
}

impl Zone {
    /// A zone with nothing but what every zone has. `domain` is absolute.
    pub(crate) fn new(domain: Name) -> Self {
        let domain = domain.to_lowercase();
        let suffix = domain.to_ascii();
        let mut zone = Self {
            domain,
            nodes: HashMap::new(),
            reverse: HashMap::new(),
            namespaces: HashSet::new(),
            suffix,
        };
        let version = format!("dns-version.{}", zone.suffix);
        zone.add(version, Data::Text(SPECIFICATION));
        zone.exists(format!("svc.{}", zone.suffix));
        zone.exists(format!("pod.{}", zone.suffix));
        zone
    }

    /// The zone of a cluster.
    pub(crate) fn of<'a>(
        domain: Name,
        namespaces: impl IntoIterator<Item = String>,
        services: impl IntoIterator<Item = &'a Service>,
        slices: impl IntoIterator<Item = &'a EndpointSlice>,
    ) -> Self {
        let mut zone = Self::new(domain);
        for namespace in namespaces {
            zone.exists(format!("{namespace}.svc.{}", zone.suffix));
            zone.exists(format!("{namespace}.pod.{}", zone.suffix));
            zone.namespaces.insert(namespace);
        }
        let mut of_service: HashMap<(String, &str), Vec<&EndpointSlice>> = HashMap::new();
        for slice in slices {
            if let Some(name) = slice.labels().get(SERVICE_LABEL) {
                let key = (slice.namespace().unwrap_or_default(), name.as_str());
                of_service.entry(key).or_default().push(slice);
            }
        }
        for service in services {
            let name = service.name_any();
            let key = (service.namespace().unwrap_or_default(), name.as_str());
            let slices = of_service.get(&key).map(Vec::as_slice).unwrap_or_default();
            zone.add_service(service, slices);
        }
        zone
    }

    fn add_service(&mut self, service: &Service, slices: &[&EndpointSlice]) {
        let (Some(spec), Some(namespace)) = (service.spec.as_ref(), service.namespace()) else {
            return;
        };
        let name = format!("{}.{namespace}.svc.{}", service.name_any(), self.suffix);
        if spec.type_.as_deref() == Some("ExternalName") {
            if let Some(target) = spec.external_name.as_deref() {
                let target = format!("{}.", target.trim_end_matches('.').to_ascii_lowercase());
                self.add(name, Data::Alias(target));
            }
            return;
        }
        let several = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
        let addresses: BTreeSet<IpAddr> = several.filter_map(|text| text.parse().ok()).collect();
        if addresses.is_empty() {
            for slice in slices {
                self.add_endpoints(&name, slice);
            }
            return;
        }
        for address in addresses {
            self.add(name.clone(), Data::Address(address));
            self.reverse
                .entry(address)
                .or_default()
                .insert(name.clone());
        }
        for port in spec.ports.iter().flatten() {
            let number = u16::try_from(port.port).ok();
            self.add_port(
                &name,
                port.name.as_deref(),
                port.protocol.as_deref(),
                number,
                &name,
            );
        }
    }

    /// A headless Service: its name stands for its endpoints, each of which
    /// has a name of its own.
    fn add_endpoints(&mut self, service: &str, slice: &EndpointSlice) {
        for endpoint in slice.endpoints.iter().flatten() {
            let is_ready = endpoint
                .conditions
                .as_ref()
                .is_none_or(|conditions| conditions.ready != Some(false));
            if !is_ready {
                continue;
            }
            for address in &endpoint.addresses {
                let Ok(address) = address.parse::<IpAddr>() else {
                    continue;
                };
                let own = format!("{}.{service}", own_label(endpoint, address));
                self.add(service.to_owned(), Data::Address(address));
                self.add(own.clone(), Data::Address(address));
                if endpoint.hostname.is_some() {
                    self.reverse.entry(address).or_default().insert(own.clone());
                }
                for port in slice.ports.iter().flatten() {
                    let number = port.port.and_then(|number| u16::try_from(number).ok());
                    self.add_port(
                        service,
                        port.name.as_deref(),
                        port.protocol.as_deref(),
                        number,
                        &own,
                    );
                }
            }
        }
    }

    fn add_port(
        &mut self,
        service: &str,
        name: Option<&str>,
        protocol: Option<&str>,
        number: Option<u16>,
        target: &str,
    ) {
        let (Some(name), Some(port)) = (name.filter(|name| !name.is_empty()), number) else {
            return;
        };
        let protocol = protocol.unwrap_or("TCP").to_ascii_lowercase();
        let data = Data::Service {
            port,
            target: target.to_owned(),
        };
        self.add(format!("_{name}._{protocol}.{service}"), data);
    }

    fn add(&mut self, name: String, data: Data) {
        let name = name.to_ascii_lowercase();
        self.exists(name.clone());
        self.nodes.entry(name).or_default().insert(data);
    }

    /// Makes the name and those above it be there.
    fn exists(&mut self, name: String) {
        let mut rest = name.as_str();
        while rest.len() >= self.suffix.len() && !self.nodes.contains_key(rest) {
            self.nodes.insert(rest.to_owned(), BTreeSet::new());
            rest = rest.split_once('.').map_or("", |(_, above)| above);
        }
    }

    /// What the zone says about `name`, of any case.
    pub(crate) fn find(&self, name: &Name, kind: RecordType) -> Found {
        let lower = name.to_lowercase();
        if !self.domain.zone_of(&lower) {
            return self.find_reverse(name, &lower, kind);
        }
        let key = lower.to_ascii();
        if key == self.suffix
            && let Some(data) = self.of_apex(kind)
        {
            return Found::Records {
                answers: vec![record(name, data)],
                additionals: Vec::new(),
            };
        }
        let Some(node) = self.nodes.get(&key) else {
            return self.find_pod(name, &key, kind);
        };
        if let Some(Data::Alias(target)) = node.first()
            && let Ok(target) = Name::from_str_relaxed(target)
        {
            let data = RData::CNAME(CNAME(target.clone()));
            return Found::Alias {
                record: Box::new(record(name, data)),
                target,
            };
        }
        let mut additionals = Vec::new();
        let mut answers = Vec::new();
        for data in node {
            let Some(data) = rdata(data, kind) else {
                continue;
            };
            if let RData::SRV(srv) = &data {
                additionals.extend(self.addresses(&srv.target));
            }
            answers.push(record(name, data));
        }
        if answers.is_empty() {
            return Found::NoData;
        }
        Found::Records {
            answers,
            additionals,
        }
    }

    fn addresses(&self, name: &Name) -> Vec<Record> {
        let node = self.nodes.get(&name.to_ascii());
        node.into_iter()
            .flatten()
            .filter_map(|data| rdata(data, RecordType::ANY))
            .map(|data| record(name, data))
            .collect()
    }

    /// `a-b-c-d.NAMESPACE.pod.DOMAIN` is the address that it spells.
    fn find_pod(&self, name: &Name, key: &str, kind: RecordType) -> Found {
        let spelled = key
            .strip_suffix(&self.suffix)
            .and_then(|rest| rest.strip_suffix(".pod."))
            .and_then(|rest| rest.split_once('.'))
            .filter(|(_, namespace)| self.namespaces.contains(*namespace))
            .and_then(|(label, _)| address_of(label));
        let Some(address) = spelled else {
            return Found::NoName;
        };
        match rdata(&Data::Address(address), kind) {
            Some(data) => Found::Records {
                answers: vec![record(name, data)],
                additionals: Vec::new(),
            },
            None => Found::NoData,
        }
    }

    fn find_reverse(&self, name: &Name, lower: &Name, kind: RecordType) -> Found {
        let Ok(net) = lower.parse_arpa_name() else {
            return Found::Outside;
        };
        if net.prefix_len() != net.max_prefix_len() {
            return Found::Outside;
        }
        let Some(names) = self.reverse.get(&net.addr()) else {
            return Found::Outside;
        };
        if !matches!(kind, RecordType::PTR | RecordType::ANY) {
            return Found::NoData;
        }
        Found::Records {
            answers: names
                .iter()
                .filter_map(|target| Name::from_str_relaxed(target).ok())
                .map(|target| record(name, RData::PTR(PTR(target))))
                .collect(),
            additionals: Vec::new(),
        }
    }

    fn of_apex(&self, kind: RecordType) -> Option<RData> {
        match kind {
            RecordType::SOA | RecordType::ANY => Some(self.soa().data),
            RecordType::NS => Some(RData::NS(NS(self.server()))),
            _ => None,
        }
    }

    fn server(&self) -> Name {
        Name::from_str_relaxed(format!("kube-dns.kube-system.svc.{}", self.suffix))
            .unwrap_or_else(|_| self.domain.clone())
    }

    /// The start of authority, which goes with every denial (RFC 2308).
    pub(crate) fn soa(&self) -> Record {
        let mailbox = Name::from_str_relaxed(format!("hostmaster.{}", self.suffix))
            .unwrap_or_else(|_| self.domain.clone());
        let soa = SOA::new(self.server(), mailbox, 1, 7200, 1800, 86_400, TIME_TO_LIVE);
        record(&self.domain, RData::SOA(soa))
    }
}

/// The label of an endpoint below its Service: its hostname, or its address.
fn own_label(endpoint: &Endpoint, address: IpAddr) -> String {
    match &endpoint.hostname {
        Some(hostname) if !hostname.is_empty() => hostname.clone(),
        _ => address.to_string().replace(['.', ':'], "-"),
    }
}

/// The address that a label of a pod's name spells.
fn address_of(label: &str) -> Option<IpAddr> {
    let v4: Option<Ipv4Addr> = label.replace('-', ".").parse().ok();
    if let Some(address) = v4 {
        return Some(address.into());
    }
    let v6: Ipv6Addr = label.replace('-', ":").parse().ok()?;
    Some(v6.into())
}

fn rdata(data: &Data, kind: RecordType) -> Option<RData> {
    let is = |own| kind == own || kind == RecordType::ANY;
    match data {
        Data::Address(IpAddr::V4(address)) if is(RecordType::A) => Some(RData::A(A(*address))),
        Data::Address(IpAddr::V6(address)) if is(RecordType::AAAA) => {
            Some(RData::AAAA(AAAA(*address)))
        }
        Data::Service { port, target } if is(RecordType::SRV) => {
            let target = Name::from_str_relaxed(target).ok()?;
            Some(RData::SRV(SRV::new(0, 100, *port, target)))
        }
        Data::Text(text) if is(RecordType::TXT) => {
            Some(RData::TXT(TXT::new(vec![(*text).to_owned()])))
        }
        _ => None,
    }
}

fn record(name: &Name, data: RData) -> Record {
    Record::from_rdata(name.clone(), TIME_TO_LIVE, data)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn name(text: &str) -> Name {
        Name::from_str_relaxed(text).expect("a name")
    }

    fn zone() -> Zone {
        let services: Vec<Service> = serde_json::from_value(json!([
            {
                "metadata": { "name": "web", "namespace": "default" },
                "spec": {
                    "clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"],
                    "ports": [{ "name": "http", "port": 80 }, { "port": 81, "protocol": "UDP" }],
                },
            },
            {
                "metadata": { "name": "db", "namespace": "default" },
                "spec": { "clusterIP": "None", "clusterIPs": ["None"] },
            },
            {
                "metadata": { "name": "empty", "namespace": "default" },
                "spec": { "clusterIP": "None" },
            },
            {
                "metadata": { "name": "far", "namespace": "default" },
                "spec": { "type": "ExternalName", "externalName": "Example.COM" },
            },
        ]))
        .expect("Services");
        let slices: Vec<EndpointSlice> = serde_json::from_value(json!([{
            "metadata": {
                "name": "db-1", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "db" },
            },
            "addressType": "IPv4",
            "endpoints": [
                { "addresses": ["10.1.0.2"], "hostname": "db-0" },
                { "addresses": ["10.1.0.3"] },
                { "addresses": ["10.1.0.4"], "conditions": { "ready": false } },
            ],
            "ports": [{ "name": "sql", "port": 5432, "protocol": "TCP" }],
        }]))
        .expect("slices");
        let namespaces = ["default".to_owned(), "quiet".to_owned()];
        Zone::of(name("cluster.local."), namespaces, &services, &slices)
    }

    /// Answers as text, sorted, or why there are none.
    fn find(text: &str, kind: RecordType) -> Vec<String> {
        match zone().find(&name(text), kind) {
            Found::Records { answers, .. } => {
                let mut texts: Vec<String> = answers
                    .iter()
                    .map(|record| record.data.to_string())
                    .collect();
                texts.sort();
                texts
            }
            Found::Alias { target, .. } => vec![format!("-> {target}")],
            other => vec![format!("{other:?}")],
        }
    }

    #[test]
    fn the_specification_names_what_there_is() {
        use RecordType::{A, AAAA, ANY, MX, NS, PTR, SRV, TXT};
        let db = "db.default.svc.cluster.local.";
        for (asked, kind, wanted) in [
            ("web.default.svc.cluster.local.", A, vec!["10.96.0.7"]),
            ("WEB.Default.svc.cluster.LOCAL.", A, vec!["10.96.0.7"]),
            ("web.default.svc.cluster.local.", AAAA, vec!["fd00::7"]),
            ("web.default.svc.cluster.local.", MX, vec!["NoData"]),
            ("nothing.default.svc.cluster.local.", A, vec!["NoName"]),
            (
                "_http._tcp.web.default.svc.cluster.local.",
                SRV,
                vec!["0 100 80 web.default.svc.cluster.local."],
            ),
            (
                "_http._udp.web.default.svc.cluster.local.",
                SRV,
                vec!["NoName"],
            ),
            (db, A, vec!["10.1.0.2", "10.1.0.3"]),
            ("db-0.db.default.svc.cluster.local.", A, vec!["10.1.0.2"]),
            (
                "10-1-0-3.db.default.svc.cluster.local.",
                A,
                vec!["10.1.0.3"],
            ),
            (
                "_sql._tcp.db.default.svc.cluster.local.",
                SRV,
                vec![
                    "0 100 5432 10-1-0-3.db.default.svc.cluster.local.",
                    "0 100 5432 db-0.db.default.svc.cluster.local.",
                ],
            ),
            ("empty.default.svc.cluster.local.", A, vec!["NoName"]),
            ("far.default.svc.cluster.local.", A, vec!["-> example.com."]),
            ("10-1-0-9.default.pod.cluster.local.", A, vec!["10.1.0.9"]),
            ("10-1-0-9.default.pod.cluster.local.", AAAA, vec!["NoData"]),
            ("fd00--9.default.pod.cluster.local.", AAAA, vec!["fd00::9"]),
            ("10-1-0-9.nowhere.pod.cluster.local.", A, vec!["NoName"]),
            ("words.default.pod.cluster.local.", A, vec!["NoName"]),
            ("dns-version.cluster.local.", TXT, vec!["1.1.0"]),
            (
                "7.0.96.10.in-addr.arpa.",
                PTR,
                vec!["web.default.svc.cluster.local."],
            ),
            (
                "2.0.1.10.in-addr.arpa.",
                PTR,
                vec!["db-0.db.default.svc.cluster.local."],
            ),
            ("3.0.1.10.in-addr.arpa.", PTR, vec!["Outside"]),
            ("quiet.svc.cluster.local.", A, vec!["NoData"]),
            ("_tcp.web.default.svc.cluster.local.", A, vec!["NoData"]),
            ("svc.cluster.local.", ANY, vec!["NoData"]),
            ("cluster.local.", A, vec!["NoData"]),
            (
                "cluster.local.",
                NS,
                vec!["kube-dns.kube-system.svc.cluster.local."],
            ),
            ("notcluster.local.", A, vec!["Outside"]),
            ("local.", A, vec!["Outside"]),
            ("example.com.", A, vec!["Outside"]),
            (".", A, vec!["Outside"]),
        ] {
            assert_eq!(find(asked, kind), wanted, "{asked} {kind}");
        }
    }

    proptest! {
        /// Whatever a cluster holds: a name that is there has all names above it,
        /// and each address leads back to a name that leads to it.
        #[test]
        fn names_hang_together(
            services in proptest::collection::btree_map("[a-z]{1,3}", (any::<bool>(), 1u8..250), 0..6),
            endpoints in proptest::collection::vec((1u8..250, any::<bool>(), any::<bool>()), 0..6),
        ) {
            let objects: Vec<Service> = services
                .iter()
                .map(|(name, (is_headless, number))| {
                    let ip = if *is_headless { "None".to_owned() } else { format!("10.96.0.{number}") };
                    json!({
                        "metadata": { "name": name, "namespace": "default" },
                        "spec": { "clusterIP": ip, "ports": [{ "name": "http", "port": 80 }] },
                    })
                })
                .map(|service| serde_json::from_value(service).expect("a Service"))
                .collect();
            let slices: Vec<EndpointSlice> = services
                .keys()
                .map(|name| {
                    let endpoints: Vec<_> = endpoints
                        .iter()
                        .map(|(number, is_ready, is_named)| json!({
                            "addresses": [format!("10.1.0.{number}")],
                            "hostname": is_named.then(|| format!("h{number}")),
                            "conditions": { "ready": is_ready },
                        }))
                        .collect();
                    json!({
                        "metadata": {
                            "name": name, "namespace": "default",
                            "labels": { "kubernetes.io/service-name": name },
                        },
                        "addressType": "IPv4",
                        "endpoints": endpoints,
                        "ports": [{ "name": "http", "port": 8080 }],
                    })
                })
                .map(|slice| serde_json::from_value(slice).expect("a slice"))
                .collect();
            let zone = Zone::of(name("cluster.local."), ["default".to_owned()], &objects, &slices);
            for known in zone.nodes.keys().filter(|known| **known != zone.suffix) {
                let (_, above) = known.split_once('.').expect("a name has labels");
                prop_assert!(zone.nodes.contains_key(above), "{} lacks {}", known, above);
            }
            for (address, names) in &zone.reverse {
                for target in names {
                    let node = &zone.nodes[target];
                    prop_assert!(node.contains(&Data::Address(*address)), "{} {}", address, target);
                }
            }
            for (service, (is_headless, _)) in &services {
                let found = zone.find(&name(&format!("{service}.default.svc.cluster.local.")), RecordType::A);
                let n_found = match found {
                    Found::Records { answers, .. } => answers.len(),
                    Found::NoName => 0,
                    other => panic!("{other:?}"),
                };
                let ready: HashSet<u8> = endpoints
                    .iter()
                    .filter(|(_, is_ready, _)| *is_ready)
                    .map(|(number, _, _)| *number)
                    .collect();
                prop_assert_eq!(n_found, if *is_headless { ready.len() } else { 1 });
            }
        }
    }

    #[test]
    fn service_records_bring_their_addresses() {
        let found = zone().find(
            &name("_sql._tcp.db.default.svc.cluster.local."),
            RecordType::SRV,
        );
        let Found::Records { additionals, .. } = found else {
            panic!("{found:?}");
        };
        let mut texts: Vec<String> = additionals
            .iter()
            .map(|record| format!("{} {}", record.name, record.data))
            .collect();
        texts.sort();
        assert_eq!(
            texts,
            [
                "10-1-0-3.db.default.svc.cluster.local. 10.1.0.3",
                "db-0.db.default.svc.cluster.local. 10.1.0.2",
            ]
        );
    }
}
