//! The graph against a small world: objects that own each other, deletions of
//! every kind, events that come late and out of order between kinds.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;

use proptest::prelude::*;

use super::graph::{
    Answer, FOREGROUND, Graph, GroupKind, ORPHAN, Owner, Policy, Question, Reference, Seen, Step,
    Uid,
};

#[derive(Debug, Clone)]
enum Event {
    Applied(Seen),
    Gone(Uid),
}

/// An object, what it was when it was looked up, and what its owners were.
type Looked = (Uid, Answer, Vec<(Uid, Answer)>);

/// An API server of three kinds, with a queue of events for each.
#[derive(Debug, Default)]
struct World {
    objects: BTreeMap<usize, Seen>,
    events: [VecDeque<Event>; 3],
    version: u64,
    /// In the order of their end.
    ended: Vec<usize>,
    /// Asked for by a person.
    condemned: HashSet<usize>,
    /// Looked up and not planned yet.
    looked: VecDeque<Looked>,
    graph: Graph,
}

fn uid(number: usize) -> Uid {
    number.to_string().into()
}

fn kind(number: usize) -> GroupKind {
    GroupKind {
        group: "".into(),
        kind: format!("K{}", number % 3).into(),
    }
}

fn reference(number: usize) -> Reference {
    Reference {
        kind: kind(number),
        namespace: "n".into(),
        name: uid(number),
        uid: uid(number),
    }
}

fn number(reference: &Reference) -> usize {
    reference.uid.parse().expect("uids are numbers")
}

impl World {
    fn tell(&mut self, number: usize) {
        let event = match self.objects.get_mut(&number) {
            Some(seen) => {
                self.version += 1;
                seen.version = self.version.to_string();
                Event::Applied(seen.clone())
            }
            None => Event::Gone(uid(number)),
        };
        self.events[number % 3].push_back(event);
    }

    fn create(&mut self, number: usize, owners: &[(usize, bool)]) {
        let seen = Seen {
            at: reference(number),
            owners: owners
                .iter()
                .map(|(owner, blocks)| Owner {
                    kind: kind(*owner),
                    name: uid(*owner),
                    uid: uid(*owner),
                    blocks: *blocks,
                })
                .collect(),
            is_going: false,
            finalizers: Vec::new(),
            version: String::new(),
        };
        self.objects.insert(number, seen);
        self.tell(number);
    }

    fn delete(&mut self, number: usize, policy: Policy) {
        let Some(seen) = self.objects.get_mut(&number) else {
            return;
        };
        seen.is_going = true;
        seen.finalizers
            .retain(|one| one != FOREGROUND && one != ORPHAN);
        match policy {
            Policy::Background => {}
            Policy::Foreground => seen.finalizers.push(FOREGROUND.into()),
            Policy::Orphan => seen.finalizers.push(ORPHAN.into()),
        }
        self.settle(number);
    }

    fn settle(&mut self, number: usize) {
        let Some(seen) = self.objects.get(&number) else {
            return;
        };
        if seen.is_going && seen.finalizers.is_empty() {
            self.objects.remove(&number);
            self.ended.push(number);
        }
        self.tell(number);
    }

    fn is_current(&self, item: &Seen) -> bool {
        let known = self.objects.get(&number(&item.at));
        known.is_some_and(|known| known.version == item.version)
    }

    fn answer(&self, reference: &Reference) -> Answer {
        match self.objects.get(&number(reference)) {
            Some(seen) => Answer::There(seen.clone()),
            None => Answer::Absent,
        }
    }

    /// Takes the next object and looks it up.
    fn look(&mut self) -> bool {
        let busy: HashSet<Uid> = self.looked.iter().map(|(uid, ..)| uid.clone()).collect();
        let Some(question) = self.graph.take(|uid| busy.contains(uid)) else {
            return false;
        };
        let Question { item, owners } = question;
        let owners: Vec<(Uid, Answer)> = owners
            .iter()
            .map(|owner| (Arc::clone(&owner.uid), self.answer(owner)))
            .collect();
        let answer = self.answer(&item);
        self.looked.push_back((item.uid, answer, owners));
        true
    }

