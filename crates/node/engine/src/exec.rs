//! Further programs in a running container.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use dhow_runtime::spec::{ConsoleSize, Process};
use dhow_shim::wire::{ExecSpec, ExitRecord, Target};
use tokio::sync::watch;

use crate::accounts;
use crate::attach::{AttachOptions, Attached, streams};
use crate::bundle;
use crate::container::Container;
use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::files;
use crate::links;
use crate::machine::Machine;
use crate::names;
use crate::record::Status;
use crate::security::{SecurityOptions, UNCONFINED};
use crate::start::told;

/// A program as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOptions {
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value` above the container's own.
    pub env: Vec<String>,
    /// Where it starts; empty means the container's working directory.
    pub working_dir: String,
    /// Whom it runs as; empty means the container's user.
    pub user: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Which streams are attached.
    pub streams: AttachOptions,
    /// Whether it has all capabilities and no filter.
    pub privileged: bool,
    /// The keys by which a client lets go of it, as they were asked for.
    pub detach_keys: String,
    /// Rows and columns of its terminal at the start.
    pub console_size: Option<[u16; 2]>,
}

/// How an exec stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRecord {
    /// Whether its program runs.
    pub running: bool,
    /// Its exit code, once it has ended.
    pub exit_code: Option<i32>,
    /// Its process identifier; zero before it runs.
    pub pid: i32,
}

/// The next exec's number.
static NUMBER: AtomicU64 = AtomicU64::new(0);

/// One exec.
#[derive(Debug)]
pub(crate) struct Exec {
    pub(crate) id: String,
    /// Counts up: the oldest are forgotten first.
    number: u64,
    pub(crate) container: Arc<Container>,
    pub(crate) options: ExecOptions,
    state: watch::Sender<ExecRecord>,
}

impl Exec {
    /// Ends with the container.
    pub(crate) fn lost(&self, exit_code: i32) {
        self.state.send_modify(|state| {
            if state.exit_code.is_none() {
                *state = ExecRecord {
                    running: false,
                    exit_code: Some(exit_code),
                    ..*state
                };
            }
        });
    }
}

impl Engine {
    /// Prepares a program; returns the exec's id.
    ///
    /// # Errors
    ///
    /// [`Error::Conflict`] when the container does not run.
    pub fn exec_create(&self, name: &str, options: ExecOptions) -> Result<String> {
        let container = self.find(name)?;
        let record = container.record();
        match record.state.status {
            Status::Running => {}
            Status::Paused => {
                return Err(Error::Conflict(format!(
                    "Container {name} is paused, unpause the container before exec"
                )));
            }
            _ => {
                return Err(Error::Conflict(format!(
                    "container {} is not running",
                    record.id
                )));
            }
        }
        if options.args.is_empty() {
            return Err(Error::Invalid("No exec command specified".into()));
        }
        let id = names::identifier();
        let mut attributes = record.attributes();
        attributes.insert("execID".into(), id.clone());
        let action = format!("exec_create: {}", command_line(&options.args));
        self.events()
            .announce("container", action, &record.id, attributes);
        let exec = Arc::new(Exec {
            id: id.clone(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            container: Arc::clone(&container),
            options,
            state: watch::Sender::default(),
        });
        container.execs.lock().insert(id.clone(), Arc::clone(&exec));
        self.inner.execs.lock().insert(id.clone(), exec);
        Ok(id)
    }

    /// Whether a prepared program can be run now.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchExec`]; [`Error::Conflict`] when it runs already, or its
    /// container does not.
    pub fn exec_check(&self, id: &str) -> Result<()> {
        let exec = self.find_exec(id)?;
        let state = exec.state.borrow().clone();
        if state.running || state.exit_code.is_some() {
            return Err(Error::Conflict(format!(
                "Error: Exec command {id} is already running"
            )));
        }
        crate::stop::live(&exec.container, &exec.container.record(), "exec in").map(|_| ())
    }

    /// Runs a prepared program, with its streams if any are to be attached.
    /// `console_size` (rows, columns) goes before the one it was prepared with.
    ///
    /// # Errors
    ///
    /// [`Error::Exec`] when the program cannot be executed,
    /// [`Error::Conflict`] when it runs already.
    pub async fn exec_start(
        &self,
        id: &str,
        is_detached: bool,
        console_size: Option<[u16; 2]>,
    ) -> Result<Option<Attached>> {
        let exec = self.find_exec(id)?;
        let mut is_new = false;
        exec.state.send_modify(|state| {
            is_new = !state.running && state.exit_code.is_none();
            state.running |= is_new;
        });
        if !is_new {
            return Err(Error::Conflict(format!(
                "Error: Exec command {id} is already running"
            )));
        }
        let started = self.exec_run(&exec, is_detached, console_size).await;
        if let Err(error) = &started {
            let code = if let Error::Exec { code, .. } = error {
                *code
            } else {
                126
            };
            exec.state.send_modify(|state| {
                *state = ExecRecord {
                    running: false,
                    exit_code: Some(code),
                    pid: 0,
                };
            });
        }
        started
    }

    async fn exec_run(
        &self,
        exec: &Arc<Exec>,
        is_detached: bool,
        console_size: Option<[u16; 2]>,
    ) -> Result<Option<Attached>> {
        let record = exec.container.record();
        let shim = crate::stop::live(&exec.container, &record, "exec in")?;
        let options = &exec.options;
        let user = if options.user.is_empty() {
            &record.config.user
        } else {
            &options.user
        };
        let root = Path::new("/proc")
            .join(record.state.pid.to_string())
            .join("root");
        let passwd = files::read_in_root(&root, Path::new("etc/passwd"));
        let group = files::read_in_root(&root, Path::new("etc/group"));
        let mut identity = accounts::identify(user, &record.host.group_add, &passwd, &group)?;
        identity.user.umask = record.host.umask;
        let mut host = record.host.clone();
        host.privileged |= options.privileged;
        let capabilities = bundle::capabilities(&host)?;

        let mut env =
            vec!["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned()];
        env.push(format!("HOSTNAME={}", record.hostname()));
        if options.tty {
            env.push("TERM=xterm".into());
        }
        // A link's target that has ended has nothing to tell any more.
        let linked = links::environment(self, &record).unwrap_or_default();
        bundle::replace_variables(&mut env, &linked);
        bundle::replace_variables(&mut env, &record.config.env);
        bundle::replace_variables(&mut env, &options.env);
        if !env.iter().any(|variable| variable.starts_with("HOME=")) {
            env.push(format!("HOME={}", identity.home));
        }
        let cwd = [&options.working_dir, &record.config.working_dir]
            .into_iter()
            .find(|path| !path.is_empty())
            .map_or("/", String::as_str);
        let mut security = SecurityOptions::parse(&host.security_opt)?;
        if options.privileged {
            security.apparmor = Some(UNCONFINED.to_owned());
        }
        let default = self.inner.config.apparmor.as_deref();
        let process = Process {
            terminal: options.tty,
            console_size: console_size
                .or(options.console_size)
                .filter(|size| *size != [0, 0])
                .map(|[height, width]| ConsoleSize { height, width }),
            user: identity.user,
            args: options.args.clone(),
            env,
            cwd: cwd.into(),
            capabilities: Some(bundle::sets(&capabilities)),
            rlimits: bundle::rlimits(&host, self.inner.config.descriptors),
            no_new_privileges: security.no_new_privileges,
            selinux_label: record.process_label.clone(),
            apparmor_profile: security.apparmor(&host, default, Machine::here()),
            oom_score_adj: Some(record.host.oom_score_adj),
            ..Process::default()
        };
        let wanted = options.streams;
        let has_streams = wanted.stdin || wanted.stdout || wanted.stderr;
        shim.exec(ExecSpec {
            id: exec.id.clone(),
            process,
            stdin: wanted.stdin,
        })
        .await
        .map_err(told)?;
        let target = Target::Exec(exec.id.clone());
        let attached = if has_streams && !is_detached {
            Some(streams(&shim, target, wanted).await?)
        } else {
            None
        };
        match shim.exec_start(&exec.id).await {
            Ok(pid) => exec.state.send_modify(|state| state.pid = pid),
            Err(error) => {
                let _ = shim.exec_delete(&exec.id).await;
                return Err(match told(error) {
                    Error::Command { code, message } => Error::Exec { code, message },
                    other => other,
                });
            }
        }
        let mut attributes = record.attributes();
        attributes.insert("execID".into(), exec.id.clone());
        let action = format!("exec_start: {}", command_line(&options.args));
        self.events()
            .announce("container", action, &record.id, attributes);
        Ok(attached)
    }

    /// How an exec stands, with the id of its container and what it runs.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchExec`].
    pub fn exec_inspect(&self, id: &str) -> Result<(ExecRecord, String, ExecOptions)> {
        let exec = self.find_exec(id)?;
        let state = exec.state.borrow().clone();
        Ok((state, exec.container.id.clone(), exec.options.clone()))
    }

    /// Waits for the end of an exec; returns its exit code. Cancel-safe.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchExec`].
    pub async fn exec_wait(&self, id: &str) -> Result<i32> {
        let exec = self.find_exec(id)?;
        let mut changes = exec.state.subscribe();
        let ended = changes
            .wait_for(|state| state.exit_code.is_some())
            .await
            .map_err(|_| Error::NoSuchExec(id.into()))?;
        Ok(ended.exit_code.unwrap_or_default())
    }

    /// Sets the size of an exec's terminal.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchExec`], [`Error::Conflict`].
    pub async fn exec_resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        let exec = self.find_exec(id)?;
        let record = exec.container.record();
        let shim = crate::stop::live(&exec.container, &record, "resize")?;
        shim.resize(Target::Exec(exec.id.clone()), rows, columns)
            .await
            .map_err(told)
    }

    /// The ids of a container's execs.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchContainer`].
    pub fn execs(&self, name: &str) -> Result<Vec<String>> {
        Ok(self.find(name)?.execs.lock().keys().cloned().collect())
    }

    /// Records the end of an exec.
    pub(crate) fn exec_ended(&self, container: &Arc<Container>, id: &str, exit: &ExitRecord) {
        let Some(exec) = container.execs.lock().get(id).map(Arc::clone) else {
            return;
        };
        exec.state.send_modify(|state| {
            *state = ExecRecord {
                running: false,
                exit_code: Some(exit.code),
                pid: exit.pid,
            };
        });
        let record = container.record();
        let mut attributes = record.attributes();
        attributes.insert("execID".into(), id.into());
        attributes.insert("exitCode".into(), exit.code.to_string());
        self.events()
            .announce("container", "exec_die", &record.id, attributes);
        self.forget_old_execs(container);
        if let Some(shim) = container.shim() {
            let id = id.to_owned();
            tokio::spawn(async move { shim.exec_delete(&id).await });
        }
    }

    /// Ended execs can be inspected for a while, but not for ever.
    fn forget_old_execs(&self, container: &Arc<Container>) {
        const KEPT: usize = 64;
        let mut execs = container.execs.lock();
        if execs.len() <= KEPT {
            return;
        }
        let mut ended: Vec<(u64, String)> = execs
            .values()
            .filter(|exec| exec.state.borrow().exit_code.is_some())
            .map(|exec| (exec.number, exec.id.clone()))
            .collect();
        ended.sort_unstable();
        for (_, id) in ended.into_iter().take(execs.len() - KEPT) {
            execs.remove(&id);
            self.inner.execs.lock().remove(&id);
        }
    }

    fn find_exec(&self, id: &str) -> Result<Arc<Exec>> {
        self.inner
            .execs
            .lock()
            .get(id)
            .cloned()
            .ok_or_else(|| Error::NoSuchExec(id.into()))
    }
}

/// A command as events show it: after the program there is a space, whether or
/// not anything follows.
fn command_line(args: &[String]) -> String {
    match args {
        [program] => format!("{program} "),
        args => args.join(" "),
    }
}
