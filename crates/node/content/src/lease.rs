//! Leases: protection from the sweep for as long as a piece of work lasts.

use std::collections::HashSet;
use std::sync::Mutex;

use dhow_oci::Digest;

use crate::Store;
use crate::store::lock;

/// Keeps what it holds from being swept until it is dropped.
///
/// A lease belongs to the process: after a crash, what was only leased goes
/// with the next sweep. Hold a digest before looking whether its blob exists.
#[derive(Debug)]
pub struct Lease {
    store: Store,
    mine: Mutex<HashSet<Digest>>,
}

impl Lease {
    pub(crate) fn new(store: Store) -> Lease {
        Lease {
            store,
            mine: Mutex::default(),
        }
    }

    /// Protects a blob, whether it exists yet or not. Waits for a sweep that
    /// is under way.
    pub fn hold(&self, digest: &Digest) {
        // The store's lock first, as everywhere.
        let mut held = lock(&self.store.inner.held);
        if lock(&self.mine).insert(digest.clone()) {
            *held.entry(digest.clone()).or_default() += 1;
        }
    }

    /// What it holds.
    pub(crate) fn digests(&self) -> Vec<Digest> {
        lock(&self.mine).iter().cloned().collect()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = lock(&self.store.inner.held);
        for digest in lock(&self.mine).drain() {
            if let Some(count) = held.get_mut(&digest) {
                *count -= 1;
                if *count == 0 {
                    held.remove(&digest);
                }
            }
        }
    }
}
