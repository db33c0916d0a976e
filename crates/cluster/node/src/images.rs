//! Images of containers: whether to pull, with whose name, how many at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Secret};
use kube::{Api, Client, ResourceExt};
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::events::{Events, Tone};
use crate::runtime::{Credentials, Image, PodRuntime, RuntimeError};

/// Images pulled at a time.
const AT_ONCE: usize = 4;

/// Pulls images.
pub(crate) struct Images {
    runtime: Arc<dyn PodRuntime>,
    client: Client,
    events: Events,
    turns: Semaphore,
}

/// Why a container has no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ImageError {
    /// It is not to be pulled and not there.
    #[error("Container image \"{0}\" is not present with pull policy of Never")]
    Never(String),
    /// Its name makes no sense.
    #[error("{0}")]
    Name(String),
    /// It cannot be pulled.
    #[error("{0}")]
    Pull(String),
}

impl ImageError {
    /// The reason in a container's status.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Never(_) => "ErrImageNeverPull",
            Self::Name(_) => "InvalidImageName",
            Self::Pull(_) => "ErrImagePull",
        }
    }
}

impl Images {
    pub(crate) fn new(runtime: Arc<dyn PodRuntime>, client: Client, events: Events) -> Self {
        Self {
            runtime,
            client,
            events,
            turns: Semaphore::new(AT_ONCE),
        }
    }

    /// The image of a container, pulled if its policy says so.
    pub(crate) async fn get(&self, pod: &Pod, spec: &Spec) -> Result<Image, ImageError> {
        let name = spec.image.as_deref().unwrap_or_default();
        let policy = spec.image_pull_policy.as_deref().unwrap_or("IfNotPresent");
        if policy != "Always" {
            let found = self.runtime.image(name).await;
            let found = found.map_err(|error| failure(name, error))?;
            if let Some(image) = found {
                let message = format!("Container image \"{name}\" already present on machine");
                self.events
                    .container(pod, &spec.name, Tone::Normal, "Pulled", message);
                return Ok(image);
            }
            if policy == "Never" {
                return Err(ImageError::Never(name.to_owned()));
            }
        }
        let asked = Instant::now();
        let _turn = self.turns.acquire().await;
        let began = Instant::now();
        let message = format!("Pulling image \"{name}\"");
        self.events
            .container(pod, &spec.name, Tone::Normal, "Pulling", message);
        let image = self.pull(pod, name).await?;
        let message = format!(
            "Successfully pulled image \"{name}\" in {} ({} including waiting). Image size: {} bytes.",
            milliseconds(began.elapsed()),
            milliseconds(asked.elapsed()),
            image.size
        );
        self.events
            .container(pod, &spec.name, Tone::Normal, "Pulled", message);
        Ok(image)
    }

    async fn pull(&self, pod: &Pod, name: &str) -> Result<Image, ImageError> {
        let candidates = self.credentials(pod, name).await;
        let mut last = None;
        for credentials in candidates.into_iter().map(Some).chain([None]) {
            match self.runtime.pull_image(name, credentials).await {
                Ok(image) => return Ok(image),
                Err(error @ RuntimeError::Invalid(_)) => return Err(failure(name, error)),
                // What was said with a name tells more than what is said without.
                Err(error) => last = last.or(Some(error)),
            }
        }
        let error = last.unwrap_or_else(|| RuntimeError::Failed("no answer".to_owned()));
        Err(failure(name, error))
    }

    /// Credentials of the pod's secrets that are meant for the image's registry.
    async fn credentials(&self, pod: &Pod, image: &str) -> Vec<Credentials> {
        let namespace = pod.namespace().unwrap_or_default();
        let secrets: Api<Secret> = Api::namespaced(self.client.clone(), &namespace);
        let names = pod.spec.iter();
        let names = names.flat_map(|spec| spec.image_pull_secrets.iter().flatten());
        let mut found = Vec::new();
        for reference in names {
            match secrets.get_opt(&reference.name).await {
                Ok(Some(secret)) => found.extend(of_secret(&secret, image)),
                Ok(None) => {
                    let message = format!(
                        "Unable to retrieve some image pull secrets ({}); attempting to pull the image may not succeed.",
                        reference.name
                    );
                    self.events.pod(
                        pod,
                        Tone::Warning,
                        "FailedToRetrieveImagePullSecret",
                        message,
                    );
                }
                Err(error) => tracing::warn!(%error, secret = reference.name, "cannot be read"),
            }
        }
        found
    }
}

