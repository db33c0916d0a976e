//! What containers use: `top`, `stats`, `update`.

use std::process::Stdio;
use std::time::Duration;

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use dhow_engine::spec::{HostConfig, RestartPolicy};
use dhow_engine::{Engine, Moment, Stats, Update};
use futures_util::stream;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Door;
use crate::body::Document;
use crate::error::{Answer, Failure};
use crate::fields;
use crate::filters::is_true;
use crate::path::Path;
use crate::version::Version;

use super::Parameters;
use super::streams::blocking;
use super::view::strip_nulls;

/// What `docker top` shows unless told otherwise.
const PS: &str = "-ef";
/// Samples are a second apart.
const BETWEEN: Duration = Duration::from_secs(1);
/// Ticks of processor time in a second, on every architecture of today.
const TICKS: u64 = 100;
/// The time of what was never read.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// `GET /containers/{id}/top`: what `ps` on the host says of its processes.
pub(crate) async fn top(
    State(door): State<Door>,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let words = query.get("ps_args").map_or(PS, String::as_str);
    let pids = door.engine.processes(&name).await?;
    let output = tokio::process::Command::new("ps")
        .args(words.split_whitespace())
        .stdin(Stdio::null())
        .output()
        .await
        .map_err(|error| Failure::bad(format!("ps: {error}: install procps on the host")))?;
    if !output.status.success() {
        // Behind the first line it tells how it is used.
        let said = String::from_utf8_lossy(&output.stderr);
        let said = said.lines().find(|line| !line.trim().is_empty());
        return Err(Failure::bad(format!("ps: {}", said.unwrap_or_default())));
    }
    door.engine.tell(&name, "top");
    let (titles, processes) = table(&String::from_utf8_lossy(&output.stdout), &pids)?;
    Ok(Json(json!({ "Titles": titles, "Processes": processes })).into_response())
}

/// The rows of the processes that are asked for.
fn table(text: &str, pids: &[i32]) -> Answer<(Vec<String>, Vec<Vec<String>>)> {
    let mut lines = text.lines();
    let titles: Vec<String> = lines
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .map(str::to_owned)
        .collect();
    let Some(at) = titles.iter().position(|title| title == "PID") else {
        return Err(Failure::bad("Couldn't find PID field in ps output"));
    };
    let mut rows = Vec::new();
    for line in lines {
        let mut words = line.split_whitespace();
        // The last column may have blanks in it.
        let mut row: Vec<String> = words
            .by_ref()
            .take(titles.len() - 1)
            .map(str::to_owned)
            .collect();
        row.push(words.collect::<Vec<_>>().join(" "));
        let pid = row.get(at).and_then(|pid| pid.parse::<i32>().ok());
        if pid.is_some_and(|pid| pids.contains(&pid)) {
            rows.push(row);
        }
    }
    Ok((titles, rows))
}

/// `GET /containers/{id}/stats`: one sample, or one a second.
pub(crate) async fn stats(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Query(query): Parameters,
) -> Answer {
    let record = door.engine.get(&name)?;
    let streams = query.get("stream").is_none_or(|text| is_true(Some(text)));
    let is_one_shot = version.since(41) && is_true(query.get("one-shot"));
    let waits = !streams && !is_one_shot;
    let sampler = Sampler {
        version,
        engine: door.engine.clone(),
        id: record.id.clone(),
        before: cpu(None),
        read: NEVER.into(),
    };
    let body = if streams {
        let samples = stream::unfold((sampler, false), |(mut sampler, again)| async move {
            if again {
                tokio::time::sleep(BETWEEN).await;
            }
            let line = format!("{}\n", sampler.next().await?);
            Some((Ok::<_, std::convert::Infallible>(line), (sampler, true)))
        });
        Body::from_stream(samples)
    } else {
        let mut sampler = sampler;
        let mut sample = sampler.next().await;
        if waits && record.state.status.is_alive() {
            tokio::time::sleep(BETWEEN).await;
            sample = sampler.next().await;
        }
        let gone = || Failure::from(dhow_engine::Error::NoSuchContainer(name.clone()));
        Body::from(sample.ok_or_else(gone)?.to_string())
    };
    let mut response = Response::new(body);
    let kind = axum::http::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}

