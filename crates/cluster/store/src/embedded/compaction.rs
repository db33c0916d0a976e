//! Rewriting sealed segments: what is still readable goes to one new segment,
//! the old ones go away. Writers and readers are not held up.

use std::collections::HashSet;
use std::io::{BufWriter, Write};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::Shared;
use super::index::Version;
use super::log::{self, Entry, Place};
use crate::StoreError;

/// What the compactor waits for.
#[derive(Default)]
pub(crate) struct Request {
    pub asked: bool,
    pub closing: bool,
}

pub(crate) fn run(shared: &Shared) {
    loop {
        {
            let mut request = shared.compaction.lock();
            while !request.asked && !request.closing {
                shared.compact_asked.wait(&mut request);
            }
            if request.closing {
                return;
            }
            request.asked = false;
        }
        if let Err(error) = rewrite(shared) {
            tracing::error!(%error, "a compaction of the log failed; it will be tried again");
        }
    }
}

/// Asks the writer to seal its segment, so that all before it stand still.
fn seal(shared: &Shared) -> Result<u32, StoreError> {
    let (told, active) = mpsc::sync_channel(1);
    let mut queue = shared.queue.lock();
    if queue.closing {
        return Err(StoreError::Closed);
    }
    queue.seal = Some(told);
    drop(queue);
    shared.queued.notify_one();
    active.recv().map_err(|_| StoreError::Closed)
}

fn rewrite(shared: &Shared) -> Result<(), StoreError> {
    let active = seal(shared)?;
    let sealed: HashSet<u32> = shared
        .manifest
        .lock()
        .segments
        .iter()
        .copied()
        .take_while(|&segment| segment != active)
        .collect();
    let target = shared.next_segment.fetch_add(1, Ordering::Relaxed);
    let done = copy(shared, &sealed, target);
    match done {
        Ok(moved) => {
            let mut manifest = shared.manifest.lock();
            manifest
                .segments
                .retain(|segment| !sealed.contains(segment));
            manifest.segments.insert(0, target);
            manifest.save(&shared.directory)?;
            drop(manifest);
            install(shared, &sealed, moved);
            for segment in sealed {
                std::fs::remove_file(log::segment_path(&shared.directory, segment))
                    .map_err(log::io_error("remove a sealed segment"))?;
            }
            Ok(())
        }
        Err(error) => {
            shared.files.write().remove(&target);
            let _ = std::fs::remove_file(log::segment_path(&shared.directory, target));
            Err(error)
        }
    }
}

type Moved = Vec<(Arc<str>, u64, Place)>;

/// Copies every kept version of the sealed segments to the target, in order of
/// revision, and makes it durable.
fn copy(shared: &Shared, sealed: &HashSet<u32>, target: u32) -> Result<Moved, StoreError> {
    let mut kept: Vec<(Arc<str>, Version)> = {
        let index = shared.index.read();
        index
            .keys
            .iter()
            .flat_map(|(key, versions)| versions.iter().map(|version| (key.clone(), *version)))
            .filter(|(_, version)| sealed.contains(&version.place.segment))
            .collect()
    };
    kept.sort_by_key(|(_, version)| version.mod_revision);
    let file = log::create_segment(&shared.directory, target)?;
    let copying = log::io_error("copy the log");
    let mut writer = BufWriter::with_capacity(1 << 20, &file);
    std::io::Seek::seek(
        &mut writer,
        std::io::SeekFrom::Start(log::MAGIC.len() as u64),
    )
    .map_err(&copying)?;
    let mut end = log::MAGIC.len() as u64;
    let mut moved = Vec::with_capacity(kept.len());
    let mut buffer = Vec::new();
    for (key, version) in kept {
        let source = shared.files.read().get(&version.place.segment).cloned();
        let Some(source) = source else { continue };
        let value = if version.is_deletion() {
            None
        } else {
            Some(log::read(&source, version.place)?)
        };
        let length = version.place.length;
        buffer.clear();
        let entry = Entry {
            key: key.clone(),
            value,
            create_revision: version.create_revision,
            version: version.version,
        };
        let places = log::encode(&mut buffer, version.mod_revision, &[entry]);
        writer.write_all(&buffer).map_err(&copying)?;
        let place = Place {
            segment: target,
            offset: end + places[0] as u64,
            length,
        };
        moved.push((key, version.mod_revision, place));
        end += buffer.len() as u64;
    }
    writer.flush().map_err(&copying)?;
    drop(writer);
    file.sync_all().map_err(&copying)?;
    shared.files.write().insert(target, Arc::new(file));
    Ok(moved)
}

/// Points the index at the copies.
fn install(shared: &Shared, sealed: &HashSet<u32>, moved: Moved) {
    let mut index = shared.index.write();
    for (key, revision, place) in moved {
        if let Some(versions) = index.keys.get_mut(&key)
            && let Some(version) = versions
                .iter_mut()
                .find(|version| version.mod_revision == revision)
        {
            version.place = place;
        }
    }
    drop(index);
    shared
        .files
        .write()
        .retain(|segment, _| !sealed.contains(segment));
}