    /// Plans on the oldest answer, and does it.
    fn work(&mut self) -> bool {
        let Some((uid, item, owners)) = self.looked.pop_front() else {
            return false;
        };
        let step = self.graph.plan(&uid, item, &owners);
        self.perform(step);
        true
    }

    fn perform(&mut self, step: Step) {
        let item = match &step {
            Step::Nothing => return,
            Step::Delete { item, .. }
            | Step::Disown { item, .. }
            | Step::Unblock { item }
            | Step::Finish { item, .. } => item.clone(),
        };
        let at = number(&item.at);
        if !self.is_current(&item) {
            self.graph.again(&item.at.uid);
            return;
        }
        match step {
            Step::Nothing => {}
            Step::Delete { policy, .. } => {
                let is_free = item.owners.iter().all(|owner| {
                    match self.objects.get(&number_of(&owner.uid)) {
                        None => true,
                        Some(owner) => owner.is_going,
                    }
                });
                assert!(is_free, "{item:?} has an owner that stays");
                self.delete(at, policy);
            }
            Step::Disown { owners, .. } => {
                let seen = self.objects.get_mut(&at).expect("it is current");
                seen.owners.retain(|owner| !owners.contains(&owner.uid));
                self.tell(at);
            }
            Step::Unblock { .. } => {
                let seen = self.objects.get_mut(&at).expect("it is current");
                for owner in &mut seen.owners {
                    owner.blocks = false;
                }
                self.tell(at);
            }
            Step::Finish {
                finalizer, disown, ..
            } => {
                for dependent in disown {
                    let dependent = number(&dependent);
                    if let Some(seen) = self.objects.get_mut(&dependent) {
                        seen.owners.retain(|owner| owner.uid != item.at.uid);
                        self.tell(dependent);
                    }
                }
                let seen = self.objects.get_mut(&at).expect("it is current");
                seen.finalizers.retain(|one| one != finalizer);
                self.settle(at);
            }
        }
    }

    /// Delivers one event of a kind.
    fn deliver(&mut self, kind: usize) -> bool {
        match self.events[kind].pop_front() {
            Some(Event::Applied(seen)) => self.graph.apply(seen),
            Some(Event::Gone(uid)) => self.graph.gone(&uid),
            None => return false,
        }
        true
    }

    /// Until nothing is left to deliver or to think about.
    fn rest(&mut self) {
        for _ in 0..10_000 {
            let delivered = (0..3).any(|kind| self.deliver(kind));
            if !delivered && !self.look() && !self.work() {
                return;
            }
        }
        panic!("it does not come to rest: {self:?}");
    }
}

fn number_of(uid: &Uid) -> usize {
    uid.parse().expect("uids are numbers")
}

