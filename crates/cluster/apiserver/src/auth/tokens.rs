//! Service-account tokens: ES256 JWTs, made by TokenRequest, checked here.

use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _,
    UnparsedPublicKey,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use dhow_schema::decode;
use http::{Response, StatusCode};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::{Api, Body, Context, json_response};
use crate::error::ApiError;
use crate::server::OpenError;
use crate::show::serialize;
use crate::tree;
use crate::verb::body;

/// A token is asked for at least for this long, in seconds.
const SHORTEST: i64 = 600;
/// And at most for this long.
const LONGEST: i64 = 1 << 32;
/// No token of ours is longer.
const LONGEST_TOKEN: usize = 16 * 1024;

/// The pair of keys that signs tokens.
pub(crate) struct TokenKeys {
    pair: EcdsaKeyPair,
    id: String,
}

impl TokenKeys {
    /// Reads the key from a file, or makes one.
    pub(crate) fn load(path: &Path) -> Result<Self, OpenError> {
        let bytes = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let document = EcdsaKeyPair::generate_pkcs8(
                    &ECDSA_P256_SHA256_FIXED_SIGNING,
                    &SystemRandom::new(),
                )
                .map_err(|_| OpenError::Key("service-account key cannot be made"))?;
                super::certificates::write_secret(path, document.as_ref())?;
                document.as_ref().to_vec()
            }
            Err(error) => return Err(OpenError::read(path, error)),
        };
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes)
            .map_err(|_| OpenError::Key("service-account key is no P-256 key"))?;
        let digest =
            aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, pair.public_key().as_ref());
        let id = URL_SAFE_NO_PAD.encode(digest.as_ref());
        Ok(Self { pair, id })
    }

    /// The public key as a JSON Web Key Set.
    pub(crate) fn key_set(&self) -> Value {
        // An uncompressed point: 4, then both coordinates.
        let point = self.pair.public_key().as_ref();
        let (x, y) = point[1..].split_at(32);
        json!({"keys": [{"use": "sig", "kty": "EC", "kid": self.id, "alg": "ES256",
            "crv": "P-256", "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y)}]})
    }

    /// A signed token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> Result<String, ApiError> {
        let header = json!({"alg": "ES256", "kid": self.id});
        let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), signed.as_bytes())
            .map_err(|_| ApiError::internal("cannot sign a token"))?;
        Ok(format!(
            "{signed}.{}",
            URL_SAFE_NO_PAD.encode(signature.as_ref())
        ))
    }

    /// The claims of a token that is ours and in time.
    pub(crate) fn verify(&self, token: &str, now: Timestamp) -> Option<Value> {
        if token.len() > LONGEST_TOKEN {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let header: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()?;
        if tree::text(&header, &["alg"]) != "ES256" {
            return None;
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, self.pair.public_key().as_ref())
            .verify(signed.as_bytes(), &URL_SAFE_NO_PAD.decode(signature).ok()?)
            .ok()?;
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = now.as_second();
        let in_time = tree::int(&claims, &["exp"])? > now
            && tree::int(&claims, &["nbf"]).is_none_or(|start| start <= now + 60);
        in_time.then_some(claims)
    }
}

impl Api {
    /// `token` of a service account.
    pub(crate) async fn request_token(
        &self,
        context: &Context,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let shape = self.types.shape("authentication/v1.TokenRequest");
        let given = body::parse(context, self.types, &bytes)?.value;
        let mut request = decode::conform(self.types, &shape, given)
            .map_err(|error| ApiError::bad_request(error.to_string()))?
            .value;
        dhow_schema::defaults::fill(self.types, &shape, &mut request);
        let accounts = self.registry.known("", "serviceaccounts");
        let (namespace, name) = (&*context.target.namespace, &*context.target.name);
        let Some(account) = self.find(accounts, namespace, name).await? else {
            return Err(ApiError::not_found(accounts, name));
        };
        let seconds = tree::int(&request, &["spec", "expirationSeconds"]).unwrap_or(3600);
        if !(SHORTEST..=LONGEST).contains(&seconds) {
            return Err(ApiError::unprocessable(format!(
                "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {seconds}: may not specify a duration less than 10 minutes"
            )));
        }
        let mut audiences = tree::list(&request, &["spec", "audiences"]).to_vec();
        if audiences.is_empty() {
            audiences.push(self.config.issuer.clone().into());
        }
        let uid = |object: &Value| tree::text(object, &["metadata", "uid"]).to_owned();
        let mut bound = json!({"namespace": namespace,
            "serviceaccount": {"name": name, "uid": uid(&account.tree())}});
        self.bind_token(&request, namespace, name, &mut bound)
            .await?;
        let now = self.now().as_second();
        let token = self.authentication.tokens.sign(&json!({
            "iss": self.config.issuer,
            "sub": format!("system:serviceaccount:{namespace}:{name}"),
            "aud": audiences,
            "exp": now + seconds,
            "iat": now,
            "nbf": now,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": bound,
        }))?;
        let end = Timestamp::from_second(now + seconds).map_err(ApiError::internal)?;
        tree::set(&mut request, &["kind"], "TokenRequest");
        tree::set(&mut request, &["apiVersion"], "authentication.k8s.io/v1");
        tree::set(
            &mut request,
            &["metadata"],
            json!({"name": name, "namespace": namespace, "creationTimestamp": self.time()}),
        );
        tree::set(&mut request, &["spec", "audiences"], audiences);
        tree::set(
            &mut request,
            &["status"],
            json!({"token": token, "expirationTimestamp": decode::print_seconds(end)}),
        );
        Ok(json_response(StatusCode::CREATED, serialize(&request)))
    }

    /// Ties a token to the pod, secret or node that the request names.
    async fn bind_token(
        &self,
        request: &Value,
        namespace: &str,
        account: &str,
        bound: &mut Value,
    ) -> Result<(), ApiError> {
        let Some(reference) = tree::at(request, &["spec", "boundObjectRef"]) else {
            return Ok(());
        };
        let (plural, field) = match tree::text(reference, &["kind"]) {
            "Pod" => ("pods", "pod"),
            "Secret" => ("secrets", "secret"),
            "Node" => ("nodes", "node"),
            other => {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to type {other:?}"
                )));
            }
        };
        let resource = self.registry.known("", plural);
        let name = tree::text(reference, &["name"]);
        let scope = if resource.namespaced { namespace } else { "" };
        let Some(object) = self.find(resource, scope, name).await? else {
            return Err(ApiError::not_found(resource, name));
        };
        let object = object.tree();
        let uid = tree::text(&object, &["metadata", "uid"]);
        let wanted = tree::text(reference, &["uid"]);
        if !wanted.is_empty() && wanted != uid {
            let why = format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have been deleted and then recreated"
            );
            return Err(ApiError::conflict(resource, name, &why));
        }
        if field == "pod" {
            let theirs = tree::text(&object, &["spec", "serviceAccountName"]);
            if theirs != account {
                return Err(ApiError::bad_request(format!(
                    "cannot bind token for serviceaccount {account:?} to pod running with different serviceaccount name."
                )));
            }
            let node = tree::text(&object, &["spec", "nodeName"]);
            if !node.is_empty() {
                let nodes = self.registry.known("", "nodes");
                if let Some(node) = self.cached(nodes, "", node) {
                    let node = node.tree();
                    bound["node"] = json!({"name": tree::text(&node, &["metadata", "name"]),
                        "uid": tree::text(&node, &["metadata", "uid"])});
                }
            }
        }
        bound[field] = json!({"name": name, "uid": uid});
        Ok(())
    }
}
