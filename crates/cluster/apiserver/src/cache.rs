//! The watch cache: per resource the newest objects and one ring of changes.
//!
//! A watcher is a cursor into the ring, a list is a walk over shared objects.
//! One thread feeds all caches from one watch of the store, in its order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, OnceLock, Weak};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use dhow_store::{Event, KeyValue, Range, Store, StoreError};
use parking_lot::RwLock;
use tokio::sync::watch;

use crate::error::ApiError;
use crate::object::{Object, Shared};
use crate::resource::{Registry, Resource};

/// What a change is to a watcher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Added,
    Modified,
    Deleted,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object.
#[derive(Debug)]
pub(crate) struct Change {
    pub revision: u64,
    pub old: Option<Shared>,
    /// `None`: the object is gone.
    pub new: Option<Shared>,
    /// What a watcher that loses sight of the object is shown: its last state
    /// at this revision.
    last: OnceLock<Shared>,
    frames: [OnceLock<Bytes>; 3],
}

impl Change {
    /// The object to show with a kind of change.
    pub(crate) fn shown(&self, kind: Kind) -> Option<Shared> {
        match kind {
            Kind::Added | Kind::Modified => self.new.clone(),
            Kind::Deleted => {
                let old = self.old.as_ref()?;
                Some(
                    self.last
                        .get_or_init(|| Arc::new(old.at_revision(self.revision)))
                        .clone(),
                )
            }
        }
    }

    /// The change as a line of a watch, made once for all watchers.
    pub(crate) fn frame(&self, kind: Kind) -> Option<Bytes> {
        let shown = self.shown(kind)?;
        Some(
            self.frames[kind as usize]
                .get_or_init(|| frame(kind.name(), &shown.json))
                .clone(),
        )
    }
}

/// A line of a watch.
pub(crate) fn frame(kind: &str, object: &[u8]) -> Bytes {
    let mut line = BytesMut::with_capacity(object.len() + 40);
    line.put_slice(b"{\"type\":\"");
    line.put_slice(kind.as_bytes());
    line.put_slice(b"\",\"object\":");
    line.put_slice(object);
    line.put_slice(b"}\n");
    line.freeze()
}

/// A ring keeps at most so many changes.
const MOST_CHANGES: usize = 8192;
/// And at most so many bytes of objects.
const MOST_BYTES: usize = 16 << 20;

#[derive(Default)]
struct State {
    objects: BTreeMap<Box<str>, Shared>,
    ring: VecDeque<Arc<Change>>,
    ring_bytes: usize,
    /// Every change after this revision is in the ring.
    since: u64,
}

/// The cache of one resource.
pub(crate) struct Cache {
    state: RwLock<State>,
    changed: watch::Sender<u64>,
}

impl Cache {
    fn new() -> Self {
        Self {
            state: RwLock::default(),
            changed: watch::channel(0).0,
        }
    }

    /// The newest version of an object; the key has no resource prefix.
    pub(crate) fn get(&self, key: &str) -> Option<Shared> {
        self.state.read().objects.get(key).cloned()
    }

