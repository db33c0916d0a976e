//! Role-based access control over the cached roles and bindings.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use serde_json::Value;

use super::{MASTERS, UserInfo};
use crate::api::Api;
use crate::config::Authorization;
use crate::error::{ApiError, qualified};
use crate::resource::Resource;
use crate::tree;

/// What somebody wants to do.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Attributes<'a> {
    pub verb: &'a str,
    pub group: &'a str,
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The path of a request that is for no resource.
    pub path: &'a str,
}

/// One rule of a role.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rule {
    verbs: Vec<String>,
    groups: Vec<String>,
    resources: Vec<String>,
    names: Vec<String>,
    paths: Vec<String>,
}

impl Rule {
    pub(crate) fn read(value: &Value) -> Self {
        let texts = |field: &str| {
            tree::list(value, &[field])
                .iter()
                .filter_map(Value::as_str)
                .map(str::to_owned)
                .collect()
        };
        Self {
            verbs: texts("verbs"),
            groups: texts("apiGroups"),
            resources: texts("resources"),
            names: texts("resourceNames"),
            paths: texts("nonResourceURLs"),
        }
    }

    fn allows(&self, wanted: &Attributes<'_>) -> bool {
        let has = |list: &[String], text: &str| list.iter().any(|item| item == "*" || item == text);
        if !has(&self.verbs, wanted.verb) {
            return false;
        }
        if !wanted.path.is_empty() {
            return self.paths.iter().any(|path| match path.strip_suffix('*') {
                Some(prefix) => wanted.path.starts_with(prefix),
                None => path == wanted.path,
            });
        }
        let resource = self.resources.iter().any(|resource| {
            if resource == "*" {
                return true;
            }
            match resource.split_once('/') {
                Some((own, sub)) => {
                    (own == "*" || own == wanted.resource) && sub == wanted.subresource
                }
                None => resource == wanted.resource && wanted.subresource.is_empty(),
            }
        });
        resource
            && has(&self.groups, wanted.group)
            && (self.names.is_empty() || self.names.iter().any(|name| name == wanted.name))
    }

    /// Everything the rule allows, one verb on one thing at a time.
    fn each(&self) -> Vec<Rule> {
        let one = |text: &String| vec![text.clone()];
        let mut all = Vec::new();
        for verb in &self.verbs {
            for path in &self.paths {
                all.push(Rule {
                    verbs: one(verb),
                    paths: one(path),
                    ..Rule::default()
                });
            }
            for group in &self.groups {
                for resource in &self.resources {
                    let part = Rule {
                        verbs: one(verb),
                        groups: one(group),
                        resources: one(resource),
                        ..Rule::default()
                    };
                    if self.names.is_empty() {
                        all.push(part.clone());
                    }
                    for name in &self.names {
                        all.push(Rule {
                            names: one(name),
                            ..part.clone()
                        });
                    }
                }
            }
        }
        all
    }

    /// Whether it allows all that a rule of [`Rule::each`] does.
    fn covers(&self, part: &Rule) -> bool {
        let has = |own: &[String], theirs: &[String]| {
            theirs
                .iter()
                .all(|text| own.iter().any(|item| item == "*" || item == text))
        };
        let paths = part.paths.iter().all(|path| {
            self.paths.iter().any(|own| match own.strip_suffix('*') {
                Some(prefix) => path.starts_with(prefix),
                None => own == path,
            })
        });
        let resources = part.resources.iter().all(|resource| {
            self.resources.iter().any(|own| {
                own == "*"
                    || own == resource
                    || own
                        .strip_prefix("*/")
                        .is_some_and(|sub| resource.split_once('/').is_some_and(|(_, s)| s == sub))
            })
        });
        let names = self.names.is_empty()
            || !part.names.is_empty() && part.names.iter().all(|name| self.names.contains(name));
        has(&self.verbs, &part.verbs)
            && has(&self.groups, &part.groups)
            && resources
            && paths
            && names
    }

    /// As upstream writes a rule in refusals.
    fn text(&self) -> String {
        let mut parts = Vec::new();
        for (name, list) in [
            ("APIGroups", &self.groups),
            ("Resources", &self.resources),
            ("ResourceNames", &self.names),
            ("NonResourceURLs", &self.paths),
            ("Verbs", &self.verbs),
        ] {
            if !list.is_empty() {
                parts.push(format!("{name}:{list:?}"));
            }
        }
        format!("{{{}}}", parts.join(", "))
    }

    /// As a SelfSubjectRulesReview shows it: resource rules, or path rules.
    pub(crate) fn show(&self) -> (bool, Value) {
        if self.paths.is_empty() {
            let mut rule = serde_json::json!({"verbs": self.verbs, "apiGroups": self.groups,
                "resources": self.resources});
            if !self.names.is_empty() {
                rule["resourceNames"] = serde_json::json!(self.names);
            }
            (true, rule)
        } else {
            (
                false,
                serde_json::json!({"verbs": self.verbs, "nonResourceURLs": self.paths}),
            )
        }
    }
}

