//! `create`: from a bundle to a child that waits for its start.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dhow_cgroup::{CgroupError, Group, Layout};
use dhow_sys::Errno;
use dhow_sys::child::{Channel, Plan, Report, Step};
use dhow_sys::namespace::Kind;
use dhow_sys::process::Process;
use rustix::fs::{CWD, Mode, OFlags};

use crate::error::{Result, RuntimeError};
use crate::plan::{self, Compiled, Input, Namespaces};
use crate::spec::{Hooks, NamespaceKind, Spec};
use crate::state::{PREPARED, RECORD, Record, START, Status, VERSION};
use crate::{Bundle, Container, Moment, RootSource, Runtime, hooks, limits, net_devices};

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
}

/// Which session keyring a program has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Keyring {
    /// One of its own.
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

/// The standard streams of a program.
#[derive(Debug, Default)]
pub struct Streams {
    files: [Option<OwnedFd>; 3],
    terminal: Option<OwnedFd>,
}

impl Streams {
    /// Those of this process.
    #[must_use]
    pub fn inherited() -> Self {
        Self::default()
    }

    /// These; what is absent is this process's.
    #[must_use]
    pub fn files(stdin: Option<OwnedFd>, stdout: Option<OwnedFd>, stderr: Option<OwnedFd>) -> Self {
        Self {
            files: [stdin, stdout, stderr],
            terminal: None,
        }
    }

    /// A new terminal, whose master is sent over a connected Unix socket.
    #[must_use]
    pub fn terminal(socket: OwnedFd) -> Self {
        Self {
            files: [None, None, None],
            terminal: Some(socket),
        }
    }

    pub(crate) fn take_terminal(&mut self) -> Option<OwnedFd> {
        self.terminal.take()
    }

    pub(crate) fn into_files(self) -> [Option<OwnedFd>; 3] {
        self.files
    }
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
    gate: Gate,
    channel: Channel,
    later: Later,
}

/// What is still to be known about the plan once its child waits for the start;
/// the plan itself, with the descriptors it holds, goes.
#[derive(Debug)]
struct Later {
    /// Index of the first step after the start.
    first: usize,
    /// What the steps from there on do; the last one executes the program.
    steps: Vec<String>,
    program: String,
}

impl Later {
    fn of(plan: &Plan, waiting: usize) -> Self {
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
        let mut undo = Undo {
            claim,
            dir: Some(dir.clone()),
            group: None,
            process: None,
        };
        let result = make(request, dir, &mut undo);
        if result.is_ok() {
            undo.dismiss();
        }
        result
    }
}

/// Takes back what was made, unless all went well.
struct Undo {
    /// Goes last: until all is taken back, the identifier is ours.
    claim: OwnedFd,
    dir: Option<PathBuf>,
    group: Option<Group>,
    process: Option<Process>,
}

impl Undo {
    fn dismiss(&mut self) {
        self.dir = None;
        self.group = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The first error is the one to tell; these are on the way out of it.
        if let Some(process) = self.process.take() {
            let _ = process.signal(libc::SIGKILL);
            let _ = process.wait();
        }
        if let Some(group) = self.group.take() {
            let _ = group.kill();
            let _ = group.remove();
        }
        if let Some(dir) = self.dir.take() {
            let _ = std::fs::remove_dir_all(dir);
        }
    }
}

