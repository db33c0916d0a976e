//! `network`.

use std::net::IpAddr;

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::filters::{filter, filters};
use crate::listing::{self, Row};
use crate::networking::{self, EndpointWords};
use crate::prune::Prune;
use crate::request::{label, pairs};
use crate::{Outcome, prune, show};

/// What is done with networks.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a network.
    Create(Create),
    /// List networks.
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show everything about networks, as JSON.
    Inspect {
        /// Print by a template such as '{{.Driver}}'.
        #[arg(short, long)]
        format: Option<String>,
        /// Accepted for Docker's sake: what a swarm knows of it.
        #[arg(short, long)]
        verbose: bool,
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks.
    #[command(visible_alias = "remove")]
    Rm {
        /// No error for one that is not there.
        #[arg(short, long)]
        force: bool,
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Join a container to a network.
    Connect(Connect),
    /// Take a container off a network.
    Disconnect {
        /// Also when it is not there any more.
        #[arg(short, long)]
        force: bool,
        /// Network.
        network: String,
        /// Container.
        container: String,
    },
    /// Remove networks that nobody uses.
    Prune(Prune),
}

// `dhow network connect`.
#[derive(Debug, Args)]
pub struct Connect {
    /// Further name on the network.
    #[arg(long, value_delimiter = ',')]
    alias: Vec<String>,
    /// IPv4 address on the network.
    #[arg(long)]
    ip: Option<String>,
    /// IPv6 address on the network.
    #[arg(long)]
    ip6: Option<String>,
    /// Hardware address on the network.
    #[arg(long)]
    mac_address: Option<String>,
    /// Link-local address on the network.
    #[arg(long, value_delimiter = ',')]
    link_local_ip: Vec<String>,
    /// Name for another container (CONTAINER:ALIAS).
    #[arg(long)]
    link: Vec<String>,
    /// Option of the driver (NAME=VALUE).
    #[arg(long, value_delimiter = ',')]
    driver_opt: Vec<String>,
    /// The network with the highest has the default route.
    #[arg(long, default_value_t)]
    gw_priority: i32,
    /// Network.
    network: String,
    /// Container.
    container: String,
}

// `dhow network create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Driver (bridge, macvlan or ipvlan).
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Subnet, such as 10.1.0.0/16; on a bridge one of each family.
    #[arg(long, value_delimiter = ',')]
    subnet: Vec<String>,
    /// Part of a subnet from which addresses are given.
    #[arg(long, value_delimiter = ',')]
    ip_range: Vec<String>,
    /// The router of a subnet; on a bridge our own address on it.
    #[arg(long, value_delimiter = ',')]
    gateway: Vec<String>,
    /// Address that others have (NAME=ADDRESS).
    #[arg(long)]
    aux_address: Vec<String>,
    /// No way out and none in.
    #[arg(long)]
    internal: bool,
    /// Whether it has IPv4; it has unless told otherwise.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    ipv4: Option<bool>,
    /// Whether it has IPv6; unless told, where the host has.
    #[arg(
        long,
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    ipv6: Option<bool>,
    /// Network whose settings it takes.
    #[arg(
        long,
        value_name = "NETWORK",
        default_value = "",
        hide_default_value = true
    )]
    config_from: String,
    /// Settings for other networks only.
    #[arg(long)]
    config_only: bool,
    /// The network of a swarm's published ports.
    #[arg(long)]
    ingress: bool,
    /// Who gives its addresses out.
    #[arg(long, value_name = "DRIVER", default_value = "default")]
    ipam_driver: String,
    /// How far it reaches (local, or swarm).
    #[arg(long, default_value = "", hide_default_value = true)]
    scope: String,
    /// Accepted for Docker's sake: containers may always be attached.
    #[arg(long)]
    attachable: bool,
    /// Attach a label (NAME=VALUE).
    #[arg(long, value_parser = label)]
    label: Vec<String>,
    /// Option of the driver (NAME=VALUE).
    #[arg(short, long)]
    opt: Vec<String>,
    /// Option of the address pools (NAME=VALUE).
    #[arg(long)]
    ipam_opt: Vec<String>,
    /// Name.
    name: String,
}

// `dhow network ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
    /// Print ids in full.
    #[arg(long)]
    no_trunc: bool,
    /// Print as json, by a template such as '{{.Name}}', or 'table TEMPLATE'.
    #[arg(long)]
    format: Option<String>,
}

const TITLES: [(&str, &str); 9] = [
    ("CreatedAt", "CREATED AT"),
    ("Driver", "DRIVER"),
    ("ID", "NETWORK ID"),
    ("IPv4", "IPV4"),
    ("IPv6", "IPV6"),
    ("Internal", "INTERNAL"),
    ("Labels", "LABELS"),
    ("Name", "NAME"),
    ("Scope", "SCOPE"),
];

