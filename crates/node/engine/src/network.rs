//! Joining running containers to networks, and taking them off.

use std::collections::BTreeMap;
use std::sync::Arc;

use dhow_network::{Network, NetworkSpec};
use dhow_shim::Moment;
use tokio::task::spawn_blocking;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::names;
use crate::record::Record;
use crate::spec::EndpointSettings;
use crate::start::{endpoint_spec, has_own_sandbox};

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
        let _operation = container.operation.lock().await;
        let record = container.record();
        let network = self.networks().get(network)?;
        let network_name = network.spec.name.clone();
        check_own_sandbox(&record)?;
        if record.networks.contains_key(&network_name) {
            return Err(dhow_network::Error::AlreadyJoined {
                endpoint: record.name.clone(),
                network: network_name,
            }
            .into());
        }
        if record.state.status.is_alive() {
            let spec = endpoint_spec(&record, &network_name, &settings, Vec::new())?;
            let (networks, id) = (Arc::clone(self.networks()), record.id.clone());
            let join = network_name.clone();
            spawn_blocking(move || networks.join(&join, &id, spec))
                .await
                .expect("joining does not panic")?;
        }
        container.change(|record| {
            record.networks.insert(network_name, settings);
        })?;
        self.announce_network(&network, &record, "connect");
        Ok(())
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when it is not joined to it.
    pub async fn disconnect(&self, name: &str, network: &str) -> Result<()> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        let network = self.networks().get(network)?;
        check_own_sandbox(&record)?;
        if !record.networks.contains_key(&network.spec.name) {
            return Err(dhow_network::Error::NotJoined {
                sandbox: record.id.clone(),
                network: network.spec.name,
            }
            .into());
        }
        if record.state.status.is_alive() {
            let (networks, id) = (Arc::clone(self.networks()), record.id.clone());
            let leave = network.spec.id.clone();
            spawn_blocking(move || networks.leave(&leave, &id))
                .await
                .expect("leaving does not panic")?;
        }
        container.change(|record| {
            record.networks.remove(&network.spec.name);
        })?;
        self.announce_network(&network, &record, "disconnect");
        Ok(())
    }

    fn announce_network(&self, network: &Network, record: &Record, action: &str) {
        let attributes = BTreeMap::from([
            ("container".to_owned(), record.id.clone()),
            ("name".to_owned(), network.spec.name.clone()),
            ("type".to_owned(), "bridge".to_owned()),
        ]);
        self.events()
            .announce("network", action, &network.spec.id, attributes);
    }
}

fn check_own_sandbox(record: &Record) -> Result<()> {
    if has_own_sandbox(record) {
        return Ok(());
    }
    Err(Error::Conflict(format!(
        "container {} shares the network of {}: it cannot be joined to another",
        record.name, record.host.network_mode
    )))
}
