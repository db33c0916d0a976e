//! The image configuration: OCI's fields and the ones Docker adds.
//!
//! Docker writes `null` where OCI leaves a field out; both are read as empty.
//! Times stay the text they were, so that nothing is lost in between.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use crate::{Digest, Platform};

/// An empty JSON object, the value in Docker's sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// An image configuration; its digest is the image id.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ImageConfig {
    /// Creation time, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// CPU architecture in Go's words (`amd64`).
    #[serde(deserialize_with = "nullable")]
    pub architecture: String,
    /// CPU variant (`v7`).
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub variant: String,
    /// Operating system in Go's words (`linux`).
    #[serde(deserialize_with = "nullable")]
    pub os: String,
    /// Operating system version, for Windows.
    #[serde(
        rename = "os.version",
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub os_version: String,
    /// How a container of this image runs unless told otherwise.
    #[serde(deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// The layers.
    #[serde(deserialize_with = "nullable")]
    pub rootfs: RootFs,
    /// How each layer came to be, bottom first.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// The note of `docker commit --message`, in images that Docker made.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// Version of the Docker that made it.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub docker_version: String,
}

impl ImageConfig {
    /// The platform the image is made for, normalised.
    pub fn platform(&self) -> Platform {
        Platform {
            os: self.os.clone(),
            architecture: self.architecture.clone(),
            variant: self.variant.clone(),
            os_version: self.os_version.clone(),
            os_features: Vec::new(),
        }
        .normalized()
    }
}

/// The layers of an image, by the digests of their plain tars.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Diff ids, bottom first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> RootFs {
        RootFs {
            kind: "layers".to_owned(),
            diff_ids: Vec::new(),
        }
    }
}

/// One step in the making of an image.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which command.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub created_by: String,
    /// By whom.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub author: String,
    /// Free text.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub comment: String,
    /// Whether the step left the file system alone.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub empty_layer: bool,
}

/// How a container runs unless told otherwise.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user`, `uid`, `user:group` or `uid:gid`.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub user: String,
    /// `port/protocol` of the ports it listens on.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`, in order.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is always executed; `None` if never set, which differs from empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// What is executed, or the arguments to the entry point.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that hold data of their own.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub volumes: BTreeMap<String, Empty>,
    /// Where the process starts.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub working_dir: String,
    /// Labels.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "BTreeMap::is_empty"
    )]
    pub labels: BTreeMap<String, String>,
    /// Signal that asks the process to stop.
    #[serde(
        deserialize_with = "nullable",
        skip_serializing_if = "String::is_empty"
    )]
    pub stop_signal: String,
    /// Seconds between the stop signal and the kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How health is probed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Instructions for whoever builds upon the image.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of the shell form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Windows: whether the command is one escaped string.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_false")]
    pub args_escaped: bool,
}

/// How health is probed; durations are nanoseconds, zero means the default.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", command]`; empty inherits.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Between two probes.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// After which a probe counts as failed.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// During which failures do not count.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Between two probes during the start period.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(deserialize_with = "nullable", skip_serializing_if = "is_zero")]
    pub retries: i64,
}

fn nullable<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

fn is_false(value: &bool) -> bool {
    !*value
}