/// A network in the fields of Docker's client.
fn row(network: &Value, no_trunc: bool) -> Row {
    let id = show::text(network, "Id");
    let word = |field: &str| Value::from(network[field].as_bool().unwrap_or_default().to_string());
    Row::new([
        (
            "CreatedAt",
            show::precise(show::text(network, "Created")).into(),
        ),
        ("Driver", network["Driver"].clone()),
        ("ID", if no_trunc { id } else { show::short(id) }.into()),
        ("IPv4", word("EnableIPv4")),
        ("IPv6", word("EnableIPv6")),
        ("Internal", word("Internal")),
        ("Name", network["Name"].clone()),
        ("Scope", network["Scope"].clone()),
    ])
    .with_labels(&network["Labels"])
}

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Create(create) => {
            let made = client
                .post("/networks/create", Some(&body(&create)?))
                .await?;
            let warning = show::text(&made, "Warning");
            if !warning.is_empty() {
                eprintln!("WARNING: {warning}");
            }
            show::line(show::text(&made, "Id"));
        }
        Command::Ls(list) => {
            let query = query(&[("filters", filters(&list.filter))]);
            let networks = client.get(&format!("/networks{query}")).await?;
            let rows = networks.as_array().into_iter().flatten();
            let mut rows: Vec<Row> = rows.map(|network| row(network, list.no_trunc)).collect();
            rows.sort_by(|one, other| one.text("Name").cmp(other.text("Name")));
            if list.quiet && list.format.is_none() {
                show::lines(rows.iter().map(|row| row.text("ID")));
                return Ok(0);
            }
            let settled = client.setting("networksFormat");
            let format = list.format.or(settled);
            let format = match format.as_deref().unwrap_or("table") {
                "table" => "table {{.ID}}\t{{.Name}}\t{{.Driver}}\t{{.Scope}}",
                format => format,
            };
            listing::print(format, &TITLES, &rows)?;
        }
        Command::Inspect {
            names,
            format,
            verbose,
        } => {
            let query = query(&[("verbose", if verbose { "true" } else { "" }.into())]);
            let path = |name: &str| format!("/networks/{}{query}", escape(name));
            return show::inspect_each(client, &names, format.as_deref(), path).await;
        }
        Command::Rm { force, names } => {
            let mut failed = false;
            for name in names {
                match client.delete(&format!("/networks/{}", escape(&name))).await {
                    Ok(_) => show::line(name),
                    Err(error) if force && error.status() == Some(404) => {}
                    Err(error) => {
                        error.report();
                        failed = true;
                    }
                }
            }
            if failed {
                return Err(Error::Told);
            }
        }
        Command::Connect(connect) => {
            let options = pairs(&connect.driver_opt);
            let settings = networking::settings(&EndpointWords {
                aliases: &connect.alias,
                links: &connect.link,
                link_local: &connect.link_local_ip,
                ip: connect.ip.as_deref(),
                ip6: connect.ip6.as_deref(),
                mac_address: connect.mac_address.as_deref(),
                gateway_priority: connect.gw_priority,
                driver_options: options.as_object().cloned().unwrap_or_default(),
            });
            let body = json!({ "Container": connect.container, "EndpointConfig": settings });
            let path = format!("/networks/{}/connect", escape(&connect.network));
            client.post(&path, Some(&body)).await?;
        }
        Command::Disconnect {
            force,
            network,
            container,
        } => {
            let body = json!({ "Container": container, "Force": force });
            let path = format!("/networks/{}/disconnect", escape(&network));
            client.post(&path, Some(&body)).await?;
        }
        Command::Prune(prune) => return prune::networks(client, prune).await,
    }
    Ok(0)
}

/// The body of a request to create a network.
fn body(create: &Create) -> Result<Value, Error> {
    let mut body = json!({
        "Name": create.name,
        "Driver": create.driver,
        "Internal": create.internal,
        "Attachable": create.attachable,
        "Ingress": create.ingress,
        "Scope": create.scope,
        "ConfigOnly": create.config_only,
        "IPAM": { "Driver": create.ipam_driver, "Config": pools(create)?, "Options": pairs(&create.ipam_opt) },
        "Labels": pairs(&create.label),
        "Options": pairs(&create.opt),
    });
    for (field, enabled) in [("EnableIPv4", create.ipv4), ("EnableIPv6", create.ipv6)] {
        if let Some(enabled) = enabled {
            body[field] = json!(enabled);
        }
    }
    if !create.config_from.is_empty() {
        body["ConfigFrom"] = json!({ "Network": create.config_from });
    }
    Ok(body)
}

