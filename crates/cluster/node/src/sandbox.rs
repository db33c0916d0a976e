//! What a pod's sandbox should be like: names, name servers, ports, namespaces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Pod, PodSpec};
use kube::ResourceExt;

use crate::config::Config;
use crate::labels;
use crate::runtime::{DnsConfig, HostNamespaces, PodMetadata, PortMapping, SandboxConfig};

/// Search domains that a resolver takes.
const N_SEARCHES: usize = 32;
/// Name servers that a resolver takes.
const N_SERVERS: usize = 3;
/// Longest host name.
const LONGEST_NAME: usize = 63;

/// The sandbox of a pod; `host_dns` is what the host's `resolv.conf` says.
pub(crate) fn config(
    pod: &Pod,
    attempt: u32,
    config: &Config,
    host_dns: &DnsConfig,
) -> SandboxConfig {
    let empty = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&empty);
    let host = HostNamespaces {
        network: spec.host_network == Some(true),
        pid: spec.host_pid == Some(true),
        ipc: spec.host_ipc == Some(true),
        share_pid: spec.share_process_namespace == Some(true),
    };
    let sysctls = spec.security_context.iter();
    let sysctls = sysctls.flat_map(|context| context.sysctls.iter().flatten());
    let mut all = pod.labels().clone();
    all.extend(labels::of_pod(pod));
    let grace = spec.termination_grace_period_seconds.unwrap_or(30);
    let hostname = if host.network {
        String::new()
    } else {
        hostname(pod)
    };
    SandboxConfig {
        metadata: PodMetadata {
            name: pod.name_any(),
            namespace: pod.namespace().unwrap_or_default(),
            uid: pod.uid().unwrap_or_default(),
            attempt,
        },
        hostname: if spec.set_hostname_as_fqdn == Some(true) {
            full_hostname(pod, &config.cluster_domain).unwrap_or(hostname)
        } else {
            hostname
        },
        dns: dns(pod, spec, config, host_dns),
        port_mappings: if host.network {
            Vec::new()
        } else {
            port_mappings(spec)
        },
        labels: all,
        annotations: BTreeMap::from([(labels::GRACE.to_owned(), grace.to_string())]),
        host,
        sysctls: sysctls
            .map(|sysctl| (sysctl.name.clone(), sysctl.value.clone()))
            .collect(),
    }
}

/// A pod's host name: what it asks for, or its own name.
pub(crate) fn hostname(pod: &Pod) -> String {
    let spec = pod.spec.as_ref();
    let asked = spec.and_then(|spec| spec.hostname_override.clone().or(spec.hostname.clone()));
    let mut name = asked
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| pod.name_any());
    let mut end = LONGEST_NAME.min(name.len());
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    name.truncate(end);
    name.trim_end_matches(['-', '.']).to_owned()
}

/// Its name with its subdomain, if it has one.
pub(crate) fn full_hostname(pod: &Pod, domain: &str) -> Option<String> {
    let subdomain = pod.spec.as_ref()?.subdomain.as_ref()?;
    (!subdomain.is_empty()).then(|| {
        let namespace = pod.namespace().unwrap_or_default();
        format!("{}.{subdomain}.{namespace}.svc.{domain}", hostname(pod))
    })
}

fn port_mappings(spec: &PodSpec) -> Vec<PortMapping> {
    let containers = spec.containers.iter();
    let containers = containers.chain(spec.init_containers.iter().flatten());
    containers
        .flat_map(|container| container.ports.iter().flatten())
        .filter_map(|port| {
            let host_port = port.host_port.filter(|number| *number > 0)?;
            Some(PortMapping {
                protocol: port.protocol.clone().unwrap_or_else(|| "TCP".to_owned()),
                container_port: u16::try_from(port.container_port).ok()?,
                host_port: u16::try_from(host_port).ok()?,
                host_ip: port.host_ip.as_ref().and_then(|ip| ip.parse().ok()),
            })
        })
        .collect()
}

