//! Versions of the API: the one that a request speaks, and which are spoken.
//!
//! A handler that answers differently by version takes a [`Version`]. What
//! changed when is told in `docs/design/docker-api.md`.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{StatusCode, Uri};

use crate::error::{Answer, Failure};
use crate::{API_VERSION, MIN_API_VERSION};

/// The version that a request speaks: the number behind `1.`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Version(u32);

impl Version {
    /// Whether it is 1.`minor` or newer.
    pub(crate) fn since(self, minor: u32) -> bool {
        self.0 >= minor
    }

    /// Whether it is older than 1.`minor`.
    pub(crate) fn before(self, minor: u32) -> bool {
        self.0 < minor
    }

    /// The newest that is spoken.
    fn newest() -> Self {
        Self(minor(API_VERSION).unwrap_or_default())
    }

    /// Takes the version off a path: `/v1.41/info` is `/info` in 1.41. A path
    /// without one means the newest.
    ///
    /// # Errors
    ///
    /// 400 for a version that is not spoken.
    pub(crate) fn take_off(uri: &Uri) -> Answer<(Self, Uri)> {
        let whole = uri.path_and_query().map_or("/", |path| path.as_str());
        let Some(rest) = whole.strip_prefix("/v") else {
            return Ok((Self::newest(), parse(whole)?));
        };
        let (version, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let too_new = || {
            Failure::bad(format!(
                "client version {version} is too new. Maximum supported API version is {API_VERSION}"
            ))
        };
        let Some(number) = minor(version) else {
            if is_number(version) {
                return Err(too_new());
            }
            return Ok((Self::newest(), parse(whole)?));
        };
        if number < minor(MIN_API_VERSION).unwrap_or_default() {
            return Err(Failure::bad(format!(
                "client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, please upgrade your client to a newer version"
            )));
        }
        if Self(number) > Self::newest() {
            return Err(too_new());
        }
        Ok((Self(number), parse(rest)?))
    }
}

impl<S: Sync> FromRequestParts<S> for Version {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let spoken = parts.extensions.get::<Self>().copied();
        Ok(spoken.unwrap_or_else(Self::newest))
    }
}

fn parse(path: &str) -> Answer<Uri> {
    path.parse()
        .map_err(|_| Failure::new(StatusCode::NOT_FOUND, "page not found"))
}

/// The number behind `1.`.
fn minor(version: &str) -> Option<u32> {
    version.strip_prefix("1.")?.parse().ok()
}

/// Whether it is a version at all: two numbers and a point.
fn is_number(version: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|one| one.is_ascii_digit());
    let parts = version.split_once('.');
    parts.is_some_and(|(major, minor)| is_digits(major) && is_digits(minor))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_taken_off() {
        let taken = |text: &str| {
            let uri = text.parse().expect("a URI");
            let (version, rest) = Version::take_off(&uri).ok()?;
            Some((version.0, rest.to_string()))
        };
        let newest = Version::newest().0;
        let path = |version, path: &str| Some((version, path.to_owned()));
        assert_eq!(
            taken("/v1.41/containers/json?all=1"),
            path(41, "/containers/json?all=1")
        );
        assert_eq!(taken("/containers/json"), path(newest, "/containers/json"));
        assert_eq!(taken("/volumes/x"), path(newest, "/volumes/x"));
        assert_eq!(taken("/v1.23/info"), None);
        assert_eq!(taken("/v1.99/info"), None);
        assert_eq!(taken("/v9.99/info"), None);
        assert_eq!(taken("/v1.x/info"), path(newest, "/v1.x/info"));
    }

    #[test]
    fn versions_are_compared_as_numbers() {
        assert!(Version(52).since(52) && Version(52).since(9) && !Version(52).since(53));
        assert!(Version(9).before(52) && !Version(52).before(52));
    }
}