fn failure(name: &str, error: RuntimeError) -> ImageError {
    match error {
        RuntimeError::Invalid(why) => ImageError::Name(format!(
            "Failed to apply default image tag \"{name}\": {why}"
        )),
        other => ImageError::Pull(format!("failed to pull image \"{name}\": {other}")),
    }
}

fn milliseconds(duration: Duration) -> String {
    match duration.as_millis() {
        millis @ ..1000 => format!("{millis}ms"),
        _ => format!("{:.3}s", duration.as_secs_f64()),
    }
}

#[derive(Debug, Default, Deserialize)]
struct DockerConfig {
    #[serde(default)]
    auths: BTreeMap<String, Auth>,
}

#[derive(Debug, Default, Deserialize)]
struct Auth {
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
    #[serde(default)]
    auth: String,
    #[serde(default, rename = "identitytoken")]
    identity_token: String,
}

/// What a secret has for an image's registry, the longest match first.
fn of_secret(secret: &Secret, image: &str) -> Vec<Credentials> {
    let data = secret.data.as_ref();
    let field = |name: &str| data.and_then(|data| data.get(name));
    let auths = if let Some(bytes) = field(".dockerconfigjson") {
        serde_json::from_slice::<DockerConfig>(&bytes.0).map(|config| config.auths)
    } else if let Some(bytes) = field(".dockercfg") {
        serde_json::from_slice(&bytes.0)
    } else {
        return Vec::new();
    };
    let Ok(auths) = auths else {
        tracing::warn!(secret = secret.name_any(), "it is no docker configuration");
        return Vec::new();
    };
    let image = full_name(image);
    let mut matching: Vec<(usize, Credentials)> = auths
        .iter()
        .filter_map(|(registry, auth)| {
            let registry = registry_path(registry);
            let rest = image.strip_prefix(registry.as_str())?;
            let is_whole = rest.is_empty() || rest.starts_with(['/', ':', '@']);
            is_whole.then(|| (registry.len(), credentials(auth)))
        })
        .collect();
    matching.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    matching.into_iter().map(|(_, found)| found).collect()
}

/// The image's name with its registry: `docker.io/library/debian`.
fn full_name(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => image.to_owned(),
        Some(_) => format!("docker.io/{image}"),
        None => format!("docker.io/library/{image}"),
    }
}

/// A key of a docker configuration as the beginning of a full name.
fn registry_path(key: &str) -> String {
    let key = key.strip_prefix("https://").unwrap_or(key);
    let key = key.strip_prefix("http://").unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").unwrap_or(key);
    let key = key.strip_suffix("/v2").unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => "docker.io".to_owned(),
        other => other.to_owned(),
    }
}

fn credentials(auth: &Auth) -> Credentials {
    let pair = STANDARD.decode(auth.auth.trim()).ok();
    let pair = pair.and_then(|bytes| String::from_utf8(bytes).ok());
    let (username, password) = match pair.as_deref().and_then(|pair| pair.split_once(':')) {
        Some((username, password)) => (username.to_owned(), password.to_owned()),
        None => (auth.username.clone(), auth.password.clone()),
    };
    Credentials {
        username,
        password,
        identity_token: auth.identity_token.clone(),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn a_secret_is_for_its_registry() {
        let config = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "dTpw"},
            "host:5000": {"username": "a", "password": "b"},
            "host:5000/team": {"username": "c", "password": "d"}}}"#;
        let secret = Secret {
            data: Some(BTreeMap::from([(
                ".dockerconfigjson".to_owned(),
                ByteString(config.into()),
            )])),
            ..Secret::default()
        };
        let names = |image: &str| -> Vec<String> {
            let found = of_secret(&secret, image).into_iter();
            found.map(|one| one.username).collect()
        };
        assert_eq!(names("debian:12"), ["u"]);
        assert_eq!(names("host:5000/team/app"), ["c", "a"]);
        assert_eq!(names("host:5000/teams/app"), ["a"]);
        assert!(names("host:5001/app").is_empty());
    }
}
