//! The child's side: carries the steps out.
//!
//! Everything here runs after clone in a process that may be a copy of one of
//! several threads: no allocation, no lock, no panic.

use std::convert::Infallible;
use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::net::{RecvFlags, SendFlags};

use super::scheduling;
use super::{GO, Listener, N_MESSAGES, TAG_FAILED, TAG_REACHED, TAG_WARNING};
use super::{Identity, Keep, MountSource, MountStep, Plan, ProcAllowed, Program, Script, Step};
use crate::mount::{self, Attributes, Depth, Parameter, Propagation};
use crate::resolve::{self, Kind, Links};
use crate::seccomp::Filter;
use crate::{Errno, Result, capability, check, namespace, process, pty, seccomp};

/// What the steps leave for later steps.
struct Context<'a> {
    plan: &'a Plan,
    channel: BorrowedFd<'a>,
    /// Room for the maker's messages.
    message: &'a mut [u8],
    /// Where the messages that said something end, in their order.
    ends: [usize; N_MESSAGES],
    n_messages: usize,
    /// The root a joining child took.
    root: Option<OwnedFd>,
    /// An empty read-only filesystem that is in place already.
    mask: Option<OwnedFd>,
    /// What was mounted at each of [`COVERED`].
    covered: [Option<OwnedFd>; COVERED.len()],
    program: Option<(&'a Program, &'a CStr)>,
}

/// Where paths lie that are masked or made read-only.
const COVERED: [&CStr; 2] = [c"/proc", c"/sys"];

/// Carries out the plan and never returns.
pub(super) fn run(plan: &Plan, channel: BorrowedFd<'_>, message: &mut [u8]) -> Infallible {
    let mut context = Context {
        plan,
        channel,
        message,
        ends: [0; N_MESSAGES],
        n_messages: 0,
        root: None,
        mask: None,
        covered: [const { None }; COVERED.len()],
        program: None,
    };
    for (index, step) in plan.steps.iter().enumerate() {
        if let Err(error) = context.carry_out(index, step) {
            context.report(TAG_FAILED, index, error.raw_os_error().unsigned_abs());
            break;
        }
    }
    exit(1)
}

pub(super) fn exit(code: i32) -> ! {
    // SAFETY: ends this process without running anything of the maker's.
    unsafe { libc::_exit(code) }
}

impl<'a> Context<'a> {
    fn report(&self, tag: u32, step: usize, error: u32) {
        let mut bytes = [0_u8; 12];
        let step = u32::try_from(step).unwrap_or(u32::MAX);
        for (place, value) in bytes.chunks_exact_mut(4).zip([tag, step, error]) {
            place.copy_from_slice(&value.to_ne_bytes());
        }
        // A maker that has gone does not want to know.
        let _ = rustix::net::send(self.channel, &bytes, SendFlags::NOSIGNAL);
    }

