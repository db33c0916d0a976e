//! System-call filters: from the configuration's rules to a BPF program.

mod assemble;
mod compile;
mod profile;
mod table;

pub use compile::{SeccompError, compile};
pub use profile::docker_default;