    /// Objects whose keys begin with a prefix, and the revision of the newest
    /// change they show.
    pub(crate) fn list(&self, prefix: &str) -> (Vec<Shared>, u64) {
        let state = self.state.read();
        let newest = state.ring.back().map_or(state.since, |last| last.revision);
        let objects = state
            .objects
            .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix))
            .map(|(_, object)| object.clone())
            .collect();
        (objects, newest)
    }

    /// The revision of the newest change.
    pub(crate) fn newest(&self) -> u64 {
        let state = self.state.read();
        state.ring.back().map_or(state.since, |last| last.revision)
    }

    /// A receiver that wakes at every change of this resource.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Changes after a revision, in order, at most `most`.
    ///
    /// # Errors
    /// The oldest revision that can still be told, if it is later.
    pub(crate) fn changes(&self, after: u64, most: usize) -> Result<Vec<Arc<Change>>, u64> {
        let state = self.state.read();
        if after < state.since {
            return Err(state.since);
        }
        let start = state
            .ring
            .partition_point(|change| change.revision <= after);
        let end = (start + most).min(state.ring.len());
        // A transaction may change several objects at one revision; a cursor
        // must not stop between them.
        let end = match state.ring.get(end.wrapping_sub(1)) {
            Some(last) if end > start => {
                let last = last.revision;
                end + state
                    .ring
                    .range(end..)
                    .take_while(|change| change.revision == last)
                    .count()
            }
            _ => end,
        };
        Ok(state.ring.range(start..end).cloned().collect())
    }

    fn apply(&self, key: &str, new: Option<Shared>, revision: u64) {
        let mut state = self.state.write();
        let old = match &new {
            Some(new) => state.objects.insert(key.into(), new.clone()),
            None => state.objects.remove(key),
        };
        if old.is_none() && new.is_none() {
            return;
        }
        let weigh = |change: &Change| change.new.as_ref().map_or(0, |new| new.json.len());
        let change = Arc::new(Change {
            revision,
            old,
            new,
            last: OnceLock::new(),
            frames: Default::default(),
        });
        state.ring_bytes += weigh(&change);
        state.ring.push_back(change);
        while state.ring.len() > MOST_CHANGES || state.ring_bytes > MOST_BYTES {
            let Some(dropped) = state.ring.pop_front() else {
                break;
            };
            state.ring_bytes -= weigh(&dropped);
            state.since = dropped.revision;
        }
        drop(state);
        self.changed.send_replace(revision);
    }
}

/// The caches of all resources.
pub(crate) struct Caches {
    caches: Vec<Option<Cache>>,
    /// Storage prefix to resource, for stored resources that are no views.
    prefixes: BTreeMap<String, usize>,
    /// Everything up to this revision is in the caches.
    progress: watch::Sender<u64>,
}

/// A store that cannot be read is tried again after this time.
const BEFORE_AGAIN: Duration = Duration::from_secs(1);
/// A read waits at most so long for the caches to catch up.
const CATCH_UP: Duration = Duration::from_secs(10);

impl Caches {
    /// Reads the whole store and begins to follow it.
    pub(crate) fn start(
        registry: &Arc<Registry>,
        store: &Arc<dyn Store>,
    ) -> Result<Arc<Self>, ApiError> {
        let mut prefixes = BTreeMap::new();
        let mut caches = Vec::new();
        for resource in registry.iter() {
            let own = resource.is_stored() && resource.view.is_none();
            caches.push(own.then(Cache::new));
            if own {
                prefixes.insert(resource.key_prefix(""), resource.index);
            }
        }
        let this = Arc::new(Self {
            caches,
            prefixes,
            progress: watch::channel(0).0,
        });
        let watch = this.read_anew(registry, &**store)?;
        let weak = Arc::downgrade(&this);
        let (registry, store) = (registry.clone(), Arc::downgrade(store));
        std::thread::Builder::new()
            .name("watch-cache".to_owned())
            .spawn(move || feed(&weak, &registry, &store, watch))
            .map_err(ApiError::internal)?;
        Ok(this)
    }

    /// The cache of a resource, or of what it is a view of.
    pub(crate) fn of(&self, resource: &Resource) -> &Cache {
        let index = resource.view.map_or(resource.index, |(stored, _)| stored);
        self.caches[index]
            .as_ref()
            .expect("only stored resources are read")
    }

    /// The revision the caches have reached.
    pub(crate) fn revision(&self) -> u64 {
        *self.progress.borrow()
    }

