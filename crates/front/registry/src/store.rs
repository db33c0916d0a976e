//! What the registry remembers: which repository has which blobs and
//! manifests, what tags mean, which uploads are open.
//!
//! Synchronous; a change is durable when its function returns.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};

use dhow_oci::{Descriptor, Digest};
use redb::{Database, ReadTransaction, ReadableDatabase, TableDefinition, WriteTransaction};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// `repository \0 digest` → [`Link`]
const BLOBS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("blobs");
/// `repository \0 digest` → [`Stored`]
const MANIFESTS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("manifests");
/// `repository \0 tag` → digest
const TAGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("tags");
/// `repository \0 subject \0 digest` → descriptor
const REFERRERS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("referrers");
/// `id` → [`Upload`]
const UPLOADS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("uploads");

/// The table refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The database.
    #[error("registry table")]
    Table(#[source] Box<redb::Error>),
    /// A row.
    #[error("a row of the registry table is malformed")]
    Row(#[source] serde_json::Error),
}

type Result<T> = std::result::Result<T, Error>;

/// A blob of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) size: u64,
    /// Seconds since the epoch.
    pub(crate) since: u64,
}

/// A manifest of a repository.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    pub(crate) descriptor: Descriptor,
    /// What it needs: configuration and layers, or manifests.
    pub(crate) children: Vec<Digest>,
    pub(crate) subject: Option<Digest>,
    /// Seconds since the epoch.
    pub(crate) since: u64,
}

/// An upload that is not finished.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Upload {
    pub(crate) repository: String,
    /// Seconds since the epoch.
    pub(crate) since: u64,
}

/// A page of a list.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Page {
    pub(crate) names: Vec<String>,
    pub(crate) has_more: bool,
}

/// The table, open but after an error: redb refuses everything then, until it is
/// opened again, and a full disk may have room by that time.
#[derive(Debug)]
pub(crate) struct Store {
    path: PathBuf,
    database: RwLock<Option<Database>>,
}

impl Store {
    pub(crate) fn open(path: &Path) -> Result<Store> {
        let store = Store {
            path: path.to_owned(),
            database: RwLock::default(),
        };
        store.write(|writing| {
            for table in [BLOBS, MANIFESTS, TAGS, REFERRERS, UPLOADS] {
                writing.open_table(table).map_err(failed)?;
            }
            Ok(())
        })?;
        Ok(store)
    }

    pub(crate) fn blob(&self, repository: &str, digest: &Digest) -> Result<Option<Link>> {
        self.get(BLOBS, &key(repository, digest.as_str()))
    }

    pub(crate) fn link_blob(&self, repository: &str, digest: &Digest, link: &Link) -> Result<()> {
        self.write(|writing| put(writing, BLOBS, &key(repository, digest.as_str()), link))
    }

    pub(crate) fn unlink_blob(&self, repository: &str, digest: &Digest) -> Result<bool> {
        self.write(|writing| remove(writing, BLOBS, &key(repository, digest.as_str())))
    }

    pub(crate) fn manifest(&self, repository: &str, digest: &Digest) -> Result<Option<Stored>> {
        self.get(MANIFESTS, &key(repository, digest.as_str()))
    }

    pub(crate) fn tag(&self, repository: &str, tag: &str) -> Result<Option<Digest>> {
        self.get(TAGS, &key(repository, tag))
    }

