//! From an OCI bundle to processes: the library behind `dhow-runtime`.
//!
//! Synchronous and without threads of its own. Not here: the command line
//! (the `dhow-runtime` executable) and supervision (`dhow-shim`).

mod root;
pub mod seccomp;
pub mod spec;

pub use root::RootSource;