/// Reads one container, again and again.
struct Sampler {
    version: Version,
    engine: Engine,
    id: String,
    before: Map<String, Value>,
    read: String,
}

impl Sampler {
    /// The next sample; none when the container is gone.
    async fn next(&mut self) -> Option<Value> {
        let record = self.engine.get(&self.id).ok()?;
        let (engine, id) = (self.engine.clone(), self.id.clone());
        let is_alive = record.state.status.is_alive();
        let (usage, links) = blocking(move || {
            // One that has ended uses nothing.
            let usage = is_alive.then(|| engine.usage(&id).ok()).flatten();
            (usage, engine.link_usage(&id).unwrap_or_default())
        })
        .await
        .ok()?;
        let read = if usage.is_some() {
            Moment::now().to_string()
        } else {
            NEVER.into()
        };
        let mut cpu = cpu(usage.as_ref());
        let mut sample = json!({
            "id": record.id,
            "name": format!("/{}", record.name),
            "read": read,
            "preread": std::mem::replace(&mut self.read, read.clone()),
            "num_procs": 0,
            "pids_stats": {},
            "blkio_stats": blkio(usage.as_ref()),
            "storage_stats": {},
            "memory_stats": {},
            "precpu_stats": std::mem::replace(&mut self.before, cpu.clone()),
            "cpu_stats": Value::Object(std::mem::take(&mut cpu)),
        });
        if self.version.since(52) {
            sample["os_type"] = json!("linux");
        }
        if let Some(usage) = &usage {
            sample["pids_stats"] = json!({ "current": usage.pids.current });
            if let Some(limit) = usage.pids.limit {
                sample["pids_stats"]["limit"] = limit.into();
            }
            sample["memory_stats"] = memory(usage);
        }
        if !links.is_empty() {
            sample["networks"] = links
                .into_iter()
                .map(|link| {
                    let [rx_bytes, rx_packets, rx_errors, rx_dropped] = link.received;
                    let [tx_bytes, tx_packets, tx_errors, tx_dropped] = link.sent;
                    let shown = json!({
                        "rx_bytes": rx_bytes, "rx_packets": rx_packets,
                        "rx_errors": rx_errors, "rx_dropped": rx_dropped,
                        "tx_bytes": tx_bytes, "tx_packets": tx_packets,
                        "tx_errors": tx_errors, "tx_dropped": tx_dropped,
                    });
                    (link.name, shown)
                })
                .collect::<Map<_, _>>()
                .into();
        }
        Some(sample)
    }
}

fn cpu(usage: Option<&Stats>) -> Map<String, Value> {
    let used = usage.map(|usage| usage.cpu.clone()).unwrap_or_default();
    let mut shown = json!({
        "cpu_usage": {
            "total_usage": used.total,
            "usage_in_kernelmode": used.system,
            "usage_in_usermode": used.user,
        },
        "throttling_data": {
            "periods": used.n_periods,
            "throttled_periods": used.n_throttled,
            "throttled_time": used.throttled,
        },
    });
    if !used.per_cpu.is_empty() {
        shown["cpu_usage"]["percpu_usage"] = used.per_cpu.into();
    }
    if usage.is_some() {
        shown["system_cpu_usage"] = machine_time().into();
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        shown["online_cpus"] = processors.into();
    }
    match shown {
        Value::Object(shown) => shown,
        _ => Map::new(),
    }
}

/// Processor time of the whole machine, idle time included, in nanoseconds.
fn machine_time() -> u64 {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    let first = text.lines().next().unwrap_or_default();
    // Guest time, behind the eighth, is counted in user time.
    let ticks: u64 = first
        .split_whitespace()
        .skip(1)
        .take(8)
        .filter_map(|number| number.parse::<u64>().ok())
        .sum();
    ticks.saturating_mul(1_000_000_000 / TICKS)
}

