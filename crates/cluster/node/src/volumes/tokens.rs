//! Tokens of service accounts, asked for by TokenRequest and renewed in time.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use k8s_openapi::api::authentication::v1::{BoundObjectReference, TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt};
use parking_lot::Mutex;

use crate::time;

/// A token is renewed when it is that old, however long it lives.
const OLDEST: Duration = Duration::from_secs(24 * 3600);
/// And never sooner than this, whatever the clocks say.
const SOONEST: Duration = Duration::from_secs(30);

/// Tokens of one pod.
pub(crate) struct Tokens {
    client: Client,
    known: Mutex<HashMap<Wish, Token>>,
}

/// Which token.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Wish {
    /// Whom it is shown to; empty is the API server.
    pub(crate) audience: String,
    /// How long it should live, in seconds.
    pub(crate) seconds: i64,
}

/// A token and when another one should be asked for.
#[derive(Debug, Clone)]
pub(crate) struct Token {
    pub(crate) text: String,
    pub(crate) renew: SystemTime,
}

impl Tokens {
    pub(crate) fn new(client: Client) -> Self {
        Self {
            client,
            known: Mutex::default(),
        }
    }

    /// A token that is good for a while.
    pub(crate) async fn get(&self, pod: &Pod, wish: &Wish) -> Result<Token, String> {
        let now = SystemTime::now();
        let known = self.known.lock().get(wish).cloned();
        if let Some(token) = known.filter(|token| token.renew > now) {
            return Ok(token);
        }
        let namespace = pod.namespace().unwrap_or_default();
        let account = pod.spec.as_ref();
        let account = account.and_then(|spec| spec.service_account_name.clone());
        let account = account.filter(|name| !name.is_empty());
        let account = account.unwrap_or_else(|| "default".to_owned());
        let request = TokenRequest {
            spec: Some(TokenRequestSpec {
                audiences: Some(Vec::from_iter(
                    Some(wish.audience.clone()).filter(|audience| !audience.is_empty()),
                )),
                expiration_seconds: Some(wish.seconds),
                bound_object_ref: Some(BoundObjectReference {
                    api_version: Some("v1".to_owned()),
                    kind: Some("Pod".to_owned()),
                    name: Some(pod.name_any()),
                    uid: pod.uid(),
                }),
                ..TokenRequestSpec::default()
            }),
            ..TokenRequest::default()
        };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &namespace);
        let answer = accounts
            .create_token_request(&account, &PostParams::default(), &request)
            .await
            .map_err(|error| format!("failed to fetch token: {error}"))?;
        let status = answer.status.unwrap_or_default();
        let end = status.expiration_timestamp.as_ref().map(time::system);
        let token = Token {
            text: status.token.unwrap_or_default(),
            renew: renewal(now, end),
        };
        self.known.lock().insert(wish.clone(), token.clone());
        Ok(token)
    }
}

/// When a token that was made now and ends then is renewed.
fn renewal(now: SystemTime, end: Option<SystemTime>) -> SystemTime {
    let lifetime = end.and_then(|end| end.duration_since(now).ok());
    now + (lifetime.unwrap_or_default() * 4 / 5).clamp(SOONEST, OLDEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_renewed_in_time() {
        let now = SystemTime::UNIX_EPOCH;
        let after = |lifetime: u64| {
            let end = now + Duration::from_secs(lifetime);
            let renewal = renewal(now, Some(end)).duration_since(now);
            renewal.expect("it is later").as_secs()
        };
        assert_eq!(after(3600), 2880);
        assert_eq!(after(365 * 24 * 3600), 24 * 3600);
        assert_eq!(after(0), 30, "a clock that is wrong makes no storm");
        assert!(renewal(now, None) > now);
    }
}
