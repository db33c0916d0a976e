//! Images as the API shows them.

use std::time::{Duration, UNIX_EPOCH};

use dhow_engine::Moment;
use dhow_image::{Image, Listed, User};
use dhow_oci::{ContainerConfig, Reference};
use serde_json::{Value, json};

use crate::Door;
use crate::error::Answer;
use crate::version::Version;

/// The time that Docker shows for "never".
const NEVER: &str = "0001-01-01T00:00:00Z";

fn texts(names: &[Reference]) -> Vec<String> {
    names.iter().map(Reference::familiar).collect()
}

/// An image in lists.
pub(crate) fn summary(
    listed: &Listed,
    version: Version,
    shared_size: i64,
    n_containers: i64,
) -> Value {
    let named = |names: &[Reference], nothing: &str| {
        let mut names = texts(names);
        if names.is_empty() && version.before(43) {
            names.push(nothing.into());
        }
        names
    };
    let mut shown = json!({
        "Id": listed.image.id.to_string(),
        "ParentId": "",
        "RepoTags": named(&listed.names.tags, "<none>:<none>"),
        "RepoDigests": named(&listed.names.digests, "<none>@<none>"),
        "Created": listed.image.created,
        "Size": listed.image.size(),
        "SharedSize": shared_size,
        "Labels": match &listed.image.config.config.labels {
            none if none.is_empty() => Value::Null,
            labels => json!(labels),
        },
        "Containers": n_containers,
    });
    if version.before(44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    shown
}

/// Everything about one image.
pub(super) fn full(door: &Door, image: &Image, version: Version) -> Answer<Value> {
    let names = door.engine.images().names(&image.id);
    let config = &image.config;
    let paths = door.engine.images().layer_paths(image)?;
    let mut paths = paths.iter().map(|path| path.display().to_string());
    let mut data = json!({ "UpperDir": paths.next() });
    let lower: Vec<String> = paths.collect();
    if !lower.is_empty() {
        data["LowerDir"] = json!(lower.join(":"));
    }
    let tagged = match image.tagged {
        0 => NEVER.to_owned(),
        seconds => {
            let since = Duration::from_secs(seconds.try_into().unwrap_or(0));
            Moment::from(UNIX_EPOCH + since).to_string()
        }
    };
    let mut shown = json!({
        "Id": image.id.to_string(),
        "RepoTags": texts(&names.tags),
        "RepoDigests": texts(&names.digests),
        "Config": container_config(&config.config, version),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": image.size(),
        "GraphDriver": { "Name": "overlay2", "Data": data },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": tagged },
    });
    match &config.created {
        Some(created) => shown["Created"] = json!(created),
        None if version.before(44) => shown["Created"] = json!(NEVER),
        None => {}
    }
    let last = config.history.last().map_or("", |step| &step.comment);
    let comment = Some(config.comment.as_str()).filter(|text| !text.is_empty());
    // From 1.52 on, what is empty is left out.
    for (field, text) in [
        ("Parent", ""),
        ("Comment", comment.unwrap_or(last)),
        ("DockerVersion", &config.docker_version),
        ("Author", &config.author),
    ] {
        if version.before(52) || !text.is_empty() {
            shown[field] = json!(text);
        }
    }
    if !config.variant.is_empty() {
        shown["Variant"] = json!(config.variant);
    }
    if version.before(44) {
        shown["VirtualSize"] = shown["Size"].clone();
    }
    if version.before(45) {
        // The container that an image was committed from is not kept.
        shown["Container"] = json!("");
        shown["ContainerConfig"] = shown["Config"].clone();
    }
    if version.since(48) {
        shown["Descriptor"] = json!(image.manifest);
    }
    Ok(shown)
}

/// The part of an image's configuration that containers start from. What is
/// not set was shown as well, before 1.50 even what images do not have.
fn container_config(config: &ContainerConfig, version: Version) -> Value {
    let mut shown = json!({});
    if version.before(50) {
        shown = json!({
            "Hostname": "", "Domainname": "",
            "AttachStdin": false, "AttachStdout": false, "AttachStderr": false,
            "Tty": false, "OpenStdin": false, "StdinOnce": false, "Image": "",
        });
    }
    if version.before(52) {
        for field in ["User", "WorkingDir"] {
            shown[field] = json!("");
        }
        for field in ["Cmd", "Entrypoint", "Env", "Labels", "OnBuild", "Volumes"] {
            shown[field] = Value::Null;
        }
    }
    if let (Value::Object(shown), Ok(Value::Object(set))) =
        (&mut shown, serde_json::to_value(config))
    {
        shown.extend(set);
    }
    shown
}

/// How an image came to be, the last step first.
pub(super) fn history(door: &Door, image: &Image) -> Vec<Value> {
    door.engine
        .images()
        .history(image)
        .iter()
        .map(|entry| {
            let tags = texts(&entry.tags);
            json!({
                "Id": entry.id.as_ref().map_or_else(|| "<missing>".to_owned(), ToString::to_string),
                "Created": entry.created,
                "CreatedBy": entry.created_by,
                "Tags": if tags.is_empty() { Value::Null } else { json!(tags) },
                "Size": entry.size,
                "Comment": entry.comment,
            })
        })
        .collect()
}

/// The manifests of an image: here there is one, for one platform.
pub(super) fn manifests(image: &Image, users: &[User]) -> Value {
    let blobs: u64 = image.layers.iter().map(|layer| layer.blob.size).sum();
    let content = blobs + image.manifest.size;
    let containers: Vec<&str> = users.iter().map(|user| user.container.as_str()).collect();
    json!([{
        "ID": image.manifest.digest.to_string(),
        "Descriptor": image.manifest,
        "Available": true,
        "Size": { "Content": content, "Total": content + image.size() },
        "Kind": "image",
        "ImageData": {
            "Platform": image.config.platform(),
            "Containers": containers,
            "Size": { "Unpacked": image.size() },
        },
    }])
}
