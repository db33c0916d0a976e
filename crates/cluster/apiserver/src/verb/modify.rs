//! The way of every change to an existing object, and `update`.

use bytes::Bytes;
use dhow_schema::{defaults, validate};
use dhow_store::{Op, Txn};
use http::{Response, StatusCode};
use serde_json::Value;

use super::body;
use crate::api::{Api, Body, Context, DryRun, durability, json_response};
use crate::auth::UserInfo;
use crate::error::ApiError;
use crate::managed;
use crate::object::{Object, Shared, to_stored};
use crate::resource::{Resource, Subresource};
use crate::strategy::metadata;
use crate::tree;

/// Which part of an object a change is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All but the status.
    Whole,
    /// The status.
    Status,
    /// A namespace's finalizers.
    Finalize,
    /// A pod's ephemeral containers.
    Ephemeral,
    /// A pod's resources.
    Resize,
    /// Whatever the server itself changes: no field is held back.
    Internal,
}

impl Scope {
    /// The subresource's name in managed fields.
    pub(crate) fn subresource(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Finalize => "finalize",
            Self::Ephemeral => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Whole | Self::Internal => "",
        }
    }
}

/// Who writes, and how.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub scope: Scope,
    pub manager: managed::Manager,
    pub dry_run: DryRun,
    /// Who may grant no more than they have; `None` for the server itself.
    pub user: Option<UserInfo>,
}

impl Write {
    pub(crate) fn by(context: &Context, scope: Scope) -> Result<Self, ApiError> {
        Ok(Self {
            scope,
            manager: managed::Manager::Update(context.field_manager()),
            dry_run: context.dry_run()?,
            user: Some(context.user.clone()),
        })
    }
}

/// A change that meets other changes is tried so often.
const ATTEMPTS: usize = 16;

impl Api {
    pub(super) async fn update(
        &self,
        context: &Context,
        resource: &Resource,
        scope: Scope,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let parsed = body::parse(context, self.types, &bytes)?;
        let mut value = self.conform(context, resource, parsed)?;
        self.check_names(context, resource, &mut value)?;
        let write = Write::by(context, scope)?;
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let object = self
            .modify(resource, namespace, name, &write, |_| Ok(value.clone()))
            .await?;
        Ok(json_response(
            StatusCode::OK,
            context.show(resource).one(&object),
        ))
    }

    /// Changes an object: `change` makes the wished-for tree from the current
    /// one, both as `resource` shows them; it is called again when another
    /// writer was faster, unless it names a resource version.
    pub(crate) async fn modify(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        write: &Write,
        mut change: impl FnMut(&Value) -> Result<Value, ApiError> + Send,
    ) -> Result<Shared, ApiError> {
        let stored_as = self.stored(resource);
        let mut current = self.find(stored_as, namespace, name).await?;
        for _ in 0..ATTEMPTS {
            let Some(found) = &current else {
                return Err(ApiError::not_found(resource, name));
            };
            let mut old = found.tree();
            if let Some((_, conversion)) = resource.view {
                (conversion.from_stored)(&mut old);
            }
            let mut new = change(&old)?;
            check_preconditions(resource, name, &new, &old)?;
            let mut claim = self.prepare_update(resource, write, &mut new, &old)?;
            if let Some((_, conversion)) = resource.view {
                (conversion.to_stored)(&mut new);
            }
            let stored = to_stored(&new);
            let revision = found.revision;
            if new == found.tree() {
                return Ok(found.clone());
            }
            if write.dry_run == DryRun::All {
                return Ok(Object::new(stored_as, &new, &stored, revision).into());
            }
            let is_over = is_over(stored_as, &new);
            let written = if is_over {
                self.remove(stored_as, namespace, name, revision)
                    .await?
                    .map(|revision| Object::new(stored_as, &new, &stored, revision))
            } else {
                self.put(stored_as, &new, stored, revision).await?
            };
            if let Some(object) = written {
                if is_over {
                    drop(claim);
                    self.addresses.released(resource, &old, None);
                } else {
                    claim.keep();
                    self.addresses.released(resource, &old, Some(&new));
                }
                return Ok(object.into());
            }
            // Somebody was faster: look again, at the store's newest.
            current = self.find(stored_as, namespace, name).await?;
        }
        Err(ApiError::modified(resource, name))
    }

    /// Deletes a key if nobody wrote it since `revision`; the deletion's
    /// revision, or `None` if somebody did.
    pub(crate) async fn remove(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        revision: u64,
    ) -> Result<Option<u64>, ApiError> {
        let key: std::sync::Arc<str> = resource.key(namespace, name).into();
        let outcome = self
            .commit(Txn {
                compares: vec![(key.clone(), revision)],
                then: vec![Op::Delete { key }],
                otherwise: Vec::new(),
                durability: durability(resource),
            })
            .await?;
        Ok(outcome.succeeded.then_some(outcome.revision))
    }

