//! Services and their slices become frontends: where this node answers, and
//! who stands behind it. Pure: nothing of the kernel is known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use dhow_netlink::Prefix;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointSlice};
use kube::ResourceExt;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Who bears it is the business of another proxy.
const OTHER_PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client stays with its endpoint unless the Service says otherwise,
/// in seconds.
const AFFINITY: u32 = 10_800;

/// A transport protocol that Services have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// TCP.
    Tcp = 6,
    /// UDP.
    Udp = 17,
    /// SCTP.
    Sctp = 132,
}

impl Protocol {
    fn named(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Protocol::Tcp),
            "UDP" => Some(Protocol::Udp),
            "SCTP" => Some(Protocol::Sctp),
            _ => None,
        }
    }
}

/// Where the node answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Frontend {
    /// The address; the unspecified one stands for every address of the node.
    pub(crate) address: IpAddr,
    /// The transport protocol.
    pub(crate) protocol: Protocol,
    /// The port.
    pub(crate) port: u16,
}

/// What happens at a frontend without anybody behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WhenEmpty {
    /// Connections are refused.
    Reject,
    /// They are dropped, because other nodes can serve them.
    Drop,
}

/// Whose address the endpoints see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The client's.
    Kept,
    /// The node's: the answer must come back this way.
    Masqueraded,
}

/// Who stands behind a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Balance {
    /// Who serves, in order, each once.
    pub(crate) targets: Vec<SocketAddr>,
    /// Who serves clients of the cluster itself, where that differs: a policy
    /// of local endpoints binds only the world outside.
    pub(crate) inside: Option<Vec<SocketAddr>>,
    /// How long a client stays with one of them, in seconds.
    pub(crate) affinity: Option<u32>,
    /// Whose address the targets see.
    pub(crate) source: Source,
    /// Who may come; empty means everybody.
    pub(crate) allowed: Vec<Prefix>,
    /// What happens when there are no targets.
    pub(crate) when_empty: WhenEmpty,
}

/// Everything that this node answers at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Frontends {
    /// By address, protocol and port.
    pub(crate) balances: BTreeMap<Frontend, Balance>,
    /// Addresses that nobody but Services has: what is sent to other ports of
    /// them is refused.
    pub(crate) cluster_ips: BTreeSet<IpAddr>,
}

/// Computes what the node named `node` answers at.
///
/// Services without a cluster address, of other proxies, and slices of address
/// types other than IPv4 and IPv6 are passed over. When two Services claim one
/// frontend, the older one has it.
pub(crate) fn frontends<'a>(
    services: impl IntoIterator<Item = &'a Service>,
    slices: impl IntoIterator<Item = &'a EndpointSlice>,
    node: &str,
) -> Frontends {
    let mut of_service: BTreeMap<(String, &str), Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in slices {
        if let Some(name) = slice.labels().get(SERVICE_LABEL) {
            let key = (slice.namespace().unwrap_or_default(), name.as_str());
            of_service.entry(key).or_default().push(slice);
        }
    }
    let mut services: Vec<&Service> = services.into_iter().filter(|one| is_ours(one)).collect();
    services.sort_by_key(|service| {
        (
            service.creation_timestamp().map(|time| time.0),
            service.namespace(),
            service.name_any(),
        )
    });
    let mut frontends = Frontends::default();
    for service in services {
        let name = service.name_any();
        let key = (service.namespace().unwrap_or_default(), name.as_str());
        let slices = of_service.get(&key).map(Vec::as_slice).unwrap_or_default();
        add(&mut frontends, service, slices, node);
    }
    frontends
}

fn is_ours(service: &Service) -> bool {
    let is_external = service
        .spec
        .as_ref()
        .is_none_or(|spec| spec.type_.as_deref() == Some("ExternalName"));
    !is_external
        && !service.labels().contains_key(OTHER_PROXY_LABEL)
        && !service.labels().contains_key(HEADLESS_LABEL)
}

