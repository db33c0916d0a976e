//! Lists: repositories, tags, referrers.

use std::sync::Arc;

use dhow_oci::{Digest, Index, media_type};
use http::header::{HeaderName, LINK};
use http::{Response, StatusCode};
use serde_json::json;

use crate::body::Answer;
use crate::error::{Refusal, Result};
use crate::server::{Ask, Registry, json as answer_json};
use crate::store::Page;

/// Names on a page, and the most anybody gets.
const PAGE: usize = 100;
const MAX_PAGE: usize = 10_000;
/// Says which filters were applied.
const FILTERS: HeaderName = HeaderName::from_static("oci-filters-applied");

impl Registry {
    /// GET of `_catalog`.
    pub(crate) async fn catalog(self: Arc<Self>, ask: &Ask) -> Result<Response<Answer>> {
        let (last, n) = (last(ask), number(ask)?.unwrap_or(PAGE));
        let page = self
            .blocking(move |registry| Ok(registry.store.repositories(&last, n)?))
            .await?;
        let link = next("/v2/_catalog", &page, n);
        let body = json!({"repositories": page.names}).to_string();
        answer_json(StatusCode::OK, "application/json", body.into_bytes(), &link)
    }

    /// GET of `tags/list`.
    pub(crate) async fn tags(self: Arc<Self>, name: String, ask: &Ask) -> Result<Response<Answer>> {
        // Without a number, clients expect everything.
        let (last, n) = (last(ask), number(ask)?.unwrap_or(MAX_PAGE));
        let repository = name.clone();
        let page = self
            .blocking(move |registry| {
                registry
                    .store
                    .tags(&repository, &last, n)?
                    .ok_or_else(|| Refusal::name_unknown(&repository))
            })
            .await?;
        let link = next(&format!("/v2/{name}/tags/list"), &page, n);
        let body = json!({"name": name, "tags": page.names}).to_string();
        answer_json(StatusCode::OK, "application/json", body.into_bytes(), &link)
    }

    /// GET of `referrers`.
    pub(crate) async fn referrers(
        self: Arc<Self>,
        name: String,
        digest: Digest,
        ask: &Ask,
    ) -> Result<Response<Answer>> {
        let wanted = ask.query("artifactType").map(str::to_owned);
        let mut found = self
            .blocking(move |registry| Ok(registry.store.referrers(&name, &digest)?))
            .await?;
        let mut headers = Vec::new();
        if let Some(wanted) = &wanted {
            found.retain(|descriptor| descriptor.artifact_type.as_ref() == Some(wanted));
            headers.push((FILTERS, "artifactType".to_owned()));
        }
        let body = serde_json::to_vec(&Index::new(found)).expect("plain data");
        answer_json(StatusCode::OK, media_type::OCI_INDEX, body, &headers)
    }
}

fn last(ask: &Ask) -> String {
    ask.query("last").unwrap_or_default().to_owned()
}

fn number(ask: &Ask) -> Result<Option<usize>> {
    let Some(text) = ask.query("n") else {
        return Ok(None);
    };
    let number = text.parse::<usize>().map_err(|_| {
        let message = format!("n={text}: expected a number");
        Refusal::new(
            StatusCode::BAD_REQUEST,
            "PAGINATION_NUMBER_INVALID",
            message,
        )
    })?;
    Ok(Some(number.min(MAX_PAGE)))
}

fn next(path: &str, page: &Page, n: usize) -> Vec<(HeaderName, String)> {
    match page.names.last() {
        Some(last) if page.has_more => {
            let query = url::form_urlencoded::Serializer::new(String::new())
                .append_pair("n", &n.to_string())
                .append_pair("last", last)
                .finish();
            vec![(LINK, format!("<{path}?{query}>; rel=\"next\""))]
        }
        _ => Vec::new(),
    }
}
