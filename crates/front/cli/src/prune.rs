//! Cleaning up: what nobody uses is removed, kind by kind.

use clap::Args;
use serde_json::Value;

use crate::amounts::bytes;
use crate::client::{Client, query};
use crate::error::Error;
use crate::filters::{filter, filters};
use crate::{Outcome, show, terminal};

// What is removed.
#[derive(Debug, Args)]
pub struct Prune {
    /// Only those that fit (label=NAME[=VALUE], until=TIME).
    #[arg(long, value_name = "FILTER", value_parser = filter)]
    filter: Vec<String>,
    /// Do not ask.
    #[arg(short, long)]
    force: bool,
}

// What is removed where more can be.
#[derive(Debug, Args)]
pub struct PruneAll {
    /// All that nobody uses, not only what nobody can name.
    #[arg(short, long)]
    all: bool,
    #[command(flatten)]
    prune: Prune,
}

// What is removed of what builds keep.
#[derive(Debug, Args)]
pub struct PruneBuilds {
    #[command(flatten)]
    all: PruneAll,
    /// Keep this much of it.
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    keep_storage: Option<i64>,
}

// What is removed of everything.
#[derive(Debug, Args)]
pub struct PruneSystem {
    /// Anonymous volumes that nobody uses as well.
    #[arg(long)]
    volumes: bool,
    #[command(flatten)]
    all: PruneAll,
}

impl Prune {
    /// Whether to go on.
    fn goes_on(&self, what: &str) -> Result<bool, Error> {
        Ok(self.force || terminal::confirm(what)?)
    }
}

/// The kinds that are cleaned up alike.
struct Kind {
    path: &'static str,
    title: &'static str,
    removed: fn(&Value) -> Vec<String>,
}

const CONTAINERS: Kind = Kind {
    path: "/containers/prune",
    title: "Deleted Containers:",
    removed: |pruned| texts(&pruned["ContainersDeleted"]),
};
const NETWORKS: Kind = Kind {
    path: "/networks/prune",
    title: "Deleted Networks:",
    removed: |pruned| texts(&pruned["NetworksDeleted"]),
};
const VOLUMES: Kind = Kind {
    path: "/volumes/prune",
    title: "Deleted Volumes:",
    removed: |pruned| texts(&pruned["VolumesDeleted"]),
};
const BUILDS: Kind = Kind {
    path: "/build/prune",
    title: "Deleted build cache objects:",
    removed: |pruned| texts(&pruned["CachesDeleted"]),
};
const IMAGES: Kind = Kind {
    path: "/images/prune",
    title: "Deleted Images:",
    removed: |pruned| {
        let removed = pruned["ImagesDeleted"].as_array().into_iter().flatten();
        removed
            .map(|one| match one["Untagged"].as_str() {
                Some(name) => format!("untagged: {name}"),
                None => format!("deleted: {}", show::text(one, "Deleted")),
            })
            .collect()
    },
};

impl Kind {
    /// Removes what fits, tells what it was, and returns the bytes it took.
    async fn prune(&self, client: &Client, parameters: &[(&str, String)]) -> Result<u64, Error> {
        let path = format!("{}{}", self.path, query(parameters));
        let pruned = client.post(&path, None).await?;
        let removed = (self.removed)(&pruned);
        if !removed.is_empty() {
            show::line(self.title);
            show::lines(&removed);
            show::line("");
        }
        Ok(pruned["SpaceReclaimed"].as_u64().unwrap_or_default())
    }
}

fn texts(list: &Value) -> Vec<String> {
    let items = list.as_array().into_iter().flatten();
    items
        .filter_map(|item| item.as_str().map(str::to_owned))
        .collect()
}

fn reclaimed(bytes: u64) {
    show::line(format_args!(
        "Total reclaimed space: {}",
        show::fine_size(bytes)
    ));
}

/// Filters, and one more.
fn with(texts: &[String], more: String) -> String {
    filters(&[texts, &[more]].concat())
}

pub(crate) async fn containers(client: &Client, prune: Prune) -> Outcome {
    if prune.goes_on("This will remove all stopped containers.")? {
        let filters = filters(&prune.filter);
        reclaimed(CONTAINERS.prune(client, &[("filters", filters)]).await?);
    }
    Ok(0)
}

