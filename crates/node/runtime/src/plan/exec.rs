//! The plan of a further process in a running container.

use std::os::fd::{AsFd, OwnedFd};

use dhow_cgroup::Group;
use dhow_sys::child::{Plan, Step};
use dhow_sys::namespace::{self, Kind};

use super::{Compiled, Namespaces, process, text};
use crate::Streams;
use crate::create::Keyring;
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Process};

/// What the plan of an exec is made from.
pub(crate) struct Input<'a> {
    /// Identifier of the container.
    pub(crate) id: &'a str,
    pub(crate) process: &'a Process,
    pub(crate) linux: &'a Linux,
    /// The container's first process.
    pub(crate) init: &'a dhow_sys::process::Process,
    pub(crate) group: Option<&'a Group>,
    pub(crate) streams: Streams,
    pub(crate) n_preserved: u32,
    pub(crate) keyring: Keyring,
}

/// Compiles it.
pub(crate) fn compile(input: Input<'_>) -> Result<Compiled> {
    let Input {
        process,
        linux,
        init,
        ..
    } = input;
    super::check_process(process)?;
    let namespaces = Namespaces::new(linux)?;
    let mut warnings = Vec::new();
    let root_path = format!("/proc/{}/root", init.pid);
    let flags =
        rustix::fs::OFlags::PATH | rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
    let root = rustix::fs::open(root_path.as_str(), flags, rustix::fs::Mode::empty())
        .map_err(|error| RuntimeError::io("open", root_path.as_ref(), error))?;
    let program = process::program(process, Some(&root), &mut warnings)?;
    drop(root);
    let identity = process::identity(process, &namespaces, &mut warnings)?;

    let mut steps = Vec::with_capacity(32);
    let mut add = |step: Step| steps.push(step);
    if let Some(adjustment) = process.oom_score_adj {
        add(super::attempt(Step::WriteProc {
            path: c"self/oom_score_adj".into(),
            value: text("process.oomScoreAdj", adjustment.to_string())?,
        }));
    }
    // Before the container's processes can see this one.
    add(Step::Undumpable);
    let doors = input.group.map(Group::doors).transpose()?;
    let (v1, v2) = doors.map_or((Vec::new(), None), |doors| (doors.v1, doors.v2));
    let affinity = process.exec_cpu_affinity.clone().unwrap_or_default();
    process::affinity("initial", &affinity.initial, &mut add)?;
    if !v1.is_empty() {
        add(Step::EnterCgroups(v1));
    }
    process::affinity("final", &affinity.lasting, &mut add)?;
    let pid_flag = Kind::Pid.flag();
    let flags = namespaces.flags() & !pid_flag;
    let file = duplicate(&init.pidfd)?;
    add(Step::Join { file, flags });
    add(Step::TakeRoot);
    if namespaces.has_user() {
        add(Step::BecomeRoot);
    }
    add(Step::ResetSignals);
    add(Step::NewSession);
    if input.keyring == Keyring::New {
        process::keyring(input.id, process, &mut add)?;
    }
    let mut streams = input.streams;
    match (streams.take_terminal(), process.terminal) {
        (Some(socket), true) => add(Step::Terminal {
            socket,
            size: process.console_size.map(|size| (size.height, size.width)),
            owner: process.user.uid,
            console: false,
        }),
        (None, false) => {
            add(Step::Streams {
                files: streams.into_files(),
                owner: process.user.uid,
            });
        }
        _ => {
            return Err(RuntimeError::spec(
                "process.terminal",
                "and the console socket go together: both or none",
            ));
        }
    }
    process::limits(process, &mut add)?;
    add(Step::CloseOnExec(3 + input.n_preserved));
    if super::asks(Some(linux)) {
        add(Step::Rendezvous);
    }
    let filter = super::filter::compile(linux, 0)?;
    let (late, early) = if process.no_new_privileges {
        (filter, None)
    } else {
        (None, filter)
    };
    early.into_iter().for_each(&mut add);
    add(Step::Identity(identity));
    add(Step::ChangeDirectory(text("process.cwd", &process.cwd)?));
    if process.no_new_privileges {
        add(Step::NoNewPrivileges);
    }
    add(Step::Find(program));
    process::labels(process, &mut add)?;
    late.into_iter().for_each(&mut add);
    add(Step::Execute);

    let born_into = if namespaces.has(Kind::Pid) {
        let path = format!("/proc/{}/ns/pid", init.pid);
        let file = namespace::open(path.as_ref(), Kind::Pid)
            .map_err(|error| RuntimeError::io("open namespace", path.as_ref(), error))?;
        vec![(Kind::Pid, file)]
    } else {
        Vec::new()
    };
    // Identifiers are used again: what was opened by number must have been the
    // container's, which it was if the process is still there.
    init.signal(0).map_err(|_| RuntimeError::NotRunning)?;
    let proc =
        dhow_sys::resolve::open_proc().map_err(RuntimeError::sys("open the host's /proc"))?;
    let plan = Plan {
        born_into,
        cgroup: v2,
        proc: Some(proc),
        steps,
        ..Plan::default()
    };
    Ok(Compiled {
        plan,
        namespaces,
        warnings,
    })
}

fn duplicate(file: &OwnedFd) -> Result<OwnedFd> {
    file.as_fd()
        .try_clone_to_owned()
        .map_err(|error| RuntimeError::io("duplicate", "process descriptor".as_ref(), error))
}
