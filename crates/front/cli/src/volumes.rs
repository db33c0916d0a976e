//! `volume`.

use clap::Subcommand;
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::containers::filters;
use crate::error::Error;
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
    },
    /// Show everything about volumes, as JSON.
    Inspect {
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

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Create { label, name } => {
            let body =
                json!({ "Name": name.unwrap_or_default(), "Labels": pairs("label", &label)? });
            let made = client.post("/volumes/create", Some(&body)).await?;
            show::line(show::text(&made, "Name"));
        }
        Command::Ls { quiet, filter } => {
            let query = query(&[("filters", filters(&filter)?)]);
            let volumes = client.get(&format!("/volumes{query}")).await?;
            let rows: Vec<Vec<String>> = volumes["Volumes"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|volume| {
                    vec![
                        show::text(volume, "Driver").to_owned(),
                        show::text(volume, "Name").to_owned(),
                    ]
                })
                .collect();
            if quiet {
                rows.iter().for_each(|row| show::line(&row[1]));
            } else {
                show::table(&["DRIVER", "VOLUME NAME"], &rows);
            }
        }
        Command::Inspect { names } => {
            let mut found = Vec::new();
            for name in names {
                found.push(client.get(&format!("/volumes/{}", escape(&name))).await?);
            }
            show::line(format_args!("{:#}", Value::Array(found)));
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
