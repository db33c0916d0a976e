//! `watch`: a cursor into the resource's ring, told as lines of JSON.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;

use super::read::Selectors;
use crate::api::{Api, Body, BoxError, Context};
use crate::cache::{Caches, Change, Kind, frame};
use crate::error::ApiError;
use crate::object::Object;
use crate::request::{Format, Query};
use crate::resource::{Registry, Resource};
use crate::show::{Show, serialize};

/// A watch that names no time ends after this long; a client begins anew.
const LONGEST: Duration = Duration::from_secs(3600);
/// Quiet watchers are told where they stand this often.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// So many changes are framed at a time.
const MOST_AT_ONCE: usize = 256;

struct Watcher {
    registry: Arc<Registry>,
    caches: Arc<Caches>,
    resource: usize,
    stored: usize,
    prefix: String,
    selectors: Selectors,
    format: Format,
    include: String,
    first: bool,
    /// Changes up to this revision have been told.
    cursor: u64,
    bookmarks: bool,
    ready: VecDeque<Bytes>,
    changed: watch::Receiver<u64>,
    closing: watch::Receiver<bool>,
    deadline: Instant,
    next_bookmark: Instant,
    over: bool,
}

impl Api {
    pub(super) async fn watch(
        &self,
        context: &Context,
        resource: &Resource,
    ) -> Result<Response<Body>, ApiError> {
        let stored = self.stored(resource);
        let query = &context.query;
        let version = query.number("resourceVersion")?;
        let initial = initial_events(query, version)?;
        let timeout = query
            .number("timeoutSeconds")?
            .map_or(LONGEST, Duration::from_secs)
            .min(LONGEST);
        let cache = self.caches.of(stored);
        let now = Instant::now();
        let mut watcher = Watcher {
            registry: self.registry.clone(),
            caches: self.caches.clone(),
            resource: resource.index,
            stored: stored.index,
            prefix: if stored.namespaced && !context.target.namespace.is_empty() {
                format!("{}/", context.target.namespace)
            } else {
                String::new()
            },
            selectors: Selectors::of(context, resource)?,
            format: context.format,
            include: query.get("includeObject").to_owned(),
            first: true,
            cursor: version.unwrap_or(0),
            bookmarks: query.flag("allowWatchBookmarks"),
            ready: VecDeque::new(),
            changed: cache.subscribe(),
            closing: self.closing.subscribe(),
            deadline: now + timeout,
            next_bookmark: now + BOOKMARK_EVERY,
            over: false,
        };
        if initial {
            match version {
                Some(0) => {}
                Some(revision) => self.caches.reach(revision).await?,
                None => self.consistent().await?,
            }
            watcher.begin_with_all(query.flag("sendInitialEvents"));
        } else if version.is_none() {
            self.consistent().await?;
            watcher.begin_with_all(false);
        } else {
            watcher.take_changes();
        }
        let lines = stream::unfold(watcher, |mut watcher| async move {
            let line = watcher.next().await?;
            Some((Ok::<_, BoxError>(Frame::data(line)), watcher))
        });
        let mut response = Response::new(StreamBody::new(lines).boxed_unsync());
        *response.status_mut() = StatusCode::OK;
        response.headers_mut().insert(
            http::header::CONTENT_TYPE,
            http::HeaderValue::from_static("application/json"),
        );
        Ok(response)
    }
}

/// Whether the watch begins with everything there is.
fn initial_events(query: &Query, version: Option<u64>) -> Result<bool, ApiError> {
    if query.has("sendInitialEvents") {
        if query.get("resourceVersionMatch") != "NotOlderThan" {
            return Err(ApiError::unprocessable(
                "ListOptions.meta.k8s.io \"\" is invalid: resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
            ));
        }
        return Ok(query.flag("sendInitialEvents"));
    }
    Ok(version == Some(0))
}

impl Watcher {
    fn stored(&self) -> &Resource {
        self.registry.get(self.stored)
    }

    fn sees(&self, object: &Object) -> bool {
        let in_namespace =
            self.prefix.is_empty() || *object.namespace == self.prefix[..self.prefix.len() - 1];
        in_namespace && self.selectors.matches(self.stored(), object)
    }

