//! The table of built-in resources.

use dhow_schema::Types;

use super::Subresource::{self, *};
use super::{ALL_VERBS, Conversion, Names, Resource, Strategy, columns, pod_columns};
use crate::strategy;

/// One resource being described.
struct Entry(Resource);

/// Which resources of a group follow.
struct Group<'t> {
    types: &'t Types,
    group: &'static str,
    version: &'static str,
}

impl Group<'_> {
    fn entry(&self, plural: &str, kind: &str, namespaced: bool) -> Entry {
        let package = match self.group.split('.').next() {
            Some("") | None => "core",
            Some(first) => first,
        };
        Entry(Resource {
            group: self.group.to_owned(),
            version: self.version.to_owned(),
            plural: plural.to_owned(),
            singular: kind.to_lowercase(),
            kind: kind.to_owned(),
            short_names: Vec::new(),
            categories: Vec::new(),
            namespaced,
            shape: self
                .types
                .shape(&format!("{package}/{}.{kind}", self.version)),
            prefix: plural.to_owned(),
            verbs: ALL_VERBS,
            subresources: Vec::new(),
            columns: columns::PLAIN,
            strategy: Strategy::PLAIN,
            view: None,
            index: 0,
        })
    }

    fn namespaced(&self, plural: &str, kind: &str) -> Entry {
        self.entry(plural, kind, true)
    }

    fn cluster(&self, plural: &str, kind: &str) -> Entry {
        self.entry(plural, kind, false)
    }
}

impl Entry {
    fn short(mut self, names: &[&str]) -> Self {
        self.0.short_names = names.iter().map(|name| (*name).to_owned()).collect();
        self
    }

    fn all(mut self) -> Self {
        self.0.categories = vec!["all".to_owned()];
        self
    }

    fn at(mut self, prefix: &str) -> Self {
        prefix.clone_into(&mut self.0.prefix);
        self
    }

    fn verbs(mut self, verbs: &'static [&'static str]) -> Self {
        self.0.verbs = verbs;
        self
    }

    fn sub(mut self, subresources: &[Subresource]) -> Self {
        self.0.subresources = subresources.to_vec();
        self
    }

    fn columns(mut self, columns: &'static [super::Column]) -> Self {
        self.0.columns = columns;
        self
    }

    fn strategy(mut self, strategy: Strategy) -> Self {
        self.0.strategy = strategy;
        self
    }

    fn view(mut self, conversion: Conversion) -> Self {
        self.0.view = Some((0, conversion));
        self
    }
}

