//! `system df`: what the disk is used for.

use clap::Args;
use serde_json::Value;

use crate::client::Client;
use crate::error::Error;
use crate::listing::{self, Row, Titles};
use crate::{Outcome, ps, show, volumes as volume_lists};

const TITLES: [(&str, &str); 5] = [
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

// `dhow system df`.
#[derive(Debug, Args)]
pub struct DiskUsage {
    /// Show each image, container, volume and build step.
    #[arg(short, long)]
    verbose: bool,
    /// Print as json, by a template such as '{{.Size}}', or 'table TEMPLATE'.
    #[arg(long)]
    format: Option<String>,
}

/// What one kind of things uses.
#[derive(Default)]
struct Usage {
    n_all: usize,
    n_active: usize,
    size: u64,
    reclaimable: u64,
}

pub(crate) async fn disk_usage(client: &Client, options: DiskUsage) -> Outcome {
    let usage = client.get("/system/df").await?;
    if options.verbose {
        details(&usage, options.format.as_deref())?;
        return Ok(0);
    }
    let rows = [
        ("Images", images(&usage)),
        ("Containers", containers(&usage)),
        ("Local Volumes", volumes(&usage)),
        ("Build Cache", build_cache(&usage)),
    ]
    .map(|(kind, usage)| {
        let mut reclaimable = show::fine_size(usage.reclaimable);
        // Of what builds keep, all can be had back.
        if usage.size > 0 && kind != "Build Cache" {
            let share = usage.reclaimable * 100 / usage.size;
            reclaimable = format!("{reclaimable} ({share}%)");
        }
        Row::new([
            ("Active", usage.n_active.to_string().into()),
            ("Reclaimable", reclaimable.into()),
            ("Size", show::fine_size(usage.size).into()),
            ("TotalCount", usage.n_all.to_string().into()),
            ("Type", kind.into()),
        ])
    });
    let format = match options.format.as_deref().unwrap_or("table") {
        "table" => "table {{.Type}}\\t{{.TotalCount}}\\t{{.Active}}\\t{{.Size}}\\t{{.Reclaimable}}",
        format => format,
    };
    listing::print(format, &TITLES, &rows)?;
    Ok(0)
}

fn items<'u>(usage: &'u Value, field: &str) -> impl Iterator<Item = &'u Value> {
    usage[field].as_array().into_iter().flatten()
}

fn number(value: &Value, field: &str) -> u64 {
    value[field].as_u64().unwrap_or_default()
}

fn images(usage: &Value) -> Usage {
    let size = number(usage, "LayersSize");
    let mut found = Usage {
        size,
        ..Usage::default()
    };
    let mut used = 0;
    for image in items(usage, "Images") {
        found.n_all += 1;
        if number(image, "Containers") > 0 {
            found.n_active += 1;
            used += number(image, "Size").saturating_sub(number(image, "SharedSize"));
        }
    }
    found.reclaimable = size.saturating_sub(used);
    found
}

fn containers(usage: &Value) -> Usage {
    let mut found = Usage::default();
    for container in items(usage, "Containers") {
        let size = number(container, "SizeRw");
        found.n_all += 1;
        found.size += size;
        match show::text(container, "State") {
            "running" | "paused" | "restarting" => found.n_active += 1,
            _ => found.reclaimable += size,
        }
    }
    found
}

fn volumes(usage: &Value) -> Usage {
    let mut found = Usage::default();
    for volume in items(usage, "Volumes") {
        let size = number(&volume["UsageData"], "Size");
        found.n_all += 1;
        found.size += size;
        if number(&volume["UsageData"], "RefCount") > 0 {
            found.n_active += 1;
        } else {
            found.reclaimable += size;
        }
    }
    found
}

fn build_cache(usage: &Value) -> Usage {
    let mut found = Usage::default();
    for record in items(usage, "BuildCache") {
        let is = |field: &str| record[field].as_bool().unwrap_or_default();
        found.n_all += 1;
        if is("InUse") {
            found.n_active += 1;
        }
        // What an image has as well is counted there.
        if !is("Shared") {
            found.size += number(record, "Size");
            if !is("InUse") {
                found.reclaimable += number(record, "Size");
            }
        }
    }
    found
}

