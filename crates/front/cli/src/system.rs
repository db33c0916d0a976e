//! The daemon: facts, events, cleaning up.

use clap::{Args, Subcommand};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::client::{Client, query};
use crate::containers::filters;
use crate::disk::disk_usage;
use crate::template::Template;
use crate::{Outcome, show, terminal};

/// What is asked about the daemon.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show how much disk is used.
    Df(DiskUsage),
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

/// `dhow system df`.
#[derive(Debug, Args)]
pub struct DiskUsage {
    /// Show each image, container, volume and build step.
    #[arg(short, long)]
    pub(crate) verbose: bool,
    /// Print as json, by a template such as '{{.Size}}', or 'table TEMPLATE'.
    #[arg(long)]
    pub(crate) format: Option<String>,
}

/// `dhow info` and `dhow version`.
#[derive(Debug, Args)]
pub struct Facts {
    /// Print as json, or by a template.
    #[arg(short, long)]
    format: Option<String>,
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
    /// Print as json, or by a template such as '{{.Action}}'.
    #[arg(long)]
    format: Option<String>,
}

pub(crate) async fn run(client: &Client, command: Command) -> Outcome {
    match command {
        Command::Df(options) => disk_usage(client, options).await?,
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
    let format = events.format.as_deref().unwrap_or_default();
    let template = match format {
        "" | "json" | "{{json .}}" => None,
        template => Some(Template::parse(template)?),
    };
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
            match &template {
                Some(template) => show::line(template.render(&in_go(&event))?),
                None if format.is_empty() => show::line(in_words(&event)),
                None => show::line(&event),
            }
        }
    }
    Ok(0)
}

/// An event as a line for people.
fn in_words(event: &Value) -> String {
    let attributes = event["Actor"]["Attributes"].as_object();
    let mut attributes: Vec<_> = attributes.into_iter().flatten().collect();
    attributes.sort_by_key(|(name, _)| *name);
    let attributes: Vec<String> = attributes
        .iter()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    let time = event["timeNano"].as_i64().unwrap_or_default();
    let time = jiff::Timestamp::from_nanosecond(time.into()).unwrap_or_default();
    let time = time.to_zoned_datetime(jiff::tz::TimeZone::system());
    let time = time.strftime("%Y-%m-%dT%H:%M:%S.%9f%:z").to_string();
    let mut line = format!(
        "{} {} {} {}",
        time.replace("+00:00", "Z"),
        show::text(event, "Type"),
        show::text(event, "Action"),
        show::text(&event["Actor"], "ID"),
    );
    if !attributes.is_empty() {
        line = format!("{line} ({})", attributes.join(", "));
    }
    line
}

/// An event under the names that templates know its fields by.
fn in_go(event: &Value) -> Value {
    let text = |field: &str| show::text(event, field);
    json!({
        "Status": text("status"),
        "ID": text("id"),
        "From": text("from"),
        "Type": text("Type"),
        "Action": text("Action"),
        "Actor": event["Actor"],
        "Scope": text("scope"),
        "Time": event["time"],
        "TimeNano": event["timeNano"],
    })
}

/// Prints facts by a format, if there is one.
fn formatted(facts: &Facts, value: &Value) -> Result<bool, crate::Error> {
    match facts.format.as_deref() {
        None => return Ok(false),
        Some("json") => show::line(value),
        Some(format) => show::line(Template::parse(format)?.render(value)?),
    }
    Ok(true)
}

pub(crate) async fn info(client: &Client, facts: Facts) -> Outcome {
    let info = client.get("/info").await?;
    if formatted(&facts, &info)? {
        return Ok(0);
    }
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

pub(crate) async fn version(client: &Client, facts: Facts) -> Outcome {
    let own = env!("CARGO_PKG_VERSION");
    if facts.format.is_some() {
        let server = client.get("/version").await?;
        let os = std::env::consts::OS;
        let both = json!({
            "Client": { "Version": own, "ApiVersion": client.version(), "Os": os, "Arch": server["Arch"] },
            "Server": server,
        });
        formatted(&facts, &both)?;
        return Ok(0);
    }
    show::line(format_args!("Client: {own}"));
    let version = client.get("/version").await?;
    show::line(format_args!(
        "Server: {} (API {}, minimum {})",
        show::text(&version, "Version"),
        show::text(&version, "ApiVersion"),
        show::text(&version, "MinAPIVersion")
    ));
    Ok(0)
}
