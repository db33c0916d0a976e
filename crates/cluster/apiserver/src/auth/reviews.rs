//! Reviews: TokenReview and the SubjectAccessReview family. Nothing is stored.

use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::{AUTHENTICATED, Attributes, UserInfo};
use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::resource::Resource;
use crate::show::serialize;
use crate::tree;
use crate::verb::body;

fn user_json(user: &UserInfo) -> Value {
    let mut json = json!({"username": user.name, "groups": user.groups});
    if !user.uid.is_empty() {
        json["uid"] = user.uid.clone().into();
    }
    if !user.extra.is_empty() {
        json["extra"] = json!(user.extra);
    }
    json
}

impl Api {
    /// Answers a create of a kind that is a question.
    pub(crate) async fn review(
        &self,
        context: &Context,
        resource: &Resource,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        if resource.kind == "Binding" {
            return self.bind(context, bytes).await;
        }
        let parsed = body::parse(context, self.types, &bytes)?;
        let mut review = self.conform(context, resource, parsed)?;
        // What is asked must be about the state that everybody was told.
        self.consistent().await?;
        let status = match &*resource.kind {
            "TokenReview" => self.review_token(&review),
            "SelfSubjectReview" => json!({"userInfo": user_json(&context.user)}),
            "SelfSubjectRulesReview" => self.review_rules(&context.user, &review),
            "SelfSubjectAccessReview" => self.review_access(&context.user, &review)?,
            _ => {
                let user = subject(&review)?;
                self.review_access(&user, &review)?
            }
        };
        tree::set(&mut review, &["status"], status);
        tree::set_missing(&mut review, &["metadata"], json!({}));
        Ok(json_response(StatusCode::CREATED, serialize(&review)))
    }

    fn review_token(&self, review: &Value) -> Value {
        let token = tree::text(review, &["spec", "token"]);
        let mut audiences: Vec<&str> = tree::list(review, &["spec", "audiences"])
            .iter()
            .filter_map(Value::as_str)
            .collect();
        if audiences.is_empty() {
            audiences.push(&self.config.issuer);
        }
        match self.token_user(token, &audiences) {
            Some(user) => json!({"authenticated": true, "user": user_json(&user),
                "audiences": audiences}),
            None => json!({"authenticated": false, "user": {},
                "error": "[invalid bearer token]"}),
        }
    }

    fn review_rules(&self, user: &UserInfo, review: &Value) -> Value {
        let namespace = tree::text(review, &["spec", "namespace"]);
        let (resources, paths): (Vec<_>, Vec<_>) = self
            .rules(user, namespace)
            .iter()
            .map(super::rbac::Rule::show)
            .partition(|(is_resource, _)| *is_resource);
        let values = |rules: Vec<(bool, Value)>| -> Value {
            rules.into_iter().map(|(_, rule)| rule).collect()
        };
        json!({"resourceRules": values(resources), "nonResourceRules": values(paths),
            "incomplete": false})
    }

    fn review_access(&self, user: &UserInfo, review: &Value) -> Result<Value, ApiError> {
        let spec = review.get("spec").unwrap_or(&Value::Null);
        let resource = spec.get("resourceAttributes");
        let path = spec.get("nonResourceAttributes");
        let allowed = match (resource, path) {
            (Some(wanted), None) => {
                let text = |field: &'static str| tree::text(wanted, &[field]);
                self.may(
                    user,
                    &Attributes {
                        verb: text("verb"),
                        group: text("group"),
                        resource: text("resource"),
                        subresource: text("subresource"),
                        namespace: text("namespace"),
                        name: text("name"),
                        path: "",
                    },
                )
            }
            (None, Some(wanted)) => self.may(
                user,
                &Attributes {
                    verb: tree::text(wanted, &["verb"]),
                    path: tree::text(wanted, &["path"]),
                    ..Attributes::default()
                },
            ),
            _ => {
                return Err(ApiError::bad_request(
                    "spec.resourceAttributes: Invalid value: exactly one of nonResourceAttributes or resourceAttributes must be specified",
                ));
            }
        };
        Ok(json!({ "allowed": allowed }))
    }
}

/// The user a SubjectAccessReview is about.
fn subject(review: &Value) -> Result<UserInfo, ApiError> {
    let name = tree::text(review, &["spec", "user"]);
    let groups: Vec<String> = tree::list(review, &["spec", "groups"])
        .iter()
        .filter_map(Value::as_str)
        .map(str::to_owned)
        .collect();
    if name.is_empty() && groups.is_empty() {
        return Err(ApiError::unprocessable(
            "spec.user: Invalid value: \"\": at least one of user or group must be specified",
        ));
    }
    let mut user = UserInfo {
        name: name.to_owned(),
        groups,
        ..UserInfo::default()
    };
    // Nobody has to spell out what every user is a member of.
    if !user.groups.iter().any(|group| group == AUTHENTICATED) && name != "system:anonymous" {
        user.groups.push(AUTHENTICATED.to_owned());
    }
    Ok(user)
}