fn dns(pod: &Pod, spec: &PodSpec, config: &Config, host_dns: &DnsConfig) -> DnsConfig {
    let on_host = spec.host_network == Some(true);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let mut dns = match policy {
        "None" => DnsConfig::default(),
        "ClusterFirst" if !on_host && !config.cluster_dns.is_empty() => {
            of_cluster(pod, config, host_dns)
        }
        "ClusterFirstWithHostNet" if !config.cluster_dns.is_empty() => {
            of_cluster(pod, config, host_dns)
        }
        _ => host_dns.clone(),
    };
    if let Some(own) = &spec.dns_config {
        dns.servers
            .extend(own.nameservers.iter().flatten().cloned());
        for domain in own.searches.iter().flatten() {
            if !dns.searches.contains(domain) {
                dns.searches.push(domain.clone());
            }
        }
        for option in own.options.iter().flatten() {
            let name = option.name.clone().unwrap_or_default();
            let text = match &option.value {
                Some(value) => format!("{name}:{value}"),
                None => name.clone(),
            };
            // An option replaces the one of the same name.
            dns.options
                .retain(|known| known.split(':').next() != Some(name.as_str()));
            dns.options.push(text);
        }
    }
    dedup(&mut dns.servers);
    dns.servers.truncate(N_SERVERS);
    dns.searches.truncate(N_SEARCHES);
    dns
}

fn of_cluster(pod: &Pod, config: &Config, host_dns: &DnsConfig) -> DnsConfig {
    let domain = &config.cluster_domain;
    let namespace = pod.namespace().unwrap_or_default();
    let mut searches = vec![
        format!("{namespace}.svc.{domain}"),
        format!("svc.{domain}"),
        domain.clone(),
    ];
    searches.extend(host_dns.searches.iter().cloned());
    dedup(&mut searches);
    DnsConfig {
        servers: config.cluster_dns.iter().map(ToString::to_string).collect(),
        searches,
        options: vec!["ndots:5".to_owned()],
    }
}

fn dedup(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// What a `resolv.conf` says.
pub(crate) fn parse_resolv_conf(text: &str) -> DnsConfig {
    let mut dns = DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => dns.servers.extend(words.next().map(str::to_owned)),
            // The last one counts.
            Some("search" | "domain") => dns.searches = words.map(str::to_owned).collect(),
            Some("options") => dns.options.extend(words.map(str::to_owned)),
            _ => {}
        }
    }
    dns
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn made(spec: serde_json::Value) -> SandboxConfig {
        let pod = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "u"}, "spec": spec});
        let pod = serde_json::from_value(pod).expect("a pod");
        let settings = Config {
            cluster_domain: "cluster.local".to_owned(),
            cluster_dns: vec!["10.96.0.10".parse().expect("an address")],
            ..Config::default()
        };
        let host = parse_resolv_conf("# x\nnameserver 9.9.9.9\nsearch corp.example\noptions edns0");
        config(&pod, 0, &settings, &host)
    }

    #[test]
    fn names_are_looked_up_as_the_policy_says() {
        let dns = made(json!({"containers": []})).dns;
        assert_eq!(dns.servers, ["10.96.0.10"]);
        assert_eq!(
            dns.searches,
            [
                "ns.svc.cluster.local",
                "svc.cluster.local",
                "cluster.local",
                "corp.example"
            ]
        );
        assert_eq!(dns.options, ["ndots:5"]);
        let dns = made(json!({"containers": [], "hostNetwork": true})).dns;
        assert_eq!(dns.servers, ["9.9.9.9"]);
        let dns = made(
            json!({"containers": [], "hostNetwork": true, "dnsPolicy": "ClusterFirstWithHostNet"}),
        );
        assert_eq!(dns.dns.servers, ["10.96.0.10"]);
        assert_eq!(dns.hostname, "");
        let dns = made(json!({"containers": [], "dnsPolicy": "None", "dnsConfig": {
            "nameservers": ["1.1.1.1"], "searches": ["a.b"], "options": [{"name": "ndots", "value": "2"}]}}));
        assert_eq!(dns.dns.servers, ["1.1.1.1"]);
        assert_eq!(dns.dns.options, ["ndots:2"]);
        let dns = made(json!({"containers": [], "dnsConfig": {
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]}}));
        assert_eq!(dns.dns.options, ["ndots:2", "edns0"]);
    }

    #[test]
    fn ports_of_the_host_lead_into_the_pod() {
        let spec = json!({"containers": [{"name": "c", "ports": [
            {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"}, {"containerPort": 81}]}]});
        let mappings = made(spec).port_mappings;
        assert_eq!(mappings.len(), 1);
        assert_eq!(
            (mappings[0].container_port, mappings[0].host_port),
            (80, 8080)
        );
        assert_eq!(
            mappings[0].host_ip,
            Some("127.0.0.1".parse().expect("an address"))
        );
    }
}
