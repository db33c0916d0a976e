//! Entering groups without waiting for a grace period.
//!
//! Moving a process between groups takes a lock whose writers wait for an RCU
//! grace period, some 9 ms on the machines measured, unless the kernel was told
//! to favour such moves (`favordynmods`). It can be told so by any hierarchy:
//! the one here is named, has no controllers and is mounted nowhere.

use std::os::fd::OwnedFd;

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_flag,
    fsconfig_set_string, fsmount, fsopen,
};

/// As long as this lives, entering a group is quick on the whole machine, and
/// forks and exits take some nanoseconds more. It shows as one more line in
/// `/proc/PID/cgroup`. A crash of the holder lets go of it.
#[derive(Debug)]
pub struct FastAttach {
    _mount: OwnedFd,
}

impl FastAttach {
    /// Holds the kernel to it. Waits for one grace period itself, so this is for
    /// a long-lived program when it starts; the name tells instances apart.
    ///
    /// # Errors
    ///
    /// What the mount calls say; kernels before 6.0 do not have it. Going on
    /// without it is only slower.
    pub fn hold(name: &str) -> std::io::Result<Self> {
        let context = fsopen(c"cgroup", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fsconfig_set_flag(&context, c"none")?;
        fsconfig_set_string(&context, c"name", name)?;
        fsconfig_set_flag(&context, c"favordynmods")?;
        fsconfig_create(&context)?;
        let flags = FsMountFlags::FSMOUNT_CLOEXEC;
        Ok(Self {
            _mount: fsmount(&context, flags, MountAttrFlags::empty())?,
        })
    }
}
