//! From a container's configuration to its endpoints: addresses, names, ports.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use dhow_network::{EndpointSpec, Error as NetworkError, Protocol, PublishSpec};

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::record::Record;
use crate::spec::{Config, EndpointSettings, HostConfig, PortBinding};

/// The default network.
pub(crate) const DEFAULT_NETWORK: &str = "bridge";
const IFNAME: &str = "com.docker.network.endpoint.ifname";
const SYSCTLS: &str = "com.docker.network.endpoint.sysctls";

impl Engine {
    /// The endpoints of a container that is being started, with their networks.
    /// The network of its mode comes first and is `eth0`.
    pub(crate) fn endpoint_specs(&self, record: &Record) -> Result<Vec<(String, EndpointSpec)>> {
        let mode = record.host.network_mode.as_str();
        let mut order: Vec<(&String, &EndpointSettings)> = record.networks.iter().collect();
        order.sort_by_key(|(name, _)| *name != mode);
        let mut specs = Vec::with_capacity(order.len());
        for (network, settings) in order {
            specs.push((
                network.clone(),
                self.endpoint_spec(record, network, settings)?,
            ));
        }
        // They follow the default route, wherever that ends up: the last to
        // join knows it.
        if let Some((_, last)) = specs.last_mut() {
            last.ports = publish_specs(&record.config, &record.host)?;
        }
        Ok(specs)
    }

    /// One endpoint of a container, without published ports.
    pub(crate) fn endpoint_spec(
        &self,
        record: &Record,
        network: &str,
        settings: &EndpointSettings,
    ) -> Result<EndpointSpec> {
        check_settings(network, settings)?;
        let mut aliases = settings.aliases.clone().unwrap_or_default();
        if network != DEFAULT_NETWORK {
            aliases.push(record.id[..12].to_owned());
            if !record.config.hostname.is_empty() {
                aliases.push(record.config.hostname.clone());
            }
        }
        let mut links = BTreeMap::new();
        for link in settings.links.iter().flatten().chain(&record.host.links) {
            let (target, alias) = link_parts(link);
            // A name of the moment is found by whoever asks later, too.
            let target = self
                .get(target)
                .map_or(target.to_owned(), |other| other.name.clone());
            links.insert(alias.to_owned(), target);
        }
        let mac_address = if settings.mac_address.is_empty() && network == mode_network(record) {
            &record.config.mac_address
        } else {
            &settings.mac_address
        };
        let options = settings.driver_opts.as_ref();
        let option = |name: &str| options.and_then(|options| options.get(name));
        Ok(EndpointSpec {
            name: record.name.clone(),
            aliases,
            addresses: addresses(settings)?,
            link_local: link_local(settings)?,
            mac: mac(mac_address)?,
            interface: option(IFNAME).cloned(),
            ports: Vec::new(),
            links,
            name_servers: name_servers(&record.host)?,
            gateway_priority: settings.gw_priority,
            sysctls: option(SYSCTLS).map_or(Ok(Vec::new()), |text| link_sysctls(text))?,
        })
    }
}

/// The network that the container's mode names.
fn mode_network(record: &Record) -> &str {
    &record.host.network_mode
}

/// `CONTAINER[:ALIAS]`, where the alias may have a path before it.
pub(crate) fn link_parts(link: &str) -> (&str, &str) {
    let (target, alias) = link.split_once(':').unwrap_or((link, link));
    let alias = alias.rsplit('/').next().unwrap_or(alias);
    (target.trim_start_matches('/'), alias)
}

/// What a network's refusal means to whoever asked for a start.
pub(crate) fn told(error: NetworkError, endpoint: &str, sandbox: &str) -> Error {
    match error {
        NetworkError::PortAllocated(_) | NetworkError::PortTaken { .. } => {
            Error::Network(NetworkError::NotPublished {
                endpoint: endpoint.into(),
                sandbox: sandbox.into(),
                source: Box::new(error),
            })
        }
        error => error.into(),
    }
}

