//! `volume`.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::containers::filters;
use crate::error::Error;
use crate::listing::{self, Row};
use crate::request::pairs;
use crate::{Outcome, show};

/// What is done with volumes.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a volume.
    Create {
        /// Attach a label (NAME=VALUE).
        #[arg(long)]
        label: Vec<String>,
        /// Name; none makes one up.
        name: Option<String>,
    },
    /// List volumes.
    #[command(visible_alias = "list")]
    Ls {
        /// Print names only.
        #[arg(short, long)]
        quiet: bool,
        /// Show only those that fit (NAME=VALUE).
        #[arg(short, long)]
        filter: Vec<String>,
        /// Print as json, by a template such as '{{.Name}}', or 'table TEMPLATE'.
        #[arg(long)]
        format: Option<String>,
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
    Prune {
        /// Those with names as well.
        #[arg(short, long)]
        all: bool,
    },
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
        Command::Create { label, name } => {
            let body =
                json!({ "Name": name.unwrap_or_default(), "Labels": pairs("label", &label)? });
            let made = client.post("/volumes/create", Some(&body)).await?;
            show::line(show::text(&made, "Name"));
        }
        Command::Ls {
            quiet,
            filter,
            format,
        } => {
            let query = query(&[("filters", filters(&filter)?)]);
            let volumes = client.get(&format!("/volumes{query}")).await?;
            let rows = volumes["Volumes"].as_array().into_iter().flatten();
            let mut rows: Vec<Row> = rows.map(row).collect();
            rows.sort_by(|one, other| one.text("Name").cmp(other.text("Name")));
            if quiet && format.is_none() {
                rows.iter().for_each(|row| show::line(row.text("Name")));
                return Ok(0);
            }
            let format = match format.as_deref().unwrap_or("table") {
                "table" => "table {{.Driver}}\t{{.Name}}",
                format => format,
            };
            listing::print(format, &TITLES, &rows)?;
        }
        Command::Inspect { names, format } => {
            let mut found = Vec::new();
            for name in names {
                found.push(client.get(&format!("/volumes/{}", escape(&name))).await?);
            }
            match format {
                Some(format) => show::inspected(&format, found)?,
                None => show::line(format_args!("{:#}", Value::Array(found))),
            }
        }
        Command::Rm { force, names } => {
            let mut failed = false;
            for name in names {
                let path = format!("/volumes/{}?force={}", escape(&name), u8::from(force));
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
        Command::Prune { all } => {
            let filters = if all {
                json!({ "all": ["1"] }).to_string()
            } else {
                String::new()
            };
            let pruned = client
                .post(
                    &format!("/volumes/prune{}", query(&[("filters", filters)])),
                    None,
                )
                .await?;
            for name in pruned["VolumesDeleted"].as_array().into_iter().flatten() {
                show::line(name.as_str().unwrap_or_default());
            }
            let bytes = pruned["SpaceReclaimed"].as_u64().unwrap_or_default();
            show::line(format_args!("Total reclaimed space: {}", show::size(bytes)));
        }
    }
    Ok(0)
}
