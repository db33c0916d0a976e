//! The loop: follows Services and EndpointSlices, and the kernel's own news.

use std::os::fd::{AsFd as _, OwnedFd};
use std::pin::pin;
use std::time::Duration;

use dhow_netlink::Prefix;
use dhow_nft::Watch;
use futures_util::stream::select;
use futures_util::{FutureExt, StreamExt};
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::runtime::reflector::{Store, store};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;

use crate::Error;
use crate::kernel::Kernel;
use crate::services::frontends;

/// How often the tables are looked for, in case news of their end was lost.
const LOOK: Duration = Duration::from_secs(30);
/// How long to wait before a refused change is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// What the proxy must know besides the API.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of the tables (one per address family) that are the proxy's own.
    pub table: String,
    /// Name of this node, which tells endpoints here from endpoints elsewhere.
    pub node: String,
    /// Where pods have their addresses, all over the cluster. What speaks to a
    /// cluster address from elsewhere is masqueraded; without any, nothing is.
    pub pods: Vec<Prefix>,
    /// Counts how often the kernel was brought in step; the first time means
    /// that Services work.
    pub applied: watch::Sender<u64>,
}

/// Keeps the kernel of the caller's network namespace in step with the API
/// until `shutdown` resolves. The tables stay, so that Services go on while a
/// new proxy starts; [`crate::remove`] ends them.
///
/// The user of `client` needs the rights of `system:node-proxier`. What the
/// kernel refuses is logged and tried again.
///
/// # Errors
///
/// When the kernel's sockets cannot be opened, or its news cannot be read.
pub async fn run(
    client: Client,
    config: Config,
    shutdown: impl Future<Output = ()>,
) -> Result<(), Error> {
    let kernel = Kernel::open(&config.table, config.pods.clone())?;
    let watch = Watch::open()?;
    let news = wait_on(&watch)?;

    let (services, service_writer) = store::<Service>();
    let (slices, slice_writer) = store::<EndpointSlice>();
    let wide = watcher::Config::default();
    let of_services = watcher(Api::<Service>::all(client.clone()), wide.clone())
        .default_backoff()
        .reflect(service_writer)
        .map(|event| event.map(|_| ()));
    let of_slices = watcher(Api::<EndpointSlice>::all(client), wide)
        .default_backoff()
        .reflect(slice_writer)
        .map(|event| event.map(|_| ()));
    let mut changes = pin!(select(of_services, of_slices));
    let mut proxy = Proxy {
        kernel,
        node: config.node,
        applied: config.applied,
        services,
        slices,
    };
    let mut shutdown = pin!(shutdown);
    let mut look = tokio::time::interval(LOOK);
    let mut due = Due::Nothing;
    loop {
        let again = async {
            if due == Due::Again {
                tokio::time::sleep(AGAIN).await;
            } else {
                std::future::pending::<()>().await;
            }
        };
        let trust = tokio::select! {
            () = &mut shutdown => return Ok(()),
            change = changes.next() => {
                report(change);
                // What came with it is taken along.
                while let Some(change) = changes.next().now_or_never() {
                    report(change);
                }
                Trust::Kept
            }
            ready = news.readable() => {
                let mut ready = ready.map_err(Error::Watch)?;
                let is_touched = proxy.kernel.is_touched(&watch)?;
                ready.clear_ready();
                if !is_touched { continue }
                tracing::info!("somebody else changed the Services in the packet filter");
                Trust::Lost
            }
            _ = look.tick() => {
                if !proxy.kernel.is_missing()? { continue }
                Trust::Lost
            }
            () = again => Trust::Lost,
        };
        (proxy, due) = proxy.step(trust).await;
    }
}

/// Whether the kernel still holds what it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trust {
    Kept,
    Lost,
}

/// What is left to be done without another event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Due {
    Nothing,
    Again,
}

struct Proxy {
    kernel: Kernel,
    node: String,
    applied: watch::Sender<u64>,
    services: Store<Service>,
    slices: Store<EndpointSlice>,
}

impl Proxy {
    /// Brings the kernel in step, once both kinds of objects are known.
    async fn step(self, trust: Trust) -> (Self, Due) {
        let is_known = self.services.wait_until_ready().now_or_never().is_some()
            && self.slices.wait_until_ready().now_or_never().is_some();
        if !is_known {
            return (self, Due::Nothing);
        }
        // A transaction of thousands of elements keeps a thread busy.
        let step = tokio::task::spawn_blocking(move || self.apply(trust));
        step.await.expect("applying does not panic")
    }

    fn apply(mut self, trust: Trust) -> (Self, Due) {
        let (services, slices) = (self.services.state(), self.slices.state());
        let frontends = frontends(
            services.iter().map(|service| &**service),
            slices.iter().map(|slice| &**slice),
            &self.node,
        );
        if trust == Trust::Lost {
            self.kernel.distrust();
        }
        let began = std::time::Instant::now();
        let n_frontends = frontends.balances.len();
        match self.kernel.apply(frontends) {
            Ok(()) => {
                tracing::debug!(n_frontends, took = ?began.elapsed(), "Services applied");
                self.applied.send_modify(|times| *times += 1);
                (self, Due::Nothing)
            }
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(%error, cause, "Services could not be applied");
                self.kernel.distrust();
                (self, Due::Again)
            }
        }
    }
}

/// Waits for the kernel's news on a descriptor of its own, so that the watch
/// itself stays with one thread at a time.
#[expect(
    deprecated,
    reason = "its successor is unsafe for types that change their descriptor; an owned one does not"
)]
fn wait_on(watch: &Watch) -> Result<AsyncFd<OwnedFd>, Error> {
    let descriptor = watch.as_fd().try_clone_to_owned().map_err(Error::Watch)?;
    AsyncFd::with_interest(descriptor, Interest::READABLE).map_err(Error::Watch)
}

fn report(change: Option<Result<(), watcher::Error>>) {
    if let Some(Err(error)) = change {
        tracing::warn!(%error, "Services cannot be followed; trying again");
    }
}
