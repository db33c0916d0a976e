//! `POST /networks/create`: from Docker's words and options to a network.

use std::collections::BTreeMap;
use std::net::IpAddr;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::IntoResponse;
use dhow_engine::{Driver, GatewayMode, IpvlanMode, IpvlanReach, Mode, Network, NetworkSpec, Pool};
use serde::Deserialize;
use serde_json::json;

use super::{announce, is_predefined, parse};
use crate::Door;
use crate::body::Document;
use crate::containers::blocking;
use crate::error::{Answer, Failure};
use crate::version::Version;

const MTU: &str = "com.docker.network.driver.mtu";
const BRIDGE: &str = "com.docker.network.bridge.";

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Create {
    name: String,
    driver: String,
    scope: String,
    internal: bool,
    attachable: bool,
    ingress: bool,
    config_only: bool,
    config_from: ConfigFrom,
    #[serde(rename = "EnableIPv4")]
    enable_ipv4: Option<bool>,
    #[serde(rename = "EnableIPv6")]
    enable_ipv6: Option<bool>,
    #[serde(rename = "IPAM")]
    ipam: Ipam,
    options: BTreeMap<String, String>,
    labels: BTreeMap<String, String>,
}

/// The network whose configuration another has.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct ConfigFrom {
    network: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Ipam {
    driver: String,
    config: Vec<IpamPool>,
    options: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct IpamPool {
    subnet: String,
    #[serde(rename = "IPRange")]
    ip_range: String,
    gateway: String,
    auxiliary_addresses: BTreeMap<String, String>,
}

pub(crate) async fn create(
    State(door): State<Door>,
    version: Version,
    Document(body): Document,
) -> Answer {
    let mut create: Create = parse(&body)?;
    if version.before(48) {
        // It was not there to be said.
        create.enable_ipv4 = None;
    }
    let networks = door.engine.networks().clone();
    let spec = match create.config_from.network.as_str() {
        "" => create.spec()?,
        name => {
            let from = networks.get(name).map_err(|_| no_configuration(name))?;
            create.spec_from(from)?
        }
    };
    let network = blocking(move || networks.create(spec)).await??;
    announce(&door, &network, "create");
    let warnings = door.engine.networks().firewall().join("; ");
    let answer = json!({ "Id": network.spec.id, "Warning": warnings });
    Ok((StatusCode::CREATED, Json(answer)).into_response())
}

fn no_configuration(name: &str) -> Failure {
    let why = format!("configuration network {name:?} does not exist");
    Failure::new(StatusCode::NOT_FOUND, why)
}

impl Create {
    /// What it is with the configuration of another network.
    fn spec_from(mut self, from: Network) -> Answer<NetworkSpec> {
        let forbidden = |why: String| Err(Failure::new(StatusCode::FORBIDDEN, why));
        let name = &from.spec.name;
        if !from.is_configuration() {
            return Err(no_configuration(name));
        }
        if self.config_only {
            return forbidden(
                "a configuration network cannot depend on another configuration network".into(),
            );
        }
        let has_own = !self.ipam.config.is_empty()
            || !self.ipam.options.is_empty()
            || !self.labels.is_empty()
            || self.enable_ipv6 == Some(true);
        if has_own {
            return forbidden("user specified configurations are not supported if the network depends on a configuration network".into());
        }
        if !self.options.is_empty() {
            return forbidden("network driver options are not supported if the network depends on a configuration network".into());
        }
        let from = from.spec;
        self.options = from.options;
        self.labels = from.labels;
        self.ipam.options = from.pool_options;
        self.enable_ipv6 = from.ipv6;
        self.enable_ipv4 = from.ipv6_only.then_some(false);
        let mut spec = self.spec()?;
        spec.pools = from.pools;
        check_families(&spec)?;
        spec.config_from = from.name;
        Ok(spec)
    }

    fn spec(self) -> Answer<NetworkSpec> {
        self.check()?;
        let mut spec = NetworkSpec {
            id: dhow_engine::identifier(),
            created: dhow_engine::Moment::now().to_string(),
            pools: self.pools()?,
            internal: self.internal,
            ipv6_only: self.enable_ipv4 == Some(false),
            ipv6: self.enable_ipv6,
            names: true,
            attachable: self.attachable,
            ..NetworkSpec::default()
        };
        if self.config_only {
            // Its options are the driver's who uses it.
            spec.driver = Driver::Configuration;
        } else {
            for (name, value) in &self.options {
                option(&mut spec, &self.driver, name, value)?;
            }
            match self.driver.as_str() {
                "macvlan" => spec.driver = macvlan(&self.options)?,
                "ipvlan" => spec.driver = ipvlan(&self.options)?,
                _ => check_modes(&spec)?,
            }
            check_families(&spec)?;
        }
        spec.name = self.name;
        spec.labels = self.labels;
        spec.options = self.options;
        spec.pool_options = self.ipam.options;
        Ok(spec)
    }

    fn check(&self) -> Answer<()> {
        let name = &self.name;
        if name.trim().is_empty() || name.contains('/') {
            return Err(Failure::bad(format!("invalid network name {name:?}")));
        }
        let forbidden = |why: String| Err(Failure::new(StatusCode::FORBIDDEN, why));
        if is_predefined(name) {
            return forbidden(format!(
                "operation is not permitted on predefined {name} network"
            ));
        }
        match self.driver.as_str() {
            "" | "bridge" | "macvlan" | "ipvlan" => {}
            "null" if self.config_only => {}
            driver @ ("host" | "null") => {
                return forbidden(format!(
                    "only one instance of \"{driver}\" network is allowed"
                ));
            }
            driver => {
                return Err(Failure::new(
                    StatusCode::NOT_FOUND,
                    format!("plugin \"{driver}\" not found: use bridge, macvlan or ipvlan"),
                ));
            }
        }
        if !matches!(self.ipam.driver.as_str(), "" | "default") {
            return Err(Failure::bad(format!(
                "could not find ipam driver {:?}: use default",
                self.ipam.driver
            )));
        }
        if self.config_only && (self.internal || self.attachable || self.ingress) {
            return forbidden("configuration network can only contain network specific fields. Network operator fields like [ ingress | internal | attachable | scope ] are not supported.".into());
        }
        if self.ingress || !matches!(self.scope.as_str(), "" | "local") {
            return Err(Failure::bad(format!(
                "network {name}: networks of a swarm are not supported; leave scope and ingress out"
            )));
        }
        Ok(())
    }

    fn pools(&self) -> Answer<Vec<Pool>> {
        let mut pools: Vec<Pool> = Vec::new();
        for pool in &self.ipam.config {
            let some = |text: &String| (!text.is_empty()).then(|| text.clone());
            if pool.subnet.is_empty() {
                if !pool.gateway.is_empty() || !pool.ip_range.is_empty() {
                    return Err(Failure::bad(
                        "invalid network config: a gateway or ip-range needs the subnet that it is in",
                    ));
                }
                continue;
            }
            let mut parsed = Pool::parse(
                &pool.subnet,
                some(&pool.ip_range).as_deref(),
                some(&pool.gateway).as_deref(),
            )?;
            for (name, address) in &pool.auxiliary_addresses {
                parsed = parsed.with_auxiliary(name, address)?;
            }
            pools.push(parsed);
        }
        // The first is whose gateway names the bridge.
        pools.sort_by_key(|pool| pool.subnet.address.is_ipv6());
        Ok(pools)
    }
}

/// One option of the bridge driver, or of all drivers.
fn option(spec: &mut NetworkSpec, driver: &str, name: &str, value: &str) -> Answer<()> {
    let invalid =
        |form: &str| Failure::bad(format!("invalid value for {name}: {value:?} is no {form}"));
    let truth = || match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(invalid("boolean")),
    };
    if name == MTU {
        let parsed = value.parse().ok().filter(|mtu| (68..=65_535).contains(mtu));
        spec.mtu = Some(parsed.ok_or_else(|| invalid("number of bytes from 68 to 65535"))?);
        return Ok(());
    }
    let is_bridge = matches!(driver, "" | "bridge");
    let Some(own) = name.strip_prefix(BRIDGE).filter(|_| is_bridge) else {
        return Ok(());
    };
    match own {
        "name" => spec.bridge = Some(value.into()),
        "enable_icc" => spec.isolated = !truth()?,
        "enable_ip_masquerade" => spec.routed = !truth()?,
        "host_binding_ipv4" => {
            let address: IpAddr = value.parse().map_err(|_| invalid("address"))?;
            spec.host_address = (!address.is_unspecified()).then_some(address);
        }
        "inhibit_ipv4" => spec.inhibit_ipv4 = truth()?,
        "gateway_mode_ipv4" | "gateway_mode_ipv6" => {
            let mode = match value {
                "" | "nat" => GatewayMode::Nat,
                "nat-unprotected" => GatewayMode::NatUnprotected,
                "routed" => GatewayMode::Routed,
                "isolated" => GatewayMode::Isolated,
                _ => return Err(Failure::bad(format!("unknown gateway mode {value}"))),
            };
            if own == "gateway_mode_ipv4" {
                spec.gateway_v4 = mode;
            } else {
                spec.gateway_v6 = mode;
            }
        }
        "default_bridge" if !truth()? => {}
        "default_bridge" => {
            return Err(Failure::bad(format!(
                "{name}={value} is not supported: leave it out"
            )));
        }
        // Docker ignores what it does not know, too.
        _ => {}
    }
    Ok(())
}

