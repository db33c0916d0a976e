//! The node agent: pods on this machine.
//!
//! It is a client of the Kubernetes API on one side and of a [`PodRuntime`] on
//! the other, and knows neither the API server nor the engine behind them.
//!
//! ```text
//!   watch of pods ──► Agent ──► one worker per pod ──► tasks: volumes, sandbox,
//!   runtime events ─► Observer ─►   │    ▲                    start, stop, remove
//!                                   ▼    └── outcomes, probe results, timers
//!                          lifecycle::next (pure)
//! ```
//!
//! A worker owns one pod. Whenever something changed it asks the pure function
//! `lifecycle::next` what to do, and starts that as tasks. What must survive the
//! agent is in the runtime (labels and annotations) and in the API; the agent
//! itself remembers nothing that it could not find there again.

mod admission;
mod agent;
mod config;
mod container;
mod env;
mod error;
mod events;
mod host;
mod images;
mod labels;
mod lifecycle;
mod observer;
mod probe;
mod register;
pub mod runtime;
mod sandbox;
mod server;
mod time;
mod volumes;
mod worker;

pub use agent::{Agent, RunningPod};
pub use config::{Capacity, Config, System};
pub use error::Error;
pub use runtime::PodRuntime;
pub use server::{StreamServer, Waiting};
