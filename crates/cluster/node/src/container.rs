//! What a container should be like: from the pod's wish to the runtime's words.

use std::collections::BTreeMap;
use std::path::{Component, Path};

use dhow_quantity::Quantity;
use k8s_openapi::api::core::v1::{
    Container as Spec, Pod, PodSecurityContext, SeccompProfile, SecurityContext,
};

use crate::config::Config;
use crate::env::expand;
use crate::labels;
use crate::runtime::{ContainerConfig, Image, Mount, Resources, Seccomp, Security};

/// Length of a scheduling period, in microseconds.
const CPU_PERIOD: i64 = 100_000;
/// The shortest quota the kernel takes.
const LEAST_QUOTA: i64 = 1000;
/// Bounds of the weight of processor time.
const LEAST_SHARES: i64 = 2;
const MOST_SHARES: i64 = 262_144;

/// Why a container cannot be made as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    /// It must not be root, and would be.
    #[error("container has runAsNonRoot and image will run as root ({0})")]
    Root(String),
    /// It must not be root, and whether it would be cannot be told.
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({0}), cannot verify user is non-root ({1})"
    )]
    UnknownUser(String, String),
    /// It must not be root, and is told to be.
    #[error("container's runAsUser breaks non-root policy ({0})")]
    AsRoot(String),
    /// The seccomp profile's name leads out of its folder.
    #[error("invalid seccomp profile name {0:?}")]
    Profile(String),
}

/// What is known of a container besides its wish.
pub(crate) struct Given<'a> {
    pub(crate) pod: &'a Pod,
    pub(crate) config: &'a Config,
    pub(crate) image: &'a Image,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    pub(crate) attempt: u32,
    pub(crate) level: u32,
    pub(crate) message_file: String,
}

/// The container for the runtime.
pub(crate) fn config(spec: &Spec, given: Given<'_>) -> Result<ContainerConfig, ConfigError> {
    let Given { pod, image, .. } = given;
    let known = |name: &str| {
        let mut variables = given.env.iter();
        variables
            .find(|(known, _)| known == name)
            .map(|(_, value)| value.clone())
    };
    let expanded = |list: &Option<Vec<String>>| -> Vec<String> {
        let list = list.iter().flatten();
        list.map(|text| expand(text, known)).collect()
    };
    let mut all = labels::of_pod(pod);
    all.insert(labels::CONTAINER_NAME.to_owned(), spec.name.clone());
    let grace = pod
        .spec
        .as_ref()
        .and_then(|spec| spec.termination_grace_period_seconds)
        .unwrap_or(30);
    let annotations = [
        (labels::GRACE, grace.to_string()),
        (labels::RESTART_COUNT, given.attempt.to_string()),
        (labels::IMAGE, spec.image.clone().unwrap_or_default()),
        (labels::BACK_OFF, given.level.to_string()),
        (labels::MESSAGE_FILE, given.message_file),
        (
            labels::MESSAGE_POLICY,
            spec.termination_message_policy.clone().unwrap_or_default(),
        ),
    ];
    let lifecycle = spec.lifecycle.as_ref();
    Ok(ContainerConfig {
        name: spec.name.clone(),
        attempt: given.attempt,
        image: image.id.clone(),
        command: expanded(&spec.command),
        args: expanded(&spec.args),
        working_dir: spec.working_dir.clone().unwrap_or_default(),
        mounts: given.mounts,
        labels: all,
        annotations: annotations
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        stdin: spec.stdin == Some(true),
        stdin_once: spec.stdin_once == Some(true),
        tty: spec.tty == Some(true),
        resources: resources(pod, spec, given.config.capacity.memory),
        security: security(pod, spec, image, &given.config.directory)?,
        stop_signal: lifecycle
            .and_then(|lifecycle| lifecycle.stop_signal.clone())
            .unwrap_or_default(),
        env: given.env,
    })
}

fn amount(map: Option<&BTreeMap<String, Kubernetes>>, name: &str) -> Option<Quantity> {
    map?.get(name)?.0.parse().ok()
}

