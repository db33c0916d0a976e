//! The node agent: pods on this machine.
//!
//! It is a client of the Kubernetes API on one side and of a [`PodRuntime`] on
//! the other, and knows neither the API server nor the engine behind them.

pub mod runtime;

pub use runtime::PodRuntime;
