//! Files of the embedded store: segments of checksummed records and the
//! manifest that lists them. The bytes are described in `docs/design/store.md`.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;

use crate::StoreError;

/// The first bytes of a segment.
pub(crate) const MAGIC: &[u8; 8] = b"DHOWLOG1";
/// Length and checksum before each record.
pub(crate) const FRAME: usize = 8;
/// No record is longer; a longer length is damage.
pub(crate) const LONGEST_RECORD: usize = 64 << 20;

const PUT: u8 = 1;
const DELETE: u8 = 2;
/// Revision and number of entries.
const RECORD_HEAD: usize = 12;
/// Kind, create revision, version, key length, value length.
const ENTRY_HEAD: usize = 25;

/// One change inside a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub key: Arc<str>,
    /// `None`: the key is deleted.
    pub value: Option<Bytes>,
    pub create_revision: u64,
    pub version: u64,
}

/// Appends a record to a buffer; returns where each value begins in it.
pub(crate) fn encode(buffer: &mut Vec<u8>, revision: u64, entries: &[Entry]) -> Vec<usize> {
    let frame = buffer.len();
    buffer.extend_from_slice(&[0; FRAME]);
    buffer.extend_from_slice(&revision.to_le_bytes());
    buffer.extend_from_slice(&(entries.len() as u32).to_le_bytes());
    let mut places = Vec::with_capacity(entries.len());
    for entry in entries {
        let value: &[u8] = entry.value.as_deref().unwrap_or_default();
        buffer.push(if entry.value.is_some() { PUT } else { DELETE });
        buffer.extend_from_slice(&entry.create_revision.to_le_bytes());
        buffer.extend_from_slice(&entry.version.to_le_bytes());
        buffer.extend_from_slice(&(entry.key.len() as u32).to_le_bytes());
        buffer.extend_from_slice(&(value.len() as u32).to_le_bytes());
        buffer.extend_from_slice(entry.key.as_bytes());
        places.push(buffer.len());
        buffer.extend_from_slice(value);
    }
    let payload = &buffer[frame + FRAME..];
    let length = (payload.len() as u32).to_le_bytes();
    let checksum = crc32fast::hash(payload).to_le_bytes();
    buffer[frame..frame + 4].copy_from_slice(&length);
    buffer[frame + 4..frame + 8].copy_from_slice(&checksum);
    places
}

/// The number of bytes that a record of these entries takes.
pub(crate) fn encoded_len(entries: &[Entry]) -> usize {
    let entry =
        |entry: &Entry| ENTRY_HEAD + entry.key.len() + entry.value.as_ref().map_or(0, Bytes::len);
    FRAME + RECORD_HEAD + entries.iter().map(entry).sum::<usize>()
}

/// A record as it was read, with the offset of each value in the segment.
pub(crate) struct Record {
    pub revision: u64,
    pub entries: Vec<(Entry, u64)>,
}

fn decode(payload: &Bytes, at: u64) -> Option<Record> {
    let u32_at = |from: usize| {
        let bytes = payload.get(from..from + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?))
    };
    let u64_at = |from: usize| {
        let bytes = payload.get(from..from + 8)?;
        Some(u64::from_le_bytes(bytes.try_into().ok()?))
    };
    let revision = u64_at(0)?;
    let n_entries = u32_at(8)? as usize;
    let mut entries = Vec::with_capacity(n_entries.min(1024));
    let mut cursor = RECORD_HEAD;
    for _ in 0..n_entries {
        let kind = *payload.get(cursor)?;
        let create_revision = u64_at(cursor + 1)?;
        let version = u64_at(cursor + 9)?;
        let key_len = u32_at(cursor + 17)? as usize;
        let value_len = u32_at(cursor + 21)? as usize;
        let key_at = cursor + ENTRY_HEAD;
        let value_at = key_at.checked_add(key_len)?;
        let end = value_at.checked_add(value_len)?;
        let key = std::str::from_utf8(payload.get(key_at..value_at)?).ok()?;
        payload.get(value_at..end)?;
        entries.push((
            Entry {
                key: key.into(),
                value: match kind {
                    PUT => Some(payload.slice(value_at..end)),
                    DELETE => None,
                    _ => return None,
                },
                create_revision,
                version,
            },
            at + value_at as u64,
        ));
        cursor = end;
    }
    (cursor == payload.len()).then_some(Record { revision, entries })
}

/// What a scan of a segment came to.
pub(crate) struct Scanned {
    /// Bytes up to the end of the last whole record.
    pub good: u64,
    /// Bytes in the file.
    pub length: u64,
}

