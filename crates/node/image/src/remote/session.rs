//! One conversation with one registry about one repository: requests with
//! authentication, redirects, bounded answers.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use dhow_oci::Reference;
use http::header::{
    ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, LOCATION,
};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full};
use hyper::body::Incoming;
use serde::Deserialize;
use url::Url;

use crate::remote::auth::{Challenge, TokenAnswer, UNAUTHORIZED, basic, credentials};
use crate::remote::hosts::{Host, May};
use crate::remote::transport::Body;
use crate::remote::{Client, Peer, backoff};
use crate::types::RegistryAuth;
use crate::{Error, Result};

/// Answers that are not content may have this many bytes.
const MAX_ANSWER: usize = 1 << 20;
/// More redirects than this are a loop.
const MAX_REDIRECTS: usize = 8;

/// What a session wants to do: some hosts may not be asked for it, and tokens
/// are for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intent {
    /// Find out what a tag means.
    Resolve,
    /// Fetch content by digest.
    Pull,
    /// Send.
    Push,
}

impl Intent {
    fn is_allowed(self, may: May) -> bool {
        match self {
            Intent::Resolve => may.resolve,
            Intent::Pull => may.pull,
            Intent::Push => may.push,
        }
    }
}

/// A conversation with one host about one repository.
#[derive(Debug)]
pub(crate) struct Session {
    client: Arc<Client>,
    peer: Arc<Peer>,
    /// Which of the peer's hosts it is.
    at_host: usize,
    /// The registry as users name it.
    pub(crate) registry: String,
    pub(crate) repository: String,
    base: Url,
    /// Who we are to the registry; other hosts need not know.
    auth: Option<RegistryAuth>,
    intent: Intent,
    /// Value of the `Authorization` header, by scope asked for.
    granted: Mutex<HashMap<String, HeaderValue>>,
}

/// What is asked.
pub(crate) struct Ask {
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: AskBody,
    /// What it needs beyond the session's own scope.
    more_scope: Option<String>,
}

/// The body of a request; made anew for each attempt.
type AskBody = Box<dyn Fn() -> Body + Send + Sync>;

impl Ask {
    pub(crate) fn new(method: Method, url: Url) -> Ask {
        Ask {
            method,
            url,
            headers: HeaderMap::new(),
            body: Box::new(|| {
                Empty::new()
                    .map_err(|never: std::convert::Infallible| match never {})
                    .boxed_unsync()
            }),
            more_scope: None,
        }
    }

    pub(crate) fn header(mut self, name: HeaderName, value: &str) -> Ask {
        // What cannot be a header's value is left out: the registry will say
        // what it misses.
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.append(name, value);
        }
        self
    }

    pub(crate) fn bytes(self, content_type: &str, bytes: impl Into<Bytes>) -> Ask {
        let bytes = bytes.into();
        // Also for none, which some proxies answer with 411 otherwise.
        self.header(CONTENT_LENGTH, &bytes.len().to_string())
            .header(CONTENT_TYPE, content_type)
            .body(Box::new(move || {
                Full::new(bytes.clone())
                    .map_err(|never: std::convert::Infallible| match never {})
                    .boxed_unsync()
            }))
    }

    pub(crate) fn body(mut self, body: AskBody) -> Ask {
        self.body = body;
        self
    }

    pub(crate) fn more_scope(mut self, scope: String) -> Ask {
        self.more_scope = Some(scope);
        self
    }
}

impl Session {
    /// Begins with the first host that may be asked.
    ///
    /// # Errors
    /// [`Error::Invalid`] if there is none, or the configuration is faulty.
    pub(crate) async fn open(
        client: Arc<Client>,
        reference: &Reference,
        auth: Option<RegistryAuth>,
        intent: Intent,
    ) -> Result<Session> {
        let peer = client.peer(reference.registry())?;
        let mut session = Session {
            base: peer.hosts[0].base.clone(),
            client,
            peer,
            at_host: 0,
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            auth,
            intent,
            granted: Mutex::default(),
        };
        let first = session.allowed(intent, 0).ok_or_else(|| {
            let what = match intent {
                Intent::Push => "push",
                Intent::Pull => "pull",
                Intent::Resolve => "resolve",
            };
            Error::Invalid(format!(
                "no host is configured to {what} {}: see its hosts.toml",
                reference.familiar_name()
            ))
        })?;
        session.at_host = first;
        session.arrive().await
    }