type Kubernetes = k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Limits of a container.
fn resources(pod: &Pod, spec: &Spec, memory: i64) -> Resources {
    let wish = spec.resources.as_ref();
    let requests = wish.and_then(|wish| wish.requests.as_ref());
    let limits = wish.and_then(|wish| wish.limits.as_ref());
    let cpu_limit = amount(limits, "cpu").map(|amount| amount.milli_value());
    let cpu_request = amount(requests, "cpu").map(|amount| amount.milli_value());
    let shares = cpu_request.or(cpu_limit).unwrap_or(0).saturating_mul(1024) / 1000;
    let shares = shares.clamp(LEAST_SHARES, MOST_SHARES);
    let quota = cpu_limit.filter(|milli| *milli > 0).map(|milli| {
        let quota = milli.saturating_mul(CPU_PERIOD) / 1000;
        quota.max(LEAST_QUOTA)
    });
    Resources {
        cpu_shares: shares.cast_unsigned(),
        cpu_quota: quota.unwrap_or(0),
        cpu_period: CPU_PERIOD.cast_unsigned(),
        memory_limit: amount(limits, "memory").map_or(0, |amount| amount.value()),
        oom_score_adj: oom_score(pod, amount(requests, "memory"), memory),
    }
}

/// How willingly the kernel ends a container, by its pod's class.
fn oom_score(pod: &Pod, request: Option<Quantity>, memory: i64) -> i32 {
    let spec = pod.spec.as_ref();
    let is_critical = spec.is_some_and(|spec| spec.priority.is_some_and(|p| p >= 2_000_000_000));
    let class = pod
        .status
        .as_ref()
        .and_then(|status| status.qos_class.as_deref());
    match class {
        _ if is_critical => -997,
        Some("Guaranteed") => -997,
        Some("BestEffort") => 1000,
        _ => {
            let request = request.map_or(0, |amount| amount.value());
            let share = request.saturating_mul(1000) / memory.max(1);
            // Never as good as guaranteed, never as bad as best effort.
            i32::try_from((1000 - share).clamp(3, 999)).unwrap_or(999)
        }
    }
}

