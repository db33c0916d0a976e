//! The embedded store against a model, across restarts, and cut at every byte.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use dhow_store::{
    Durability, Embedded, Event, Op, Options, Outcome, Range, Response, Store, StoreError, Txn,
};
use proptest::prelude::*;

const SOON: Duration = Duration::from_secs(10);

fn open(directory: &Path) -> Embedded {
    Embedded::open(directory, Options::default()).expect("the store opens")
}

fn put(store: &dyn Store, key: &str, value: &str) -> u64 {
    let outcome = store
        .txn(Txn {
            then: vec![Op::Put {
                key: key.into(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            }],
            ..Txn::default()
        })
        .expect("written");
    outcome.revision
}

fn delete(store: &dyn Store, key: &str) -> Outcome {
    store
        .txn(Txn {
            then: vec![Op::Delete { key: key.into() }],
            ..Txn::default()
        })
        .expect("deleted")
}

fn dump(store: &dyn Store, revision: Option<u64>) -> BTreeMap<String, (String, u64, u64, u64)> {
    let listing = store
        .range(&Range {
            revision,
            ..Range::prefix("")
        })
        .expect("readable");
    listing
        .kvs
        .into_iter()
        .map(|kv| {
            let value = String::from_utf8(kv.value.to_vec()).expect("text");
            (
                kv.key.to_string(),
                (value, kv.create_revision, kv.mod_revision, kv.version),
            )
        })
        .collect()
}

#[test]
fn revisions_count_as_in_etcd() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    assert_eq!(store.revision(), 1);
    assert_eq!(put(&store, "a", "1"), 2);
    assert_eq!(put(&store, "a", "2"), 3);
    let kv = store.get("a", None).expect("read").expect("there");
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version), (2, 3, 2));
    let old = store.get("a", Some(2)).expect("read").expect("there");
    assert_eq!(&*old.value, b"1");
    assert_eq!(delete(&store, "a").responses, [Response::Deleted(1)]);
    assert_eq!(store.revision(), 4);
    // Deleting nothing is no revision.
    assert_eq!(delete(&store, "a").revision, 4);
    assert!(store.get("a", None).expect("read").is_none());
    put(&store, "a", "3");
    let kv = store.get("a", None).expect("read").expect("there");
    assert_eq!((kv.create_revision, kv.version), (5, 1));
    assert!(matches!(
        store.get("a", Some(99)),
        Err(StoreError::Future { .. })
    ));
}

#[test]
fn transactions_compare() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let create = |value: &'static str| {
        store
            .txn(Txn {
                compares: vec![("k".into(), 0)],
                then: vec![Op::Put {
                    key: "k".into(),
                    value: value.into(),
                }],
                otherwise: vec![Op::Get { key: "k".into() }],
                durability: Durability::Synced,
            })
            .expect("decided")
    };
    assert!(create("first").succeeded);
    let second = create("second");
    assert!(!second.succeeded);
    let [Response::Got(Some(kv))] = &*second.responses else {
        panic!("{second:?}");
    };
    assert_eq!(&*kv.value, b"first");
    let twice = store.txn(Txn {
        then: vec![
            Op::Delete { key: "k".into() },
            Op::Delete { key: "k".into() },
        ],
        ..Txn::default()
    });
    assert!(matches!(twice, Err(StoreError::BadTransaction(_))));
}

#[test]
fn ranges_are_limited_and_counted() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    for key in ["/a/1", "/a/2", "/a/3", "/b/1"] {
        put(&store, key, "x");
    }
    let listing = store
        .range(&Range {
            limit: Some(2),
            ..Range::prefix("/a/")
        })
        .expect("read");
    assert_eq!(
        (listing.kvs.len(), listing.count, listing.more),
        (2, 3, true)
    );
}