    fn root(&self) -> Result<BorrowedFd<'_>> {
        let root = self.root.as_ref().or(self.plan.root.as_ref());
        root.map(AsFd::as_fd).ok_or(Errno::BADF)
    }

    fn carry_out(&mut self, index: usize, step: &'a Step) -> Result<()> {
        match step {
            Step::Rendezvous => {
                self.report(TAG_REACHED, index, 0);
                self.receive();
                Ok(())
            }
            Step::Receive => {
                self.receive();
                Ok(())
            }
            Step::AwaitStart(fifo) => self.await_start(index, fifo),
            Step::Attempt(step) => {
                if let Err(error) = self.carry_out(index, step) {
                    self.report(TAG_WARNING, index, error.raw_os_error().unsigned_abs());
                }
                Ok(())
            }
            Step::Scripts { scripts, message } => scripts
                .iter()
                .try_for_each(|script| run_script(script, self.said(*message))),
            Step::Join { file, flags } => namespace::join(file.as_fd(), *flags),
            Step::TakeRoot => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                self.root = Some(rustix::fs::open(c"/", flags, Mode::empty())?);
                Ok(())
            }
            Step::EnterCgroups(files) => files.iter().try_for_each(enter_cgroup),
            Step::NewCgroupView => namespace::leave(namespace::Kind::Cgroup.flag()),
            Step::BecomeRoot => become_root(),
            Step::Undumpable => prctl(libc::PR_SET_DUMPABLE, 0),
            Step::ResetSignals => reset_signals(),
            Step::NewSession => rustix::process::setsid().map(drop),
            Step::SessionKeyring(name) => join_session_keyring(name),
            Step::LoopbackUp => namespace::loopback_up(),
            Step::PrivateMounts => {
                let nothing = Attributes::default();
                mount::change(CWD, c"/", Depth::Tree, nothing, Some(Propagation::Private))
            }
            Step::AttachRoot(at) => {
                let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let place = rustix::fs::open(at.as_c_str(), flags, Mode::empty())?;
                mount::attach(self.root()?, place.as_fd())
            }
            Step::Mount(step) => self.mount(step),
            Step::Change {
                path,
                attributes,
                depth,
            } => {
                let place = resolve::open(self.root()?, path, Links::Follow)?;
                mount::change(place.as_fd(), c"", *depth, *attributes, None)
            }
            Step::Device(device) => make_device(self.root()?, device),
            Step::Symlink { path, target } => make_link(self.root()?, path, target),
            Step::Mask { path, parameters } => self.mask(path, parameters),
            Step::Label { path, label } => set_label(self.root()?, path, label),
            Step::ReadOnly(path) => self.make_read_only(path),
            Step::WriteProc { path, value } => {
                let proc = self.plan.proc.as_ref().ok_or(Errno::BADF)?;
                resolve::write_in_proc(proc.as_fd(), path, value.to_bytes())
            }
            Step::Terminal {
                socket,
                size,
                owner,
                console,
            } => open_terminal(self.root()?, socket.as_fd(), *size, *owner, *console),
            Step::Streams { files, owner } => set_streams(files, *owner),
            Step::MakeDirectory(path) => {
                resolve::make(self.root()?, path, Kind::Directory, Links::Follow).map(drop)
            }
            Step::Rename {
                directory,
                from,
                to,
            } => rustix::fs::renameat(directory, from, directory, to),
            Step::ChangeRoot => mount::change_root(self.root()?),
            Step::CoverRoot => mount::cover_root(self.root()?),
            Step::RootPropagation(propagation, depth) => {
                let nothing = Attributes::default();
                mount::change(self.root()?, c"", *depth, nothing, Some(*propagation))
            }
            Step::HostName(name) => rustix::system::sethostname(name.to_bytes()),
            Step::DomainName(name) => rustix::system::setdomainname(name.to_bytes()),
            Step::ResourceLimit {
                resource,
                soft,
                hard,
                ..
            } => scheduling::set_limit(*resource, *soft, *hard),
            Step::Scheduler(attributes) => scheduling::set_scheduler(attributes),
            Step::IoPriority(priority) => scheduling::set_io_priority(*priority),
            Step::Affinity(processors) => scheduling::set_affinity(processors),
            Step::Personality(persona) => scheduling::set_personality(*persona),
            Step::MemoryPolicy { mode, nodes } => scheduling::set_memory_policy(*mode, nodes),
            Step::Identity(identity) => assume(identity),
            Step::NoNewPrivileges => prctl(libc::PR_SET_NO_NEW_PRIVS, 1),
            Step::Filter { filter, listener } => self.filter(filter, listener.as_ref()),
            Step::ChangeDirectory(to) => change_directory(to),
            Step::CloseOnExec(first) => {
                let flags = libc::CLOSE_RANGE_CLOEXEC;
                // SAFETY: plain numbers; nothing is closed before execve.
                check(unsafe { libc::syscall(libc::SYS_close_range, *first, u32::MAX, flags) })
                    .map(drop)
            }
            Step::Find(program) => {
                self.program = Some((program, program.find()?));
                Ok(())
            }
            Step::Execute => {
                let (program, path) = self.program.ok_or(Errno::NOENT)?;
                Err(program.execute_at(path))
            }
        }
    }

    /// A message that said something, by its place among them; nothing if there
    /// are not so many.
    fn said(&self, index: usize) -> &[u8] {
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.message[start..self.ends[index].max(start)]
    }

    /// Waits for the maker's message; its end is the child's end.
    fn receive(&mut self) {
        let start = match self.n_messages {
            0 => 0,
            n_messages => self.ends[n_messages - 1],
        };
        loop {
            let room = &mut self.message[start..];
            match rustix::net::recv(self.channel, &mut *room, RecvFlags::empty()) {
                Err(Errno::INTR) => {}
                Ok((length, _)) if length > 0 => {
                    let length = length.min(room.len());
                    if room[..length] != *GO && self.n_messages < N_MESSAGES {
                        self.ends[self.n_messages] = start + length;
                        self.n_messages += 1;
                    }
                    return;
                }
                _ => exit(1),
            }
        }
    }

    /// Loads a filter; the descriptor of one that asks is sent to whoever answers.
    fn filter(&self, filter: &Filter, listener: Option<&Listener>) -> Result<()> {
        let asking = seccomp::load(filter)?;
        match (asking, listener) {
            (None, None) => Ok(()),
            (Some(asking), Some(listener)) => {
                let message = self.said(listener.message);
                crate::fdpass::send(listener.socket.as_fd(), message, asking.as_fd())
            }
            _ => Err(Errno::INVAL),
        }
    }

    fn await_start(&mut self, index: usize, fifo: &OwnedFd) -> Result<()> {
        self.report(TAG_REACHED, index, 0);
        let mut byte = [0_u8];
        loop {
            match rustix::io::read(fifo, &mut byte) {
                Err(Errno::INTR) => {}
                Ok(0) => exit(1),
                result => return result.map(drop),
            }
        }
    }

    fn mount(&mut self, step: &MountStep) -> Result<()> {
        let root = self.root()?;
        match COVERED.iter().position(|place| **place == *step.path) {
            Some(index) => {
                let mounted = make_mount(root, step, |mount| {
                    rustix::io::fcntl_dupfd_cloexec(mount, 3).map(Some)
                })?;
                self.covered[index] = mounted;
                Ok(())
            }
            None => make_mount(root, step, |_| Ok(())),
        }
    }

    /// Opens what is to be covered. What is mounted at `/proc` and `/sys` is known
    /// by descriptor: whoever changes the directories that lead there meanwhile does
    /// not make the covers fall elsewhere (CVE-2019-19921).
    fn covered(&self, path: &CStr) -> Result<OwnedFd> {
        for (place, mount) in COVERED.iter().zip(&self.covered) {
            let below = path.to_bytes_with_nul().strip_prefix(place.to_bytes());
            let below = below.and_then(|below| below.strip_prefix(b"/"));
            if let (Some(below), Some(mount)) = (below, mount) {
                let below = CStr::from_bytes_with_nul(below).map_err(|_| Errno::INVAL)?;
                return resolve::open(mount.as_fd(), below, Links::Follow);
            }
        }
        resolve::open(self.root()?, path, Links::Follow)
    }

    fn make_read_only(&self, path: &CStr) -> Result<()> {
        let place = match self.covered(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result?,
        };
        let cover = mount::copy(place.as_fd(), c"", Depth::Tree)?;
        mount::change(cover.as_fd(), c"", Depth::One, Attributes::READ_ONLY, None)?;
        mount::attach(cover.as_fd(), place.as_fd())
    }

    fn mask(&mut self, path: &CStr, parameters: &[Parameter]) -> Result<()> {
        let place = match self.covered(path) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            result => result?,
        };
        let stat = rustix::fs::fstat(&place)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let null = rustix::fs::open(c"/dev/null", flags, Mode::empty())?;
            resolve::check_null(null.as_fd())?;
            let cover = mount::copy(null.as_fd(), c"", Depth::One)?;
            return mount::attach(cover.as_fd(), place.as_fd());
        }
        if let Some(mask) = &self.mask {
            let cover = mount::copy(mask.as_fd(), c"", Depth::One)?;
            return mount::attach(cover.as_fd(), place.as_fd());
        }
        let attributes = libc::MOUNT_ATTR_RDONLY
            | libc::MOUNT_ATTR_NOSUID
            | libc::MOUNT_ATTR_NODEV
            | libc::MOUNT_ATTR_NOEXEC;
        let cover = mount::new(c"tmpfs", parameters, attributes)?;
        mount::attach(cover.as_fd(), place.as_fd())?;
        self.mask = Some(cover);
        Ok(())
    }
}

