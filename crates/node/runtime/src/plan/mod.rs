//! From a configuration to a child's plan: everything is looked at, opened and
//! checked here, before there is a child.

mod devices;
mod exec;
mod filter;
mod labels;
mod mounts;
mod namespaces;
mod options;
mod process;
mod root;
mod sysctl;
mod view;

use std::ffi::CString;
use std::os::fd::RawFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use dhow_cgroup::Group;
use dhow_sys::child::{Plan, Script, Step};
use dhow_sys::mount::{Attributes, Depth, Parameter};
use dhow_sys::namespace::Kind;

use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Process, Spec};
use crate::{Keyring, Pivot, RootSource, Streams};

pub(crate) use exec::{Input as ExecInput, compile as compile_exec};
pub(crate) use filter::{asks, process_state};
pub(crate) use namespaces::Namespaces;

/// What a plan is made from.
pub(crate) struct Input<'a> {
    pub(crate) spec: &'a Spec,
    pub(crate) bundle: &'a Path,
    pub(crate) root: &'a RootSource,
    /// Directory of the container's state, for the place the root is put at.
    pub(crate) state_dir: &'a Path,
    pub(crate) id: &'a str,
    pub(crate) group: Option<&'a Group>,
    pub(crate) streams: Streams,
    /// The maker's lock on the identifier.
    pub(crate) claim: RawFd,
    /// What the child does once the root is its own, as long as it may still
    /// touch the host's files.
    pub(crate) inside: Vec<Step>,
    /// How the child waits for its start.
    pub(crate) wait: Vec<Step>,
    /// Descriptors above the standard streams that the program keeps.
    pub(crate) n_preserved: u32,
    pub(crate) pivot: Pivot,
    pub(crate) keyring: Keyring,
}

/// A plan, and what is to be known about it.
#[derive(Debug)]
pub(crate) struct Compiled {
    pub(crate) plan: Plan,
    pub(crate) namespaces: Namespaces,
    /// What was left out, for the caller to tell.
    pub(crate) warnings: Vec<String>,
}

/// A step's text: no zero bytes inside.
pub(crate) fn text(field: &str, value: impl AsRef<std::ffi::OsStr>) -> Result<CString> {
    let bytes = value.as_ref().as_bytes();
    CString::new(bytes).map_err(|_| RuntimeError::spec(field, "holds a zero byte"))
}

