//! `exec`: a further program in a running container.

use std::path::Path;

use dhow_sys::child::Report;
use dhow_sys::process::Process;

use crate::create::failure;
use crate::error::{Result, RuntimeError};
use crate::plan::{Compiled, compile_exec, process_state};
use crate::spec::{self, Namespace, NamespaceKind};
use crate::state::Status;
use crate::{Container, Streams};

/// What a further program is started from.
#[derive(Debug)]
pub struct Exec<'a> {
    /// The program; its capabilities are exactly those named.
    pub process: &'a spec::Process,
    /// Its standard streams.
    pub streams: Streams,
    /// How many descriptors from 3 on it keeps.
    pub n_preserved: u32,
    /// Path of an existing control group below the container's, for it alone.
    pub cgroup: Option<&'a Path>,
    /// What to do while the container is paused.
    pub paused: Paused,
}

/// What becomes of a further program while the container is paused.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Paused {
    /// It is refused.
    #[default]
    Refuse,
    /// It is made and stands still until the container goes on.
    Wait,
}

/// A further program that runs.
#[derive(Debug)]
pub struct Executed {
    /// Its process, a child of this process.
    pub process: Process,
    /// What was left out or went wrong without being fatal.
    pub warnings: Vec<String>,
}

impl Container {
    /// Starts a further program: in all the container's namespaces and its
    /// control group, under its filter.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::State`] unless the container runs,
    /// [`RuntimeError::Program`] if the program cannot be executed.
    pub fn exec(&self, request: Exec<'_>) -> Result<Executed> {
        match self.status()? {
            Status::Running | Status::Created => {}
            Status::Paused if request.paused == Paused::Wait => {}
            status => {
                return Err(RuntimeError::State {
                    action: "exec in",
                    status,
                });
            }
        }
        let init = self.process()?;
        let linux = self.spec()?.linux.unwrap_or_default();
        let below;
        let group = match (self.group()?, request.cgroup) {
            (Some(group), Some(path)) => {
                below = group.below(path)?;
                Some(&below)
            }
            (group, _) => group,
        };
        let own_users = |namespace: &Namespace| namespace.kind == NamespaceKind::User;
        if linux.namespaces.iter().any(own_users) {
            request.streams.give(&request.process.user, init.pid)?;
        }
        let Compiled {
            plan, mut warnings, ..
        } = compile_exec(crate::plan::ExecInput {
            id: &self.record.id,
            process: request.process,
            linux: &linux,
            init: &init,
            group,
            streams: request.streams,
            n_preserved: request.n_preserved,
            keyring: self.record.keyring,
        })?;
        let launched = plan
            .launch()
            .map_err(RuntimeError::sys("clone the process"))?;
        let process = launched.process;
        loop {
            let report = launched.channel.next();
            match report.map_err(RuntimeError::sys("hear from the process"))? {
                Report::Warning { step, error } => {
                    warnings.push(format!("{}: {error}", plan.describe(step)));
                }
                Report::Reached { .. } => {
                    let state = self.state_as(Status::Running);
                    let message = process_state(Some(&linux), process.pid, &state);
                    let failed = RuntimeError::sys("let the process go on");
                    launched.channel.go(&message).map_err(failed)?;
                }
                // The end of the socket is execve's work.
                Report::Closed => return Ok(Executed { process, warnings }),
                report => {
                    let error = failure(&plan, report, &process);
                    // It has exited by itself after it told why.
                    let _ = process.wait();
                    return Err(error);
                }
            }
        }
    }
}