/// Refuses modes of a bridge that contradict it.
fn check_modes(spec: &NetworkSpec) -> Answer<()> {
    for (mode, option) in [
        (spec.gateway_v4, "gateway_mode_ipv4"),
        (spec.gateway_v6, "gateway_mode_ipv6"),
    ] {
        if mode == GatewayMode::Isolated && !spec.internal {
            return Err(Failure::bad(format!(
                "gateway mode 'isolated' ({BRIDGE}{option}) can only be used for an internal network"
            )));
        }
    }
    Ok(())
}

/// Refuses more subnets of a family than the driver has.
fn check_families(spec: &NetworkSpec) -> Answer<()> {
    if spec.driver != Driver::Bridge {
        return Ok(());
    }
    for is_ipv4 in [true, false] {
        let of_family = |pool: &&Pool| pool.subnet.address.is_ipv4() == is_ipv4;
        if let Some(second) = spec.pools.iter().filter(of_family).nth(1) {
            return Err(Failure::bad(format!(
                "invalid network config: more than one subnet of a family ({}): a bridge has one IPv4 and one IPv6 subnet",
                second.subnet
            )));
        }
    }
    Ok(())
}

/// The link that a network lies on.
fn parent(options: &BTreeMap<String, String>) -> Option<String> {
    let parent = options.get("parent").filter(|parent| !parent.is_empty());
    parent.cloned()
}

