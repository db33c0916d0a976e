//! What every verb works with: the registry, the store, the caches, and one
//! request's circumstances.

use std::sync::Arc;

use bytes::Bytes;
use dhow_schema::Types;
use dhow_store::{Durability, Op, Outcome, Store, Txn};
use http::{HeaderMap, Response, StatusCode};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::{oneshot, watch};

use crate::admission::Addresses;
use crate::auth::{Authentication, Rbac, UserInfo};
use crate::cache::Caches;
use crate::config::Config;
use crate::error::ApiError;
use crate::object::{Object, Shared};
use crate::openapi::Documents;
use crate::request::{Format, Query, Target};
use crate::resource::{Registry, Resource};
use crate::show::{Show, serialize};

/// Any error of a body.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The body of every response.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// The server's shared parts.
pub(crate) struct Api {
    pub types: &'static Types,
    pub registry: Arc<Registry>,
    pub store: Arc<dyn Store>,
    pub caches: Arc<Caches>,
    pub config: Config,
    pub authentication: Authentication,
    pub rbac: Rbac,
    pub addresses: Addresses,
    pub documents: Documents,
    /// True once the server is going. The last field: its end says that the
    /// store is closed.
    pub closing: watch::Sender<bool>,
}

/// One request's circumstances.
pub(crate) struct Context {
    pub user: UserInfo,
    pub target: Target,
    pub query: Query,
    pub headers: HeaderMap,
    pub format: Format,
    pub warnings: Mutex<Vec<String>>,
}

/// No more warnings than this go into one response.
const MOST_WARNINGS: usize = 32;

impl Context {
    /// How this request wants objects of a resource shown.
    pub(crate) fn show<'r>(&'r self, resource: &'r Resource) -> Show<'r> {
        Show {
            resource,
            format: self.format,
            include: self.query.get("includeObject"),
        }
    }

    pub(crate) fn warn(&self, text: String) {
        let mut warnings = self.warnings.lock();
        if warnings.len() < MOST_WARNINGS {
            warnings.push(text);
        }
    }

    /// Who the request says is changing fields.
    pub(crate) fn field_manager(&self) -> String {
        let named = self.query.get("fieldManager");
        if !named.is_empty() {
            return named.to_owned();
        }
        self.headers
            .get(http::header::USER_AGENT)
            .and_then(|agent| agent.to_str().ok())
            .and_then(|agent| agent.split('/').next())
            .filter(|agent| !agent.is_empty())
            .map_or_else(
                || "unknown".to_owned(),
                |agent| agent.chars().take(128).collect(),
            )
    }

    /// Whether nothing is to be kept.
    ///
    /// # Errors
    /// When the parameter is neither empty nor `All`.
    pub(crate) fn dry_run(&self) -> Result<DryRun, ApiError> {
        match self.query.get("dryRun") {
            "" => Ok(DryRun::No),
            "All" => Ok(DryRun::All),
            other => Err(ApiError::bad_request(format!(
                "Invalid value: {other:?}: supported values: \"All\""
            ))),
        }
    }

    pub(crate) fn content_type(&self) -> &str {
        self.headers
            .get(http::header::CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map_or("", |value| value.split(';').next().unwrap_or("").trim())
    }
}

/// Whether a request is only a rehearsal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DryRun {
    No,
    All,
}

/// A response with a JSON body.
pub(crate) fn json_response(code: StatusCode, json: Bytes) -> Response<Body> {
    let mut response = Response::new(full(json));
    *response.status_mut() = code;
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        http::HeaderValue::from_static("application/json"),
    );
    response
}

/// A body that is at hand.
pub(crate) fn full(bytes: Bytes) -> Body {
    http_body_util::Full::new(bytes)
        .map_err(|never| match never {})
        .boxed_unsync()
}

/// A Status as a response.
pub(crate) fn error_response(error: &ApiError) -> Response<Body> {
    let code = StatusCode::from_u16(error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json_response(code, serialize(&error.to_status()));
    if let Some(seconds) = error
        .details
        .as_ref()
        .and_then(|details| details.get("retryAfterSeconds"))
        .and_then(Value::as_u64)
    {
        response
            .headers_mut()
            .insert(http::header::RETRY_AFTER, seconds.into());
    }
    response
}

/// How soon a write must be safe: Leases and Events may ride on the next commit.
pub(crate) fn durability(resource: &Resource) -> Durability {
    match &*resource.prefix {
        "leases" | "events" => Durability::Relaxed,
        _ => Durability::Synced,
    }
}

impl Api {
    pub(crate) fn now(&self) -> jiff::Timestamp {
        (self.config.clock)()
    }

    /// The current time as objects carry it.
    pub(crate) fn time(&self) -> String {
        dhow_schema::decode::print_seconds(self.now())
    }

    /// Runs a transaction.
    ///
    /// Not cancel-safe: a dropped future leaves the transaction running.
    pub(crate) async fn commit(&self, txn: Txn) -> Result<Outcome, ApiError> {
        let (told, outcome) = oneshot::channel();
        self.store.submit(
            txn,
            Box::new(move |result| {
                let _ = told.send(result);
            }),
        );
        match outcome.await {
            Ok(result) => Ok(result?),
            Err(_) => Err(ApiError::unavailable("the store is closed")),
        }
    }

    /// Waits until the caches show every write that is confirmed.
    pub(crate) async fn consistent(&self) -> Result<(), ApiError> {
        self.caches.reach(self.store.revision()).await
    }

    /// The key of an object in its resource's cache.
    pub(crate) fn cache_key(resource: &Resource, namespace: &str, name: &str) -> String {
        if resource.namespaced {
            format!("{namespace}/{name}")
        } else {
            name.to_owned()
        }
    }

    /// An object as of every confirmed write.
    pub(crate) async fn find(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Result<Option<Shared>, ApiError> {
        self.consistent().await?;
        Ok(self.cached(resource, namespace, name))
    }

    /// An object as the cache has it, which may be a moment old.
    pub(crate) fn cached(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
    ) -> Option<Shared> {
        self.caches
            .of(resource)
            .get(&Self::cache_key(resource, namespace, name))
    }

    /// The stored resource behind a view.
    pub(crate) fn stored<'a>(&'a self, resource: &'a Resource) -> &'a Resource {
        match resource.view {
            Some((stored, _)) => self.registry.get(stored),
            None => resource,
        }
    }

    /// Writes an object if nobody wrote it since `expected` (0: it must not
    /// exist); `None` if somebody did.
    pub(crate) async fn put(
        &self,
        resource: &Resource,
        value: &Value,
        stored: Bytes,
        expected: u64,
    ) -> Result<Option<Object>, ApiError> {
        let namespace = crate::tree::text(value, &["metadata", "namespace"]);
        let name = crate::tree::text(value, &["metadata", "name"]);
        let key: Arc<str> = resource.key(namespace, name).into();
        let outcome = self
            .commit(Txn {
                compares: vec![(key.clone(), expected)],
                then: vec![Op::Put {
                    key,
                    value: stored.clone(),
                }],
                otherwise: Vec::new(),
                durability: durability(resource),
            })
            .await?;
        if !outcome.succeeded {
            return Ok(None);
        }
        Ok(Some(Object::new(
            resource,
            value,
            &stored,
            outcome.revision,
        )))
    }
}
