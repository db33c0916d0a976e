//! `network`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::containers::filters;
use crate::error::Error;
use crate::request::pairs;
use crate::{Outcome, show};

/// What is done with networks.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a network.
    Create(Create),
    /// List networks.
    #[command(visible_alias = "list")]
    Ls(List),
    /// Show everything about networks, as JSON.
    Inspect {
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove networks.
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Join a container to a network.
    Connect {
        /// Further name on the network.
        #[arg(long)]
        alias: Vec<String>,
        /// IPv4 address on the network.
        #[arg(long)]
        ip: Option<String>,
        /// Network.
        network: String,
        /// Container.
        container: String,
    },
    /// Take a container off a network.
    Disconnect {
        /// Network.
        network: String,
        /// Container.
        container: String,
    },
    /// Remove networks that nobody uses.
    Prune,
}

/// `dhow network create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Driver.
    #[arg(short, long, default_value = "bridge")]
    driver: String,
    /// Subnet, such as 10.1.0.0/16.
    #[arg(long)]
    subnet: Option<String>,
    /// Part of the subnet from which addresses are given.
    #[arg(long)]
    ip_range: Option<String>,
    /// Our own address on the subnet.
    #[arg(long)]
    gateway: Option<String>,
    /// No way out and none in.
    #[arg(long)]
    internal: bool,
    /// IPv6 as well.
    #[arg(long)]
    ipv6: bool,
    /// Attach a label (NAME=VALUE).
    #[arg(long)]
    label: Vec<String>,
    /// Option of the driver (NAME=VALUE).
    #[arg(short, long)]
    opt: Vec<String>,
    /// Name.
    name: String,
}

/// `dhow network ls`.
#[derive(Debug, Args)]
pub struct List {
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long)]
    filter: Vec<String>,
}

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Create(create) => {
            let mut pool = json!({});
            for (field, value) in [
                ("Subnet", &create.subnet),
                ("IPRange", &create.ip_range),
                ("Gateway", &create.gateway),
            ] {
                if let Some(value) = value {
                    pool[field] = json!(value);
                }
            }
            let pools = if create.subnet.is_some() {
                json!([pool])
            } else {
                json!([])
            };
            let body = json!({
                "Name": create.name,
                "Driver": create.driver,
                "Internal": create.internal,
                "EnableIPv6": create.ipv6,
                "IPAM": { "Config": pools },
                "Labels": pairs("label", &create.label)?,
                "Options": pairs("opt", &create.opt)?,
            });
            let made = client.post("/networks/create", Some(&body)).await?;
            show::line(show::text(&made, "Id"));
        }
        Command::Ls(list) => {
            let query = query(&[("filters", filters(&list.filter)?)]);
            let networks = client.get(&format!("/networks{query}")).await?;
            let networks = networks.as_array().cloned().unwrap_or_default();
            let field = |value: &Value, name| show::text(value, name).to_owned();
            let rows: Vec<Vec<String>> = networks
                .iter()
                .map(|network| {
                    vec![
                        show::short(show::text(network, "Id")).to_owned(),
                        field(network, "Name"),
                        field(network, "Driver"),
                        field(network, "Scope"),
                    ]
                })
                .collect();
            if list.quiet {
                rows.iter().for_each(|row| show::line(&row[0]));
            } else {
                show::table(&["NETWORK ID", "NAME", "DRIVER", "SCOPE"], &rows);
            }
        }
        Command::Inspect { names } => {
            let mut found = Vec::new();
            for name in names {
                found.push(client.get(&format!("/networks/{}", escape(&name))).await?);
            }
            show::line(format_args!("{:#}", Value::Array(found)));
        }
        Command::Rm { names } => {
            let mut failed = false;
            for name in names {
                match client.delete(&format!("/networks/{}", escape(&name))).await {
                    Ok(_) => show::line(name),
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
        Command::Connect {
            alias,
            ip,
            network,
            container,
        } => {
            let mut settings = json!({ "Aliases": alias });
            if let Some(ip) = ip {
                settings["IPAMConfig"] = json!({ "IPv4Address": ip });
            }
            let body = json!({ "Container": container, "EndpointConfig": settings });
            client
                .post(
                    &format!("/networks/{}/connect", escape(&network)),
                    Some(&body),
                )
                .await?;
        }
        Command::Disconnect { network, container } => {
            let body = json!({ "Container": container });
            client
                .post(
                    &format!("/networks/{}/disconnect", escape(&network)),
                    Some(&body),
                )
                .await?;
        }
        Command::Prune => {
            let pruned = client.post("/networks/prune", None).await?;
            for name in pruned["NetworksDeleted"].as_array().into_iter().flatten() {
                show::line(name.as_str().unwrap_or_default());
            }
        }
    }
    Ok(0)
}
