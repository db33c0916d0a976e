//! The options of `run` and `create` about networks, names and ports, and the
//! parts of the request that they make.

use std::collections::BTreeMap;

use clap::Args;
use serde_json::{Map, Value, json};

use crate::error::Error;

/// How a container is joined to networks, named and reached.
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
    #[arg(long, visible_alias = "net", value_name = "NETWORK")]
    pub network: Vec<String>,
    /// Further name on the network.
    #[arg(long, visible_alias = "net-alias", value_name = "NAME")]
    pub network_alias: Vec<String>,
    /// IPv4 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub ip: Option<String>,
    /// IPv6 address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub ip6: Option<String>,
    /// Hardware address on the network.
    #[arg(long, value_name = "ADDRESS")]
    pub mac_address: Option<String>,
    /// Line of /etc/hosts (NAME:ADDRESS; the address may be host-gateway).
    #[arg(long, value_name = "NAME:ADDRESS")]
    pub add_host: Vec<String>,
    /// Name server.
    #[arg(long, value_name = "ADDRESS")]
    pub dns: Vec<String>,
    /// Domain in which names are looked for.
    #[arg(long, value_name = "DOMAIN")]
    pub dns_search: Vec<String>,
    /// Option of the resolver.
    #[arg(long, visible_alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// Name for another container (CONTAINER:ALIAS).
    #[arg(long, value_name = "LINK")]
    pub link: Vec<String>,
    /// Domain name.
    #[arg(long, value_name = "DOMAIN")]
    pub domainname: Option<String>,
}

/// One network that a container is joined to.
#[derive(Debug, Default, PartialEq)]
struct Joined {
    name: String,
    aliases: Vec<String>,
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
        let mut all = self
            .network
            .iter()
            .map(|text| parse_network(text))
            .collect::<Result<Vec<_>, _>>()?;
        let says_more = !self.network_alias.is_empty()
            || self.ip.is_some()
            || self.ip6.is_some()
            || self.mac_address.is_some();
        if all.is_empty() && says_more {
            all.push(Joined {
                name: "default".into(),
                ..Joined::default()
            });
        }
        if let Some(first) = all.first_mut() {
            first.aliases.extend(self.network_alias.iter().cloned());
            for (own, given) in [
                (&mut first.ip, &self.ip),
                (&mut first.ip6, &self.ip6),
                (&mut first.mac_address, &self.mac_address),
            ] {
                if own.is_none() {
                    own.clone_from(given);
                }
            }
        }
        Ok(all)
    }
}

impl Joined {
    fn settings(&self) -> Value {
        settings(&EndpointWords {
            aliases: &self.aliases,
            links: &[],
            ip: self.ip.as_deref(),
            ip6: self.ip6.as_deref(),
            mac_address: self.mac_address.as_deref(),
            gateway_priority: self.gateway_priority,
            driver_options: self.driver_options.clone(),
        })
    }
}

/// What is said about an endpoint.
pub(crate) struct EndpointWords<'a> {
    pub(crate) aliases: &'a [String],
    pub(crate) links: &'a [String],
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

/// A network's name, or its settings behind commas, which begin with `name=`.
fn parse_network(text: &str) -> Result<Joined, Error> {
    let usage = |why: &str| Error::Usage(format!("--network {text:?}: {why}"));
    let mut joined = Joined::default();
    if !text.contains('=') {
        joined.name = text.into();
        return Ok(joined);
    }
    for option in text.split(',') {
        let (name, value) = option
            .split_once('=')
            .ok_or_else(|| usage("an option has the form NAME=VALUE"))?;
        match name {
            "name" => joined.name = value.into(),
            "alias" => joined.aliases.push(value.into()),
            "ip" => joined.ip = Some(value.into()),
            "ip6" => joined.ip6 = Some(value.into()),
            "mac-address" => joined.mac_address = Some(value.into()),
            "gw-priority" => {
                joined.gateway_priority = value
                    .parse()
                    .map_err(|_| usage("gw-priority is a whole number"))?;
            }
            "driver-opt" => {
                let (option, value) = value
                    .split_once('=')
                    .ok_or_else(|| usage("driver-opt has the form driver-opt=NAME=VALUE"))?;
                joined.driver_options.insert(option.into(), json!(value));
            }
            _ => return Err(usage(&format!("unknown option {name:?}"))),
        }
    }
    if joined.name.is_empty() {
        return Err(usage("name=NETWORK is missing"));
    }
    Ok(joined)
}