fn make(request: Create<'_>, dir: PathBuf, undo: &mut Undo) -> Result<Created> {
    let spec = request.bundle.spec();
    let group = group(request.id, spec, undo)?;
    let user = spec.linux.as_ref().is_some_and(|linux| {
        let kinds = linux.namespaces.iter().map(|namespace| namespace.kind);
        kinds.into_iter().any(|kind| kind == NamespaceKind::User)
    });
    // The record must not be there before the root is the container's: who enters
    // it earlier sees the host's. With an open gate the child shows it itself, so
    // that nobody waits for anybody; the root of a user namespace may not.
    let shows = request.gate == Gate::Open && !user;
    let (mut inside, mut wait) = (Vec::new(), vec![Step::Rendezvous]);
    if shows {
        inside = vec![Step::Receive, show(&dir)?];
        wait.clear();
    } else if request.gate == Gate::Anyone {
        // Past the meeting it outlives its maker, and there it can be found.
        wait.push(Step::AwaitStart(make_fifo(&dir.join(START))?));
    }

    let Compiled {
        plan,
        namespaces,
        mut warnings,
    } = plan::compile(Input {
        spec,
        bundle: request.bundle.path(),
        root: request.root,
        state_dir: &dir,
        id: request.id,
        group: group.as_ref(),
        streams: request.streams,
        claim: undo.claim.as_raw_fd(),
        inside,
        wait,
        n_preserved: request.n_preserved,
        pivot: request.pivot,
        keyring: request.keyring,
    })?;
    let launched = plan
        .launch()
        .map_err(RuntimeError::sys("clone the container's process"))?;
    let channel = launched.channel;
    let process = undo.process.insert(launched.process);
    let start_time = dhow_sys::process::start_time(process.pid).map_err(RuntimeError::sys(
        "find the start of the container's process",
    ))?;
    let container = Container {
        record: Record {
            version: VERSION,
            id: request.id.to_owned(),
            bundle: request.bundle.path().to_owned(),
            rootfs: spec
                .root
                .as_ref()
                .map_or_else(PathBuf::new, |root| request.bundle.path().join(&root.path)),
            pid: process.pid,
            start_time,
            created: Moment::now(),
            cgroup: group.as_ref().map(|group| group.path().to_owned()),
            annotations: spec.annotations.clone(),
            hooks: Hooks {
                poststart: spec.hooks.poststart.clone(),
                poststop: spec.hooks.poststop.clone(),
                ..Hooks::default()
            },
        },
        dir,
        group: group.map(OnceLock::from).unwrap_or_default(),
    };

    let text = request.bundle.text();
    // The maker's last word can be said before it is asked for, so that the child
    // need not stop to hear it.
    let last_word = |n_to_come| match (shows, n_to_come) {
        (true, 0) => match channel.go(b"") {
            // It has failed already, and its report is on the way.
            Ok(()) | Err(Errno::PIPE) => Ok(()),
            Err(error) => Err(RuntimeError::sys("let the process go on")(error)),
        },
        _ => Ok(()),
    };
    container.record.prepare(&container.dir, text)?;
    let mut meetings = meetings(spec, &namespaces);
    if !shows && request.gate != Gate::Maker {
        meetings.push_back(Meeting::Show);
    }
    last_word(meetings.len())?;
    let waiting = loop {
        match channel
            .next()
            .map_err(RuntimeError::sys("hear from the container's process"))?
        {
            Report::Warning { step, error } => {
                warnings.push(format!("{}: {error}", plan.describe(step)));
            }
            Report::Reached { step } => match meetings.pop_front() {
                Some(Meeting::Maps) => {
                    let linux = spec.linux.as_ref();
                    let (users, groups) = linux.map_or((&[][..], &[][..]), |linux| {
                        (&linux.uid_mappings, &linux.gid_mappings)
                    });
                    plan::write_id_maps(process.pid, users, groups)?;
                    go_on(&channel, b"")?;
                    last_word(meetings.len())?;
                }
                Some(Meeting::Devices) => {
                    let devices = spec.linux.as_ref().map(|linux| &linux.net_devices);
                    devices.map_or(Ok(()), |devices| net_devices::move_in(devices, process.pid))?;
                    go_on(&channel, b"")?;
                    last_word(meetings.len())?;
                }
                Some(Meeting::Hooks) => {
                    let state = hooks::state(&container.state_as(Status::Creating));
                    hooks::run(&spec.hooks.prestart, &state)?;
                    hooks::run(&spec.hooks.create_runtime, &state)?;
                    let state = hooks::state(&container.state_as(Status::Created));
                    go_on(&channel, &state)?;
                    last_word(meetings.len())?;
                }
                Some(Meeting::Listener) => {
                    let state = container.state_as(Status::Creating);
                    let linux = spec.linux.as_ref();
                    let message = plan::process_state(linux, process.pid, &state);
                    go_on(&channel, &message)?;
                    last_word(meetings.len())?;
                }
                Some(Meeting::Show) => {
                    Record::publish(&container.dir)?;
                    go_on(&channel, b"")?;
                }
                None => {
                    if request.gate == Gate::Maker {
                        Record::publish(&container.dir)?;
                    }
                    break step;
                }
            },
            // The end of the socket is execve's work.
            Report::Closed if request.gate == Gate::Open => break plan.steps.len(),
            report => return Err(failure(&plan, report, process)),
        }
    };
    if request.gate == Gate::Open {
        container.after_start()?;
    }
    let process = undo.process.take().expect("was put there above");
    Ok(Created {
        container,
        process,
        warnings,
        gate: request.gate,
        channel,
        later: Later::of(&plan, waiting),
    })
}