fn ipvlan(options: &BTreeMap<String, String>) -> Answer<Driver> {
    let word = |name: &str| options.get(name).map_or("", String::as_str);
    let mode = match word("ipvlan_mode") {
        "" | "l2" => IpvlanMode::L2,
        "l3" => IpvlanMode::L3,
        "l3s" => IpvlanMode::L3s,
        other => {
            return Err(Failure::bad(format!(
                "requested ipvlan mode '{other}' is not valid, 'l2' mode is the ipvlan driver default"
            )));
        }
    };
    let reach = match word("ipvlan_flag") {
        "" | "bridge" => IpvlanReach::Bridge,
        "private" => IpvlanReach::Private,
        "vepa" => IpvlanReach::Vepa,
        other => {
            return Err(Failure::bad(format!(
                "requested ipvlan flag '{other}' is not valid, 'bridge' is the ipvlan driver default"
            )));
        }
    };
    Ok(Driver::Ipvlan {
        parent: parent(options),
        mode,
        reach,
    })
}

fn macvlan(options: &BTreeMap<String, String>) -> Answer<Driver> {
    let mode = match options.get("macvlan_mode").map_or("bridge", String::as_str) {
        "bridge" => Mode::Bridge,
        "vepa" => Mode::Vepa,
        "private" => Mode::Private,
        "passthru" => Mode::Passthru,
        other => {
            return Err(Failure::bad(format!(
                "requested macvlan mode '{other}' is not valid, 'bridge' mode is the macvlan driver default"
            )));
        }
    };
    Ok(Driver::Macvlan {
        parent: parent(options),
        mode,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> Answer<NetworkSpec> {
        parse::<Create>(text.as_bytes())?.spec()
    }

    #[test]
    fn options_become_what_they_mean() {
        let spec = spec(
            r#"{"Name":"n","EnableIPv6":false,"Internal":true,"IPAM":{"Config":[
                {"Subnet":"fd00::/64"},
                {"Subnet":"10.1.0.0/16","IPRange":"10.1.2.0/24","Gateway":"10.1.0.9","AuxiliaryAddresses":{"a":"10.1.0.3"}}]},
                "Options":{"com.docker.network.bridge.name":"b0","com.docker.network.bridge.enable_icc":"false",
                "com.docker.network.bridge.enable_ip_masquerade":"0","com.docker.network.bridge.host_binding_ipv4":"127.0.0.1",
                "com.docker.network.driver.mtu":"1300"}}"#,
        )
        .expect("good");
        assert_eq!(spec.bridge.as_deref(), Some("b0"));
        assert!(spec.isolated && spec.routed && spec.internal && spec.names);
        assert_eq!((spec.mtu, spec.ipv6), (Some(1300), Some(false)));
        assert_eq!(spec.host_address, Some([127, 0, 0, 1].into()));
        assert_eq!(spec.pools[0].gateway, IpAddr::from([10, 1, 0, 9]));
        assert_eq!(spec.pools[0].auxiliary["a"], IpAddr::from([10, 1, 0, 3]));
        assert!(spec.pools[1].subnet.address.is_ipv6());
    }

    #[test]
    fn macvlan_has_a_parent_and_a_mode() {
        let made = spec(
            r#"{"Name":"n","Driver":"macvlan","Options":{"parent":"eth0.50","macvlan_mode":"vepa"}}"#,
        );
        let expected = Driver::Macvlan {
            parent: Some("eth0.50".into()),
            mode: Mode::Vepa,
        };
        assert_eq!(made.expect("good").driver, expected);
    }

    #[test]
    fn ipvlan_has_a_mode_and_several_subnets() {
        let made = spec(
            r#"{"Name":"n","Driver":"ipvlan","Options":{"ipvlan_mode":"l3","ipvlan_flag":"vepa"},
                "IPAM":{"Config":[{"Subnet":"10.1.0.0/24"},{"Subnet":"10.2.0.0/24"}]}}"#,
        )
        .expect("good");
        let expected = Driver::Ipvlan {
            parent: None,
            mode: IpvlanMode::L3,
            reach: IpvlanReach::Vepa,
        };
        assert_eq!(made.driver, expected);
        assert_eq!(made.pools.len(), 2);
    }

    #[test]
    fn nonsense_is_refused() {
        for (text, part) in [
            (r#"{"Name":" "}"#, "invalid network name"),
            (r#"{"Name":"host"}"#, "predefined host network"),
            (r#"{"Name":"n","Driver":"overlay"}"#, "not found"),
            (r#"{"Name":"n","Driver":"host"}"#, "only one instance"),
            (r#"{"Name":"n","Ingress":true}"#, "not supported"),
            (
                r#"{"Name":"n","ConfigOnly":true,"Internal":true}"#,
                "configuration network can only contain",
            ),
            (r#"{"Name":"n","IPAM":{"Driver":"x"}}"#, "ipam driver"),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Gateway":"10.0.0.1"}]}}"#,
                "needs the subnet",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/24"},{"Subnet":"10.0.1.0/24"}]}}"#,
                "more than one subnet",
            ),
            (
                r#"{"Name":"n","IPAM":{"Config":[{"Subnet":"10.0.0.0/24","AuxiliaryAddresses":{"a":"10.0.1.1"}}]}}"#,
                "must belong to subnet",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.driver.mtu":"9"}}"#,
                "68 to 65535",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.bridge.enable_icc":"x"}}"#,
                "no boolean",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.bridge.gateway_mode_ipv4":"x"}}"#,
                "unknown gateway mode x",
            ),
            (
                r#"{"Name":"n","Options":{"com.docker.network.bridge.gateway_mode_ipv6":"isolated"}}"#,
                "can only be used for an internal network",
            ),
            (
                r#"{"Name":"n","Driver":"ipvlan","Options":{"ipvlan_mode":"l4"}}"#,
                "requested ipvlan mode 'l4' is not valid",
            ),
            (
                r#"{"Name":"n","Driver":"ipvlan","Options":{"ipvlan_flag":"x"}}"#,
                "requested ipvlan flag 'x' is not valid",
            ),
            (
                r#"{"Name":"n","Driver":"macvlan","Options":{"macvlan_mode":"x"}}"#,
                "is not valid",
            ),
        ] {
            let failure = spec(text).expect_err(text);
            assert!(failure.message().contains(part), "{}", failure.message());
        }
    }
}