#[test]
fn watches_tell_history_and_what_comes() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        recent_events: 2,
        ..Options::default()
    };
    let store = Embedded::open(directory.path(), options).expect("opens");
    for n in 0..6 {
        put(&store, &format!("/w/{n}"), "x");
    }
    delete(&store, "/w/0");
    put(&store, "/other", "x");
    let mut watch = store.watch("/w/", 3).expect("watching");
    let mut seen = Vec::new();
    while seen.len() < 6 {
        let batch = watch.next(SOON).expect("changes");
        assert!(batch.revision >= 3);
        seen.extend(
            batch
                .events
                .iter()
                .map(|event| (event.revision(), event.key().to_string())),
        );
    }
    let revisions: Vec<u64> = seen.iter().map(|(revision, _)| *revision).collect();
    assert_eq!(revisions, [3, 4, 5, 6, 7, 8]);
    put(&store, "/w/new", "x");
    loop {
        let batch = watch.next(SOON).expect("changes");
        if let Some(event) = batch.events.first() {
            assert!(matches!(&**event, Event::Put(kv) if &*kv.key == "/w/new"));
            break;
        }
    }
    store.compact(9).expect("compacted");
    assert!(matches!(
        store.watch("/w/", 4),
        Err(StoreError::Compacted { compacted: 9 })
    ));
    assert!(matches!(
        store.get("/w/1", Some(8)),
        Err(StoreError::Compacted { .. })
    ));
    assert_eq!(dump(&store, Some(9)).len(), 6);
}

#[test]
fn one_process_at_a_time() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    assert!(matches!(
        Embedded::open(directory.path(), Options::default()),
        Err(StoreError::Locked(_))
    ));
    drop(store);
    open(directory.path());
}

#[test]
fn an_orderly_end_keeps_the_revision_and_a_crash_never_repeats_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let last = put(&store, "a", "1");
    drop(store);
    let store = open(directory.path());
    assert_eq!(store.revision(), last);
    // A copy of a running store's files is what a crash leaves.
    let crashed = tempfile::tempdir().expect("a directory");
    copy(directory.path(), crashed.path());
    assert!(open(crashed.path()).revision() > last);
}

#[test]
fn rewriting_keeps_what_is_readable_and_frees_the_rest() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 16 * 1024,
        slack_bytes: 8 * 1024,
        ..Options::default()
    };
    let store = Embedded::open(directory.path(), options.clone()).expect("opens");
    let big = "x".repeat(1000);
    for n in 0..200 {
        put(&store, &format!("k{}", n % 5), &big);
    }
    delete(&store, "k0");
    let before = dump(&store, None);
    let mut watch = store.watch("", 0).expect("watching");
    store.compact(store.revision()).expect("compacted");
    let deadline = std::time::Instant::now() + SOON;
    // Rewriting happens beside us; every write that goes on shows that it holds
    // nobody up, and gives the disk time to shrink.
    while store.disk_bytes().expect("measured") > 64 * 1024 {
        assert!(std::time::Instant::now() < deadline, "the log never shrank");
        put(&store, "tick", "t");
        watch.next(SOON).expect("told");
    }
    let mut after = dump(&store, None);
    after.remove("tick");
    assert_eq!(after, before);
    drop(store);
    let store = Embedded::open(directory.path(), options).expect("opens again");
    let mut again = dump(&store, None);
    again.remove("tick");
    assert_eq!(again, before);
}

fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).expect("listed") {
        let entry = entry.expect("an entry");
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copied");
    }
}

#[test]
fn a_log_cut_at_any_byte_opens_at_a_whole_revision() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = open(directory.path());
    let mut states = BTreeMap::new();
    states.insert(0, dump(&store, None));
    for n in 0..12 {
        let revision = if n % 4 == 3 {
            delete(&store, &format!("k{}", n % 3)).revision
        } else {
            put(&store, &format!("k{}", n % 3), &format!("value {n}"))
        };
        states.insert(revision, dump(&store, None));
    }
    let crashed = tempfile::tempdir().expect("a directory");
    copy(directory.path(), crashed.path());
    drop(store);
    let log = crashed.path().join("0000000001.log");
    let whole = std::fs::read(&log).expect("read");
    let manifest = std::fs::read(crashed.path().join("MANIFEST")).expect("read");
    let mut newest = 0;
    for length in 0..=whole.len() {
        std::fs::write(&log, &whole[..length]).expect("cut");
        std::fs::write(crashed.path().join("MANIFEST"), &manifest).expect("as at the crash");
        let store = open(crashed.path());
        let state = dump(&store, None);
        let at = states
            .iter()
            .find(|(_, known)| **known == state)
            .map(|(revision, _)| *revision);
        let at = at.unwrap_or_else(|| panic!("cut at {length}: no state of the past: {state:?}"));
        newest = newest.max(at);
        // The store goes on where it stands.
        put(&store, "after", "crash");
        assert!(store.get("after", None).expect("read").is_some());
    }
    assert_eq!(Some(&newest), states.keys().next_back());
}

