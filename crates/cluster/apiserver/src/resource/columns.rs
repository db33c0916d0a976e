//! What `kubectl get` prints of each kind: the columns of its Table.

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::tree;

/// One column.
pub(crate) struct Column {
    pub name: &'static str,
    /// `string`, `integer`…
    pub kind: &'static str,
    /// `name` for the column that names the object.
    pub format: &'static str,
    /// 0: always shown; 1: with `-o wide`.
    pub priority: u8,
    pub cell: fn(&Value, Timestamp) -> Value,
}

pub(super) const fn column(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        name,
        kind: "string",
        format: "",
        priority: 0,
        cell,
    }
}

pub(super) const fn wide(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        priority: 1,
        ..column(name, cell)
    }
}

pub(super) const fn number(name: &'static str, cell: fn(&Value, Timestamp) -> Value) -> Column {
    Column {
        kind: "integer",
        ..column(name, cell)
    }
}

pub(super) const NAME: Column = Column {
    name: "Name",
    kind: "string",
    format: "name",
    priority: 0,
    cell: |object, _| tree::text(object, &["metadata", "name"]).into(),
};

pub(super) const AGE: Column = column("Age", |object, now| {
    age(tree::text(object, &["metadata", "creationTimestamp"]), now).into()
});

/// Kinds without columns of their own.
pub(crate) const PLAIN: &[Column] = &[NAME, AGE];

pub(super) const CREATED_AT: &[Column] = &[
    NAME,
    column("Created At", |object, _| {
        tree::text(object, &["metadata", "creationTimestamp"]).into()
    }),
];

/// How long ago a time was, as upstream shortens it.
pub(crate) fn age(time: &str, now: Timestamp) -> String {
    match time.parse::<Timestamp>() {
        Ok(time) => human((now.as_millisecond() - time.as_millisecond()).div_euclid(1000)),
        Err(_) => "<unknown>".to_owned(),
    }
}

/// Seconds in upstream's short form: `5m30s`, `3h`, `12d`.
pub(crate) fn human(seconds: i64) -> String {
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 {
            format!("{big}{big_unit}")
        } else {
            format!("{big}{big_unit}{small}{small_unit}")
        }
    };
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        0..120 => format!("{seconds}s"),
        _ if minutes < 10 => two(minutes, "m", seconds % 60, "s"),
        _ if minutes < 180 => format!("{minutes}m"),
        _ if hours < 8 => two(hours, "h", minutes % 60, "m"),
        _ if hours < 48 => format!("{hours}h"),
        _ if hours < 192 => two(days, "d", hours % 24, "h"),
        _ if days < 730 => format!("{days}d"),
        _ if days < 2920 => two(days / 365, "y", days % 365, "d"),
        _ => format!("{}y", days / 365),
    }
}

pub(super) fn or_none(text: String) -> Value {
    if text.is_empty() {
        "<none>".into()
    } else {
        text.into()
    }
}

fn join<'v>(texts: impl Iterator<Item = &'v str>) -> String {
    texts.collect::<Vec<_>>().join(",")
}

fn count(object: &Value, path: &[&str]) -> Value {
    tree::int(object, path).unwrap_or(0).into()
}

fn containers(object: &Value, field: &str) -> Value {
    join(
        tree::list(object, &["spec", "template", "spec", "containers"])
            .iter()
            .map(|container| tree::text(container, &[field])),
    )
    .into()
}

/// A LabelSelector as text.
fn selector(object: &Value, path: &[&str]) -> Value {
    let Some(selector) = tree::at(object, path) else {
        return "<none>".into();
    };
    let mut parts: Vec<String> = labels(selector, &["matchLabels"]);
    for expression in tree::list(selector, &["matchExpressions"]) {
        let key = tree::text(expression, &["key"]);
        let values = join(
            tree::list(expression, &["values"])
                .iter()
                .filter_map(Value::as_str),
        );
        parts.push(match tree::text(expression, &["operator"]) {
            "Exists" => key.to_owned(),
            "DoesNotExist" => format!("!{key}"),
            operator => format!("{key} {} ({values})", operator.to_lowercase()),
        });
    }
    or_none(parts.join(","))
}

