//! Who asks, and whether they may.

pub(crate) mod bootstrap;
pub(crate) mod certificates;
mod rbac;
mod reviews;
mod tokens;

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderMap;

use crate::api::Api;
use crate::error::ApiError;
use crate::tree;

pub(crate) use rbac::{Attributes, Rbac};
pub(crate) use tokens::TokenKeys;

/// Everybody whose name is known is in this group.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everybody else is in this one.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// Members may do everything.
pub const MASTERS: &str = "system:masters";

/// A user as authentication found them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserInfo {
    /// The name, for example `system:kube-scheduler`.
    pub name: String,
    /// What tells users of one name apart.
    pub uid: String,
    /// Groups the user is in.
    pub groups: Vec<String>,
    /// Whatever else is known.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl UserInfo {
    /// A user in groups; `system:authenticated` is added.
    pub fn new(name: &str, groups: &[&str]) -> Self {
        let groups = groups
            .iter()
            .copied()
            .chain([AUTHENTICATED])
            .map(str::to_owned)
            .collect();
        Self {
            name: name.to_owned(),
            groups,
            ..Self::default()
        }
    }

    /// A service account.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self::new(
            &format!("system:serviceaccount:{namespace}:{name}"),
            &[
                "system:serviceaccounts",
                &format!("system:serviceaccounts:{namespace}"),
            ],
        )
    }

    /// Somebody who may do everything.
    pub fn admin() -> Self {
        Self::new("kubernetes-admin", &[MASTERS])
    }

    pub(crate) fn anonymous() -> Self {
        Self {
            name: "system:anonymous".to_owned(),
            groups: vec![UNAUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }
}

/// Who a connection or an in-process client is; put into a request's
/// extensions by whoever knows.
#[derive(Clone, Debug)]
pub(crate) struct Identity(pub Arc<UserInfo>);

/// The keys that tokens are signed with.
pub(crate) struct Authentication {
    pub tokens: TokenKeys,
}

impl Api {
    /// Finds out who asks.
    pub(crate) fn authenticate(
        &self,
        identity: Option<&Identity>,
        headers: &HeaderMap,
    ) -> Result<UserInfo, ApiError> {
        let user = match (identity, bearer(headers)) {
            (Some(identity), _) => (*identity.0).clone(),
            (None, Some(token)) => self
                .token_user(token, &[self.config.issuer.as_str()])
                .ok_or_else(ApiError::unauthorized)?,
            (None, None) => UserInfo::anonymous(),
        };
        self.impersonate(user, headers)
    }

    /// `kubectl --as`: the user acts as another, if they may.
    fn impersonate(&self, user: UserInfo, headers: &HeaderMap) -> Result<UserInfo, ApiError> {
        let text = |name: &str| {
            headers
                .get_all(name)
                .iter()
                .filter_map(|value| value.to_str().ok())
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let names = text("impersonate-user");
        let groups = text("impersonate-group");
        let Some(name) = names.first() else {
            if groups.is_empty() {
                return Ok(user);
            }
            return Err(ApiError::bad_request(
                "requested groups without impersonating a user",
            ));
        };
        let account = name
            .strip_prefix("system:serviceaccount:")
            .and_then(|rest| rest.split_once(':'));
        let mut wanted = match account {
            Some((namespace, name)) => vec![("serviceaccounts", namespace, name)],
            None => vec![("users", "", name.as_str())],
        };
        wanted.extend(groups.iter().map(|group| ("groups", "", group.as_str())));
        for (resource, namespace, name) in wanted {
            self.authorize(
                &user,
                &Attributes {
                    verb: "impersonate",
                    group: "",
                    resource,
                    subresource: "",
                    namespace,
                    name,
                    path: "",
                },
            )?;
        }
        let mut other = match account {
            Some((namespace, name)) => UserInfo::service_account(namespace, name),
            None => UserInfo::new(name, &[]),
        };
        other.groups.extend(groups);
        Ok(other)
    }

    /// The user a token names, if it is ours, in time, for one of the
    /// audiences, and what it is bound to still lives.
    pub(crate) fn token_user(&self, token: &str, audiences: &[&str]) -> Option<UserInfo> {
        let claims = self.authentication.tokens.verify(token, self.now())?;
        let ours = tree::text(&claims, &["iss"]) == self.config.issuer;
        let meant = tree::list(&claims, &["aud"])
            .iter()
            .any(|audience| audiences.iter().any(|wanted| audience == wanted));
        if !ours || !meant {
            return None;
        }
        let bound = claims.get("kubernetes.io")?;
        let namespace = tree::text(bound, &["namespace"]);
        let alive = |plural: &str, field: &str| {
            let name = tree::text(bound, &[field, "name"]);
            if name.is_empty() {
                return true;
            }
            let resource = self.registry.known("", plural);
            let namespace = if resource.namespaced { namespace } else { "" };
            self.cached(resource, namespace, name)
                .is_some_and(|object| {
                    tree::text(&object.tree(), &["metadata", "uid"])
                        == tree::text(bound, &[field, "uid"])
                })
        };
        let account = tree::text(bound, &["serviceaccount", "name"]);
        if account.is_empty()
            || !alive("serviceaccounts", "serviceaccount")
            || !alive("pods", "pod")
            || !alive("secrets", "secret")
            || !alive("nodes", "node")
        {
            return None;
        }
        let mut user = UserInfo::service_account(namespace, account);
        user.uid = tree::text(bound, &["serviceaccount", "uid"]).to_owned();
        let mut extra = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(key.to_owned(), vec![value.to_owned()]);
            }
        };
        extra(
            "authentication.kubernetes.io/pod-name",
            tree::text(bound, &["pod", "name"]),
        );
        extra(
            "authentication.kubernetes.io/pod-uid",
            tree::text(bound, &["pod", "uid"]),
        );
        extra(
            "authentication.kubernetes.io/node-name",
            tree::text(bound, &["node", "name"]),
        );
        Some(user)
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(http::header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then(|| token.trim())
        .filter(|token| !token.is_empty())
}
