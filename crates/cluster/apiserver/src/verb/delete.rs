//! `delete` and `deletecollection`: preconditions, grace, propagation, finalizers.

use bytes::Bytes;
use dhow_schema::decode;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body;
use super::modify::is_over;
use crate::api::{Api, Body, Context, DryRun, json_response};
use crate::error::ApiError;
use crate::object::{Object, Shared, to_stored};
use crate::resource::Resource;
use crate::show::serialize;
use crate::tree;

/// Finalizers that stand for a propagation policy.
const ORPHAN: &str = "orphan";
const FOREGROUND: &str = "foregroundDeletion";

/// A deletion that meets other changes is tried so often.
const ATTEMPTS: usize = 16;

/// What happens to an object's dependents.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Propagation {
    /// As the object's finalizers say.
    #[default]
    Unset,
    Background,
    Foreground,
    Orphan,
}

/// DeleteOptions.
#[derive(Clone, Debug, Default)]
pub(crate) struct Deletion {
    grace: Option<i64>,
    propagation: Propagation,
    uid: String,
    version: String,
    dry: bool,
}

impl Deletion {
    pub(crate) fn read(
        context: &Context,
        types: &dhow_schema::Types,
        bytes: &[u8],
    ) -> Result<Self, ApiError> {
        let options = if bytes.is_empty() {
            Value::Null
        } else {
            body::parse(context, types, bytes)?.value
        };
        Self::parse(context, &options)
    }

    pub(crate) fn parse(context: &Context, options: &Value) -> Result<Self, ApiError> {
        let query = &context.query;
        let grace = match tree::int(options, &["gracePeriodSeconds"]) {
            Some(seconds) => Some(seconds),
            None => query.number("gracePeriodSeconds")?.map(|n| n as i64),
        };
        if grace.is_some_and(|seconds| seconds < 0) {
            return Err(ApiError::unprocessable(
                "DeleteOptions.meta.k8s.io \"\" is invalid: gracePeriodSeconds: Invalid value: must be greater than or equal to 0",
            ));
        }
        let policy = match tree::text(options, &["propagationPolicy"]) {
            "" => query.get("propagationPolicy"),
            policy => policy,
        };
        let orphans = tree::at(options, &["orphanDependents"]).and_then(Value::as_bool);
        let propagation = match (policy, orphans) {
            ("Background", None) | ("", Some(false)) => Propagation::Background,
            ("Foreground", None) => Propagation::Foreground,
            ("Orphan", None) | ("", Some(true)) => Propagation::Orphan,
            ("", None) => Propagation::Unset,
            (_, Some(_)) => {
                return Err(ApiError::unprocessable(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Invalid value: orphanDependents and deletionPropagation cannot be both set",
                ));
            }
            (other, None) => {
                return Err(ApiError::unprocessable(format!(
                    "DeleteOptions.meta.k8s.io \"\" is invalid: propagationPolicy: Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\""
                )));
            }
        };
        let dry = context.dry_run()? == DryRun::All
            || tree::list(options, &["dryRun"])
                .iter()
                .any(|word| word == "All");
        Ok(Self {
            grace,
            propagation,
            uid: tree::text(options, &["preconditions", "uid"]).to_owned(),
            version: tree::text(options, &["preconditions", "resourceVersion"]).to_owned(),
            dry,
        })
    }
}

/// What became of a deletion.
pub(crate) enum Deleted {
    /// The object is gone; its last state.
    Gone(Shared),
    /// It is on its way out.
    Going(Shared),
}

impl Api {
    pub(super) async fn delete(
        &self,
        context: &Context,
        resource: &Resource,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let deletion = Deletion::read(context, self.types, &bytes)?;
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let deleted = self
            .delete_object(resource, namespace, name, &deletion)
            .await?;
        let json = match deleted {
            Deleted::Going(object) => context.show(resource).one(&object),
            Deleted::Gone(object) if resource.strategy.returns_deleted => {
                context.show(resource).one(&object)
            }
            Deleted::Gone(object) => {
                let uid = tree::text(&object.tree(), &["metadata", "uid"]).to_owned();
                let mut details = json!({"name": name, "kind": resource.plural, "uid": uid});
                if !resource.group.is_empty() {
                    details["group"] = resource.group.clone().into();
                }
                serialize(
                    &json!({"kind": "Status", "apiVersion": "v1", "metadata": {},
                    "status": "Success", "details": details}),
                )
            }
        };
        Ok(json_response(StatusCode::OK, json))
    }

    pub(super) async fn delete_collection(
        &self,
        context: &Context,
        resource: &Resource,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let deletion = Deletion::read(context, self.types, &bytes)?;
        let page = self.page(context, resource).await?;
        let mut shown = Vec::with_capacity(page.objects.len());
        for object in page.objects {
            let done = self
                .delete_object(resource, &object.namespace, &object.name, &deletion)
                .await;
            match done {
                Ok(Deleted::Gone(object) | Deleted::Going(object)) => shown.push(object),
                Err(error) if error.code == 404 => {}
                Err(error) => return Err(error),
            }
        }
        let metadata = json!({"resourceVersion": self.store.revision().to_string()});
        Ok(json_response(
            StatusCode::OK,
            context.show(resource).list(&shown, &metadata),
        ))
    }

