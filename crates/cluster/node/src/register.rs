//! The Node object and its lease: how the cluster knows that this machine is
//! there and what it has to give.
//!
//! The object is compared with what it should be every ten seconds, and
//! written when it differs or five minutes have passed; one that was deleted
//! is made again. The lease is renewed every ten seconds.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use dhow_quantity::Quantity as Amount;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeSpec, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client, ResourceExt};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;
use crate::error::Error;
use crate::events::{Events, Tone};
use crate::runtime::PodRuntime;
use crate::time;

/// How often the lease is renewed, and changes are looked for.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// How long others believe in the lease, in seconds.
const LEASE_SECONDS: i32 = 40;
/// The status is written at least so often.
const REPORT: Duration = Duration::from_secs(300);
/// Images named in the object.
const N_IMAGES: usize = 50;
/// Namespace of nodes' leases.
const LEASES: &str = "kube-node-lease";

/// Keeps the Node object and its lease, until it is dropped.
pub(crate) struct Registration<'a> {
    pub(crate) client: &'a Client,
    pub(crate) config: &'a Config,
    pub(crate) runtime: &'a dyn PodRuntime,
    pub(crate) events: &'a Events,
}

impl Registration<'_> {
    /// Keeps the object and the lease.
    pub(crate) async fn run(&self) {
        let mut ticks = interval(HEARTBEAT);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written: Option<Instant> = None;
        let mut told = false;
        loop {
            ticks.tick().await;
            match self.keep(&mut written).await {
                Ok(node) => {
                    if !told {
                        told = true;
                        for (reason, message) in [
                            ("Starting", "Starting kubelet.".to_owned()),
                            (
                                "NodeReady",
                                format!("Node {} status is now: NodeReady", self.config.name),
                            ),
                        ] {
                            self.events.node(&node, Tone::Normal, reason, message);
                        }
                    }
                    if let Err(error) = self.renew(&node).await {
                        tracing::warn!(%error, "the node's lease was not renewed");
                    }
                }
                Err(error) => tracing::warn!(%error, "the node's status was not written"),
            }
        }
    }

    async fn keep(&self, written: &mut Option<Instant>) -> Result<Node, Error> {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let name = &self.config.name;
        let found = match nodes.get_opt(name).await? {
            Some(node) => node,
            None => {
                *written = None;
                match nodes.create(&PostParams::default(), &self.object()).await {
                    Ok(node) => node,
                    // Somebody else was faster.
                    Err(kube::Error::Api(status)) if status.code == 409 => nodes.get(name).await?,
                    Err(error) => return Err(error.into()),
                }
            }
        };
        if self.lacks_labels(&found) {
            let patch = Patch::Merge(json!({"metadata": {"labels": self.labels()}}));
            nodes.patch(name, &PatchParams::default(), &patch).await?;
        }
        let wanted = self.status(found.status.as_ref()).await?;
        let is_due = written.is_none_or(|at| at.elapsed() >= REPORT);
        if is_due || found.status.as_ref().map(timeless) != Some(timeless(&wanted)) {
            let mut status = json!(wanted);
            // Addresses of a kind are several; they go and come as a whole.
            // Conditions of others stay.
            if let Some(addresses) = status["addresses"].as_array_mut() {
                addresses.insert(0, json!({"$patch": "replace"}));
            }
            let patch = Patch::Strategic(json!({"status": status}));
            nodes
                .patch_status(name, &PatchParams::default(), &patch)
                .await?;
            *written = Some(Instant::now());
        }
        Ok(found)
    }

    fn labels(&self) -> BTreeMap<String, String> {
        let Config { name, system, .. } = self.config;
        let mut labels = self.config.labels.clone();
        for (key, value) in [
            ("kubernetes.io/hostname", name.as_str()),
            ("kubernetes.io/os", "linux"),
            ("kubernetes.io/arch", &system.architecture),
            ("beta.kubernetes.io/os", "linux"),
            ("beta.kubernetes.io/arch", &system.architecture),
        ] {
            labels.insert(key.to_owned(), value.to_owned());
        }
        labels
    }

    fn lacks_labels(&self, node: &Node) -> bool {
        let wanted = self.labels();
        wanted
            .iter()
            .any(|(name, value)| node.labels().get(name) != Some(value))
    }

    fn object(&self) -> Node {
        Node {
            metadata: ObjectMeta {
                name: Some(self.config.name.clone()),
                labels: Some(self.labels()),
                ..ObjectMeta::default()
            },
            spec: Some(NodeSpec {
                pod_cidr: self.config.pod_cidr.clone(),
                pod_cidrs: self.config.pod_cidr.clone().map(|range| vec![range]),
                ..NodeSpec::default()
            }),
            status: None,
        }
    }

    async fn status(&self, former: Option<&NodeStatus>) -> Result<NodeStatus, Error> {
        let Config {
            system, addresses, ..
        } = self.config;
        let mut list: Vec<NodeAddress> = addresses
            .iter()
            .map(|address| node_address("InternalIP", address.to_string()))
            .collect();
        list.push(node_address("Hostname", self.config.name.clone()));
        let images = self.runtime.images().await;
        let ready = match &images {
            Ok(_) => Ok(()),
            Err(error) => Err(error.to_string()),
        };
        let mut images = images.unwrap_or_default();
        images.sort_by_key(|image| std::cmp::Reverse(image.size));
        let images = images.into_iter().take(N_IMAGES).map(|image| {
            let names = image.digests.into_iter().chain(image.tags).take(5);
            ContainerImage {
                names: Some(names.collect()),
                size_bytes: i64::try_from(image.size).ok(),
            }
        });
        let resources = self.resources();
        Ok(NodeStatus {
            addresses: Some(list),
            capacity: Some(resources.clone()),
            allocatable: Some(resources),
            conditions: Some(conditions(former, ready)),
            daemon_endpoints: (self.config.port != 0).then(|| NodeDaemonEndpoints {
                kubelet_endpoint: Some(DaemonEndpoint {
                    port: self.config.port.into(),
                }),
            }),
            images: Some(images.collect()),
            node_info: Some(NodeSystemInfo {
                architecture: system.architecture.clone(),
                boot_id: system.boot_id.clone(),
                container_runtime_version: self.runtime.version(),
                kernel_version: system.kernel.clone(),
                kubelet_version: system.version.clone(),
                machine_id: system.machine_id.clone(),
                operating_system: "linux".to_owned(),
                os_image: system.os_image.clone(),
                system_uuid: system.machine_id.clone(),
                ..NodeSystemInfo::default()
            }),
            ..NodeStatus::default()
        })
    }

    fn resources(&self) -> BTreeMap<String, Quantity> {
        let capacity = self.config.capacity;
        let huge = || Amount::from_bytes(0);
        [
            ("cpu", Amount::from_milli(capacity.cpu)),
            ("memory", Amount::from_bytes(capacity.memory)),
            (
                "ephemeral-storage",
                Amount::from_bytes(capacity.ephemeral_storage),
            ),
            ("pods", Amount::from_units(capacity.pods)),
            ("hugepages-1Gi", huge()),
            ("hugepages-2Mi", huge()),
        ]
        .into_iter()
        .map(|(name, amount)| (name.to_owned(), Quantity(amount.to_string())))
        .collect()
    }

    async fn renew(&self, node: &Node) -> Result<(), Error> {
        let leases: Api<Lease> = Api::namespaced(self.client.clone(), LEASES);
        let name = &self.config.name;
        let owner = OwnerReference {
            api_version: "v1".to_owned(),
            kind: "Node".to_owned(),
            name: name.clone(),
            uid: node.uid().unwrap_or_default(),
            ..OwnerReference::default()
        };
        let now = time::micro(SystemTime::now());
        let patch = Patch::Merge(json!({
            "metadata": {"ownerReferences": [owner.clone()]},
            "spec": {"renewTime": now, "holderIdentity": name, "leaseDurationSeconds": LEASE_SECONDS},
        }));
        match leases.patch(name, &PatchParams::default(), &patch).await {
            Err(kube::Error::Api(status)) if status.code == 404 => {}
            other => return Ok(other.map(|_| ())?),
        }
        let lease = Lease {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(LEASES.to_owned()),
                owner_references: Some(vec![owner]),
                ..ObjectMeta::default()
            },
            spec: Some(LeaseSpec {
                holder_identity: Some(name.clone()),
                lease_duration_seconds: Some(LEASE_SECONDS),
                renew_time: Some(now),
                ..LeaseSpec::default()
            }),
        };
        leases.create(&PostParams::default(), &lease).await?;
        Ok(())
    }
}

