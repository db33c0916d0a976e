//! The steps a child can carry out, as values.

use std::ffi::CString;
use std::fmt;
use std::os::fd::OwnedFd;

use crate::capability::Set;
use crate::mount::{Attributes, Depth, Parameter, Propagation};
use crate::resolve::{Kind, Links};
use crate::seccomp::Filter;

use super::{Numbers, Program, Script};

/// One thing a child does. Paths are resolved below the plan's root.
#[derive(Debug)]
pub enum Step {
    /// Tells the maker and waits for its message.
    Rendezvous,
    /// Waits for the maker's message, which may have been sent long ago.
    Receive,
    /// Tells the maker and waits for a byte from a FIFO, opened for reading and
    /// writing so that waiting does not end with the maker.
    AwaitStart(OwnedFd),
    /// Carries out a step whose failure is only a warning.
    Attempt(Box<Step>),
    /// Runs programs one after the other, a message on their standard input.
    Scripts {
        /// The programs.
        scripts: Vec<Script>,
        /// Which of the maker's messages that said something, from 0.
        message: usize,
    },
    /// Joins namespaces: a namespace file and one flag, or a process and several.
    Join {
        /// Namespace file or process descriptor.
        file: OwnedFd,
        /// `CLONE_NEW*`.
        flags: u64,
    },
    /// Takes the present root directory as the plan's root.
    TakeRoot,
    /// Enters version 1 control groups by writing to their open `cgroup.procs`.
    EnterCgroups(Vec<OwnedFd>),
    /// Takes a new view of the control groups.
    NewCgroupView,
    /// Becomes the superuser of a new user namespace.
    BecomeRoot,
    /// Makes what this process is unreadable to others until it executes a program.
    Undumpable,
    /// Every signal to its default action, none blocked.
    ResetSignals,
    /// Starts a session.
    NewSession,
    /// Joins the session keyring of that name, a new one if there is none, and lets
    /// further processes of its user join it.
    SessionKeyring(CString),
    /// Brings the loopback device up.
    LoopbackUp,
    /// Cuts the propagation of every mount in sight.
    PrivateMounts,
    /// Puts the root in place, on a directory of the host.
    AttachRoot(CString),
    /// Makes a mount below the root.
    Mount(MountStep),
    /// Changes the attributes of the mount at a path.
    Change {
        /// Path below the root.
        path: CString,
        /// What changes.
        attributes: Attributes,
        /// For which mounts.
        depth: Depth,
    },
    /// Makes a device node below the root.
    Device(DeviceNode),
    /// Makes a symbolic link below the root, unless something is there.
    Symlink {
        /// Path of the link; its directory is made if absent.
        path: CString,
        /// What it says.
        target: CString,
    },
    /// Hides what is at a path, if anything is: files by the null device,
    /// directories by an empty read-only filesystem.
    Mask {
        /// Path below the root.
        path: CString,
        /// Parameters of the filesystem that covers directories; that of the first
        /// one covers all.
        parameters: Vec<Parameter>,
    },
    /// Sets SELinux's label of what is at a path below the root.
    Label {
        /// The path.
        path: CString,
        /// The label.
        label: CString,
    },
    /// Makes what is at a path read-only, if anything is.
    ReadOnly(CString),
    /// Writes a file of the host's procfs.
    WriteProc {
        /// Path below `/proc`.
        path: CString,
        /// What is written.
        value: CString,
    },
    /// Opens a terminal of the root's devpts and makes it controlling terminal
    /// and standard streams.
    Terminal {
        /// Socket the master is sent to.
        socket: OwnedFd,
        /// Rows and columns, if it has a first size.
        size: Option<(u16, u16)>,
        /// Who owns the slave.
        owner: u32,
        /// Whether the slave is bound to `/dev/console` as well.
        console: bool,
    },
    /// Puts descriptors at 0, 1 and 2; those that are absent stay what they are.
    Streams {
        /// Standard input, output, error.
        files: [Option<OwnedFd>; 3],
        /// Who is to own pipes and the like, so that they can be opened again by path.
        owner: u32,
    },
    /// Makes a directory below the root, unless it is there.
    MakeDirectory(CString),
    /// Renames a file in a directory of the host.
    Rename {
        /// The directory.
        directory: OwnedFd,
        /// Its present name.
        from: CString,
        /// The name it gets.
        to: CString,
    },
    /// Makes the root the root.
    ChangeRoot,
    /// Makes the root the root by covering the old one.
    CoverRoot,
    /// Sets the propagation of the root.
    RootPropagation(Propagation, Depth),
    /// Sets the host name.
    HostName(CString),
    /// Sets the NIS domain name.
    DomainName(CString),
    /// Sets a resource limit; one above what this process may set is set as high
    /// as it may be, and is a failure nevertheless.
    ResourceLimit {
        /// Its name, such as `RLIMIT_NOFILE`, for messages.
        name: &'static str,
        /// Its number.
        resource: u32,
        /// The value in force.
        soft: u64,
        /// Its ceiling.
        hard: u64,
    },
    /// Sets the scheduling policy by a `struct sched_attr`.
    Scheduler(Box<[u8; 48]>),
    /// Sets the I/O priority.
    IoPriority(i32),
    /// Sets the processors it may run on.
    Affinity(Numbers),
    /// Sets the execution domain.
    Personality(u64),
    /// Sets the memory policy.
    MemoryPolicy {
        /// `MPOL_*` with its flags.
        mode: i32,
        /// Memory nodes.
        nodes: Numbers,
    },
    /// Sets identities and capability sets.
    Identity(Identity),
    /// Forbids gaining privileges from now on.
    NoNewPrivileges,
    /// Loads a system-call filter.
    Filter {
        /// The filter.
        filter: Filter,
        /// Who answers for it, if it asks.
        listener: Option<Listener>,
    },
    /// Goes to a working directory, which must lie below the root.
    ChangeDirectory(CString),
    /// Marks every descriptor from this number on to be closed by execve.
    CloseOnExec(u32),
    /// Finds the program, so that its absence is told early.
    Find(Program),
    /// Becomes the program found before.
    Execute,
}