/// Compiles the plan of a container's first process.
pub(crate) fn compile(input: Input<'_>) -> Result<Compiled> {
    let spec = input.spec;
    let nothing = Linux::default();
    let linux = spec.linux.as_ref().unwrap_or(&nothing);
    let no_process = || RuntimeError::spec("process", "is absent; there is nothing to run");
    let process = spec.process.as_ref().ok_or_else(no_process)?;
    check(spec, linux, process)?;
    let namespaces = Namespaces::new(linux)?;
    if !linux.net_devices.is_empty() && !namespaces.has(Kind::Network) {
        return Err(RuntimeError::spec(
            "linux.netDevices",
            "needs a network namespace of the container's own",
        ));
    }
    let mut warnings = Vec::new();
    let namespaces::Opened { user, born_into } = namespaces.open()?;
    let root = root::open(spec, input.bundle, input.root, user.as_ref())?;
    let identity = process::identity(process, &namespaces, &mut warnings)?;
    let program = process::program(process, Some(&root), &mut warnings)?;

    let mut steps = Vec::with_capacity(64);
    let mut add = |step: Step| steps.push(step);
    if namespaces.has_user() {
        add(Step::Rendezvous);
    }
    if !linux.net_devices.is_empty() {
        add(Step::Rendezvous);
    }
    if let Some(adjustment) = process.oom_score_adj {
        add(attempt(Step::WriteProc {
            path: c"self/oom_score_adj".into(),
            value: text("process.oomScoreAdj", adjustment.to_string())?,
        }));
    }
    add(Step::Undumpable);
    let doors = input.group.map(Group::doors).transpose()?;
    let (v1, v2) = doors.map_or((Vec::new(), None), |doors| (doors.v1, doors.v2));
    if !v1.is_empty() {
        add(Step::EnterCgroups(v1));
    }
    if namespaces.is_new(Kind::Cgroup) {
        add(Step::NewCgroupView);
    }
    add(Step::PrivateMounts);
    // Still as who the maker is: the root of a user namespace is a stranger to the
    // host's directories.
    add(Step::AttachRoot(root::place(
        spec,
        input.bundle,
        input.root,
        input.state_dir,
    )?));
    if namespaces.has_user() {
        add(Step::BecomeRoot);
    }
    add(Step::ResetSignals);
    add(Step::NewSession);
    if input.keyring == Keyring::New {
        process::keyring(input.id, process, &mut add)?;
    }
    if namespaces.is_new(Kind::Network) {
        add(attempt(Step::LoopbackUp));
    }
    process::domain(linux, &mut add)?;
    for (name, field, value) in [
        ("hostname", Step::HostName as fn(_) -> _, &spec.hostname),
        ("domainname", Step::DomainName, &spec.domainname),
    ] {
        if !value.is_empty() {
            if !namespaces.has(Kind::Uts) {
                return Err(RuntimeError::spec(
                    name,
                    "needs a UTS namespace of the container's own",
                ));
            }
            add(field(text(name, value)?));
        }
    }
    sysctl::compile(linux, &namespaces, &mut add)?;

    let context = mounts::Context {
        bundle: input.bundle,
        namespaces: &namespaces,
        user: user.as_ref(),
        group: input.group,
        linux,
    };
    for (index, mount) in spec.mounts.iter().enumerate() {
        mounts::compile(&context, index, mount, &mut warnings, &mut add)?;
    }
    devices::compile(spec, linux, &namespaces, &mut add)?;
    let mut streams = input.streams;
    let terminal = match streams.take_terminal() {
        Some(socket) if process.terminal => Some(Step::Terminal {
            socket,
            size: process.console_size.map(|size| (size.height, size.width)),
            owner: process.user.uid,
            console: true,
        }),
        None if process.terminal => {
            return Err(RuntimeError::spec(
                "process.terminal",
                "is true, but there is no console socket to send the terminal to",
            ));
        }
        Some(_) => {
            return Err(RuntimeError::spec(
                "process.terminal",
                "is false, so there is no terminal for the console socket",
            ));
        }
        None => None,
    };
    let has_terminal = terminal.is_some();
    terminal.into_iter().for_each(&mut add);

    let hooks = &spec.hooks;
    if hooks.any_of_create() {
        add(Step::Rendezvous);
    }
    if asks(spec.linux.as_ref()) {
        add(Step::Rendezvous);
    }
    if !hooks.create_container.is_empty() {
        add(Step::Scripts {
            scripts: scripts("hooks.createContainer", &hooks.create_container)?,
            message: 0,
        });
    }
    for path in &linux.readonly_paths {
        add(Step::ReadOnly(text("linux.readonlyPaths", path)?));
    }
    let parameters: Vec<Parameter> = labels::context(linux)?.into_iter().collect();
    for path in &linux.masked_paths {
        add(Step::Mask {
            path: text("linux.maskedPaths", path)?,
            parameters: parameters.clone(),
        });
    }
    add(Step::MakeDirectory(text("process.cwd", &process.cwd)?));
    add(match input.pivot {
        Pivot::Change => Step::ChangeRoot,
        Pivot::Cover => Step::CoverRoot,
    });
    if let Some((propagation, depth)) = root::propagation(linux)? {
        add(Step::RootPropagation(propagation, depth));
    }
    if spec.root.as_ref().is_some_and(|root| root.readonly) {
        add(Step::Change {
            path: c"/".into(),
            attributes: Attributes::READ_ONLY,
            depth: Depth::One,
        });
    }
    if mounts::has_read_only_dev(spec) {
        add(Step::Change {
            path: c"/dev".into(),
            attributes: Attributes::READ_ONLY,
            depth: Depth::One,
        });
    }
    if !has_terminal {
        add(Step::Streams {
            files: streams.into_files(),
            owner: process.user.uid,
        });
    }
    input.inside.into_iter().for_each(&mut add);
    process::limits(process, &mut add)?;
    add(Step::CloseOnExec(3 + input.n_preserved));
    let filter = filter::compile(linux, usize::from(hooks.any_of_create()))?;
    let (late, early) = if process.no_new_privileges {
        (filter, None)
    } else {
        (None, filter)
    };
    // Without no_new_privs the filter needs the capability that is about to go.
    early.into_iter().for_each(&mut add);
    add(Step::Identity(identity));
    add(Step::ChangeDirectory(text("process.cwd", &process.cwd)?));
    if process.no_new_privileges {
        add(Step::NoNewPrivileges);
    }
    add(Step::Find(program));
    input.wait.into_iter().for_each(&mut add);
    if !hooks.start_container.is_empty() {
        add(Step::Scripts {
            scripts: scripts("hooks.startContainer", &hooks.start_container)?,
            message: 0,
        });
    }
    process::labels(process, &mut add)?;
    late.into_iter().for_each(&mut add);
    add(Step::Execute);

    let plan = Plan {
        new: namespaces.new_kinds(),
        born_into,
        user,
        makers_own: Some(input.claim),
        time_offsets: namespaces::time_offsets(linux),
        cgroup: v2,
        root: Some(root),
        proc: Some(
            dhow_sys::resolve::open_proc().map_err(RuntimeError::sys("open the host's /proc"))?,
        ),
        steps,
    };
    Ok(Compiled {
        plan,
        namespaces,
        warnings,
    })
}

