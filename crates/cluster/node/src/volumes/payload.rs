//! What files are in a volume that is filled from the API.

use std::collections::BTreeMap;
use std::time::SystemTime;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{
    ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, ProjectedVolumeSource, Secret, Volume,
};
use kube::ResourceExt;

use super::objects::Subscription;
use super::tokens::Wish;
use super::writer::{File, Payload, check};
use super::{Tools, fs_group, full};
use crate::env;

/// Mode of files without a wish.
const DEFAULT_MODE: i32 = 0o644;
/// How long tokens live without a wish, in seconds.
const TOKEN_SECONDS: i64 = 3600;
/// Bytes of all files of a volume.
const LARGEST: usize = 32 << 20;

/// Where the contents of volumes come from.
pub(super) struct Sources<'t, 's> {
    pub(super) tools: &'t Tools<'t>,
    pub(super) subscriptions: &'s mut Vec<Subscription>,
    /// When the first of the tokens should be renewed.
    pub(super) refresh: Option<SystemTime>,
    /// What is not as it was wished.
    pub(super) notes: Vec<String>,
}

/// How files of a source are chosen and written.
#[derive(Debug, Clone, Copy)]
struct Layout<'a> {
    items: Option<&'a [KeyToPath]>,
    mode: i32,
    /// Kind in the words of errors.
    kind: &'a str,
    is_optional: bool,
}

impl Sources<'_, '_> {
    /// The kind of a volume in paths, and its files.
    pub(super) async fn of_volume(
        &mut self,
        volume: &Volume,
    ) -> Result<(&'static str, Payload), String> {
        let mut payload = Payload::new();
        let kind = if let Some(source) = &volume.config_map {
            let layout = Layout {
                items: source.items.as_deref(),
                mode: source.default_mode.unwrap_or(DEFAULT_MODE),
                kind: "config",
                is_optional: source.optional == Some(true),
            };
            self.config_map(&source.name, layout, &mut payload).await?;
            "configmap"
        } else if let Some(source) = &volume.secret {
            let layout = Layout {
                items: source.items.as_deref(),
                mode: source.default_mode.unwrap_or(DEFAULT_MODE),
                kind: "secret",
                is_optional: source.optional == Some(true),
            };
            let name = source.secret_name.as_deref().unwrap_or_default();
            self.secret(name, layout, &mut payload).await?;
            "secret"
        } else if let Some(source) = &volume.downward_api {
            let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
            let items = source.items.as_deref().unwrap_or_default();
            self.downward(items, mode, &mut payload)?;
            "downward-api"
        } else if let Some(source) = &volume.projected {
            self.projected(source, &mut payload).await?;
            "projected"
        } else {
            return Err(unsupported(volume));
        };
        let size: usize = payload.values().map(|file| file.bytes.len()).sum();
        if size > LARGEST {
            return Err(format!("its {size} bytes are more than {LARGEST}"));
        }
        Ok((kind, payload))
    }

    async fn projected(
        &mut self,
        source: &ProjectedVolumeSource,
        payload: &mut Payload,
    ) -> Result<(), String> {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for projection in source.sources.iter().flatten() {
            if let Some(part) = &projection.config_map {
                let layout = Layout {
                    items: part.items.as_deref(),
                    mode,
                    kind: "config",
                    is_optional: part.optional == Some(true),
                };
                self.config_map(&part.name, layout, payload).await?;
            } else if let Some(part) = &projection.secret {
                let layout = Layout {
                    items: part.items.as_deref(),
                    mode,
                    kind: "secret",
                    is_optional: part.optional == Some(true),
                };
                self.secret(&part.name, layout, payload).await?;
            } else if let Some(part) = &projection.downward_api {
                self.downward(part.items.as_deref().unwrap_or_default(), mode, payload)?;
            } else if let Some(part) = &projection.service_account_token {
                let wish = Wish {
                    audience: part.audience.clone().unwrap_or_default(),
                    seconds: part.expiration_seconds.unwrap_or(TOKEN_SECONDS),
                };
                let pod = self.tools.place.pod;
                let token = self.tools.tokens.get(pod, &wish).await?;
                self.refresh = Some(self.refresh.map_or(token.renew, |at| at.min(token.renew)));
                let (mode, user) = token_owner(pod, mode);
                put(payload, &part.path, token.text.into_bytes(), mode, user)?;
            } else {
                return Err("a projected source is not supported on this node".to_owned());
            }
        }
        Ok(())
    }

