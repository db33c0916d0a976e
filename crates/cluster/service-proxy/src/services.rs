//! Services and their slices become frontends: where this node answers, and
//! who stands behind it. Pure: nothing of the kernel is known here.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
pub enum Protocol {
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
pub struct Frontend {
    /// The address; the unspecified one stands for every address of the node.
    pub address: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The port.
    pub port: u16,
}

/// What happens at a frontend without anybody behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WhenEmpty {
    /// Connections are refused.
    Reject,
    /// They are dropped, because other nodes can serve them.
    Drop,
}

/// Whose address the endpoints see.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The client's.
    Kept,
    /// The node's: the answer must come back this way.
    Masqueraded,
}

/// Who stands behind a frontend.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Balance {
    /// Who serves, in order, each once.
    pub targets: Vec<SocketAddr>,
    /// Who serves clients of the cluster itself, where that differs: a policy
    /// of local endpoints binds only the world outside.
    pub inside: Option<Vec<SocketAddr>>,
    /// How long a client stays with one of them, in seconds.
    pub affinity: Option<u32>,
    /// Whose address the targets see.
    pub source: Source,
    /// What happens when there are no targets.
    pub when_empty: WhenEmpty,
}

/// Everything that this node answers at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frontends {
    /// By address, protocol and port.
    pub balances: BTreeMap<Frontend, Balance>,
    /// Addresses that nobody but Services has: what is sent to other ports of
    /// them is refused.
    pub cluster_ips: BTreeSet<IpAddr>,
}

/// Computes what the node named `node` answers at.
///
/// Services without a cluster address, of other proxies, and slices of address
/// types other than IPv4 and IPv6 are passed over. When two Services claim one
/// frontend, the older one has it.
pub fn frontends<'a>(
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
            };
            answer(*cluster_ip, number, internal);

            let external = if is_local(&spec.external_traffic_policy) {
                Balance {
                    targets: here.clone(),
                    inside: (here != everywhere).then(|| everywhere.clone()),
                    affinity,
                    source: Source::Kept,
                    when_empty: when_empty(&here),
                }
            } else {
                Balance {
                    targets: everywhere.clone(),
                    inside: None,
                    affinity,
                    source: Source::Masqueraded,
                    when_empty: WhenEmpty::Reject,
                }
            };
            for address in external_addresses(service, spec, family) {
                answer(address, number, external.clone());
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

/// External addresses and those of load balancers that hand packets on as they
/// are.
fn external_addresses(service: &Service, spec: &ServiceSpec, family: Family) -> Vec<IpAddr> {
    let ingress = service
        .status
        .as_ref()
        .and_then(|status| status.load_balancer.as_ref()?.ingress.as_ref())
        .into_iter()
        .flatten()
        .filter(|_| spec.type_.as_deref() == Some("LoadBalancer"))
        .filter(|ingress| ingress.ip_mode.as_deref() != Some("Proxy"))
        .filter_map(|ingress| ingress.ip.as_ref());
    spec.external_ips
        .iter()
        .flatten()
        .chain(ingress)
        .filter_map(|text| text.parse().ok())
        .filter(|address: &IpAddr| Family::of(*address) == family && !address.is_unspecified())
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
