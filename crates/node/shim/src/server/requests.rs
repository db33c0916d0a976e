//! What clients ask, done one after the other.

use std::os::fd::AsFd;

use dhow_runtime::{Alive, Bundle, Create, Gate, Keyring, Moment, Paused, Pivot, RuntimeError};

use super::connection::Role;
use super::streams::{Streams, Theirs};
use super::{Exec, MAX_EXECS, Server, Supervised, Token, complain};
use crate::wire::{
    Answer, Attach, Event, ExecSpec, ExecState, ExitRecord, Failure, FailureKind, Reach, Request,
    Running, State, Status, Stdin, Target, VERSION,
};

type Outcome = Result<Answer, Failure>;

fn failure(kind: FailureKind, message: impl Into<String>) -> Failure {
    Failure {
        kind,
        message: message.into(),
    }
}

/// The runtime's error in the protocol's words.
fn refused(error: RuntimeError) -> Failure {
    let kind = match &error {
        error if error.is_command_not_found() => FailureKind::CommandNotFound,
        error if error.is_command_not_executable() => FailureKind::CommandNotExecutable,
        RuntimeError::Exists => FailureKind::Exists,
        RuntimeError::NotFound | RuntimeError::NotRunning | RuntimeError::State { .. } => {
            FailureKind::State
        }
        RuntimeError::Spec { .. } | RuntimeError::Parse { .. } | RuntimeError::Id(_) => {
            FailureKind::Invalid
        }
        _ => FailureKind::Runtime,
    };
    failure(kind, dhow_runtime::chain(&error))
}

fn unix(action: &'static str) -> impl Fn(dhow_sys::Errno) -> Failure {
    move |error| failure(FailureKind::Runtime, format!("{action}: {error}"))
}

impl Server {
    pub(super) fn take_requests(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let more = connection.read();
        loop {
            let Some(connection) = self.connections.get_mut(&token) else {
                return;
            };
            if !matches!(connection.role, Role::Requests { .. }) {
                return;
            }
            match connection.next_request() {
                Ok(Some(envelope)) => self.handle(token, envelope.id, envelope.request),
                Ok(None) => break,
                // What is no frame cannot be answered: nobody knows its number.
                Err(_) => return self.drop_connection(token),
            }
        }
        if !matches!(more, Ok(true)) {
            self.drop_connection(token);
        }
    }

