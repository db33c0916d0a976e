//! Pins: protection of snapshots from the sweep, as leases are for blobs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use dhow_oci::Digest;

/// How many pins each chain id has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pins(Arc<Mutex<HashMap<Digest, usize>>>);

/// Keeps chain ids from being swept until it is dropped.
#[derive(Debug)]
pub(crate) struct Pin {
    pins: Pins,
    chain_ids: Vec<Digest>,
}

impl Pins {
    /// Protects these snapshots, whether they exist yet or not. Waits for a
    /// sweep that is under way.
    pub(crate) fn pin(&self, chain_ids: impl IntoIterator<Item = Digest>) -> Pin {
        let chain_ids: Vec<Digest> = chain_ids.into_iter().collect();
        let mut counts = self.lock();
        for chain_id in &chain_ids {
            *counts.entry(chain_id.clone()).or_default() += 1;
        }
        drop(counts);
        Pin {
            pins: self.clone(),
            chain_ids,
        }
    }

    /// Keeps anybody from pinning while it is held.
    pub(crate) fn lock(&self) -> MutexGuard<'_, HashMap<Digest, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut counts = self.pins.lock();
        for chain_id in &self.chain_ids {
            if let Some(count) = counts.get_mut(chain_id) {
                *count -= 1;
                if *count == 0 {
                    counts.remove(chain_id);
                }
            }
        }
    }
}