fn set_label(root: BorrowedFd<'_>, path: &CStr, label: &CStr) -> Result<()> {
    let place = resolve::open(root, path, Links::Refuse)?;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = rustix::fs::openat(&place, c".", flags, Mode::empty())?;
    let nothing = XattrFlags::empty();
    rustix::fs::fsetxattr(&directory, c"security.selinux", label.to_bytes(), nothing)
}

pub(super) fn prctl(option: libc::c_int, value: libc::c_ulong) -> Result<()> {
    // SAFETY: only options whose arguments are plain numbers come here.
    check(unsafe { libc::prctl(option, value, 0, 0, 0) }.into()).map(drop)
}

fn enter_cgroup(file: &OwnedFd) -> Result<()> {
    write_all(file.as_fd(), b"0")
}

fn write_all(file: BorrowedFd<'_>, bytes: &[u8]) -> Result<()> {
    loop {
        match rustix::io::write(file, bytes) {
            Err(Errno::INTR) => {}
            Ok(length) if length < bytes.len() => return Err(Errno::IO),
            result => return result.map(drop),
        }
    }
}

fn become_root() -> Result<()> {
    set_groups(&[]).or_else(|error| {
        if error == Errno::PERM {
            Ok(())
        } else {
            Err(error)
        }
    })?;
    set_ids(0, 0)
}

