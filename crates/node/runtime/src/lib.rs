//! From an OCI bundle to processes: the library behind `dhow-runtime`.
//!
//! A container is a plan, then an effect: [`Runtime::create`] looks at the
//! bundle, opens and checks everything, and only then clones a child that
//! carries the plan out and waits for its start. Synchronous and without
//! threads of its own. Not here: the command line (the `dhow-runtime`
//! executable) and supervision (`dhow-shim`). `docs/design/runtime.md` has the
//! order of the steps and the files.

mod bundle;
mod claim;
mod container;
mod create;
mod delete;
mod error;
mod exec;
mod group;
mod hooks;
mod kill;
mod limits;
mod make;
mod moment;
mod net_devices;
mod pause;
mod plan;
mod root;
mod scope;
pub mod seccomp;
pub mod spec;
mod start;
mod state;
mod streams;

pub use bundle::Bundle;
pub use container::{Container, Runtime};
pub use create::{Create, Created, Gate, Groups, Keyring, Pivot};
pub use delete::Alive;
pub use error::{Result, RuntimeError, chain};
pub use exec::{Exec, Executed, Paused};
pub use kill::Reach;
pub use moment::{Moment, MomentError};
pub use root::RootSource;
pub use state::{OciState, Status};
pub use streams::Streams;

/// Version of the OCI runtime specification that is spoken.
pub const OCI_VERSION: &str = "1.2.1";
