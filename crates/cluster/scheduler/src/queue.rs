//! Pods that have no node yet, and when each is looked at.
//!
//! ```text
//!            pop              refused            something that could help
//! active ----------> in hand ----------> waiting ---------------+
//!    ^                  |                                       |
//!    |                  | failed                                v
//!    +----- due ---- backing off <-------- too early ---- (its time?) -- due --> active
//! ```
//!
//! Time is handed in; nothing here waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::filter::Reason;
use crate::pod::PodFacts;

/// Pods that were refused are left alone for so long at first, then twice as
/// long each time, up to the most.
const FIRST_BACK_OFF: Duration = Duration::from_secs(1);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(10);
/// A pod that nothing woke for so long is looked at anyway.
const REPAIR: Duration = Duration::from_secs(300);

/// Why nodes refused a pod, and how many.
pub(crate) type Reasons = BTreeMap<Reason, usize>;

#[derive(Debug, Clone)]
enum Place {
    Active,
    InHand,
    BackingOff { until: Instant },
    Waiting { since: Instant, reasons: Reasons },
}

#[derive(Debug)]
struct Entry {
    pod: Arc<PodFacts>,
    place: Place,
    attempts: u32,
    /// Not active before.
    not_before: Option<Instant>,
    number: u64,
}

/// Greater priority first, then older, then first come.
type Rank = (Reverse<i32>, i64, u64, Arc<str>);

fn rank(entry: &Entry) -> Rank {
    let pod = &entry.pod;
    (
        Reverse(pod.priority),
        pod.created,
        entry.number,
        Arc::clone(&pod.uid),
    )
}

/// The queue.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Arc<str>, Entry>,
    active: BTreeSet<Rank>,
    backing_off: BTreeSet<(Instant, Arc<str>)>,
    waiting: BTreeSet<(Instant, Arc<str>)>,
    next_number: u64,
}

impl Queue {
    /// Adds a pod, or takes note of how it changed. One whose wishes changed
    /// is looked at again.
    pub fn upsert(&mut self, pod: Arc<PodFacts>, now: Instant) {
        let Some(entry) = self.entries.get_mut(&pod.uid) else {
            self.next_number += 1;
            let entry = Entry {
                place: Place::Active,
                attempts: 0,
                not_before: None,
                number: self.next_number,
                pod,
            };
            self.active.insert(rank(&entry));
            self.entries.insert(Arc::clone(&entry.pod.uid), entry);
            return;
        };
        let changed = !wishes_the_same(&entry.pod, &pod);
        let uid = Arc::clone(&pod.uid);
        match entry.place {
            Place::Active => {
                self.active.remove(&rank(entry));
                entry.pod = pod;
                self.active.insert(rank(entry));
            }
            Place::Waiting { .. } if changed => {
                entry.pod = pod;
                self.activate(&uid, now);
            }
            _ => entry.pod = pod,
        }
    }

    /// Forgets a pod.
    pub fn remove(&mut self, uid: &str) {
        if let Some(entry) = self.entries.remove(uid) {
            self.unlink(&entry);
        }
    }

    /// Takes the pod that is next, if one is due; it stays in hand until
    /// [`Queue::park`], [`Queue::back_off`] or [`Queue::remove`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodFacts>> {
        self.advance(now);
        let (_, _, _, uid) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InHand;
        entry.attempts += 1;
        Some(Arc::clone(&entry.pod))
    }

    /// Whether a pod is due.
    pub fn has_due(&self, now: Instant) -> bool {
        !self.active.is_empty() || self.next_due().is_some_and(|due| due <= now)
    }

    /// When a pod will be due if nothing happens.
    pub fn next_due(&self) -> Option<Instant> {
        let backing_off = self.backing_off.first().map(|(until, _)| *until);
        let waiting = self.waiting.first().map(|(since, _)| *since + REPAIR);
        backing_off.into_iter().chain(waiting).min()
    }

    /// Puts a pod in hand to those that wait for something to help them.
    pub fn park(&mut self, uid: &str, reasons: Reasons, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        entry.not_before = Some(now + back_off(entry.attempts));
        entry.place = Place::Waiting {
            since: now,
            reasons,
        };
        self.waiting.insert((now, Arc::clone(&entry.pod.uid)));
    }

    /// Puts a pod in hand aside for a while, after a failure.
    pub fn back_off(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get_mut(uid) else {
            return;
        };
        let until = now + back_off(entry.attempts);
        entry.not_before = Some(until);
        entry.place = Place::BackingOff { until };
        self.backing_off.insert((until, Arc::clone(&entry.pod.uid)));
    }

    /// Wakes the waiting pods that `helps` says yes to.
    pub fn wake(&mut self, now: Instant, helps: impl Fn(&PodFacts, &Reasons) -> bool) {
        let woken: Vec<Arc<str>> = self
            .waiting
            .iter()
            .filter(|(_, uid)| {
                self.entries.get(uid).is_some_and(|entry| {
                    matches!(&entry.place, Place::Waiting { reasons, .. } if helps(&entry.pod, reasons))
                })
            })
            .map(|(_, uid)| Arc::clone(uid))
            .collect();
        for uid in woken {
            self.activate(&uid, now);
        }
    }

    /// Uids of all pods that are here.
    pub fn uids(&self) -> impl Iterator<Item = &Arc<str>> {
        self.entries.keys()
    }

    fn advance(&mut self, now: Instant) {
        while let Some((until, uid)) = self.backing_off.first().cloned() {
            if until > now {
                break;
            }
            self.activate(&uid, now);
        }
        while let Some((since, uid)) = self.waiting.first().cloned() {
            if since + REPAIR > now {
                break;
            }
            self.activate(&uid, now);
        }
    }

    /// Makes a pod active, or lets it back off if its time has not come.
    fn activate(&mut self, uid: &str, now: Instant) {
        let Some(mut entry) = self.entries.remove(uid) else {
            return;
        };
        self.unlink(&entry);
        match entry.not_before.filter(|not_before| *not_before > now) {
            Some(until) => {
                entry.place = Place::BackingOff { until };
                self.backing_off.insert((until, Arc::clone(&entry.pod.uid)));
            }
            None => {
                entry.place = Place::Active;
                self.active.insert(rank(&entry));
            }
        }
        self.entries.insert(Arc::clone(&entry.pod.uid), entry);
    }

    fn unlink(&mut self, entry: &Entry) {
        let uid = Arc::clone(&entry.pod.uid);
        match entry.place {
            Place::Active => {
                self.active.remove(&rank(entry));
            }
            Place::BackingOff { until } => {
                self.backing_off.remove(&(until, uid));
            }
            Place::Waiting { since, .. } => {
                self.waiting.remove(&(since, uid));
            }
            Place::InHand => {}
        }
    }
}

