//! Who owns which fields: `metadata.managedFields` at creation, update and apply.

use bytes::Bytes;
use dhow_schema::apply;
use dhow_schema::decode::Parsed;
use dhow_schema::fields::FieldSet;
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::resource::{Resource, Subresource};
use crate::tree;
use crate::verb::{Scope, Write, body};

/// Whose a write is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Manager {
    /// A client's update or patch.
    Update(String),
    /// An applied configuration and the fields in it.
    Apply(String, FieldSet),
    /// The change has settled ownership itself.
    Settled,
    /// The server's own: no owner is recorded.
    Server,
}

/// No object has more owners by update than this; the oldest are joined.
const MOST_UPDATERS: usize = 10;
const ANCIENT: &str = "ancient-changes";

/// One entry of managed fields.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Owned {
    manager: String,
    operation: String,
    version: String,
    time: String,
    subresource: String,
    set: FieldSet,
}

impl Owned {
    fn read(value: &Value) -> Option<Self> {
        let text = |field: &'static str| tree::text(value, &[field]).to_owned();
        let operation = text("operation");
        matches!(&*operation, "Apply" | "Update").then(|| Self {
            manager: text("manager"),
            operation,
            version: text("apiVersion"),
            time: text("time"),
            subresource: text("subresource"),
            set: FieldSet::parse(value.get("fieldsV1").unwrap_or(&Value::Null)),
        })
    }

    fn write(&self) -> Value {
        let mut entry = Map::new();
        for (field, text) in [
            ("manager", &self.manager),
            ("operation", &self.operation),
            ("apiVersion", &self.version),
            ("time", &self.time),
        ] {
            entry.insert(field.to_owned(), text.as_str().into());
        }
        entry.insert("fieldsType".to_owned(), "FieldsV1".into());
        entry.insert("fieldsV1".to_owned(), self.set.to_json());
        if !self.subresource.is_empty() {
            entry.insert("subresource".to_owned(), self.subresource.as_str().into());
        }
        Value::Object(entry)
    }

    fn is(&self, operation: &str, manager: &str, version: &str, subresource: &str) -> bool {
        self.operation == operation
            && self.manager == manager
            && self.subresource == subresource
            && (self.version == version || operation == "Apply")
    }

    /// As a conflict names it.
    fn shown(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.version));
            if !self.time.is_empty() {
                text.push_str(&format!(" at {}", self.time));
            }
        }
        text
    }
}

fn read(object: &Value) -> Vec<Owned> {
    tree::list(object, &["metadata", "managedFields"])
        .iter()
        .filter_map(Owned::read)
        .collect()
}

fn write(object: &mut Value, mut owners: Vec<Owned>) {
    owners.retain(|owned| !owned.set.is_empty());
    let n_updaters = |owners: &[Owned]| {
        owners
            .iter()
            .filter(|owned| owned.operation == "Update" && owned.subresource.is_empty())
            .count()
    };
    while n_updaters(&owners) > MOST_UPDATERS {
        let oldest = owners
            .iter()
            .enumerate()
            .filter(|(_, owned)| owned.operation == "Update" && owned.subresource.is_empty())
            .filter(|(_, owned)| owned.manager != ANCIENT)
            .min_by(|(_, a), (_, b)| a.time.cmp(&b.time))
            .map(|(at, _)| at);
        let Some(at) = oldest else { break };
        let mut old = owners.remove(at);
        match owners.iter_mut().find(|owned| owned.manager == ANCIENT) {
            Some(ancient) => {
                let set = std::mem::take(&mut ancient.set);
                ancient.set = set.union(old.set);
                ancient.time = ancient.time.clone().max(old.time);
            }
            None => {
                ANCIENT.clone_into(&mut old.manager);
                owners.push(old);
            }
        }
    }
    if owners.is_empty() {
        tree::remove(object, &["metadata", "managedFields"]);
    } else {
        owners.sort_by(|a, b| {
            (&a.operation, &a.time, &a.manager).cmp(&(&b.operation, &b.time, &b.manager))
        });
        let entries: Vec<Value> = owners.iter().map(Owned::write).collect();
        tree::set(object, &["metadata", "managedFields"], entries);
    }
}

/// Leaves out what nobody owns: identity and the server's own bookkeeping.
fn strip(mut set: FieldSet) -> FieldSet {
    for path in [
        &["apiVersion"][..],
        &["kind"],
        &["metadata", "name"],
        &["metadata", "namespace"],
        &["metadata", "creationTimestamp"],
        &["metadata", "selfLink"],
        &["metadata", "uid"],
        &["metadata", "generation"],
        &["metadata", "managedFields"],
        &["metadata", "resourceVersion"],
    ] {
        set.remove(path);
    }
    set
}