fn policy() -> impl Strategy<Value = Policy> {
    prop_oneof![
        Just(Policy::Background),
        Just(Policy::Foreground),
        Just(Policy::Orphan)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    /// Objects own later ones; some are deleted; events come in any order
    /// between kinds. Nothing goes that has an owner that stays, nothing stays
    /// all of whose owners are gone, and what waits for dependents goes last.
    #[test]
    fn dependents_follow_their_owners(
        owners in prop::collection::vec(prop::collection::vec((any::<prop::sample::Index>(), any::<bool>()), 0..3), 1..14),
        deletions in prop::collection::vec((any::<prop::sample::Index>(), policy()), 1..4),
        order in prop::collection::vec(0usize..8, 0..160),
    ) {
        let mut world = World::default();
        let mut first_owners = BTreeMap::new();
        for (number, picks) in owners.iter().enumerate() {
            let mut mine: Vec<(usize, bool)> = Vec::new();
            for (index, blocks) in picks {
                // Number 0 owns itself never; some name an owner that never was.
                let owner = if number == 0 { 99 } else { index.index(number) };
                if mine.iter().all(|(known, _)| *known != owner) {
                    mine.push((owner, *blocks));
                }
            }
            if number == 0 {
                mine.clear();
            }
            first_owners.insert(number, mine.clone());
            world.create(number, &mine);
        }
        // All watches have listed before anything is done.
        while (0..3).any(|kind| world.deliver(kind)) {}
        let mut deletions = deletions.into_iter();
        for turn in order {
            match turn {
                0..=2 => { world.deliver(turn); }
                3 | 4 => { world.look(); }
                5 | 6 => { world.work(); }
                _ => if let Some((index, policy)) = deletions.next() {
                    let number = index.index(owners.len());
                    world.condemned.insert(number);
                    world.delete(number, policy);
                },
            }
        }
        world.rest();
        for (number, seen) in &world.objects {
            prop_assert!(!seen.is_going, "{number} hangs: {world:?}");
            for owner in &seen.owners {
                prop_assert!(
                    world.objects.contains_key(&number_of(&owner.uid)),
                    "{number} names {owner:?}, which is gone"
                );
            }
        }
        for number in &world.ended {
            let all_gone = first_owners[number].iter().all(|(owner, _)| {
                !world.objects.contains_key(owner)
            });
            let has_owner = !first_owners[number].is_empty();
            prop_assert!(
                world.condemned.contains(number) || (has_owner && all_gone),
                "{number} went for nothing"
            );
        }
        let related = world.objects.values().filter(|seen| !seen.owners.is_empty()).count();
        prop_assert!(world.graph.len() <= 3 * related, "only what is related is kept");
    }
}

#[test]
fn in_the_foreground_the_owner_goes_last() {
    let mut world = World::default();
    world.create(0, &[]);
    world.create(1, &[(0, true)]);
    world.create(2, &[(1, true)]);
    world.create(3, &[(0, false)]);
    world.rest();
    world.delete(0, Policy::Foreground);
    world.rest();
    assert!(world.objects.is_empty());
    let place = |number| world.ended.iter().position(|ended| *ended == number);
    assert!(
        place(2) < place(1) && place(1) < place(0),
        "{:?}",
        world.ended
    );
}

#[test]
fn orphans_stay() {
    let mut world = World::default();
    world.create(0, &[]);
    world.create(1, &[(0, true)]);
    world.rest();
    world.delete(0, Policy::Orphan);
    world.rest();
    assert_eq!(world.objects.len(), 1);
    assert!(world.objects[&1].owners.is_empty());
}

#[test]
fn a_circle_ends() {
    let mut world = World::default();
    world.create(0, &[(1, true)]);
    world.create(1, &[(0, true)]);
    world.rest();
    world.delete(0, Policy::Foreground);
    world.rest();
    assert!(world.objects.is_empty(), "{:?}", world.objects);
}

#[test]
fn one_owner_of_two_is_enough() {
    let mut world = World::default();
    world.create(0, &[]);
    world.create(1, &[]);
    world.create(2, &[(0, true), (1, true)]);
    world.rest();
    world.delete(0, Policy::Background);
    world.rest();
    assert_eq!(world.objects[&2].owners.len(), 1);
    world.delete(1, Policy::Background);
    world.rest();
    assert!(world.objects.is_empty());
    assert_eq!(world.graph.len(), 0);
}

/// A look-up finds an owner gone, then a watch that is late shows it once more
/// and tells of its end: its dependent must be thought of again.
#[test]
fn an_owner_that_is_shown_late_does_not_keep_its_dependents() {
    let mut world = World::default();
    world.create(0, &[]);
    world.create(1, &[(0, true)]);
    world.rest();
    let late = world.objects[&0].clone();
    world.objects.remove(&0);
    world.graph.again(&uid(0));
    assert!(world.look() && world.work(), "found gone");
    world.graph.apply(Seen {
        is_going: true,
        ..late
    });
    while world.look() || world.work() {}
    world.graph.gone(&uid(0));
    world.rest();
    assert!(world.objects.is_empty(), "{:?}", world.objects);
}
