//! `create`.

use bytes::Bytes;
use dhow_schema::{defaults, validate};
use http::{Response, StatusCode};
use rand::RngExt as _;
use serde_json::Value;

use super::body;
use super::modify::{Scope, Write};
use crate::api::{Api, Body, Context, DryRun, json_response};
use crate::error::ApiError;
use crate::managed;
use crate::object::{Object, to_stored};
use crate::resource::Resource;
use crate::strategy::metadata;
use crate::tree;

/// Characters of generated names: no vowels, nothing that looks like another.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// A generated name has at most so many characters before its suffix.
const LONGEST_BASE: usize = 58;
/// A generated name that is taken is drawn anew so often.
const ATTEMPTS: usize = 8;

pub(crate) fn generated_name(base: &str) -> String {
    let mut rng = rand::rng();
    let base: String = base.chars().take(LONGEST_BASE).collect();
    let suffix = (0..5).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())]));
    base.chars().chain(suffix).collect()
}

impl Api {
    pub(super) async fn create(
        &self,
        context: &Context,
        resource: &Resource,
        bytes: Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let parsed = body::parse(context, self.types, &bytes)?;
        let mut value = self.conform(context, resource, parsed)?;
        self.check_names(context, resource, &mut value)?;
        let write = Write::by(context, Scope::Whole)?;
        let object = self.create_value(resource, value, &write).await?;
        let json = context.show(resource).one(&object);
        Ok(json_response(StatusCode::CREATED, json))
    }

    /// Creates an object from a conforming tree.
    pub(crate) async fn create_value(
        &self,
        resource: &Resource,
        value: Value,
        write: &Write,
    ) -> Result<Object, ApiError> {
        let base = tree::text(&value, &["metadata", "generateName"]).to_owned();
        let generates = tree::text(&value, &["metadata", "name"]).is_empty() && !base.is_empty();
        if generates && base.len() > 253 {
            return Err(ApiError::bad_request("generateName is too long"));
        }
        for _ in 0..ATTEMPTS {
            let mut value = value.clone();
            if generates {
                tree::set(&mut value, &["metadata", "name"], generated_name(&base));
            }
            match self.create_once(resource, value, write).await {
                Err(error) if generates && error.reason == "AlreadyExists" => {}
                done => return done,
            }
        }
        Err(ApiError::already_exists(resource, &base))
    }

    async fn create_once(
        &self,
        resource: &Resource,
        mut value: Value,
        write: &Write,
    ) -> Result<Object, ApiError> {
        if !tree::text(&value, &["metadata", "resourceVersion"]).is_empty() {
            return Err(ApiError::bad_request(
                "resourceVersion should not be set on objects to be created",
            ));
        }
        defaults::fill(self.types, &resource.shape, &mut value);
        (resource.strategy.defaults)(&mut value);
        self.begin_metadata(resource, &mut value);
        if resource.has(crate::resource::Subresource::Status) {
            tree::remove(&mut value, &["status"]);
        }
        (resource.strategy.prepare_create)(&mut value);
        self.admit_create(resource, &mut value).await?;
        // A view is checked as what it shows, then stored as what it is.
        let name = tree::text(&value, &["metadata", "name"]).to_owned();
        let mut errors = Vec::new();
        metadata::validate(resource, &value, &mut errors);
        errors.extend(validate::check(self.types, &resource.shape, &value));
        (resource.strategy.validate)(&value, &mut errors);
        if !errors.is_empty() {
            return Err(ApiError::invalid(resource, &name, &errors));
        }
        let mut claim = self.addresses.claim(resource, &mut value, None)?;
        self.admit_grants(write.user.as_ref(), resource, &value, None)?;
        managed::created(self, resource, &mut value, &write.manager);
        if let Some((_, conversion)) = resource.view {
            (conversion.to_stored)(&mut value);
        }
        let stored_as = self.stored(resource);
        let stored = to_stored(&value);
        if write.dry_run == DryRun::All {
            let namespace = tree::text(&value, &["metadata", "namespace"]);
            if self.find(stored_as, namespace, &name).await?.is_some() {
                return Err(ApiError::already_exists(resource, &name));
            }
            return Ok(Object::new(stored_as, &value, &stored, 0));
        }
        match self.put(stored_as, &value, stored, 0).await? {
            Some(object) => {
                claim.keep();
                Ok(object)
            }
            None => Err(ApiError::already_exists(resource, &name)),
        }
    }

    /// Sets what the server alone sets.
    fn begin_metadata(&self, resource: &Resource, value: &mut Value) {
        let metadata = tree::object_at(value, &["metadata"]);
        for field in [
            "selfLink",
            "deletionTimestamp",
            "deletionGracePeriodSeconds",
            "generation",
            "managedFields",
        ] {
            metadata.shift_remove(field);
        }
        let uid = uuid::Uuid::new_v4().to_string();
        metadata.insert("uid".to_owned(), uid.into());
        metadata.insert("creationTimestamp".to_owned(), self.time().into());
        if resource.strategy.generation {
            metadata.insert("generation".to_owned(), 1.into());
        }
    }
}