    async fn config_map(
        &mut self,
        name: &str,
        layout: Layout<'_>,
        payload: &mut Payload,
    ) -> Result<(), String> {
        let namespace = self.tools.place.pod.namespace().unwrap_or_default();
        let objects = self.tools.objects;
        let found = objects
            .config_map(self.subscriptions, &namespace, name)
            .await;
        match found {
            Some(map) => choose(&of_map(&map), layout, payload),
            None if layout.is_optional => Ok(()),
            None => Err(format!("configmap \"{name}\" not found")),
        }
    }

    async fn secret(
        &mut self,
        name: &str,
        layout: Layout<'_>,
        payload: &mut Payload,
    ) -> Result<(), String> {
        let namespace = self.tools.place.pod.namespace().unwrap_or_default();
        let objects = self.tools.objects;
        match objects.secret(self.subscriptions, &namespace, name).await {
            Some(secret) => choose(&of_secret(&secret), layout, payload),
            None if layout.is_optional => Ok(()),
            None => Err(format!("secret \"{name}\" not found")),
        }
    }

    fn downward(
        &self,
        items: &[DownwardAPIVolumeFile],
        mode: i32,
        payload: &mut Payload,
    ) -> Result<(), String> {
        let place = &self.tools.place;
        for item in items {
            let text = if let Some(reference) = &item.field_ref {
                env::field(place, &reference.field_path)
            } else if let Some(reference) = &item.resource_field_ref {
                let name = reference.container_name.as_deref().unwrap_or_default();
                let spec = place.pod.spec.as_ref();
                let containers = spec.iter().flat_map(|spec| {
                    let inits = spec.init_containers.iter().flatten();
                    spec.containers.iter().chain(inits)
                });
                let mut containers = containers.filter(|container| container.name == name);
                let container = containers.next();
                let container = container.ok_or_else(|| format!("container {name} not found"))?;
                env::resource(place, container, reference)
            } else {
                continue;
            };
            let text = text.map_err(|error| full(&error))?;
            let mode = item.mode.unwrap_or(mode);
            put(payload, &item.path, text.into_bytes(), mode, None)?;
        }
        Ok(())
    }
}

type Data<'a> = BTreeMap<&'a str, &'a [u8]>;

fn of_map(map: &ConfigMap) -> Data<'_> {
    let texts = map.data.iter().flatten();
    let texts = texts.map(|(key, text)| (key.as_str(), text.as_bytes()));
    texts.chain(binary(map.binary_data.as_ref())).collect()
}

fn of_secret(secret: &Secret) -> Data<'_> {
    binary(secret.data.as_ref()).collect()
}

fn binary(data: Option<&BTreeMap<String, ByteString>>) -> impl Iterator<Item = (&str, &[u8])> {
    let data = data.into_iter().flatten();
    data.map(|(key, bytes)| (key.as_str(), bytes.0.as_slice()))
}

/// All keys, or those that are asked for under other names.
fn choose(data: &Data<'_>, layout: Layout<'_>, payload: &mut Payload) -> Result<(), String> {
    let Some(items) = layout.items.filter(|items| !items.is_empty()) else {
        for (key, bytes) in data {
            put(payload, key, bytes.to_vec(), layout.mode, None)?;
        }
        return Ok(());
    };
    for item in items {
        match data.get(item.key.as_str()) {
            Some(bytes) => {
                let mode = item.mode.unwrap_or(layout.mode);
                put(payload, &item.path, bytes.to_vec(), mode, None)?;
            }
            None if layout.is_optional => {}
            None => {
                return Err(format!(
                    "references non-existent {} key: {}",
                    layout.kind, item.key
                ));
            }
        }
    }
    Ok(())
}

