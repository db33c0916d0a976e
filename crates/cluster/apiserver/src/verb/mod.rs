//! The verbs: one file each, the same for every kind.

pub(crate) mod body;
mod create;
pub(crate) use create::generated_name;
mod delete;
mod modify;
mod patch;
mod pods;
mod read;
mod scale;
mod watch;

use http::Response;

use crate::api::{Api, Body, Context};
use crate::error::ApiError;
use crate::resource::{Resource, Subresource};

pub(crate) use modify::{Scope, Write};

impl Api {
    /// Does what an authorized request asks of a resource.
    pub(crate) async fn serve(
        &self,
        context: &Context,
        resource: &Resource,
        verb: &str,
        body: bytes::Bytes,
    ) -> Result<Response<Body>, ApiError> {
        if !context.target.subresource.is_empty() {
            return self.subresource(context, resource, verb, body).await;
        }
        if !resource.verbs.contains(&verb) {
            return Err(ApiError::method_not_allowed());
        }
        match verb {
            "get" => self.get(context, resource).await,
            "list" => self.list(context, resource).await,
            "watch" => self.watch(context, resource).await,
            "create" if !resource.is_stored() => self.review(context, resource, body).await,
            "create" => self.create(context, resource, body).await,
            "update" => self.update(context, resource, Scope::Whole, body).await,
            "patch" => self.patch(context, resource, Scope::Whole, body).await,
            "delete" => self.delete(context, resource, body).await,
            "deletecollection" => self.delete_collection(context, resource, body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }

    async fn subresource(
        &self,
        context: &Context,
        resource: &Resource,
        verb: &str,
        body: bytes::Bytes,
    ) -> Result<Response<Body>, ApiError> {
        let Some(&subresource) = resource
            .subresources
            .iter()
            .find(|subresource| subresource.name() == context.target.subresource)
        else {
            return Err(ApiError::no_such_path());
        };
        let scope = match subresource {
            Subresource::Scale => return self.scale(context, resource, verb, body).await,
            Subresource::Binding if verb == "create" => return self.bind(context, body).await,
            Subresource::Eviction if verb == "create" => return self.evict(context, body).await,
            Subresource::Token if verb == "create" => {
                return self.request_token(context, body).await;
            }
            Subresource::Status => Scope::Status,
            Subresource::Finalize => Scope::Finalize,
            Subresource::Approval => Scope::Status,
            Subresource::Ephemeral => Scope::Ephemeral,
            Subresource::Resize => Scope::Resize,
            _ => return Err(ApiError::method_not_allowed()),
        };
        match verb {
            "get" => self.get(context, resource).await,
            "update" => self.update(context, resource, scope, body).await,
            "patch" => self.patch(context, resource, scope, body).await,
            _ => Err(ApiError::method_not_allowed()),
        }
    }
}