/// Reads every whole record from the front of a segment, stopping at the first
/// that is not whole.
pub(crate) fn scan(
    file: &File,
    mut each: impl FnMut(Record) -> Result<(), StoreError>,
) -> Result<Scanned, StoreError> {
    let length = file
        .metadata()
        .map_err(io_error("measure a segment"))?
        .len();
    let mut reader = io::BufReader::with_capacity(1 << 20, file);
    let mut magic = [0; 8];
    if reader.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Ok(Scanned { good: 0, length });
    }
    let mut good = MAGIC.len() as u64;
    let mut frame = [0; FRAME];
    while reader.read_exact(&mut frame).is_ok() {
        let size = u32::from_le_bytes(frame[..4].try_into().expect("four bytes")) as usize;
        let checksum = u32::from_le_bytes(frame[4..].try_into().expect("four bytes"));
        if size > LONGEST_RECORD || good + (FRAME + size) as u64 > length {
            break;
        }
        let mut payload = vec![0; size];
        if reader.read_exact(&mut payload).is_err() || crc32fast::hash(&payload) != checksum {
            break;
        }
        let Some(record) = decode(&Bytes::from(payload), good + FRAME as u64) else {
            break;
        };
        each(record)?;
        good += (FRAME + size) as u64;
    }
    Ok(Scanned { good, length })
}

/// Where a value lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub segment: u32,
    pub offset: u64,
    pub length: u32,
}

/// Reads a value.
pub(crate) fn read(file: &File, place: Place) -> Result<Bytes, StoreError> {
    let mut value = vec![0; place.length as usize];
    file.read_exact_at(&mut value, place.offset)
        .map_err(io_error("read a value"))?;
    Ok(Bytes::from(value))
}

/// The list of segments and what else must be known at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manifest {
    pub compacted: u64,
    /// The revision at an orderly end; `None` while the store is open.
    pub clean: Option<u64>,
    /// In order of age; the last one is written to.
    pub segments: Vec<u32>,
}

const MANIFEST: &str = "MANIFEST";

impl Manifest {
    pub(crate) fn load(directory: &Path) -> Result<Option<Self>, StoreError> {
        let text = match std::fs::read_to_string(directory.join(MANIFEST)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("read the manifest")(error)),
        };
        let damaged = || StoreError::Damaged("its manifest does not match its checksum".to_owned());
        let (body, checksum) = text.trim_end().rsplit_once('\n').ok_or_else(damaged)?;
        if checksum != format!("crc {:08x}", crc32fast::hash(body.as_bytes())) {
            return Err(damaged());
        }
        let mut lines = body.lines();
        if lines.next() != Some("dhow-store 1") {
            return Err(StoreError::Damaged(
                "its manifest is of another version".to_owned(),
            ));
        }
        let mut manifest = Self::default();
        for line in lines {
            match line.split_once(' ') {
                Some(("compacted", n)) => manifest.compacted = n.parse().map_err(|_| damaged())?,
                Some(("clean", n)) => manifest.clean = Some(n.parse().map_err(|_| damaged())?),
                Some(("segment", n)) => manifest.segments.push(n.parse().map_err(|_| damaged())?),
                _ => return Err(damaged()),
            }
        }
        Ok(Some(manifest))
    }

    /// Replaces the manifest: whole and durable, or not at all.
    pub(crate) fn save(&self, directory: &Path) -> Result<(), StoreError> {
        let mut body = format!("dhow-store 1\ncompacted {}", self.compacted);
        if let Some(clean) = self.clean {
            body.push_str(&format!("\nclean {clean}"));
        }
        for segment in &self.segments {
            body.push_str(&format!("\nsegment {segment}"));
        }
        let text = format!("{body}\ncrc {:08x}\n", crc32fast::hash(body.as_bytes()));
        let temporary = directory.join("MANIFEST.new");
        let write = || {
            let mut file = File::create(&temporary)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()?;
            std::fs::rename(&temporary, directory.join(MANIFEST))?;
            File::open(directory)?.sync_all()
        };
        write().map_err(io_error("write the manifest"))
    }
}

/// The file of a segment.
pub(crate) fn segment_path(directory: &Path, segment: u32) -> PathBuf {
    directory.join(format!("{segment:010}.log"))
}

/// Creates a segment with nothing in it.
pub(crate) fn create_segment(directory: &Path, segment: u32) -> Result<File, StoreError> {
    let create = || {
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(segment_path(directory, segment))?;
        file.write_all_at(MAGIC, 0)?;
        file.sync_all()?;
        Ok(file)
    };
    create().map_err(io_error("create a segment"))
}

/// Wraps the system's answer.
pub(crate) fn io_error(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |source| StoreError::Io {
        what: format!("cannot {what}"),
        source: Arc::new(source),
    }
}