/// What a subject is granted: in a namespace, or everywhere.
#[derive(Clone)]
struct Grant {
    /// Empty: everywhere.
    namespace: String,
    rules: Arc<[Rule]>,
}

/// Grants by subject, compiled from one state of roles and bindings.
#[derive(Default)]
struct Compiled {
    revision: u64,
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

/// The compiled grants.
#[derive(Default)]
pub(crate) struct Rbac {
    compiled: ArcSwap<Compiled>,
}

const KINDS: [&str; 4] = [
    "clusterroles",
    "roles",
    "clusterrolebindings",
    "rolebindings",
];
const GROUP: &str = "rbac.authorization.k8s.io";

impl Api {
    /// Grants as of now; compiled anew after roles or bindings changed.
    fn grants(&self) -> Arc<Compiled> {
        let newest = KINDS
            .iter()
            .map(|kind| {
                let resource = self.registry.known(GROUP, kind);
                self.caches.of(resource).newest()
            })
            .max()
            .unwrap_or(0);
        let compiled = self.rbac.compiled.load_full();
        if compiled.revision == newest && newest > 0 {
            return compiled;
        }
        let fresh = Arc::new(self.compile(newest));
        self.rbac.compiled.store(fresh.clone());
        fresh
    }

    fn compile(&self, revision: u64) -> Compiled {
        let all = |kind: &str| {
            let resource = self.registry.known(GROUP, kind);
            let (objects, _) = self.caches.of(resource).list("");
            objects
        };
        let mut roles: HashMap<(String, String), Arc<[Rule]>> = HashMap::new();
        for kind in ["clusterroles", "roles"] {
            for role in all(kind) {
                let rules = tree::list(&role.tree(), &["rules"])
                    .iter()
                    .map(Rule::read)
                    .collect();
                roles.insert((role.namespace.to_string(), role.name.to_string()), rules);
            }
        }
        let mut compiled = Compiled {
            revision,
            ..Compiled::default()
        };
        for kind in ["clusterrolebindings", "rolebindings"] {
            for binding in all(kind) {
                let value = binding.tree();
                let home = match tree::text(&value, &["roleRef", "kind"]) {
                    "Role" => binding.namespace.to_string(),
                    _ => String::new(),
                };
                let name = tree::text(&value, &["roleRef", "name"]).to_owned();
                let Some(rules) = roles.get(&(home, name)) else {
                    continue;
                };
                let grant = Grant {
                    namespace: binding.namespace.to_string(),
                    rules: rules.clone(),
                };
                for subject in tree::list(&value, &["subjects"]) {
                    let name = tree::text(subject, &["name"]);
                    let (map, name) = match tree::text(subject, &["kind"]) {
                        "Group" => (&mut compiled.groups, name.to_owned()),
                        "ServiceAccount" => {
                            let namespace = tree::text(subject, &["namespace"]);
                            let name = format!("system:serviceaccount:{namespace}:{name}");
                            (&mut compiled.users, name)
                        }
                        _ => (&mut compiled.users, name.to_owned()),
                    };
                    map.entry(name).or_default().push(grant.clone());
                }
            }
        }
        compiled
    }

    /// Whether a user may do something.
    pub(crate) fn may(&self, user: &UserInfo, wanted: &Attributes<'_>) -> bool {
        if self.config.authorization == Authorization::AlwaysAllow
            || user.groups.iter().any(|group| group == MASTERS)
        {
            return true;
        }
        let grants = self.grants();
        rules_of(&grants, user, wanted.namespace).any(|rule| rule.allows(wanted))
    }

    /// Every rule that holds for a user in a namespace.
    pub(crate) fn rules(&self, user: &UserInfo, namespace: &str) -> Vec<Rule> {
        let grants = self.grants();
        let mut rules: Vec<Rule> = rules_of(&grants, user, namespace).cloned().collect();
        if user.groups.iter().any(|group| group == MASTERS) {
            let all = || vec!["*".to_owned()];
            rules.push(Rule {
                verbs: all(),
                groups: all(),
                resources: all(),
                ..Rule::default()
            });
            rules.push(Rule {
                verbs: all(),
                paths: all(),
                ..Rule::default()
            });
        }
        rules
    }