fn labels(object: &Value, path: &[&str]) -> Vec<String> {
    let mut labels: Vec<String> = tree::entries(object, path)
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or("")))
        .collect();
    labels.sort_unstable();
    labels
}

fn size(object: &Value, path: &[&str]) -> Value {
    tree::entries(object, path).count().into()
}

const CONTAINERS: Column = wide("Containers", |o, _| containers(o, "name"));
const IMAGES: Column = wide("Images", |o, _| containers(o, "image"));
const SELECTOR: Column = wide("Selector", |o, _| selector(o, &["spec", "selector"]));

pub(super) const CONFIG_MAP: &[Column] = &[
    NAME,
    number("Data", |o, _| {
        let n = tree::entries(o, &["data"]).count() + tree::entries(o, &["binaryData"]).count();
        n.into()
    }),
    AGE,
];

pub(super) const SECRET: &[Column] = &[
    NAME,
    column("Type", |o, _| tree::text(o, &["type"]).into()),
    number("Data", |o, _| size(o, &["data"])),
    AGE,
];

pub(super) const SERVICE_ACCOUNT: &[Column] = &[
    NAME,
    number("Secrets", |o, _| tree::list(o, &["secrets"]).len().into()),
    AGE,
];

pub(super) const NAMESPACE: &[Column] = &[
    NAME,
    column("Status", |o, _| tree::text(o, &["status", "phase"]).into()),
    AGE,
];

pub(super) const POD_TEMPLATE: &[Column] = &[NAME, CONTAINERS, IMAGES];

fn endpoints(object: &Value) -> Value {
    let mut shown = Vec::new();
    let mut more = 0;
    for subset in tree::list(object, &["subsets"]) {
        let ports = tree::list(subset, &["ports"]);
        for address in tree::list(subset, &["addresses"]) {
            let ip = tree::text(address, &["ip"]);
            let mut texts: Vec<String> = ports
                .iter()
                .map(|port| format!("{ip}:{}", count(port, &["port"])))
                .collect();
            if texts.is_empty() {
                texts.push(ip.to_owned());
            }
            for text in texts {
                if shown.len() < 3 {
                    shown.push(text);
                } else {
                    more += 1;
                }
            }
        }
    }
    let mut text = shown.join(",");
    if more > 0 {
        text.push_str(&format!(" + {more} more..."));
    }
    or_none(text)
}

pub(super) const ENDPOINTS: &[Column] = &[NAME, column("Endpoints", |o, _| endpoints(o)), AGE];

fn some_of(texts: Vec<String>, most: usize, unset: &str) -> Value {
    if texts.is_empty() {
        return unset.into();
    }
    let more = texts.len().saturating_sub(most);
    let mut text = texts[..texts.len() - more].join(",");
    if more > 0 {
        text.push_str(&format!(" + {more} more..."));
    }
    text.into()
}

pub(super) const ENDPOINT_SLICE: &[Column] = &[
    NAME,
    column("AddressType", |o, _| tree::text(o, &["addressType"]).into()),
    column("Ports", |o, _| {
        let ports = tree::list(o, &["ports"])
            .iter()
            .map(|port| match tree::int(port, &["port"]) {
                Some(number) => number.to_string(),
                None => "*".to_owned(),
            })
            .collect();
        some_of(ports, 3, "<unset>")
    }),
    column("Endpoints", |o, _| {
        let addresses = tree::list(o, &["endpoints"])
            .iter()
            .flat_map(|endpoint| tree::list(endpoint, &["addresses"]))
            .filter_map(Value::as_str)
            .map(str::to_owned)
            .collect();
        some_of(addresses, 3, "<unset>")
    }),
    AGE,
];

/// When an event was last seen, and how often.
fn last_seen(event: &Value, now: Timestamp) -> String {
    let time = |path: &[&str]| Some(tree::text(event, path)).filter(|text| !text.is_empty());
    let last = time(&["series", "lastObservedTime"])
        .or_else(|| time(&["lastTimestamp"]))
        .or_else(|| time(&["deprecatedLastTimestamp"]))
        .or_else(|| time(&["eventTime"]))
        .or_else(|| time(&["firstTimestamp"]));
    last.map_or_else(|| "<unknown>".to_owned(), |last| age(last, now))
}

