//! The system-call filter, and who answers for it, as a step.

use std::os::unix::net::UnixStream;

use dhow_sys::child::{Listener, Step};
use dhow_sys::seccomp::NEW_LISTENER;
use serde::Serialize;

use crate::OciState;
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Seccomp};

/// Compiles the filter; `message` is which of the maker's messages is for the
/// listener. Whoever listens is connected to here, on the host.
pub(super) fn compile(linux: &Linux, message: usize) -> Result<Option<Step>> {
    let Some(seccomp) = &linux.seccomp else {
        return Ok(None);
    };
    let filter = crate::seccomp::compile(seccomp)?;
    let mut listener = None;
    if filter.flags & NEW_LISTENER != 0 {
        let path = &seccomp.listener_path;
        let socket = UnixStream::connect(path).map_err(|error| {
            RuntimeError::io("connect to seccomp listener", path.as_ref(), error)
        })?;
        listener = Some(Listener {
            socket: socket.into(),
            message,
        });
    }
    Ok(Some(Step::Filter { filter, listener }))
}

/// Whether somebody is to be asked.
pub(crate) fn asks(linux: Option<&Linux>) -> bool {
    linux
        .and_then(|linux| linux.seccomp.as_ref())
        .is_some_and(Seccomp::asks)
}

/// What a listener gets with the filter's descriptor (config-linux.md, "The
/// Container Process State").
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ContainerProcessState<'a> {
    oci_version: &'a str,
    fds: [&'a str; 1],
    pid: i32,
    #[serde(skip_serializing_if = "str::is_empty")]
    metadata: &'a str,
    state: &'a OciState,
}

/// The message for a listener: which process loads the filter, and of which
/// container.
pub(crate) fn process_state(linux: Option<&Linux>, pid: i32, state: &OciState) -> Vec<u8> {
    let seccomp = linux.and_then(|linux| linux.seccomp.as_ref());
    let process = ContainerProcessState {
        oci_version: &state.oci_version,
        fds: ["seccompFd"],
        pid,
        metadata: seccomp.map_or("", |seccomp| seccomp.listener_metadata.as_str()),
        state,
    };
    // Plain strings and numbers: there is nothing that cannot be written.
    serde_json::to_vec(&process).unwrap_or_default()
}