impl Step {
    /// Whether it receives a message of the maker's.
    pub(super) fn takes_message(&self) -> bool {
        matches!(self, Self::Rendezvous | Self::Receive)
    }
}

/// Who answers for a filter that asks.
#[derive(Debug)]
pub struct Listener {
    /// Connected socket the filter's descriptor is sent over.
    pub socket: OwnedFd,
    /// Which of the maker's messages is sent along, from 0.
    pub message: usize,
}

/// A mount to be made below the root.
#[derive(Debug)]
pub struct MountStep {
    /// Where.
    pub path: CString,
    /// What the place is made as, if it is absent.
    pub kind: Kind,
    /// Whether links in the path are followed.
    pub links: Links,
    /// Whether the place may lie on procfs.
    pub proc: ProcAllowed,
    /// What is mounted.
    pub source: MountSource,
    /// Attributes of the mount itself, set after it was made.
    pub attributes: Attributes,
    /// Attributes of the mount and all below it.
    pub tree_attributes: Attributes,
    /// Propagation, set one after the other.
    pub propagation: Vec<(Propagation, Depth)>,
}

/// Whether a mount may lie on procfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcAllowed {
    /// It may.
    Yes,
    /// It is an error (`EPERM`).
    No,
}

/// What is mounted.
#[derive(Debug)]
pub enum MountSource {
    /// A new filesystem.
    New {
        /// Its type.
        kind: CString,
        /// Its parameters.
        parameters: Vec<Parameter>,
    },
    /// A detached mount.
    Detached(OwnedFd),
    /// A new tmpfs that takes something over from the directory it covers.
    Over {
        /// Its parameters.
        parameters: Vec<Parameter>,
        /// What it takes over.
        keep: Keep,
    },
}

/// What a filesystem takes over from the directory it covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The permission bits, if the directory was there.
    Mode,
    /// Mode, owner and contents.
    Contents,
}