fn involved<'v>(event: &'v Value, field: &str) -> &'v str {
    let text = tree::text(event, &["involvedObject", field]);
    if text.is_empty() {
        tree::text(event, &["regarding", field])
    } else {
        text
    }
}

pub(super) const EVENT: &[Column] = &[
    column("Last Seen", |o, now| last_seen(o, now).into()),
    column("Type", |o, _| tree::text(o, &["type"]).into()),
    column("Reason", |o, _| tree::text(o, &["reason"]).into()),
    column("Object", |o, _| {
        let kind = involved(o, "kind").to_lowercase();
        let name = involved(o, "name");
        if name.is_empty() {
            kind.into()
        } else {
            format!("{kind}/{name}").into()
        }
    }),
    wide("Subobject", |o, _| involved(o, "fieldPath").into()),
    wide("Source", |o, _| {
        let component = tree::text(o, &["source", "component"]);
        let host = tree::text(o, &["source", "host"]);
        if component.is_empty() {
            tree::text(o, &["reportingComponent"]).into()
        } else if host.is_empty() {
            component.into()
        } else {
            format!("{component}, {host}").into()
        }
    }),
    column("Message", |o, _| {
        let message = tree::text(o, &["message"]);
        let message = if message.is_empty() {
            tree::text(o, &["note"])
        } else {
            message
        };
        message.trim().into()
    }),
    wide("First Seen", |o, now| {
        let first = tree::text(o, &["firstTimestamp"]);
        if first.is_empty() {
            age(tree::text(o, &["eventTime"]), now).into()
        } else {
            age(first, now).into()
        }
    }),
    wide("Count", |o, _| {
        let n = tree::int(o, &["series", "count"]).or_else(|| tree::int(o, &["count"]));
        n.unwrap_or(1).into()
    }),
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 1,
        cell: |object, _| tree::text(object, &["metadata", "name"]).into(),
    },
];

fn node_status(node: &Value) -> String {
    let mut words: Vec<String> = Vec::new();
    for condition in tree::list(node, &["status", "conditions"]) {
        if tree::text(condition, &["type"]) == "Ready" {
            let ready = tree::text(condition, &["status"]) == "True";
            words.push(if ready { "Ready" } else { "NotReady" }.to_owned());
        }
    }
    if words.is_empty() {
        words.push("Unknown".to_owned());
    }
    if tree::flag(node, &["spec", "unschedulable"]) {
        words.push("SchedulingDisabled".to_owned());
    }
    words.join(",")
}

fn node_roles(node: &Value) -> String {
    let mut roles: Vec<&str> = tree::entries(node, &["metadata", "labels"])
        .filter_map(|(key, value)| {
            key.strip_prefix("node-role.kubernetes.io/")
                .filter(|role| !role.is_empty())
                .or((key == "kubernetes.io/role").then_some(value.as_str().unwrap_or("")))
        })
        .collect();
    roles.sort_unstable();
    roles.join(",")
}

fn node_address(node: &Value, kind: &str) -> Value {
    or_none(
        tree::list(node, &["status", "addresses"])
            .iter()
            .find(|address| tree::text(address, &["type"]) == kind)
            .map_or("", |address| tree::text(address, &["address"]))
            .to_owned(),
    )
}

fn node_info(node: &Value, field: &str) -> Value {
    let text = tree::text(node, &["status", "nodeInfo", field]);
    if text.is_empty() { "<unknown>" } else { text }.into()
}

pub(super) const NODE: &[Column] = &[
    NAME,
    column("Status", |o, _| node_status(o).into()),
    column("Roles", |o, _| or_none(node_roles(o))),
    AGE,
    column("Version", |o, _| {
        tree::text(o, &["status", "nodeInfo", "kubeletVersion"]).into()
    }),
    wide("Internal-IP", |o, _| node_address(o, "InternalIP")),
    wide("External-IP", |o, _| node_address(o, "ExternalIP")),
    wide("OS-Image", |o, _| node_info(o, "osImage")),
    wide("Kernel-Version", |o, _| node_info(o, "kernelVersion")),
    wide("Container-Runtime", |o, _| {
        node_info(o, "containerRuntimeVersion")
    }),
];

