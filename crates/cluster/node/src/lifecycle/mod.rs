//! The life of a pod on this machine, as a pure function.
//!
//! [`next`] looks at what is wanted (the pod's object), what is there (its
//! sandboxes and containers) and what the worker remembers ([`Memory`]), and
//! says what to do now and when to look again. [`status`] says the same in the
//! API's words. Neither has a clock, a disk or a network.
//!
//! ```text
//!            volumes ──► sandbox ──► init containers, one by one ──► the others
//!   live        ▲           │ lost        │ fails for good              │ all over
//!               └───────────┘             ▼                             ▼
//!   ending   others stop ──► sidecars stop, last first ──► sandbox stops ──► (finished)
//!   leaving  ... ──► final status ──► sandbox removed ──► files removed ──► object deleted
//! ```

mod back_off;
mod memory;
mod model;
mod next;
mod status;

#[cfg(test)]
mod tests;

pub(crate) use back_off::retry_delay;
pub(crate) use memory::{Condemned, Failure, Health, Memory, Step, Verdict};
pub(crate) use model::{Input, Model, View};
pub(crate) use next::{Action, next};
pub(crate) use status::status;