fn add(frontends: &mut Frontends, service: &Service, slices: &[&EndpointSlice], node: &str) {
    let Some(spec) = service.spec.as_ref() else {
        return;
    };
    let cluster_ips = cluster_ips(spec);
    frontends.cluster_ips.extend(&cluster_ips);
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        spec.session_affinity_config
            .as_ref()
            .and_then(|config| config.client_ip.as_ref()?.timeout_seconds)
            .and_then(|seconds| u32::try_from(seconds).ok())
            .filter(|seconds| *seconds > 0)
            .unwrap_or(AFFINITY)
    });
    let is_local = |policy: &Option<String>| policy.as_deref() == Some("Local");
    for port in spec.ports.iter().flatten() {
        let (Some(protocol), Ok(number)) = (
            Protocol::named(port.protocol.as_deref()),
            u16::try_from(port.port),
        ) else {
            continue;
        };
        for cluster_ip in &cluster_ips {
            let family = Family::of(*cluster_ip);
            let everywhere = targets(slices, port, protocol, family, Reach::Everywhere);
            let here = targets(slices, port, protocol, family, Reach::Node(node));
            let when_empty = |targets: &[SocketAddr]| {
                if targets.is_empty() && !everywhere.is_empty() {
                    WhenEmpty::Drop
                } else {
                    WhenEmpty::Reject
                }
            };
            let mut answer = |address, port, balance: Balance| {
                let frontend = Frontend {
                    address,
                    protocol,
                    port,
                };
                frontends.balances.entry(frontend).or_insert(balance);
            };

            let targets = if is_local(&spec.internal_traffic_policy) {
                here.clone()
            } else {
                everywhere.clone()
            };
            let internal = Balance {
                when_empty: when_empty(&targets),
                targets,
                inside: None,
                affinity,
                source: Source::Kept,
                allowed: Vec::new(),
            };
            answer(*cluster_ip, number, internal);

            let external = if is_local(&spec.external_traffic_policy) {
                Balance {
                    targets: here.clone(),
                    inside: (here != everywhere).then(|| everywhere.clone()),
                    affinity,
                    source: Source::Kept,
                    allowed: Vec::new(),
                    when_empty: when_empty(&here),
                }
            } else {
                Balance {
                    targets: everywhere.clone(),
                    inside: None,
                    affinity,
                    source: Source::Masqueraded,
                    allowed: Vec::new(),
                    when_empty: WhenEmpty::Reject,
                }
            };
            for address in external_ips(spec, family) {
                answer(address, number, external.clone());
            }
            for address in ingress_addresses(service, spec, family) {
                let balance = Balance {
                    allowed: source_ranges(spec, family),
                    ..external.clone()
                };
                answer(address, number, balance);
            }
            if let Some(node_port) = node_port(spec, port) {
                answer(family.any(), node_port, external.clone());
            }
        }
    }
}

fn cluster_ips(spec: &ServiceSpec) -> Vec<IpAddr> {
    let several = spec.cluster_ips.iter().flatten();
    let mut addresses: Vec<IpAddr> = several
        .chain(&spec.cluster_ip)
        .filter_map(|text| text.parse().ok())
        .collect();
    addresses.sort();
    addresses.dedup();
    addresses
}

fn node_port(spec: &ServiceSpec, port: &ServicePort) -> Option<u16> {
    if !matches!(spec.type_.as_deref(), Some("NodePort" | "LoadBalancer")) {
        return None;
    }
    port.node_port
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number != 0)
}

fn external_ips(spec: &ServiceSpec, family: Family) -> impl Iterator<Item = IpAddr> {
    let texts = spec.external_ips.iter().flatten();
    texts.filter_map(move |text| family.parse(text))
}

/// Addresses of load balancers that hand packets on as they are.
fn ingress_addresses(
    service: &Service,
    spec: &ServiceSpec,
    family: Family,
) -> impl Iterator<Item = IpAddr> {
    let is_balanced = spec.type_.as_deref() == Some("LoadBalancer");
    service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(move |_| is_balanced)
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(move |ingress| family.parse(ingress.ip.as_ref()?))
}

