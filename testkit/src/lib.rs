//! Helpers for the black-box suites; never a dependency of a shipped crate.
