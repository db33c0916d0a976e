//! From a path to what is asked for. Repository names have slashes, so paths
//! are read from their ends.

use dhow_oci::{Digest, is_repository, is_tag};
use http::StatusCode;

use crate::error::{Refusal, Result};

/// What a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/NAME/tags/list`
    Tags(String),
    /// `/v2/NAME/manifests/REFERENCE`
    Manifest(String, Reference),
    /// `/v2/NAME/blobs/DIGEST`
    Blob(String, Digest),
    /// `/v2/NAME/blobs/uploads/`
    Uploads(String),
    /// `/v2/NAME/blobs/uploads/ID`
    Upload(String, String),
    /// `/v2/NAME/referrers/DIGEST`
    Referrers(String, Digest),
}

/// A tag or a digest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reference {
    Tag(String),
    Digest(Digest),
}

impl Route {
    /// Reads a path.
    pub(crate) fn parse(path: &str) -> Result<Route> {
        let unknown = || {
            Refusal::new(
                StatusCode::NOT_FOUND,
                "UNSUPPORTED",
                "there is nothing at this address",
            )
        };
        let path = percent_encoding::percent_decode_str(path)
            .decode_utf8()
            .map_err(|_| unknown())?;
        let rest = match path.strip_prefix("/v2") {
            Some("" | "/") => return Ok(Route::Base),
            Some(rest) => rest.strip_prefix('/').ok_or_else(unknown)?,
            None => return Err(unknown()),
        };
        if rest == "_catalog" {
            return Ok(Route::Catalog);
        }
        if let Some(name) = rest.strip_suffix("/tags/list") {
            return Ok(Route::Tags(repository(name)?));
        }
        if let Some(name) = rest
            .strip_suffix("/blobs/uploads/")
            .or_else(|| rest.strip_suffix("/blobs/uploads"))
        {
            return Ok(Route::Uploads(repository(name)?));
        }
        let (before, last) = rest.rsplit_once('/').ok_or_else(unknown)?;
        if let Some(name) = before.strip_suffix("/blobs/uploads") {
            let sound = last.len() == 32 && last.bytes().all(|byte| byte.is_ascii_hexdigit());
            if !sound {
                return Err(Refusal::upload_unknown());
            }
            return Ok(Route::Upload(repository(name)?, last.to_owned()));
        }
        let digest = || {
            last.parse::<Digest>()
                .map_err(|error| Refusal::digest_invalid(format!("{last:?}: {error}")))
        };
        if let Some(name) = before.strip_suffix("/blobs") {
            return Ok(Route::Blob(repository(name)?, digest()?));
        }
        if let Some(name) = before.strip_suffix("/referrers") {
            return Ok(Route::Referrers(repository(name)?, digest()?));
        }
        if let Some(name) = before.strip_suffix("/manifests") {
            let name = repository(name)?;
            if last.contains(':') {
                return Ok(Route::Manifest(name, Reference::Digest(digest()?)));
            }
            if !is_tag(last) {
                let message = format!("{last:?} is no tag");
                return Err(Refusal::new(
                    StatusCode::NOT_FOUND,
                    "MANIFEST_UNKNOWN",
                    message,
                ));
            }
            return Ok(Route::Manifest(name, Reference::Tag(last.to_owned())));
        }
        Err(unknown())
    }
}

fn repository(name: &str) -> Result<String> {
    if !is_repository(name) {
        let message = format!("invalid repository name: {name:?}");
        return Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "NAME_INVALID",
            message,
        ));
    }
    Ok(name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn paths_are_read_from_their_ends() {
        let digest = Digest::of(b"");
        let parse = |path: &str| Route::parse(path).unwrap();
        assert_eq!(parse("/v2/"), Route::Base);
        assert_eq!(parse("/v2/a/b/tags/list"), Route::Tags("a/b".into()));
        assert_eq!(
            parse("/v2/blobs/uploads/blobs/uploads/"),
            Route::Uploads("blobs/uploads".into())
        );
        assert_eq!(
            parse(&format!("/v2/manifests/manifests/{digest}")),
            Route::Manifest("manifests".into(), Reference::Digest(digest.clone()))
        );
        assert_eq!(
            parse(&format!("/v2/a/blobs/{digest}")),
            Route::Blob("a".into(), digest)
        );
        for bad in [
            "/",
            "/v2",
            "/v2x/",
            "/v2/a",
            "/v2/A/tags/list",
            "/v2/../tags/list",
            "/v2/a/blobs/x",
        ] {
            assert!(bad == "/v2" || Route::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_path_is_safe(path in "/v2(/[a-z:.%0-9_-]{0,8}){0,6}") {
            let _ = Route::parse(&path);
        }
    }
}
