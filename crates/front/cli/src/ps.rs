//! `ps`: containers in a list.

use clap::Args;
use serde_json::Value;

use crate::client::{Client, query};
use crate::filters::{filter, filters};
use crate::listing::{self, Row};
use crate::{Outcome, show};

const TABLE: &str =
    "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";
const SIZED_TABLE: &str = "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}";
pub(crate) const TITLES: [(&str, &str); 15] = [
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

// `dhow ps`.
#[derive(Debug, Args)]
pub struct List {
    /// Show those that do not run as well.
    #[arg(short, long)]
    all: bool,
    /// Print ids only.
    #[arg(short, long)]
    quiet: bool,
    /// Show only those that fit (NAME=VALUE).
    #[arg(short, long, value_parser = filter)]
    filter: Vec<String>,
    /// Print ids in full.
    #[arg(long)]
    no_trunc: bool,
    /// Show the last ones created, running or not.
    #[arg(short = 'n', long, value_name = "NUMBER", default_value_t = -1)]
    last: i64,
    /// Show the last one created, running or not.
    #[arg(short, long)]
    latest: bool,
    /// Show how large what they wrote is.
    #[arg(short, long)]
    size: bool,
    /// Print as json, by a template such as '{{.Names}}', or 'table TEMPLATE'.
    #[arg(long)]
    format: Option<String>,
}

pub(crate) async fn list(client: &Client, list: List) -> Outcome {
    let format = list.format.or_else(|| client.setting("psFormat"));
    let format = format.as_deref().unwrap_or_default();
    let limit = if list.latest { 1 } else { list.last };
    let query = query(&[
        ("all", if list.all { "1" } else { "" }.into()),
        (
            "limit",
            if limit > 0 {
                limit.to_string()
            } else {
                String::new()
            },
        ),
        // Sizes cost; a template says whether it wants them.
        (
            "size",
            if list.size || format.contains(".Size") {
                "1"
            } else {
                ""
            }
            .into(),
        ),
        ("filters", filters(&list.filter)),
    ]);
    let containers = client.get(&format!("/containers/json{query}")).await?;
    let containers: Vec<Row> = containers
        .as_array()
        .into_iter()
        .flatten()
        .map(|container| row(container, list.no_trunc))
        .collect();
    if list.quiet {
        show::lines(containers.iter().map(|container| container.text("ID")));
        return Ok(0);
    }
    let format = match format {
        "" | "table" if list.size => SIZED_TABLE,
        "" | "table" => TABLE,
        format => format,
    };
    listing::print(format, &TITLES, &containers)?;
    Ok(0)
}

/// A container of a list, in the fields of Docker's client.
pub(crate) fn row(container: &Value, no_trunc: bool) -> Row {
    let text = |field: &str| show::text(container, field);
    let shortened = |text: &str, length: usize| match text.chars().count() {
        n if n > length && !no_trunc => text.chars().take(length - 1).chain(['…']).collect(),
        _ => text.to_owned(),
    };
    let words = |values: &Value, field: &str| -> Vec<String> {
        let values = values.as_array().into_iter().flatten();
        values
            .map(|value| {
                if field.is_empty() {
                    value
                } else {
                    &value[field]
                }
            })
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect()
    };
    let id = text("Id");
    let names: Vec<String> = words(&container["Names"], "")
        .iter()
        .map(|name| name.trim_start_matches('/').to_owned())
        .collect();
    let mounts: Vec<String> = container["Mounts"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|mount| match show::text(mount, "Name") {
            "" => show::text(mount, "Source"),
            name => name,
        })
        .map(|name| shortened(name, 15))
        .collect();
    let n_local = words(&container["Mounts"], "Driver")
        .iter()
        .filter(|driver| *driver == "local")
        .count();
    let mut networks: Vec<&str> = container["NetworkSettings"]["Networks"]
        .as_object()
        .into_iter()
        .flat_map(|networks| networks.keys().map(String::as_str))
        .collect();
    networks.sort_unstable();
    let created = container["Created"].as_i64().unwrap_or_default();
    let (own, all) = (&container["SizeRw"], &container["SizeRootFs"]);
    let mut size = show::size(own.as_u64().unwrap_or_default());
    if let Some(all) = all.as_u64().filter(|all| *all > 0) {
        size = format!("{size} (virtual {})", show::size(all));
    }
    // A name that is an id is as long as ids are.
    let image = match text("Image") {
        "" => "<no image>",
        image if !no_trunc && image.starts_with("sha256:") => show::short(image),
        image => image,
    };
    let command = format!("\"{}\"", shortened(text("Command"), 20));
    Row::new([
        ("Command", command.into()),
        ("CreatedAt", show::moment(created).into()),
        ("ID", if no_trunc { id } else { show::short(id) }.into()),
        ("Image", image.into()),
        ("LocalVolumes", n_local.to_string().into()),
        ("Mounts", mounts.join(",").into()),
        ("Names", names.join(",").into()),
        ("Networks", networks.join(",").into()),
        ("Platform", Value::Null),
        ("Ports", ports(container).into()),
        ("RunningFor", show::ago(created).into()),
        ("Size", size.into()),
        ("State", text("State").into()),
        ("Status", text("Status").into()),
    ])
    .with_labels(&container["Labels"])
}

/// The ports of a container of a list: ports that follow on each other are a
/// range, as long as they are the same outside.
fn ports(container: &Value) -> String {
    let mut ports: Vec<_> = container["Ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |field: &str| port[field].as_u64().unwrap_or_default();
            let (address, kind) = (show::text(port, "IP"), show::text(port, "Type"));
            (number("PrivatePort"), address, number("PublicPort"), kind)
        })
        .collect();
    ports.sort_unstable();
    let outside = |address: &str, port: &str| {
        if address.contains(':') {
            format!("[{address}]:{port}")
        } else {
            format!("{address}:{port}")
        }
    };
    let range = |(first, last, address, kind): (u64, u64, &str, &str)| {
        let range = match last - first {
            0 => first.to_string(),
            _ => format!("{first}-{last}"),
        };
        match address {
            "" => format!("{range}/{kind}"),
            address => format!("{}->{range}/{kind}", outside(address, &range)),
        }
    };
    let (mut shown, mut moved) = (Vec::new(), Vec::new());
    let mut open: Vec<(u64, u64, &str, &str)> = Vec::new();
    for (inner, address, outer, kind) in ports {
        if !address.is_empty() && outer != inner {
            let outside = outside(address, &outer.to_string());
            moved.push(format!("{outside}->{inner}/{kind}"));
            continue;
        }
        match open
            .iter_mut()
            .find(|(_, _, other, of)| *other == address && *of == kind)
        {
            Some(group) if inner == group.1 + 1 => group.1 = inner,
            Some(group) => {
                shown.push(range(*group));
                *group = (inner, inner, address, kind);
            }
            None => open.push((inner, inner, address, kind)),
        }
    }
    shown.extend(open.into_iter().map(range));
    shown.extend(moved);
    shown.join(", ")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn ports_in_a_row_are_a_range() {
        let port = |inner: u64, outer: u64, address: &str| json!({ "PrivatePort": inner, "PublicPort": outer, "IP": address, "Type": "tcp" });
        for (given, shown) in [
            (json!([{ "PrivatePort": 80, "Type": "tcp" }]), "80/tcp"),
            (json!([port(80, 8080, "0.0.0.0")]), "0.0.0.0:8080->80/tcp"),
            (
                json!([port(80, 80, "0.0.0.0"), port(80, 80, "::")]),
                "0.0.0.0:80->80/tcp, [::]:80->80/tcp",
            ),
            (
                json!([
                    port(81, 81, "0.0.0.0"),
                    port(80, 80, "0.0.0.0"),
                    port(90, 90, "0.0.0.0")
                ]),
                "0.0.0.0:80-81->80-81/tcp, 0.0.0.0:90->90/tcp",
            ),
        ] {
            assert_eq!(ports(&json!({ "Ports": given })), shown);
        }
    }
}
