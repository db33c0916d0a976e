//! Containers as lists show them. What a thousand entries have in common is
//! looked up once, and each is written as it is made.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use dhow_engine::{Endpoint, Network, PortMapping, Record};
use serde::Serialize;
use serde_json::Value;

use super::view::{Attachment, mount, networks, seconds, sizes, status_text};
use crate::Door;
use crate::version::Version;

/// Makes the entries of one list.
pub(crate) struct Listing<'a> {
    door: &'a Door,
    /// Whose words it speaks.
    version: Version,
    /// Networks by the name that containers give.
    networks: HashMap<String, Option<Arc<Network>>>,
    /// Names that others give a container by their links, by its id.
    links: HashMap<String, Vec<String>>,
    /// Ids of images by the name that containers give; none if it means none.
    images: HashMap<String, Option<String>>,
}

/// One entry of a list.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Summary<'a> {
    id: &'a str,
    names: Vec<String>,
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: Vec<Port<'a>>,
    labels: &'a BTreeMap<String, String>,
    state: &'a str,
    status: String,
    host_config: Host<'a>,
    network_settings: Settings,
    mounts: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health<'a>>,
    /// Bytes it has written.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    /// The same with its image's.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Host<'a> {
    network_mode: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    annotations: Option<&'a BTreeMap<String, String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Health<'a> {
    status: &'a str,
    failing_streak: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Settings {
    networks: BTreeMap<String, Attachment>,
}

/// A port that is published, or exposed only.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct Port<'a> {
    #[serde(rename = "IP", skip_serializing_if = "Option::is_none")]
    ip: Option<String>,
    pub(super) private_port: u16,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) public_port: Option<u16>,
    #[serde(rename = "Type")]
    pub(super) protocol: std::borrow::Cow<'a, str>,
}

impl<'a> Listing<'a> {
    pub(crate) fn new(door: &'a Door, version: Version) -> Self {
        Self {
            door,
            version,
            networks: HashMap::new(),
            links: links(door),
            images: HashMap::new(),
        }
    }

    /// The entry of a container; its sizes cost a walk through its files.
    pub(crate) fn entry<'r>(&mut self, record: &'r Record, with_size: bool) -> Summary<'r> {
        let Self {
            door,
            networks: known,
            ..
        } = self;
        let manager = door.engine.networks();
        let endpoints = manager.sandbox_endpoints(&record.id);
        let attachments = networks(record, &endpoints, |name| match known.get(name) {
            Some(network) => network.clone(),
            None => {
                let network = manager.get(name).ok().map(Arc::new);
                known.insert(name.to_owned(), network.clone());
                network
            }
        });
        let sizes = with_size.then(|| sizes(self.door, record));
        let given = self.links.get(&record.id).cloned();
        Summary {
            id: &record.id,
            names: std::iter::once(format!("/{}", record.name))
                .chain(given.iter().flat_map(|names| names.iter().cloned()))
                .collect(),
            image: self.image(record),
            image_id: &record.image,
            command: command(&record.args),
            created: seconds(record.created),
            ports: ports(record, &endpoints),
            labels: &record.config.labels,
            state: record.state.status.word(),
            status: status_text(record),
            host_config: Host {
                network_mode: &record.host.network_mode,
                annotations: Some(&record.host.annotations)
                    .filter(|all| self.version.since(46) && !all.is_empty()),
            },
            network_settings: Settings {
                networks: attachments,
            },
            mounts: record.mounts.iter().map(mount).collect(),
            health: self.version.since(52).then(|| health(record)),
            size_rw: sizes.map(|(written, _)| written),
            size_root_fs: sizes.map(|(_, all)| all),
        }
    }

    /// The image by the name the container was created with, or by its id when
    /// that name belongs to another image by now.
    fn image<'r>(&mut self, record: &'r Record) -> &'r str {
        let name = &record.config.image;
        if !self.images.contains_key(name) {
            let found = self.door.engine.images().resolve(name);
            let id = found.ok().map(|image| image.id.to_string());
            self.images.insert(name.clone(), id);
        }
        match &self.images[name] {
            Some(id) if *id == record.image => name,
            _ => &record.image,
        }
    }
}

/// What links call containers, by the id of each.
fn links(door: &Door) -> HashMap<String, Vec<String>> {
    let mut names = HashMap::<String, Vec<String>>::new();
    for record in door.engine.list() {
        for link in door.engine.links(&record) {
            if let Some(id) = link.target_id {
                let name = format!("/{}/{}", record.name, link.alias);
                names.entry(id).or_default().push(name);
            }
        }
    }
    names
}

/// A command in one line: what has a space in it stands between quotes.
fn command(words: &[String]) -> String {
    let quoted = |(place, word): (usize, &String)| match place > 0 && word.contains(' ') {
        true => format!("'{word}'"),
        false => word.clone(),
    };
    let words: Vec<String> = words.iter().enumerate().map(quoted).collect();
    words.join(" ")
}

fn health(record: &Record) -> Health<'_> {
    match &record.state.health {
        Some(health) => Health {
            status: &health.status,
            failing_streak: health.failing_streak,
        },
        None => Health {
            status: "none",
            failing_streak: 0,
        },
    }
}

/// The ports that are shown of a container.
pub(super) fn ports<'r>(record: &'r Record, endpoints: &[Endpoint]) -> Vec<Port<'r>> {
    let published: Vec<&PortMapping> = endpoints
        .iter()
        .flat_map(|endpoint| &endpoint.ports)
        .filter(|mapping| mapping.is_of_host())
        .collect();
    let mut shown: Vec<Port<'r>> = published
        .iter()
        .map(|mapping| Port {
            ip: Some(mapping.host_address.to_string()),
            private_port: mapping.container_port,
            public_port: Some(mapping.host_port),
            protocol: mapping.protocol.to_string().into(),
        })
        .collect();
    if !record.state.status.is_alive() {
        return shown;
    }
    for port in record.config.exposed_ports.keys() {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(number) = number.parse::<u16>() else {
            continue;
        };
        let is_published = published.iter().any(|mapping| {
            mapping.container_port == number && mapping.protocol.to_string() == protocol
        });
        if !is_published {
            shown.push(Port {
                ip: None,
                private_port: number,
                public_port: None,
                protocol: protocol.into(),
            });
        }
    }
    shown
}