/// Refuses what makes no sense, before anything is made.
pub(crate) fn check(
    config: &Config,
    host: &HostConfig,
    networks: &BTreeMap<String, EndpointSettings>,
) -> Result<()> {
    let refuse = |why: &str| Err(Error::Invalid(format!("conflicting options: {why}")));
    let mode = host.network_mode.as_str();
    if mode.starts_with("container:") {
        if !host.links.is_empty() {
            return refuse(
                "container type network can't be used with links. This would result in undefined behavior",
            );
        }
        for (is_set, why) in [
            (!config.hostname.is_empty(), "hostname and the network mode"),
            (!host.dns.is_empty(), "dns and the network mode"),
            (
                !host.extra_hosts.is_empty(),
                "custom host-to-IP mapping and the network mode",
            ),
            (
                !config.mac_address.is_empty(),
                "mac-address and the network mode",
            ),
            (
                !host.port_bindings.is_empty() || host.publish_all_ports,
                "port publishing and the container type network mode",
            ),
        ] {
            if is_set {
                return refuse(why);
            }
        }
    }
    if mode == "host" && !host.links.is_empty() {
        return refuse(
            "host type networking can't be used with links. This would result in undefined behavior",
        );
    }
    if host.uts_mode == "host" && !config.hostname.is_empty() {
        return refuse("hostname and the UTS mode");
    }
    for (network, settings) in networks {
        check_settings(network, settings)?;
        addresses(settings)?;
        link_local(settings)?;
        mac(&settings.mac_address)?;
    }
    mac(&config.mac_address)?;
    name_servers(host)?;
    for extra in &host.extra_hosts {
        crate::name_files::extra_host(extra)?;
    }
    publish_specs(config, host)?;
    Ok(())
}

fn check_settings(network: &str, settings: &EndpointSettings) -> Result<()> {
    if network != DEFAULT_NETWORK {
        return Ok(());
    }
    if !addresses(settings)?.is_empty() || !link_local(settings)?.is_empty() {
        return Err(Error::Invalid(
            "invalid config for network bridge: invalid endpoint settings:\nuser specified IP address is supported on user defined networks only".into(),
        ));
    }
    if settings
        .aliases
        .as_ref()
        .is_some_and(|list| !list.is_empty())
    {
        return Err(Error::Invalid(
            "invalid config for network bridge: invalid endpoint settings:\nnetwork-scoped aliases are only supported for user-defined networks".into(),
        ));
    }
    Ok(())
}

fn addresses(settings: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let Some(ipam) = &settings.ipam_config else {
        return Ok(Vec::new());
    };
    let mut addresses = Vec::new();
    for (text, kind) in [(&ipam.ipv4_address, "IPv4"), (&ipam.ipv6_address, "IPv6")] {
        if text.is_empty() {
            continue;
        }
        let parsed = text.parse::<IpAddr>().ok();
        match parsed.filter(|address| address.is_ipv4() == (kind == "IPv4")) {
            Some(address) => addresses.push(address),
            None => {
                return Err(Error::Invalid(format!(
                    "invalid endpoint settings: invalid {kind} address: {text}"
                )));
            }
        }
    }
    Ok(addresses)
}

fn link_local(settings: &EndpointSettings) -> Result<Vec<IpAddr>> {
    let wanted = settings
        .ipam_config
        .iter()
        .flat_map(|ipam| &ipam.link_local);
    wanted
        .map(|text| {
            text.parse().map_err(|_| {
                Error::Invalid(format!(
                    "invalid endpoint settings: invalid link-local IP address: {text}"
                ))
            })
        })
        .collect()
}

fn mac(text: &str) -> Result<Option<[u8; 6]>> {
    if text.is_empty() {
        return Ok(None);
    }
    let bytes: Option<Vec<u8>> = text
        .split([':', '-'])
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect();
    let address = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
    match address {
        // An address of many is nobody's.
        Some(address) if address[0] & 1 == 0 => Ok(Some(address)),
        _ => Err(Error::Invalid(format!("invalid MAC address: {text}"))),
    }
}

fn name_servers(host: &HostConfig) -> Result<Vec<IpAddr>> {
    host.dns
        .iter()
        .map(|text| {
            text.parse()
                .map_err(|_| Error::Invalid(format!("invalid IP address: {text}")))
        })
        .collect()
}

/// `net.ipv4.conf.IFNAME.NAME=VALUE`, several behind commas.
fn link_sysctls(text: &str) -> Result<Vec<(String, String)>> {
    text.split(',')
        .map(|setting| {
            let invalid = || {
                Error::Invalid(format!(
                    "invalid sysctl {setting:?}: the form is net.FAMILY.KIND.IFNAME.NAME=VALUE"
                ))
            };
            let (name, value) = setting.split_once('=').ok_or_else(invalid)?;
            let parts: Vec<&str> = name.split('.').collect();
            let is_word = |word: &&str| {
                !word.is_empty()
                    && word
                        .bytes()
                        .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
            };
            match parts.as_slice() {
                ["net", family, kind, "IFNAME", setting]
                    if [family, kind, setting].iter().all(|word| is_word(word)) =>
                {
                    Ok((
                        format!("{family}/{kind}/IFNAME/{setting}"),
                        value.to_owned(),
                    ))
                }
                _ => Err(invalid()),
            }
        })
        .collect()
}

