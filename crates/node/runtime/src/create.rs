//! `create`: from a bundle to a child that waits for its start.

use std::os::fd::AsFd;

use dhow_sys::Errno;
use dhow_sys::child::{Channel, Plan, Report, Step};
use dhow_sys::process::Process;
use serde::{Deserialize, Serialize};

use crate::error::{Result, RuntimeError};
use crate::make::{Undo, make};
use crate::{Bundle, Container, RootSource, Runtime, Streams};

/// What a container is made from.
#[derive(Debug)]
pub struct Create<'a> {
    /// Identifier: letters, digits and `_+-.`.
    pub id: &'a str,
    /// The bundle; its directory is absolute.
    pub bundle: &'a Bundle,
    /// Where the root filesystem comes from.
    pub root: &'a RootSource,
    /// The program's standard streams.
    pub streams: Streams,
    /// How many descriptors from 3 on the program keeps.
    pub n_preserved: u32,
    /// How the root is made the root.
    pub pivot: Pivot,
    /// Who may let the program run.
    pub gate: Gate,
    /// Whose keys the program has.
    pub keyring: Keyring,
    /// Who makes its control group.
    pub groups: Groups,
}

/// Who makes the control groups of containers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Groups {
    /// The runtime, through the files of the hierarchies.
    #[default]
    Files,
    /// Systemd: each is a scope of its own, and `cgroupsPath` has the form
    /// `SLICE:PREFIX:NAME`.
    Systemd,
}

/// Which session keyring the programs of a container have.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Keyring {
    /// One of the container's own.
    #[default]
    New,
    /// Its maker's.
    Kept,
}

/// Who may let the program of a container run that was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gate {
    /// Whoever finds the container, by [`Container::start`].
    #[default]
    Anyone,
    /// Its maker alone, by [`Created::start`]; until then the container ends with
    /// its maker. To others it seems to run already.
    Maker,
    /// Nobody needs to: the program runs when [`Runtime::create`] returns.
    Open,
}

/// How the root is made the root.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Pivot {
    /// The old root is left behind.
    #[default]
    Change,
    /// The old root stays underneath, for machines that run from an initial RAM disk.
    Cover,
}

/// A container that was made and waits for its start.
#[derive(Debug)]
pub struct Created {
    /// What is on disk.
    pub container: Container,
    /// Its first process, a child of this process.
    pub process: Process,
    /// What was left out or went wrong without being fatal.
    pub warnings: Vec<String>,
    pub(crate) gate: Gate,
    pub(crate) channel: Channel,
    pub(crate) later: Later,
}

/// What is still to be known about the plan once its child waits for the start;
/// the plan itself, with the descriptors it holds, goes.
#[derive(Debug)]
pub(crate) struct Later {
    /// Index of the first step after the start.
    first: usize,
    /// What the steps from there on do; the last one executes the program.
    steps: Vec<String>,
    program: String,
}

impl Later {
    pub(crate) fn of(plan: &Plan, waiting: usize) -> Self {
        let first = waiting + 1;
        let steps = (first..plan.steps.len())
            .map(|step| plan.describe(step))
            .collect();
        Self {
            first,
            steps,
            program: program_name(plan),
        }
    }

    fn is_last(&self, step: usize) -> bool {
        step + 1 == self.first + self.steps.len()
    }

    fn describe(&self, step: usize) -> String {
        let step = step
            .checked_sub(self.first)
            .and_then(|step| self.steps.get(step));
        step.cloned().unwrap_or_default()
    }
}

/// The program a plan ends with, as it was named.
fn program_name(plan: &Plan) -> String {
    let find = plan.steps.iter().find_map(|step| match step {
        Step::Find(program) => Some(program.name().to_string_lossy().into_owned()),
        _ => None,
    });
    find.unwrap_or_default()
}

impl Runtime {
    /// Makes a container, up to but without its program.
    ///
    /// # Errors
    ///
    /// [`RuntimeError`]; nothing is left behind then.
    pub fn create(&self, request: Create<'_>) -> Result<Created> {
        let dir = self.dir(request.id)?;
        std::fs::create_dir_all(self.root())
            .map_err(|error| RuntimeError::io("make directory", self.root(), error))?;
        let claim = self.claim(request.id, &dir)?;
        let mut undo = Undo::new(claim, dir.clone());
        let result = make(request, dir, &mut undo);
        if result.is_ok() {
            undo.dismiss();
        }
        result
    }
}

/// What the last report of a child means.
pub(crate) fn failure(plan: &Plan, report: Report, process: &Process) -> RuntimeError {
    match report {
        Report::Failed { step, error } => match plan.steps.get(step) {
            Some(Step::Find(_) | Step::Execute) => RuntimeError::Program {
                name: program_name(plan),
                errno: error,
            },
            _ => RuntimeError::Step {
                step: plan.describe(step),
                source: error,
            },
        },
        _ => RuntimeError::Died(match process.try_wait() {
            Ok(Some(end)) => format!("{end:?}"),
            _ => "no reason given".to_owned(),
        }),
    }
}

impl Created {
    /// Descriptor that becomes readable when the start has succeeded or failed.
    #[must_use]
    pub fn progress(&self) -> std::os::fd::BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// Starts the program and waits until it is executed, unless the gate was open.
    ///
    /// # Errors
    ///
    /// [`RuntimeError::Program`] and [`RuntimeError::Step`] with the child's
    /// reason, [`RuntimeError::Hook`] if a `poststart` hook has failed; the child has
    /// ended then, or was killed, and is to be collected.
    pub fn start(&mut self) -> Result<()> {
        match self.gate {
            Gate::Open => Ok(()),
            Gate::Anyone => {
                self.container.start()?;
                self.follow()
            }
            Gate::Maker => {
                match self.channel.go(b"") {
                    Err(Errno::PIPE) => return Err(RuntimeError::NotRunning),
                    result => result.map_err(RuntimeError::sys("let the process go on"))?,
                }
                self.follow()?;
                let outcome = self.container.after_start();
                if outcome.is_err() {
                    // It may have ended by itself meanwhile.
                    let _ = self.process.signal(libc::SIGKILL);
                }
                outcome
            }
        }
    }

    /// Follows the start to its end.
    fn follow(&mut self) -> Result<()> {
        loop {
            match self
                .channel
                .next()
                .map_err(RuntimeError::sys("hear from the container's process"))?
            {
                Report::Warning { step, error } => {
                    self.warnings
                        .push(format!("{}: {error}", self.later.describe(step)));
                }
                // The end of the socket is execve's work.
                Report::Closed => return Ok(()),
                Report::Failed { step, error } if self.later.is_last(step) => {
                    let name = self.later.program.clone();
                    return Err(RuntimeError::Program { name, errno: error });
                }
                Report::Failed { step, error } => {
                    let step = self.later.describe(step);
                    return Err(RuntimeError::Step {
                        step,
                        source: error,
                    });
                }
                Report::Reached { .. } => {}
            }
        }
    }
}