/// What a container may, from its own and its pod's settings.
fn security(
    pod: &Pod,
    spec: &Spec,
    image: &Image,
    directory: &Path,
) -> Result<Security, ConfigError> {
    let (no_own, no_pod) = (SecurityContext::default(), PodSecurityContext::default());
    let own = spec.security_context.as_ref().unwrap_or(&no_own);
    let of_pod = pod.spec.as_ref();
    let of_pod = of_pod.and_then(|spec| spec.security_context.as_ref());
    let of_pod = of_pod.unwrap_or(&no_pod);
    let user = own.run_as_user.or(of_pod.run_as_user);
    let group = own.run_as_group.or(of_pod.run_as_group);
    if own.run_as_non_root.or(of_pod.run_as_non_root) == Some(true) {
        must_not_be_root(pod, spec, user, image)?;
    }
    let user = match (user, group) {
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (Some(user), None) => user.to_string(),
        (None, Some(group)) => {
            let name = image.user.split(':').next().unwrap_or_default();
            let name = if name.is_empty() { "0" } else { name };
            format!("{name}:{group}")
        }
        (None, None) => String::new(),
    };
    let groups = of_pod.supplemental_groups.iter().flatten();
    let groups = groups.chain(of_pod.fs_group.as_ref());
    let mut supplemental: Vec<u32> = groups.filter_map(|id| u32::try_from(*id).ok()).collect();
    supplemental.dedup();
    let capabilities = own.capabilities.as_ref();
    let names = |list: Option<&Vec<String>>| -> Vec<String> {
        let list = list.into_iter().flatten();
        list.map(|name| name.trim_start_matches("CAP_").to_owned())
            .collect()
    };
    let privileged = own.privileged == Some(true);
    let add = names(capabilities.and_then(|list| list.add.as_ref()));
    Ok(Security {
        user,
        supplemental_groups: supplemental,
        privileged,
        readonly_rootfs: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false),
        add_capabilities: add,
        drop_capabilities: names(capabilities.and_then(|list| list.drop.as_ref())),
        seccomp: seccomp(
            own.seccomp_profile
                .as_ref()
                .or(of_pod.seccomp_profile.as_ref()),
            directory,
        )?,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

/// System calls; without a wish it is the runtime's list, as a kubelet with
/// `--seccomp-default` has it. Profiles are files in a folder of the agent's.
fn seccomp(profile: Option<&SeccompProfile>, directory: &Path) -> Result<Seccomp, ConfigError> {
    let Some(profile) = profile else {
        return Ok(Seccomp::RuntimeDefault);
    };
    match (profile.type_.as_str(), &profile.localhost_profile) {
        ("Unconfined", _) => Ok(Seccomp::Unconfined),
        ("Localhost", Some(name)) => {
            let path = Path::new(name);
            let is_inside = path
                .components()
                .all(|part| matches!(part, Component::Normal(_)));
            if !is_inside {
                return Err(ConfigError::Profile(name.clone()));
            }
            Ok(Seccomp::Localhost(directory.join("seccomp").join(path)))
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

fn must_not_be_root(
    pod: &Pod,
    spec: &Spec,
    user: Option<i64>,
    image: &Image,
) -> Result<(), ConfigError> {
    let whose = || {
        format!(
            "pod: \"{}\", container: {}",
            crate::events::pod_words(pod),
            spec.name
        )
    };
    if let Some(user) = user {
        return if user == 0 {
            Err(ConfigError::AsRoot(whose()))
        } else {
            Ok(())
        };
    }
    let name = image.user.split(':').next().unwrap_or_default();
    match name.parse::<u32>() {
        Ok(0) => Err(ConfigError::Root(whose())),
        Ok(_) => Ok(()),
        Err(_) if name.is_empty() => Err(ConfigError::Root(whose())),
        Err(_) => Err(ConfigError::UnknownUser(name.to_owned(), whose())),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn made(pod: Value, user: &str) -> Result<ContainerConfig, ConfigError> {
        let pod: Pod = serde_json::from_value(pod).expect("a pod");
        let spec = pod.spec.as_ref().expect("a spec").containers[0].clone();
        let image = Image {
            id: "sha256:1".to_owned(),
            tags: Vec::new(),
            digests: Vec::new(),
            size: 1,
            user: user.to_owned(),
        };
        let settings = Config {
            capacity: crate::config::Capacity {
                memory: 1 << 30,
                ..Default::default()
            },
            ..Config::default()
        };
        config(
            &spec,
            Given {
                pod: &pod,
                config: &settings,
                image: &image,
                env: vec![("A".to_owned(), "1".to_owned())],
                mounts: Vec::new(),
                attempt: 2,
                level: 1,
                message_file: String::new(),
            },
        )
    }

    #[test]
    fn limits_become_the_kernels() {
        let pod = json!({"metadata": {"name": "p"}, "status": {"qosClass": "Burstable"}, "spec": {"containers": [{
            "name": "c", "args": ["$(A)"],
            "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}, "requests": {"cpu": "250m", "memory": "512Mi"}}}]}});
        let made = made(pod, "").expect("made");
        assert_eq!(made.args, ["1"]);
        assert_eq!(made.resources.cpu_shares, 256);
        assert_eq!(made.resources.cpu_quota, 50_000);
        assert_eq!(made.resources.memory_limit, 512 << 20);
        assert_eq!(made.resources.oom_score_adj, 500);
        assert_eq!(made.labels[labels::CONTAINER_NAME], "c");
        assert_eq!(made.annotations[labels::RESTART_COUNT], "2");
    }

    #[test]
    fn who_must_not_be_root_is_not() {
        let pod = |context: Value| {
            json!({"metadata": {"name": "p"}, "spec": {"securityContext": {"runAsNonRoot": true},
                "containers": [{"name": "c", "securityContext": context}]}})
        };
        assert!(matches!(
            made(pod(json!({})), ""),
            Err(ConfigError::Root(_))
        ));
        assert!(matches!(
            made(pod(json!({})), "0:5"),
            Err(ConfigError::Root(_))
        ));
        assert!(matches!(
            made(pod(json!({})), "www"),
            Err(ConfigError::UnknownUser(..))
        ));
        assert!(matches!(
            made(pod(json!({"runAsUser": 0})), "7"),
            Err(ConfigError::AsRoot(_))
        ));
        assert!(made(pod(json!({})), "7").is_ok());
        let own = made(pod(json!({"runAsUser": 7, "runAsGroup": 8})), "").expect("made");
        assert_eq!(own.security.user, "7:8");
        assert!(made(pod(json!({"runAsNonRoot": false})), "").is_ok());
    }
}