fn go_on(channel: &Channel, message: &[u8]) -> Result<()> {
    channel
        .go(message)
        .map_err(RuntimeError::sys("let the process go on"))
}

/// What a child waits for on its way to the start.
enum Meeting {
    /// The maps of its user namespace.
    Maps,
    /// Network devices that are moved in.
    Devices,
    /// Hooks that the maker runs; the state comes back for those it runs itself.
    Hooks,
    /// What whoever answers for its filter is told.
    Listener,
    /// The record is shown, now that the root is the container's.
    Show,
}

/// The meetings of a plan, in its order.
fn meetings(spec: &Spec, namespaces: &Namespaces) -> VecDeque<Meeting> {
    let maps = namespaces.is_new(Kind::User).then_some(Meeting::Maps);
    let linux = spec.linux.as_ref();
    let moves = linux.is_some_and(|linux| !linux.net_devices.is_empty());
    let hooks = spec.hooks.any_of_create().then_some(Meeting::Hooks);
    let listener = plan::asks(linux).then_some(Meeting::Listener);
    let devices = moves.then_some(Meeting::Devices);
    let first = maps.into_iter().chain(devices);
    first.chain(hooks).chain(listener).collect()
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

/// The container's control group: made, with its limits. Its path is the
/// configuration's, or `/dhow-ID`.
fn group(id: &str, spec: &Spec, undo: &mut Undo) -> Result<Option<Group>> {
    let linux = spec.linux.as_ref();
    let wanted = linux
        .and_then(|linux| linux.cgroups_path.as_deref())
        .filter(|path| !path.is_empty());
    let layout = match Layout::detect() {
        Err(CgroupError::None) if wanted.is_none() => return Ok(None),
        result => result?,
    };
    let path = wanted.map_or_else(|| own_group(id), slice_path);
    let group = Group::at(layout, path.as_ref())?;
    let fresh = group.create();
    if fresh.as_ref().is_ok_and(|fresh| !fresh) && group.is_populated()? {
        return Err(RuntimeError::spec(
            "linux.cgroupsPath",
            format!("processes are in {path} already; choose another path"),
        ));
    }
    let group = undo.group.insert(group);
    fresh?;
    if let Some(resources) = linux.and_then(|linux| linux.resources.as_ref()) {
        group.apply(&limits::of(resources)?)?;
    }
    Ok(Some(group.clone()))
}

/// The control group of a container whose path nobody chose.
pub(crate) fn own_group(id: &str) -> String {
    format!("/dhow-{id}")
}

/// A path as systemd's driver writes it (`SLICE:PREFIX:NAME`) as a plain path.
fn slice_path(path: &str) -> String {
    let mut parts = path.split(':');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(slice), Some(prefix), Some(name), None) if !path.contains('/') => {
            let slice = if slice.is_empty() {
                "system.slice"
            } else {
                slice
            };
            let separator = if prefix.is_empty() { "" } else { "-" };
            format!("/{slice}/{prefix}{separator}{name}.scope")
        }
        _ => path.to_owned(),
    }
}

/// The step that shows a prepared record.
fn show(dir: &Path) -> Result<Step> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(dir, flags, Mode::empty())
        .map_err(|error| RuntimeError::io("open", dir, error))?;
    Ok(Step::Rename {
        directory,
        from: plan::text("state", PREPARED)?,
        to: plan::text("state", RECORD)?,
    })
}

/// The FIFO at which the child waits, open for both so that there is always a
/// reader and a writer.
fn make_fifo(path: &Path) -> Result<OwnedFd> {
    let failed = |error| RuntimeError::io("make", path, error);
    rustix::fs::mknodat(CWD, path, rustix::fs::FileType::Fifo, Mode::from(0o600), 0)
        .map_err(failed)?;
    let fifo = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
    fifo.map_err(failed)
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
    /// reason; the child has ended then and is to be collected.
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
                self.container.after_start()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn systemd_paths_become_plain() {
        assert_eq!(
            slice_path("machine.slice:libpod:1a"),
            "/machine.slice/libpod-1a.scope"
        );
        assert_eq!(slice_path(":docker:1a"), "/system.slice/docker-1a.scope");
        assert_eq!(slice_path("/a/b:c:d"), "/a/b:c:d");
        assert_eq!(slice_path("/docker/1a"), "/docker/1a");
    }
}