    fn handle(&mut self, token: Token, id: u64, request: Request) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if let Role::Requests { greeted, events } = &mut connection.role {
            if let Request::Hello { events: wanted, .. } = request {
                (*greeted, *events) = (true, wanted);
            } else if !*greeted {
                return self.drop_connection(token);
            }
        }
        let outcome = match request {
            Request::Hello { .. } => {
                let pid = rustix::process::getpid().as_raw_nonzero().get();
                Ok(Answer::Hello {
                    version: VERSION,
                    pid,
                })
            }
            Request::Create => self.create(),
            Request::Start => self.start(),
            Request::State => Ok(Answer::State(Box::new(self.state()))),
            Request::Signal {
                target,
                signal,
                reach,
            } => self.signal(&target, signal, reach),
            Request::Resize {
                target,
                rows,
                columns,
            } => self.resize(&target, rows, columns),
            Request::Exec(spec) => self.exec(*spec),
            Request::ExecStart { exec } => self.exec_start(&exec),
            Request::ExecDelete { exec } => self.exec_delete(&exec),
            Request::Attach(attach) => return self.attach(token, id, attach),
            Request::Wait { target } => match self.known(&target) {
                Ok(supervised) => match supervised.exit.clone() {
                    Some(exit) => Ok(Answer::Exit(exit)),
                    None => {
                        self.waits.push((token, id, target));
                        return;
                    }
                },
                Err(failure) => Err(failure),
            },
            Request::Stats => self
                .container()
                .and_then(|container| container.stats().map_err(refused))
                .map(|stats| Answer::Stats(Box::new(stats))),
            Request::Processes => self
                .container()
                .and_then(|container| container.processes().map_err(refused))
                .map(|pids| Answer::Processes { pids }),
            Request::Pause => self.pause(),
            Request::Resume => self.resume(),
            Request::Update { resources } => self
                .container()
                .and_then(|container| container.update(&resources).map_err(refused))
                .map(|()| Answer::Done),
            Request::Delete { running } => self.delete(running),
        };
        match outcome {
            Ok(answer) => self.answer(token, id, &answer),
            Err(error) => {
                if let Some(connection) = self.connections.get_mut(&token)
                    && connection.send_failure(id, error).is_err()
                {
                    self.drop_connection(token);
                }
            }
        }
    }

    /// The target, if there is one.
    fn known(&mut self, target: &Target) -> Result<&mut Supervised, Failure> {
        let missing = || match target {
            Target::Container => failure(FailureKind::State, "there is no container"),
            Target::Exec(id) => failure(FailureKind::NotFound, format!("no exec {id:?}")),
        };
        self.supervised_mut(target).ok_or_else(missing)
    }

    fn container(&self) -> Result<&dhow_runtime::Container, Failure> {
        match (&self.created, &self.first.exit) {
            (Some(created), None) => Ok(&created.container),
            (Some(_), Some(_)) => Err(failure(FailureKind::State, "the container has ended")),
            (None, _) => Err(failure(
                FailureKind::State,
                "the container was not created yet",
            )),
        }
    }

    fn create(&mut self) -> Outcome {
        if self.created.is_some() {
            return Err(failure(
                FailureKind::State,
                "the container was created already",
            ));
        }
        let bundle = Bundle::open(&self.spec.bundle).map_err(refused)?;
        let spec = bundle.spec();
        let terminal = spec
            .process
            .as_ref()
            .is_some_and(|process| process.terminal);
        self.own_pids = spec.linux.as_ref().is_some_and(|linux| {
            linux.namespaces.iter().any(|namespace| {
                namespace.kind == dhow_runtime::spec::NamespaceKind::Pid && namespace.path.is_none()
            })
        });
        let with_input = self.spec.stdin != Stdin::Closed;
        let (mut ours, Theirs { streams, master }) =
            Streams::make(terminal, with_input).map_err(unix("make the standard streams"))?;
        let created = self.runtime.create(Create {
            id: &self.spec.id,
            bundle: &bundle,
            root: &self.spec.root,
            streams,
            n_preserved: 0,
            pivot: Pivot::Change,
            gate: Gate::Maker,
            keyring: Keyring::New,
            groups: self.spec.groups,
        });
        let created = created.map_err(refused)?;
        created
            .warnings
            .iter()
            .for_each(|warning| complain(format_args!("warning: {warning}")));
        if let Some(socket) = master
            && let Err(error) = ours.receive_master(&socket)
        {
            // The first error is the one to tell.
            let _ = created.container.delete(Alive::Kill);
            return Err(unix("receive the terminal")(error));
        }
        let pid = created.process.pid;
        // Without a memory controller nobody is killed for want of memory.
        self.oom = created
            .container
            .group()
            .ok()
            .flatten()
            .and_then(|group| group.watch_oom().ok());
        self.first = Supervised {
            streams: ours,
            ..Supervised::default()
        };
        self.created = Some(created);
        Ok(Answer::Pid { pid })
    }

    fn start(&mut self) -> Outcome {
        if self.status() != Status::Created {
            return Err(failure(
                FailureKind::State,
                format!("the container is {:?}", self.status()),
            ));
        }
        let Some(created) = &mut self.created else {
            return Err(failure(
                FailureKind::State,
                "the container was not created yet",
            ));
        };
        let started_at = Moment::now();
        created.start().map_err(refused)?;
        let pid = created.process.pid;
        self.first.started_at = Some(started_at);
        self.has_surplus.set(true);
        self.tell(&Event::Started { pid });
        Ok(Answer::Done)
    }

    fn state(&self) -> State {
        State {
            status: self.status(),
            pid: self.first_pid(),
            started_at: self.first.started_at,
            exit: self.first.exit.clone(),
            execs: self
                .execs
                .iter()
                .map(|(id, exec)| ExecState {
                    id: id.clone(),
                    pid: exec.supervised.process.as_ref().map(|process| process.pid),
                    exit: exec.supervised.exit.clone(),
                })
                .collect(),
        }
    }

    fn signal(&mut self, target: &Target, signal: i32, reach: Reach) -> Outcome {
        match target {
            Target::Container => {
                let reach = match reach {
                    Reach::Process => dhow_runtime::Reach::First,
                    Reach::Everyone => dhow_runtime::Reach::Everyone,
                };
                self.container()?.kill(signal, reach).map_err(refused)?;
                if signal == libc::SIGKILL {
                    self.paused = false;
                }
            }
            Target::Exec(id) => {
                let exec = self.execs.get(id);
                let process = exec.and_then(|exec| exec.supervised.process.as_ref());
                let stopped = || failure(FailureKind::State, format!("exec {id:?} does not run"));
                process
                    .ok_or_else(stopped)?
                    .signal(signal)
                    .map_err(unix("send the signal"))?;
            }
        }
        Ok(Answer::Done)
    }

    fn resize(&mut self, target: &Target, rows: u16, columns: u16) -> Outcome {
        if let Target::Exec(id) = target
            && let Some(exec) = self.execs.get_mut(id)
            && exec.supervised.process.is_none()
            && exec.spec.process.terminal
        {
            // It will be born with that size.
            let size = dhow_runtime::spec::ConsoleSize {
                height: rows,
                width: columns,
            };
            exec.spec.process.console_size = Some(size);
            return Ok(Answer::Done);
        }
        let supervised = self.known(target)?;
        let missing = || {
            failure(
                FailureKind::State,
                "the process has no terminal, or has ended",
            )
        };
        let master = supervised.streams.master().ok_or_else(missing)?;
        dhow_sys::pty::resize(master.as_fd(), rows, columns)
            .map_err(unix("resize the terminal"))?;
        Ok(Answer::Done)
    }

    fn exec(&mut self, spec: ExecSpec) -> Outcome {
        self.container()?;
        if self.execs.contains_key(&spec.id) {
            return Err(failure(
                FailureKind::Exists,
                format!("there is an exec {:?} already", spec.id),
            ));
        }
        if self.execs.len() - self.ended_execs.len() >= MAX_EXECS {
            return Err(failure(
                FailureKind::State,
                format!("{MAX_EXECS} execs are under way; wait for some to end"),
            ));
        }
        self.execs.insert(
            spec.id.clone(),
            Exec {
                spec,
                supervised: Supervised::default(),
            },
        );
        Ok(Answer::Done)
    }

    fn exec_start(&mut self, id: &str) -> Outcome {
        let container = self.container()?.clone();
        let Some(exec) = self.execs.get_mut(id) else {
            return Err(failure(FailureKind::NotFound, format!("no exec {id:?}")));
        };
        if exec.supervised.process.is_some() || exec.supervised.exit.is_some() {
            return Err(failure(
                FailureKind::State,
                format!("exec {id:?} was started already"),
            ));
        }
        let outcome = Self::launch(&container, exec);
        match outcome {
            Ok(pid) => {
                self.tell(&Event::ExecStarted {
                    exec: id.to_owned(),
                    pid,
                });
                Ok(Answer::Pid { pid })
            }
            Err(error) => {
                let code = match error.kind {
                    FailureKind::CommandNotFound => 127,
                    _ => 126,
                };
                let exit = ExitRecord {
                    version: VERSION,
                    pid: 0,
                    code,
                    signal: None,
                    oom: false,
                    started_at: None,
                    finished_at: Moment::now(),
                };
                self.finish_exec(id, exit);
                Err(error)
            }
        }
    }

    fn launch(container: &dhow_runtime::Container, exec: &mut Exec) -> Result<i32, Failure> {
        let (mut ours, Theirs { streams, master }) =
            Streams::make(exec.spec.process.terminal, exec.spec.stdin)
                .map_err(unix("make the standard streams"))?;
        let started_at = Moment::now();
        let request = dhow_runtime::Exec {
            process: &exec.spec.process,
            streams,
            n_preserved: 0,
            cgroup: None,
            paused: Paused::Refuse,
        };
        let executed = container.exec(request).map_err(refused)?;
        executed
            .warnings
            .iter()
            .for_each(|warning| complain(format_args!("warning: {warning}")));
        if let Some(socket) = master
            && let Err(error) = ours.receive_master(&socket)
        {
            // The first error is the one to tell; its end is collected with the others.
            let _ = executed.process.signal(libc::SIGKILL);
            return Err(unix("receive the terminal")(error));
        }
        // What clients sent ahead of the start.
        let early = std::mem::take(&mut exec.supervised.streams);
        ours.take_over(early);
        let pid = executed.process.pid;
        exec.supervised = Supervised {
            streams: ours,
            process: Some(executed.process),
            started_at: Some(started_at),
            exit: None,
        };
        Ok(pid)
    }

    fn exec_delete(&mut self, id: &str) -> Outcome {
        match self.execs.get(id) {
            None => Err(failure(FailureKind::NotFound, format!("no exec {id:?}"))),
            Some(exec) if exec.supervised.process.is_some() => {
                Err(failure(FailureKind::State, format!("exec {id:?} runs")))
            }
            Some(_) => {
                self.execs.remove(id);
                self.ended_execs.retain(|ended| ended != id);
                self.end_streams(&Target::Exec(id.to_owned()));
                Ok(Answer::Done)
            }
        }
    }

    fn attach(&mut self, token: Token, id: u64, attach: Attach) {
        let target = attach.target.clone();
        let outcome = match (&target, self.supervised(&target)) {
            (Target::Exec(exec), None) => {
                Err(failure(FailureKind::NotFound, format!("no exec {exec:?}")))
            }
            (Target::Container, _) if self.created.is_none() => Err(failure(
                FailureKind::State,
                "the container was not created yet",
            )),
            (_, Some(supervised)) if supervised.exit.is_some() => {
                Err(failure(FailureKind::State, "the process has ended"))
            }
            (Target::Exec(exec), _) => Ok(self
                .execs
                .get(exec)
                .is_some_and(|exec| exec.spec.process.terminal)),
            (Target::Container, _) => Ok(self.first.streams.is_terminal()),
        };
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let sent = match outcome {
            Ok(terminal) => connection.send_answer(
                id,
                &Answer::Attached {
                    terminal,
                    at: Some(Moment::now()),
                },
            ),
            Err(error) => {
                if connection.send_failure(id, error).is_err() {
                    self.drop_connection(token);
                }
                return;
            }
        };
        let early = connection.become_streams(attach);
        if sent.is_err() {
            return self.drop_connection(token);
        }
        self.input(token, &early);
    }

    fn pause(&mut self) -> Outcome {
        self.container()?.pause().map_err(refused)?;
        self.paused = true;
        self.tell(&Event::Paused);
        Ok(Answer::Done)
    }

    fn resume(&mut self) -> Outcome {
        self.container()?.resume().map_err(refused)?;
        self.paused = false;
        self.tell(&Event::Resumed);
        Ok(Answer::Done)
    }

    fn delete(&mut self, running: Running) -> Outcome {
        if let Some(created) = &self.created {
            let live = matches!(self.status(), Status::Running | Status::Paused);
            if live && running == Running::Refuse {
                return Err(failure(
                    FailureKind::State,
                    "the container runs; stop or kill it first",
                ));
            }
            if self.first.exit.is_none() {
                let container = created.container.clone();
                match container.kill(libc::SIGKILL, dhow_runtime::Reach::First) {
                    Ok(()) | Err(RuntimeError::NotRunning) => {}
                    Err(error) => return Err(refused(error)),
                }
                self.paused = false;
                self.await_end()?;
            }
            if let Some(created) = &self.created {
                let warnings = created.container.delete(Alive::Kill).map_err(refused)?;
                warnings
                    .iter()
                    .for_each(|warning| complain(format_args!("warning: {warning}")));
            }
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            let message = format!("remove {}: {error}", self.dir.display());
            return Err(failure(FailureKind::Runtime, message));
        }
        self.finished = true;
        Ok(self.first.exit.clone().map_or(Answer::Done, Answer::Exit))
    }

    /// Waits for the end of a container that was killed, serving nobody meanwhile.
    fn await_end(&mut self) -> Result<(), Failure> {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let patience = Timespec {
            tv_sec: 10,
            tv_nsec: 0,
        };
        while self.first.exit.is_none() {
            let mut wait = [PollFd::new(&self.signals, PollFlags::IN)];
            if poll(&mut wait, Some(&patience)) == Ok(0) {
                return Err(failure(FailureKind::Runtime, "the container does not end"));
            }
            self.take_signals()
                .map_err(|error| failure(FailureKind::Runtime, dhow_runtime::chain(&error)))?;
        }
        Ok(())
    }
}
