//! Dockerfile to image.
//!
//! [`Builder::build`] reads a context and its Dockerfile, runs the stages that
//! the target needs and makes an image. Files are copied straight into the
//! writable layer of the step; commands run through [`RunStep`], which whoever
//! has an engine implements. What each step depends on names its result, so
//! that a later build finds it again, also after a restart.
//!
//! It knows nothing of containers, networks or the Docker API.

mod builder;
mod change;
mod context;
mod copy;
mod diagnose;
mod execute;
mod expand;
mod ignore;
mod instruction;
mod output;
mod parse;
mod run;
mod stage;

pub use builder::{BuildOptions, Builder, CacheUse, PullUse};
pub use change::change;
pub use context::Context;
pub use diagnose::{Error, Result, Trouble};
pub use ignore::Ignore;
pub use instruction::{Form, Instruction, Keyword};
pub use output::{Event, Output};
pub use parse::{Dockerfile, Heredoc, Statement, parse};
pub use run::{RunRequest, RunStep};
