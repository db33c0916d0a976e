//! Who owns whom, and what follows from it. No I/O.
//!
//! What watches see goes in by [`Graph::apply`] and [`Graph::gone`]; objects
//! that must be thought about come out of [`Graph::take`]. Before anything is
//! done about one, it and those of its owners that no watch has shown are
//! looked up ([`Graph::question`]), and with the answers [`Graph::plan`] says
//! what to do.
//!
//! Bounded: an object that owns nothing, is owned by nothing and is not being
//! deleted is not kept. An owner that was never seen stands as a placeholder
//! until it has been looked up.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

pub(crate) const FOREGROUND: &str = "foregroundDeletion";
pub(crate) const ORPHAN: &str = "orphan";

pub(crate) type Uid = Arc<str>;

/// Group and kind; whatever version is spoken, it is the same object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct GroupKind {
    pub group: Arc<str>,
    pub kind: Arc<str>,
}

/// Where an object is to be found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Reference {
    pub kind: GroupKind,
    /// Empty for objects of the cluster.
    pub namespace: Arc<str>,
    pub name: Arc<str>,
    pub uid: Uid,
}

/// One owner of an object, as the object tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    pub kind: GroupKind,
    pub name: Arc<str>,
    pub uid: Uid,
    /// Whether the owner waits for this dependent when it waits at all.
    pub blocks: bool,
}

/// What matters here of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Seen {
    pub at: Reference,
    pub owners: Vec<Owner>,
    pub is_going: bool,
    pub finalizers: Vec<String>,
    pub version: String,
}

impl Seen {
    /// Whether this is a later state of the same object.
    fn is_newer(&self, other: &Self) -> bool {
        let number = |seen: &Self| seen.version.parse::<u64>().ok();
        matches!((number(self), number(other)), (Some(mine), Some(theirs)) if mine > theirs)
    }

    fn has(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|one| one == finalizer)
    }

    /// Whether it goes only after its dependents.
    fn waits(&self) -> bool {
        self.is_going && self.has(FOREGROUND)
    }

    fn orphans(&self) -> bool {
        self.is_going && self.has(ORPHAN)
    }
}

#[derive(Debug)]
struct Node {
    at: Reference,
    /// `None` until a watch or a look-up has shown it.
    seen: Option<Seen>,
    dependents: BTreeSet<Uid>,
}

/// What a look-up found.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    /// The object as it is, if it is the one with the uid.
    There(Seen),
    /// It is not there, or another has its name.
    Absent,
    /// Its kind is not known: nothing is concluded.
    Unknown,
}

/// What is to be looked up before anything is done about an object.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub item: Reference,
    /// Its owners that are not known to be there. Each may be an object of
    /// the cluster or of the item's namespace: its kind tells.
    pub owners: Vec<Reference>,
}

/// How an object's dependents are treated when it is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Policy {
    Background,
    Foreground,
    Orphan,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    Nothing,
    /// Delete it, if it still is as it was seen.
    Delete {
        item: Seen,
        policy: Policy,
    },
    /// Take these owners off it.
    Disown {
        item: Seen,
        owners: Vec<Uid>,
    },
    /// Let no owner wait for it: they wait for each other in a circle.
    Unblock {
        item: Seen,
    },
    /// Take a finalizer off it, after it has been taken off its dependents'
    /// owners.
    Finish {
        item: Seen,
        finalizer: &'static str,
        disown: Vec<Reference>,
    },
}

/// Who owns whom.
#[derive(Debug, Default)]
pub(crate) struct Graph {
    nodes: HashMap<Uid, Node>,
    dirty: BTreeSet<Uid>,
}

