//! Why a network operation failed.

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use dhow_netlink::{NamespaceError, Prefix};

/// Why a network operation failed. Nothing of it took effect.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No network has this name or id.
    #[error("network {0} not found")]
    NotFound(String),
    /// The name belongs to another network.
    #[error("network with name {0} already exists")]
    NameTaken(String),
    /// Endpoints are joined to the network.
    #[error("error while removing network: network {name} has active endpoints ({})", endpoints.join(", "))]
    InUse {
        /// The network's name.
        name: String,
        /// Names of what is joined to it.
        endpoints: Vec<String>,
    },
    /// The request makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The subnet overlaps another network's, or a route of the host.
    #[error("invalid pool request: Pool overlaps with other one on this address space: {0}")]
    Overlap(Prefix),
    /// All default address pools are used up.
    #[error(
        "all predefined address pools have been fully subnetted; remove unused networks or give a subnet"
    )]
    PoolsExhausted,
    /// The subnet has no free address.
    #[error("no available addresses on this network's address pools: {0}")]
    AddressesExhausted(String),
    /// The address asked for belongs to somebody else.
    #[error("Address already in use")]
    AddressTaken,
    /// The address asked for is in none of the network's subnets.
    #[error("no configured subnet or ip-range contain the IP address {0}")]
    NoSuchSubnet(IpAddr),
    /// The address asked for is about to become free.
    #[error("Address already in use: {0} is being given back")]
    AddressRests(IpAddr),
    /// Another network lies on the link.
    #[error("network {network} is already using parent interface {parent}")]
    ParentTaken {
        /// The other network's name.
        network: String,
        /// The link.
        parent: String,
    },
    /// Networks are made of the configuration.
    #[error("configuration network {0:?} is in use")]
    ConfigurationInUse(String),
    /// A configuration is no network that anybody is joined to.
    #[error("cannot create endpoint on configuration-only network {0}")]
    ConfigurationOnly(String),
    /// Another sandbox published the port.
    #[error("Bind for {0} failed: port is already allocated")]
    PortAllocated(String),
    /// A process of the host uses the port, or the address is not the host's.
    #[error("failed to bind host port for {port}: {}", plain(reason))]
    PortTaken {
        /// Host address, port and protocol.
        port: String,
        /// What the kernel says.
        reason: io::Error,
    },
    /// A port could not be published.
    #[error(
        "failed to set up container networking: driver failed programming external connectivity on endpoint {endpoint} ({sandbox})"
    )]
    NotPublished {
        /// Name of the endpoint.
        endpoint: String,
        /// Id of the sandbox.
        sandbox: String,
        /// Why.
        source: Box<Error>,
    },
    /// The sandbox is joined to the network already.
    #[error("endpoint with name {endpoint} already exists in network {network}")]
    AlreadyJoined {
        /// Name of the endpoint.
        endpoint: String,
        /// Name of the network.
        network: String,
    },
    /// The sandbox is not joined to the network.
    #[error("container {sandbox} is not connected to network {network}")]
    NotJoined {
        /// Id of the sandbox.
        sandbox: String,
        /// Name of the network.
        network: String,
    },
    /// The kernel refused.
    #[error("{doing}")]
    Kernel {
        /// What was being done.
        doing: String,
        /// Why it failed.
        source: dhow_netlink::Error,
    },
    /// A network namespace could not be handled.
    #[error("network sandbox")]
    Sandbox(#[from] NamespaceError),
    /// A file could not be read or written.
    #[error("{}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The kernel's reason in the words that clients look for.
fn plain(reason: &io::Error) -> String {
    match reason.kind() {
        io::ErrorKind::AddrInUse => "address already in use".into(),
        io::ErrorKind::AddrNotAvailable => "cannot assign requested address".into(),
        _ => reason.to_string(),
    }
}

impl Error {
    /// True when somebody has the host port that was asked for.
    pub(crate) fn is_taken(&self) -> bool {
        match self {
            Error::PortAllocated(_) => true,
            Error::PortTaken { reason, .. } => reason.kind() == io::ErrorKind::AddrInUse,
            _ => false,
        }
    }

    /// Wraps a refusal of the kernel with what was being done.
    pub(crate) fn kernel(doing: impl Into<String>) -> impl FnOnce(dhow_netlink::Error) -> Self {
        let doing = doing.into();
        move |source| Error::Kernel { doing, source }
    }

    /// Wraps a failed file operation with the file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Error::File { path, source }
    }
}
