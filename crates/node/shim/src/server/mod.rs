//! The supervisor: one thread, one poll loop.
//!
//! ```text
//!   Empty --create--> Created --start--> Running <--pause/resume--> Paused
//!                        |                  |                          |
//!                        +------------------+--------------------------+
//!                                           v
//!                       Stopped: output drained, record on disk, then told
//!                                           |
//!                                         delete: nothing is left, the shim ends
//! ```
//!
//! What the kernel reports comes first in each round (ends of processes), then
//! streams, then requests, so that nobody is told of an end before the output
//! that preceded it is in the log.

mod connection;
mod input;
mod log;
mod record;
mod requests;
mod streams;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use dhow_cgroup::OomWatch;
use dhow_runtime::{Created, Moment, Runtime};
use dhow_sys::Errno;
use dhow_sys::process::{self, End, Process};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketFlags, SocketType};
use rustix::process::Signal;

use crate::wire::{
    Answer, EXIT, Event, ExecSpec, ExitRecord, SOCKET, SPEC, ShimSpec, Status, Target, VERSION,
};
use connection::{Connection, Role};
use log::Log;
use streams::Streams;

/// What keeps a shim from serving.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Files or sockets failed.
    #[error("{action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A system call failed.
    #[error("{action}")]
    Sys {
        /// What was tried.
        action: &'static str,
        /// What the kernel said.
        source: Errno,
    },
    /// The specification is of another version.
    #[error("specification of version {0}, this is {VERSION}")]
    Version(u32),
}