/// A device node.
#[derive(Debug)]
pub struct DeviceNode {
    /// Where.
    pub path: CString,
    /// File type and permission bits (`st_mode`).
    pub mode: u32,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Who the program runs as, and what it may do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Identity {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
    /// File mode creation mask.
    pub umask: u32,
    /// Bounding set.
    pub bounding: Set,
    /// Effective set.
    pub effective: Set,
    /// Permitted set.
    pub permitted: Set,
    /// Inheritable set.
    pub inheritable: Set,
    /// Ambient set.
    pub ambient: Set,
}

impl fmt::Display for Step {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = |path: &CString| path.to_string_lossy().into_owned();
        match self {
            Self::Rendezvous => write!(formatter, "wait for the runtime"),
            Self::Receive | Self::AwaitStart(_) => write!(formatter, "wait for the start"),
            Self::Attempt(step) => step.fmt(formatter),
            Self::Scripts { scripts, .. } => {
                let names = scripts.iter().map(|script| script.program.name());
                let names: Vec<_> = names.map(|name| name.to_string_lossy()).collect();
                write!(formatter, "run hooks {}", names.join(", "))
            }
            Self::Join { flags, .. } => {
                let names: Vec<_> = crate::namespace::Kind::ALL
                    .iter()
                    .filter(|kind| flags & kind.flag() != 0)
                    .map(|kind| kind.name())
                    .collect();
                write!(formatter, "join namespaces {}", names.join(", "))
            }
            Self::TakeRoot => write!(formatter, "open the root"),
            Self::EnterCgroups(_) => write!(formatter, "enter the control groups"),
            Self::NewCgroupView => write!(formatter, "make a cgroup namespace"),
            Self::BecomeRoot => write!(formatter, "become root of the user namespace"),
            Self::Undumpable => write!(formatter, "protect the process"),
            Self::ResetSignals => write!(formatter, "reset signals"),
            Self::NewSession => write!(formatter, "start a session"),
            Self::SessionKeyring(name) => write!(formatter, "join session keyring {}", path(name)),
            Self::LoopbackUp => write!(formatter, "bring the loopback device up"),
            Self::PrivateMounts => write!(formatter, "make mounts private"),
            Self::AttachRoot(at) => write!(formatter, "mount the root filesystem at {}", path(at)),
            Self::Mount(mount) => match &mount.source {
                MountSource::New { kind, .. } => {
                    write!(formatter, "mount {} to {}", path(kind), path(&mount.path))
                }
                MountSource::Over { .. } => {
                    write!(formatter, "mount tmpfs to {}", path(&mount.path))
                }
                MountSource::Detached(_) => {
                    write!(formatter, "bind mount to {}", path(&mount.path))
                }
            },
            Self::Change { path: at, .. } => write!(formatter, "change the mount at {}", path(at)),
            Self::Device(device) => write!(formatter, "make device {}", path(&device.path)),
            Self::Symlink { path: at, .. } => write!(formatter, "make symbolic link {}", path(at)),
            Self::Mask { path: at, .. } => write!(formatter, "mask {}", path(at)),
            Self::Label { path: at, label } => {
                write!(formatter, "label {} as {}", path(at), path(label))
            }
            Self::ReadOnly(at) => write!(formatter, "make {} read-only", path(at)),
            Self::WriteProc { path: at, value } if at.as_bytes().ends_with(b"apparmor/exec") => {
                let name = path(value);
                let name = name.strip_prefix("exec ").unwrap_or(&name);
                write!(
                    formatter,
                    "apply AppArmor profile {name:?}, which must be loaded"
                )
            }
            Self::WriteProc { path: at, value } => {
                write!(formatter, "write {} to /proc/{}", path(value), path(at))
            }
            Self::Terminal { .. } => write!(formatter, "open a terminal"),
            Self::Streams { .. } => write!(formatter, "set the standard streams"),
            Self::MakeDirectory(at) => write!(formatter, "make directory {}", path(at)),
            Self::Rename { to, .. } => write!(formatter, "show {}", path(to)),
            Self::ChangeRoot | Self::CoverRoot => write!(formatter, "change the root"),
            Self::RootPropagation(..) => write!(formatter, "set the propagation of the root"),
            Self::HostName(name) => write!(formatter, "set host name {}", path(name)),
            Self::DomainName(name) => write!(formatter, "set domain name {}", path(name)),
            Self::ResourceLimit {
                name, soft, hard, ..
            } => write!(formatter, "set {name} to {soft}:{hard}"),
            Self::Scheduler(_) => write!(formatter, "set the scheduling policy"),
            Self::IoPriority(_) => write!(formatter, "set the I/O priority"),
            Self::Affinity(processors) => write!(formatter, "set processors {processors:?}"),
            Self::Personality(_) => write!(formatter, "set the personality"),
            Self::MemoryPolicy { .. } => write!(formatter, "set the memory policy"),
            Self::Identity(identity) => {
                write!(formatter, "become user {}:{}", identity.uid, identity.gid)
            }
            Self::NoNewPrivileges => write!(formatter, "set no_new_privs"),
            Self::Filter { .. } => write!(formatter, "load the seccomp filter"),
            Self::ChangeDirectory(to) => write!(formatter, "chdir to cwd (\"{}\")", path(to)),
            Self::CloseOnExec(_) => write!(formatter, "close descriptors"),
            Self::Find(program) => write!(formatter, "exec: \"{}\"", path(&program.name().into())),
            Self::Execute => write!(formatter, "execute the program"),
        }
    }
}