    fn line(&mut self, kind: Kind, change: Option<&Change>, object: &Object) -> Option<Bytes> {
        let registry = self.registry.clone();
        let show = Show {
            resource: registry.get(self.resource),
            format: self.format,
            include: &self.include,
        };
        if show.is_plain() {
            return match change {
                Some(change) => change.frame(kind),
                None => Some(frame(kind.name(), &object.json)),
            };
        }
        let shown = show.watched(object, &mut self.first);
        Some(frame(kind.name(), &shown))
    }

    /// Tells everything there is as added.
    fn begin_with_all(&mut self, mark_end: bool) {
        let caches = self.caches.clone();
        let cache = caches.of(self.registry.get(self.stored));
        let reached = caches.revision();
        let (objects, newest) = cache.list(&self.prefix);
        self.cursor = reached.max(newest);
        for object in objects {
            if self.sees(&object) {
                let line = self.line(Kind::Added, None, &object);
                self.ready.extend(line);
            }
        }
        if mark_end {
            self.bookmark(true);
        }
    }

    fn bookmark(&mut self, ends_initial: bool) {
        let resource = self.registry.get(self.resource);
        let mut metadata = json!({"resourceVersion": self.cursor.to_string()});
        if ends_initial {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        metadata["creationTimestamp"] = serde_json::Value::Null;
        let object = match self.format {
            Format::Table => json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1",
                "metadata": {"resourceVersion": self.cursor.to_string()},
                "columnDefinitions": null,
                "rows": [{"cells": [], "object": {"kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1", "metadata": metadata}}]}),
            Format::Metadata => json!({"kind": "PartialObjectMetadata",
                "apiVersion": "meta.k8s.io/v1", "metadata": metadata}),
            Format::Object => json!({"kind": resource.kind,
                "apiVersion": resource.group_version(), "metadata": metadata}),
        };
        self.ready.push_back(frame("BOOKMARK", &serialize(&object)));
    }

    /// Frames what happened since the cursor.
    fn take_changes(&mut self) {
        let caches = self.caches.clone();
        let cache = caches.of(self.registry.get(self.stored));
        // Read before the ring: what is not in the ring then is later.
        let reached = caches.revision();
        let changes = match cache.changes(self.cursor, MOST_AT_ONCE) {
            Ok(changes) => changes,
            Err(since) => {
                let error = ApiError::expired(format!(
                    "too old resource version: {} ({since})",
                    self.cursor
                ));
                self.ready
                    .push_back(frame("ERROR", &serialize(&error.to_status())));
                self.over = true;
                return;
            }
        };
        let all = changes.len() < MOST_AT_ONCE;
        for change in changes {
            let before = change.old.as_ref().is_some_and(|old| self.sees(old));
            let after = change.new.as_ref().is_some_and(|new| self.sees(new));
            let kind = match (before, after) {
                (false, true) => Kind::Added,
                (true, true) => Kind::Modified,
                (true, false) => Kind::Deleted,
                (false, false) => {
                    self.cursor = change.revision;
                    continue;
                }
            };
            self.cursor = change.revision;
            if let Some(shown) = change.shown(kind) {
                let line = self.line(kind, Some(&change), &shown);
                self.ready.extend(line);
            }
        }
        if all {
            self.cursor = self.cursor.max(reached);
        }
    }

    /// The next line, or `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.over || *self.closing.borrow() {
                return None;
            }
            // Marked as seen before looking, so that no change slips between.
            self.changed.borrow_and_update();
            self.take_changes();
            if !self.ready.is_empty() {
                continue;
            }
            let wake = if self.bookmarks {
                self.deadline.min(self.next_bookmark)
            } else {
                self.deadline
            };
            let due = tokio::select! {
                changed = self.changed.changed() => {
                    changed.ok()?;
                    false
                }
                _ = self.closing.changed() => false,
                () = tokio::time::sleep_until(wake) => true,
            };
            if due {
                self.over = Instant::now() >= self.deadline;
                if self.bookmarks {
                    self.take_changes();
                    self.bookmark(false);
                    self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                }
            }
        }
    }
}
