//! The store as its users see it, and what is left of it after a kill.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
use std::collections::HashSet;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use dhow_content::{Error, Store};
use dhow_oci::{Algorithm, Digest};
use proptest::prelude::*;

fn store() -> (tempfile::TempDir, Store) {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(directory.path()).unwrap();
    (directory, store)
}

/// Every visible blob is whole and named rightly.
fn audit(root: &Path) {
    for entry in std::fs::read_dir(root.join("blobs/sha256")).unwrap() {
        let entry = entry.unwrap();
        let digest = Digest::of(&std::fs::read(entry.path()).unwrap());
        assert_eq!(digest.hex(), entry.file_name().to_str().unwrap());
    }
}

#[test]
fn blobs_are_read_back_and_found_again() {
    let (directory, store) = store();
    let lease = store.lease();
    let digest = store.put(&lease, b"hello").unwrap();
    assert_eq!(store.read(&digest, 100).unwrap(), b"hello");
    assert!(matches!(
        store.read(&digest, 4),
        Err(Error::TooLarge { .. })
    ));
    assert!(matches!(
        store.open_blob(&Digest::of(b"x")),
        Err(Error::Missing(_))
    ));
    drop((lease, store));
    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.size(&digest).unwrap(), Some(5));
    assert_eq!(store.digests().unwrap(), [digest]);
}

#[test]
fn one_process_at_a_time() {
    let (directory, store) = store();
    assert!(matches!(
        Store::open(directory.path()),
        Err(Error::Locked(_))
    ));
    drop(store);
    Store::open(directory.path()).unwrap();
}

#[test]
fn an_ingest_is_resumed_and_followed() {
    let (directory, store) = store();
    let digest = Digest::of(b"hello world");
    let mut ingest = store.ingest("layer", Algorithm::Sha256).unwrap();
    ingest.write_all(b"hello ").unwrap();
    assert!(matches!(
        store.ingest("layer", Algorithm::Sha256),
        Err(Error::Busy(_))
    ));
    drop(ingest);
    drop(store);

    let store = Store::open(directory.path()).unwrap();
    assert_eq!(store.ingested("layer").unwrap(), Some(6));
    let mut ingest = store.ingest("layer", Algorithm::Sha256).unwrap();
    assert_eq!(ingest.offset(), 6);
    let mut follower = ingest.follow().unwrap();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        follower.read_to_string(&mut text).map(|_| text)
    });
    ingest.write_all(b"world").unwrap();
    ingest.commit(&store.lease(), &digest, Some(11)).unwrap();
    assert_eq!(reader.join().unwrap().unwrap(), "hello world");
    assert_eq!(store.ingested("layer").unwrap(), None);
}

#[test]
fn a_follower_learns_of_failure() {
    let (_directory, store) = store();
    let ingest = store.ingest("layer", Algorithm::Sha256).unwrap();
    let mut follower = ingest.follow().unwrap();
    let reader = std::thread::spawn(move || follower.read(&mut [0; 8]));
    drop(ingest);
    assert!(reader.join().unwrap().is_err());
}

#[test]
fn what_fails_verification_leaves_nothing() {
    let (directory, store) = store();
    let lease = store.lease();
    for size in [None, Some(3), Some(4)] {
        let mut ingest = store.ingest("layer", Algorithm::Sha256).unwrap();
        assert_eq!(ingest.offset(), 0);
        ingest.write_all(b"lies").unwrap();
        let verdict = ingest.commit(&lease, &Digest::of(b"truth"), size);
        assert!(matches!(verdict, Err(Error::Verify(_))));
        assert_eq!(store.ingested("layer").unwrap(), None);
    }
    assert!(store.digests().unwrap().is_empty());
    audit(directory.path());
}

#[test]
fn the_sweep_spares_the_leased_the_marked_and_the_fresh() {
    let (_directory, store) = store();
    let lease = store.lease();
    let marked = store.put(&lease, b"marked").unwrap();
    let dead = store.put(&lease, b"dead").unwrap();
    drop(lease);
    let lease = store.lease();
    let leased = store.put(&lease, b"leased").unwrap();
    drop(store.ingest("fresh", Algorithm::Sha256).unwrap());
    let past = SystemTime::now() - Duration::from_secs(3600);
    let mark = || Ok::<_, Error>(HashSet::from([marked.clone()]));
    let swept = store.sweep(past, mark).unwrap();
    assert_eq!((swept.n_blobs, swept.n_ingests, swept.bytes), (1, 0, 4));
    assert_eq!(store.size(&dead).unwrap(), None);
    let left: HashSet<Digest> = store.digests().unwrap().into_iter().collect();
    assert_eq!(left, HashSet::from([marked.clone(), leased]));
    drop(lease);
    let future = SystemTime::now() + Duration::from_secs(3600);
    let swept = store.sweep(future, mark).unwrap();
    assert_eq!((swept.n_blobs, swept.n_ingests), (1, 1));
    assert_eq!(store.digests().unwrap(), [marked]);
}

#[test]
fn concurrent_puts_of_one_blob_agree() {
    let (directory, store) = store();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| store.put(&store.lease(), &[7; 100_000]).unwrap());
        }
    });
    assert_eq!(store.digests().unwrap().len(), 1);
    audit(directory.path());
}

/// Not a test of its own: the child of `a_kill_leaves_no_half_blob`, which
/// writes blobs until it is killed.
#[test]
fn child_that_writes_forever() {
    let Ok(root) = std::env::var("DHOW_CONTENT_CHILD") else {
        return;
    };
    let store = Store::open(Path::new(&root)).unwrap();
    let lease = store.lease();
    for n in 0u64.. {
        let bytes = n.to_le_bytes().repeat(10_000);
        store.put(&lease, &bytes).unwrap();
        println!("blob {n}");
    }
}

#[test]
fn a_kill_leaves_no_half_blob() {
    let directory = tempfile::tempdir().unwrap();
    for round in 1..=5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_writes_forever", "--nocapture"])
            .env("DHOW_CONTENT_CHILD", directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Let it finish some, then kill it in the midst of the next.
        let output = std::io::BufReader::new(child.stdout.take().unwrap());
        let n_done = std::io::BufRead::lines(output)
            .map(Result::unwrap)
            .filter(|line| line.contains("blob"))
            .take(round * 3)
            .count();
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(n_done, round * 3);
        audit(directory.path());
        let store = Store::open(directory.path()).unwrap();
        assert!(store.digests().unwrap().len() >= n_done);
        let future = SystemTime::now() + Duration::from_secs(60);
        store
            .sweep(future, || Ok::<_, Error>(HashSet::new()))
            .unwrap();
        assert_eq!(
            std::fs::read_dir(directory.path().join("ingest"))
                .unwrap()
                .count(),
            0
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    /// However the writing is cut into attempts, the blob comes out whole.
    #[test]
    fn any_interruptions_can_be_resumed(data: Vec<u8>, cuts in prop::collection::vec(0usize..50, 0..6)) {
        let (_directory, store) = store();
        let mut rest = &data[..];
        for cut in cuts {
            let mut ingest = store.ingest("k", Algorithm::Sha512).unwrap();
            prop_assert_eq!(ingest.offset() as usize, data.len() - rest.len());
            let (head, tail) = rest.split_at(cut.min(rest.len()));
            ingest.write_all(head).unwrap();
            rest = tail;
        }
        let mut ingest = store.ingest("k", Algorithm::Sha512).unwrap();
        ingest.write_all(rest).unwrap();
        let digest = ingest.commit_any(&store.lease()).unwrap();
        prop_assert_eq!(store.read(&digest, 1 << 20).unwrap(), data);
    }
}
