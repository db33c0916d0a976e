//! Real containers, made by the executable as its users make them.
//!
//! Needs root and Debian's `busybox-static`. Everything is below a directory of
//! the test's own, and each test ends with an audit that nothing is left.

#![allow(clippy::unwrap_used, reason = "a test stops at what fails")]

mod bundle;
mod clients;
mod command_line;
mod container;
mod escapes;
mod fields;
mod hooks;
mod hostile;
mod options;
mod propagation;
mod races;
mod seccomp;
mod selinux;
mod shim;
mod systemd;