/// Every built-in resource, in the order discovery shows them.
pub(super) fn resources(types: &Types) -> Vec<Resource> {
    let group = |group, version| Group {
        types,
        group,
        version,
    };
    let segment = Strategy {
        names: Names::Segment,
        ..Strategy::PLAIN
    };
    let core = group("", "v1");
    let apps = group("apps", "v1");
    let batch = group("batch", "v1");
    let rbac = group("rbac.authorization.k8s.io", "v1");
    let authentication = group("authentication.k8s.io", "v1");
    let authorization = group("authorization.k8s.io", "v1");
    let networking = group("networking.k8s.io", "v1");
    let storage = group("storage.k8s.io", "v1");
    let policy = group("policy", "v1");
    let autoscaling = group("autoscaling", "v2");
    let coordination = group("coordination.k8s.io", "v1");
    let discovery = group("discovery.k8s.io", "v1");
    let events = group("events.k8s.io", "v1");
    let scheduling = group("scheduling.k8s.io", "v1");
    let node = group("node.k8s.io", "v1");
    let create_only: &[&str] = &["create"];
    let entries = vec![
        core.namespaced("bindings", "Binding").verbs(create_only),
        core.namespaced("configmaps", "ConfigMap")
            .short(&["cm"])
            .columns(columns::CONFIG_MAP)
            .strategy(strategy::CONFIG_MAP),
        core.namespaced("endpoints", "Endpoints")
            .short(&["ep"])
            .at("services/endpoints")
            .columns(columns::ENDPOINTS),
        core.namespaced("events", "Event")
            .short(&["ev"])
            .columns(columns::EVENT)
            .strategy(strategy::EVENT),
        core.namespaced("limitranges", "LimitRange")
            .short(&["limits"])
            .columns(columns::CREATED_AT),
        core.cluster("namespaces", "Namespace")
            .short(&["ns"])
            .sub(&[Finalize, Status])
            .columns(columns::NAMESPACE)
            .strategy(strategy::NAMESPACE),
        core.cluster("nodes", "Node")
            .short(&["no"])
            .at("minions")
            .sub(&[Proxy, Status])
            .columns(columns::NODE)
            .strategy(strategy::NODE),
        core.namespaced("persistentvolumeclaims", "PersistentVolumeClaim")
            .short(&["pvc"])
            .sub(&[Status])
            .columns(columns::CLAIM)
            .strategy(strategy::CLAIM),
        core.cluster("persistentvolumes", "PersistentVolume")
            .short(&["pv"])
            .sub(&[Status])
            .columns(columns::VOLUME)
            .strategy(strategy::VOLUME),
        core.namespaced("pods", "Pod")
            .short(&["po"])
            .all()
            .sub(&[
                Attach,
                Binding,
                Ephemeral,
                Eviction,
                Exec,
                Log,
                PortForward,
                Proxy,
                Resize,
                Status,
            ])
            .columns(pod_columns::POD)
            .strategy(strategy::POD),
        core.namespaced("podtemplates", "PodTemplate")
            .columns(columns::POD_TEMPLATE),
        core.namespaced("replicationcontrollers", "ReplicationController")
            .short(&["rc"])
            .all()
            .at("controllers")
            .sub(&[Scale, Status])
            .columns(columns::REPLICA_SET)
            .strategy(strategy::REPLICATION_CONTROLLER),
        core.namespaced("resourcequotas", "ResourceQuota")
            .short(&["quota"])
            .sub(&[Status])
            .columns(columns::PLAIN),
        core.namespaced("secrets", "Secret")
            .columns(columns::SECRET)
            .strategy(strategy::SECRET),
        core.namespaced("serviceaccounts", "ServiceAccount")
            .short(&["sa"])
            .sub(&[Token])
            .columns(columns::SERVICE_ACCOUNT)
            .strategy(Strategy {
                returns_deleted: true,
                ..Strategy::PLAIN
            }),
        core.namespaced("services", "Service")
            .short(&["svc"])
            .all()
            .at("services/specs")
            .sub(&[Proxy, Status])
            .columns(columns::SERVICE)
            .strategy(strategy::SERVICE),
        apps.namespaced("controllerrevisions", "ControllerRevision")
            .columns(columns::REVISION),
        apps.namespaced("daemonsets", "DaemonSet")
            .short(&["ds"])
            .all()
            .sub(&[Status])
            .columns(columns::DAEMON_SET)
            .strategy(strategy::DAEMON_SET),
        apps.namespaced("deployments", "Deployment")
            .short(&["deploy"])
            .all()
            .sub(&[Scale, Status])
            .columns(columns::DEPLOYMENT)
            .strategy(strategy::DEPLOYMENT),
        apps.namespaced("replicasets", "ReplicaSet")
            .short(&["rs"])
            .all()
            .sub(&[Scale, Status])
            .columns(columns::REPLICA_SET)
            .strategy(strategy::REPLICA_SET),
        apps.namespaced("statefulsets", "StatefulSet")
            .short(&["sts"])
            .all()
            .sub(&[Scale, Status])
            .columns(columns::STATEFUL_SET)
            .strategy(strategy::STATEFUL_SET),
        events
            .namespaced("events", "Event")
            .short(&["ev"])
            .columns(columns::EVENT)
            .strategy(strategy::EVENT)
            .view(strategy::EVENT_VIEW),
        authentication
            .cluster("tokenreviews", "TokenReview")
            .verbs(create_only),
        authentication
            .cluster("selfsubjectreviews", "SelfSubjectReview")
            .verbs(create_only),
        authorization
            .namespaced("localsubjectaccessreviews", "LocalSubjectAccessReview")
            .verbs(create_only),
        authorization
            .cluster("selfsubjectaccessreviews", "SelfSubjectAccessReview")
            .verbs(create_only),
        authorization
            .cluster("selfsubjectrulesreviews", "SelfSubjectRulesReview")
            .verbs(create_only),
        authorization
            .cluster("subjectaccessreviews", "SubjectAccessReview")
            .verbs(create_only),
        autoscaling
            .namespaced("horizontalpodautoscalers", "HorizontalPodAutoscaler")
            .short(&["hpa"])
            .all()
            .sub(&[Status])
            .columns(columns::AUTOSCALER)
            .strategy(strategy::SPEC_AND_STATUS),
        batch
            .namespaced("cronjobs", "CronJob")
            .short(&["cj"])
            .all()
            .sub(&[Status])
            .columns(columns::CRON_JOB)
            .strategy(strategy::CRON_JOB),
        batch
            .namespaced("jobs", "Job")
            .all()
            .sub(&[Status])
            .columns(columns::JOB)
            .strategy(strategy::JOB),
        group("certificates.k8s.io", "v1")
            .cluster("certificatesigningrequests", "CertificateSigningRequest")
            .short(&["csr"])
            .sub(&[Approval, Status])
            .columns(columns::PLAIN),
        networking
            .cluster("ingressclasses", "IngressClass")
            .columns(columns::INGRESS_CLASS)
            .strategy(strategy::SPEC_AND_STATUS),
        networking
            .namespaced("ingresses", "Ingress")
            .short(&["ing"])
            .at("ingress")
            .sub(&[Status])
            .columns(columns::INGRESS)
            .strategy(strategy::SPEC_AND_STATUS),
        networking
            .namespaced("networkpolicies", "NetworkPolicy")
            .short(&["netpol"])
            .columns(columns::NETWORK_POLICY)
            .strategy(strategy::NETWORK_POLICY),
        policy
            .namespaced("poddisruptionbudgets", "PodDisruptionBudget")
            .short(&["pdb"])
            .sub(&[Status])
            .columns(columns::DISRUPTION_BUDGET)
            .strategy(strategy::SPEC_AND_STATUS),
        rbac.cluster("clusterrolebindings", "ClusterRoleBinding")
            .columns(columns::ROLE_BINDING)
            .strategy(strategy::ROLE_BINDING),
        rbac.cluster("clusterroles", "ClusterRole")
            .columns(columns::CREATED_AT)
            .strategy(segment),
        rbac.namespaced("rolebindings", "RoleBinding")
            .columns(columns::ROLE_BINDING)
            .strategy(strategy::ROLE_BINDING),
        rbac.namespaced("roles", "Role")
            .columns(columns::CREATED_AT)
            .strategy(segment),
        storage.cluster("csidrivers", "CSIDriver"),
        storage.cluster("csinodes", "CSINode"),
        storage.namespaced("csistoragecapacities", "CSIStorageCapacity"),
        storage
            .cluster("storageclasses", "StorageClass")
            .short(&["sc"])
            .columns(columns::STORAGE_CLASS),
        storage
            .cluster("volumeattachments", "VolumeAttachment")
            .sub(&[Status]),
        group("admissionregistration.k8s.io", "v1").cluster(
            "mutatingwebhookconfigurations",
            "MutatingWebhookConfiguration",
        ),
        group("admissionregistration.k8s.io", "v1").cluster(
            "validatingwebhookconfigurations",
            "ValidatingWebhookConfiguration",
        ),
        scheduling
            .cluster("priorityclasses", "PriorityClass")
            .short(&["pc"])
            .columns(columns::PRIORITY_CLASS),
        coordination
            .namespaced("leases", "Lease")
            .columns(columns::LEASE),
        discovery
            .namespaced("endpointslices", "EndpointSlice")
            .columns(columns::ENDPOINT_SLICE)
            .strategy(strategy::ENDPOINT_SLICE),
        node.cluster("runtimeclasses", "RuntimeClass")
            .columns(columns::RUNTIME_CLASS),
    ];
    entries.into_iter().map(|entry| entry.0).collect()
}
