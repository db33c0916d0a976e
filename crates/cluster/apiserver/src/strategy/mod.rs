//! Hand-written rules of the kinds: what the schema cannot say.
//!
//! Each kind has one [`Strategy`]; the verbs call it at fixed points and know
//! no kind by name.

pub(crate) mod metadata;
mod pods;
mod rules;
mod services;
mod simple;
mod workloads;

use crate::resource::{Conversion, Names, Strategy};

pub(crate) use rules::selector_of;

/// Kinds with a spec, a status and no rules of their own here.
pub(crate) const SPEC_AND_STATUS: Strategy = Strategy {
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const POD: Strategy = Strategy {
    defaults: pods::defaults,
    prepare_create: pods::prepare_create,
    prepare_update: pods::prepare_update,
    validate: pods::validate,
    validate_update: pods::validate_update,
    returns_deleted: true,
    generation: true,
    fields: &[
        ("spec.nodeName", &["spec", "nodeName"]),
        ("spec.restartPolicy", &["spec", "restartPolicy"]),
        ("spec.schedulerName", &["spec", "schedulerName"]),
        ("spec.serviceAccountName", &["spec", "serviceAccountName"]),
        ("spec.hostNetwork", &["spec", "hostNetwork"]),
        ("status.phase", &["status", "phase"]),
        ("status.podIP", &["status", "podIP"]),
        ("status.nominatedNodeName", &["status", "nominatedNodeName"]),
    ],
    ..Strategy::PLAIN
};

pub(crate) const DEPLOYMENT: Strategy = Strategy {
    defaults: workloads::deployment_defaults,
    validate: workloads::validate_deployment,
    validate_update: workloads::selector_is_immutable,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const REPLICA_SET: Strategy = Strategy {
    defaults: workloads::template_defaults,
    validate: workloads::validate_template_owner,
    validate_update: workloads::selector_is_immutable,
    generation: true,
    fields: &[("status.replicas", &["status", "replicas"])],
    ..Strategy::PLAIN
};

pub(crate) const REPLICATION_CONTROLLER: Strategy = Strategy {
    defaults: workloads::replication_controller_defaults,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const STATEFUL_SET: Strategy = Strategy {
    defaults: workloads::stateful_set_defaults,
    validate: workloads::validate_template_owner,
    validate_update: workloads::stateful_set_update,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const DAEMON_SET: Strategy = Strategy {
    defaults: workloads::daemon_set_defaults,
    validate: workloads::validate_template_owner,
    validate_update: workloads::selector_is_immutable,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const JOB: Strategy = Strategy {
    defaults: workloads::job_defaults,
    prepare_create: workloads::job_prepare,
    validate: workloads::validate_job,
    validate_update: workloads::job_update,
    generation: true,
    fields: &[("status.successful", &["status", "succeeded"])],
    ..Strategy::PLAIN
};

pub(crate) const CRON_JOB: Strategy = Strategy {
    defaults: workloads::cron_job_defaults,
    validate: workloads::validate_cron_job,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const SERVICE: Strategy = Strategy {
    defaults: services::defaults,
    prepare_create: services::prepare_create,
    validate: services::validate,
    validate_update: services::validate_update,
    names: Names::Label1035,
    returns_deleted: true,
    fields: &[
        ("spec.clusterIP", &["spec", "clusterIP"]),
        ("spec.type", &["spec", "type"]),
    ],
    ..Strategy::PLAIN
};

pub(crate) const ENDPOINT_SLICE: Strategy = Strategy {
    validate_update: simple::endpoint_slice_update,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const NAMESPACE: Strategy = Strategy {
    prepare_create: simple::namespace_prepare,
    defaults: simple::namespace_defaults,
    names: Names::Label,
    fields: &[("status.phase", &["status", "phase"])],
    ..Strategy::PLAIN
};

pub(crate) const NODE: Strategy = Strategy {
    fields: &[("spec.unschedulable", &["spec", "unschedulable"])],
    ..Strategy::PLAIN
};

pub(crate) const SECRET: Strategy = Strategy {
    defaults: simple::secret_defaults,
    validate: simple::validate_secret,
    validate_update: simple::secret_update,
    fields: &[("type", &["type"])],
    ..Strategy::PLAIN
};

pub(crate) const CONFIG_MAP: Strategy = Strategy {
    validate: simple::validate_config_map,
    validate_update: simple::config_map_update,
    ..Strategy::PLAIN
};

pub(crate) const CLAIM: Strategy = Strategy {
    prepare_create: simple::pending_prepare,
    returns_deleted: true,
    ..Strategy::PLAIN
};

pub(crate) const VOLUME: Strategy = Strategy {
    prepare_create: simple::pending_prepare,
    returns_deleted: true,
    ..Strategy::PLAIN
};

pub(crate) const NETWORK_POLICY: Strategy = Strategy {
    defaults: simple::network_policy_defaults,
    generation: true,
    ..Strategy::PLAIN
};

pub(crate) const ROLE_BINDING: Strategy = Strategy {
    defaults: simple::role_binding_defaults,
    validate: simple::validate_role_binding,
    validate_update: simple::role_binding_update,
    names: Names::Segment,
    ..Strategy::PLAIN
};

pub(crate) const EVENT: Strategy = Strategy {
    fields: &[
        ("involvedObject.kind", &["involvedObject", "kind"]),
        ("involvedObject.namespace", &["involvedObject", "namespace"]),
        ("involvedObject.name", &["involvedObject", "name"]),
        ("involvedObject.uid", &["involvedObject", "uid"]),
        (
            "involvedObject.apiVersion",
            &["involvedObject", "apiVersion"],
        ),
        (
            "involvedObject.resourceVersion",
            &["involvedObject", "resourceVersion"],
        ),
        ("involvedObject.fieldPath", &["involvedObject", "fieldPath"]),
        ("reason", &["reason"]),
        ("reportingComponent", &["reportingComponent"]),
        ("source", &["source", "component"]),
        ("type", &["type"]),
    ],
    ..Strategy::PLAIN
};

/// `events.k8s.io` shows the core group's events under other names.
pub(crate) const EVENT_VIEW: Conversion = Conversion {
    to_stored: simple::event_to_core,
    from_stored: simple::event_from_core,
};