    /// The same with the next host that may be asked; none after the last.
    pub(crate) async fn next(&self) -> Option<Session> {
        let mut from = self.at_host + 1;
        while let Some(at_host) = self.allowed(self.intent, from) {
            match self.at(at_host, self.intent).arrive().await {
                Ok(session) => return Some(session),
                Err(error) => tracing::info!(%error, "host does not answer"),
            }
            from = at_host + 1;
        }
        None
    }

    /// The session for the content of what this one has resolved: with the
    /// first host that may be asked, perhaps this one.
    pub(crate) async fn for_content(self) -> Result<Session> {
        match self.allowed(Intent::Pull, 0) {
            Some(at_host) if at_host != self.at_host => {
                let other = self.at(at_host, Intent::Pull).arrive().await;
                match other {
                    Err(error) if self.allowed(Intent::Pull, self.at_host).is_some() => {
                        tracing::info!(%error, "host does not answer");
                        Ok(self.with_intent(Intent::Pull))
                    }
                    other => other,
                }
            }
            Some(_) => Ok(self.with_intent(Intent::Pull)),
            None => Err(Error::Invalid(format!(
                "no host is configured to pull from {}: see its hosts.toml",
                self.registry
            ))),
        }
    }

    /// A conversation with the registry itself about nothing in particular.
    pub(crate) async fn home(
        client: Arc<Client>,
        reference: &Reference,
        auth: RegistryAuth,
    ) -> Result<Session> {
        let peer = client.peer(reference.registry())?;
        Session {
            at_host: peer.hosts.len() - 1,
            base: peer.hosts[0].base.clone(),
            client,
            peer,
            registry: reference.registry().to_owned(),
            repository: reference.repository().to_owned(),
            auth: Some(auth),
            intent: Intent::Pull,
            granted: Mutex::default(),
        }
        .arrive()
        .await
    }

    /// A conversation with a server that is no registry.
    pub(crate) fn anywhere(client: Arc<Client>, url: &Url) -> Result<Session> {
        let base = url
            .join("/")
            .map_err(|error| Error::Invalid(format!("address {url}: {error}")))?;
        let authority = super::hosts::authority(url);
        Ok(Session {
            peer: client.peer(&authority)?,
            at_host: 0,
            client,
            registry: url.host_str().unwrap_or_default().to_owned(),
            repository: String::new(),
            base,
            auth: None,
            intent: Intent::Pull,
            granted: Mutex::default(),
        })
    }

    /// The first host from `from` on that may be asked.
    fn allowed(&self, intent: Intent, from: usize) -> Option<usize> {
        (from..self.peer.hosts.len()).find(|n| intent.is_allowed(self.peer.hosts[*n].may))
    }

    fn at(&self, at_host: usize, intent: Intent) -> Session {
        Session {
            client: Arc::clone(&self.client),
            peer: Arc::clone(&self.peer),
            at_host,
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            base: self.peer.hosts[at_host].base.clone(),
            auth: self.auth.clone(),
            intent,
            granted: Mutex::default(),
        }
    }

    fn with_intent(self, intent: Intent) -> Session {
        Session { intent, ..self }
    }

    /// Finds out how the host is spoken to.
    async fn arrive(mut self) -> Result<Session> {
        self.base = self.client.base(&self.peer, self.at_host).await?;
        Ok(self)
    }

    fn host(&self) -> &Host {
        &self.peer.hosts[self.at_host]
    }

    /// Address of something of this repository.
    pub(crate) fn url(&self, path: &str) -> Result<Url> {
        self.root(&format!("{}/{path}", self.repository))
    }

    /// Address of something of the registry.
    pub(crate) fn root(&self, path: &str) -> Result<Url> {
        self.base
            .join(path)
            .map(|url| self.named(url))
            .map_err(|error| self.nonsense(format!("no address for {path:?}: {error}")))
    }

    /// Tells a host that stands for several registries which one is meant.
    fn named(&self, mut url: Url) -> Url {
        if !self.host().is_home && !self.registry.is_empty() {
            url.query_pairs_mut().append_pair("ns", &self.registry);
        }
        url
    }

    /// Resolves a `Location` the registry gave.
    pub(crate) fn location(&self, asked: &Url, headers: &HeaderMap) -> Result<Url> {
        let location = headers
            .get(LOCATION)
            .and_then(|value| value.to_str().ok())
            .ok_or_else(|| self.nonsense("answer lacks a Location"))?;
        asked
            .join(location)
            .map_err(|error| self.nonsense(format!("bad Location: {error}")))
    }