fn node_address(kind: &str, address: String) -> NodeAddress {
    NodeAddress {
        type_: kind.to_owned(),
        address,
    }
}

fn conditions(former: Option<&NodeStatus>, ready: Result<(), String>) -> Vec<NodeCondition> {
    let now = time::api(SystemTime::now());
    let (status, reason, message) = match ready {
        Ok(()) => (
            "True",
            "KubeletReady",
            "kubelet is posting ready status".to_owned(),
        ),
        Err(why) => ("False", "KubeletNotReady", why),
    };
    [
        (
            "MemoryPressure",
            "False",
            "KubeletHasSufficientMemory",
            "kubelet has sufficient memory available".to_owned(),
        ),
        (
            "DiskPressure",
            "False",
            "KubeletHasNoDiskPressure",
            "kubelet has no disk pressure".to_owned(),
        ),
        (
            "PIDPressure",
            "False",
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available".to_owned(),
        ),
        ("Ready", status, reason, message),
    ]
    .into_iter()
    .map(|(name, status, reason, message)| {
        let mut known = former
            .iter()
            .flat_map(|former| former.conditions.iter().flatten());
        let since = known
            .find(|known| known.type_ == name && known.status == status)
            .and_then(|known| known.last_transition_time.clone());
        NodeCondition {
            type_: name.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_heartbeat_time: Some(now.clone()),
            last_transition_time: Some(since.unwrap_or_else(|| now.clone())),
        }
    })
    .collect()
}

/// A status without what changes by itself and what others write.
fn timeless(status: &NodeStatus) -> NodeStatus {
    let mut status = status.clone();
    for condition in status.conditions.iter_mut().flatten() {
        condition.last_heartbeat_time = None;
    }
    NodeStatus {
        addresses: status.addresses,
        capacity: status.capacity,
        allocatable: status.allocatable,
        conditions: status.conditions,
        daemon_endpoints: status.daemon_endpoints,
        images: status.images.filter(|images| !images.is_empty()),
        node_info: status.node_info,
        ..NodeStatus::default()
    }
}