pub(crate) async fn networks(client: &Client, prune: Prune) -> Outcome {
    let what = "This will remove all custom networks not used by at least one container.";
    if prune.goes_on(what)? {
        let filters = filters(&prune.filter);
        NETWORKS.prune(client, &[("filters", filters)]).await?;
    }
    Ok(0)
}

pub(crate) async fn volumes(client: &Client, PruneAll { all, prune }: PruneAll) -> Outcome {
    if all && prune.filter.iter().any(|text| text.starts_with("all=")) {
        return Err(Error::Usage(
            "conflicting options: cannot specify both --all and --filter all=1".into(),
        ));
    }
    let what = if all {
        "This will remove all local volumes not used by at least one container."
    } else {
        "This will remove anonymous local volumes not used by at least one container."
    };
    if prune.goes_on(what)? {
        let filters = if all {
            with(&prune.filter, "all=true".into())
        } else {
            filters(&prune.filter)
        };
        reclaimed(VOLUMES.prune(client, &[("filters", filters)]).await?);
    }
    Ok(0)
}

pub(crate) async fn images(client: &Client, PruneAll { all, prune }: PruneAll) -> Outcome {
    let what = if all {
        "This will remove all images without at least one container associated to them."
    } else {
        "This will remove all dangling images."
    };
    if prune.goes_on(what)? {
        let filters = with(&prune.filter, format!("dangling={}", !all));
        reclaimed(IMAGES.prune(client, &[("filters", filters)]).await?);
    }
    Ok(0)
}

pub(crate) async fn builds(client: &Client, builds: PruneBuilds) -> Outcome {
    let PruneAll { all, prune } = builds.all;
    let what = if all {
        "This will remove all build cache."
    } else {
        "This will remove all dangling build cache."
    };
    if prune.goes_on(what)? {
        let keep = builds.keep_storage.filter(|bytes| *bytes > 0);
        let parameters = [
            ("all", if all { "1" } else { "" }.to_owned()),
            ("filters", filters(&prune.filter)),
            (
                "keep-storage",
                keep.map_or_else(String::new, |bytes| bytes.to_string()),
            ),
        ];
        reclaimed(BUILDS.prune(client, &parameters).await?);
    }
    Ok(0)
}

pub(crate) async fn system(client: &Client, system: PruneSystem) -> Outcome {
    let PruneAll { all, prune } = system.all;
    if system.volumes && prune.filter.iter().any(|text| text.starts_with("until=")) {
        return Err(Error::Usage(
            "ERROR: The \"until\" filter is not supported with \"--volumes\"".into(),
        ));
    }
    let mut what = String::from(
        "This will remove:\n  - all stopped containers\n  - all networks not used by at least one container\n",
    );
    if system.volumes {
        what.push_str("  - all anonymous volumes not used by at least one container\n");
    }
    what.push_str(if all {
        "  - all images without at least one container associated to them\n  - all build cache\n"
    } else {
        "  - all dangling images\n  - unused build cache\n"
    });
    if !prune.filter.is_empty() {
        what.push_str("\n  Items to be pruned will be filtered with:\n");
        for text in &prune.filter {
            what.push_str(&format!("  - {text}\n"));
        }
    }
    if !prune.goes_on(&what)? {
        return Ok(0);
    }
    let plain = [("filters", filters(&prune.filter))];
    let of_images = with(&prune.filter, format!("dangling={}", !all));
    let of_builds = [
        ("all", if all { "1" } else { "" }.to_owned()),
        ("filters", filters(&prune.filter)),
    ];
    let mut bytes = CONTAINERS.prune(client, &plain).await?;
    bytes += NETWORKS.prune(client, &plain).await?;
    if system.volumes {
        bytes += VOLUMES.prune(client, &plain).await?;
    }
    bytes += IMAGES.prune(client, &[("filters", of_images)]).await?;
    // Nothing that builds keep has a label: none of it fits.
    if !prune.filter.iter().any(|text| text.starts_with("label")) {
        bytes += BUILDS.prune(client, &of_builds).await?;
    }
    reclaimed(bytes);
    Ok(0)
}
