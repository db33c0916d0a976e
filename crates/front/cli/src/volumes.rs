//! `volume`.

use clap::{Args, Subcommand};
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::filters::{filter, filters};
use crate::listing::{self, Row};
use crate::prune::PruneAll;
use crate::request::{label, pairs};
use crate::{Outcome, prune, show};

/// What is done with volumes.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a volume.
    Create(Create),
    /// List volumes.
    #[command(visible_alias = "list")]
    Ls {
        /// Print names only.
        #[arg(short, long)]
        quiet: bool,
        /// Show only those that fit (NAME=VALUE).
        #[arg(short, long, value_parser = filter)]
        filter: Vec<String>,
        /// Print as json, by a template such as '{{.Name}}', or 'table TEMPLATE'.
        #[arg(long)]
        format: Option<String>,
        /// Only volumes of a cluster, of which there are none.
        #[arg(long)]
        cluster: bool,
    },
    /// Show everything about volumes, as JSON.
    Inspect {
        /// Print by a template such as '{{.Mountpoint}}'.
        #[arg(short, long)]
        format: Option<String>,
        /// Names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes with what they hold.
    #[command(visible_alias = "remove")]
    Rm {
        /// No error for one that is not there.
        #[arg(short, long)]
        force: bool,
        /// Names.
        #[arg(required = true)]
        names: Vec<String>,
    },
    /// Remove volumes that nobody uses.
    Prune(PruneAll),
    /// Change a volume of a cluster.
    Update {
        /// Whether it can be used (active, pause or drain).
        #[arg(long, default_value = "active")]
        availability: String,
        /// Name.
        #[arg(value_name = "VOLUME")]
        name: String,
    },
}

// `dhow volume create`.
#[derive(Debug, Args)]
pub struct Create {
    /// Driver.
    #[arg(short, long, default_value = "local")]
    driver: String,
    /// Option of the driver (NAME=VALUE).
    #[arg(short, long, value_name = "NAME=VALUE")]
    opt: Vec<String>,
    /// Attach a label (NAME=VALUE).
    #[arg(long, value_name = "NAME=VALUE", value_parser = label)]
    label: Vec<String>,
    /// Name, as an option.
    #[arg(long = "name", hide = true, value_name = "NAME")]
    own_name: Option<String>,
    /// Name; none makes one up.
    name: Option<String>,
}

const TITLES: [(&str, &str); 10] = [
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

/// A volume in the fields of Docker's client.
pub(crate) fn row(volume: &Value) -> Row {
    let (mut links, mut size) = ("N/A".to_owned(), "N/A".to_owned());
    if let Some(bytes) = volume["UsageData"]["Size"].as_u64() {
        links = volume["UsageData"]["RefCount"].to_string();
        size = show::size(bytes);
    }
    Row::new([
        ("Availability", "N/A".into()),
        ("Driver", volume["Driver"].clone()),
        ("Group", "N/A".into()),
        ("Links", links.into()),
        ("Mountpoint", volume["Mountpoint"].clone()),
        ("Name", volume["Name"].clone()),
        ("Scope", volume["Scope"].clone()),
        ("Size", size.into()),
        ("Status", "N/A".into()),
    ])
    .with_labels(&volume["Labels"])
}

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Create(create) => {
            if create.name.is_some() && create.own_name.is_some() {
                return Err(Error::Usage(
                    "conflicting options: cannot specify a volume-name through both --name and as a positional arg".into(),
                ));
            }
            let body = json!({
                "Name": create.name.or(create.own_name).unwrap_or_default(),
                "Driver": create.driver,
                "DriverOpts": pairs(&create.opt),
                "Labels": pairs(&create.label),
            });
            let made = client.post("/volumes/create", Some(&body)).await?;
            show::line(show::text(&made, "Name"));
        }
        Command::Ls {
            quiet,
            filter,
            format,
            cluster,
        } => {
            let query = query(&[("filters", filters(&filter))]);
            let volumes = client.get(&format!("/volumes{query}")).await?;
            let rows = volumes["Volumes"].as_array().into_iter().flatten();
            let rows = rows.filter(|volume| !cluster || volume["ClusterVolume"].is_object());
            let mut rows: Vec<Row> = rows.map(row).collect();
            rows.sort_by(|one, other| one.text("Name").cmp(other.text("Name")));
            if quiet && format.is_none() {
                show::lines(rows.iter().map(|row| row.text("Name")));
                return Ok(0);
            }
            let format = format.or_else(|| client.setting("volumesFormat"));
            let format = match format.as_deref().unwrap_or("table") {
                "table" => "table {{.Driver}}\t{{.Name}}",
                format => format,
            };
            listing::print(format, &TITLES, &rows)?;
        }
        Command::Inspect { names, format } => {
            let path = |name: &str| format!("/volumes/{}", escape(name));
            return show::inspect_each(client, &names, format.as_deref(), path).await;
        }
        Command::Rm { force, names } => {
            let mut failed = false;
            for name in names {
                let query = query(&[("force", if force { "1" } else { "" }.into())]);
                let path = format!("/volumes/{}{query}", escape(&name));
                match client.delete(&path).await {
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
        Command::Prune(prune) => return prune::volumes(client, prune).await,
        Command::Update { name, .. } => {
            let volume = client.get(&format!("/volumes/{}", escape(&name))).await?;
            if !volume["ClusterVolume"].is_object() {
                return Err(Error::Usage("can only update cluster volumes".into()));
            }
        }
    }
    Ok(0)
}