    /// Lets a user do something, or says in upstream's words that they may not.
    pub(crate) fn authorize(
        &self,
        user: &UserInfo,
        wanted: &Attributes<'_>,
    ) -> Result<(), ApiError> {
        if self.may(user, wanted) {
            return Ok(());
        }
        let Attributes {
            verb, group, name, ..
        } = *wanted;
        if !wanted.path.is_empty() {
            return Err(ApiError::denied(
                format!(
                    "forbidden: User {:?} cannot {verb} path {:?}",
                    user.name, wanted.path
                ),
                "",
                "",
                "",
            ));
        }
        let mut resource = wanted.resource.to_owned();
        if !wanted.subresource.is_empty() {
            resource.push('/');
            resource.push_str(wanted.subresource);
        }
        let place = if wanted.namespace.is_empty() {
            "at the cluster scope".to_owned()
        } else {
            format!("in the namespace {:?}", wanted.namespace)
        };
        let what = qualified(wanted.resource, group);
        let named = if name.is_empty() {
            what
        } else {
            format!("{what} {name:?}")
        };
        Err(ApiError::denied(
            format!(
                "{named} is forbidden: User {:?} cannot {verb} resource {resource:?} in API group {group:?} {place}",
                user.name
            ),
            group,
            wanted.resource,
            name,
        ))
    }
}

impl Api {
    /// Nobody grants what they do not have, unless they may `escalate` or `bind`.
    pub(crate) fn admit_grants(
        &self,
        user: Option<&UserInfo>,
        resource: &Resource,
        new: &Value,
        old: Option<&Value>,
    ) -> Result<(), ApiError> {
        let (Some(user), true) = (user, resource.group == GROUP) else {
            return Ok(());
        };
        let field = if resource.kind.ends_with("Binding") {
            "subjects"
        } else {
            "rules"
        };
        if old.is_some_and(|old| old.get(field) == new.get(field)) {
            return Ok(());
        }
        let namespace = tree::text(new, &["metadata", "namespace"]);
        let (granted, verb, plural, name) = if field == "rules" {
            let rules: Vec<Rule> = tree::list(new, &["rules"]).iter().map(Rule::read).collect();
            let name = tree::text(new, &["metadata", "name"]);
            (rules, "escalate", &*resource.plural, name)
        } else {
            let plural = match tree::text(new, &["roleRef", "kind"]) {
                "Role" => "roles",
                _ => "clusterroles",
            };
            let name = tree::text(new, &["roleRef", "name"]);
            let home = if plural == "roles" { namespace } else { "" };
            let role = self.cached(self.registry.known(GROUP, plural), home, name);
            let rules = role.map(|role| role.tree()).unwrap_or_default();
            let rules = tree::list(&rules, &["rules"])
                .iter()
                .map(Rule::read)
                .collect();
            (rules, "bind", plural, name)
        };
        let allowed = self.may(
            user,
            &Attributes {
                verb,
                group: GROUP,
                resource: plural,
                namespace,
                name,
                ..Attributes::default()
            },
        );
        if allowed {
            return Ok(());
        }
        let own = self.rules(user, namespace);
        let lacking: Vec<String> = granted
            .iter()
            .filter(|rule| {
                !rule
                    .each()
                    .iter()
                    .all(|part| own.iter().any(|own| own.covers(part)))
            })
            .map(Rule::text)
            .collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let why = format!(
            "user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held:\n{}",
            user.name,
            user.groups,
            lacking.join("\n")
        );
        let name = tree::text(new, &["metadata", "name"]);
        Err(ApiError::forbidden(resource, name, &why))
    }
}

fn rules_of<'c>(
    compiled: &'c Compiled,
    user: &UserInfo,
    namespace: &str,
) -> impl Iterator<Item = &'c Rule> {
    let mut grants: Vec<&Grant> = compiled
        .users
        .get(&user.name)
        .into_iter()
        .flatten()
        .collect();
    for group in &user.groups {
        grants.extend(compiled.groups.get(group).into_iter().flatten());
    }
    grants.retain(|grant| grant.namespace.is_empty() || grant.namespace == namespace);
    grants.into_iter().flat_map(|grant| grant.rules.iter())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn rules_allow_what_they_name() {
        let rule = Rule::read(&json!({"verbs": ["get", "list"], "apiGroups": [""],
            "resources": ["pods", "pods/log", "*/scale"]}));
        let wanted = |verb, resource, subresource| Attributes {
            verb,
            resource,
            subresource,
            ..Attributes::default()
        };
        assert!(rule.allows(&wanted("get", "pods", "")));
        assert!(rule.allows(&wanted("get", "pods", "log")));
        assert!(rule.allows(&wanted("get", "deployments", "scale")));
        assert!(!rule.allows(&wanted("get", "pods", "exec")));
        assert!(!rule.allows(&wanted("create", "pods", "")));
        assert!(!rule.allows(&Attributes {
            group: "apps",
            ..wanted("get", "pods", "")
        }));
        let named = Rule::read(
            &json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"],
            "resourceNames": ["a"]}),
        );
        assert!(named.allows(&Attributes {
            name: "a",
            ..wanted("delete", "x", "y")
        }));
        assert!(!named.allows(&wanted("delete", "x", "y")));
        let paths =
            Rule::read(&json!({"verbs": ["get"], "nonResourceURLs": ["/healthz", "/api/*"]}));
        let path = |path| Attributes {
            verb: "get",
            path,
            ..Attributes::default()
        };
        assert!(paths.allows(&path("/healthz")));
        assert!(paths.allows(&path("/api/v1")));
        assert!(!paths.allows(&path("/metrics")));
    }
}