    /// Asks, proves who we are if need be, follows redirects. Returns whatever
    /// the registry finally answers, errors included.
    pub(crate) async fn send(&self, ask: &Ask) -> Result<Response<Incoming>> {
        let mut scope = format!(
            "repository:{}:{}",
            self.repository,
            if self.intent == Intent::Push {
                "pull,push"
            } else {
                "pull"
            }
        );
        if let Some(more) = &ask.more_scope {
            scope = format!("{scope} {more}");
        }
        let mut url = ask.url.clone();
        let mut n_redirects = 0;
        let mut was_challenged = false;
        loop {
            // Whoever we are sent to need not learn who we are.
            let at_home = url.origin() == self.base.origin();
            let granted = self.granted_for(&scope).filter(|_| at_home);
            let response = self.once(ask, &url, granted).await?;
            let status = response.status();
            if status == StatusCode::UNAUTHORIZED && at_home && !was_challenged {
                was_challenged = true;
                let Some(challenge) = Challenge::among(response.headers()) else {
                    return Ok(response);
                };
                drain(response).await;
                let (header, _) = self.prove(&challenge, &scope).await?;
                self.grant(scope.clone(), header);
                continue;
            }
            let follows = matches!(ask.method, Method::GET | Method::HEAD)
                && matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308);
            if !follows {
                return Ok(response);
            }
            n_redirects += 1;
            if n_redirects > MAX_REDIRECTS {
                return Err(self.nonsense("too many redirects"));
            }
            let next = self.location(&url, response.headers())?;
            let is_safe = next.scheme() == "https" || url.scheme() == "http";
            if !is_safe || !matches!(next.scheme(), "http" | "https") {
                return Err(self.nonsense(format!("redirect from {url} to {next}")));
            }
            url = next;
        }
    }

    /// Like [`Session::send`], but tries again when the network fails or the
    /// registry is overloaded, and turns other answers than `expected` into
    /// errors.
    pub(crate) async fn expect(
        &self,
        ask: &Ask,
        expected: &[StatusCode],
    ) -> Result<Response<Incoming>> {
        let mut n_failed = 0;
        loop {
            let outcome = match self.send(ask).await {
                Ok(response) if expected.contains(&response.status()) => return Ok(response),
                Ok(response) => Err(self.refusal(response).await),
                Err(error) => Err(error),
            };
            n_failed += 1;
            match outcome {
                Err(error) if is_passing(&error) && n_failed < self.client.options.attempts => {
                    tracing::debug!(%error, n_failed, "asking again");
                    tokio::time::sleep(backoff(n_failed)).await;
                }
                other => return other,
            }
        }
    }

    /// The whole body of an answer, if it has at most `limit` bytes.
    pub(crate) async fn collect(
        &self,
        response: Response<Incoming>,
        limit: usize,
    ) -> Result<Bytes> {
        let mut body = response.into_body();
        let mut bytes = BytesMut::new();
        while let Some(chunk) = self.chunk(&mut body).await? {
            if bytes.len() + chunk.len() > limit {
                return Err(self.nonsense(format!("answer has more than {limit} bytes")));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes.freeze())
    }

    /// The next piece of a body; none at its end.
    pub(crate) async fn chunk(&self, body: &mut Incoming) -> Result<Option<Bytes>> {
        loop {
            let frame = tokio::time::timeout(self.client.options.patience, body.frame()).await;
            match frame {
                Err(_) => return Err(self.silence()),
                Ok(None) => return Ok(None),
                Ok(Some(Err(error))) => return Err(self.broken(&self.base, &error)),
                Ok(Some(Ok(frame))) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// What an answer that is an error says.
    pub(crate) async fn refusal(&self, response: Response<Incoming>) -> Error {
        #[derive(Deserialize)]
        struct Errors {
            errors: Vec<One>,
        }
        #[derive(Deserialize)]
        struct One {
            #[serde(default)]
            code: String,
            #[serde(default)]
            message: String,
        }
        let status = response.status();
        let reason = Challenge::among(response.headers()).and_then(|one| one.reason());
        let body = self.collect(response, MAX_ANSWER).await.unwrap_or_default();
        if let Some(reason) = reason {
            return Error::Denied(reason.into());
        }
        let message = match serde_json::from_slice::<Errors>(&body) {
            Ok(errors) if !errors.errors.is_empty() => errors
                .errors
                .iter()
                .take(5)
                .map(|one| {
                    let code = one.code.to_lowercase().replace('_', " ");
                    format!("{code}: {}", one.message)
                })
                .collect::<Vec<_>>()
                .join(", "),
            _ if status == StatusCode::UNAUTHORIZED => UNAUTHORIZED.into(),
            _ => status
                .canonical_reason()
                .unwrap_or("no reason given")
                .to_lowercase(),
        };
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Error::Denied(message),
            _ => Error::Registry {
                registry: self.registry.clone(),
                status: status.as_u16(),
                message,
            },
        }
    }

    /// How often in a row something may fail.
    pub(crate) fn attempts(&self) -> u32 {
        self.client.options.attempts
    }

    /// The registry speaks, but no sense.
    pub(crate) fn nonsense(&self, message: impl Into<String>) -> Error {
        Error::Protocol {
            registry: self.registry.clone(),
            message: message.into(),
        }
    }

    /// Asks whether the registry knows us; returns an identity token if there
    /// is one.
    pub(crate) async fn login(&self) -> Result<Option<String>> {
        let url = self.root("")?;
        let ask = Ask::new(Method::GET, url.clone());
        let response = self.once(&ask, &url, None).await?;
        if response.status().is_success() {
            return Ok(None);
        }
        let at_it = |error| match error {
            Error::Denied(why) => Error::Denied(format!("Get \"{url}\": {why}")),
            other => other,
        };
        let Some(challenge) = Challenge::among(response.headers()) else {
            return Err(at_it(self.refusal(response).await));
        };
        drain(response).await;
        let (header, identity) = self.prove(&challenge, "").await.map_err(at_it)?;
        let response = self.once(&ask, &url, Some(header)).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(identity);
        }
        Err(match self.refusal(response).await {
            Error::Denied(_) if challenge == Challenge::Basic => Error::Denied(format!(
                "login attempt to {url} failed with status: {status}"
            )),
            other => at_it(other),
        })
    }

    async fn once(
        &self,
        ask: &Ask,
        url: &Url,
        granted: Option<HeaderValue>,
    ) -> Result<Response<Incoming>> {
        let mut request = Request::builder()
            .method(ask.method.clone())
            .uri(url.as_str())
            .body((ask.body)())
            .map_err(|error| self.nonsense(format!("bad address {url}: {error}")))?;
        let headers = request.headers_mut();
        *headers = ask.headers.clone();
        // They may be secrets between this host and whoever configured it.
        if url.origin() == self.host().base.origin() {
            for (name, value) in &self.host().header {
                headers.append(name.clone(), value.clone());
            }
        }
        if let Ok(agent) = HeaderValue::from_str(&self.client.options.user_agent) {
            headers.insert(http::header::USER_AGENT, agent);
        }
        if let Some(granted) = granted {
            headers.insert(AUTHORIZATION, granted);
        }
        // A request that carries much takes as long as its body flows.
        let patience = match ask.method {
            Method::GET | Method::HEAD => self.client.options.patience,
            _ => self.client.options.patience + Duration::from_secs(24 * 3600),
        };
        match tokio::time::timeout(patience, self.peer.http.request(request)).await {
            Err(_) => Err(self.silence()),
            Ok(Err(error)) if error.is_connect() => Err(Error::Unreachable {
                url: url.to_string(),
                message: cause(&error),
            }),
            Ok(Err(error)) => Err(self.broken(url, &error)),
            Ok(Ok(response)) => Ok(response),
        }
    }

    /// Gets what the challenge asks for: the header, and an identity token.
    async fn prove(
        &self,
        challenge: &Challenge,
        scope: &str,
    ) -> Result<(HeaderValue, Option<String>)> {
        let nobody = RegistryAuth::default();
        // A mirror has no business with credentials for the registry.
        let auth = match &self.auth {
            Some(auth) if self.host().is_home => auth,
            _ => &nobody,
        };
        let sendable = |text: String| {
            let mut value = HeaderValue::from_str(&text)
                .map_err(|_| Error::Denied("credentials cannot be sent in a header".into()))?;
            value.set_sensitive(true);
            Ok::<_, Error>(value)
        };
        if !auth.registry_token.is_empty() {
            return Ok((sendable(format!("Bearer {}", auth.registry_token))?, None));
        }
        let (realm, service) = match challenge {
            Challenge::Basic => {
                let (user, password) =
                    credentials(auth).ok_or_else(|| Error::Denied(UNAUTHORIZED.to_owned()))?;
                return Ok((sendable(basic(&user, &password))?, None));
            }
            Challenge::Bearer { realm, service, .. } => (realm, service),
        };
        let mut url = Url::parse(realm)
            .map_err(|error| self.nonsense(format!("bad token address {realm:?}: {error}")))?;
        let is_safe =
            url.scheme() == "https" || (url.scheme() == "http" && self.base.scheme() == "http");
        if !is_safe {
            return Err(self.nonsense(format!("token address {realm:?} is not secure")));
        }
        // The challenge's scope is what the registry asks; ours is what we
        // need, which may be more.
        let scopes = scope.split(' ').filter(|scope| !scope.is_empty());
        let user = credentials(auth);
        let (ask, granted) = if auth.identity_token.is_empty() {
            {
                let mut query = url.query_pairs_mut();
                query.append_pair("service", service);
                if scope.is_empty() {
                    // Who logs in wants a token to come back with.
                    query.append_pair("offline_token", "true");
                    query.append_pair("client_id", &self.client.options.user_agent);
                }
                for scope in scopes {
                    query.append_pair("scope", scope);
                }
                if let Some((user, _)) = &user {
                    query.append_pair("account", user);
                }
            }
            let granted = match &user {
                Some((user, password)) => Some(sendable(basic(user, password))?),
                None => None,
            };
            (Ask::new(Method::GET, url.clone()), granted)
        } else {
            let form = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("grant_type", "refresh_token")
                .append_pair("service", service)
                .append_pair("client_id", &self.client.options.user_agent)
                .append_pair("scope", scope)
                .append_pair("refresh_token", &auth.identity_token)
                .finish();
            let ask = Ask::new(Method::POST, url.clone());
            (ask.bytes("application/x-www-form-urlencoded", form), None)
        };
        let ask = ask.header(ACCEPT, "application/json");
        let response = self.once(&ask, &url, granted).await?;
        if !response.status().is_success() {
            return Err(match self.refusal(response).await {
                Error::Denied(why) if why == UNAUTHORIZED && user.is_some() => {
                    Error::Denied("unauthorized: incorrect username or password".into())
                }
                other => other,
            });
        }
        let body = self.collect(response, MAX_ANSWER).await?;
        let answer: TokenAnswer = serde_json::from_slice(&body)
            .map_err(|error| self.nonsense(format!("token server: {error}")))?;
        let identity = Some(answer.refresh_token.clone()).filter(|token| !token.is_empty());
        let token = answer
            .token()
            .ok_or_else(|| self.nonsense("token server gave no token"))?;
        Ok((sendable(format!("Bearer {token}"))?, identity))
    }

    fn granted_for(&self, scope: &str) -> Option<HeaderValue> {
        let granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.get(scope).cloned()
    }

    fn grant(&self, scope: String, header: HeaderValue) {
        let mut granted = self.granted.lock().unwrap_or_else(PoisonError::into_inner);
        granted.insert(scope, header);
    }

    fn silence(&self) -> Error {
        let patience = self.client.options.patience;
        Error::Network {
            url: self.base.to_string(),
            message: format!("nothing heard for {} s", patience.as_secs_f32()),
        }
    }

    fn broken(&self, url: &Url, error: &dyn std::error::Error) -> Error {
        Error::Network {
            url: url.to_string(),
            message: chain(error),
        }
    }
}

/// Whether another attempt may succeed.
pub(crate) fn is_passing(error: &Error) -> bool {
    match error {
        Error::Network { .. } => true,
        Error::Registry { status, .. } => matches!(status, 408 | 429 | 500 | 502 | 503 | 504),
        _ => false,
    }
}

/// Like [`is_passing`], once we have spoken to the registry: one that is gone
/// may come back.
pub(crate) fn may_pass(error: &Error) -> bool {
    is_passing(error) || matches!(error, Error::Unreachable { .. })
}

/// Reads what is left of a small answer, so that its connection is used again.
async fn drain(response: Response<Incoming>) {
    let mut body = http_body_util::Limited::new(response.into_body(), MAX_ANSWER);
    let reading = async { while let Some(Ok(_)) = body.frame().await {} };
    // What takes longer is not worth a connection.
    let _ = tokio::time::timeout(Duration::from_secs(1), reading).await;
}

/// An error with its causes, outermost first.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(error) = next {
        let inner = error.to_string();
        if !text.ends_with(&inner) {
            text = format!("{text}: {inner}");
        }
        next = error.source();
    }
    text
}

/// What a client's error comes from, which says more than its own words.
pub(crate) fn cause(error: &hyper_util::client::legacy::Error) -> String {
    chain(std::error::Error::source(error).unwrap_or(error))
}

/// For bodies that fail.
pub(crate) fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "blob could not be read")
}