fn is_zero(value: &i64) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    /// Every field with something in it.
    fn full() -> Value {
        json!({
            "architecture": "arm", "variant": "v7", "os": "linux", "os.version": "10",
            "author": "somebody", "created": "2024-05-06T07:08:09.123456789Z",
            "comment": "a note", "docker_version": "28.0.0",
            "config": {
                "Hostname": "host", "Domainname": "domain", "User": "1:2", "AttachStdin": true,
                "Tty": true, "OpenStdin": true, "StdinOnce": true, "Image": "other",
                "Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": ["/init"],
                "ArgsEscaped": true, "WorkingDir": "/work", "StopSignal": "SIGINT",
                "StopTimeout": 5, "Volumes": {"/data": {}}, "OnBuild": ["RUN true"],
                "Labels": {"a": "b"}, "ExposedPorts": {"80/tcp": {}}, "Shell": ["/bin/bash", "-c"],
                "Healthcheck": {
                    "Test": ["CMD-SHELL", "true"], "Interval": 1000000000, "Timeout": 2,
                    "StartPeriod": 3, "StartInterval": 4, "Retries": 3
                }
            },
            "history": [{
                "created": "2024-05-06T07:08:09Z", "created_by": "RUN true", "author": "somebody",
                "comment": "a step", "empty_layer": true
            }],
            "rootfs": {
                "type": "layers",
                "diff_ids": ["sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]
            }
        })
    }

    /// Every place in a document, as a JSON pointer.
    fn places(value: &Value) -> Vec<String> {
        let below: Vec<(String, &Value)> = match value {
            Value::Object(members) => members
                .iter()
                .map(|(name, value)| (name.replace('~', "~0").replace('/', "~1"), value))
                .collect(),
            Value::Array(items) => (0..items.len())
                .map(|index| (index.to_string(), &items[index]))
                .collect(),
            _ => Vec::new(),
        };
        let below = below.into_iter().flat_map(|(name, value)| {
            let places = places(value).into_iter();
            places.map(move |place| format!("/{name}{place}"))
        });
        [String::new()].into_iter().chain(below).collect()
    }

    fn strange() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
            Just(json!([])),
            Just(json!({})),
            Just(json!([null])),
            Just(json!({"": null})),
        ]
    }

    proptest! {
        #[test]
        fn any_bytes_are_parsed_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = serde_json::from_slice::<ImageConfig>(&bytes);
        }

        /// One thing that is not as it should be: refused, or kept as it was read.
        #[test]
        fn strange_values_are_refused_or_kept(
            at in any::<prop::sample::Index>(),
            value in strange(),
        ) {
            let mut document = full();
            let places = places(&document);
            *document.pointer_mut(at.get::<String>(&places)).unwrap() = value;
            if let Ok(image) = serde_json::from_value::<ImageConfig>(document) {
                let again = serde_json::from_slice(&serde_json::to_vec(&image).unwrap());
                prop_assert_eq!(&again.map_err(|error| error.to_string()), &Ok(image.clone()));
                let _ = image.platform().to_string();
            }
        }
    }

    #[test]
    fn reads_what_docker_writes() {
        let text = r#"{
            "architecture": "amd64", "os": "linux", "created": "2024-05-06T07:08:09.123456789Z",
            "config": {
                "Hostname": "", "Env": ["PATH=/bin"], "Cmd": ["sh"], "Entrypoint": null,
                "Volumes": {"/data": {}}, "OnBuild": null, "Labels": null,
                "ExposedPorts": {"80/tcp": {}}, "Shell": ["/bin/bash", "-c"],
                "Healthcheck": {"Test": ["CMD-SHELL", "true"], "Interval": 1000000000, "Retries": 3}
            },
            "container_config": {"Cmd": ["ignored"]},
            "history": [{"created_by": "/bin/sh -c #(nop) CMD", "empty_layer": true}],
            "rootfs": {"type": "layers", "diff_ids": []}
        }"#;
        let image: ImageConfig = serde_json::from_str(text).unwrap();
        assert_eq!(image.config.env, ["PATH=/bin"]);
        assert_eq!(image.config.entrypoint, None);
        assert!(image.config.on_build.is_empty());
        assert_eq!(image.config.healthcheck.as_ref().unwrap().retries, 3);
        assert!(image.history[0].empty_layer);
        assert_eq!(image.platform().to_string(), "linux/amd64");

        let again: ImageConfig =
            serde_json::from_slice(&serde_json::to_vec(&image).unwrap()).unwrap();
        assert_eq!(again, image);
    }

    #[test]
    fn null_config_is_empty() {
        let image: ImageConfig =
            serde_json::from_str(r#"{"architecture":"amd64","os":"linux","config":null,"rootfs":{"type":"layers","diff_ids":null}}"#)
                .unwrap();
        assert_eq!(image.config, ContainerConfig::default());
        assert!(image.rootfs.diff_ids.is_empty());
    }
}