fn attempt(step: Step) -> Step {
    Step::Attempt(Box::new(step))
}

/// What can be said about a configuration without looking at the machine.
fn check(spec: &Spec, linux: &Linux, process: &Process) -> Result<()> {
    let version = spec.oci_version.split('.').next();
    if version != Some("1") {
        return Err(RuntimeError::spec(
            "ociVersion",
            format!(
                "{:?} is not supported; this runtime speaks 1.x",
                spec.oci_version
            ),
        ));
    }
    check_process(process)?;
    for path in linux.masked_paths.iter().chain(&linux.readonly_paths) {
        if !path.starts_with('/') {
            return Err(RuntimeError::spec(
                "linux",
                format!("path {path:?} is not absolute"),
            ));
        }
    }
    labels::of_mounts(linux)?;
    if linux.intel_rdt.is_some() {
        return Err(RuntimeError::spec(
            "linux.intelRdt",
            "is not supported; leave it out",
        ));
    }
    crate::net_devices::check(&linux.net_devices)?;
    let all = [
        ("prestart", &spec.hooks.prestart),
        ("createRuntime", &spec.hooks.create_runtime),
        ("createContainer", &spec.hooks.create_container),
        ("startContainer", &spec.hooks.start_container),
        ("poststart", &spec.hooks.poststart),
        ("poststop", &spec.hooks.poststop),
    ];
    for (place, hooks) in all {
        for hook in hooks {
            let wrong = |problem: &str| {
                Err(RuntimeError::spec(
                    format!("hooks.{place} ({})", hook.path.display()),
                    problem,
                ))
            };
            if !hook.path.is_absolute() {
                return wrong("the path is not absolute");
            }
            if hook.timeout == Some(0) {
                return wrong("the timeout must be above zero, or absent");
            }
        }
    }
    Ok(())
}

/// What can be said about a process without looking at the machine.
fn check_process(process: &Process) -> Result<()> {
    if process.args.is_empty() {
        return Err(RuntimeError::spec(
            "process.args",
            "is empty; name a program",
        ));
    }
    if !process.cwd.starts_with('/') {
        return Err(RuntimeError::spec(
            "process.cwd",
            format!("{:?} is not absolute", process.cwd),
        ));
    }
    // To the kernel the highest number means that nothing is to change: the
    // program would stay who the runtime is.
    let user = &process.user;
    let groups = user.additional_gids.iter();
    if groups
        .chain([&user.uid, &user.gid])
        .any(|id| *id == u32::MAX)
    {
        return Err(RuntimeError::spec(
            "process.user",
            format!("{} is nobody's number", u32::MAX),
        ));
    }
    if let Some(score) = process.oom_score_adj
        && !(-1000..=1000).contains(&score)
    {
        return Err(RuntimeError::spec(
            "process.oomScoreAdj",
            format!("{score} is not between -1000 and 1000"),
        ));
    }
    Ok(())
}

/// Hooks as programs a child can run.
fn scripts(field: &str, hooks: &[crate::spec::Hook]) -> Result<Vec<Script>> {
    let script = |hook: &crate::spec::Hook| {
        let texts = |values: &[String]| -> Result<Vec<CString>> {
            values.iter().map(|value| text(field, value)).collect()
        };
        let path = text(field, &hook.path)?;
        let mut arguments = texts(&hook.args)?;
        if arguments.is_empty() {
            arguments.push(path.clone());
        }
        let program = dhow_sys::child::Program::new(vec![path], arguments, texts(&hook.env)?);
        let timeout = hook.timeout.map_or(-1, |seconds| {
            i32::try_from(seconds.saturating_mul(1000)).unwrap_or(i32::MAX)
        });
        Ok(Script { program, timeout })
    };
    hooks.iter().map(script).collect()
}
