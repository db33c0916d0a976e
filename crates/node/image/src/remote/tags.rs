//! The tags of a repository, page by page.

use std::sync::Arc;

use dhow_oci::{MAX_DOCUMENT, Reference};
use http::header::LINK;
use http::{HeaderMap, Method, StatusCode};
use serde::Deserialize;
use url::Url;

use crate::images::Images;
use crate::remote::session::{Ask, Intent, Session};
use crate::types::RegistryAuth;
use crate::{Error, Result};

/// More tags than this are not looked through.
const MAX_TAGS: usize = 10_000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Images {
    /// The tags that a repository has in its registry, as references, in the order in
    /// which the registry tells them.
    ///
    /// # Errors
    /// [`Error::ManifestUnknown`] if there is no such repository, [`Error::Denied`],
    /// [`Error::Network`], [`Error::Protocol`] and others.
    pub async fn tags(
        &self,
        reference: &Reference,
        auth: Option<RegistryAuth>,
    ) -> Result<Vec<Reference>> {
        let client = Arc::clone(&self.inner.client);
        let mut session = Session::open(client, reference, auth, Intent::Resolve).await?;
        let names = loop {
            match session.tags(reference).await {
                Ok(names) => break names,
                Err(error) => session = session.next().await.ok_or(error)?,
            }
        };
        let tagged = |tag: &String| reference.with_tag(tag);
        Ok(names
            .iter()
            .map(tagged)
            .collect::<std::result::Result<_, _>>()?)
    }
}

impl Session {
    async fn tags(&self, reference: &Reference) -> Result<Vec<String>> {
        let mut tags = Vec::new();
        let mut next = Some(self.url("tags/list")?);
        while let Some(url) = next {
            let ask = Ask::new(Method::GET, url.clone());
            let response = match self.expect(&ask, &[StatusCode::OK]).await {
                Err(Error::Registry { status: 404, .. }) => {
                    return Err(Error::ManifestUnknown(reference.familiar_name()));
                }
                response => response?,
            };
            next = self.next_page(&url, response.headers())?;
            let bytes = self.collect(response, MAX_DOCUMENT).await?;
            let page: Page = serde_json::from_slice(&bytes)
                .map_err(|error| self.nonsense(format!("list of tags: {error}")))?;
            let page = page.tags.unwrap_or_default();
            if page.is_empty() {
                break;
            }
            tags.extend(page);
            if tags.len() > MAX_TAGS {
                return Err(self.nonsense(format!("more than {MAX_TAGS} tags")));
            }
        }
        Ok(tags)
    }

    /// Where the next page is, by a `Link` such as `</v2/…>; rel="next"`.
    fn next_page(&self, asked: &Url, headers: &HeaderMap) -> Result<Option<Url>> {
        let Some(link) = headers.get(LINK).and_then(|value| value.to_str().ok()) else {
            return Ok(None);
        };
        let target = link.strip_prefix('<').and_then(|link| link.split_once('>'));
        let Some((target, _)) = target.filter(|(_, rest)| rest.contains("next")) else {
            return Ok(None);
        };
        let url = asked
            .join(target)
            .map_err(|error| self.nonsense(format!("bad Link: {error}")))?;
        match url.origin() == asked.origin() && url != *asked {
            true => Ok(Some(url)),
            false => Err(self.nonsense(format!("its next page is {url}"))),
        }
    }
}
