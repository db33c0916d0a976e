//! The options of `run` and `create` about networks, names and ports, and the
//! parts of the request that they make.

use std::collections::BTreeMap;
use std::net::IpAddr;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::amounts::fields;
use crate::error::Error;

// How a container is joined to networks, named and reached.
#[derive(Debug, Default, Args)]
pub struct Networking {
    /// Publish a port ([ADDRESS:]HOST:CONTAINER[/PROTOCOL]).
    #[arg(short, long, value_name = "PORT")]
    pub publish: Vec<String>,
    /// Publish all exposed ports at free ports of the host.
    #[arg(short = 'P', long)]
    pub publish_all: bool,
    /// Expose a port to other containers.
    #[arg(long, value_name = "PORT")]
    pub expose: Vec<String>,
    /// Join a network (bridge, none, host, container:NAME, a network's name, or
    /// name=NETWORK,alias=…,ip=…,ip6=…,mac-address=…,gw-priority=…,driver-opt=…).
    #[arg(long, alias = "net", value_name = "NETWORK", value_parser = Joined::parse)]
    network: Vec<Joined>,
    /// Further name on the network.
    #[arg(long, alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// IPv4 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// IPv6 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Link-local address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub link_local_ip: Vec<String>,
    /// Hardware address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// Line of /etc/hosts (NAME:ADDRESS; the address may be host-gateway).
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = extra_host)]
    pub add_host: Vec<String>,
    /// Name server.
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub dns: Vec<String>,
    /// Domain in which names are looked for.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver.
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Name for another container (CONTAINER:ALIAS).
    #[arg(long, value_name = "LINK")]
    pub link: Vec<String>,
    /// Domain name.
    #[arg(long, value_name = "DOMAIN")]
    pub domainname: Option<String>,
}

/// One network that a container is joined to.
#[derive(Debug, Default, Clone, PartialEq)]
struct Joined {
    name: String,
    aliases: Vec<String>,
    links: Vec<String>,
    link_local: Vec<String>,
    ip: Option<String>,
    ip6: Option<String>,
    mac_address: Option<String>,
    gateway_priority: i32,
    driver_options: Map<String, Value>,
}

impl Networking {
    /// Adds the fields of the configuration.
    pub(crate) fn add_to(&self, body: &mut Map<String, Value>) -> Result<(), Error> {
        let mut exposed = Map::new();
        for port in &self.expose {
            for port in exposed_ports(port)? {
                exposed.insert(port, json!({}));
            }
        }
        for port in &self.publish {
            for (container, _) in published(port)? {
                exposed.insert(container, json!({}));
            }
        }
        body.insert("ExposedPorts".into(), Value::Object(exposed));
        if let Some(domain) = &self.domainname {
            body.insert("Domainname".into(), json!(domain));
        }
        let joined = self.joined()?;
        let is_plain = joined.iter().all(|one| one.settings() == json!({}));
        // One that is only named is named by the mode.
        if joined.len() > 1 || !is_plain {
            let endpoints: Map<String, Value> = joined
                .iter()
                .map(|one| (one.name.clone(), one.settings()))
                .collect();
            body.insert(
                "NetworkingConfig".into(),
                json!({ "EndpointsConfig": endpoints }),
            );
        }
        Ok(())
    }

    /// Adds the fields of the host's configuration.
    pub(crate) fn add_to_host(&self, host: &mut Map<String, Value>) -> Result<(), Error> {
        let mut bindings: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for port in &self.publish {
            for (container, binding) in published(port)? {
                bindings.entry(container).or_default().push(binding);
            }
        }
        let joined = self.joined()?;
        let mode = joined.first().map_or("default", |one| one.name.as_str());
        for (name, value) in [
            ("NetworkMode", json!(mode)),
            ("PortBindings", json!(bindings)),
            ("PublishAllPorts", json!(self.publish_all)),
            ("ExtraHosts", json!(self.add_host)),
            ("Dns", json!(self.dns)),
            ("DnsSearch", json!(self.dns_search)),
            ("DnsOptions", json!(self.dns_option)),
            ("Links", json!(self.link)),
        ] {
            host.insert(name.into(), value);
        }
        Ok(())
    }