/// A tree without its managed fields.
fn bare(object: &Value) -> Value {
    let mut object = object.clone();
    tree::remove(&mut object, &["metadata", "managedFields"]);
    object
}

/// Records the owner of a new object's fields.
pub(crate) fn created(api: &Api, resource: &Resource, value: &mut Value, manager: &Manager) {
    let (operation, name, set) = match manager {
        Manager::Update(name) => {
            let empty = json!({});
            let found = apply::compare(api.types, &resource.shape, &empty, &bare(value));
            ("Update", name, found.added)
        }
        Manager::Apply(name, set) => ("Apply", name, set.clone()),
        Manager::Settled | Manager::Server => return,
    };
    let owned = Owned {
        manager: name.clone(),
        operation: operation.to_owned(),
        version: resource.group_version(),
        time: api.time(),
        subresource: String::new(),
        set: strip(set),
    };
    write(value, vec![owned]);
}

/// Records the owner of what changed.
pub(crate) fn updated(
    api: &Api,
    resource: &Resource,
    new: &mut Value,
    old: &Value,
    manager: &Manager,
    scope: Scope,
) {
    if matches!(manager, Manager::Settled | Manager::Apply(..)) {
        return;
    }
    let given = tree::at(new, &["metadata", "managedFields"]).and_then(Value::as_array);
    // One empty entry is how a client asks that all be forgotten.
    let forgets = given
        .is_some_and(|given| !given.is_empty() && given.iter().all(|entry| entry == &json!({})));
    let mut owners = if forgets { Vec::new() } else { read(old) };
    let found = apply::compare(api.types, &resource.shape, &bare(old), &bare(new));
    let changed = strip(found.changed());
    let removed = strip(found.removed);
    let nothing = changed.is_empty() && removed.is_empty();
    match manager {
        Manager::Update(name) if !nothing && !forgets => {
            let version = resource.group_version();
            let subresource = scope.subresource();
            let mut own = None;
            for (at, owned) in owners.iter_mut().enumerate() {
                owned.set = owned.set.without(&removed);
                if owned.is("Update", name, &version, subresource) {
                    own = Some(at);
                } else {
                    owned.set = owned.set.difference(&changed);
                }
            }
            if !changed.is_empty() || own.is_some() {
                let at = own.unwrap_or_else(|| {
                    owners.push(Owned {
                        manager: name.clone(),
                        operation: "Update".to_owned(),
                        version,
                        time: String::new(),
                        subresource: subresource.to_owned(),
                        set: FieldSet::default(),
                    });
                    owners.len() - 1
                });
                let set = std::mem::take(&mut owners[at].set);
                owners[at].set = set.union(changed);
                owners[at].time = api.time();
            }
        }
        _ => {
            for owned in &mut owners {
                owned.set = owned.set.without(&removed);
            }
        }
    }
    write(new, owners);
}

/// An applied configuration on its way into an object.
struct Applied {
    config: Value,
    manager: String,
    force: bool,
    set: FieldSet,
    subresource: &'static str,
}

impl Api {
    /// `patch` with an applied configuration.
    pub(crate) async fn apply(
        &self,
        context: &Context,
        resource: &Resource,
        scope: Scope,
        bytes: &Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let invalid = |why: &str| {
            Err(ApiError::unprocessable(format!(
                "PatchOptions.meta.k8s.io \"\" is invalid: {why}"
            )))
        };
        let manager = context.query.get("fieldManager");
        if manager.is_empty() {
            return invalid("fieldManager: Required value: is required for apply patch");
        }
        if manager.len() > 128 {
            return invalid("fieldManager: Too long: may not be more than 128 bytes");
        }
        let Parsed { value, duplicates } = body::parse_yaml(bytes)?;
        let mut config = self.conform(context, resource, Parsed { value, duplicates })?;
        self.check_names(context, resource, &mut config)?;
        if tree::at(&config, &["metadata", "managedFields"]).is_some() {
            return Err(ApiError::bad_request("metadata.managedFields must be nil"));
        }
        if resource.has(Subresource::Status) && scope == Scope::Whole {
            tree::remove(&mut config, &["status"]);
        }
        let set = apply::fields_of(self.types, &resource.shape, &config);
        let applied = Applied {
            manager: manager.to_owned(),
            force: context.query.flag("force"),
            set,
            subresource: scope.subresource(),
            config,
        };
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let stored_as = self.stored(resource);
        let exists = self.find(stored_as, namespace, name).await?.is_some();
        if !exists && scope == Scope::Whole {
            let mut write = Write::by(context, scope)?;
            write.manager = Manager::Apply(applied.manager.clone(), applied.set.clone());
            let created = self
                .create_value(resource, applied.config.clone(), &write)
                .await;
            match created {
                Ok(object) => {
                    let json = context.show(resource).one(&object);
                    return Ok(json_response(StatusCode::CREATED, json));
                }
                // Somebody else created it meanwhile: apply to theirs.
                Err(error) if error.reason == "AlreadyExists" => {}
                Err(error) => return Err(error),
            }
        }
        let mut write = Write::by(context, scope)?;
        write.manager = Manager::Settled;
        let object = self
            .modify(resource, namespace, name, &write, |live| {
                self.apply_to(resource, live, &applied)
            })
            .await?;
        Ok(json_response(
            StatusCode::OK,
            context.show(resource).one(&object),
        ))
    }