/// The ports that a container publishes.
///
/// # Errors
///
/// [`Error::Invalid`] for what is no port, protocol or address.
pub(crate) fn publish_specs(config: &Config, host: &HostConfig) -> Result<Vec<PublishSpec>> {
    let mut specs = Vec::new();
    for (port, bindings) in &host.port_bindings {
        let (protocol, container_port) = parse_port(port)?;
        let any = [PortBinding::default()];
        let bindings = bindings
            .as_deref()
            .filter(|list| !list.is_empty())
            .unwrap_or(&any);
        for binding in bindings {
            let host_address = match binding.host_ip.as_str() {
                "" => None,
                text => Some(text.trim_matches(['[', ']']).parse().map_err(|_| {
                    Error::Invalid(format!(
                        "invalid port specification: invalid host address {text:?}"
                    ))
                })?),
            };
            specs.push(PublishSpec {
                protocol,
                container_port,
                host_address,
                host_ports: host_ports(&binding.host_port)?,
            });
        }
    }
    if host.publish_all_ports {
        for port in config.exposed_ports.keys() {
            // Those of the request were checked; an image says what it likes.
            let Ok((protocol, container_port)) = parse_port(port) else {
                continue;
            };
            let same = |spec: &PublishSpec| {
                spec.protocol == protocol && spec.container_port == container_port
            };
            if !specs.iter().any(same) {
                specs.push(PublishSpec {
                    protocol,
                    container_port,
                    host_address: None,
                    host_ports: 0..=0,
                });
            }
        }
    }
    Ok(specs)
}

/// Refuses a request whose ports are none, before they meet the image's.
///
/// # Errors
///
/// [`Error::Invalid`].
pub(crate) fn check_exposed(config: &Config) -> Result<()> {
    config
        .exposed_ports
        .keys()
        .try_for_each(|port| parse_port(port).map(drop))
}

/// Nothing, a port, or the first and last of a range.
fn host_ports(text: &str) -> Result<RangeInclusive<u16>> {
    if text.is_empty() {
        return Ok(0..=0);
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last && (first > 0 || last == 0) => Ok(first..=last),
        _ => Err(Error::Invalid(format!(
            "invalid port specification: {text:?}"
        ))),
    }
}

/// `port[/protocol]`.
fn parse_port(text: &str) -> Result<(Protocol, u16)> {
    let (port, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol.to_ascii_lowercase().as_str() {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        other => return Err(Error::Invalid(format!("Invalid proto: {other}"))),
    };
    match port.parse() {
        Ok(port) if port > 0 => Ok((protocol, port)),
        _ => Err(Error::Invalid(format!(
            "invalid port specification: {text:?}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse_port("80/udp").expect("good"), (Protocol::Udp, 80));
        assert_eq!(parse_port("443").expect("good"), (Protocol::Tcp, 443));
        for bad in ["", "0/tcp", "80/icmp", "65536/tcp", "-1", "80-90"] {
            assert!(parse_port(bad).is_err(), "{bad}");
        }
        for (text, expected) in [
            ("", 0..=0),
            ("0", 0..=0),
            ("80", 80..=80),
            ("8000-8010", 8000..=8010),
        ] {
            assert_eq!(host_ports(text).expect(text), expected);
        }
        for bad in ["x", "90-80", "0-10", "1-", "70000"] {
            assert!(host_ports(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn hardware_addresses() {
        assert_eq!(mac("").expect("none"), None);
        let expected = Some([2, 0x42, 0xac, 0x11, 0, 2]);
        for good in ["02:42:ac:11:00:02", "02-42-AC-11-00-02"] {
            assert_eq!(mac(good).expect(good), expected);
        }
        for bad in [
            "02:42:ac:11:00",
            "01:00:5e:00:00:01",
            "x",
            "02:42:ac:11:00:02:03",
        ] {
            assert!(mac(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn settings_of_a_link_stay_those_of_a_link() {
        let parsed =
            link_sysctls("net.ipv4.conf.IFNAME.log_martians=1,net.ipv6.conf.IFNAME.accept_ra=2");
        assert_eq!(
            parsed.expect("good"),
            [
                ("ipv4/conf/IFNAME/log_martians".to_owned(), "1".to_owned()),
                ("ipv6/conf/IFNAME/accept_ra".to_owned(), "2".to_owned()),
            ]
        );
        for bad in [
            "",
            "net.ipv4.ip_forward=1",
            "net.ipv4.conf.eth0.forwarding=1",
            "net.ipv4.conf.IFNAME.../x=1",
            "kernel.a.b.IFNAME.c=1",
            "net.ipv4.conf.IFNAME.x",
        ] {
            assert!(link_sysctls(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn links_have_a_target_and_an_alias() {
        assert_eq!(link_parts("db"), ("db", "db"));
        assert_eq!(link_parts("/db:/web/store"), ("db", "store"));
    }
}
