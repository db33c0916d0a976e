//! What is done while nobody waits: namespaces are prepared, and what was left
//! is removed.
//!
//! Making a network namespace takes the kernel milliseconds, and removing a link
//! takes tens of them, because it waits for everybody who may still look at it.
//! So a few namespaces are kept in stock, and links whose endpoint has left are
//! removed a little later, many at once. Nothing else is put off: an endpoint
//! that has left has no published port, no name and no pin any more. Its
//! addresses rest until its link is gone. Sockets by which the packet filter was
//! changed are closed here as well: the kernel first finishes what they began.
//!
//! A namespace in stock, or on its way out, is held by a descriptor alone: when
//! this process dies, the kernel removes it with its links. Links that outlive
//! that (somebody else is in the namespace) are known by their group.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use dhow_netlink::{Batch, Namespace, Socket};
use parking_lot::{Condvar, Mutex};

use crate::error::Error;
use crate::sandbox::Prepared;

/// Namespaces kept in stock.
const STOCK: usize = 8;
/// So few are added to at once.
const FEW: usize = 3;
/// Who was busy so recently is likely to go on: the kernel's locks are theirs.
const QUIET: Duration = Duration::from_millis(250);
/// The longest that anything waits for quiet.
const LONGEST: Duration = Duration::from_secs(2);
/// So many links are removed without waiting for quiet.
const MANY: usize = 64;

/// What remains of an endpoint that has left, or of a sandbox.
#[derive(Debug, Default)]
pub(crate) struct Remains {
    /// Name of the bridge's port; empty where there is none.
    pub(crate) port_link: String,
    /// Identifier of its network; empty where there is none.
    pub(crate) network: String,
    /// Addresses that its link has.
    pub(crate) addresses: Vec<IpAddr>,
    /// The sandbox's namespace.
    pub(crate) namespace: Option<Namespace>,
}

/// The groups that our links are in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Groups {
    /// Those in use.
    pub(crate) live: u32,
    /// Those to be removed.
    pub(crate) leaving: u32,
}

impl Groups {
    /// The groups of the instance with this name.
    pub(crate) fn of(name: &str) -> Self {
        // FNV-1a, halved and doubled: two neighbours, neither of them zero.
        let hash = name.bytes().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        let live = (hash & 0x7fff_fffe) | 0x4000_0000;
        Self {
            live,
            leaving: live + 1,
        }
    }
}

/// Does it all, on a thread of its own.
#[derive(Debug)]
pub(crate) struct Background {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    work: Mutex<Work>,
    wake: Condvar,
    /// Speaks to the host's kernel; whoever removes links holds it.
    socket: Mutex<Socket>,
    groups: Groups,
}

#[derive(Debug)]
struct Work {
    stock: Vec<Prepared>,
    /// Sockets to be closed.
    spent: Vec<Socket>,
    /// Queued, and being removed right now.
    waiting: Vec<Remains>,
    going: Vec<Remains>,
    /// When the first of those that wait came.
    since: Instant,
    /// When somebody last asked for something.
    busy: Instant,
    /// Whether anything was asked for since the stock was filled.
    fill: bool,
    stop: bool,
}

impl Background {
    /// Starts in the caller's network namespace.
    pub(crate) fn start(groups: Groups) -> Result<Self, Error> {
        let socket = Socket::route().map_err(Error::kernel("open rtnetlink"))?;
        let now = Instant::now();
        let shared = Arc::new(Shared {
            work: Mutex::new(Work {
                stock: Vec::new(),
                spent: Vec::new(),
                waiting: Vec::new(),
                going: Vec::new(),
                since: now,
                busy: now,
                fill: true,
                stop: false,
            }),
            wake: Condvar::new(),
            socket: Mutex::new(socket),
            groups,
        });
        let worker = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("dhow-network".into())
            .spawn(move || worker.run())
            .map_err(Error::file("a thread"))?;
        Ok(Self {
            shared,
            thread: Some(thread),
        })
    }

    /// A prepared namespace: from stock, or made now.
    pub(crate) fn take(&self) -> Result<Prepared, Error> {
        let taken = {
            let mut work = self.shared.work.lock();
            work.busy = Instant::now();
            work.fill = true;
            work.stock.pop()
        };
        self.shared.wake.notify_one();
        match taken {
            Some(prepared) => Ok(prepared),
            None => Prepared::make(),
        }
    }

    /// Says that somebody is busy with networks, and nothing is to be in their
    /// way.
    pub(crate) fn busy(&self) {
        self.shared.work.lock().busy = Instant::now();
    }

