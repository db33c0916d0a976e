//! The registry of resources: one entry a kind, never a handler.

mod builtin;
pub(crate) mod columns;
mod pod_columns;

use std::collections::HashMap;

use dhow_schema::validate::FieldError;
use dhow_schema::{Shape, Types};
use serde_json::Value;

pub(crate) use columns::Column;

/// A resource under the main one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Subresource {
    Status,
    Scale,
    Binding,
    Eviction,
    Token,
    Finalize,
    Approval,
    Ephemeral,
    Resize,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
}

impl Subresource {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Scale => "scale",
            Self::Binding => "binding",
            Self::Eviction => "eviction",
            Self::Token => "token",
            Self::Finalize => "finalize",
            Self::Approval => "approval",
            Self::Ephemeral => "ephemeralcontainers",
            Self::Resize => "resize",
            Self::Log => "log",
            Self::Exec => "exec",
            Self::Attach => "attach",
            Self::PortForward => "portforward",
            Self::Proxy => "proxy",
        }
    }
}

/// What the table cannot say about a kind.
#[derive(Clone, Copy)]
pub(crate) struct Strategy {
    /// Defaults that depend on other fields.
    pub defaults: fn(&mut Value),
    /// Last changes before a new object is checked.
    pub prepare_create: fn(&mut Value),
    /// Last changes before a changed object is checked: new, old.
    pub prepare_update: fn(&mut Value, &Value),
    /// Rules between fields.
    pub validate: fn(&Value, &mut Vec<FieldError>),
    /// Rules between the new and the old object.
    pub validate_update: fn(&Value, &Value, &mut Vec<FieldError>),
    /// What names may look like.
    pub names: Names,
    /// A deletion answers with the object instead of a Status.
    pub returns_deleted: bool,
    /// Selectable fields beside name and namespace, and where they stand.
    pub fields: &'static [(&'static str, &'static [&'static str])],
    /// `metadata.generation` counts changes of the spec.
    pub generation: bool,
}

/// What names may look like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Names {
    /// A DNS subdomain (RFC 1123).
    Subdomain,
    /// A DNS label (RFC 1123).
    Label,
    /// A DNS label that begins with a letter (RFC 1035).
    Label1035,
    /// A path segment: anything but `.`, `..`, `/` and `%`.
    Segment,
}

impl Strategy {
    /// No rules beyond the table's.
    pub(crate) const PLAIN: Self = Self {
        defaults: |_| {},
        prepare_create: |_| {},
        prepare_update: |_, _| {},
        validate: |_, _| {},
        validate_update: |_, _, _| {},
        names: Names::Subdomain,
        returns_deleted: false,
        fields: &[],
        generation: false,
    };
}

/// A pair of functions between the stored kind and this view of it.
#[derive(Clone, Copy)]
pub(crate) struct Conversion {
    pub to_stored: fn(&mut Value),
    pub from_stored: fn(&mut Value),
}

/// One resource.
#[derive(Clone)]
pub(crate) struct Resource {
    pub group: String,
    pub version: String,
    pub plural: String,
    pub singular: String,
    pub kind: String,
    pub short_names: Vec<String>,
    pub categories: Vec<String>,
    pub namespaced: bool,
    /// The type in the tables.
    pub shape: Shape,
    /// Keys begin with `/registry/PREFIX/`.
    pub prefix: String,
    pub verbs: &'static [&'static str],
    pub subresources: Vec<Subresource>,
    pub columns: &'static [Column],
    pub strategy: Strategy,
    /// This is another resource's objects, shown as another kind.
    pub view: Option<(usize, Conversion)>,
    /// Index in the registry.
    pub index: usize,
}

/// Every verb of a stored resource.
pub(crate) const ALL_VERBS: &[&str] = &[
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
];

impl Resource {
    /// `apps/v1`, or `v1` in the core group.
    pub(crate) fn group_version(&self) -> String {
        if self.group.is_empty() {
            self.version.clone()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    pub(crate) fn has(&self, subresource: Subresource) -> bool {
        self.subresources.contains(&subresource)
    }

    /// Whether objects live in the store; reviews do not.
    pub(crate) fn is_stored(&self) -> bool {
        self.verbs.contains(&"get")
    }

    /// The store's key of an object.
    pub(crate) fn key(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("/registry/{}/{namespace}/{name}", self.prefix)
        } else {
            format!("/registry/{}/{name}", self.prefix)
        }
    }

    /// What the keys of a namespace, or of all, begin with.
    pub(crate) fn key_prefix(&self, namespace: &str) -> String {
        if self.namespaced && !namespace.is_empty() {
            format!("/registry/{}/{namespace}/", self.prefix)
        } else {
            format!("/registry/{}/", self.prefix)
        }
    }
}

/// All resources, found by group, version and name.
pub(crate) struct Registry {
    resources: Vec<Resource>,
    by_path: HashMap<(String, String, String), usize>,
}

impl Registry {
    /// The built-in resources.
    pub(crate) fn builtin(types: &Types) -> Self {
        let mut registry = Self {
            resources: Vec::new(),
            by_path: HashMap::new(),
        };
        for resource in builtin::resources(types) {
            registry.add(resource);
        }
        registry
    }

    fn add(&mut self, mut resource: Resource) {
        resource.index = self.resources.len();
        if let Some((stored, _)) = &mut resource.view {
            // A view names its resource by prefix; it follows it in the table.
            *stored = self
                .resources
                .iter()
                .position(|other| other.prefix == resource.prefix)
                .expect("a view follows what it shows");
        }
        let path = (
            resource.group.clone(),
            resource.version.clone(),
            resource.plural.clone(),
        );
        self.by_path.insert(path, resource.index);
        self.resources.push(resource);
    }

    pub(crate) fn find(&self, group: &str, version: &str, plural: &str) -> Option<&Resource> {
        let path = (group.to_owned(), version.to_owned(), plural.to_owned());
        self.by_path.get(&path).map(|&index| &self.resources[index])
    }

    /// A built-in resource.
    pub(crate) fn known(&self, group: &str, plural: &str) -> &Resource {
        self.resources
            .iter()
            .find(|resource| resource.group == group && resource.plural == plural)
            .expect("built-in resources are asked for by their names")
    }

    pub(crate) fn get(&self, index: usize) -> &Resource {
        &self.resources[index]
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Resource> {
        self.resources.iter()
    }

    /// Groups and versions in the order of the table, core first.
    pub(crate) fn group_versions(&self) -> Vec<(String, Vec<String>)> {
        let mut groups: Vec<(String, Vec<String>)> = Vec::new();
        for resource in &self.resources {
            match groups
                .iter_mut()
                .find(|(group, _)| *group == resource.group)
            {
                Some((_, versions)) => {
                    if !versions.contains(&resource.version) {
                        versions.push(resource.version.clone());
                    }
                }
                None => groups.push((resource.group.clone(), vec![resource.version.clone()])),
            }
        }
        groups
    }
}