    /// Deletes an object, or begins to.
    pub(crate) async fn delete_object(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        deletion: &Deletion,
    ) -> Result<Deleted, ApiError> {
        let resource = self.stored(resource);
        for _ in 0..ATTEMPTS {
            let Some(current) = self.find(resource, namespace, name).await? else {
                return Err(ApiError::not_found(resource, name));
            };
            let mut value = current.tree();
            check(resource, name, deletion, &value)?;
            let before = value.clone();
            self.mark(resource, &mut value, deletion);
            if is_over(resource, &value) {
                if deletion.dry {
                    return Ok(Deleted::Gone(current));
                }
                let removed = self
                    .remove(resource, namespace, name, current.revision)
                    .await?;
                if let Some(revision) = removed {
                    self.addresses.released(resource, &before, None);
                    return Ok(Deleted::Gone(current.at_revision(revision).into()));
                }
                continue;
            }
            let stored = to_stored(&value);
            if deletion.dry || value == before {
                let object = Object::new(resource, &value, &stored, current.revision);
                return Ok(Deleted::Going(object.into()));
            }
            if let Some(object) = self.put(resource, &value, stored, current.revision).await? {
                return Ok(Deleted::Going(object.into()));
            }
        }
        Err(ApiError::modified(resource, name))
    }

    /// Marks an object as going, as the options and its kind say.
    fn mark(&self, resource: &Resource, value: &mut Value, deletion: &Deletion) {
        let mut finalizers: Vec<Value> = tree::list(value, &["metadata", "finalizers"]).to_vec();
        let wanted = match deletion.propagation {
            Propagation::Unset => None,
            Propagation::Background => Some(""),
            Propagation::Foreground => Some(FOREGROUND),
            Propagation::Orphan => Some(ORPHAN),
        };
        if let Some(wanted) = wanted {
            finalizers.retain(|finalizer| finalizer != ORPHAN && finalizer != FOREGROUND);
            if !wanted.is_empty() {
                finalizers.push(wanted.into());
            }
            if finalizers.is_empty() {
                tree::remove(value, &["metadata", "finalizers"]);
            } else {
                tree::set(value, &["metadata", "finalizers"], finalizers);
            }
        }
        let grace = grace(resource, value, deletion);
        let going = !tree::text(value, &["metadata", "deletionTimestamp"]).is_empty();
        let earlier = tree::int(value, &["metadata", "deletionGracePeriodSeconds"]);
        // A second deletion may shorten the time that is left, not lengthen it.
        let shortens = going && earlier.is_some_and(|earlier| grace < earlier);
        if going && !shortens {
            return;
        }
        let end = self.now() + jiff::SignedDuration::from_secs(grace);
        tree::set(
            value,
            &["metadata", "deletionTimestamp"],
            decode::print_seconds(end),
        );
        tree::set(value, &["metadata", "deletionGracePeriodSeconds"], grace);
        if resource.strategy.generation && !going {
            let generation = tree::int(value, &["metadata", "generation"]).unwrap_or(1);
            tree::set(value, &["metadata", "generation"], generation + 1);
        }
        if resource.prefix == "namespaces" {
            tree::set(value, &["status", "phase"], "Terminating");
        }
    }
}

/// Seconds until the object may go by force.
fn grace(resource: &Resource, value: &Value, deletion: &Deletion) -> i64 {
    if resource.prefix != "pods" {
        return 0;
    }
    let unscheduled = tree::text(value, &["spec", "nodeName"]).is_empty();
    let phase = tree::text(value, &["status", "phase"]);
    if unscheduled || matches!(phase, "Succeeded" | "Failed") {
        return 0;
    }
    deletion
        .grace
        .or_else(|| tree::int(value, &["spec", "terminationGracePeriodSeconds"]))
        .unwrap_or(30)
        .clamp(0, i64::from(i32::MAX))
}

fn check(
    resource: &Resource,
    name: &str,
    deletion: &Deletion,
    value: &Value,
) -> Result<(), ApiError> {
    let uid = tree::text(value, &["metadata", "uid"]);
    if !deletion.uid.is_empty() && deletion.uid != uid {
        let why = format!(
            "Precondition failed: UID in precondition: {}, UID in object meta: {uid}",
            deletion.uid
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    let version = tree::text(value, &["metadata", "resourceVersion"]);
    if !deletion.version.is_empty() && deletion.version != version {
        let why = format!(
            "Precondition failed: ResourceVersion in precondition: {}, ResourceVersion in object meta: {version}",
            deletion.version
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    if resource.prefix == "namespaces" && matches!(name, "default" | "kube-system" | "kube-public")
    {
        return Err(ApiError::forbidden(
            resource,
            name,
            "this namespace may not be deleted",
        ));
    }
    Ok(())
}