    /// The networks, in the order they were given. What is said about "the"
    /// network is about the first.
    fn joined(&self) -> Result<Vec<Joined>, Error> {
        let mut all = self.network.clone();
        if all.is_empty() {
            all.push(Joined {
                name: "default".into(),
                ..Joined::default()
            });
        }
        for (at, one) in all.iter().enumerate() {
            if all[..at].iter().any(|other| other.name == one.name) {
                let message = format!("network {:?} is specified multiple times", one.name);
                return Err(Error::Usage(message));
            }
        }
        let n_own = all.iter().filter(|one| one.is_own()).count();
        if n_own > 0 && n_own < all.len() {
            return Err(Error::Usage(
                "conflicting options: cannot attach both user-defined and non-user-defined network-modes".into(),
            ));
        }
        self.describe(&mut all[0])?;
        if let Some(one) = all.iter().find(|one| !one.is_own())
            && !one.aliases.is_empty()
        {
            return Err(Error::Usage(
                "network-scoped aliases are only supported for user-defined networks".into(),
            ));
        }
        Ok(all)
    }

    /// Adds what is said about "the" network.
    fn describe(&self, first: &mut Joined) -> Result<(), Error> {
        let twice = |option: &str, own: &str| {
            Err(Error::Usage(format!(
                "conflicting options: cannot specify both --{option} and per-network {own}"
            )))
        };
        for (given, own, option, name) in [
            (
                &self.network_alias,
                &mut first.aliases,
                "network-alias",
                "alias",
            ),
            (
                &self.link_local_ip,
                &mut first.link_local,
                "link-local-ip",
                "link-local IP addresses",
            ),
        ] {
            match (given.is_empty(), own.is_empty()) {
                (false, false) => return twice(option, name),
                (false, true) => own.clone_from(given),
                (true, _) => {}
            }
        }
        if first.is_own() {
            first.links.clone_from(&self.link);
        }
        for (given, own, option, name) in [
            (&self.ip, &mut first.ip, "ip", "IPv4 address"),
            (&self.ip6, &mut first.ip6, "ip6", "IPv6 address"),
            (
                &self.mac_address,
                &mut first.mac_address,
                "mac-address",
                "MAC address",
            ),
        ] {
            match (given, own.is_some()) {
                (Some(_), true) => return twice(option, name),
                (Some(_), false) => own.clone_from(given),
                (None, _) => {}
            }
        }
        match &first.mac_address {
            Some(address) if !is_hardware_address(address) => Err(Error::Usage(format!(
                "{address} is not a valid mac address"
            ))),
            _ => Ok(()),
        }
    }
}

/// Six or eight octets in hexadecimal digits, behind colons or dashes.
fn is_hardware_address(text: &str) -> bool {
    let octets: Vec<&str> = text.split([':', '-']).collect();
    matches!(octets.len(), 6 | 8)
        && octets
            .iter()
            .all(|octet| octet.len() == 2 && u8::from_str_radix(octet, 16).is_ok())
}

/// A line of `/etc/hosts`, as the API has it: `NAME:ADDRESS`.
pub(crate) fn extra_host(text: &str) -> Result<String, String> {
    let wrong = || format!("bad format for add-host: {text:?}");
    let (name, address) = text
        .split_once('=')
        .or_else(|| text.split_once(':'))
        .ok_or_else(wrong)?;
    if name.is_empty() {
        return Err(wrong());
    }
    let bare = match address.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').ok_or_else(wrong)?,
        None => address,
    };
    if bare != "host-gateway" && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address in add-host: {address:?}"));
    }
    Ok(format!("{name}:{bare}"))
}

