//! Watches: one ring of recent changes, cursors into it, history from the log.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::Shared;
use crate::{Batch, Event, StoreError, Watch};

/// The ring of recent changes.
pub(crate) struct Hub {
    ring: Mutex<Ring>,
    changed: Condvar,
    most_events: usize,
    most_bytes: usize,
}

struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    /// Changes after this revision are all in the ring.
    since: u64,
    /// Changes up to this revision have been told.
    revision: u64,
    closed: bool,
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Put(kv) => kv.value.len(),
        Event::Delete { .. } => 0,
    }
}

impl Hub {
    pub(crate) fn new(revision: u64, most_events: usize, most_bytes: usize) -> Self {
        Self {
            ring: Mutex::new(Ring {
                events: VecDeque::new(),
                bytes: 0,
                since: revision,
                revision,
                closed: false,
            }),
            changed: Condvar::new(),
            most_events,
            most_bytes,
        }
    }

    /// Tells changes that are in the index already.
    pub(crate) fn publish(&self, events: Vec<Arc<Event>>, revision: u64) {
        let mut ring = self.ring.lock();
        for event in events {
            ring.bytes += weight(&event);
            ring.events.push_back(event);
        }
        ring.revision = revision;
        while ring.events.len() > self.most_events || ring.bytes > self.most_bytes {
            let Some(dropped) = ring.events.pop_front() else {
                break;
            };
            ring.bytes -= weight(&dropped);
            ring.since = dropped.revision();
        }
        drop(ring);
        self.changed.notify_all();
    }

    pub(crate) fn close(&self) {
        self.ring.lock().closed = true;
        self.changed.notify_all();
    }
}

/// A cursor.
pub(crate) struct Watcher {
    shared: Arc<Shared>,
    prefix: String,
    /// The next revision to tell.
    next: u64,
}

/// A batch has at most about so many changes.
const MOST_IN_BATCH: usize = 4096;

impl Watcher {
    pub(crate) fn new(shared: Arc<Shared>, prefix: &str, from: u64) -> Result<Self, StoreError> {
        let next = {
            let index = shared.index.read();
            if from != 0 && from <= index.compacted {
                return Err(StoreError::Compacted {
                    compacted: index.compacted,
                });
            }
            if from == 0 { index.revision + 1 } else { from }
        };
        Ok(Self {
            shared,
            prefix: prefix.to_owned(),
            next,
        })
    }

    /// Changes that left the ring, from the log.
    fn history(&mut self, to: u64) -> Result<Batch, StoreError> {
        let mut found = {
            let index = self.shared.index.read();
            if self.next <= index.compacted {
                return Err(StoreError::Compacted {
                    compacted: index.compacted,
                });
            }
            index.since(&self.prefix, self.next, to)
        };
        let mut to = to;
        if found.len() > MOST_IN_BATCH {
            // Cut between revisions, never inside one.
            let last = found[MOST_IN_BATCH - 1].1.mod_revision;
            found.retain(|(_, version)| version.mod_revision <= last);
            to = last;
        }
        let mut events = Vec::with_capacity(found.len());
        for (key, version) in found {
            events.push(Arc::new(if version.is_deletion() {
                Event::Delete {
                    key,
                    mod_revision: version.mod_revision,
                }
            } else {
                Event::Put(self.shared.read(key, version)?)
            }));
        }
        self.next = to + 1;
        Ok(Batch {
            events,
            revision: to,
        })
    }
}

impl Watch for Watcher {
    fn next(&mut self, timeout: Duration) -> Result<Batch, StoreError> {
        let deadline = Instant::now() + timeout;
        let shared = self.shared.clone();
        let mut ring = shared.hub.ring.lock();
        loop {
            if ring.revision >= self.next {
                if self.next <= ring.since {
                    let to = ring.since;
                    drop(ring);
                    return self.history(to);
                }
                let start = ring
                    .events
                    .partition_point(|event| event.revision() < self.next);
                let events = ring
                    .events
                    .range(start..)
                    .filter(|event| event.key().starts_with(&self.prefix))
                    .cloned()
                    .collect();
                let revision = ring.revision;
                self.next = revision + 1;
                return Ok(Batch { events, revision });
            }
            if ring.closed {
                return Err(StoreError::Closed);
            }
            if shared
                .hub
                .changed
                .wait_until(&mut ring, deadline)
                .timed_out()
            {
                return Ok(Batch {
                    events: Vec::new(),
                    revision: ring.revision,
                });
            }
        }
    }
}