/// `PORT[-PORT][/PROTOCOL]`.
fn exposed_ports(text: &str) -> Result<Vec<String>, Error> {
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let invalid = || Error::Usage(format!("--expose {text:?}: a port is a number up to 65535"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (first, last): (u16, u16) = (
        first.parse().map_err(|_| invalid())?,
        last.parse().map_err(|_| invalid())?,
    );
    if last < first {
        return Err(invalid());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

/// `[ADDRESS:][HOST:]CONTAINER[/PROTOCOL]`. Two ranges are of the same length;
/// of a range for one port, a free one is taken.
fn published(text: &str) -> Result<Vec<(String, Value)>, Error> {
    let usage = |why: &str| Error::Usage(format!("--publish {text:?}: {why}"));
    let (ports, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (rest, container) = ports.rsplit_once(':').unwrap_or(("", ports));
    let (address, host) = match rest.rsplit_once(':') {
        _ if rest.ends_with(']') => (rest.trim_matches(['[', ']']), ""),
        Some((address, host)) => (address.trim_matches(['[', ']']), host),
        None if rest.contains('.') => (rest, ""),
        None => ("", rest),
    };
    let range = |text: &str| -> Result<(u16, u16), Error> {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let number = |text: &str| {
            text.parse::<u16>()
                .map_err(|_| usage("a port is a number up to 65535"))
        };
        let (first, last) = (number(first)?, number(last)?);
        if last < first {
            return Err(usage("a range begins with its smallest port"));
        }
        Ok((first, last))
    };
    let (first, last) = range(container)?;
    let host = if host.is_empty() {
        None
    } else {
        Some(range(host)?)
    };
    let binding = |port: String| json!({ "HostIp": address, "HostPort": port });
    if let Some((from, to)) = host.filter(|(from, to)| first == last && from != to) {
        return Ok(vec![(
            format!("{first}/{protocol}"),
            binding(format!("{from}-{to}")),
        )]);
    }
    if host.is_some_and(|(from, to)| to - from != last - first) {
        return Err(usage("the ranges are not of the same length"));
    }
    Ok((0..=last - first)
        .map(|offset| {
            let host_port = host.map_or_else(String::new, |(from, _)| (from + offset).to_string());
            (format!("{}/{protocol}", first + offset), binding(host_port))
        })
        .collect())
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
        ] {
            let expected = json!({ "HostIp": address, "HostPort": port });
            assert_eq!(first(text), ("80/udp".into(), expected), "{text}");
        }
        assert_eq!(published("8000-8002:80-82").expect("a range").len(), 3);
        for bad in ["", "x", "1:2:3:4:x", "80-70", "1-2:80-82", "70000"] {
            assert!(published(bad).is_err(), "{bad}");
        }
        assert_eq!(
            exposed_ports("80-81/udp").expect("good"),
            ["80/udp", "81/udp"]
        );
    }

    #[test]
    fn networks_are_named_or_described() {
        assert_eq!(parse_network("front").expect("good").name, "front");
        let joined = parse_network(
            "name=front,alias=a,alias=b,ip=10.0.0.2,ip6=fd00::2,mac-address=02:00:00:00:00:02,gw-priority=-3,driver-opt=x=y",
        )
        .expect("good");
        assert_eq!(
            joined.settings(),
            json!({
                "Aliases": ["a", "b"],
                "IPAMConfig": { "IPv4Address": "10.0.0.2", "IPv6Address": "fd00::2" },
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
            assert!(parse_network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_said_of_the_network_is_said_of_the_first() {
        let networking = Networking {
            network: vec!["a".into(), "b".into()],
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
}
