//! Joining running containers to networks, and taking them off.

use std::collections::BTreeMap;
use std::sync::Arc;

use dhow_network::{Network, NetworkSpec};
use dhow_shim::Moment;
use tokio::task::spawn_blocking;

use crate::container::Container;
use crate::endpoints::{self, publish_specs};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::name_files::{self, Change};
use crate::names;
use crate::record::Record;
use crate::spec::EndpointSettings;
use crate::start::{has_own_sandbox, whole};

impl Engine {
    /// Makes the default network if there is none.
    ///
    /// # Errors
    ///
    /// [`Error::Network`].
    pub fn make_default_network(&self, bridge: &str) -> Result<()> {
        if self.networks().get("bridge").is_ok() {
            return Ok(());
        }
        self.networks().create(NetworkSpec {
            id: names::identifier(),
            name: "bridge".into(),
            created: Moment::now().to_string(),
            bridge: Some(bridge.into()),
            ..NetworkSpec::default()
        })?;
        Ok(())
    }

    /// Joins a container to a network: now if it runs, else when it starts.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when it has no network sandbox of its own,
    /// [`Error::Network`].
    pub async fn connect(
        &self,
        name: &str,
        network: &str,
        settings: EndpointSettings,
    ) -> Result<()> {
        let container = self.find(name)?;
        let engine = self.clone();
        let network = self.networks().get(network)?;
        whole(async move {
            let _operation = container.operation.lock().await;
            let record = container.record();
            check_own_sandbox(&record)?;
            if record.host.network_mode == "none" {
                return Err(Error::Invalid(
                    "container cannot be connected to multiple networks with one of the networks in private (none) mode".into(),
                ));
            }
            let name = network.spec.name.clone();
            if find_key(&engine, &record, &network).is_some() {
                return Err(dhow_network::Error::AlreadyJoined {
                    endpoint: record.name.clone(),
                    network: name,
                }
                .into());
            }
            let mut spec = engine.endpoint_spec(&record, &name, &settings)?;
            let mut after = Record::clone(&record);
            after.networks.insert(name.clone(), settings.clone());
            if record.state.status.is_alive() {
                let (engine, record) = (engine.clone(), Arc::clone(&record));
                spawn_blocking(move || {
                    spec.ports = publish_specs(&record.config, &record.host)?;
                    let (told_name, id) = (spec.name.clone(), &record.id);
                    let joined = engine
                        .networks()
                        .join(&name, id, spec)
                        .map_err(|error| endpoints::told(error, &told_name, id))?;
                    let followed =
                        name_files::follow(&engine, &record, &after, Change::Came(&joined));
                    if followed.is_err() {
                        // The first error is the one to tell.
                        let _ = engine.networks().leave(&name, id);
                    }
                    followed
                })
                .await
                .expect("joining does not panic")?;
            }
            let name = network.spec.name.clone();
            let changed = container.change(|record| {
                record.networks.insert(name, settings);
            });
            if let Err(error) = changed {
                // What is joined and not recorded is left again.
                engine.settle_networks(&container).await;
                return Err(error);
            }
            engine.announce_network(&network, &record, "connect");
            Ok(())
        })
        .await
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when it is not joined to it.
    pub async fn disconnect(&self, name: &str, network: &str) -> Result<()> {
        let container = self.find(name)?;
        let engine = self.clone();
        let network = self.networks().get(network)?;
        whole(async move {
            let _operation = container.operation.lock().await;
            let record = container.record();
            check_own_sandbox(&record)?;
            let Some(key) = find_key(&engine, &record, &network) else {
                return Err(dhow_network::Error::NotJoined {
                    sandbox: record.id.clone(),
                    network: network.spec.name.clone(),
                }
                .into());
            };
            let mut after = Record::clone(&record);
            after.networks.remove(&key);
            if record.state.status.is_alive() {
                let (engine, record) = (engine.clone(), Arc::clone(&record));
                let id = network.spec.id.clone();
                spawn_blocking(move || {
                    let left = engine.networks().leave(&id, &record.id)?;
                    name_files::follow(&engine, &record, &after, Change::Went(&left))
                })
                .await
                .expect("leaving does not panic")?;
            }
            container.note(|record| {
                record.networks.remove(&key);
            });
            engine.announce_network(&network, &record, "disconnect");
            Ok(())
        })
        .await
    }

    /// Ends what a daemon that died had begun with the networks of a container that
    /// runs: a join that nobody was answered is undone, and who was taken off a
    /// network is off it.
    pub(crate) async fn settle_networks(&self, container: &Arc<Container>) {
        let (engine, container) = (self.clone(), Arc::clone(container));
        let settled = spawn_blocking(move || engine.settle_endpoints(&container)).await;
        if let Err(error) = settled.expect("settling does not panic") {
            tracing::warn!(%error, "networks are not settled");
        }
    }

    fn settle_endpoints(&self, container: &Container) -> Result<()> {
        let record = container.record();
        if !has_own_sandbox(&record) {
            return Ok(());
        }
        let networks = self.networks();
        let recorded: BTreeMap<String, &String> = record
            .networks
            .keys()
            .filter_map(|name| Some((networks.get(name).ok()?.spec.id, name)))
            .collect();
        let joined = networks.sandbox_endpoints(&record.id);
        for endpoint in &joined {
            if !recorded.contains_key(&endpoint.network) {
                let left = networks.leave(&endpoint.network, &record.id)?;
                name_files::follow(self, &record, &record, Change::Went(&left))?;
            }
        }
        let is_joined = |id: &str| joined.iter().any(|endpoint| endpoint.network == id);
        let mut after = Record::clone(&record);
        for (id, name) in &recorded {
            if !is_joined(id) {
                after.networks.remove(*name);
            }
        }
        if after.networks == record.networks {
            return Ok(());
        }
        networks.mend_ways(&record.id)?;
        name_files::follow(self, &record, &after, Change::Stay(&joined))?;
        container.note(|record| record.networks = after.networks);
        Ok(())
    }

    /// Announces that a container was joined to all its networks, or taken off
    /// them, as happens when it starts and ends.
    pub(crate) fn announce_networks(&self, record: &Record, action: &str) {
        if !has_own_sandbox(record) {
            return;
        }
        for name in record.networks.keys() {
            if let Ok(network) = self.networks().get(name) {
                self.announce_network(&network, record, action);
            }
        }
    }

    fn announce_network(&self, network: &Network, record: &Record, action: &str) {
        let attributes = BTreeMap::from([
            ("container".to_owned(), record.id.clone()),
            ("name".to_owned(), network.spec.name.clone()),
            ("type".to_owned(), network.spec.driver.word().to_owned()),
        ]);
        self.events()
            .announce("network", action, &network.spec.id, attributes);
    }
}

/// The name under which a container is to be joined to a network: the network's
/// name, its id, or the start of its id.
fn find_key(engine: &Engine, record: &Record, network: &Network) -> Option<String> {
    let is_it = |name: &&String| {
        let found = engine.networks().get(name);
        found.is_ok_and(|found| found.spec.id == network.spec.id)
    };
    record.networks.keys().find(is_it).cloned()
}

fn check_own_sandbox(record: &Record) -> Result<()> {
    if has_own_sandbox(record) {
        return Ok(());
    }
    Err(Error::Invalid(
        "container sharing network namespace with another container or host cannot be connected to any other network"
            .into(),
    ))
}
