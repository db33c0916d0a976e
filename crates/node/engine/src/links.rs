//! Links: names and variables by which a container of the default network knows
//! another (`--link CONTAINER:ALIAS`). Networks that have names answer aliases
//! themselves.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;

use crate::endpoints::{DEFAULT_NETWORK, link_parts};
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::name_files;
use crate::record::Record;

/// Variables of a linked container that are its own business.
const PRIVATE: [&str; 2] = ["HOME", "PATH"];

/// A link of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// What the target is called now; what was asked for if it is not there any more.
    pub target: String,
    /// Its id, as long as it is there.
    pub target_id: Option<String>,
    /// What the container that has the link calls it.
    pub alias: String,
}

impl Engine {
    /// The links of a container that were given with `--link` on the default
    /// network.
    pub fn links(&self, record: &Record) -> Vec<Link> {
        let link = |text: &String| {
            let (target, alias) = link_parts(text);
            let other = self.get(target).ok();
            Link {
                target: other
                    .as_ref()
                    .map_or(target, |other| &other.name)
                    .to_owned(),
                target_id: other.map(|other| other.id.clone()),
                alias: alias.to_owned(),
            }
        };
        record.host.links.iter().map(link).collect()
    }

    /// Takes a link off a container: what it called another by is told to it no
    /// more.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`] when there is no such link.
    pub fn unlink(&self, name: &str, alias: &str) -> Result<()> {
        let container = self.find(name)?;
        let is_it = |link: &String| link_parts(link).1 == alias;
        if !container.record().host.links.iter().any(is_it) {
            return Err(Error::NoSuchContainer(format!("{name}/{alias}")));
        }
        let record = container.change(|record| record.host.links.retain(|link| !is_it(link)))?;
        if record.state.status.is_alive() {
            name_files::replace_link(self, &record, alias, "")?;
        }
        Ok(())
    }
}

/// The containers that a record links to by the default network, with aliases.
fn targets<'a>(engine: &Engine, record: &'a Record) -> Result<Vec<(Arc<Record>, &'a str)>> {
    let is_on_default = record.networks.contains_key(DEFAULT_NETWORK);
    let mut found = Vec::new();
    for link in record.host.links.iter().filter(|_| is_on_default) {
        let (target, alias) = link_parts(link);
        let other = engine.get(target).map_err(|error| {
            Error::Invalid(format!("could not get container for {target}: {error}"))
        })?;
        if !other.state.status.is_alive() {
            return Err(Error::Invalid(format!(
                "Cannot link to a non running container: /{} AS /{}/{alias}",
                other.name, record.name
            )));
        }
        if !other.networks.contains_key(DEFAULT_NETWORK) {
            return Err(Error::Invalid(format!(
                "Cannot link to {}, as it does not belong to the default network",
                other.name
            )));
        }
        found.push((other, alias));
    }
    Ok(found)
}

/// A container's addresses on the default network.
fn addresses(engine: &Engine, record: &Record) -> Vec<IpAddr> {
    let Ok(network) = engine.networks().get(DEFAULT_NETWORK) else {
        return Vec::new();
    };
    engine
        .networks()
        .sandbox_endpoints(&record.id)
        .into_iter()
        .filter(|endpoint| endpoint.network == network.spec.id)
        .flat_map(|endpoint| endpoint.addresses)
        .collect()
}

/// The lines of `hosts` for the containers that a record links to.
///
/// # Errors
///
/// [`Error::Invalid`] when one is not there, does not run, or is not on the
/// default network.
pub(crate) fn host_lines(engine: &Engine, record: &Record) -> Result<String> {
    let mut text = String::new();
    for (other, alias) in targets(engine, record)? {
        text.push_str(&lines(engine, &other, alias));
    }
    Ok(text)
}

fn lines(engine: &Engine, other: &Record, alias: &str) -> String {
    let mut text = String::new();
    for address in addresses(engine, other) {
        let _ = writeln!(
            text,
            "{address}\t{alias} {} {}",
            other.hostname(),
            other.name
        );
    }
    text
}

/// The variables that tell about the containers that a record links to.
///
/// # Errors
///
/// As [`host_lines`].
pub(crate) fn environment(engine: &Engine, record: &Record) -> Result<Vec<String>> {
    let mut variables = Vec::new();
    for (other, alias) in targets(engine, record)? {
        let address = addresses(engine, &other).into_iter().find(IpAddr::is_ipv4);
        variables.extend(variables_of(record, &other, alias, address));
    }
    Ok(variables)
}

fn variables_of(
    record: &Record,
    other: &Record,
    alias: &str,
    address: Option<IpAddr>,
) -> Vec<String> {
    let prefix = alias.to_ascii_uppercase().replace('-', "_");
    let mut variables = Vec::new();
    let mut ports: Vec<(u16, &str)> = other
        .config
        .exposed_ports
        .keys()
        .filter_map(|port| {
            let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
            Some((number.parse().ok()?, protocol))
        })
        .collect();
    ports.sort_unstable();
    if let Some(address) = address {
        if let Some((port, protocol)) = ports.first() {
            variables.push(format!("{prefix}_PORT={protocol}://{address}:{port}"));
        }
        for (port, protocol) in ports {
            let own = format!("{prefix}_PORT_{port}_{}", protocol.to_ascii_uppercase());
            variables.push(format!("{own}={protocol}://{address}:{port}"));
            variables.push(format!("{own}_ADDR={address}"));
            variables.push(format!("{own}_PORT={port}"));
            variables.push(format!("{own}_PROTO={protocol}"));
        }
    }
    variables.push(format!("{prefix}_NAME=/{}/{alias}", record.name));
    for variable in &other.config.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !PRIVATE.contains(&name) {
            variables.push(format!("{prefix}_ENV_{name}={value}"));
        }
    }
    variables
}

/// Tells those that link to a container its new addresses.
pub(crate) fn follow(engine: &Engine, record: &Record) {
    if !record.networks.contains_key(DEFAULT_NETWORK) {
        return;
    }
    for linking in engine.containers() {
        let linking = linking.record();
        if !linking.state.status.is_alive() {
            continue;
        }
        for link in &linking.host.links {
            let (target, alias) = link_parts(link);
            let is_it = engine.get(target).is_ok_and(|other| other.id == record.id);
            if !is_it {
                continue;
            }
            let told =
                name_files::replace_link(engine, &linking, alias, &lines(engine, record, alias));
            if let Err(error) = told {
                tracing::warn!(container = linking.id, %error, "does not follow its link");
            }
        }
    }
}
