//! The Docker Engine HTTP API in front of the engine.
//!
//! A door: requests become calls of the engine, its errors become statuses and
//! `{"message": …}`. No decision about containers is taken here. Paths may
//! carry a version (`/v1.24/…` to the newest); without one they mean the
//! newest.

// The answer to /info is one `json!` of many fields.
#![recursion_limit = "256"]

mod body;
mod build;
mod containers;
mod error;
mod exec;
mod fields;
mod filters;
mod hijack;
mod images;
mod moments;
mod networks;
mod path;
mod progress;
mod prune;
mod server;
mod system;
mod tap;
mod tls;
mod version;
mod volumes;
mod websocket;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete, get, post};
use dhow_build::Builder;
use dhow_engine::Engine;

pub use server::{Listener, serve};
pub use tls::{TlsFiles, TlsListener};

/// The newest version of the API that is spoken.
pub const API_VERSION: &str = "1.56";
/// The oldest version of the API that is spoken.
pub const MIN_API_VERSION: &str = "1.24";

/// What the door shows of the program behind it.
#[derive(Debug, Clone)]
pub struct About {
    /// Version of the program.
    pub version: String,
    /// Identifier of the instance.
    pub id: String,
    /// Folder with the instance's data.
    pub root: String,
}

/// What every handler gets.
#[derive(Clone)]
pub(crate) struct Door {
    pub(crate) engine: Engine,
    pub(crate) about: Arc<About>,
    pub(crate) builder: Builder,
}

/// The API as a router, to be served or extended.
///
/// # Errors
///
/// When what earlier builds left behind cannot be removed.
pub fn router(engine: Engine, about: About) -> Result<Router, Box<dhow_build::Error>> {
    let scratch = engine.config().data.join("build");
    let steps = Arc::new(build::Steps(engine.clone()));
    let builder = Builder::new(engine.images().clone(), steps, &scratch)?;
    Ok(routes(Door {
        engine,
        about: Arc::new(about),
        builder,
    }))
}

fn routes(door: Door) -> Router {
    Router::new()
        .route("/_ping", get(system::ping).head(system::ping))
        .route("/version", get(system::version))
        .route("/info", get(system::info))
        .route("/events", get(system::events))
        .route("/auth", post(system::auth))
        .route("/system/df", get(system::disk_usage))
        .route("/plugins", get(system::plugins))
        .route("/containers/json", get(containers::list))
        .route("/containers/create", post(containers::create))
        .route("/containers/prune", post(containers::prune))
        .route("/containers/{name}", delete(containers::remove))
        .route(
            "/containers/{name}/{alias}",
            delete(containers::unlink).fallback(error::no_such_page),
        )
        .route("/containers/{name}/json", get(containers::inspect))
        .route("/containers/{name}/start", post(containers::start))
        .route("/containers/{name}/stop", post(containers::stop))
        .route("/containers/{name}/restart", post(containers::restart))
        .route("/containers/{name}/kill", post(containers::kill))
        .route("/containers/{name}/pause", post(containers::pause))
        .route("/containers/{name}/unpause", post(containers::unpause))
        .route("/containers/{name}/rename", post(containers::rename))
        .route("/containers/{name}/wait", post(containers::wait))
        .route("/containers/{name}/resize", post(containers::resize))
        .route("/containers/{name}/attach", post(containers::attach))
        .route(
            "/containers/{name}/attach/ws",
            get(containers::attach_websocket),
        )
        .route("/containers/{name}/logs", get(containers::logs))
        .route("/containers/{name}/changes", get(containers::changes))
        .route("/containers/{name}/export", get(containers::export))
        .route("/containers/{name}/top", get(containers::top))
        .route("/containers/{name}/stats", get(containers::stats))
        .route("/containers/{name}/update", post(containers::update))
        .route(
            "/containers/{name}/archive",
            get(containers::archive_get)
                .head(containers::archive_get)
                .put(containers::archive_put),
        )
        .route("/containers/{name}/exec", post(exec::create))
        .route("/exec/{id}/start", post(exec::start))
        .route("/exec/{id}/resize", post(exec::resize))
        .route("/exec/{id}/json", get(exec::inspect))
        .route("/images/json", get(images::list))
        .route("/images/create", post(images::create))
        .route("/images/load", post(images::load))
        .route("/images/get", get(images::save))
        .route("/images/search", get(images::search))
        .route("/images/prune", post(images::prune))
        .route(
            "/images/{*rest}",
            get(images::get).post(images::post).delete(images::remove),
        )
        .route("/distribution/{*rest}", get(images::distribution))
        .route("/build", post(build::build))
        .route("/build/prune", post(build::prune))
        .route("/commit", post(images::commit))
        .route("/volumes", get(volumes::list))
        .route("/volumes/create", post(volumes::create))
        .route("/volumes/prune", post(volumes::prune))
        .route(
            "/volumes/{name}",
            get(volumes::inspect)
                .put(volumes::update)
                .delete(volumes::remove),
        )
        .route("/networks", get(networks::list))
        .route("/networks/create", post(networks::create))
        .route("/networks/prune", post(networks::prune))
        .route(
            "/networks/{name}",
            get(networks::inspect).delete(networks::remove),
        )
        .route("/networks/{name}/connect", post(networks::connect))
        .route("/networks/{name}/disconnect", post(networks::disconnect))
        .fallback(error::no_such_page)
        .method_not_allowed_fallback(error::no_such_page)
        .with_state(door)
}