    /// Stores a manifest, and what a tag means if one is given.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: Option<&str>,
        manifest: &Stored,
    ) -> Result<()> {
        let digest = &manifest.descriptor.digest;
        self.write(|writing| {
            put(
                writing,
                MANIFESTS,
                &key(repository, digest.as_str()),
                manifest,
            )?;
            if let Some(subject) = &manifest.subject {
                let key = key(&key(repository, subject.as_str()), digest.as_str());
                put(writing, REFERRERS, &key, &manifest.descriptor)?;
            }
            if let Some(tag) = tag {
                put(writing, TAGS, &key(repository, tag), digest)?;
            }
            Ok(())
        })
    }

    pub(crate) fn remove_tag(&self, repository: &str, tag: &str) -> Result<bool> {
        self.write(|writing| remove(writing, TAGS, &key(repository, tag)))
    }

    /// Removes a manifest and the tags that mean it; whether there was one.
    pub(crate) fn remove_manifest(&self, repository: &str, digest: &Digest) -> Result<bool> {
        let Some(stored) = self.manifest(repository, digest)? else {
            return Ok(false);
        };
        let tags = self.scan::<Digest>(TAGS, &key(repository, ""))?;
        self.write(|writing| {
            let was_there = remove(writing, MANIFESTS, &key(repository, digest.as_str()))?;
            if let Some(subject) = &stored.subject {
                let key = key(&key(repository, subject.as_str()), digest.as_str());
                remove(writing, REFERRERS, &key)?;
            }
            for (tag, meant) in tags {
                if meant == *digest {
                    remove(writing, TAGS, &key(repository, &tag))?;
                }
            }
            Ok(was_there)
        })
    }

    pub(crate) fn referrers(&self, repository: &str, subject: &Digest) -> Result<Vec<Descriptor>> {
        let prefix = key(&key(repository, subject.as_str()), "");
        let found = self.scan::<Descriptor>(REFERRERS, &prefix)?;
        Ok(found
            .into_iter()
            .map(|(_, descriptor)| descriptor)
            .collect())
    }

    /// At most `n` tags after `last`; none if there is no such repository.
    pub(crate) fn tags(&self, repository: &str, last: &str, n: usize) -> Result<Option<Page>> {
        let prefix = key(repository, "");
        let reading = self.read()?;
        let table = reading.open_table(TAGS).map_err(failed)?;
        let mut page = Page::default();
        for row in table
            .range(key(repository, last).as_str()..)
            .map_err(failed)?
        {
            let (found, _) = row.map_err(failed)?;
            let Some(tag) = found.value().strip_prefix(&prefix) else {
                break;
            };
            if tag == last {
                continue;
            }
            if page.names.len() == n {
                page.has_more = true;
                break;
            }
            page.names.push(tag.to_owned());
        }
        drop((table, reading));
        if page.names.is_empty() && !self.knows(repository)? {
            return Ok(None);
        }
        Ok(Some(page))
    }

    /// At most `n` repositories after `last`.
    pub(crate) fn repositories(&self, last: &str, n: usize) -> Result<Page> {
        let reading = self.read()?;
        let mut names = BTreeSet::new();
        // Hop from one repository to the next; what follows \0 is \x01.
        for table in [MANIFESTS, BLOBS] {
            let table = reading.open_table(table).map_err(failed)?;
            let mut start = if last.is_empty() {
                String::new()
            } else {
                format!("{last}\x01")
            };
            for _ in 0..=n {
                let mut rows = table.range(start.as_str()..).map_err(failed)?;
                let Some(row) = rows.next() else { break };
                let (found, _) = row.map_err(failed)?;
                let name = found
                    .value()
                    .split('\0')
                    .next()
                    .unwrap_or_default()
                    .to_owned();
                start = format!("{name}\x01");
                names.insert(name);
            }
        }
        // `a\x01` also skips nothing but `a`: names have no such characters.
        let has_more = names.len() > n;
        Ok(Page {
            names: names
                .into_iter()
                .filter(|name| name.as_str() > last)
                .take(n)
                .collect(),
            has_more,
        })
    }

    pub(crate) fn upload(&self, id: &str) -> Result<Option<Upload>> {
        self.get(UPLOADS, id)
    }

    pub(crate) fn begin_upload(&self, id: &str, upload: &Upload) -> Result<()> {
        self.write(|writing| put(writing, UPLOADS, id, upload))
    }

    pub(crate) fn end_upload(&self, id: &str) -> Result<bool> {
        self.write(|writing| remove(writing, UPLOADS, id))
    }

    /// Ends an upload by making it a blob of its repository, in one step.
    pub(crate) fn finish_upload(
        &self,
        id: &str,
        repository: &str,
        digest: &Digest,
        link: &Link,
    ) -> Result<()> {
        self.write(|writing| {
            remove(writing, UPLOADS, id)?;
            put(writing, BLOBS, &key(repository, digest.as_str()), link)
        })
    }

    /// Forgets blobs that no manifest of their repository needs and that were
    /// linked before `before`, and uploads begun before it. Returns every
    /// digest that is left, and the uploads that went.
    pub(crate) fn prune(&self, before: u64) -> Result<(HashSet<Digest>, Vec<String>)> {
        let manifests = self.scan::<Stored>(MANIFESTS, "")?;
        let blobs = self.scan::<Link>(BLOBS, "")?;
        let uploads = self.scan::<Upload>(UPLOADS, "")?;
        let mut live = HashSet::new();
        let mut needed: BTreeMap<&str, HashSet<&str>> = BTreeMap::new();
        for (name, stored) in &manifests {
            let repository = name.split('\0').next().unwrap_or_default();
            let needed = needed.entry(repository).or_default();
            needed.extend(stored.children.iter().map(Digest::as_str));
            live.insert(stored.descriptor.digest.clone());
        }
        let mut dead = Vec::new();
        for (name, link) in &blobs {
            let (repository, digest) = name.split_once('\0').unwrap_or_default();
            let is_needed = needed
                .get(repository)
                .is_some_and(|needed| needed.contains(digest));
            if is_needed || link.since >= before {
                live.extend(digest.parse::<Digest>());
            } else {
                dead.push(name);
            }
        }
        let stale: Vec<String> = uploads
            .into_iter()
            .filter(|(_, upload)| upload.since < before)
            .map(|(id, _)| id)
            .collect();
        if !dead.is_empty() || !stale.is_empty() {
            self.write(|writing| {
                for name in dead {
                    remove(writing, BLOBS, name)?;
                }
                for id in &stale {
                    remove(writing, UPLOADS, id)?;
                }
                Ok(())
            })?;
        }
        Ok((live, stale))
    }

    fn knows(&self, repository: &str) -> Result<bool> {
        let page = self.first_with(MANIFESTS, repository)? || self.first_with(BLOBS, repository)?;
        Ok(page)
    }

    fn first_with(
        &self,
        table: TableDefinition<'_, &'static str, &'static [u8]>,
        repository: &str,
    ) -> Result<bool> {
        let prefix = key(repository, "");
        let reading = self.read()?;
        let table = reading.open_table(table).map_err(failed)?;
        let mut rows = table.range(prefix.as_str()..).map_err(failed)?;
        match rows.next() {
            Some(row) => Ok(row.map_err(failed)?.0.value().starts_with(&prefix)),
            None => Ok(false),
        }
    }

    fn get<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &'static str, &'static [u8]>,
        key: &str,
    ) -> Result<Option<T>> {
        let reading = self.read()?;
        let table = reading.open_table(table).map_err(failed)?;
        match table.get(key).map_err(failed)? {
            Some(value) => serde_json::from_slice(value.value())
                .map(Some)
                .map_err(Error::Row),
            None => Ok(None),
        }
    }

    /// Every row whose key begins with `prefix`; keys without it.
    fn scan<T: DeserializeOwned>(
        &self,
        table: TableDefinition<'_, &'static str, &'static [u8]>,
        prefix: &str,
    ) -> Result<Vec<(String, T)>> {
        let reading = self.read()?;
        let table = reading.open_table(table).map_err(failed)?;
        let mut found = Vec::new();
        for row in table.range(prefix..).map_err(failed)? {
            let (key, value) = row.map_err(failed)?;
            let Some(rest) = key.value().strip_prefix(prefix) else {
                break;
            };
            let value = serde_json::from_slice(value.value()).map_err(Error::Row)?;
            found.push((rest.to_owned(), value));
        }
        Ok(found)
    }

    /// The database, which is not closed as long as this is held: not for longer than a
    /// transaction takes to begin.
    fn database(&self) -> Result<RwLockReadGuard<'_, Option<Database>>> {
        loop {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            if open.is_some() {
                return Ok(open);
            }
            drop(open);
            let mut closed = self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            if closed.is_none() {
                *closed = Some(open_database(&self.path).map_err(failed)?);
            }
        }
    }

    fn read(&self) -> Result<ReadTransaction> {
        let database = self.database()?;
        let database = database.as_ref().expect("it is open");
        database.begin_read().map_err(failed)
    }

    fn write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let written = self.try_write(change);
        if let Err(Error::Table(_)) = written {
            let mut database = self
                .database
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            *database = None;
        }
        written
    }

    fn try_write<T>(&self, change: impl FnOnce(&WriteTransaction) -> Result<T>) -> Result<T> {
        let mut writing = {
            let database = self.database()?;
            let database = database.as_ref().expect("it is open");
            database.begin_write().map_err(failed)?
        };
        writing.set_quick_repair(true);
        let outcome = change(&writing)?;
        writing.commit().map_err(failed)?;
        Ok(outcome)
    }
}

