//! The maker's side of `create`: group, plan, child, and what the child waits for
//! on its way. What fails is taken back in reverse.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use dhow_cgroup::Group;
use dhow_sys::Errno;
use dhow_sys::child::{Channel, Plan, Report, Step};
use dhow_sys::idmap::IdMaps;
use dhow_sys::process::Process;
use rustix::fs::{CWD, Mode, OFlags};

use crate::create::{Later, failure};
use crate::error::{Result, RuntimeError};
use crate::plan::{self, Compiled, Input, Namespaces};
use crate::scope::Scope;
use crate::spec::{Hooks, Linux, NamespaceKind, Spec};
use crate::state::{PREPARED, RECORD, Record, START, Status, VERSION};
use crate::{Container, Create, Created, Gate, Moment, group, hooks, net_devices, streams};

/// Takes back what was made, unless all went well.
pub(crate) struct Undo {
    /// Goes last: until all is taken back, the identifier is ours.
    claim: OwnedFd,
    dir: Option<PathBuf>,
    pub(crate) group: Option<Group>,
    /// The unit of the group, until the container is in it.
    pub(crate) scope: Option<Scope>,
    process: Option<Process>,
    /// The container, once hooks have begun to run: those that follow its end do
    /// then, too (runtime-spec, "Lifecycle", 13).
    hooked: Option<Container>,
}

impl Undo {
    pub(crate) fn new(claim: OwnedFd, dir: PathBuf) -> Self {
        Self {
            claim,
            dir: Some(dir),
            group: None,
            scope: None,
            process: None,
            hooked: None,
        }
    }

    /// Number of the descriptor that claims the identifier.
    pub(crate) fn claim(&self) -> RawFd {
        self.claim.as_raw_fd()
    }

    pub(crate) fn dismiss(&mut self) {
        self.dir = None;
        self.group = None;
        self.hooked = None;
    }
}

impl Drop for Undo {
    fn drop(&mut self) {
        // The first error is the one to tell; these are on the way out of it.
        if let Some(process) = self.process.take() {
            let _ = process.signal(libc::SIGKILL);
            let _ = process.wait();
        }
        if let Some(scope) = self.scope.take() {
            let _ = scope.stop();
        }
        if let Some(group) = self.group.take() {
            let _ = group.kill();
            let _ = group.remove();
        }
        if let Some(dir) = self.dir.take() {
            let _ = std::fs::remove_dir_all(dir);
        }
        if let Some(container) = self.hooked.take() {
            let state = hooks::state(&container.state_as(Status::Stopped));
            hooks::run_all(&container.record.hooks.poststop, &state);
        }
    }
}

/// Makes a container in its directory, which is claimed.
pub(crate) fn make(request: Create<'_>, dir: PathBuf, undo: &mut Undo) -> Result<Created> {
    let spec = request.bundle.spec();
    let group = group::make(request.id, spec, request.groups, undo)?;
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
        claim: undo.claim(),
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
            unit: undo.scope.as_ref().map(|scope| scope.unit().to_owned()),
            annotations: spec.annotations.clone(),
            keyring: request.keyring,
            hooks: Hooks {
                poststart: spec.hooks.poststart.clone(),
                poststop: spec.hooks.poststop.clone(),
                ..Hooks::default()
            },
        },
        dir,
        group: group.map(OnceLock::from).unwrap_or_default(),
    };

    container
        .record
        .prepare(&container.dir, request.bundle.text())?;
    let mut meetings = meetings(spec, &namespaces);
    if !shows && request.gate != Gate::Maker {
        meetings.push_back(Meeting::Show);
    }
    // The maker's last word can be said before it is asked for, so that the child
    // need not stop to hear it.
    let is_last = |meetings: &VecDeque<Meeting>| shows && meetings.is_empty();
    if is_last(&meetings) {
        say_ahead(&channel)?;
    }
    let waiting = loop {
        match channel
            .next()
            .map_err(RuntimeError::sys("hear from the container's process"))?
        {
            Report::Warning { step, error } => {
                warnings.push(format!("{}: {error}", plan.describe(step)));
            }
            Report::Reached { step } => {
                let Some(meeting) = meetings.pop_front() else {
                    if request.gate == Gate::Maker {
                        Record::publish(&container.dir)?;
                    }
                    break step;
                };
                if matches!(meeting, Meeting::Hooks) {
                    undo.hooked = Some(container.clone());
                }
                let message = meet(meeting, spec, &container, &plan)?;
                channel
                    .go(&message)
                    .map_err(RuntimeError::sys("let the process go on"))?;
                if is_last(&meetings) {
                    say_ahead(&channel)?;
                }
            }
            // The end of the socket is execve's work.
            Report::Closed if request.gate == Gate::Open => break plan.steps.len(),
            report => return Err(failure(&plan, report, process)),
        }
    };
    if let (Some(scope), Some(group)) = (undo.scope.take(), container.group()?) {
        group::settle(scope, group, spec)?;
    }
    if request.gate == Gate::Open {
        undo.hooked = Some(container.clone());
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

fn say_ahead(channel: &Channel) -> Result<()> {
    match channel.go(b"") {
        // It has failed already, and its report is on the way.
        Ok(()) | Err(Errno::PIPE) => Ok(()),
        Err(error) => Err(RuntimeError::sys("let the process go on")(error)),
    }
}

/// What a child waits for on its way to the start.
enum Meeting {
    /// What the root of its user namespace may not do for itself: its maps, and
    /// who owns its streams.
    Identities,
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
    let identities = namespaces.has_user().then_some(Meeting::Identities);
    let linux = spec.linux.as_ref();
    let moves = linux.is_some_and(|linux| !linux.net_devices.is_empty());
    let hooks = spec.hooks.any_of_create().then_some(Meeting::Hooks);
    let listener = plan::asks(linux).then_some(Meeting::Listener);
    let devices = moves.then_some(Meeting::Devices);
    let first = identities.into_iter().chain(devices);
    first.chain(hooks).chain(listener).collect()
}

/// Does what a child waits for; what it is told then.
fn meet(meeting: Meeting, spec: &Spec, container: &Container, plan: &Plan) -> Result<Vec<u8>> {
    let linux = spec.linux.as_ref();
    let pid = container.record.pid;
    match meeting {
        Meeting::Identities => {
            let maps = linux.map(Linux::id_maps).unwrap_or_default();
            if maps != IdMaps::default() {
                let failed = RuntimeError::sys("write the maps of the user namespace");
                maps.write(pid).map_err(failed)?;
            }
            let files = plan.steps.iter().find_map(|step| match step {
                Step::Streams { files, .. } => Some(files),
                _ => None,
            });
            if let (Some(files), Some(process)) = (files, &spec.process) {
                streams::give(files, &process.user, pid)?;
            }
        }
        Meeting::Devices => {
            if let Some(linux) = linux {
                net_devices::move_in(&linux.net_devices, pid)?;
            }
        }
        Meeting::Hooks => {
            let state = hooks::state(&container.state_as(Status::Creating));
            hooks::run(&spec.hooks.prestart, &state)?;
            hooks::run(&spec.hooks.create_runtime, &state)?;
            return Ok(hooks::state(&container.state_as(Status::Created)));
        }
        Meeting::Listener => {
            let state = container.state_as(Status::Creating);
            return Ok(plan::process_state(linux, pid, &state));
        }
        Meeting::Show => Record::publish(&container.dir)?,
    }
    Ok(Vec::new())
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