/// Each thing, kind by kind.
fn details(usage: &Value, format: Option<&str>) -> Result<(), Error> {
    match format {
        None | Some("table") => {}
        Some("json") => {
            show::line(usage);
            return Ok(());
        }
        Some(format) => return show::inspected(format, vec![usage.clone()]),
    }
    let rows: Vec<Row> = items(usage, "Images").flat_map(image_rows).collect();
    section(
        "Images space usage:",
        "{{.Repository}}\\t{{.Tag}}\\t{{.ID}}\\t{{.CreatedSince}}\\t{{.Size}}\\t{{.SharedSize}}\\t{{.UniqueSize}}\\t{{.Containers}}",
        &[
            ("Repository", "REPOSITORY"),
            ("Tag", "TAG"),
            ("ID", "IMAGE ID"),
            ("CreatedSince", "CREATED"),
            ("Size", "SIZE"),
            ("SharedSize", "SHARED SIZE"),
            ("UniqueSize", "UNIQUE SIZE"),
            ("Containers", "CONTAINERS"),
        ],
        &rows,
    )?;
    let rows: Vec<Row> = items(usage, "Containers")
        .map(|container| ps::row(container, false))
        .collect();
    section(
        "Containers space usage:",
        "{{.ID}}\\t{{.Image}}\\t{{.Command}}\\t{{.LocalVolumes}}\\t{{.Size}}\\t{{.RunningFor}}\\t{{.Status}}\\t{{.Names}}",
        &ps::TITLES,
        &rows,
    )?;
    let rows: Vec<Row> = items(usage, "Volumes").map(volume_lists::row).collect();
    section(
        "Local Volumes space usage:",
        "{{.Name}}\\t{{.Links}}\\t{{.Size}}",
        &[
            ("Name", "VOLUME NAME"),
            ("Links", "LINKS"),
            ("Size", "SIZE"),
        ],
        &rows,
    )?;
    let rows: Vec<Row> = items(usage, "BuildCache").map(record_row).collect();
    let title = format!(
        "Build cache usage: {}",
        show::fine_size(build_cache(usage).size)
    );
    section(
        &title,
        "{{.ID}}\\t{{.CacheType}}\\t{{.Size}}\\t{{.CreatedSince}}\\t{{.LastUsedSince}}\\t{{.Shared}}\\t{{.Description}}",
        &[
            ("ID", "CACHE ID"),
            ("CacheType", "CACHE TYPE"),
            ("Size", "SIZE"),
            ("CreatedSince", "CREATED"),
            ("LastUsedSince", "LAST USED"),
            ("Shared", "SHARED"),
            ("Description", "DESCRIPTION"),
        ],
        &rows,
    )
}

fn section(title: &str, columns: &str, titles: Titles<'_>, rows: &[Row]) -> Result<(), Error> {
    show::line(title);
    show::line("");
    listing::print(&format!("table {columns}"), titles, rows)?;
    show::line("");
    Ok(())
}

/// An image has a row for each of its names.
fn image_rows(image: &Value) -> Vec<Row> {
    let mut names: Vec<&str> = items(image, "RepoTags").filter_map(Value::as_str).collect();
    if names.is_empty() {
        names.push("<none>:<none>");
    }
    let (size, shared) = (number(image, "Size"), number(image, "SharedSize"));
    let created = image["Created"].as_i64().unwrap_or_default();
    let row = |name: &str| {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "<none>"));
        Row::new([
            ("Repository", repository.into()),
            ("Tag", tag.into()),
            ("ID", show::short(show::text(image, "Id")).into()),
            ("CreatedSince", show::ago(created).into()),
            ("Size", show::size(size).into()),
            ("SharedSize", show::size(shared).into()),
            ("UniqueSize", show::size(size.saturating_sub(shared)).into()),
            ("Containers", image["Containers"].to_string().into()),
        ])
    };
    names.into_iter().map(row).collect()
}

fn record_row(record: &Value) -> Row {
    let ago = |field: &str| {
        let moment = show::text(record, field).parse::<jiff::Timestamp>();
        moment.map_or_else(|_| String::new(), |moment| show::ago(moment.as_second()))
    };
    let description: String = show::text(record, "Description").chars().take(60).collect();
    Row::new([
        ("ID", show::short(show::text(record, "ID")).into()),
        ("CacheType", record["Type"].clone()),
        ("Size", show::size(number(record, "Size")).into()),
        ("CreatedSince", ago("CreatedAt").into()),
        ("LastUsedSince", ago("LastUsedAt").into()),
        (
            "Shared",
            record["Shared"]
                .as_bool()
                .unwrap_or_default()
                .to_string()
                .into(),
        ),
        ("Description", description.into()),
    ])
}