/// Opens the database, or makes one: under another name until all of it is on disk, for
/// redb refuses a file whose making a crash cut off.
fn open_database(path: &Path) -> std::result::Result<Database, redb::Error> {
    if !path.try_exists()? {
        let new = path.with_extension("redb.new");
        if new.try_exists()? {
            fs::remove_file(&new)?;
        }
        Database::create(&new)?.close()?;
        fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
    }
    Ok(Database::open(path)?)
}

fn put(
    writing: &WriteTransaction,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
    key: &str,
    value: &impl Serialize,
) -> Result<()> {
    let value = serde_json::to_vec(value).map_err(Error::Row)?;
    writing
        .open_table(table)
        .map_err(failed)?
        .insert(key, &value[..])
        .map_err(failed)?;
    Ok(())
}

fn remove(
    writing: &WriteTransaction,
    table: TableDefinition<'_, &'static str, &'static [u8]>,
    key: &str,
) -> Result<bool> {
    let mut table = writing.open_table(table).map_err(failed)?;
    let was_there = table.remove(key).map_err(failed)?.is_some();
    Ok(was_there)
}

fn key(repository: &str, rest: &str) -> String {
    format!("{repository}\0{rest}")
}

fn failed(error: impl Into<redb::Error>) -> Error {
    Error::Table(Box::new(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("t.redb")).unwrap();
        (directory, store)
    }

    #[test]
    fn a_table_whose_making_was_cut_off_is_made_anew() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("t.redb");
        fs::write(directory.path().join("t.redb.new"), [0; 4096]).unwrap();
        Store::open(&path).unwrap();
        assert!(path.exists());
        Store::open(&path).unwrap();
    }

    fn stored(text: &str, children: &[&Digest]) -> Stored {
        let descriptor = Descriptor::new("m", Digest::of(text.as_bytes()), 1);
        let children = children.iter().map(|digest| (*digest).clone()).collect();
        Stored {
            descriptor,
            children,
            subject: None,
            since: 1,
        }
    }

    #[test]
    fn lists_come_in_pages() {
        let (_directory, store) = store();
        let manifest = stored("m", &[]);
        for repository in ["a", "a-b", "a/b", "b"] {
            for tag in ["1", "2", "10"] {
                store
                    .put_manifest(repository, Some(tag), &manifest)
                    .unwrap();
            }
        }
        store
            .link_blob("only-blobs", &Digest::of(b"b"), &Link { size: 1, since: 1 })
            .unwrap();
        let page = |last: &str, n| store.tags("a", last, n).unwrap().unwrap();
        assert_eq!(
            page("", 2),
            Page {
                names: vec!["1".into(), "10".into()],
                has_more: true
            }
        );
        assert_eq!(
            page("10", 2),
            Page {
                names: vec!["2".into()],
                has_more: false
            }
        );
        assert_eq!(
            page("", 0),
            Page {
                names: vec![],
                has_more: true
            }
        );
        assert!(store.tags("nobody", "", 9).unwrap().is_none());
        assert!(
            store
                .tags("only-blobs", "", 9)
                .unwrap()
                .unwrap()
                .names
                .is_empty()
        );
        let mut all: Vec<String> = Vec::new();
        loop {
            let last = all.last().cloned().unwrap_or_default();
            let page = store.repositories(&last, 2).unwrap();
            all.extend(page.names);
            if !page.has_more {
                break;
            }
        }
        assert_eq!(all, ["a", "a-b", "a/b", "b", "only-blobs"]);
    }

    #[test]
    fn pruning_spares_what_is_needed_or_new() {
        let (_directory, store) = store();
        let [needed, old, new] = [&b"needed"[..], b"old", b"new"].map(Digest::of);
        for (digest, since) in [(&needed, 1), (&old, 1), (&new, 9)] {
            store
                .link_blob("r", digest, &Link { size: 1, since })
                .unwrap();
        }
        // Needed by another repository does not count.
        store
            .put_manifest("other", None, &stored("o", &[&old]))
            .unwrap();
        let manifest = stored("m", &[&needed]);
        store.put_manifest("r", Some("t"), &manifest).unwrap();
        store
            .begin_upload(
                "u",
                &Upload {
                    repository: "r".into(),
                    since: 1,
                },
            )
            .unwrap();
        let (live, stale) = store.prune(5).unwrap();
        assert!(live.contains(&needed) && live.contains(&new) && !live.contains(&old));
        assert_eq!(stale, ["u"]);
        assert!(store.blob("r", &old).unwrap().is_none());
        assert!(
            store
                .remove_manifest("r", &manifest.descriptor.digest)
                .unwrap()
        );
        assert!(store.tag("r", "t").unwrap().is_none());
    }
}
