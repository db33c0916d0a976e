//! `GET /system/df`: what the disk is used for.

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::response::IntoResponse;
use dhow_engine::Moment;
use serde_json::{Value, json};

use crate::containers::{Listing, blocking};
use crate::error::{Answer, Failure};
use crate::filters::is_true;
use crate::images::query_values;
use crate::version::Version;
use crate::{Door, images, volumes};

const KINDS: [&str; 4] = ["container", "image", "volume", "build-cache"];

pub(crate) async fn disk_usage(
    State(door): State<Door>,
    version: Version,
    RawQuery(query): RawQuery,
) -> Answer {
    let query = query.unwrap_or_default();
    let mut kinds = if version.since(42) {
        query_values(&query, "type")
    } else {
        Vec::new()
    };
    if let Some(other) = kinds.iter().find(|kind| !KINDS.contains(&kind.as_str())) {
        return Err(Failure::bad(format!(
            "unknown object type: {other}: use {}",
            KINDS.join(", ")
        )));
    }
    if kinds.is_empty() {
        kinds = KINDS.map(str::to_owned).to_vec();
    }
    // Who asks for the details knows the new fields. Others get both, so that
    // a client that takes the newest version finds what it always found.
    let verbose = version.since(52) && is_true(query_values(&query, "verbose").last());
    let shown = blocking(move || {
        let mut shown = json!({});
        for kind in kinds {
            let usage = match kind.as_str() {
                "image" => of_images(&door, version),
                "container" => of_containers(&door, version),
                "volume" => of_volumes(&door),
                _ => of_builds(&door, version),
            };
            if !verbose {
                if kind == "image" {
                    shown["LayersSize"] = json!(usage.total_size);
                }
                if kind == "build-cache" && version.before(42) {
                    shown["BuilderSize"] = json!(usage.total_size);
                }
                shown[usage.legacy] = Value::Array(usage.items.clone());
            }
            if version.since(52) {
                let field = usage.field;
                shown[field] = usage.view(verbose);
            }
        }
        shown
    })
    .await?;
    Ok(Json(shown).into_response())
}

/// What one kind of things uses.
struct Usage {
    /// The field it is shown in, and the one before version 1.52.
    field: &'static str,
    legacy: &'static str,
    items: Vec<Value>,
    n_active: usize,
    /// Bytes.
    total_size: u64,
    /// Bytes that removing what is not active gives back.
    reclaimable: u64,
}

impl Usage {
    fn view(self, verbose: bool) -> Value {
        let mut shown = json!({
            "ActiveCount": self.n_active,
            "TotalCount": self.items.len(),
            "TotalSize": self.total_size,
            "Reclaimable": self.reclaimable,
        });
        if verbose {
            shown["Items"] = Value::Array(self.items);
        }
        shown
    }
}

fn of_images(door: &Door, version: Version) -> Usage {
    let total_size = door.engine.images().disk_usage().layers;
    let (mut n_active, mut used) = (0, 0);
    let items = door
        .engine
        .images()
        .list()
        .iter()
        .map(|listed| {
            let n_users = door.engine.image_users(&listed.image.id).len();
            if n_users > 0 {
                n_active += 1;
                // Layers that others have as well would stay in any case.
                used += listed.image.size().saturating_sub(listed.shared_size);
            }
            let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
            images::summary(
                listed,
                version,
                count(listed.shared_size),
                count(n_users as u64),
            )
        })
        .collect();
    Usage {
        field: "ImageUsage",
        legacy: "Images",
        items,
        n_active,
        total_size,
        reclaimable: total_size.saturating_sub(used),
    }
}

fn of_containers(door: &Door, version: Version) -> Usage {
    let (mut n_active, mut total_size, mut reclaimable) = (0, 0, 0);
    let mut listing = Listing::new(door, version);
    let items = door
        .engine
        .list()
        .iter()
        .map(|record| {
            let shown = json!(listing.entry(record, true));
            let size = shown["SizeRw"].as_u64().unwrap_or_default();
            total_size += size;
            if record.state.status.is_alive() {
                n_active += 1;
            } else {
                reclaimable += size;
            }
            shown
        })
        .collect();
    Usage {
        field: "ContainerUsage",
        legacy: "Containers",
        items,
        n_active,
        total_size,
        reclaimable,
    }
}

fn of_volumes(door: &Door) -> Usage {
    let (mut n_active, mut total_size, mut reclaimable) = (0, 0, 0);
    let items = door
        .engine
        .volumes()
        .iter()
        .map(|volume| {
            let size = volumes::size_below(&door.engine.volume_path(&volume.name));
            let n_users = door.engine.volume_users(&volume.name).len();
            total_size += size;
            if n_users > 0 {
                n_active += 1;
            } else {
                reclaimable += size;
            }
            let mut shown = volumes::view(door, volume);
            shown["UsageData"] = json!({ "Size": size, "RefCount": n_users });
            shown
        })
        .collect();
    Usage {
        field: "VolumeUsage",
        legacy: "Volumes",
        items,
        n_active,
        total_size,
        reclaimable,
    }
}

/// Each remembered step of a build is a record; its layer counts where no image
/// has it.
fn of_builds(door: &Door, version: Version) -> Usage {
    let store = door.engine.images();
    let in_images: std::collections::HashSet<_> = store
        .list()
        .iter()
        .flat_map(|listed| &listed.image.layers)
        .map(|layer| layer.chain_id.clone())
        .collect();
    let moment = |seconds: i64| {
        let since = std::time::Duration::from_secs(seconds.try_into().unwrap_or(0));
        Moment::from(std::time::UNIX_EPOCH + since).to_string()
    };
    let mut steps: Vec<_> = store.steps().into_iter().collect();
    steps.sort_by(|(a, one), (b, other)| (one.created, a).cmp(&(other.created, b)));
    let items: Vec<Value> = steps
        .iter()
        .map(|(key, step)| {
            let layer = step.layer.as_ref();
            let mut shown = json!({
                "ID": key.hex(),
                "Type": "regular",
                "Description": step.note,
                "InUse": false,
                "Shared": layer.is_some_and(|layer| in_images.contains(&layer.chain_id)),
                "Size": layer.map_or(0, |layer| layer.size),
                "CreatedAt": moment(step.created),
                "LastUsedAt": moment(step.used),
            });
            if version.before(42) {
                shown["Parent"] = json!("");
            }
            shown
        })
        .collect();
    let total_size = store.disk_usage().build_cache;
    Usage {
        field: "BuildCacheUsage",
        legacy: "BuildCache",
        items,
        n_active: 0,
        total_size,
        reclaimable: total_size,
    }
}
