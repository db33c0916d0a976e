//! What a client of Docker's API and its daemon read alike: the keys that let go
//! of a program, and the names of resource limits.
//!
//! Not the API itself: its two ends are the command line and the engine's door.

mod detach;
mod ulimit;

pub use detach::DetachKeys;
pub use ulimit::{UlimitError, check_ulimit};