fn external_ips(service: &Value) -> Value {
    let listed = join(
        tree::list(service, &["spec", "externalIPs"])
            .iter()
            .filter_map(Value::as_str),
    );
    match tree::text(service, &["spec", "type"]) {
        "ExternalName" => or_none(tree::text(service, &["spec", "externalName"]).to_owned()),
        "LoadBalancer" => {
            let given = join(
                tree::list(service, &["status", "loadBalancer", "ingress"])
                    .iter()
                    .map(|ingress| match tree::text(ingress, &["ip"]) {
                        "" => tree::text(ingress, &["hostname"]),
                        ip => ip,
                    }),
            );
            match (given.is_empty(), listed.is_empty()) {
                (true, true) => "<pending>".into(),
                (false, true) => given.into(),
                (true, false) => listed.into(),
                (false, false) => format!("{given},{listed}").into(),
            }
        }
        _ => or_none(listed),
    }
}

fn service_ports(service: &Value) -> Value {
    let ports: Vec<String> = tree::list(service, &["spec", "ports"])
        .iter()
        .map(|port| {
            let number = tree::int(port, &["port"]).unwrap_or(0);
            let protocol = tree::text(port, &["protocol"]);
            match tree::int(port, &["nodePort"]) {
                Some(node_port) if node_port > 0 => format!("{number}:{node_port}/{protocol}"),
                _ => format!("{number}/{protocol}"),
            }
        })
        .collect();
    or_none(ports.join(","))
}

pub(super) const SERVICE: &[Column] = &[
    NAME,
    column("Type", |o, _| tree::text(o, &["spec", "type"]).into()),
    column("Cluster-IP", |o, _| {
        or_none(tree::text(o, &["spec", "clusterIP"]).to_owned())
    }),
    column("External-IP", |o, _| external_ips(o)),
    column("Port(s)", |o, _| service_ports(o)),
    AGE,
    wide("Selector", |o, _| {
        or_none(labels(o, &["spec", "selector"]).join(","))
    }),
];