fn put(
    payload: &mut Payload,
    path: &str,
    bytes: Vec<u8>,
    mode: i32,
    user: Option<u32>,
) -> Result<(), String> {
    check(path)?;
    let mode = mode.cast_unsigned() & 0o777;
    payload.insert(path.to_owned(), File { bytes, mode, user });
    Ok(())
}

/// Mode and owner of a token's file: nobody but the pod's user reads it, if
/// the pod has one user.
fn token_owner(pod: &Pod, mode: i32) -> (i32, Option<u32>) {
    if fs_group(pod).is_some() {
        return (0o600, None);
    }
    let Some(spec) = &pod.spec else {
        return (mode, None);
    };
    let of_pod = spec.security_context.as_ref();
    let of_pod = of_pod.and_then(|context| context.run_as_user);
    let inits = spec.init_containers.iter().flatten();
    let mut users = spec.containers.iter().chain(inits).map(|container| {
        let own = container.security_context.as_ref();
        own.and_then(|context| context.run_as_user).or(of_pod)
    });
    let first = users.next().flatten();
    if users.all(|user| user == first)
        && let Some(user) = first.and_then(|user| u32::try_from(user).ok())
    {
        return (0o600, Some(user));
    }
    (mode, None)
}

fn unsupported(volume: &Volume) -> String {
    let kind = if volume.persistent_volume_claim.is_some() {
        "persistentVolumeClaim"
    } else if volume.ephemeral.is_some() {
        "ephemeral"
    } else if volume.csi.is_some() {
        "csi"
    } else if volume.nfs.is_some() {
        "nfs"
    } else if volume.image.is_some() {
        "image"
    } else {
        "this kind"
    };
    format!("volumes of {kind} are not supported on this node")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keys_are_chosen_and_named() {
        let data = Data::from([("a", b"1".as_slice()), ("b", b"2")]);
        let layout = |items: Option<&'static [KeyToPath]>, is_optional| Layout {
            items,
            mode: 0o644,
            kind: "config",
            is_optional,
        };
        let mut all = Payload::new();
        choose(&data, layout(None, false), &mut all).expect("chosen");
        assert_eq!(all.len(), 2);
        let items = |items: serde_json::Value| -> &'static [KeyToPath] {
            let items: Vec<KeyToPath> = serde_json::from_value(items).expect("items");
            items.leak()
        };
        let mut some = Payload::new();
        let renamed = items(json!([{"key": "a", "path": "x/y", "mode": 256}]));
        choose(&data, layout(Some(renamed), false), &mut some).expect("chosen");
        assert_eq!(some["x/y"].mode, 0o400);
        let absent = items(json!([{"key": "z", "path": "z"}]));
        let error = choose(&data, layout(Some(absent), false), &mut some);
        assert_eq!(
            error,
            Err("references non-existent config key: z".to_owned())
        );
        assert_eq!(choose(&data, layout(Some(absent), true), &mut some), Ok(()));
        let outside = items(json!([{"key": "a", "path": "../z"}]));
        assert!(choose(&data, layout(Some(outside), false), &mut some).is_err());
    }

    #[test]
    fn tokens_are_for_the_pods_user() {
        let pod = |spec: serde_json::Value| {
            serde_json::from_value(json!({"metadata": {}, "spec": spec})).expect("a pod")
        };
        let two = |one: i64, other: i64| {
            pod(json!({"containers": [
                {"name": "a", "securityContext": {"runAsUser": one}},
                {"name": "b", "securityContext": {"runAsUser": other}}]}))
        };
        assert_eq!(token_owner(&two(7, 7), 0o644), (0o600, Some(7)));
        assert_eq!(token_owner(&two(7, 8), 0o644), (0o644, None));
        let grouped = json!({"containers": [], "securityContext": {"fsGroup": 5}});
        assert_eq!(token_owner(&pod(grouped), 0o644), (0o600, None));
    }
}