fn set_groups(groups: &[u32]) -> Result<()> {
    // SAFETY: the array lives through the call and has that length. The raw call
    // changes this thread only, and there is no other.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

fn set_ids(uid: u32, gid: u32) -> Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) })?;
    // SAFETY: plain numbers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// What rt_sigaction(2) takes, which is not what libc's sigaction has.
#[repr(C)]
struct KernelAction {
    handler: usize,
    flags: libc::c_ulong,
    restorer: usize,
    mask: u64,
}

/// A keyring is found by its name by whom it lets search.
fn join_session_keyring(name: &CStr) -> Result<()> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    const KEYCTL_SETPERM: libc::c_int = 5;
    /// Who has it may do all; its user may view, read, search and link it.
    const PERMISSIONS: libc::c_uint = 0x3f1b_0000;
    // SAFETY: the name lives through the call.
    let ring = check(unsafe {
        libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr())
    })?;
    // SAFETY: numbers only.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_SETPERM, ring, PERMISSIONS) }).map(drop)
}

fn reset_signals() -> Result<()> {
    const N_SIGNALS: libc::c_int = 64;
    let action = KernelAction {
        handler: libc::SIG_DFL,
        flags: 0,
        restorer: 0,
        mask: 0,
    };
    let none = std::ptr::null_mut::<KernelAction>();
    for signal in 1..=N_SIGNALS {
        if signal != libc::SIGKILL && signal != libc::SIGSTOP {
            // SAFETY: the action has the kernel's layout and lives through the call.
            check(unsafe {
                libc::syscall(libc::SYS_rt_sigaction, signal, &raw const action, none, 8)
            })?;
        }
    }
    let empty = 0_u64;
    let how = libc::SIG_SETMASK;
    let none = std::ptr::null_mut::<u64>();
    // SAFETY: the mask lives through the call and has that size.
    check(unsafe { libc::syscall(libc::SYS_rt_sigprocmask, how, &raw const empty, none, 8) })
        .map(drop)
}