    /// Brings a wished-for tree to what may be stored.
    fn prepare_update(
        &self,
        resource: &Resource,
        write: &Write,
        new: &mut Value,
        old: &Value,
    ) -> Result<crate::admission::Claim<'_>, ApiError> {
        restrict(resource, write.scope, new, old);
        keep_metadata(new, old);
        defaults::fill(self.types, &resource.shape, new);
        (resource.strategy.defaults)(new);
        (resource.strategy.prepare_update)(new, old);
        if resource.strategy.generation {
            let spec =
                |object: &Value| without(object, &["kind", "apiVersion", "metadata", "status"]);
            let generation = tree::int(old, &["metadata", "generation"]).unwrap_or(1);
            let changed = i64::from(spec(new) != spec(old));
            tree::set(new, &["metadata", "generation"], generation + changed);
        }
        let claim = self.addresses.claim(resource, new, Some(old))?;
        let name = tree::text(old, &["metadata", "name"]);
        let mut errors = Vec::new();
        metadata::validate(resource, new, &mut errors);
        if write.scope == Scope::Whole {
            errors.extend(validate::check(self.types, &resource.shape, new));
            (resource.strategy.validate)(new, &mut errors);
            (resource.strategy.validate_update)(new, old, &mut errors);
        }
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, name, &errors));
        }
        self.admit_grants(write.user.as_ref(), resource, new, Some(old))?;
        managed::updated(self, resource, new, old, &write.manager, write.scope);
        Ok(claim)
    }
}

fn without(object: &Value, fields: &[&str]) -> Value {
    let mut object = object.clone();
    for field in fields {
        tree::remove(&mut object, &[field]);
    }
    object
}

/// Whether an object that is being deleted has nothing left to wait for.
pub(crate) fn is_over(resource: &Resource, value: &Value) -> bool {
    let going = !tree::text(value, &["metadata", "deletionTimestamp"]).is_empty();
    let grace = tree::int(value, &["metadata", "deletionGracePeriodSeconds"]).unwrap_or(0);
    let waits = !tree::list(value, &["metadata", "finalizers"]).is_empty();
    let is_namespace = resource.group.is_empty() && resource.plural == "namespaces";
    let holds = is_namespace && !tree::list(value, &["spec", "finalizers"]).is_empty();
    going && grace == 0 && !waits && !holds
}

fn check_preconditions(
    resource: &Resource,
    name: &str,
    new: &Value,
    old: &Value,
) -> Result<(), ApiError> {
    let field = |object, field: &'static str| tree::text(object, &["metadata", field]);
    let version = field(new, "resourceVersion");
    if !version.is_empty() && version != "0" && version != field(old, "resourceVersion") {
        return Err(ApiError::modified(resource, name));
    }
    let uid = field(new, "uid");
    if !uid.is_empty() && uid != field(old, "uid") {
        let why = format!(
            "Precondition failed: UID in precondition: {uid}, UID in object meta: {}",
            field(old, "uid")
        );
        return Err(ApiError::conflict(resource, name, &why));
    }
    Ok(())
}

/// Takes back what the scope may not change.
fn restrict(resource: &Resource, scope: Scope, new: &mut Value, old: &Value) {
    match scope {
        Scope::Internal => {}
        Scope::Whole => {
            if resource.has(Subresource::Status) {
                take(new, old, &["status"]);
            }
            if resource.prefix == "namespaces" {
                take(new, old, &["spec", "finalizers"]);
            }
        }
        Scope::Status => {
            let status = new.get("status").cloned();
            let metadata = new.get("metadata").cloned();
            *new = old.clone();
            match status {
                Some(status) => tree::set(new, &["status"], status),
                None => {
                    tree::remove(new, &["status"]);
                }
            }
            if let Some(metadata) = metadata {
                tree::set(new, &["metadata"], metadata);
            }
            if !matches!(&*resource.prefix, "pods" | "minions") {
                take(new, old, &["metadata", "labels"]);
            }
            take(new, old, &["metadata", "ownerReferences"]);
        }
        Scope::Finalize => only(new, old, &["spec", "finalizers"]),
        Scope::Ephemeral => only(new, old, &["spec", "ephemeralContainers"]),
        Scope::Resize => only(new, old, &["spec", "containers"]),
    }
}

fn take(new: &mut Value, old: &Value, path: &[&str]) {
    match tree::at(old, path) {
        Some(value) => tree::set(new, path, value.clone()),
        None => {
            tree::remove(new, path);
        }
    }
}

fn only(new: &mut Value, old: &Value, path: &[&str]) {
    let wished = tree::at(new, path).cloned();
    *new = old.clone();
    match wished {
        Some(value) => tree::set(new, path, value),
        None => {
            tree::remove(new, path);
        }
    }
}

/// Metadata that is not the client's to change.
fn keep_metadata(new: &mut Value, old: &Value) {
    for field in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "generation",
        "generateName",
        "selfLink",
        "resourceVersion",
    ] {
        take(new, old, &["metadata", field]);
    }
    // An object on its way out gets no new finalizers.
    if tree::at(old, &["metadata", "deletionTimestamp"]).is_some() {
        let had = tree::list(old, &["metadata", "finalizers"]).to_vec();
        if let Some(Value::Array(finalizers)) = new
            .get_mut("metadata")
            .and_then(|metadata| metadata.get_mut("finalizers"))
        {
            finalizers.retain(|finalizer| had.contains(finalizer));
        }
    }
}
