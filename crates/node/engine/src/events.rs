//! What happened, in order: to containers, images, volumes and networks.
//!
//! The last events are kept, so that whoever asks what happened since a moment
//! gets it; listeners that fall behind are told so and lose the oldest.

use std::collections::{BTreeMap, VecDeque};
use std::time::{SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use tokio::sync::broadcast;

/// How many events are kept, and how far a listener may fall behind.
const KEPT: usize = 1024;

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// `container`, `image`, `volume`, `network`, `builder` or `daemon`.
    pub kind: &'static str,
    /// What happened: `create`, `start`, `die`, …
    pub action: String,
    /// To whom: an id or a name.
    pub id: String,
    /// What else is known: name, image, labels, exit code.
    pub attributes: BTreeMap<String, String>,
    /// When, in nanoseconds since the epoch.
    pub time: i64,
}

/// The events of one engine.
#[derive(Debug)]
pub struct Events {
    sender: broadcast::Sender<Event>,
    kept: Mutex<VecDeque<Event>>,
}

impl Default for Events {
    fn default() -> Self {
        Self {
            sender: broadcast::Sender::new(KEPT),
            kept: Mutex::default(),
        }
    }
}

impl Events {
    /// Announces that something happened just now.
    pub fn announce(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let (action, id) = (action.into(), id.into());
        // All under the lock, so that events, their times and what listeners get
        // have one order.
        let mut kept = self.kept.lock();
        let event = Event {
            kind,
            action,
            id,
            attributes,
            time: now(),
        };
        if kept.len() == KEPT {
            kept.pop_front();
        }
        kept.push_back(event.clone());
        // Nobody listening is no error.
        let _ = self.sender.send(event);
    }

    /// What happened from `since` on (nanoseconds since the epoch; none means
    /// from now on), and what will.
    pub fn listen(&self, since: Option<i64>) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let kept = self.kept.lock();
        let past = since.map_or_else(Vec::new, |since| {
            kept.iter()
                .filter(|event| event.time >= since)
                .cloned()
                .collect()
        });
        (past, self.sender.subscribe())
    }
}

fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_do_not_go_back() {
        let events = Events::default();
        let ended = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|threads| {
            for _ in 0..4 {
                threads.spawn(|| {
                    for _ in 0..50_000 {
                        events.announce("container", "start", "", BTreeMap::new());
                    }
                    ended.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                });
            }
            while ended.load(std::sync::atomic::Ordering::Relaxed) < 4 {
                let (past, _) = events.listen(Some(0));
                assert!(past.is_sorted_by_key(|event| event.time));
            }
        });
    }

    #[test]
    fn the_past_and_the_future_meet_without_a_gap() {
        let events = Events::default();
        for n in 0..KEPT + 5 {
            events.announce("container", "start", n.to_string(), BTreeMap::new());
        }
        let (past, mut future) = events.listen(Some(0));
        assert_eq!(past.len(), KEPT);
        assert_eq!(past[0].id, "5", "the oldest make room");
        events.announce("container", "die", "x", BTreeMap::new());
        assert_eq!(
            future.try_recv().map(|event| event.action),
            Ok("die".into())
        );
        assert!(events.listen(None).0.is_empty());
    }
}
