//! `get` and `list`.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dhow_selector::{FieldSelector, LabelSelector};
use dhow_store::{Range, prefix_end};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};

use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::object::{Object, Shared};
use crate::resource::Resource;

/// The label and field selectors of a request.
pub(crate) struct Selectors {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selectors {
    pub(crate) fn of(context: &Context, resource: &Resource) -> Result<Self, ApiError> {
        let labels = LabelSelector::parse(context.query.get("labelSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        let mut fields = FieldSelector::parse(context.query.get("fieldSelector"))
            .map_err(|error| ApiError::bad_request(error.to_string()))?;
        for term in &mut fields.terms {
            // A view's fields are selected by the names of what it shows.
            if resource.view.is_some() && term.field.starts_with("regarding.") {
                term.field = term.field.replacen("regarding.", "involvedObject.", 1);
            }
            let known = matches!(&*term.field, "metadata.name" | "metadata.namespace")
                || resource
                    .strategy
                    .fields
                    .iter()
                    .any(|(name, _)| *name == term.field);
            if !known {
                return Err(ApiError::bad_request(format!(
                    "Unable to find {:?} that match label selector {:?}, field selector {:?}: field label not supported: {}",
                    format!("{}, Resource={}", resource.group_version(), resource.plural),
                    context.query.get("labelSelector"),
                    context.query.get("fieldSelector"),
                    term.field
                )));
            }
        }
        Ok(Self { labels, fields })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(crate) fn matches(&self, resource: &Resource, object: &Object) -> bool {
        self.labels.matches(|key| object.label(key))
            && self.fields.matches(|field| object.field(resource, field))
    }
}

/// Where a list goes on: the revision it is of, and the last key it had.
struct Continue {
    revision: u64,
    after: String,
}

impl Continue {
    fn encode(&self) -> String {
        let json = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": self.after});
        URL_SAFE_NO_PAD.encode(json.to_string())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || ApiError::bad_request("continue key is not valid");
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        let after = value["start"].as_str().ok_or_else(bad)?;
        if after.split('/').any(|part| part == "..") {
            return Err(bad());
        }
        Ok(Self {
            revision: value["rv"].as_u64().ok_or_else(bad)?,
            after: after.to_owned(),
        })
    }
}

fn key_of(object: &Object) -> String {
    if object.namespace.is_empty() {
        object.name.to_string()
    } else {
        format!("{}/{}", object.namespace, object.name)
    }
}

/// One page of a list.
pub(crate) struct Page {
    pub objects: Vec<Shared>,
    pub revision: u64,
    more: Option<(String, usize)>,
}

const EXPIRED: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.";

impl Api {
    pub(super) async fn get(
        &self,
        context: &Context,
        resource: &Resource,
    ) -> Result<Response<Body>, ApiError> {
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let version = context.query.number("resourceVersion")?;
        let found = match version {
            Some(0) => self.cached(resource, namespace, name),
            Some(revision) => {
                self.caches.reach(revision).await?;
                self.cached(resource, namespace, name)
            }
            None => self.find(resource, namespace, name).await?,
        };
        match found {
            Some(object) => Ok(json_response(
                StatusCode::OK,
                context.show(resource).one(&object),
            )),
            None => Err(ApiError::not_found(resource, name)),
        }
    }

    pub(super) async fn list(
        &self,
        context: &Context,
        resource: &Resource,
    ) -> Result<Response<Body>, ApiError> {
        let page = self.page(context, resource).await?;
        let mut metadata = Map::new();
        metadata.insert(
            "resourceVersion".to_owned(),
            page.revision.to_string().into(),
        );
        if let Some((token, remaining)) = page.more {
            metadata.insert("continue".to_owned(), token.into());
            if Selectors::of(context, resource)?.is_empty() {
                metadata.insert("remainingItemCount".to_owned(), remaining.into());
            }
        }
        let json = context
            .show(resource)
            .list(&page.objects, &Value::Object(metadata));
        Ok(json_response(StatusCode::OK, json))
    }

    /// The objects a list request asks for.
    pub(crate) async fn page(
        &self,
        context: &Context,
        resource: &Resource,
    ) -> Result<Page, ApiError> {
        let selectors = Selectors::of(context, resource)?;
        let limit = context.query.number("limit")?.filter(|limit| *limit > 0);
        let token = context.query.get("continue");
        let version = context.query.number("resourceVersion")?;
        let exact = match (context.query.get("resourceVersionMatch"), version) {
            ("", _) | ("NotOlderThan", Some(_)) => false,
            ("Exact", Some(revision)) if revision > 0 => true,
            ("Exact" | "NotOlderThan", _) => {
                return Err(ApiError::bad_request(
                    "resourceVersionMatch is forbidden unless resourceVersion is provided",
                ));
            }
            (other, _) => {
                return Err(ApiError::bad_request(format!(
                    "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
                )));
            }
        };
        let stored_as = self.stored(resource);
        let prefix = if stored_as.namespaced && !context.target.namespace.is_empty() {
            format!("{}/", context.target.namespace)
        } else {
            String::new()
        };
        let (mut objects, revision, after) = if token.is_empty() {
            match version {
                Some(revision) if exact => {
                    let objects = self.past(stored_as, &prefix, revision)?;
                    (objects, revision, String::new())
                }
                version => {
                    match version {
                        Some(0) => {}
                        Some(revision) => self.caches.reach(revision).await?,
                        None => self.consistent().await?,
                    }
                    let reached = self.caches.revision();
                    let (objects, newest) = self.caches.of(stored_as).list(&prefix);
                    (objects, reached.max(newest), String::new())
                }
            }
        } else {
            let token = Continue::decode(token)?;
            let (newest, changed) = self.caches.of(stored_as).list(&prefix);
            let objects = if changed <= token.revision {
                newest
            } else {
                self.past(stored_as, &prefix, token.revision)
                    .map_err(|error| match error.code {
                        410 => ApiError::expired(EXPIRED),
                        _ => error,
                    })?
            };
            (objects, token.revision, token.after)
        };
        if !after.is_empty() {
            objects.retain(|object| key_of(object) > after);
        }
        objects.retain(|object| selectors.matches(stored_as, object));
        let mut more = None;
        if let Some(limit) = limit
            && objects.len() as u64 > limit
        {
            let remaining = objects.len() - limit as usize;
            objects.truncate(limit as usize);
            let after = objects
                .last()
                .map(|object| key_of(object))
                .unwrap_or_default();
            more = Some((Continue { revision, after }.encode(), remaining));
        }
        Ok(Page {
            objects,
            revision,
            more,
        })
    }

    /// Objects as they were at a revision, from the store.
    fn past(
        &self,
        resource: &Resource,
        prefix: &str,
        revision: u64,
    ) -> Result<Vec<Shared>, ApiError> {
        let start = format!("{}{prefix}", resource.key_prefix(""));
        let listing = self.store.range(&Range {
            end: prefix_end(&start),
            start,
            revision: Some(revision),
            limit: None,
        })?;
        listing
            .kvs
            .iter()
            .map(|kv| Ok(Object::from_stored(resource, &kv.value, kv.mod_revision)?.into()))
            .collect()
    }
}