/// Who may come by a load balancer's address.
fn source_ranges(spec: &ServiceSpec, family: Family) -> Vec<Prefix> {
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    ranges
        .filter_map(|text| text.trim().parse().ok())
        .filter(|prefix: &Prefix| Family::of(prefix.address) == family)
        .map(Prefix::network)
        .collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

impl Family {
    fn of(address: IpAddr) -> Self {
        if address.is_ipv4() {
            Family::V4
        } else {
            Family::V6
        }
    }

    /// An address that can be spoken to.
    fn parse(self, text: &str) -> Option<IpAddr> {
        let address: IpAddr = text.parse().ok()?;
        (Family::of(address) == self && !address.is_unspecified()).then_some(address)
    }

    fn any(self) -> IpAddr {
        match self {
            Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        }
    }
}

/// Which endpoints count.
#[derive(Debug, Clone, Copy)]
enum Reach<'a> {
    Everywhere,
    Node(&'a str),
}

impl Reach<'_> {
    fn has(self, endpoint: &Endpoint) -> bool {
        match self {
            Reach::Everywhere => true,
            Reach::Node(node) => endpoint.node_name.as_deref() == Some(node),
        }
    }
}

/// The endpoints that are ready; if there are none, those that still serve
/// while they end.
fn targets(
    slices: &[&EndpointSlice],
    port: &ServicePort,
    protocol: Protocol,
    family: Family,
    reach: Reach<'_>,
) -> Vec<SocketAddr> {
    let (mut ready, mut ending) = (BTreeSet::new(), BTreeSet::new());
    let name = port.name.as_deref().unwrap_or_default();
    for slice in slices {
        if slice.address_type != family.name() {
            continue;
        }
        let number = slice.ports.iter().flatten().find_map(|candidate| {
            (candidate.name.as_deref().unwrap_or_default() == name
                && Protocol::named(candidate.protocol.as_deref()) == Some(protocol))
            .then(|| u16::try_from(candidate.port?).ok())
            .flatten()
        });
        let Some(number) = number.filter(|number| *number != 0) else {
            continue;
        };
        for endpoint in slice.endpoints.iter().flatten() {
            let address = endpoint
                .addresses
                .first()
                .and_then(|text| text.parse().ok())
                .filter(|address: &IpAddr| Family::of(*address) == family);
            let Some(address) = address.filter(|_| reach.has(endpoint)) else {
                continue;
            };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let target = SocketAddr::new(address, number);
            if conditions.ready != Some(false) {
                ready.insert(target);
            } else if conditions.serving != Some(false) && conditions.terminating == Some(true) {
                ending.insert(target);
            }
        }
    }
    let chosen = if ready.is_empty() { ending } else { ready };
    chosen.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;

    fn service(spec: &Value) -> Service {
        let mut spec = spec.clone();
        for (field, value) in [
            ("clusterIP", json!("10.96.0.7")),
            ("clusterIPs", json!(["10.96.0.7"])),
            (
                "ports",
                json!([{ "name": "http", "port": 80, "nodePort": 30080 }]),
            ),
        ] {
            spec.as_object_mut()
                .expect("a spec")
                .entry(field)
                .or_insert(value);
        }
        serde_json::from_value(json!({
            "metadata": { "name": "web", "namespace": "default" },
            "spec": spec,
            "status": { "loadBalancer": { "ingress": [
                { "ip": "198.51.100.1" },
                { "ip": "198.51.100.2", "ipMode": "Proxy" },
                { "hostname": "example.com" },
            ] } },
        }))
        .expect("a Service")
    }

    /// Endpoint 10.1.0.N on node `a` if N is odd, else on `b`.
    fn slice(endpoints: &[(u8, Value)]) -> EndpointSlice {
        let endpoints: Vec<Value> = endpoints
            .iter()
            .map(|(number, conditions)| {
                json!({
                    "addresses": [format!("10.1.0.{number}")],
                    "nodeName": if number % 2 == 1 { "a" } else { "b" },
                    "conditions": conditions,
                })
            })
            .collect();
        serde_json::from_value(json!({
            "metadata": {
                "name": "web-1", "namespace": "default",
                "labels": { "kubernetes.io/service-name": "web" },
            },
            "addressType": "IPv4",
            "endpoints": endpoints,
            "ports": [{ "name": "http", "port": 8080, "protocol": "TCP" }],
        }))
        .expect("a slice")
    }

    fn ready() -> Value {
        json!({ "ready": true })
    }

    fn ending() -> Value {
        json!({ "ready": false, "serving": true, "terminating": true })
    }

    fn unready() -> Value {
        json!({ "ready": false, "serving": false, "terminating": false })
    }

    fn at(address: &str, port: u16) -> Frontend {
        Frontend {
            address: address.parse().expect("an address"),
            protocol: Protocol::Tcp,
            port,
        }
    }

    fn targets_at(frontends: &Frontends, address: &str, port: u16) -> Vec<String> {
        let balance = &frontends.balances[&at(address, port)];
        balance.targets.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_address_of_a_service_is_a_frontend() {
        let spec = json!({ "type": "LoadBalancer", "externalIPs": ["203.0.113.9", "fd00::1"] });
        let slice = slice(&[(1, ready()), (2, ready()), (3, unready())]);
        let frontends = frontends([&service(&spec)], [&slice], "a");
        let all: Vec<Frontend> = frontends.balances.keys().copied().collect();
        let wanted = [
            at("0.0.0.0", 30080),
            at("10.96.0.7", 80),
            at("198.51.100.1", 80),
            at("203.0.113.9", 80),
        ];
        assert_eq!(all, wanted);
        for frontend in wanted {
            let balance = &frontends.balances[&frontend];
            let targets: Vec<String> = balance.targets.iter().map(ToString::to_string).collect();
            assert_eq!(targets, ["10.1.0.1:8080", "10.1.0.2:8080"]);
            let is_internal = frontend.address.to_string() == "10.96.0.7";
            assert_eq!(balance.source == Source::Kept, is_internal);
        }
        assert_eq!(
            frontends.cluster_ips,
            ["10.96.0.7".parse().expect("an address")].into()
        );
    }

    #[test]
    fn those_who_end_serve_when_nobody_else_does() {
        let web = service(&json!({}));
        let both = frontends([&web], [&slice(&[(1, ending()), (2, ready())])], "a");
        assert_eq!(targets_at(&both, "10.96.0.7", 80), ["10.1.0.2:8080"]);
        let one = frontends([&web], [&slice(&[(1, ending()), (2, unready())])], "a");
        assert_eq!(targets_at(&one, "10.96.0.7", 80), ["10.1.0.1:8080"]);
        let none = frontends([&web], [&slice(&[(2, unready())])], "a");
        let balance = &none.balances[&at("10.96.0.7", 80)];
        assert_eq!(
            (balance.targets.len(), balance.when_empty),
            (0, WhenEmpty::Reject)
        );
    }

    #[test]
    fn local_policies_keep_to_the_node() {
        let spec = json!({
            "type": "NodePort",
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
        });
        let slice = slice(&[(1, ready()), (2, ready()), (4, ready())]);
        let of = |node| frontends([&service(&spec)], [&slice], node);
        let (a, b, c) = (of("a"), of("b"), of("c"));
        assert_eq!(targets_at(&a, "10.96.0.7", 80), ["10.1.0.1:8080"]);
        assert_eq!(
            targets_at(&b, "0.0.0.0", 30080),
            ["10.1.0.2:8080", "10.1.0.4:8080"]
        );
        let outer = &b.balances[&at("0.0.0.0", 30080)];
        assert_eq!(outer.source, Source::Kept);
        assert_eq!(outer.inside.as_ref().map(Vec::len), Some(3));
        for frontend in [at("10.96.0.7", 80), at("0.0.0.0", 30080)] {
            let balance = &c.balances[&frontend];
            assert_eq!(
                (balance.targets.len(), balance.when_empty),
                (0, WhenEmpty::Drop)
            );
        }
    }

    #[test]
    fn what_is_not_ours_is_passed_over() {
        let mut other = service(&json!({}));
        other
            .metadata
            .labels
            .get_or_insert_default()
            .insert(OTHER_PROXY_LABEL.into(), "other".into());
        let headless = service(&json!({ "clusterIP": "None", "clusterIPs": ["None"] }));
        let external = service(&json!({ "type": "ExternalName", "externalName": "example.com" }));
        let all = frontends(
            [&other, &headless, &external],
            [&slice(&[(1, ready())])],
            "a",
        );
        assert_eq!(all, Frontends::default());
    }

    #[test]
    fn ranges_bind_the_load_balancer_alone() {
        let spec = json!({
            "type": "LoadBalancer",
            "externalIPs": ["203.0.113.9"],
            "loadBalancerSourceRanges": ["192.0.2.0/24", " 10.0.0.1/8", "fd00::/8", "x"],
        });
        let all = frontends([&service(&spec)], [], "a");
        for (frontend, balance) in &all.balances {
            let allowed: Vec<String> = balance.allowed.iter().map(ToString::to_string).collect();
            let wanted: &[&str] = if *frontend == at("198.51.100.1", 80) {
                &["192.0.2.0/24", "10.0.0.0/8"]
            } else {
                &[]
            };
            assert_eq!(allowed, wanted, "{frontend:?}");
        }
    }

    #[test]
    fn affinity_has_its_time() {
        let with = |config: Value| {
            let spec = json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config });
            let all = frontends([&service(&spec)], [], "a");
            all.balances[&at("10.96.0.7", 80)].affinity
        };
        assert_eq!(with(json!({})), Some(10_800));
        assert_eq!(
            with(json!({ "clientIP": { "timeoutSeconds": 60 } })),
            Some(60)
        );
    }

    fn conditions() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(ready()),
            Just(ending()),
            Just(unready()),
            Just(json!({}))
        ]
    }

    proptest! {
        /// However endpoints come, in whatever order and slices: targets are
        /// sorted, each once, all of them endpoints of the Service; a local list
        /// is part of the whole; and there are targets if anybody is ready.
        #[test]
        fn targets_are_endpoints(
            endpoints in proptest::collection::vec((1u8..30, conditions()), 0..20),
            cut in any::<prop::sample::Index>(),
        ) {
            let spec = json!({ "type": "NodePort", "externalTrafficPolicy": "Local" });
            let web = service(&spec);
            let cut = cut.index(endpoints.len() + 1);
            let halves = [slice(&endpoints[..cut]), slice(&endpoints[cut..])];
            let all = frontends([&web], &halves, "a");
            let turned = frontends([&web], halves.iter().rev(), "a");
            prop_assert_eq!(&all, &turned, "order of slices does not matter");
            let internal = &all.balances[&at("10.96.0.7", 80)];
            prop_assert!(internal.targets.is_sorted_by(|a, b| a < b));
            let is_ready = |conditions: &Value| conditions["ready"] != json!(false);
            let some_ready = endpoints.iter().any(|(_, conditions)| is_ready(conditions));
            for target in &internal.targets {
                let ours = endpoints.iter().any(|(number, conditions)| {
                    target.to_string() == format!("10.1.0.{number}:8080")
                        && (is_ready(conditions) || (!some_ready && *conditions == ending()))
                });
                prop_assert!(ours, "{} is nobody's", target);
            }
            prop_assert!(!some_ready || !internal.targets.is_empty());
            let external = &all.balances[&at("0.0.0.0", 30080)];
            for target in &external.targets {
                let IpAddr::V4(address) = target.ip() else { panic!("of IPv4") };
                prop_assert_eq!(address.octets()[3] % 2, 1, "on this node");
            }
            if let Some(inside) = &external.inside {
                prop_assert_eq!(inside, &internal.targets);
            }
        }
    }
}