/// Writes a line to the complaints. Where there is no room for it, it is lost: that is
/// no reason for a container to lose its supervisor.
fn complain(text: std::fmt::Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

fn sys(action: &'static str) -> impl Fn(Errno) -> ServeError {
    move |source| ServeError::Sys { action, source }
}

fn io_error(action: &'static str, path: &Path, source: impl Into<io::Error>) -> ServeError {
    ServeError::Io {
        action,
        path: path.to_owned(),
        source: source.into(),
    }
}

/// Bytes that are read at once. On the stack, which is a good part of what an
/// idle supervisor holds.
const BLOCK: usize = 8 << 10;
/// Most connections at once; further ones wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// Ended execs that are remembered; the oldest go first.
const MAX_ENDED_EXECS: usize = 256;
/// Execs there may be at once, ended ones not counted.
const MAX_EXECS: usize = 1024;

/// Supervises the container of a shim's directory until it is deleted.
///
/// Standard input, if it is a socket, is the first connection: whoever started
/// the shim holds the other end.
///
/// # Errors
///
/// [`ServeError`] if it cannot begin; once it serves, requests carry the errors.
pub fn serve(dir: &Path) -> Result<(), ServeError> {
    let path = dir.join(SPEC);
    let text = std::fs::read(&path).map_err(|error| io_error("read", &path, error))?;
    let spec: ShimSpec =
        serde_json::from_slice(&text).map_err(|error| io_error("parse", &path, error))?;
    if spec.version != VERSION {
        return Err(ServeError::Version(spec.version));
    }
    // Its name would be that of the descriptor it was started from.
    let _ = rustix::thread::set_name(c"dhow-shim");
    rustix::process::chdir("/").map_err(sys("change to /"))?;
    // Already one if it was started as such.
    let _ = rustix::process::setsid();
    process::become_subreaper().map_err(sys("become the reaper of orphans"))?;
    let signals =
        process::signal_descriptor(&[Signal::CHILD, Signal::TERM, Signal::INT, Signal::HUP])
            .map_err(sys("take signals"))?;
    let listener = listen(dir)?;
    let log = Log::open(&spec.log).map_err(|(path, error)| io_error("open log", &path, error))?;
    let mut server = Server {
        runtime: Runtime::new(&spec.runtime_root),
        dir: dir.to_owned(),
        spec,
        listener,
        signals,
        connections: BTreeMap::new(),
        next_connection: 0,
        waits: Vec::new(),
        log,
        first: Supervised::default(),
        created: None,
        own_pids: false,
        paused: false,
        execs: BTreeMap::new(),
        ended_execs: Vec::new(),
        has_surplus: Cell::new(false),
        oom: None,
        n_oom_kills: 0,
        finished: false,
    };
    if let Some(stream) = inherited_connection() {
        server.admit(stream);
    }
    server.run()
}

/// Standard input as a connection, if it is one; `/dev/null` takes its place.
fn inherited_connection() -> Option<OwnedFd> {
    let stdin = rustix::stdio::stdin();
    rustix::net::sockopt::socket_type(stdin).ok()?;
    let stream = stdin.try_clone_to_owned().ok()?;
    let null =
        rustix::fs::open(c"/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()).ok()?;
    rustix::stdio::dup2_stdin(&null).ok()?;
    Some(stream)
}

/// The listening socket in the shim's directory. Its path goes through a
/// descriptor, since an address has room for 107 bytes only.
fn listen(dir: &Path) -> Result<OwnedFd, ServeError> {
    let path = dir.join(SOCKET);
    let failed = |error: Errno| io_error("listen on", &path, error);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::open(dir, flags, Mode::empty()).map_err(failed)?;
    match rustix::fs::unlink(&path) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(error) => return Err(failed(error)),
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
        .map_err(failed)?;
    let short = dhow_sys::resolve::descriptor_path(directory.as_fd()).join(SOCKET);
    let address = rustix::net::SocketAddrUnix::new(&short).map_err(failed)?;
    rustix::net::bind(&listener, &address).map_err(failed)?;
    rustix::fs::chmod(&path, Mode::from(0o600)).map_err(failed)?;
    rustix::net::listen(&listener, 64).map_err(failed)?;
    Ok(listener)
}

/// A process under supervision.
#[derive(Debug, Default)]
struct Supervised {
    streams: Streams,
    process: Option<Process>,
    started_at: Option<Moment>,
    exit: Option<ExitRecord>,
}

/// A prepared, running or ended exec.
#[derive(Debug)]
struct Exec {
    spec: ExecSpec,
    supervised: Supervised,
}

type Token = u64;

struct Server {
    runtime: Runtime,
    dir: PathBuf,
    spec: ShimSpec,
    listener: OwnedFd,
    signals: OwnedFd,
    connections: BTreeMap<Token, Connection>,
    next_connection: Token,
    /// Who waits for whose end: connection, number of the request, target.
    waits: Vec<(Token, u64, Target)>,
    log: Log,
    first: Supervised,
    /// The container; its `process` field is the first process.
    created: Option<Created>,
    /// Whether the container has a PID namespace of its own.
    own_pids: bool,
    paused: bool,
    execs: BTreeMap<String, Exec>,
    /// In the order of their ends.
    ended_execs: Vec<String>,
    oom: Option<OomWatch>,
    n_oom_kills: u64,
    /// A start took memory that is free now.
    has_surplus: Cell<bool>,
    /// Deleted: the loop ends once the answer is out.
    finished: bool,
}

/// What a descriptor in the poll set belongs to.
#[derive(Debug, Clone)]
enum Source {
    Signals,
    Listener,
    Oom,
    Connection(Token),
    Output(Target, usize),
    Input(Target),
}

impl Server {
    fn run(&mut self) -> Result<(), ServeError> {
        while !self.finished {
            let ready = self.wait()?;
            for (source, events) in ready {
                match source {
                    Source::Signals => self.take_signals()?,
                    Source::Listener => self.accept(),
                    Source::Oom => self.note_oom(),
                    Source::Connection(token) => self.serve_connection(token, events),
                    Source::Output(target, index) => self.pump_output(&target, index),
                    Source::Input(target) => self.pump_input(&target),
                }
            }
        }
        self.flush_before_end();
        Ok(())
    }

    /// Waits until something can be done; signals come first in what is ready.
    fn wait(&self) -> Result<Vec<(Source, PollFlags)>, ServeError> {
        let mut set = PollSet::default();
        set.add(Source::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(oom) = &self.oom {
            set.add(Source::Oom, oom.as_fd(), PollFlags::IN);
        }
        self.add_streams(&mut set, Target::Container, &self.first.streams);
        for (id, exec) in &self.execs {
            self.add_streams(&mut set, Target::Exec(id.clone()), &exec.supervised.streams);
        }
        for (token, connection) in &self.connections {
            let room = match &connection.role {
                Role::Requests { .. } => true,
                Role::Streams { attach, .. } => self.has_room_for_input(&attach.target),
            };
            let events = connection.wants(room);
            if !events.is_empty() {
                set.add(
                    Source::Connection(*token),
                    connection.socket.as_fd(),
                    events,
                );
            }
        }
        if self.connections.len() < MAX_CONNECTIONS {
            set.add(Source::Listener, self.listener.as_fd(), PollFlags::IN);
        }
        if self.has_surplus.take() {
            let nothing = Timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            // Not while somebody waits.
            match poll(&mut set.files, Some(&nothing)) {
                Ok(0) => dhow_sys::memory::give_back(),
                _ => self.has_surplus.set(true),
            }
        }
        loop {
            match poll(&mut set.files, None) {
                Ok(_) => break,
                Err(Errno::INTR) => {}
                Err(error) => return Err(sys("poll")(error)),
            }
        }
        let ready = set
            .sources
            .into_iter()
            .zip(&set.files)
            .filter_map(|(source, file)| {
                let events = file.revents();
                (!events.is_empty()).then_some((source, events))
            });
        Ok(ready.collect())
    }

    fn add_streams<'a>(&self, set: &mut PollSet<'a>, target: Target, streams: &'a Streams) {
        // A client that does not read holds the output up, as it does in a shell's pipe.
        let held_up = self
            .connections
            .values()
            .any(|connection| connection.holds_up(&target));
        if !held_up {
            for (index, file) in streams.readable() {
                set.add(Source::Output(target.clone(), index), file, PollFlags::IN);
            }
        }
        if let Some(file) = streams.writable() {
            set.add(Source::Input(target), file, PollFlags::OUT);
        }
    }

    fn has_room_for_input(&self, target: &Target) -> bool {
        self.supervised(target)
            .is_none_or(|supervised| supervised.streams.has_room())
    }

    fn supervised(&self, target: &Target) -> Option<&Supervised> {
        match target {
            Target::Container => Some(&self.first),
            Target::Exec(id) => self.execs.get(id).map(|exec| &exec.supervised),
        }
    }

    fn supervised_mut(&mut self, target: &Target) -> Option<&mut Supervised> {
        match target {
            Target::Container => Some(&mut self.first),
            Target::Exec(id) => self.execs.get_mut(id).map(|exec| &mut exec.supervised),
        }
    }

    // Connections.

    fn accept(&mut self) {
        // A client that has gone already is no loss.
        if let Ok(socket) = rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
            self.admit(socket);
        }
    }

    fn admit(&mut self, socket: OwnedFd) {
        if set_nonblocking(socket.as_fd()).is_ok() {
            let token = self.next_connection;
            self.next_connection += 1;
            self.connections.insert(token, Connection::new(socket));
        }
    }

    fn drop_connection(&mut self, token: Token) {
        self.connections.remove(&token);
        self.waits.retain(|(waiter, ..)| *waiter != token);
    }

    /// Drops a client that takes no more: what it has sent before is input all the
    /// same, no more than its socket holds.
    fn lose_connection(&mut self, token: Token) {
        loop {
            let Some(connection) = self.connections.get(&token) else {
                return;
            };
            if !matches!(connection.role, Role::Streams { sends: true, .. }) {
                break;
            }
            let mut buffer = [0; BLOCK];
            match rustix::io::read(&connection.socket, &mut buffer) {
                Err(Errno::INTR) => {}
                Ok(0) | Err(_) => break,
                Ok(length) => self.input(token, &buffer[..length]),
            }
        }
        self.drop_connection(token);
    }

    fn serve_connection(&mut self, token: Token, events: PollFlags) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        if events.contains(PollFlags::OUT) && connection.flush().is_err() {
            return self.lose_connection(token);
        }
        if connection.is_over() {
            return self.drop_connection(token);
        }
        if events.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            match &connection.role {
                Role::Requests { .. } => self.take_requests(token),
                Role::Streams { .. } => self.take_input(token),
            }
        }
    }

    /// What a client of a process's streams sends is standard input.
    fn take_input(&mut self, token: Token) {
        let Some(connection) = self.connections.get_mut(&token) else {
            return;
        };
        let Role::Streams { sends, .. } = &mut connection.role else {
            return;
        };
        let mut buffer = [0; BLOCK];
        match rustix::io::read(&connection.socket, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_) => self.drop_connection(token),
            // It may be a daemon that was killed: an end of the input is said.
            Ok(0) => *sends = false,
            Ok(length) => self.input(token, &buffer[..length]),
        }
    }

    /// Gives a process what one of its clients has sent.
    fn input(&mut self, token: Token, bytes: &[u8]) {
        let Some(Role::Streams {
            attach,
            sends,
            pieces,
        }) = self.connections.get_mut(&token).map(|one| &mut one.role)
        else {
            return;
        };
        let target = attach.target.clone();
        let supervised = match &target {
            _ if !attach.stdin => None,
            Target::Container => Some(&mut self.first),
            Target::Exec(id) => self.execs.get_mut(id).map(|exec| &mut exec.supervised),
        };
        let Some(supervised) = supervised else { return };
        pieces.take(bytes, |piece| supervised.streams.input(piece));
        if pieces.has_ended() {
            *sends = false;
            self.end_input(&target);
        }
    }

    /// A client has said that there is no more input.
    fn end_input(&mut self, target: &Target) {
        let once = match target {
            Target::Container => self.spec.stdin == crate::wire::Stdin::Once,
            Target::Exec(_) => true,
        };
        if once && let Some(supervised) = self.supervised_mut(target) {
            supervised.streams.end_input();
        }
    }

    fn tell(&mut self, event: &Event) {
        let tokens: Vec<Token> = self.connections.keys().copied().collect();
        for token in tokens {
            let Some(connection) = self.connections.get_mut(&token) else {
                continue;
            };
            if connection.hears_events() && connection.send_event(event).is_err() {
                self.drop_connection(token);
            }
        }
    }

    fn answer(&mut self, token: Token, id: u64, answer: &Answer) {
        if let Some(connection) = self.connections.get_mut(&token)
            && connection.send_answer(id, answer).is_err()
        {
            self.drop_connection(token);
        }
    }

    /// The last answers go out; whoever does not take them within a moment has lost them.
    fn flush_before_end(&mut self) {
        for connection in self.connections.values_mut() {
            connection.flush_and_close();
        }
    }

    // Streams.

    fn pump_output(&mut self, target: &Target, index: usize) {
        let Some(supervised) = self.supervised_mut(target) else {
            return;
        };
        let mut buffer = [0; BLOCK];
        if let Some(length) = supervised.streams.read(index, &mut buffer) {
            self.deliver(target, index, &buffer[..length]);
        }
    }

    /// Takes what a process that has ended left in its pipes, and no more: others
    /// may hold them open and write on and on.
    fn drain_output(&mut self, target: &Target) {
        let mut buffer = [0; BLOCK];
        for index in 0..2 {
            let mut left = self
                .supervised(target)
                .map_or(0, |one| one.streams.left(index));
            while left > 0 {
                let Some(supervised) = self.supervised_mut(target) else {
                    return;
                };
                let length = left.min(BLOCK);
                let Some(length) = supervised.streams.read(index, &mut buffer[..length]) else {
                    break;
                };
                left -= length;
                self.deliver(target, index, &buffer[..length]);
            }
        }
    }

    fn deliver(&mut self, target: &Target, index: usize, bytes: &[u8]) {
        if *target == Target::Container {
            self.log.write(index, bytes);
        }
        let terminal = self
            .supervised(target)
            .is_some_and(|one| one.streams.is_terminal());
        let mut broken = Vec::new();
        for (token, connection) in &mut self.connections {
            if connection.output(target, index, terminal, bytes).is_err() {
                broken.push(*token);
            }
        }
        broken
            .into_iter()
            .for_each(|token| self.lose_connection(token));
    }

    fn pump_input(&mut self, target: &Target) {
        if let Some(supervised) = self.supervised_mut(target) {
            supervised.streams.flush_input();
        }
    }

    // Ends.

    fn take_signals(&mut self) -> Result<(), ServeError> {
        // Only the end of children is acted on: the shim ends when it is told to
        // delete, so that a container never loses its supervisor by a signal.
        while process::next_signal(self.signals.as_fd())
            .map_err(sys("read signals"))?
            .is_some()
        {}
        self.reap();
        Ok(())
    }

    /// Collects every child that has ended. The kernel tells of the end of a PID
    /// namespace's first process only after everybody else in it was collected,
    /// so the container's end comes last by itself.
    fn reap(&mut self) {
        while let Ok(Some((pid, end))) = process::reap_any() {
            if self.first_pid() == Some(pid) {
                self.end_first(end);
                continue;
            }
            let is_it = |exec: &&Exec| {
                exec.supervised
                    .process
                    .as_ref()
                    .is_some_and(|process| process.pid == pid)
            };
            let id = self
                .execs
                .values()
                .find(is_it)
                .map(|exec| exec.spec.id.clone());
            if let Some(id) = id {
                self.end_exec(&id, end);
            }
        }
    }

    fn first_pid(&self) -> Option<i32> {
        let alive = self.first.exit.is_none();
        self.created
            .as_ref()
            .filter(|_| alive)
            .map(|created| created.process.pid)
    }

    fn end_first(&mut self, end: End) {
        let Some(created) = &self.created else { return };
        let pid = created.process.pid;
        if !self.own_pids
            && let Ok(Some(group)) = created.container.group()
            && let Err(error) = group.kill()
        {
            complain(format_args!(
                "kill what is left of the container: {}",
                dhow_runtime::chain(&error)
            ));
        }
        self.note_oom();
        self.oom = None;
        self.paused = false;
        self.drain_output(&Target::Container);
        self.log.finish();
        self.first.streams.close();
        let exit = self.exit_record(pid, end, self.first.started_at);
        if let Err(error) = record::write(&self.dir.join(EXIT), &exit) {
            // It is still told to whoever asks; only a crash of this shim would lose it.
            complain(format_args!(
                "write {}: {error}",
                self.dir.join(EXIT).display()
            ));
        }
        self.first.exit = Some(exit.clone());
        self.end_streams(&Target::Container);
        self.tell(&Event::Exited { exit: exit.clone() });
        self.answer_waits(&Target::Container, &exit);
    }

    fn end_exec(&mut self, id: &str, end: End) {
        let target = Target::Exec(id.to_owned());
        self.drain_output(&target);
        let Some(exec) = self.execs.get_mut(id) else {
            return;
        };
        exec.supervised.streams.close();
        let process = exec.supervised.process.take();
        let (pid, started_at) = (
            process.map_or(0, |process| process.pid),
            exec.supervised.started_at,
        );
        let exit = self.exit_record(pid, end, started_at);
        self.finish_exec(id, exit);
    }

    fn finish_exec(&mut self, id: &str, exit: ExitRecord) {
        self.has_surplus.set(true);
        let target = Target::Exec(id.to_owned());
        if let Some(exec) = self.execs.get_mut(id) {
            exec.supervised.exit = Some(exit.clone());
        }
        self.ended_execs.push(id.to_owned());
        if self.ended_execs.len() > MAX_ENDED_EXECS {
            let oldest = self.ended_execs.remove(0);
            self.execs.remove(&oldest);
        }
        self.end_streams(&target);
        self.tell(&Event::ExecExited {
            exec: id.to_owned(),
            exit: exit.clone(),
        });
        self.answer_waits(&target, &exit);
    }

    fn exit_record(&self, pid: i32, end: End, started_at: Option<Moment>) -> ExitRecord {
        ExitRecord {
            version: VERSION,
            pid,
            code: end.shell_code(),
            signal: match end {
                End::Code(_) => None,
                End::Signal(signal) => Some(signal),
            },
            oom: self.n_oom_kills > 0,
            started_at,
            finished_at: Moment::now(),
        }
    }

    /// Clients of the target's streams get what is left, then the end.
    fn end_streams(&mut self, target: &Target) {
        let mut over = Vec::new();
        for (token, connection) in &mut self.connections {
            if connection.end_of(target) {
                over.push(*token);
            }
        }
        over.into_iter()
            .for_each(|token| self.drop_connection(token));
    }

    fn answer_waits(&mut self, target: &Target, exit: &ExitRecord) {
        let (due, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.waits)
            .into_iter()
            .partition(|(.., whom)| whom == target);
        self.waits = rest;
        for (token, id, _) in due {
            self.answer(token, id, &Answer::Exit(exit.clone()));
        }
    }

    fn note_oom(&mut self) {
        let Some(oom) = &mut self.oom else { return };
        // A counter that cannot be read has not been seen to rise.
        let n_kills = oom.n_kills().unwrap_or(self.n_oom_kills);
        if n_kills > self.n_oom_kills {
            self.n_oom_kills = n_kills;
            self.tell(&Event::Oom);
        }
    }

    fn status(&self) -> Status {
        match &self.created {
            _ if self.first.exit.is_some() => Status::Stopped,
            None => Status::Empty,
            Some(_) if self.paused => Status::Paused,
            Some(_) if self.first.started_at.is_some() => Status::Running,
            Some(_) => Status::Created,
        }
    }
}

/// What is waited for, and whom it belongs to.
#[derive(Default)]
struct PollSet<'a> {
    sources: Vec<Source>,
    files: Vec<PollFd<'a>>,
}

impl<'a> PollSet<'a> {
    fn add(&mut self, source: Source, file: BorrowedFd<'a>, events: PollFlags) {
        self.sources.push(source);
        self.files.push(PollFd::from_borrowed_fd(file, events));
    }
}

fn set_nonblocking(file: BorrowedFd<'_>) -> Result<(), Errno> {
    let flags = rustix::fs::fcntl_getfl(file)?;
    rustix::fs::fcntl_setfl(file, flags | OFlags::NONBLOCK)
}
