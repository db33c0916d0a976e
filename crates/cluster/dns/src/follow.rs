//! Keeps the zone in step with the API.

use std::pin::pin;
use std::sync::Arc;

use futures_util::stream::select_all;
use futures_util::{FutureExt, StreamExt};
use hickory_proto::rr::Name;
use k8s_openapi::api::core::v1::{Namespace, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::store;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::watch;

use crate::zone::Zone;

/// Publishes the zone anew whenever something changed, once all kinds of
/// objects are known. Does not end by itself.
pub(crate) async fn follow(client: Client, domain: Name, zone: watch::Sender<Option<Arc<Zone>>>) {
    let (services, service_writer) = store::<Service>();
    let (slices, slice_writer) = store::<EndpointSlice>();
    let (namespaces, namespace_writer) = store::<Namespace>();
    let all = watcher::Config::default;
    let mut changes = pin!(select_all([
        watcher(Api::<Service>::all(client.clone()), all())
            .default_backoff()
            .reflect(service_writer)
            .map(|event| event.map(|_| ()))
            .boxed(),
        watcher(Api::<EndpointSlice>::all(client.clone()), all())
            .default_backoff()
            .reflect(slice_writer)
            .map(|event| event.map(|_| ()))
            .boxed(),
        watcher(Api::<Namespace>::all(client), all())
            .default_backoff()
            .reflect(namespace_writer)
            .map(|event| event.map(|_| ()))
            .boxed(),
    ]));
    while let Some(change) = changes.next().await {
        report(change);
        // What came with it is taken along.
        while let Some(Some(change)) = changes.next().now_or_never() {
            report(change);
        }
        let is_known = services.wait_until_ready().now_or_never().is_some()
            && slices.wait_until_ready().now_or_never().is_some()
            && namespaces.wait_until_ready().now_or_never().is_some();
        if !is_known {
            continue;
        }
        let (services, slices) = (services.state(), slices.state());
        let namespaces = namespaces.state();
        let new = Zone::of(
            domain.clone(),
            namespaces.iter().map(|namespace| namespace.name_any()),
            services.iter().map(|service| &**service),
            slices.iter().map(|slice| &**slice),
        );
        zone.send_if_modified(|old| {
            let is_changed = old.as_deref() != Some(&new);
            *old = Some(Arc::new(new));
            is_changed
        });
    }
}

fn report(change: Result<(), watcher::Error>) {
    if let Err(error) = change {
        tracing::warn!(%error, "names cannot be followed; trying again");
    }
}