#[test]
fn damage_in_a_sealed_segment_is_told() {
    let directory = tempfile::tempdir().expect("a directory");
    let options = Options {
        segment_bytes: 100,
        ..Options::default()
    };
    let store = Embedded::open(directory.path(), options).expect("opens");
    for n in 0..10 {
        put(&store, &format!("k{n}"), "some value that fills a segment");
    }
    drop(store);
    let log = directory.path().join("0000000001.log");
    let mut bytes = std::fs::read(&log).expect("read");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&log, bytes).expect("damaged");
    assert!(matches!(
        Embedded::open(directory.path(), Options::default()),
        Err(StoreError::Damaged(_))
    ));
}

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u16, bool),
    Delete(u8),
    Compact,
    Reopen,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (0..6u8, any::<u16>(), any::<bool>()).prop_map(|(k, v, r)| Step::Put(k, v, r)),
        2 => (0..6u8).prop_map(Step::Delete),
        1 => Just(Step::Compact),
        1 => Just(Step::Reopen),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn the_store_is_a_map_with_a_past(steps in prop::collection::vec(step(), 1..60)) {
        let directory = tempfile::tempdir().expect("a directory");
        let options = Options { segment_bytes: 512, slack_bytes: 256, ..Options::default() };
        let reopen = || Embedded::open(directory.path(), options.clone()).expect("opens");
        let mut store = reopen();
        let mut model: BTreeMap<String, String> = BTreeMap::new();
        let mut past: BTreeMap<u64, BTreeMap<String, String>> = BTreeMap::new();
        let values = |dump: BTreeMap<String, (String, u64, u64, u64)>| -> BTreeMap<String, String> {
            dump.into_iter().map(|(key, (value, ..))| (key, value)).collect()
        };
        for step in steps {
            match step {
                Step::Put(key, value, relaxed) => {
                    let (key, value) = (format!("k{key}"), value.to_string());
                    let outcome = store.txn(Txn {
                        then: vec![Op::Put { key: key.as_str().into(), value: Bytes::from(value.clone()) }],
                        durability: if relaxed { Durability::Relaxed } else { Durability::Synced },
                        ..Txn::default()
                    }).expect("written");
                    model.insert(key, value);
                    past.insert(outcome.revision, model.clone());
                }
                Step::Delete(key) => {
                    let key = format!("k{key}");
                    let outcome = delete(&store, &key);
                    model.remove(&key);
                    past.insert(outcome.revision, model.clone());
                }
                Step::Compact => {
                    let revision = store.revision();
                    if store.compact(revision).is_ok() {
                        past = past.split_off(&revision);
                    }
                }
                Step::Reopen => {
                    drop(store);
                    store = reopen();
                }
            }
            prop_assert_eq!(&values(dump(&store, None)), &model);
        }
        for (revision, state) in &past {
            prop_assert_eq!(&values(dump(&store, Some(*revision))), state);
        }
    }
}

#[test]
fn many_writers_share_a_commit() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = Arc::new(open(directory.path()));
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = store.clone();
            std::thread::spawn(move || {
                for n in 0..50 {
                    put(&*store, &format!("{writer}/{n}"), "x");
                }
            })
        })
        .collect();
    for writer in writers {
        writer.join().expect("done");
    }
    assert_eq!(store.revision(), 401);
    assert_eq!(dump(&*store, None).len(), 400);
}