impl Graph {
    /// How many objects are kept.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.nodes.len()
    }

    /// An object is there or changed.
    pub(crate) fn apply(&mut self, seen: Seen) {
        let uid = Arc::clone(&seen.at.uid);
        let is_known = self.nodes.contains_key(&uid);
        if !is_known && seen.owners.is_empty() && !seen.is_going {
            return;
        }
        let before = self.nodes.get(&uid).and_then(|node| node.seen.clone());
        if before.as_ref().is_some_and(|known| known.is_newer(&seen)) {
            return;
        }
        let before_owners = before.as_ref().map_or(&[][..], |seen| &seen.owners[..]);
        let owners_changed = before_owners != seen.owners;
        let begins_to_wait = seen.waits() && !before.as_ref().is_some_and(Seen::waits);
        let begins_to_orphan = seen.orphans() && !before.as_ref().is_some_and(Seen::orphans);
        let (owners, at, is_going) = (seen.owners.clone(), seen.at.clone(), seen.is_going);
        let node = self.nodes.entry(Arc::clone(&uid)).or_insert_with(|| Node {
            at: at.clone(),
            seen: None,
            dependents: BTreeSet::new(),
        });
        node.at = at.clone();
        node.seen = Some(seen);
        if begins_to_wait || begins_to_orphan {
            self.dirty.insert(Arc::clone(&uid));
        }
        if begins_to_wait {
            self.dirty.extend(node.dependents.iter().cloned());
        }
        if before.is_none() {
            // What was said of a placeholder may have been wrong.
            let dependents = self.nodes.get(&uid).map(|node| &node.dependents);
            let mistaken: Vec<Uid> = dependents
                .into_iter()
                .flatten()
                .filter(|dependent| !self.agrees(dependent, &at))
                .cloned()
                .collect();
            self.dirty.extend(mistaken);
        }
        if owners_changed {
            self.relink(&uid, &at, before_owners, &owners);
        } else if !is_going {
            self.keep_linked(&uid, &at, &owners);
        }
        self.forget_if_idle(&uid);
    }

    /// Makes sure that an object is heard of by its owners. One of them may
    /// have been taken for gone, and with it who depends on it, because a
    /// watch told late.
    fn keep_linked(&mut self, uid: &Uid, at: &Reference, owners: &[Owner]) {
        for owner in owners {
            match self.nodes.get_mut(&owner.uid) {
                Some(node) => {
                    node.dependents.insert(Arc::clone(uid));
                }
                None => self.relink(uid, at, &[], std::slice::from_ref(owner)),
            }
        }
    }

    /// Whether what an object says of its owner is what the owner is.
    fn agrees(&self, dependent: &Uid, owner: &Reference) -> bool {
        let Some(node) = self.nodes.get(dependent) else {
            return true;
        };
        let said = node
            .seen
            .iter()
            .flat_map(|seen| &seen.owners)
            .find(|said| said.uid == owner.uid);
        said.is_none_or(|said| is_it(&node.at.namespace, said, owner))
    }

    fn relink(&mut self, uid: &Uid, at: &Reference, before: &[Owner], after: &[Owner]) {
        for owner in before {
            if after.iter().any(|other| other.uid == owner.uid) {
                continue;
            }
            if let Some(node) = self.nodes.get_mut(&owner.uid) {
                node.dependents.remove(uid);
                if node.seen.as_ref().is_some_and(Seen::waits) {
                    self.dirty.insert(Arc::clone(&owner.uid));
                }
            }
            self.forget_if_idle(&owner.uid);
        }
        for owner in after {
            let node = self
                .nodes
                .entry(Arc::clone(&owner.uid))
                .or_insert_with(|| Node {
                    at: Reference {
                        kind: owner.kind.clone(),
                        namespace: Arc::clone(&at.namespace),
                        name: Arc::clone(&owner.name),
                        uid: Arc::clone(&owner.uid),
                    },
                    seen: None,
                    dependents: BTreeSet::new(),
                });
            node.dependents.insert(Arc::clone(uid));
            match &node.seen {
                // A placeholder: is it there at all?
                None => {
                    self.dirty.insert(Arc::clone(&owner.uid));
                }
                Some(seen) if !is_it(&at.namespace, owner, &seen.at) => {
                    self.dirty.insert(Arc::clone(uid));
                }
                Some(seen) if seen.waits() => {
                    self.dirty.insert(Arc::clone(uid));
                    self.dirty.insert(Arc::clone(&owner.uid));
                }
                Some(_) => {}
            }
        }
    }

    /// An object is gone.
    pub(crate) fn gone(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else {
            return;
        };
        self.dirty.remove(uid);
        for owner in node.seen.iter().flat_map(|seen| &seen.owners) {
            if let Some(owner) = self.nodes.get_mut(&owner.uid) {
                owner.dependents.remove(uid);
                if owner.seen.as_ref().is_some_and(Seen::waits) {
                    self.dirty.insert(Arc::clone(&owner.at.uid));
                }
            }
            self.forget_if_idle(&owner.uid);
        }
        self.dirty.extend(node.dependents);
    }

    /// Of this kind only these are there.
    pub(crate) fn only(&mut self, kind: &GroupKind, uids: &HashSet<Uid>) {
        let gone: Vec<Uid> = self
            .nodes
            .values()
            .filter(|node| node.seen.is_some() && node.at.kind == *kind)
            .map(|node| Arc::clone(&node.at.uid))
            .filter(|uid| !uids.contains(uid))
            .collect();
        for uid in gone {
            self.gone(&uid);
        }
    }

    /// Kinds became known: placeholders are looked up again.
    pub(crate) fn doubt(&mut self) {
        let unseen = self.nodes.values().filter(|node| node.seen.is_none());
        self.dirty
            .extend(unseen.map(|node| Arc::clone(&node.at.uid)));
    }

    /// Thinks about an object again.
    pub(crate) fn again(&mut self, uid: &Uid) {
        if self.nodes.contains_key(uid) {
            self.dirty.insert(Arc::clone(uid));
        }
    }

    /// The next object to think about that is not busy already.
    pub(crate) fn take(&mut self, is_busy: impl Fn(&Uid) -> bool) -> Option<Question> {
        loop {
            let uid = self.dirty.iter().find(|uid| !is_busy(uid))?;
            let uid = Arc::clone(uid);
            self.dirty.remove(&uid);
            if let Some(question) = self.question(&uid) {
                return Some(question);
            }
        }
    }

    fn question(&self, uid: &Uid) -> Option<Question> {
        let node = self.nodes.get(uid)?;
        let owners = node.seen.iter().flat_map(|seen| &seen.owners);
        Some(Question {
            item: node.at.clone(),
            owners: owners
                .filter(|owner| self.known(&node.at.namespace, owner).is_none())
                .map(|owner| Reference {
                    kind: owner.kind.clone(),
                    namespace: Arc::clone(&node.at.namespace),
                    name: Arc::clone(&owner.name),
                    uid: Arc::clone(&owner.uid),
                })
                .collect(),
        })
    }

    /// The owner, if it has been seen and is what it is said to be.
    fn known(&self, namespace: &str, owner: &Owner) -> Option<&Seen> {
        self.nodes
            .get(&owner.uid)?
            .seen
            .as_ref()
            .filter(|seen| is_it(namespace, owner, &seen.at))
    }

    /// What to do about an object, given what look-ups found of it and of the
    /// owners asked for.
    pub(crate) fn plan(&mut self, uid: &Uid, item: Answer, owners: &[(Uid, Answer)]) -> Step {
        if !self.nodes.contains_key(uid) {
            // It went after it had been looked up: the answer is older.
            return Step::Nothing;
        }
        let item = match item {
            Answer::There(seen) => seen,
            Answer::Absent => {
                self.gone(uid);
                return Step::Nothing;
            }
            Answer::Unknown => return Step::Nothing,
        };
        self.apply(item.clone());
        let Some(node) = self.nodes.get(uid) else {
            return Step::Nothing;
        };
        if item.orphans() {
            let disown = node
                .dependents
                .iter()
                .filter_map(|dependent| Some(self.nodes.get(dependent)?.at.clone()))
                .collect();
            return Step::Finish {
                item,
                finalizer: ORPHAN,
                disown,
            };
        }
        if item.waits() {
            return self.wait(uid, item);
        }
        if item.is_going || item.owners.is_empty() {
            return Step::Nothing;
        }
        let (mut n_solid, mut dangling, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in &item.owners {
            let answer = owners.iter().find(|(uid, _)| *uid == owner.uid);
            let seen = match (self.known(&item.at.namespace, owner), answer) {
                (Some(seen), _) => Some(seen),
                (None, Some((_, Answer::There(seen)))) => Some(seen),
                (None, Some((_, Answer::Absent))) => None,
                (None, Some((_, Answer::Unknown))) => {
                    n_solid += 1;
                    continue;
                }
                // It became an owner after the question.
                (None, None) => {
                    self.dirty.insert(Arc::clone(uid));
                    return Step::Nothing;
                }
            };
            match seen {
                None => dangling.push(Arc::clone(&owner.uid)),
                Some(seen) if seen.waits() => waiting.push(Arc::clone(&owner.uid)),
                Some(_) => n_solid += 1,
            }
        }
        if n_solid > 0 {
            dangling.extend(waiting);
            return if dangling.is_empty() {
                Step::Nothing
            } else {
                Step::Disown {
                    item,
                    owners: dangling,
                }
            };
        }
        let has_dependents = !node.dependents.is_empty();
        if !waiting.is_empty() && has_dependents {
            let is_circle = node.dependents.iter().any(|dependent| {
                self.nodes
                    .get(dependent)
                    .and_then(|node| node.seen.as_ref())
                    .is_some_and(Seen::waits)
            });
            if is_circle && item.owners.iter().any(|owner| owner.blocks) {
                return Step::Unblock { item };
            }
            return Step::Delete {
                item,
                policy: Policy::Foreground,
            };
        }
        let policy = if item.has(ORPHAN) {
            Policy::Orphan
        } else if item.has(FOREGROUND) {
            Policy::Foreground
        } else {
            Policy::Background
        };
        Step::Delete { item, policy }
    }

    /// An object that goes after its dependents: is it its turn?
    fn wait(&mut self, uid: &Uid, item: Seen) -> Step {
        let Some(node) = self.nodes.get(uid) else {
            return Step::Nothing;
        };
        let blocking: Vec<&Node> = node
            .dependents
            .iter()
            .filter_map(|dependent| self.nodes.get(dependent))
            .filter(|dependent| {
                dependent
                    .seen
                    .iter()
                    .flat_map(|seen| &seen.owners)
                    .any(|owner| owner.uid == *uid && owner.blocks)
            })
            .collect();
        if blocking.is_empty() {
            return Step::Finish {
                item,
                finalizer: FOREGROUND,
                disown: Vec::new(),
            };
        }
        let idle: Vec<Uid> = blocking
            .into_iter()
            .filter(|node| node.seen.as_ref().is_some_and(|seen| !seen.is_going))
            .map(|node| Arc::clone(&node.at.uid))
            .collect();
        self.dirty.extend(idle);
        Step::Nothing
    }

    fn forget_if_idle(&mut self, uid: &Uid) {
        let is_idle = self.nodes.get(uid).is_some_and(|node| {
            node.dependents.is_empty()
                && node
                    .seen
                    .as_ref()
                    .is_none_or(|seen| seen.owners.is_empty() && !seen.is_going)
        });
        if is_idle {
            self.nodes.remove(uid);
            self.dirty.remove(uid);
        }
    }
}

/// Whether an owner, as a dependent in this namespace tells it, is that
/// object: an owner is in the same namespace or in none.
fn is_it(namespace: &str, said: &Owner, is: &Reference) -> bool {
    said.uid == is.uid
        && said.kind == is.kind
        && said.name == is.name
        && (is.namespace.is_empty() || *is.namespace == *namespace)
}
