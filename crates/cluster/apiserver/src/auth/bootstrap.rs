//! What a new cluster begins with: namespaces, roles, bindings.

use serde_json::{Value, json};

/// Namespaces that are always there.
pub(crate) const NAMESPACES: [&str; 4] =
    ["default", "kube-system", "kube-public", "kube-node-lease"];

/// A rule in short: verbs, groups, resources; lists are separated by blanks.
type Short = (&'static str, &'static str, &'static str);

const READ: &str = "get list watch";
const WRITE: &str = "create delete deletecollection patch update";
const ALL: &str = "create delete deletecollection get list patch update watch";

/// Namespaced resources that `view`, `edit` and `admin` speak of.
const VIEWED: &[(&str, &str)] = &[
    (
        "core",
        "configmaps endpoints events limitranges namespaces persistentvolumeclaims persistentvolumeclaims/status pods pods/log pods/status replicationcontrollers replicationcontrollers/scale replicationcontrollers/status resourcequotas resourcequotas/status serviceaccounts services services/status bindings namespaces/status",
    ),
    (
        "apps",
        "controllerrevisions daemonsets daemonsets/status deployments deployments/scale deployments/status replicasets replicasets/scale replicasets/status statefulsets statefulsets/scale statefulsets/status",
    ),
    (
        "autoscaling",
        "horizontalpodautoscalers horizontalpodautoscalers/status",
    ),
    ("batch", "cronjobs cronjobs/status jobs jobs/status"),
    (
        "networking.k8s.io",
        "ingresses ingresses/status networkpolicies",
    ),
    ("policy", "poddisruptionbudgets poddisruptionbudgets/status"),
    ("discovery.k8s.io", "endpointslices"),
];

const EDITED: &[(&str, &str)] = &[
    (
        "core",
        "configmaps events persistentvolumeclaims pods pods/attach pods/exec pods/portforward pods/proxy pods/eviction replicationcontrollers replicationcontrollers/scale secrets serviceaccounts serviceaccounts/token services services/proxy",
    ),
    (
        "apps",
        "daemonsets deployments deployments/rollback deployments/scale replicasets replicasets/scale statefulsets statefulsets/scale",
    ),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs jobs"),
    ("networking.k8s.io", "ingresses networkpolicies"),
    ("policy", "poddisruptionbudgets"),
    ("coordination.k8s.io", "leases"),
];

const NODE: &[Short] = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    (
        "create",
        "authorization.k8s.io",
        "subjectaccessreviews localsubjectaccessreviews",
    ),
    (
        READ,
        "core",
        "services pods configmaps secrets persistentvolumeclaims persistentvolumes serviceaccounts",
    ),
    ("create get list watch patch update delete", "core", "nodes"),
    (
        "patch update get",
        "core",
        "nodes/status pods/status persistentvolumeclaims/status",
    ),
    ("create delete", "core", "pods"),
    ("create", "core", "pods/eviction serviceaccounts/token"),
    ("create patch update", "core events.k8s.io", "events"),
    (ALL, "coordination.k8s.io", "leases"),
    (
        READ,
        "storage.k8s.io",
        "volumeattachments csidrivers csinodes",
    ),
    (READ, "node.k8s.io", "runtimeclasses"),
    (
        "create get",
        "certificates.k8s.io",
        "certificatesigningrequests",
    ),
];

const SCHEDULER: &[Short] = &[
    ("create patch update", "core events.k8s.io", "events"),
    (ALL, "coordination.k8s.io", "leases"),
    (
        READ,
        "core",
        "nodes namespaces pods replicationcontrollers services persistentvolumeclaims persistentvolumes",
    ),
    ("delete", "core", "pods"),
    ("create", "core", "pods/binding bindings"),
    (
        "patch update",
        "core",
        "pods/status persistentvolumeclaims persistentvolumes",
    ),
    (READ, "apps", "replicasets statefulsets"),
    (READ, "policy", "poddisruptionbudgets"),
    (
        READ,
        "storage.k8s.io",
        "storageclasses csinodes csidrivers csistoragecapacities volumeattachments",
    ),
    (READ, "scheduling.k8s.io", "priorityclasses"),
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
];

/// The controllers of one process act as one user here.
const CONTROLLERS: &[Short] = &[
    (ALL, "*", "*"),
    ("create", "core", "serviceaccounts/token pods/eviction"),
    ("update", "core", "namespaces/finalize"),
    (
        "get update patch",
        "apps core autoscaling",
        "deployments/scale replicasets/scale statefulsets/scale replicationcontrollers/scale",
    ),
    ("update patch get", "*", "*/status */finalizers"),
];

