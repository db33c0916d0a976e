//! The pods' network on this machine, and the way to Services from it.

use std::collections::BTreeMap;
use std::net::IpAddr;

use anyhow::{Context, Result, anyhow, bail};
use dhow_engine::{Network, NetworkSpec, Networks, Pool};
use dhow_netlink::{Batch, Prefix, Route, Socket};

use super::settings::Settings;

/// The network of pods, as `docker network ls` shows it.
pub(super) const NAME: &str = "pods";

/// Makes the network, or finds it; returns the node's own address on it.
///
/// Services' addresses are translated before a packet leaves, but the kernel
/// wants to know a way to them first: they get a route to the pods' bridge,
/// which also gives the host's own connections an address that pods can answer.
///
/// # Errors
///
/// When the addresses are in use on this machine already.
pub(super) fn make(networks: &Networks, settings: &Settings) -> Result<IpAddr> {
    let (pods, services) = (settings.pods()?, &settings.service_cidr);
    let parse = |text: &str| {
        let parsed = text.parse::<Prefix>();
        parsed.map_err(|error| anyhow!("{text}: {error}"))
    };
    let (pods_prefix, services_prefix) = (parse(&pods)?, parse(services)?);
    let network = match networks.get(NAME) {
        Ok(network) => {
            let found = network.pool(true).map(|pool| pool.subnet);
            if found != Some(pods_prefix) {
                bail!(
                    "network {NAME:?} exists with other addresses than {pods}: remove it, or give its as --pod-cidr"
                );
            }
            network
        }
        Err(_) => {
            check_free(pods_prefix, "--pod-cidr", None)?;
            check_free(services_prefix, "--service-cidr", None)?;
            create(networks, &pods)?
        }
    };
    let gateway = network.pool(true).context("it has a pool")?.gateway;
    let socket = Socket::route().context("open rtnetlink")?;
    let link = socket
        .link(&network.bridge)
        .context("look for the pods' bridge")?
        .with_context(|| format!("bridge {} is gone", network.bridge))?;
    check_free(services_prefix, "--service-cidr", Some(link.index))?;
    let mut batch = Batch::new();
    batch.add_route(Route {
        destination: services_prefix,
        gateway: None,
        link: link.index,
    });
    socket
        .run(&mut batch)
        .context("make the route to Services")?;
    Ok(gateway)
}

fn create(networks: &Networks, pods: &str) -> Result<Network> {
    let spec = NetworkSpec {
        id: dhow_engine::identifier(),
        name: NAME.into(),
        created: dhow_engine::Moment::now().to_string(),
        pools: vec![Pool::parse(pods, None, None)?],
        // Pods have one address until the cluster knows two families.
        ipv6: Some(false),
        keep_client_address: true,
        labels: BTreeMap::from([("io.dhow.role".into(), "pods".into())]),
        ..NetworkSpec::default()
    };
    networks.create(spec).context("make the pods' network")
}

/// Refuses addresses that this machine finds elsewhere than at `own`.
fn check_free(wanted: Prefix, option: &str, own: Option<u32>) -> Result<()> {
    let socket = Socket::route().context("open rtnetlink")?;
    let routes = socket.routes().context("read this machine's routes")?;
    let taken = routes.iter().find(|route| {
        route.destination.length > 0
            && route.destination.overlaps(wanted)
            && own != Some(route.link)
    });
    if let Some(taken) = taken {
        bail!(
            "{wanted} is in use on this machine (route to {}): give another {option}",
            taken.destination
        );
    }
    Ok(())
}
