//! The daemon: facts, events, disk usage, cleaning up.

use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::client::{Client, query};
use crate::containers::filters;
use crate::{Outcome, show, terminal};

/// What is asked about the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how much disk is used.
    Df,
    /// Remove stopped containers, unused networks and dangling images.
    Prune {
        /// All images without a container, not only those without a name.
        #[arg(short, long)]
        all: bool,
        /// Anonymous volumes that nobody uses as well.
        #[arg(long)]
        volumes: bool,
        /// Only those that fit (label=NAME[=VALUE], until=TIME).
        #[arg(long, value_name = "FILTER")]
        filter: Vec<String>,
        /// Do not ask.
        #[arg(short, long)]
        force: bool,
    },
}

/// `dhow events`.
#[derive(Debug, Args)]
pub struct Events {
    /// From this time on (RFC 3339, or seconds since the epoch).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long)]
    filter: Vec<String>,
}

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Df => {
            let usage = client.get("/system/df").await?;
            let rows = |kind: &str, field: &str, size: &str| {
                let items = usage[field].as_array().cloned().unwrap_or_default();
                let bytes: u64 = items
                    .iter()
                    .filter_map(|item| {
                        size.split('.')
                            .fold(item, |value, field| &value[field])
                            .as_u64()
                    })
                    .sum();
                vec![kind.to_owned(), items.len().to_string(), show::size(bytes)]
            };
            show::table(
                &["TYPE", "TOTAL", "SIZE"],
                &[
                    rows("Images", "Images", "Size"),
                    rows("Containers", "Containers", "SizeRw"),
                    rows("Local Volumes", "Volumes", "UsageData.Size"),
                    rows("Build Cache", "BuildCache", "Size"),
                ],
            );
        }
        Command::Prune {
            all,
            volumes,
            filter,
            force,
        } => {
            let what = "This removes stopped containers, unused networks and images, and what builds keep.";
            if !force && !terminal::confirm(what)? {
                return Ok(0);
            }
            let plain = query(&[("filters", filters(&filter)?)]);
            let mut of_images = filter.clone();
            of_images.push(format!("dangling={}", !all));
            let of_images = query(&[("filters", filters(&of_images)?)]);
            let mut paths = vec![
                format!("/containers/prune{plain}"),
                format!("/networks/prune{plain}"),
                format!("/images/prune{of_images}"),
                "/build/prune".to_owned(),
            ];
            if volumes {
                // Volumes have no time by which to tell them apart.
                let labels = filter.iter().filter(|text| !text.starts_with("until="));
                let labels: Vec<String> = labels.cloned().collect();
                let query = query(&[("filters", filters(&labels)?)]);
                paths.push(format!("/volumes/prune{query}"));
            }
            let mut bytes = 0;
            for path in paths {
                let pruned = client.post(&path, None).await?;
                bytes += pruned["SpaceReclaimed"].as_u64().unwrap_or_default();
            }
            show::line(format_args!("Total reclaimed space: {}", show::size(bytes)));
        }
    }
    Ok(0)
}

pub(crate) async fn events(client: &Client, events: Events) -> Outcome {
    let query = query(&[
        ("since", events.since.unwrap_or_default()),
        ("until", events.until.unwrap_or_default()),
        ("filters", filters(&events.filter)?),
    ]);
    let mut body = client
        .stream(Method::GET, &format!("/events{query}"), None)
        .await?;
    let mut pending: Vec<u8> = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else {
            continue;
        };
        pending.extend_from_slice(&data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            let Ok(event) = serde_json::from_slice::<Value>(&line) else {
                continue;
            };
            let attributes: Vec<String> = event["Actor"]["Attributes"]
                .as_object()
                .into_iter()
                .flatten()
                .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
                .collect();
            show::line(format_args!(
                "{} {} {} {} ({})",
                event["time"],
                show::text(&event, "Type"),
                show::text(&event, "Action"),
                show::text(&event["Actor"], "ID"),
                attributes.join(", ")
            ));
        }
    }
    Ok(0)
}

pub(crate) async fn info(client: &Client) -> Outcome {
    let info = client.get("/info").await?;
    for (label, field) in [
        ("Name", "Name"),
        ("Version", "ServerVersion"),
        ("Data", "DockerRootDir"),
        ("Containers", "Containers"),
        ("  Running", "ContainersRunning"),
        ("  Paused", "ContainersPaused"),
        ("  Stopped", "ContainersStopped"),
        ("Images", "Images"),
        ("Storage driver", "Driver"),
        ("Cgroup version", "CgroupVersion"),
        ("Kernel", "KernelVersion"),
        ("System", "OperatingSystem"),
        ("Architecture", "Architecture"),
        ("Processors", "NCPU"),
    ] {
        let value = &info[field];
        match value.as_str() {
            Some(text) => show::line(format_args!("{label}: {text}")),
            None => show::line(format_args!("{label}: {value}")),
        }
    }
    let memory = info["MemTotal"].as_u64().unwrap_or_default();
    show::line(format_args!("Memory: {}", show::size(memory)));
    Ok(0)
}

pub(crate) async fn version(client: &Client) -> Outcome {
    show::line(format_args!("Client: {}", env!("CARGO_PKG_VERSION")));
    let version = client.get("/version").await?;
    show::line(format_args!(
        "Server: {} (API {}, minimum {})",
        show::text(&version, "Version"),
        show::text(&version, "ApiVersion"),
        show::text(&version, "MinAPIVersion")
    ));
    Ok(0)
}
