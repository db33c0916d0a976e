//! The Kubernetes API: resources, watch cache, admission, authentication and
//! authorization, on a store.
//!
//! ```text
//! TLS listener ─┐
//!               ├─> ApiService: who? may they? -> verb -> strategy, schema
//! kube::Client ─┘                                   |         |
//!                                            watch cache <- store
//! ```
//! Kinds are entries of a table ([`resource`]); verbs are the same for all.
//! Nothing here reconciles: that is the controllers', who are clients.

mod admission;
mod api;
mod auth;
mod bootstrap;
mod cache;
mod config;
mod discovery;
mod error;
mod managed;
mod node;
mod object;
mod openapi;
mod proxy;
mod request;
mod resource;
mod server;
mod service;
mod show;
mod strategy;
mod tree;
mod verb;

pub use api::{Body, BoxError};
pub use auth::certificates::{Authority, Credential};
pub use auth::{AUTHENTICATED, MASTERS, UNAUTHENTICATED, UserInfo};
pub use config::{Authorization, Clock, Config};
pub use error::ApiError;
pub use node::{Connecting, NodeConnector, NodeStream};
pub use server::{ApiServer, OpenError};
pub use service::ApiService;
