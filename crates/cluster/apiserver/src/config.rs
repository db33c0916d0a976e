//! How a server is set up.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;

use crate::node::NodeConnector;

/// Where time comes from.
pub type Clock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// How a server is set up; [`Config::new`] has the defaults.
#[derive(Clone)]
pub struct Config {
    /// Directory of the store, the certificates and keys.
    pub directory: PathBuf,
    /// Host names and addresses that clients use; they go into the certificate.
    pub names: Vec<String>,
    /// The address other components reach the server at, for the `kubernetes` Service.
    pub advertise: IpAddr,
    /// The port of the server's TLS listener.
    pub port: u16,
    /// Addresses of Services, for example `10.96.0.0/16`.
    pub service_cidr: (IpAddr, u8),
    /// First and last node port.
    pub node_ports: (u16, u16),
    /// The issuer of service-account tokens.
    pub issuer: String,
    /// Who may do what.
    pub authorization: Authorization,
    /// History is kept for this long.
    pub compact_after: Duration,
    /// The way to node agents, if there are any.
    pub nodes: Option<Arc<dyn NodeConnector>>,
    /// Where time comes from.
    pub clock: Clock,
}

/// Who may do what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authorization {
    /// Roles and bindings decide.
    Rbac,
    /// Everybody may do everything; for tests of components.
    AlwaysAllow,
}

impl Config {
    /// The defaults, with everything kept under `directory`.
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            names: vec!["localhost".to_owned(), "127.0.0.1".to_owned()],
            advertise: IpAddr::from([127, 0, 0, 1]),
            port: 6443,
            service_cidr: (IpAddr::from([10, 96, 0, 0]), 16),
            node_ports: (30_000, 32_767),
            issuer: "https://kubernetes.default.svc.cluster.local".to_owned(),
            authorization: Authorization::Rbac,
            compact_after: Duration::from_secs(300),
            nodes: None,
            clock: Arc::new(Timestamp::now),
        }
    }
}
