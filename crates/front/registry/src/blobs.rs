//! Blobs: reading them, whole or in part, and letting go of them.

use std::sync::Arc;

use dhow_oci::Digest;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderName,
    IF_NONE_MATCH, RANGE,
};
use http::{Method, Response, StatusCode};

use crate::body::{self, Answer};
use crate::error::{Refusal, Result};
use crate::server::{Ask, Registry, answer};

/// The header that names content.
pub(crate) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");

impl Registry {
    /// GET and HEAD of a blob.
    pub(crate) async fn get_blob(
        self: Arc<Self>,
        name: String,
        digest: Digest,
        ask: &Ask,
    ) -> Result<Response<Answer>> {
        let wanted = digest.clone();
        let blob = self
            .blocking(move |registry| {
                registry
                    .store
                    .blob(&name, &wanted)?
                    .ok_or_else(|| Refusal::blob_unknown(&wanted))?;
                Ok(registry.content.open_blob(&wanted)?)
            })
            .await?;
        let etag = format!("\"{digest}\"");
        let mut headers = vec![
            (CONTENT_TYPE, "application/octet-stream".to_owned()),
            (CONTENT_DIGEST, digest.to_string()),
            (ETAG, etag.clone()),
            (ACCEPT_RANGES, "bytes".to_owned()),
            // What has a digest never changes.
            (CACHE_CONTROL, "max-age=31536000".to_owned()),
        ];
        if ask
            .header(IF_NONE_MATCH)
            .is_some_and(|tags| tags.contains(&etag))
        {
            return answer(StatusCode::NOT_MODIFIED, body::bytes(""), &headers);
        }
        let (status, start, end) = match ask.header(RANGE).map(|range| parse(range, blob.size)) {
            None | Some(Ranged::Whole) => (StatusCode::OK, 0, blob.size),
            Some(Ranged::Part(start, end)) => {
                let range = format!("bytes {start}-{}/{}", end - 1, blob.size);
                headers.push((CONTENT_RANGE, range));
                (StatusCode::PARTIAL_CONTENT, start, end)
            }
            Some(Ranged::Outside) => {
                let message = format!("the blob has {} bytes", blob.size);
                let status = StatusCode::RANGE_NOT_SATISFIABLE;
                return Err(Refusal::new(status, "RANGE_INVALID", message)
                    .header(CONTENT_RANGE, format!("bytes */{}", blob.size)));
            }
        };
        headers.push((CONTENT_LENGTH, (end - start).to_string()));
        let body = match ask.method {
            Method::HEAD => body::only_length(end - start),
            _ => body::stretch(blob.file, start, end - start),
        };
        answer(status, body, &headers)
    }

    /// DELETE of a blob: this repository lets go of it.
    pub(crate) async fn delete_blob(
        self: Arc<Self>,
        name: String,
        digest: Digest,
    ) -> Result<Response<Answer>> {
        self.blocking(
            move |registry| match registry.store.unlink_blob(&name, &digest)? {
                true => Ok(()),
                false => Err(Refusal::blob_unknown(&digest)),
            },
        )
        .await?;
        answer(
            StatusCode::ACCEPTED,
            body::bytes(""),
            &[(CONTENT_LENGTH, "0".to_owned())],
        )
    }
}

/// What a `Range` header comes to.
#[derive(Debug, PartialEq, Eq)]
enum Ranged {
    /// None, or one we need not understand: everything.
    Whole,
    /// From here to before there.
    Part(u64, u64),
    /// Nothing of it exists.
    Outside,
}

/// Reads a single range (RFC 9110, section 14.1.2).
fn parse(header: &str, size: u64) -> Ranged {
    let Some(range) = header.strip_prefix("bytes=") else {
        return Ranged::Whole;
    };
    let Some((first, last)) = range.trim().split_once('-') else {
        return Ranged::Whole;
    };
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), _) if first >= size => Ranged::Outside,
        (Ok(first), Ok(last)) if last >= first => {
            Ranged::Part(first, last.saturating_add(1).min(size))
        }
        (Ok(first), Err(_)) if last.is_empty() => Ranged::Part(first, size),
        (Err(_), Ok(0)) if first.is_empty() => Ranged::Outside,
        (Err(_), Ok(n)) if first.is_empty() && size > 0 => {
            Ranged::Part(size.saturating_sub(n), size)
        }
        _ => Ranged::Whole,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ranges_are_read() {
        assert_eq!(parse("bytes=0-0", 10), Ranged::Part(0, 1));
        assert_eq!(parse("bytes=3-", 10), Ranged::Part(3, 10));
        assert_eq!(parse("bytes=3-99", 10), Ranged::Part(3, 10));
        assert_eq!(parse("bytes=-4", 10), Ranged::Part(6, 10));
        assert_eq!(parse("bytes=-40", 10), Ranged::Part(0, 10));
        assert_eq!(parse("bytes=10-", 10), Ranged::Outside);
        assert_eq!(parse("bytes=5-3", 10), Ranged::Whole);
        assert_eq!(parse("lines=1-2", 10), Ranged::Whole);
        assert_eq!(parse("bytes=0-1,3-4", 10), Ranged::Whole);
    }

    proptest! {
        #[test]
        fn parts_lie_inside(header in "bytes=[0-9]{0,20}-[0-9]{0,20}", size: u64) {
            if let Ranged::Part(start, end) = parse(&header, size) {
                prop_assert!(start < end && end <= size);
            }
        }
    }
}