    /// Waits until the caches have everything up to a revision.
    pub(crate) async fn reach(&self, revision: u64) -> Result<(), ApiError> {
        if *self.progress.borrow() >= revision {
            return Ok(());
        }
        let mut progress = self.progress.subscribe();
        let reached = progress.wait_for(|reached| *reached >= revision);
        match tokio::time::timeout(CATCH_UP, reached).await {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::Future {
                asked: revision,
                newest: self.revision(),
            }
            .into()),
        }
    }

    fn put(&self, resource: &Resource, prefix: &str, kv: &KeyValue) {
        if let Some(object) = describe(resource, kv)
            && let Some(cache) = &self.caches[resource.index]
        {
            let key = &kv.key[prefix.len()..];
            cache.apply(key, Some(Arc::new(object)), kv.mod_revision);
        }
    }

    /// Replaces everything by what the store has now. Watchers that had not
    /// seen all of it by then are told that they are too late.
    fn read_anew(
        &self,
        registry: &Registry,
        store: &dyn Store,
    ) -> Result<Box<dyn dhow_store::Watch>, StoreError> {
        let revision = store.revision();
        let mut read = Vec::with_capacity(self.prefixes.len());
        for (prefix, &index) in &self.prefixes {
            let listing = store.range(&Range {
                revision: Some(revision),
                ..Range::prefix(prefix)
            })?;
            let resource = registry.get(index);
            let objects: BTreeMap<Box<str>, Shared> = listing
                .kvs
                .iter()
                .filter_map(|kv| {
                    let object = describe(resource, kv)?;
                    Some((kv.key[prefix.len()..].into(), Arc::new(object)))
                })
                .collect();
            read.push((index, objects));
        }
        let watch = store.watch("/registry/", revision + 1)?;
        for (index, objects) in read {
            if let Some(cache) = &self.caches[index] {
                *cache.state.write() = State {
                    objects,
                    since: revision,
                    ..State::default()
                };
                cache.changed.send_replace(revision);
            }
        }
        self.progress.send_replace(revision);
        Ok(watch)
    }

    /// The resource prefix a key begins with.
    fn prefix_of(&self, key: &str) -> Option<(&str, usize)> {
        self.prefixes
            .range::<str, _>((Bound::Unbounded, Bound::Included(key)))
            .next_back()
            .filter(|(prefix, _)| key.starts_with(prefix.as_str()))
            .map(|(prefix, &index)| (prefix.as_str(), index))
    }

    fn take(&self, registry: &Registry, event: &Event) {
        let Some((prefix, index)) = self.prefix_of(event.key()) else {
            return;
        };
        match event {
            Event::Put(kv) => self.put(registry.get(index), prefix, kv),
            Event::Delete { key, mod_revision } => {
                if let Some(cache) = &self.caches[index] {
                    cache.apply(&key[prefix.len()..], None, *mod_revision);
                }
            }
        }
    }
}

/// A stored object; one that makes no sense is told of and left out.
fn describe(resource: &Resource, kv: &KeyValue) -> Option<Object> {
    Object::from_stored(resource, &kv.value, kv.mod_revision)
        .inspect_err(|error| {
            tracing::error!(key = &*kv.key, %error, "a stored object is left out");
        })
        .ok()
}

/// Follows the store until it or the caches go.
fn feed(
    caches: &Weak<Caches>,
    registry: &Registry,
    store: &Weak<dyn Store>,
    mut watch: Box<dyn dhow_store::Watch>,
) {
    loop {
        let batch = match watch.next(Duration::from_secs(1)) {
            Ok(batch) => batch,
            Err(StoreError::Closed) => return,
            Err(error) => {
                // A compaction past the cursor, say: what lies between is not
                // to be had any more.
                tracing::warn!(%error, "the watch cache lost the store; it is read anew");
                let (Some(caches), Some(store)) = (caches.upgrade(), store.upgrade()) else {
                    return;
                };
                match caches.read_anew(registry, &*store) {
                    Ok(fresh) => watch = fresh,
                    Err(StoreError::Closed) => return,
                    Err(error) => {
                        tracing::error!(%error, "the store cannot be read");
                        std::thread::sleep(BEFORE_AGAIN);
                    }
                }
                continue;
            }
        };
        let Some(caches) = caches.upgrade() else {
            return;
        };
        for event in &batch.events {
            caches.take(registry, event);
        }
        if batch.revision > *caches.progress.borrow() {
            caches.progress.send_replace(batch.revision);
        }
    }
}
