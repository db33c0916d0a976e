//! The daemon: facts and events.

use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::client::{Client, query};
use crate::containers::point;
use crate::error::Error;
use crate::filters::{filter, filters};
use crate::template::Template;
use crate::{Outcome, show};

// `dhow info` and `dhow version`.
#[derive(Debug, Args)]
pub struct Facts {
    /// Print as json, or by a template.
    #[arg(short, long)]
    format: Option<String>,
}

// `dhow events`.
#[derive(Debug, Args)]
pub struct Events {
    /// From this time on (RFC 3339, seconds since the epoch, or 10m ago).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Until this time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
    /// Print as json, or by a template such as '{{.Action}}'.
    #[arg(long)]
    format: Option<String>,
}

pub(crate) async fn events(client: &Client, events: Events) -> Outcome {
    let query = query(&[
        ("since", point(events.since.as_deref())),
        ("until", point(events.until.as_deref())),
        ("filters", filters(&events.filter)),
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
    if facts
        .format
        .as_deref()
        .is_some_and(|format| !format.is_empty())
    {
        let mut info = info;
        info["ClientInfo"] = client_facts(client);
        formatted(&facts, &info)?;
        return Ok(0);
    }
    show::line("Client:");
    said(" Version:   ", env!("CARGO_PKG_VERSION"));
    said(" Context:   ", client.context());
    said(" Debug Mode:", "false");
    show::line("");
    show::line("Server:");
    server_facts(&info);
    for warning in info["Warnings"].as_array().into_iter().flatten() {
        anstream::eprintln!("{}", warning.as_str().unwrap_or_default());
    }
    Ok(0)
}

/// Prints a fact, unless it is none.
fn said(label: &str, fact: &str) {
    if !fact.is_empty() {
        show::line(format_args!("{label} {fact}"));
    }
}

/// A value in words.
fn word(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// What is known of the daemon, in the order of Docker's client.
fn server_facts(info: &Value) {
    let fact = |label: &str, field: &str| said(label, &word(&info[field]));
    let words = |list: &Value| -> String {
        let words = list.as_array().into_iter().flatten();
        words.map(word).collect::<Vec<_>>().join(" ")
    };
    for (label, field) in [
        (" Containers:", "Containers"),
        ("  Running:", "ContainersRunning"),
        ("  Paused:", "ContainersPaused"),
        ("  Stopped:", "ContainersStopped"),
        (" Images:", "Images"),
        (" Server Version:", "ServerVersion"),
        (" Storage Driver:", "Driver"),
    ] {
        fact(label, field);
    }
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        show::line(format_args!("  {}: {}", word(&pair[0]), word(&pair[1])));
    }
    fact(" Logging Driver:", "LoggingDriver");
    fact(" Cgroup Driver:", "CgroupDriver");
    fact(" Cgroup Version:", "CgroupVersion");
    show::line(" Plugins:");
    for kind in ["Volume", "Network", "Log"] {
        show::line(format_args!("  {kind}: {}", words(&info["Plugins"][kind])));
    }
    let folders: Vec<String> = info["CDISpecDirs"]
        .as_array()
        .into_iter()
        .flatten()
        .map(word)
        .collect();
    if !folders.is_empty() {
        show::line(" CDI spec directories:");
        folders.iter().for_each(|folder| said(" ", folder));
    }
    said(" Swarm:", &word(&info["Swarm"]["LocalNodeState"]));
    let runtimes = info["Runtimes"].as_object();
    let runtimes: Vec<&str> = runtimes
        .into_iter()
        .flatten()
        .map(|(name, _)| name.as_str())
        .collect();
    said(" Runtimes:", &runtimes.join(" "));
    fact(" Default Runtime:", "DefaultRuntime");
    fact(" Init Binary:", "InitBinary");
    for (label, field) in [
        (" containerd version:", "ContainerdCommit"),
        (" runc version:", "RuncCommit"),
        (" init version:", "InitCommit"),
    ] {
        // Docker tells these whether they are known or not.
        show::line(format_args!("{label} {}", word(&info[field]["ID"])));
    }
    security(info);
    for (label, field) in [
        (" Kernel Version:", "KernelVersion"),
        (" Operating System:", "OperatingSystem"),
        (" OSType:", "OSType"),
        (" Architecture:", "Architecture"),
        (" CPUs:", "NCPU"),
    ] {
        fact(label, field);
    }
    let memory = info["MemTotal"].as_u64().unwrap_or_default();
    said(" Total Memory:", &show::binary_size(memory));
    for (label, field) in [
        (" Name:", "Name"),
        (" ID:", "ID"),
        (" Docker Root Dir:", "DockerRootDir"),
        (" Debug Mode:", "Debug"),
        (" HTTP Proxy:", "HttpProxy"),
        (" HTTPS Proxy:", "HttpsProxy"),
        (" No Proxy:", "NoProxy"),
    ] {
        fact(label, field);
    }
    let labels: Vec<String> = info["Labels"]
        .as_array()
        .into_iter()
        .flatten()
        .map(word)
        .collect();
    if !labels.is_empty() {
        show::line(" Labels:");
        labels.iter().for_each(|label| said(" ", label));
    }
    fact(" Experimental:", "ExperimentalBuild");
    registries(&info["RegistryConfig"]);
    fact(" Live Restore Enabled:", "LiveRestoreEnabled");
    let pools: Vec<&Value> = info["DefaultAddressPools"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    if !pools.is_empty() {
        show::line(" Default Address Pools:");
        for pool in pools {
            show::line(format_args!(
                "   Base: {}, Size: {}",
                word(&pool["Base"]),
                word(&pool["Size"])
            ));
        }
    }
    show::line("");
}

/// Security options are `name=NAME,profile=PROFILE` each.
fn security(info: &Value) {
    let options: Vec<String> = info["SecurityOptions"]
        .as_array()
        .into_iter()
        .flatten()
        .map(word)
        .collect();
    if options.is_empty() {
        return;
    }
    show::line(" Security Options:");
    for option in options {
        for part in option.split(',') {
            match part.split_once('=') {
                Some(("name", name)) => show::line(format_args!("  {name}")),
                Some(("profile", profile)) => show::line(format_args!("   Profile: {profile}")),
                _ => {}
            }
        }
    }
}

fn registries(config: &Value) {
    let insecure = config["IndexConfigs"].as_object();
    let insecure = insecure
        .into_iter()
        .flatten()
        .filter(|(_, index)| index["Secure"] == false)
        .map(|(name, _)| name.clone());
    let ranges = config["InsecureRegistryCIDRs"]
        .as_array()
        .into_iter()
        .flatten();
    let insecure: Vec<String> = insecure.chain(ranges.map(word)).collect();
    let mirrors: Vec<String> = config["Mirrors"]
        .as_array()
        .into_iter()
        .flatten()
        .map(word)
        .collect();
    for (label, names) in [
        (" Insecure Registries:", insecure),
        (" Registry Mirrors:", mirrors),
    ] {
        if !names.is_empty() {
            show::line(label);
            names.iter().for_each(|name| said(" ", name));
        }
    }
}

/// What is known of this program.
fn client_facts(client: &Client) -> Value {
    json!({
        "Platform": { "Name": "Dhow" },
        "Version": env!("CARGO_PKG_VERSION"),
        "ApiVersion": client.version(),
        "DefaultAPIVersion": client.version(),
        "GitCommit": "",
        "GoVersion": "",
        "Os": std::env::consts::OS,
        "Arch": architecture(),
        "BuildTime": "",
        "Context": client.context(),
        "Debug": false,
        "Plugins": [],
        "Warnings": null,
    })
}

/// This program's architecture, as images have it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(crate) async fn version(client: &Client, facts: Facts) -> Outcome {
    if facts
        .format
        .as_deref()
        .is_some_and(|format| !format.is_empty())
    {
        let server = client.get("/version").await?;
        let both = json!({ "Client": client_facts(client), "Server": server });
        formatted(&facts, &both)?;
        return Ok(0);
    }
    show::line("Client: Dhow");
    said(" Version:          ", env!("CARGO_PKG_VERSION"));
    said(" API version:      ", client.version());
    let platform = format!("{}/{}", std::env::consts::OS, architecture());
    said(" OS/Arch:          ", &platform);
    said(" Context:          ", client.context());
    let server = client.get("/version").await?;
    show::line("");
    match show::text(&server["Platform"], "Name") {
        "" => show::line("Server:"),
        name => show::line(format_args!("Server: {name}")),
    }
    let components: Vec<&Value> = server["Components"]
        .as_array()
        .into_iter()
        .flatten()
        .collect();
    let details = json!({ "Name": "Engine", "Version": server["Version"], "Details": {
        "ApiVersion": server["ApiVersion"], "MinAPIVersion": server["MinAPIVersion"],
        "Os": server["Os"], "Arch": server["Arch"],
    } });
    let components = if components.is_empty() {
        vec![&details]
    } else {
        components
    };
    for component in components {
        show::line(format_args!(" {}:", show::text(component, "Name")));
        said("  Version:         ", show::text(component, "Version"));
        let detail = |name: &str| show::text(&component["Details"], name);
        if !detail("ApiVersion").is_empty() {
            show::line(format_args!(
                "  API version:      {} (minimum version {})",
                detail("ApiVersion"),
                detail("MinAPIVersion")
            ));
        }
        said("  Go version:      ", detail("GoVersion"));
        said("  Git commit:      ", detail("GitCommit"));
        said("  Built:           ", detail("BuildTime"));
        if !detail("Os").is_empty() {
            show::line(format_args!(
                "  OS/Arch:          {}/{}",
                detail("Os"),
                detail("Arch")
            ));
        }
        if !detail("Experimental").is_empty() {
            said("  Experimental:    ", detail("Experimental"));
        }
    }
    Ok(0)
}

/// Passes standard input to the daemon and its answers to standard output, as
/// Docker's clients want it at the far end of a shell.
pub(crate) async fn dial(client: &Client) -> Outcome {
    let stream = client.dial().await?;
    let (mut from, mut to) = tokio::io::split(stream);
    let (mut stdin, mut stdout) = (tokio::io::stdin(), tokio::io::stdout());
    let sending = async {
        // Whoever ends the input still gets the rest of the answer.
        let _ = tokio::io::copy(&mut stdin, &mut to).await;
        let _ = to.shutdown().await;
        std::future::pending::<()>().await;
    };
    let receiving = async {
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok::<_, std::io::Error>(());
            }
            stdout.write_all(&buffer[..length]).await?;
            stdout.flush().await?;
        }
    };
    tokio::select! {
        () = sending => Ok(0),
        received = receiving => match received {
            Ok(()) => Ok(0),
            Err(error) => Err(Error::Broken(error.to_string())),
        },
    }
}