    /// The live object with a configuration applied, ownership settled.
    fn apply_to(
        &self,
        resource: &Resource,
        live: &Value,
        applied: &Applied,
    ) -> Result<Value, ApiError> {
        let (types, shape) = (self.types, &resource.shape);
        let version = resource.group_version();
        let mut owners = read(live);
        let live_bare = bare(live);
        let own = owners
            .iter()
            .position(|owned| owned.is("Apply", &applied.manager, &version, applied.subresource));
        let mut merged = apply::merge(types, shape, &live_bare, &applied.config);
        if let Some(own) = own {
            let mut kept = applied.set.clone();
            for (at, owned) in owners.iter().enumerate() {
                if at != own {
                    kept = kept.union(owned.set.clone());
                }
            }
            apply::prune(types, shape, &mut merged, &owners[own].set, &kept);
        }
        // What the server fills in anyway is nobody's change.
        let mut settled = merged.clone();
        dhow_schema::defaults::fill(types, shape, &mut settled);
        (resource.strategy.defaults)(&mut settled);
        let found = apply::compare(types, shape, &live_bare, &settled);
        let changed = strip(found.changed());
        let removed = strip(found.removed);
        let mut conflicts = Vec::new();
        for (at, owned) in owners.iter_mut().enumerate() {
            if Some(at) != own {
                let disputed = owned.set.intersection(&changed).intersection(&applied.set);
                if !disputed.is_empty() {
                    if applied.force {
                        owned.set = owned.set.difference(&disputed);
                    } else {
                        conflicts.push((owned.shown(), disputed.paths()));
                    }
                }
                owned.set = owned.set.without(&removed);
            }
        }
        if !conflicts.is_empty() {
            return Err(conflict(&conflicts));
        }
        let set = strip(applied.set.clone());
        match own {
            Some(own) => {
                if owners[own].set != set || !changed.is_empty() || !removed.is_empty() {
                    owners[own].set = set;
                    owners[own].version = version;
                    owners[own].time = self.time();
                }
            }
            None => owners.push(Owned {
                manager: applied.manager.clone(),
                operation: "Apply".to_owned(),
                version,
                time: self.time(),
                subresource: applied.subresource.to_owned(),
                set,
            }),
        }
        write(&mut merged, owners);
        Ok(merged)
    }
}

/// The refusal to take fields that others own.
fn conflict(conflicts: &[(String, Vec<String>)]) -> ApiError {
    let n_fields: usize = conflicts.iter().map(|(_, paths)| paths.len()).sum();
    let causes = conflicts
        .iter()
        .flat_map(|(owner, paths)| {
            paths.iter().map(move |path| {
                json!({"reason": "FieldManagerConflict",
                    "message": format!("conflict with {owner}"), "field": path})
            })
        })
        .collect();
    let message = match conflicts {
        [(owner, paths)] if paths.len() == 1 => {
            format!(
                "Apply failed with 1 conflict: conflict with {owner}: {}",
                paths[0]
            )
        }
        _ => {
            let mut lines = Vec::new();
            for (owner, paths) in conflicts {
                lines.push(format!("conflicts with {owner}:"));
                lines.extend(paths.iter().map(|path| format!("- {path}")));
            }
            format!(
                "Apply failed with {n_fields} conflicts: {}",
                lines.join("\n")
            )
        }
    };
    ApiError::apply_conflict(message, causes)
}