fn address(text: &str) -> Result<String, String> {
    match text.trim().parse::<IpAddr>() {
        Ok(address) => Ok(address.to_string()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

impl Joined {
    /// Whether it is a network that somebody made.
    fn is_own(&self) -> bool {
        let name = self.name.as_str();
        !matches!(name, "" | "default" | "bridge" | "host" | "none")
            && !name.starts_with("container:")
    }

    fn settings(&self) -> Value {
        settings(&EndpointWords {
            aliases: &self.aliases,
            links: &self.links,
            link_local: &self.link_local,
            ip: self.ip.as_deref(),
            ip6: self.ip6.as_deref(),
            mac_address: self.mac_address.as_deref(),
            gateway_priority: self.gateway_priority,
            driver_options: self.driver_options.clone(),
        })
    }

    /// A network's name, or its settings behind commas, one of which is
    /// `name=NETWORK`.
    fn parse(text: &str) -> Result<Self, String> {
        let mut joined = Self::default();
        let fields = fields(text)?;
        if !text.contains('=') {
            joined.name = text.into();
            return Ok(joined);
        }
        for field in &fields {
            let (name, value) = field
                .split_once('=')
                .ok_or_else(|| format!("invalid field {field}"))?;
            match name.to_ascii_lowercase().as_str() {
                "name" => joined.name = value.into(),
                "alias" => joined.aliases.push(value.into()),
                "ip" => joined.ip = Some(value.into()),
                "ip6" => joined.ip6 = Some(value.into()),
                "link-local-ip" => joined.link_local.push(value.into()),
                "mac-address" => joined.mac_address = Some(value.into()),
                "gw-priority" => {
                    joined.gateway_priority = value
                        .parse()
                        .map_err(|_| format!("invalid gw-priority ({value}): it is no number"))?;
                }
                "driver-opt" => {
                    let (option, value) = value.split_once('=').ok_or_else(|| {
                        "invalid key value pair format in driver options".to_owned()
                    })?;
                    joined.driver_options.insert(option.into(), json!(value));
                }
                _ => return Err(format!("invalid field key {name}")),
            }
        }
        if joined.name.is_empty() {
            return Err("network name/id is not specified".into());
        }
        Ok(joined)
    }
}

/// What is said about an endpoint.
pub(crate) struct EndpointWords<'a> {
    pub(crate) aliases: &'a [String],
    pub(crate) links: &'a [String],
    pub(crate) link_local: &'a [String],
    pub(crate) ip: Option<&'a str>,
    pub(crate) ip6: Option<&'a str>,
    pub(crate) mac_address: Option<&'a str>,
    pub(crate) gateway_priority: i32,
    pub(crate) driver_options: Map<String, Value>,
}

/// An endpoint's settings as the API has them; what was left open is left out.
pub(crate) fn settings(words: &EndpointWords<'_>) -> Value {
    let mut settings = json!({});
    if !words.aliases.is_empty() {
        settings["Aliases"] = json!(words.aliases);
    }
    if !words.links.is_empty() {
        settings["Links"] = json!(words.links);
    }
    for (name, address) in [("IPv4Address", words.ip), ("IPv6Address", words.ip6)] {
        if let Some(address) = address {
            settings["IPAMConfig"][name] = json!(address);
        }
    }
    if !words.link_local.is_empty() {
        settings["IPAMConfig"]["LinkLocalIPs"] = json!(words.link_local);
    }
    if let Some(address) = words.mac_address {
        settings["MacAddress"] = json!(address);
    }
    if words.gateway_priority != 0 {
        settings["GwPriority"] = json!(words.gateway_priority);
    }
    if !words.driver_options.is_empty() {
        settings["DriverOpts"] = json!(words.driver_options);
    }
    settings
}

/// `PORT[-PORT][/PROTOCOL]`.
fn exposed_ports(text: &str) -> Result<Vec<String>, Error> {
    if text.contains(':') {
        let message = format!("invalid port format for --expose: {text}");
        return Err(Error::Usage(message));
    }
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range(ports).map_err(|why| {
        Error::Usage(format!(
            "invalid range format for --expose: {text}, error: {why}"
        ))
    })?;
    let protocol = protocol.to_ascii_lowercase();
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// `FIRST[-LAST]`.
fn range(text: &str) -> Result<(u16, u16), String> {
    if text.is_empty() {
        return Err("empty string specified for ports".into());
    }
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| {
        text.parse::<u16>()
            .map_err(|_| format!("{text:?} is no number up to 65535"))
    };
    let (first, last) = (number(first)?, number(last)?);
    if last < first {
        return Err(format!("invalid range specified for port: {text}"));
    }
    Ok((first, last))
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`, or the same in words:
/// `published=…,target=…,protocol=…`. Two ranges are of the same length; of a
/// range for one port, a free one is taken.
fn published(text: &str) -> Result<Vec<(String, Value)>, Error> {
    let words = if text.contains('=') {
        Some(in_short(text)?)
    } else {
        None
    };
    let text = words.as_deref().unwrap_or(text);
    let usage = |why: String| Error::Usage(why);
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(usage(format!("invalid proto: {protocol}")));
    }
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    if container.is_empty() {
        return Err(usage(format!("no port specified: {text}<empty>")));
    }
    let (address, host) = match rest.rsplit_once(':') {
        _ if rest.ends_with(']') => (rest.trim_matches(['[', ']']), ""),
        Some((address, host)) => (address.trim_matches(['[', ']']), host),
        None if rest.contains('.') => (rest, ""),
        None => ("", rest),
    };
    if !address.is_empty() && address.parse::<IpAddr>().is_err() {
        return Err(usage(format!("invalid IP address: {address}")));
    }
    let (first, last) =
        range(container).map_err(|_| usage(format!("invalid containerPort: {container}")))?;
    let host_range = match host {
        "" => None,
        host => Some(range(host).map_err(|_| usage(format!("invalid hostPort: {host}")))?),
    };
    let binding = |port: String| json!({ "HostIp": address, "HostPort": port });
    if let Some((from, to)) = host_range.filter(|(from, to)| first == last && from != to) {
        return Ok(vec![(
            format!("{first}/{protocol}"),
            binding(format!("{from}-{to}")),
        )]);
    }
    if host_range.is_some_and(|(from, to)| to - from != last - first) {
        return Err(usage(format!(
            "invalid ranges specified for container and host Ports: {container} and {host}"
        )));
    }
    Ok((0..=last - first)
        .map(|offset| {
            let host_port =
                host_range.map_or_else(String::new, |(from, _)| (from + offset).to_string());
            (format!("{}/{protocol}", first + offset), binding(host_port))
        })
        .collect())
}

/// `published=…,target=…` in the short form.
fn in_short(text: &str) -> Result<String, Error> {
    let (mut host, mut container, mut protocol) = (String::new(), String::new(), "tcp".to_owned());
    for field in fields(text).map_err(Error::Usage)? {
        match field.split_once('=') {
            Some(("published", value)) => host = format!("{value}:"),
            Some(("target", value)) => value.clone_into(&mut container),
            Some(("protocol", value)) => value.clone_into(&mut protocol),
            // Where containers are on one machine, both modes are one.
            Some(("mode", "host" | "ingress")) => {}
            Some((name, value)) => {
                let message = format!("invalid value for {name}: {value}");
                return Err(Error::Usage(message));
            }
            None => return Err(Error::Usage(format!("invalid field: {field}"))),
        }
    }
    Ok(format!("{host}{container}/{protocol}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        let first = |text: &str| published(text).expect(text).remove(0);
        assert_eq!(
            first("80"),
            ("80/tcp".into(), json!({ "HostIp": "", "HostPort": "" }))
        );
        for (text, address, port) in [
            ("127.0.0.1:8080:80/udp", "127.0.0.1", "8080"),
            ("127.0.0.1::80/udp", "127.0.0.1", ""),
            ("[::1]:1:80/udp", "::1", "1"),
            ("[::1]::80/udp", "::1", ""),
            ("8000-8010:80/udp", "", "8000-8010"),
            ("published=8080,target=80,protocol=udp", "", "8080"),
        ] {
            let expected = json!({ "HostIp": address, "HostPort": port });
            assert_eq!(first(text), ("80/udp".into(), expected), "{text}");
        }
        assert_eq!(published("8000-8002:80-82").expect("a range").len(), 3);
        for bad in [
            "",
            "x",
            "1:2:3:4:x",
            "80-70",
            "1-2:80-82",
            "70000",
            "80/x",
            "a.b:80",
            "target=80,x=y",
        ] {
            assert!(published(bad).is_err(), "{bad}");
        }
        assert_eq!(
            exposed_ports("80-81/udp").expect("good"),
            ["80/udp", "81/udp"]
        );
    }

    #[test]
    fn networks_are_named_or_described() {
        assert_eq!(Joined::parse("front").expect("good").name, "front");
        let joined = Joined::parse(
            "name=front,alias=a,alias=b,ip=10.0.0.2,ip6=fd00::2,link-local-ip=169.254.1.1,mac-address=02:00:00:00:00:02,gw-priority=-3,driver-opt=x=y",
        )
        .expect("good");
        assert_eq!(
            joined.settings(),
            json!({
                "Aliases": ["a", "b"],
                "IPAMConfig": { "IPv4Address": "10.0.0.2", "IPv6Address": "fd00::2", "LinkLocalIPs": ["169.254.1.1"] },
                "MacAddress": "02:00:00:00:00:02",
                "GwPriority": -3,
                "DriverOpts": { "x": "y" },
            })
        );
        for bad in [
            "alias=a",
            "name=a,b",
            "name=a,c=d",
            "name=a,gw-priority=x",
            "name=a,driver-opt=x",
        ] {
            assert!(Joined::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_of_the_network_is_said_of_the_first() {
        let networking = Networking {
            network: ["a", "b"]
                .map(|name| Joined::parse(name).expect("good"))
                .into(),
            network_alias: vec!["x".into()],
            ip: Some("10.0.0.2".into()),
            ..Networking::default()
        };
        let (mut body, mut host) = (Map::new(), Map::new());
        networking.add_to(&mut body).expect("good");
        networking.add_to_host(&mut host).expect("good");
        assert_eq!(host["NetworkMode"], "a");
        assert_eq!(
            body["NetworkingConfig"]["EndpointsConfig"],
            json!({ "a": { "Aliases": ["x"], "IPAMConfig": { "IPv4Address": "10.0.0.2" } }, "b": {} })
        );
    }

    #[test]
    fn what_cannot_be_said_twice_or_together() {
        let joined = |words: &[&str]| {
            let networks = words.iter().map(|word| Joined::parse(word).expect("good"));
            Networking {
                network: networks.collect(),
                ip: Some("10.0.0.2".into()),
                ..Networking::default()
            }
            .joined()
        };
        assert!(joined(&["a", "b"]).is_ok());
        for bad in [&["a", "a"][..], &["a", "host"], &["name=a,ip=10.0.0.3"]] {
            assert!(joined(bad).is_err(), "{bad:?}");
        }
        let aliased = Networking {
            network_alias: vec!["x".into()],
            ..Networking::default()
        };
        assert!(aliased.joined().is_err());
    }

    #[test]
    fn hosts_have_addresses() {
        for (text, expected) in [
            ("a:1.2.3.4", "a:1.2.3.4"),
            ("a=1.2.3.4", "a:1.2.3.4"),
            ("a=[::1]", "a:::1"),
            ("a:::1", "a:::1"),
            ("a:host-gateway", "a:host-gateway"),
        ] {
            assert_eq!(extra_host(text).as_deref(), Ok(expected));
        }
        for bad in ["a", ":1.2.3.4", "a:b", "a=[::1"] {
            assert!(extra_host(bad).is_err(), "{bad}");
        }
    }
}