/// Makes a mount; `keep` says what is kept of it once it is in place.
fn make_mount<T>(
    root: BorrowedFd<'_>,
    step: &MountStep,
    keep: impl FnOnce(BorrowedFd<'_>) -> Result<T>,
) -> Result<T> {
    let was_there = matches!(step.source, MountSource::Over { .. })
        && resolve::open(root, &step.path, step.links).is_ok();
    let place = resolve::make(root, &step.path, step.kind, step.links)?;
    if step.proc == ProcAllowed::No && resolve::is_on_procfs(place.as_fd())? {
        return Err(Errno::PERM);
    }
    let made;
    let mount = match &step.source {
        MountSource::Detached(tree) => tree.as_fd(),
        MountSource::New { kind, parameters } => {
            made = mount::new(kind, parameters, step.attributes.set)?;
            made.as_fd()
        }
        MountSource::Over {
            parameters,
            keep: what,
        } => {
            made = mount::new(c"tmpfs", parameters, 0)?;
            match what {
                Keep::Contents => super::copy_up(place.as_fd(), made.as_fd())?,
                Keep::Mode if was_there => {
                    let mode = rustix::fs::fstat(&place)?.st_mode & 0o7777;
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                    let top = rustix::fs::openat(&made, c".", flags, Mode::empty())?;
                    rustix::fs::fchmod(&top, Mode::from_raw_mode(mode))?;
                }
                Keep::Mode => {}
            }
            made.as_fd()
        }
    };
    if !matches!(step.source, MountSource::New { .. }) && !step.attributes.is_empty() {
        mount::change(mount, c"", Depth::One, step.attributes, None)?;
    }
    if !step.tree_attributes.is_empty() {
        mount::change(mount, c"", Depth::Tree, step.tree_attributes, None)?;
    }
    mount::attach(mount, place.as_fd())?;
    for (propagation, depth) in &step.propagation {
        mount::change(
            mount,
            c"",
            *depth,
            Attributes::default(),
            Some(*propagation),
        )?;
    }
    keep(mount)
}

/// A path as the directory it lies in, made if absent, and the last name. What
/// is put there is the runtime's, and a link of the image's must not say where:
/// it could lead to a directory of the host's that is mounted inside.
fn parent<'p>(root: BorrowedFd<'_>, path: &'p CStr) -> Result<(OwnedFd, &'p CStr)> {
    let bytes = path.to_bytes_with_nul();
    let slash = bytes.iter().rposition(|byte| *byte == b'/');
    let (directory, name) = match slash {
        Some(slash) => (&bytes[..slash], &bytes[slash + 1..]),
        None => (&bytes[..0], bytes),
    };
    let name = CStr::from_bytes_with_nul(name).map_err(|_| Errno::INVAL)?;
    if name.is_empty() || matches!(name.to_bytes(), b"." | b"..") {
        return Err(Errno::INVAL);
    }
    let mut buffer = [0_u8; 4096];
    buffer
        .get_mut(..directory.len())
        .ok_or(Errno::NAMETOOLONG)?
        .copy_from_slice(directory);
    let directory = CStr::from_bytes_until_nul(&buffer).map_err(|_| Errno::NAMETOOLONG)?;
    Ok((
        resolve::make(root, directory, Kind::Directory, Links::Refuse)?,
        name,
    ))
}

