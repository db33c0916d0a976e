//! A process that does nothing but hold new namespaces until they are opened or
//! pinned: those that a thread of a larger program can neither make nor enter.

use std::os::fd::OwnedFd;

use crate::child::{Channel, Plan, Report, Step};
use crate::idmap::IdMaps;
use crate::namespace::{self, Kind};
use crate::process::Process;
use crate::{Errno, Result};

/// The user namespace that owns what is new.
#[derive(Debug)]
pub enum Owner<'a> {
    /// A new one with these maps.
    New(&'a IdMaps),
    /// This one.
    There(OwnedFd),
}

/// The process. It ends when this is dropped; namespaces that were opened stay.
#[derive(Debug)]
pub struct Holder {
    process: Process,
    /// The process ends with it, also when this one is killed.
    channel: Channel,
}

impl Holder {
    /// Makes namespaces of these kinds, besides the user namespace if that is new.
    ///
    /// # Errors
    ///
    /// What clone3(2), setns(2) and the writing of the maps say; nothing is left
    /// then.
    pub fn start(owner: Owner<'_>, kinds: &[Kind]) -> Result<Self> {
        let mut plan = Plan {
            new: kinds.to_vec(),
            steps: vec![Step::Rendezvous],
            ..Plan::default()
        };
        let maps = match owner {
            Owner::New(maps) => {
                plan.new.push(Kind::User);
                Some(maps)
            }
            Owner::There(user) => {
                plan.user = Some(user);
                None
            }
        };
        let launched = plan.launch()?;
        let holder = Self {
            process: launched.process,
            channel: launched.channel,
        };
        match holder.channel.next() {
            Ok(Report::Reached { .. }) => {}
            Ok(Report::Failed { error, .. }) => return Err(error),
            _ => return Err(Errno::CHILD),
        }
        if let Some(maps) = maps {
            maps.write(holder.process.pid)?;
        }
        Ok(holder)
    }

    /// Opens one of its namespaces.
    ///
    /// # Errors
    ///
    /// What open(2) says.
    pub fn open(&self, kind: Kind) -> Result<OwnedFd> {
        let path = format!("/proc/{}/ns/{}", self.process.pid, kind.name());
        namespace::open(path.as_ref(), kind)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // The channel's end would do, but another child that was made meanwhile
        // may hold it as well. There is nobody to tell of an error.
        let _ = self.process.signal(libc::SIGKILL);
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::idmap::Range;

    #[test]
    fn namespaces_belong_to_the_user_namespace() {
        let maps = |outside| {
            let all = vec![Range {
                inside: 0,
                outside,
                count: 1000,
            }];
            IdMaps {
                users: all.clone(),
                groups: all,
            }
        };
        let first = Holder::start(Owner::New(&maps(100_000)), &[Kind::Network]).unwrap();
        assert_eq!(IdMaps::of(first.process.pid), Ok(maps(100_000)));
        let user = first.open(Kind::User).unwrap();
        let second = Holder::start(Owner::There(user), &[Kind::Network]).unwrap();
        assert_eq!(IdMaps::of(second.process.pid), Ok(maps(100_000)));
        let inode = |file: &OwnedFd| rustix::fs::fstat(file).unwrap().st_ino;
        let networks = [&first, &second].map(|holder| holder.open(Kind::Network).unwrap());
        assert_ne!(inode(&networks[0]), inode(&networks[1]));
        let pid = first.process.pid;
        drop(first);
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists());
        // Two that overlap are no map.
        let mut wrong = maps(100_000);
        wrong.users.push(wrong.users[0]);
        let refused = Holder::start(Owner::New(&wrong), &[]);
        assert_eq!(refused.unwrap_err(), Errno::INVAL);
    }
}