/// Where it is meant to go is the scheduler's own note, not a wish.
fn wishes_the_same(a: &PodFacts, b: &PodFacts) -> bool {
    let plain = |pod: &PodFacts| PodFacts {
        nominated: None,
        ..pod.clone()
    };
    plain(a) == plain(b)
}

fn back_off(attempts: u32) -> Duration {
    FIRST_BACK_OFF
        .saturating_mul(1 << attempts.saturating_sub(1).min(10))
        .min(LONGEST_BACK_OFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, priority: i32, created: i64) -> Arc<PodFacts> {
        Arc::new(PodFacts {
            uid: uid.into(),
            priority,
            created,
            ..PodFacts::default()
        })
    }

    fn pop(queue: &mut Queue, now: Instant) -> Option<String> {
        queue.pop(now).map(|pod| pod.uid.to_string())
    }

    #[test]
    fn greater_priority_then_age_goes_first() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.upsert(pod("young", 0, 2), now);
        queue.upsert(pod("old", 0, 1), now);
        queue.upsert(pod("high", 5, 3), now);
        let order: Vec<String> = std::iter::from_fn(|| pop(&mut queue, now)).collect();
        assert_eq!(order, ["high", "old", "young"]);
    }

    #[test]
    fn a_refused_pod_waits_for_help_and_no_less_than_its_time() {
        let start = Instant::now();
        let mut queue = Queue::default();
        queue.upsert(pod("p", 0, 0), start);
        assert!(pop(&mut queue, start).is_some());
        queue.park("p", Reasons::new(), start);
        let second = Duration::from_secs(1);
        assert_eq!(pop(&mut queue, start + second * 60), None, "nothing helped");
        // Woken at once it waits for the rest of its second.
        queue.wake(start, |_, _| true);
        assert_eq!(pop(&mut queue, start + second / 2), None);
        assert_eq!(queue.next_due(), Some(start + second));
        assert!(pop(&mut queue, start + second).is_some());
        // The next times are longer, up to ten seconds.
        let mut now = start + second;
        for wait in [2, 4, 8, 10, 10] {
            queue.back_off("p", now);
            assert_eq!(queue.next_due(), Some(now + second * wait));
            now += second * wait;
            assert!(pop(&mut queue, now).is_some());
        }
        queue.park("p", Reasons::new(), now);
        assert!(pop(&mut queue, now + REPAIR).is_some(), "repaired");
    }

    #[test]
    fn a_pod_whose_wishes_change_is_looked_at_again() {
        let now = Instant::now();
        let mut queue = Queue::default();
        queue.upsert(pod("p", 0, 0), now);
        queue.pop(now);
        queue.park("p", Reasons::new(), now);
        let later = now + Duration::from_secs(5);
        let mut nominated = PodFacts::clone(&pod("p", 0, 0));
        nominated.nominated = Some("n".into());
        queue.upsert(Arc::new(nominated), later);
        assert!(!queue.has_due(later));
        queue.upsert(pod("p", 1, 0), later);
        assert!(queue.has_due(later));
        queue.remove("p");
        assert!(!queue.has_due(later) && queue.next_due().is_none());
    }
}