pub(super) const DEPLOYMENT: &[Column] = &[
    NAME,
    column("Ready", |o, _| {
        let ready = tree::int(o, &["status", "readyReplicas"]).unwrap_or(0);
        let wanted = tree::int(o, &["spec", "replicas"]).unwrap_or(0);
        format!("{ready}/{wanted}").into()
    }),
    number("Up-to-date", |o, _| {
        count(o, &["status", "updatedReplicas"])
    }),
    number("Available", |o, _| {
        count(o, &["status", "availableReplicas"])
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REPLICA_SET: &[Column] = &[
    NAME,
    number("Desired", |o, _| count(o, &["spec", "replicas"])),
    number("Current", |o, _| count(o, &["status", "replicas"])),
    number("Ready", |o, _| count(o, &["status", "readyReplicas"])),
    AGE,
    CONTAINERS,
    IMAGES,
    wide("Selector", |o, _| {
        match tree::at(o, &["spec", "selector", "matchLabels"])
            .or_else(|| tree::at(o, &["spec", "selector", "matchExpressions"]))
        {
            Some(_) => selector(o, &["spec", "selector"]),
            None => or_none(labels(o, &["spec", "selector"]).join(",")),
        }
    }),
];

pub(super) const STATEFUL_SET: &[Column] = &[
    NAME,
    column("Ready", |o, _| {
        let ready = tree::int(o, &["status", "readyReplicas"]).unwrap_or(0);
        let wanted = tree::int(o, &["spec", "replicas"]).unwrap_or(0);
        format!("{ready}/{wanted}").into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
];

pub(super) const DAEMON_SET: &[Column] = &[
    NAME,
    number("Desired", |o, _| {
        count(o, &["status", "desiredNumberScheduled"])
    }),
    number("Current", |o, _| {
        count(o, &["status", "currentNumberScheduled"])
    }),
    number("Ready", |o, _| count(o, &["status", "numberReady"])),
    number("Up-to-date", |o, _| {
        count(o, &["status", "updatedNumberScheduled"])
    }),
    number("Available", |o, _| count(o, &["status", "numberAvailable"])),
    column("Node Selector", |o, _| {
        or_none(labels(o, &["spec", "template", "spec", "nodeSelector"]).join(","))
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const REVISION: &[Column] = &[
    NAME,
    column("Controller", |o, _| {
        let owner = tree::list(o, &["metadata", "ownerReferences"])
            .iter()
            .find(|owner| tree::flag(owner, &["controller"]));
        or_none(owner.map_or(String::new(), |owner| {
            let kind = tree::text(owner, &["kind"]).to_lowercase();
            let group = tree::text(owner, &["apiVersion"]);
            let group = group.split_once('/').map_or("", |(group, _)| group);
            let kind = crate::error::qualified(&kind, group);
            format!("{kind}/{}", tree::text(owner, &["name"]))
        }))
    }),
    number("Revision", |o, _| count(o, &["revision"])),
    AGE,
];

fn job_status(job: &Value) -> &'static str {
    let is = |kind: &str| {
        tree::list(job, &["status", "conditions"])
            .iter()
            .any(|c| tree::text(c, &["type"]) == kind && tree::text(c, &["status"]) == "True")
    };
    if is("Complete") {
        "Complete"
    } else if is("Failed") {
        "Failed"
    } else if !tree::text(job, &["metadata", "deletionTimestamp"]).is_empty() {
        "Terminating"
    } else if is("Suspended") {
        "Suspended"
    } else if is("FailureTarget") {
        "FailureTarget"
    } else if is("SuccessCriteriaMet") {
        "SuccessCriteriaMet"
    } else {
        "Running"
    }
}

pub(super) const JOB: &[Column] = &[
    NAME,
    column("Status", |o, _| job_status(o).into()),
    column("Completions", |o, _| {
        let done = tree::int(o, &["status", "succeeded"]).unwrap_or(0);
        match tree::int(o, &["spec", "completions"]) {
            Some(wanted) => format!("{done}/{wanted}").into(),
            None => match tree::int(o, &["spec", "parallelism"]).unwrap_or(0) {
                n @ 2.. => format!("{done}/1 of {n}").into(),
                _ => format!("{done}/1").into(),
            },
        }
    }),
    column("Duration", |o, now| {
        let start = tree::text(o, &["status", "startTime"]);
        let end = tree::text(o, &["status", "completionTime"]);
        if start.is_empty() {
            return "".into();
        }
        age(start, end.parse().unwrap_or(now)).into()
    }),
    AGE,
    CONTAINERS,
    IMAGES,
    SELECTOR,
];

pub(super) const CRON_JOB: &[Column] = &[
    NAME,
    column("Schedule", |o, _| {
        tree::text(o, &["spec", "schedule"]).into()
    }),
    column("Timezone", |o, _| {
        or_none(tree::text(o, &["spec", "timeZone"]).to_owned())
    }),
    column("Suspend", |o, _| {
        if tree::flag(o, &["spec", "suspend"]) {
            "True"
        } else {
            "False"
        }
        .into()
    }),
    number("Active", |o, _| {
        tree::list(o, &["status", "active"]).len().into()
    }),
    column("Last Schedule", |o, now| {
        match tree::text(o, &["status", "lastScheduleTime"]) {
            "" => "<none>".into(),
            time => age(time, now).into(),
        }
    }),
    AGE,
];

pub(super) const LEASE: &[Column] = &[
    NAME,
    column("Holder", |o, _| {
        tree::text(o, &["spec", "holderIdentity"]).into()
    }),
    AGE,
];

pub(super) const ROLE_BINDING: &[Column] = &[
    NAME,
    column("Role", |o, _| {
        let kind = tree::text(o, &["roleRef", "kind"]);
        format!("{kind}/{}", tree::text(o, &["roleRef", "name"])).into()
    }),
    AGE,
    wide("Users", |o, _| subjects(o, "User")),
    wide("Groups", |o, _| subjects(o, "Group")),
    wide("ServiceAccounts", |o, _| subjects(o, "ServiceAccount")),
];

fn subjects(binding: &Value, kind: &str) -> Value {
    let names: Vec<String> = tree::list(binding, &["subjects"])
        .iter()
        .filter(|subject| tree::text(subject, &["kind"]) == kind)
        .map(|subject| {
            let name = tree::text(subject, &["name"]);
            if kind == "ServiceAccount" {
                format!("{}/{name}", tree::text(subject, &["namespace"]))
            } else {
                name.to_owned()
            }
        })
        .collect();
    names.join(", ").into()
}

pub(super) const NETWORK_POLICY: &[Column] = &[
    NAME,
    column("Pod-Selector", |o, _| selector(o, &["spec", "podSelector"])),
    AGE,
];

pub(super) const INGRESS_CLASS: &[Column] = &[
    NAME,
    column("Controller", |o, _| {
        tree::text(o, &["spec", "controller"]).into()
    }),
    column("Parameters", |o, _| {
        let kind = tree::text(o, &["spec", "parameters", "kind"]);
        if kind.is_empty() {
            return "<none>".into();
        }
        let kind =
            crate::error::qualified(kind, tree::text(o, &["spec", "parameters", "apiGroup"]));
        format!("{kind}/{}", tree::text(o, &["spec", "parameters", "name"])).into()
    }),
    AGE,
];

pub(super) const INGRESS: &[Column] = &[
    NAME,
    column("Class", |o, _| {
        let class = match tree::text(o, &["spec", "ingressClassName"]) {
            "" => tree::text(
                o,
                &["metadata", "annotations", "kubernetes.io/ingress.class"],
            ),
            class => class,
        };
        or_none(class.to_owned())
    }),
    column("Hosts", |o, _| {
        let hosts: Vec<String> = tree::list(o, &["spec", "rules"])
            .iter()
            .map(|rule| tree::text(rule, &["host"]).to_owned())
            .filter(|host| !host.is_empty())
            .collect();
        some_of(hosts, 3, "*")
    }),
    column("Address", |o, _| {
        join(
            tree::list(o, &["status", "loadBalancer", "ingress"])
                .iter()
                .map(|ingress| match tree::text(ingress, &["ip"]) {
                    "" => tree::text(ingress, &["hostname"]),
                    ip => ip,
                }),
        )
        .into()
    }),
    column("Ports", |o, _| {
        let secure = !tree::list(o, &["spec", "tls"]).is_empty();
        if secure { "80, 443" } else { "80" }.into()
    }),
    AGE,
];

pub(super) const DISRUPTION_BUDGET: &[Column] = &[
    NAME,
    column("Min Available", |o, _| {
        int_or_text(tree::at(o, &["spec", "minAvailable"]))
    }),
    column("Max Unavailable", |o, _| {
        int_or_text(tree::at(o, &["spec", "maxUnavailable"]))
    }),
    number("Allowed Disruptions", |o, _| {
        count(o, &["status", "disruptionsAllowed"])
    }),
    AGE,
];

fn int_or_text(value: Option<&Value>) -> Value {
    match value {
        None | Some(Value::Null) => "N/A".into(),
        Some(Value::String(text)) => text.as_str().into(),
        Some(other) => other.to_string().into(),
    }
}

pub(super) const AUTOSCALER: &[Column] = &[
    NAME,
    column("Reference", |o, _| {
        let kind = tree::text(o, &["spec", "scaleTargetRef", "kind"]);
        format!(
            "{kind}/{}",
            tree::text(o, &["spec", "scaleTargetRef", "name"])
        )
        .into()
    }),
    column("Targets", |o, _| {
        let n = tree::list(o, &["spec", "metrics"]).len();
        if n == 0 {
            "<none>".into()
        } else {
            format!("{n} metrics").into()
        }
    }),
    column("MinPods", |o, _| {
        match tree::int(o, &["spec", "minReplicas"]) {
            Some(n) => n.to_string().into(),
            None => "<unset>".into(),
        }
    }),
    number("MaxPods", |o, _| count(o, &["spec", "maxReplicas"])),
    number("Replicas", |o, _| count(o, &["status", "currentReplicas"])),
    AGE,
];

pub(super) const STORAGE_CLASS: &[Column] = &[
    NAME,
    column("Provisioner", |o, _| tree::text(o, &["provisioner"]).into()),
    column("ReclaimPolicy", |o, _| {
        tree::text(o, &["reclaimPolicy"]).into()
    }),
    column("VolumeBindingMode", |o, _| {
        tree::text(o, &["volumeBindingMode"]).into()
    }),
    column("AllowVolumeExpansion", |o, _| {
        tree::flag(o, &["allowVolumeExpansion"]).into()
    }),
    AGE,
];

pub(super) const PRIORITY_CLASS: &[Column] = &[
    NAME,
    number("Value", |o, _| count(o, &["value"])),
    column("Global-Default", |o, _| {
        tree::flag(o, &["globalDefault"]).into()
    }),
    AGE,
    column("PreemptionPolicy", |o, _| {
        tree::text(o, &["preemptionPolicy"]).into()
    }),
];

pub(super) const RUNTIME_CLASS: &[Column] = &[
    NAME,
    column("Handler", |o, _| tree::text(o, &["handler"]).into()),
    AGE,
];

fn access_modes(object: &Value, path: &[&str]) -> String {
    let modes = tree::list(object, path).iter().filter_map(Value::as_str);
    join(modes.map(|mode| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    }))
}

pub(super) const CLAIM: &[Column] = &[
    NAME,
    column("Status", |o, _| {
        if tree::text(o, &["metadata", "deletionTimestamp"]).is_empty() {
            tree::text(o, &["status", "phase"]).into()
        } else {
            "Terminating".into()
        }
    }),
    column("Volume", |o, _| {
        tree::text(o, &["spec", "volumeName"]).into()
    }),
    column("Capacity", |o, _| {
        tree::text(o, &["status", "capacity", "storage"]).into()
    }),
    column("Access Modes", |o, _| {
        access_modes(o, &["status", "accessModes"]).into()
    }),
    column("StorageClass", |o, _| {
        tree::text(o, &["spec", "storageClassName"]).into()
    }),
    AGE,
    wide("VolumeMode", |o, _| {
        tree::text(o, &["spec", "volumeMode"]).into()
    }),
];

pub(super) const VOLUME: &[Column] = &[
    NAME,
    column("Capacity", |o, _| {
        tree::text(o, &["spec", "capacity", "storage"]).into()
    }),
    column("Access Modes", |o, _| {
        access_modes(o, &["spec", "accessModes"]).into()
    }),
    column("Reclaim Policy", |o, _| {
        tree::text(o, &["spec", "persistentVolumeReclaimPolicy"]).into()
    }),
    column("Status", |o, _| tree::text(o, &["status", "phase"]).into()),
    column("Claim", |o, _| {
        let name = tree::text(o, &["spec", "claimRef", "name"]);
        if name.is_empty() {
            return "".into();
        }
        format!(
            "{}/{name}",
            tree::text(o, &["spec", "claimRef", "namespace"])
        )
        .into()
    }),
    column("StorageClass", |o, _| {
        tree::text(o, &["spec", "storageClassName"]).into()
    }),
    column("Reason", |o, _| tree::text(o, &["status", "reason"]).into()),
    AGE,
    wide("VolumeMode", |o, _| {
        tree::text(o, &["spec", "volumeMode"]).into()
    }),
];

/// The column definitions as a Table has them.
pub(crate) fn definitions(columns: &[Column]) -> Value {
    columns
        .iter()
        .map(|column| {
            json!({"name": column.name, "type": column.kind, "format": column.format,
                "description": column.name, "priority": column.priority})
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::human;

    #[test]
    fn ages_are_shortened_as_upstream_does() {
        for (seconds, text) in [
            (-5, "<invalid>"),
            (-1, "0s"),
            (0, "0s"),
            (119, "119s"),
            (120, "2m"),
            (150, "2m30s"),
            (600, "10m"),
            (3 * 3600, "3h"),
            (3 * 3600 + 60, "3h1m"),
            (9 * 3600 + 60, "9h"),
            (50 * 3600, "2d2h"),
            (10 * 86_400, "10d"),
            (800 * 86_400, "2y70d"),
            (3000 * 86_400, "8y"),
        ] {
            assert_eq!(human(seconds), text, "{seconds}");
        }
    }
}
