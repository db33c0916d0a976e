//! The server as a tower service: authenticate, authorize, do.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode};
use serde_json::json;

use crate::api::{Api, Body, BoxError, Context, error_response, full, json_response};
use crate::auth::{Attributes, Identity, UserInfo};
use crate::error::ApiError;
use crate::request::{self, Format, Query, Route, Target};
use crate::show::serialize;
use crate::verb::body;

/// The release whose API this is.
pub(crate) const MINOR: &str = "37";

/// The API as a service; what comes through it is authenticated by its headers,
/// or is the user it was made for.
#[derive(Clone)]
pub struct ApiService {
    api: Arc<Api>,
    identity: Option<Identity>,
}

impl ApiService {
    pub(crate) fn new(api: Arc<Api>, user: Option<UserInfo>) -> Self {
        Self {
            api,
            identity: user.map(|user| Identity(Arc::new(user))),
        }
    }

    /// Answers one request.
    ///
    /// Not cancel-safe: a write may be done although its future is dropped.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Body>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        match self.try_answer(request).await {
            Ok(response) => response,
            Err(error) => error_response(&error),
        }
    }

    async fn try_answer<B>(&self, request: Request<B>) -> Result<Response<Body>, ApiError>
    where
        B: http_body::Body<Data = Bytes> + Send,
        B::Error: Into<BoxError>,
    {
        let (mut parts, body) = request.into_parts();
        let api = &self.api;
        let user = api.authenticate(self.identity.as_ref(), &parts.headers)?;
        let query = Query::parse(parts.uri.query());
        let path = parts.uri.path().to_owned();
        let Route::Resource(target) = request::route(&path) else {
            return self.other(&user, &path, &parts.method, &parts.headers);
        };
        let Some(mut verb) = request::verb(&parts.method, &target, &query) else {
            return Err(ApiError::method_not_allowed());
        };
        // A list or watch of one name is still a list; streams are creations.
        if matches!(&*target.subresource, "exec" | "attach" | "portforward") {
            verb = "create";
        }
        api.authorize(
            &user,
            &Attributes {
                verb: authorized_verb(verb, &parts.method, &target),
                group: &target.group,
                resource: &target.resource,
                subresource: &target.subresource,
                namespace: &target.namespace,
                name: &target.name,
                path: "",
            },
        )?;
        let Some(resource) = api
            .registry
            .find(&target.group, &target.version, &target.resource)
            .filter(|resource| {
                resource.namespaced
                    || target.namespace.is_empty()
                    || resource.plural == "namespaces"
            })
        else {
            return Err(ApiError::no_such_path());
        };
        let context = Context {
            user,
            format: request::format(&parts.headers).or_else(|error| {
                // Proxied answers are the node's, whatever the client accepts.
                if target.subresource.is_empty() {
                    Err(error)
                } else {
                    Ok(Format::Object)
                }
            })?,
            query,
            headers: std::mem::take(&mut parts.headers),
            target,
            warnings: Default::default(),
        };
        if matches!(
            &*context.target.subresource,
            "log" | "exec" | "attach" | "portforward" | "proxy"
        ) {
            let upgrade = parts.extensions.remove::<hyper::upgrade::OnUpgrade>();
            return api
                .to_node(
                    &context,
                    resource,
                    &parts.method,
                    parts.uri.query(),
                    upgrade,
                )
                .await;
        }
        if resource.namespaced
            && context.target.namespace.is_empty()
            && !matches!(verb, "list" | "watch" | "deletecollection")
        {
            return Err(ApiError::no_such_path());
        }
        let body = body::read(body).await?;
        let mut response = api.serve(&context, resource, verb, body).await?;
        for warning in context.warnings.lock().iter() {
            let quoted = warning.replace('\\', "\\\\").replace('"', "\\\"");
            if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
                response.headers_mut().append(http::header::WARNING, value);
            }
        }
        Ok(response)
    }

    /// Paths that name no resource.
    fn other(
        &self,
        user: &UserInfo,
        path: &str,
        method: &http::Method,
        headers: &http::HeaderMap,
    ) -> Result<Response<Body>, ApiError> {
        let api = &self.api;
        let verb = method.as_str().to_lowercase();
        api.authorize(
            user,
            &Attributes {
                verb: &verb,
                path,
                ..Attributes::default()
            },
        )?;
        if !matches!(*method, http::Method::GET | http::Method::HEAD) {
            return Err(ApiError::method_not_allowed());
        }
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let json = |value| Ok(json_response(StatusCode::OK, serialize(&value)));
        match &*parts {
            ["healthz" | "readyz" | "livez", ..] => Ok(text("ok")),
            ["version"] => json(json!({"major": "1", "minor": MINOR,
                "gitVersion": format!("v1.{MINOR}.0+dhow"),
                "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z",
                "goVersion": "", "compiler": "rustc", "platform": "linux/amd64"})),
            ["openid", "v1", "jwks"] => json(api.authentication.tokens.key_set()),
            [".well-known", "openid-configuration"] => json(json!({
                "issuer": api.config.issuer,
                "jwks_uri": format!("{}/openid/v1/jwks", api.config.issuer),
                "response_types_supported": ["id_token"],
                "subject_types_supported": ["public"],
                "id_token_signing_alg_values_supported": ["ES256"]})),
            [] => json(
                json!({"paths": ["/api", "/api/v1", "/apis", "/healthz", "/livez",
                "/openapi/v3", "/openid/v1/jwks", "/readyz", "/version"]}),
            ),
            ["openapi", rest @ ..] => api.openapi(rest),
            parts => api
                .discover(parts, headers)
                .ok_or_else(ApiError::no_such_path),
        }
    }
}

/// The verb authorization sees: proxying follows the method.
fn authorized_verb<'v>(verb: &'v str, method: &http::Method, target: &Target) -> &'v str {
    match (&*target.subresource, method) {
        ("proxy", &http::Method::GET | &http::Method::HEAD) => "get",
        _ => verb,
    }
}

pub(crate) fn text(text: &'static str) -> Response<Body> {
    let mut response = Response::new(full(Bytes::from_static(text.as_bytes())));
    response.headers_mut().insert(
        http::header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}

impl<B> tower::Service<Request<B>> for ApiService
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut TaskContext<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(this.answer(request).await) })
    }
}
