//! What containers use: `top`, `stats`, `update`.

use clap::Args;
use futures_util::future::try_join_all;
use serde_json::Value;

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::listing::{self, Row};
use crate::resources::{Resources, restart};
use crate::{Outcome, show};

// `dhow top`.
#[derive(Debug, Args)]
pub struct Top {
    /// The container, then options of ps; -ef unless told otherwise.
    #[arg(
        required = true,
        trailing_var_arg = true,
        num_args = 1..,
        value_names = ["CONTAINER", "OPTIONS"]
    )]
    words: Vec<String>,
}

// `dhow stats`.
#[derive(Debug, Args)]
pub struct Stats {
    /// Containers; all that run unless told otherwise.
    containers: Vec<String>,
    /// Containers that do not run as well.
    #[arg(short, long)]
    all: bool,
    /// Print once and end.
    #[arg(long)]
    no_stream: bool,
    /// Print ids in full.
    #[arg(long)]
    no_trunc: bool,
    /// Print by this template, or json.
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

// `dhow update`.
#[derive(Debug, Args)]
pub struct Update {
    /// The containers.
    #[arg(required = true)]
    containers: Vec<String>,
    #[command(flatten)]
    resources: Resources,
    /// When it is started again (no, always, unless-stopped, on-failure[:N]).
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
}

pub(crate) async fn top(client: &Client, top: Top) -> Outcome {
    let query = query(&[("ps_args", top.words[1..].join(" "))]);
    let path = format!("/containers/{}/top{query}", escape(&top.words[0]));
    let answer = client.get(&path).await?;
    let words = |value: &Value| -> Vec<String> {
        let words = value.as_array().cloned().unwrap_or_default();
        words
            .iter()
            .map(|word| word.as_str().unwrap_or_default().to_owned())
            .collect()
    };
    let titles = words(&answer["Titles"]);
    let rows = answer["Processes"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = rows.iter().map(words).collect();
    let titles: Vec<&str> = titles.iter().map(String::as_str).collect();
    show::table(&titles, &rows);
    Ok(0)
}

pub(crate) async fn stats(client: &Client, stats: Stats) -> Outcome {
    let clears = std::io::IsTerminal::is_terminal(&std::io::stdout());
    let settled = stats.format.or_else(|| client.setting("statsFormat"));
    loop {
        let names = if stats.containers.is_empty() {
            running(client, stats.all).await?
        } else {
            stats.containers.clone()
        };
        // The daemon takes a second between its two samples.
        let paths: Vec<String> = names
            .iter()
            .map(|name| format!("/containers/{}/stats?stream=0", escape(name)))
            .collect();
        let samples = try_join_all(paths.iter().map(|path| client.get(path))).await?;
        let rows = samples.iter().zip(&names);
        let rows: Vec<Row> = rows
            .map(|(sample, name)| row(sample, name, stats.no_trunc))
            .collect();
        if clears && !stats.no_stream {
            // Home, and clear to the end.
            print!("\x1b[H\x1b[J");
        }
        let format = match settled.as_deref().unwrap_or("table") {
            "table" => TABLE,
            format => format,
        };
        listing::print(format, &TITLES, &rows)?;
        if stats.no_stream {
            return Ok(0);
        }
        if names.is_empty() {
            return Err(Error::Usage(
                "no container runs: name one, or use --all".into(),
            ));
        }
    }
}

async fn running(client: &Client, all: bool) -> Result<Vec<String>, Error> {
    let all = if all { "1" } else { "" };
    let query = query(&[("all", all.into())]);
    let listed = client.get(&format!("/containers/json{query}")).await?;
    let listed = listed.as_array().cloned().unwrap_or_default();
    Ok(listed
        .iter()
        .map(|one| show::text(one, "Id").to_owned())
        .collect())
}

/// A sample in the fields of `docker stats --format`.
fn row(sample: &Value, asked: &str, no_trunc: bool) -> Row {
    let number = |path: &str| {
        let found = path.split('.').fold(sample, |value, field| &value[field]);
        found.as_u64().unwrap_or(0)
    };
    let between = |path: &str| {
        let before = number(&format!("precpu_stats.{path}"));
        number(&format!("cpu_stats.{path}")).saturating_sub(before) as f64
    };
    let machine = between("system_cpu_usage");
    let cpu = if machine > 0.0 {
        between("cpu_usage.total_usage") / machine * number("cpu_stats.online_cpus") as f64 * 100.0
    } else {
        0.0
    };
    let details = &sample["memory_stats"]["stats"];
    let idle = ["total_inactive_file", "inactive_file"]
        .into_iter()
        .find_map(|name| details[name].as_u64())
        .unwrap_or(0);
    let used = number("memory_stats.usage").saturating_sub(idle);
    let limit = number("memory_stats.limit");
    let share = if limit > 0 {
        used as f64 / limit as f64 * 100.0
    } else {
        0.0
    };
    let links = sample["networks"].as_object().cloned().unwrap_or_default();
    let through =
        |field: &str| -> u64 { links.values().filter_map(|link| link[field].as_u64()).sum() };
    let io = |operation: &str| -> u64 {
        let rows = sample["blkio_stats"]["io_service_bytes_recursive"].as_array();
        rows.into_iter()
            .flatten()
            .filter(|row| row["op"] == operation)
            .filter_map(|row| row["value"].as_u64())
            .sum()
    };
    let pair = |one, other| format!("{} / {}", show::size(one), show::size(other));
    let memory = format!("{} / {}", show::binary_size(used), show::binary_size(limit));
    let id = show::text(sample, "id");
    let shortened = |id| if no_trunc { id } else { show::short(id) };
    Row::new([
        ("BlockIO", pair(io("read"), io("write")).into()),
        ("CPUPerc", format!("{cpu:.2}%").into()),
        (
            "Container",
            if asked == id { shortened(id) } else { asked }.into(),
        ),
        ("ID", shortened(id).into()),
        ("MemPerc", format!("{share:.2}%").into()),
        ("MemUsage", memory.into()),
        (
            "Name",
            show::text(sample, "name").trim_start_matches('/').into(),
        ),
        (
            "NetIO",
            pair(through("rx_bytes"), through("tx_bytes")).into(),
        ),
        ("PIDs", number("pids_stats.current").to_string().into()),
    ])
}

const TABLE: &str = "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";
const TITLES: [(&str, &str); 9] = [
    ("BlockIO", "BLOCK I/O"),
    ("CPUPerc", "CPU %"),
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("MemPerc", "MEM %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("Name", "NAME"),
    ("NetIO", "NET I/O"),
    ("PIDs", "PIDS"),
];

pub(crate) async fn update(client: &Client, update: Update) -> Outcome {
    let mut body = update.resources.fields();
    if let Some(bytes) = update.resources.kernel_memory() {
        body.insert("KernelMemory".into(), bytes.into());
    }
    if let Some(policy) = &update.restart {
        let policy = restart(policy).map_err(Error::Usage)?;
        body.insert("RestartPolicy".into(), policy);
    }
    if body.is_empty() {
        return Err(Error::Usage(
            "you must provide one or more flags when using this command".into(),
        ));
    }
    let body = Value::Object(body);
    for name in &update.containers {
        let path = format!("/containers/{}/update", escape(name));
        client.post(&path, Some(&body)).await?;
        show::line(name);
    }
    Ok(0)
}