    /// Closes a socket when nobody waits.
    pub(crate) fn close(&self, socket: Option<Socket>) {
        let mut work = self.shared.work.lock();
        if work.spent.is_empty() {
            work.since = Instant::now();
        }
        work.spent.extend(socket);
        drop(work);
        self.shared.wake.notify_one();
    }

    /// Removes what remains of endpoints, soon.
    pub(crate) fn remove(&self, remains: Vec<Remains>) {
        if remains.is_empty() {
            return;
        }
        let mut work = self.shared.work.lock();
        let now = Instant::now();
        if work.waiting.is_empty() && work.spent.is_empty() {
            work.since = now;
        }
        work.busy = now;
        work.waiting.extend(remains);
        drop(work);
        self.shared.wake.notify_one();
    }

    /// Addresses of a network that links still have whose endpoints have left.
    pub(crate) fn resting(&self, network: &str) -> BTreeSet<IpAddr> {
        let work = self.shared.work.lock();
        work.waiting
            .iter()
            .chain(&work.going)
            .filter(|remains| remains.network == network)
            .flat_map(|remains| remains.addresses.iter().copied())
            .collect()
    }

    /// Returns when nothing waits to be removed any more.
    pub(crate) fn settle(&self) {
        self.shared.remove_waiting();
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        self.shared.work.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // A panic of its own was reported when it happened.
            let _ = thread.join();
        }
        self.settle();
    }
}

impl Shared {
    fn run(&self) {
        loop {
            let mut work = self.work.lock();
            let quiet_at = work.busy + QUIET;
            let remove_at = match work.waiting.len() + work.spent.len() {
                0 => None,
                MANY.. => Some(work.since),
                _ => Some(quiet_at.min(work.since + LONGEST)),
            };
            let fill_at = match work.stock.len() {
                _ if !work.fill => None,
                ..FEW => Some(work.busy),
                _ => Some(quiet_at),
            };
            if work.stop {
                return;
            }
            let now = Instant::now();
            match (remove_at, fill_at) {
                (Some(at), _) if at <= now => {
                    drop(work);
                    self.remove_waiting();
                }
                (_, Some(at)) if at <= now => {
                    drop(work);
                    self.fill();
                }
                (None, None) => self.wake.wait(&mut work),
                (one, other) => {
                    let at = one.into_iter().chain(other).min().unwrap_or(now);
                    self.wake.wait_until(&mut work, at);
                }
            }
        }
    }

    /// Adds one namespace to the stock.
    fn fill(&self) {
        let made = Prepared::make();
        let mut work = self.work.lock();
        match made {
            Ok(prepared) => {
                work.stock.push(prepared);
                work.fill = work.stock.len() < STOCK;
            }
            Err(error) => {
                // Whoever needs one is told then.
                tracing::warn!(%error, "no network namespace is prepared");
                work.fill = false;
            }
        }
    }

    fn remove_waiting(&self) {
        let socket = self.socket.lock();
        let (names, spent): (Vec<String>, Vec<Socket>) = {
            let mut work = self.work.lock();
            let Work { waiting, going, .. } = &mut *work;
            going.append(waiting);
            let links = going.iter().map(|remains| remains.port_link.clone());
            let names = links.filter(|name| !name.is_empty()).collect();
            (names, std::mem::take(&mut work.spent))
        };
        if let Err(error) = remove_links(&socket, self.groups, &names) {
            tracing::warn!(%error, ?names, "links are not removed");
        }
        // The namespaces go outside of the lock, which takes the kernel a while.
        let gone = std::mem::take(&mut self.work.lock().going);
        let namespaces: Vec<Namespace> = gone
            .into_iter()
            .filter_map(|remains| remains.namespace)
            .collect();
        drop((namespaces, spent));
    }
}

/// Removes links together; those that are gone already are no error.
pub(crate) fn remove_links(
    socket: &Socket,
    groups: Groups,
    names: &[String],
) -> Result<(), dhow_netlink::Error> {
    if names.is_empty() {
        return Ok(());
    }
    let mut batch = Batch::new();
    for name in names {
        batch.set_group(name, groups.leaving);
    }
    batch.delete_group(groups.leaving);
    for result in socket.run_each(&mut batch)? {
        match result {
            Err(error) if !error.is_not_found() => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_two_and_not_the_default_one() {
        for name in ["dhow", "dhow-test", ""] {
            let groups = Groups::of(name);
            assert!(groups.live != 0 && groups.leaving == groups.live + 1);
        }
        assert_ne!(Groups::of("dhow").live, Groups::of("dhow-b").live);
    }
}