fn memory(usage: &Stats) -> Value {
    let memory = &usage.memory;
    let mut shown = json!({
        "usage": memory.usage,
        "stats": memory.details,
        "limit": memory.limit.unwrap_or_else(machine_memory),
    });
    for (field, number) in [
        ("max_usage", memory.max_usage),
        ("failcnt", memory.n_failures),
    ] {
        if number > 0 {
            shown[field] = number.into();
        }
    }
    shown
}

fn machine_memory() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kilobytes: u64 = text
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0);
    kilobytes << 10
}

fn blkio(usage: Option<&Stats>) -> Value {
    let devices = usage.map(|usage| usage.io.as_slice()).unwrap_or_default();
    let list = |value: fn(&dhow_engine::IoDevice) -> [(&'static str, u64); 2]| -> Value {
        let rows: Vec<Value> = devices
            .iter()
            .flat_map(|device| {
                value(device).map(|(operation, value)| {
                    json!({ "major": device.major, "minor": device.minor,
                        "op": operation, "value": value })
                })
            })
            .collect();
        rows.into()
    };
    json!({
        "io_service_bytes_recursive":
            list(|one| [("read", one.read_bytes), ("write", one.written_bytes)]),
        "io_serviced_recursive": list(|one| [("read", one.n_reads), ("write", one.n_writes)]),
        "io_queue_recursive": [],
        "io_service_time_recursive": [],
        "io_wait_time_recursive": [],
        "io_merged_recursive": [],
        "io_time_recursive": [],
        "sectors_recursive": [],
    })
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Changes {
    #[serde(flatten)]
    limits: HostConfig,
}

/// Rules for single devices, which can be changed from 1.55 on.
const OF_DEVICES: [&str; 5] = [
    "BlkioWeightDevice",
    "BlkioDeviceReadBps",
    "BlkioDeviceWriteBps",
    "BlkioDeviceReadIOps",
    "BlkioDeviceWriteIOps",
];

/// `POST /containers/{id}/update`.
pub(crate) async fn update(
    State(door): State<Door>,
    version: Version,
    Path(name): Path<String>,
    Document(body): Document,
) -> Answer {
    let bad = |error: serde_json::Error| Failure::bad(format!("invalid JSON: {error}"));
    let mut value: Value = serde_json::from_slice(&body).map_err(bad)?;
    strip_nulls(&mut value);
    fields::rename::<HostConfig>(&mut value, &[]);
    if let Some(policy) = value.get_mut("RestartPolicy") {
        fields::rename::<RestartPolicy>(policy, &[]);
    }
    if let Some(field) = OF_DEVICES.iter().find(|field| !value[**field].is_null())
        && version.since(55)
    {
        return Err(Failure::bad(format!(
            "changing {field} of a container is not supported: leave it out"
        )));
    }
    let policy = value
        .get("RestartPolicy")
        .cloned()
        .map(serde_json::from_value::<RestartPolicy>)
        .transpose()
        .map_err(bad)?
        .filter(|policy| !policy.name.is_empty());
    let changes: Changes = serde_json::from_value(value).map_err(bad)?;
    let update = Update {
        limits: changes.limits,
        restart_policy: policy,
    };
    let updated = door.engine.update(&name, update).await?;
    Ok(Json(json!({ "Warnings": updated.warnings })).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_those_of_the_container_with_their_whole_command() {
        let text = "UID PID PPID CMD\nroot 1 0 init\nroot 12 1 sh -c  sleep 5\n";
        let (titles, rows) = table(text, &[12]).expect("a table");
        assert_eq!(titles, ["UID", "PID", "PPID", "CMD"]);
        assert_eq!(rows, [["root", "12", "1", "sh -c sleep 5"]]);
        assert!(table("A B\n", &[1]).is_err());
    }
}