/// Puts each range, router and address to the subnet that it is in.
fn pools(create: &Create) -> Result<Vec<Value>, Error> {
    let mut pools = Vec::new();
    for text in &create.subnet {
        let subnet: Subnet = text
            .parse()
            .map_err(|why| Error::Usage(format!("invalid subnet {text}: {why}")))?;
        pools.push((subnet, json!({ "Subnet": text })));
    }
    let mut put = |option: &str, text: &str, place: &dyn Fn(&mut Value) -> Result<(), Error>| {
        let address = text.split('/').next().unwrap_or_default().parse().ok();
        let pool = pools
            .iter_mut()
            .find(|(subnet, _)| address.is_some_and(|address| subnet.contains(address)));
        match pool {
            Some((_, pool)) => place(pool),
            None if option == "aux-address" => Err(Error::Usage(format!(
                "no matching subnet for aux-address {text}"
            ))),
            None => Err(Error::Usage(
                "every ip-range or gateway must have a corresponding subnet".into(),
            )),
        }
    };
    for range in &create.ip_range {
        put("ip-range", range, &|pool| once(pool, "IPRange", range))?;
    }
    for gateway in &create.gateway {
        put("gateway", gateway, &|pool| once(pool, "Gateway", gateway))?;
    }
    for text in &create.aux_address {
        let (name, address) = text.split_once('=').ok_or_else(|| {
            Error::Usage(format!("--aux-address {text:?}: the form is NAME=ADDRESS"))
        })?;
        put("aux-address", address, &|pool| {
            pool["AuxiliaryAddresses"][name] = json!(address);
            Ok(())
        })?;
    }
    Ok(pools.into_iter().map(|(_, pool)| pool).collect())
}

/// Sets what a subnet has one of.
fn once(pool: &mut Value, field: &str, text: &str) -> Result<(), Error> {
    if pool[field].is_null() {
        pool[field] = json!(text);
        return Ok(());
    }
    Err(Error::Usage(
        "every ip-range or gateway must have a corresponding subnet".into(),
    ))
}

/// A subnet, as far as it matters here: which addresses it has.
struct Subnet {
    address: IpAddr,
    length: u32,
}

impl Subnet {
    fn contains(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => u128::from(u32::from(address)) << 96,
            IpAddr::V6(address) => u128::from(address),
        };
        let differ = bits(self.address) ^ bits(address);
        self.address.is_ipv4() == address.is_ipv4() && differ.leading_zeros() >= self.length
    }
}

impl std::str::FromStr for Subnet {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (address, length) = text
            .split_once('/')
            .ok_or("the form is ADDRESS/LENGTH, such as 10.1.0.0/16")?;
        Ok(Self {
            address: address.parse().map_err(|_| "it begins with no address")?,
            length: length.parse().map_err(|_| "its length is no number")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        create: Create,
    }

    fn parse(words: &[&str]) -> Result<Value, Error> {
        let words = [&["create"], words].concat();
        body(&Line::try_parse_from(words).expect("known options").create)
    }

    #[test]
    fn parts_go_to_their_subnet() {
        let words = [
            "--subnet=10.1.0.0/16",
            "--subnet=fd00:1::/64",
            "--ip-range=10.1.4.0/24",
            "--gateway=fd00:1::9",
            "--gateway=10.1.0.9",
            "--aux-address=printer=10.1.0.7",
            "--ipv6",
            "n",
        ];
        let body = parse(&words).expect("good");
        assert_eq!(
            body["IPAM"]["Config"],
            json!([
                {
                    "Subnet": "10.1.0.0/16",
                    "IPRange": "10.1.4.0/24",
                    "Gateway": "10.1.0.9",
                    "AuxiliaryAddresses": { "printer": "10.1.0.7" },
                },
                { "Subnet": "fd00:1::/64", "Gateway": "fd00:1::9" },
            ])
        );
        assert_eq!(body["EnableIPv6"], true);
        assert!(parse(&["n"]).expect("good").get("EnableIPv6").is_none());
        assert_eq!(
            parse(&["--ipv6=false", "n"]).expect("good")["EnableIPv6"],
            false
        );
    }

    #[test]
    fn strays_are_refused() {
        for bad in [
            "--gateway=10.2.0.1",
            "--ip-range=10.2.0.0/24",
            "--aux-address=x",
            "--aux-address=x=y",
        ] {
            assert!(parse(&["--subnet=10.1.0.0/16", bad, "n"]).is_err(), "{bad}");
        }
        assert!(parse(&["--subnet=10.1.0.0", "n"]).is_err());
    }
}
