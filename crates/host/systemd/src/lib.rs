//! Transient units of systemd: scopes around processes that others made.
//!
//! [`Manager`] speaks to systemd over D-Bus: through systemd's own socket where
//! this process may open it (root), else through the system bus. It says nothing
//! before it is asked to and starts no thread. Nothing here knows of containers,
//! nor of control groups beyond their paths.
//!
//! The marshalling (`message`) is our own: the handful of types these few calls
//! have take two hundred lines, and a process that asks systemd for nothing pays
//! nothing for them.

mod bus;
mod error;
mod manager;
mod message;
mod names;

pub use error::SystemdError;
pub use manager::Manager;
pub use message::{Property, Value};
pub use names::{slice_path, unit_name};