fn make_device(root: BorrowedFd<'_>, device: &super::DeviceNode) -> Result<()> {
    let (directory, name) = parent(root, &device.path)?;
    let kind = FileType::from_raw_mode(device.mode);
    let mode = Mode::from_raw_mode(device.mode & 0o7777);
    let number = rustix::fs::makedev(device.major, device.minor);
    match rustix::fs::mknodat(&directory, name, kind, mode, number) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            let same = FileType::from_raw_mode(stat.st_mode) == kind && stat.st_rdev == number;
            return if same { Ok(()) } else { Err(Errno::EXIST) };
        }
        result => result?,
    }
    // The mode was subject to the mask of this process, and to nothing else.
    rustix::fs::chmodat(&directory, name, mode, AtFlags::empty())?;
    let (uid, gid) = (
        rustix::fs::Uid::from_raw(device.uid),
        rustix::fs::Gid::from_raw(device.gid),
    );
    rustix::fs::chownat(
        &directory,
        name,
        Some(uid),
        Some(gid),
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

fn make_link(root: BorrowedFd<'_>, path: &CStr, target: &CStr) -> Result<()> {
    let (directory, name) = parent(root, path)?;
    match rustix::fs::symlinkat(target, &directory, name) {
        Err(Errno::EXIST) => Ok(()),
        result => result,
    }
}

fn open_terminal(
    root: BorrowedFd<'_>,
    socket: BorrowedFd<'_>,
    size: Option<(u16, u16)>,
    owner: u32,
    console: bool,
) -> Result<()> {
    let terminal = pty::open(root)?;
    if let Some((rows, columns)) = size {
        pty::resize(terminal.master.as_fd(), rows, columns)?;
    }
    rustix::fs::fchown(
        &terminal.slave,
        Some(rustix::fs::Uid::from_raw(owner)),
        None,
    )?;
    if console {
        let place = resolve::make(root, c"/dev/console", Kind::File, Links::Refuse)?;
        let tree = mount::copy(terminal.slave.as_fd(), c"", Depth::One)?;
        mount::attach(tree.as_fd(), place.as_fd())?;
    }
    crate::fdpass::send(socket, b"/dev/pts/ptmx", terminal.master.as_fd())?;
    pty::take_control(&terminal.slave)?;
    rustix::stdio::dup2_stdin(&terminal.slave)?;
    rustix::stdio::dup2_stdout(&terminal.slave)?;
    rustix::stdio::dup2_stderr(&terminal.slave)
}

fn set_streams(files: &[Option<OwnedFd>; 3], owner: u32) -> Result<()> {
    let [stdin, stdout, stderr] = files;
    if let Some(file) = stdin {
        rustix::stdio::dup2_stdin(file)?;
    }
    if let Some(file) = stdout {
        rustix::stdio::dup2_stdout(file)?;
    }
    if let Some(file) = stderr {
        rustix::stdio::dup2_stderr(file)?;
    }
    for number in 0..3 {
        // SAFETY: the standard streams are open as long as this process lives,
        // and if one is not, fstat says so.
        let file = unsafe { BorrowedFd::borrow_raw(number) };
        let Ok(stat) = rustix::fs::fstat(file) else {
            continue;
        };
        let pipe = matches!(
            FileType::from_raw_mode(stat.st_mode),
            FileType::Fifo | FileType::Socket
        );
        if pipe && stat.st_uid != owner {
            match rustix::fs::fchown(file, Some(rustix::fs::Uid::from_raw(owner)), None) {
                // Of another user namespace, or of a kind that has no owner.
                Ok(()) | Err(Errno::PERM | Errno::INVAL | Errno::ROFS) => {}
                Err(error) => return Err(error),
            }
        }
    }
    Ok(())
}

/// Takes identities and capabilities in the only order that works: the bounding
/// set while it may be changed, identities with the permitted set kept, the
/// other sets once the identities are right.
fn assume(identity: &Identity) -> Result<()> {
    capability::limit_bounding(identity.bounding)?;
    prctl(libc::PR_SET_KEEPCAPS, 1)?;
    match set_groups(&identity.groups) {
        // A user namespace made without privilege forbids the call.
        Err(Errno::PERM) if identity.groups.is_empty() => {}
        result => result?,
    }
    set_ids(identity.uid, identity.gid)?;
    prctl(libc::PR_SET_KEEPCAPS, 0)?;
    capability::apply(identity.effective, identity.permitted, identity.inheritable)?;
    capability::apply_ambient(identity.ambient)?;
    rustix::process::umask(Mode::from_raw_mode(identity.umask));
    Ok(())
}

/// A working directory outside the root would show as a path that does not
/// begin with a slash (CVE-2024-21626).
fn change_directory(to: &CStr) -> Result<()> {
    rustix::process::chdir(to)?;
    let mut buffer = [0_u8; 4096];
    // SAFETY: the buffer has that length; the raw call writes no more.
    let length =
        check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    if length > 1 && buffer[0] == b'/' {
        Ok(())
    } else {
        Err(Errno::NOENT)
    }
}

/// Runs one program to its end, the message on its standard input.
fn run_script(script: &Script, message: &[u8]) -> Result<()> {
    let input = rustix::fs::memfd_create(c"state", rustix::fs::MemfdFlags::CLOEXEC)?;
    write_all(input.as_fd(), message)?;
    rustix::fs::seek(&input, rustix::fs::SeekFrom::Start(0))?;
    let mut pidfd: libc::c_int = -1;
    // Filters that are in force already refuse clone3, whose flags they cannot see.
    let flags = libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: as in `Plan::clone_child`: own memory, own stack, no return. The
    // descriptor is put where the third argument points.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    if pid == 0 {
        let ready = reset_signals().and_then(|()| rustix::stdio::dup2_stdin(&input));
        if ready.is_ok() {
            // SAFETY: plain numbers.
            unsafe {
                libc::syscall(
                    libc::SYS_close_range,
                    3,
                    u32::MAX,
                    libc::CLOSE_RANGE_CLOEXEC,
                )
            };
            script.program.execute();
        }
        exit(127)
    }
    let pid = i32::try_from(check(pid)?).map_err(|_| Errno::OVERFLOW)?;
    // SAFETY: clone has put a fresh descriptor there.
    let pidfd = unsafe { <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(pidfd) };
    let child = process::Process { pid, pidfd };
    let mut poll = libc::pollfd {
        fd: child.pidfd.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor, which lives through the call.
    let ended = unsafe { libc::poll(&raw mut poll, 1, script.timeout) } > 0;
    if !ended {
        child.signal(libc::SIGKILL)?;
    }
    match child.wait()? {
        _ if !ended => Err(Errno::TIMEDOUT),
        process::End::Code(0) => Ok(()),
        _ => Err(Errno::CANCELED),
    }
}
