//! The scheduler: which node a pod runs on.
//!
//! ```text
//! watches --> cache --> queue --> decide --> assume --> bind
//!               ^                    |                    |
//!               |                    +-- refused: told, --+-- failed: taken back,
//!               |                        waits for help       tried again
//!               +---------------- watches confirm
//! ```
//!
//! Everything but [`run`] is pure: [`Cache`] takes events and returns
//! [`Action`]s, [`decide()`] and [`preempt()`] are functions of a [`Snapshot`].
//! A client of the Kubernetes API and nothing else: starting pods on the node
//! is `dhow-node`'s.

mod amount;
mod cache;
mod decide;
mod filter;
mod pod;
mod preempt;
mod queue;
mod run;
mod score;
mod snapshot;
mod tell;
mod topology;

pub use amount::{Amounts, Demand, demand};
pub use cache::{Action, Cache};
pub use decide::{Refusal, decide};
pub use filter::{Reason, refusals, tolerates};
pub use pod::{HostPort, Labels, NodeTerm, PodFacts, PodTerm, Spread};
pub use preempt::{Budget, Preemption, preempt};
pub use queue::Queue;
pub use run::run;
pub use snapshot::{NodeFacts, NodeState, Snapshot};