const PROXIER: &[Short] = &[
    (READ, "core", "endpoints services nodes namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
    (READ, "networking.k8s.io", "networkpolicies"),
    (READ, "core", "pods"),
    ("create patch update", "core events.k8s.io", "events"),
];

const DNS: &[Short] = &[
    (READ, "core", "endpoints services pods namespaces"),
    (READ, "discovery.k8s.io", "endpointslices"),
];

const BASIC: &[Short] = &[
    (
        "create",
        "authorization.k8s.io",
        "selfsubjectaccessreviews selfsubjectrulesreviews",
    ),
    ("create", "authentication.k8s.io", "selfsubjectreviews"),
];

const DELEGATOR: &[Short] = &[
    ("create", "authentication.k8s.io", "tokenreviews"),
    ("create", "authorization.k8s.io", "subjectaccessreviews"),
];

fn words(text: &str) -> Vec<&str> {
    text.split_whitespace()
        .map(|word| if word == "core" { "" } else { word })
        .collect()
}

fn rule(&(verbs, groups, resources): &Short) -> Value {
    json!({"verbs": words(verbs), "apiGroups": words(groups), "resources": words(resources)})
}

fn paths(paths: &[&str]) -> Value {
    json!({"verbs": ["get"], "nonResourceURLs": paths})
}

fn named(kind: &str, name: &str) -> Value {
    json!({"kind": kind, "apiVersion": "rbac.authorization.k8s.io/v1", "metadata": {
        "name": name,
        "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"},
        "annotations": {"rbac.authorization.kubernetes.io/autoupdate": "true"}}})
}

fn over(verbs: &'static str, list: &[(&'static str, &'static str)]) -> Vec<Value> {
    list.iter()
        .map(|&(group, resources)| rule(&(verbs, group, resources)))
        .collect()
}

/// The cluster roles.
pub(crate) fn cluster_roles() -> Vec<Value> {
    let short = |rules: &[Short]| rules.iter().map(rule).collect::<Vec<_>>();
    let view = over(READ, VIEWED);
    let mut edit = view.clone();
    edit.extend(over(ALL, EDITED));
    edit.push(rule(&("impersonate", "core", "serviceaccounts")));
    let mut admin = edit.clone();
    admin.push(rule(&(
        ALL,
        "rbac.authorization.k8s.io",
        "roles rolebindings",
    )));
    admin.push(rule(&(
        "create",
        "authorization.k8s.io",
        "localsubjectaccessreviews",
    )));
    admin.push(rule(&(WRITE, "discovery.k8s.io", "endpointslices")));
    let everything = vec![
        rule(&("*", "*", "*")),
        json!({"verbs": ["*"], "nonResourceURLs": ["*"]}),
    ];
    let discovery = vec![paths(&[
        "/api",
        "/api/*",
        "/apis",
        "/apis/*",
        "/healthz",
        "/livez",
        "/openapi",
        "/openapi/*",
        "/readyz",
        "/version",
        "/version/",
    ])];
    let public = vec![paths(&[
        "/healthz",
        "/livez",
        "/readyz",
        "/version",
        "/version/",
    ])];
    let issuer = vec![paths(&[
        "/.well-known/openid-configuration",
        "/.well-known/openid-configuration/",
        "/openid/v1/jwks",
        "/openid/v1/jwks/",
    ])];
    let monitoring = vec![paths(&[
        "/healthz",
        "/healthz/*",
        "/livez",
        "/livez/*",
        "/metrics",
        "/metrics/slis",
        "/readyz",
        "/readyz/*",
    ])];
    [
        ("cluster-admin", everything),
        ("admin", admin),
        ("edit", edit),
        ("view", view),
        ("system:discovery", discovery),
        ("system:public-info-viewer", public),
        ("system:service-account-issuer-discovery", issuer),
        ("system:monitoring", monitoring),
        ("system:basic-user", short(BASIC)),
        ("system:auth-delegator", short(DELEGATOR)),
        ("system:node", short(NODE)),
        ("system:node-proxier", short(PROXIER)),
        ("system:kube-scheduler", short(SCHEDULER)),
        ("system:kube-controller-manager", short(CONTROLLERS)),
        ("system:coredns", short(DNS)),
    ]
    .into_iter()
    .map(|(name, rules)| {
        let mut role = named("ClusterRole", name);
        role["rules"] = rules.into();
        role
    })
    .collect()
}

/// The cluster role bindings.
pub(crate) fn cluster_role_bindings() -> Vec<Value> {
    [
        ("cluster-admin", "Group", "system:masters"),
        ("system:discovery", "Group", "system:authenticated"),
        ("system:basic-user", "Group", "system:authenticated"),
        (
            "system:public-info-viewer",
            "Group",
            "system:authenticated system:unauthenticated",
        ),
        (
            "system:service-account-issuer-discovery",
            "Group",
            "system:serviceaccounts",
        ),
        ("system:monitoring", "Group", "system:monitoring"),
        ("system:node", "Group", "system:nodes"),
        ("system:node-proxier", "User", "system:kube-proxy"),
        ("system:kube-scheduler", "User", "system:kube-scheduler"),
        (
            "system:kube-controller-manager",
            "User",
            "system:kube-controller-manager",
        ),
        ("system:coredns", "User", "system:coredns"),
    ]
    .into_iter()
    .map(|(role, kind, names)| {
        let mut binding = named("ClusterRoleBinding", role);
        binding["roleRef"] = json!({"apiGroup": "rbac.authorization.k8s.io",
            "kind": "ClusterRole", "name": role});
        binding["subjects"] = names
            .split(' ')
            .map(
                |name| json!({"kind": kind, "name": name, "apiGroup": "rbac.authorization.k8s.io"}),
            )
            .collect();
        binding
    })
    .collect()
}
