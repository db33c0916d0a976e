//! One piece of output as the log driver `local` keeps it: exact bytes, a
//! time, and a length at both ends, so that a log is read forwards and
//! backwards (`docs/design/shim.md`, "Log").
//!
//! ```text
//! length (u32) │ stream (u8: 1 output, 2 error) │ nanoseconds (i64) │ bytes │ length (u32)
//! ```
//!
//! Numbers are big endian; the length counts stream, time and bytes. Nanoseconds
//! are those since 1970.

use std::io::{self, Read, Seek, SeekFrom};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use dhow_runtime::Moment;

/// Longest piece of a line, in bytes; longer lines come in pieces.
pub const MAX_PIECE: usize = 16 << 10;

/// Bytes of stream and time.
const HEAD: usize = 9;
/// Bytes of one length.
const LENGTH: usize = 4;

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// 1 for standard output, 2 for standard error.
    pub stream: u8,
    /// When it was written.
    pub time: Moment,
    /// What was written; a line's last piece ends with its line feed.
    pub bytes: Vec<u8>,
}

impl Entry {
    /// Appends an entry of these parts to `to`. `bytes` are at most [`MAX_PIECE`].
    pub fn write(to: &mut Vec<u8>, stream: u8, time: Moment, bytes: &[u8]) {
        let length = ((HEAD + bytes.len()) as u32).to_be_bytes();
        to.extend_from_slice(&length);
        to.push(stream);
        to.extend_from_slice(&nanoseconds(time).to_be_bytes());
        to.extend_from_slice(bytes);
        to.extend_from_slice(&length);
    }

    /// Reads the next entry; none at the end, and where the rest is no whole
    /// entry (one that is just being written, or that power loss tore).
    ///
    /// # Errors
    ///
    /// What reading says.
    pub fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut length = [0; LENGTH];
        if !fill(from, &mut length)? {
            return Ok(None);
        }
        let Some(n_bytes) = body_length(length) else {
            return Ok(None);
        };
        let mut body = vec![0; n_bytes + LENGTH];
        if !fill(from, &mut body)? || body[n_bytes..] != length {
            return Ok(None);
        }
        body.truncate(n_bytes);
        let stream = body[0];
        let mut time = [0; 8];
        time.copy_from_slice(&body[1..HEAD]);
        body.drain(..HEAD);
        Ok(Some(Self {
            stream,
            time: moment(i64::from_be_bytes(time)),
            bytes: body,
        }))
    }

    /// Bytes that this entry takes in a file.
    #[must_use]
    pub fn size(&self) -> u64 {
        (LENGTH + HEAD + self.bytes.len() + LENGTH) as u64
    }
}

/// Where the last `wanted` entries of a whole log begin, and how many there are.
///
/// # Errors
///
/// What reading says; `InvalidData` when the end is no end of an entry.
pub fn last(file: &mut (impl Read + Seek), wanted: usize) -> io::Result<(u64, usize)> {
    let mut start = file.seek(SeekFrom::End(0))?;
    let mut found = 0;
    let torn = || io::Error::new(io::ErrorKind::InvalidData, "not the end of an entry");
    while found < wanted && start > 0 {
        let mut length = [0; LENGTH];
        let before = start.checked_sub(LENGTH as u64).ok_or_else(torn)?;
        file.seek(SeekFrom::Start(before))?;
        file.read_exact(&mut length)?;
        let body = body_length(length).ok_or_else(torn)?;
        start = start
            .checked_sub((body + 2 * LENGTH) as u64)
            .ok_or_else(torn)?;
        found += 1;
    }
    Ok((start, found))
}

/// How many bytes of a log, from its start, are whole entries.
///
/// # Errors
///
/// What reading says.
pub fn whole(from: &mut impl Read) -> io::Result<u64> {
    let mut size = 0;
    while let Some(entry) = Entry::read(from)? {
        size += entry.size();
    }
    Ok(size)
}

fn body_length(length: [u8; LENGTH]) -> Option<usize> {
    let length = usize::try_from(u32::from_be_bytes(length)).ok()?;
    (HEAD..=HEAD + MAX_PIECE)
        .contains(&length)
        .then_some(length)
}

/// Fills `buffer`; `false` when there is less.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match from.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn nanoseconds(time: Moment) -> i64 {
    let since = SystemTime::from(time)
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

fn moment(nanoseconds: i64) -> Moment {
    let since = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or_default());
    Moment::from(UNIX_EPOCH + since)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use proptest::prelude::*;

    use super::*;

    fn log(texts: &[&[u8]]) -> Vec<u8> {
        let mut log = Vec::new();
        for (n, text) in texts.iter().enumerate() {
            Entry::write(&mut log, 1 + (n % 2) as u8, Moment::now(), text);
        }
        log
    }

    #[test]
    fn entries_come_back_as_they_were() {
        let texts: [&[u8]; 4] = [b"one\n", b"", b"\xff\0two", &[b'x'; MAX_PIECE]];
        let bytes = log(&texts);
        let mut reader = &bytes[..];
        for (n, text) in texts.iter().enumerate() {
            let entry = Entry::read(&mut reader).expect("read").expect("there");
            assert_eq!(
                (entry.bytes.as_slice(), entry.stream),
                (*text, 1 + (n % 2) as u8)
            );
        }
        assert_eq!(Entry::read(&mut reader).expect("read"), None);
    }

    #[test]
    fn the_last_entries_are_found_from_behind() {
        let bytes = log(&[b"one\n", b"two\n", b"three\n"]);
        for (wanted, first) in [(1, "three\n"), (2, "two\n"), (3, "one\n"), (9, "one\n")] {
            let (offset, found) = last(&mut Cursor::new(&bytes), wanted).expect("found");
            assert_eq!(found, wanted.min(3));
            let mut reader = &bytes[offset as usize..];
            let entry = Entry::read(&mut reader).expect("read").expect("there");
            assert_eq!(entry.bytes, first.as_bytes());
        }
    }

    #[test]
    fn a_torn_end_is_no_entry() {
        let bytes = log(&[b"one\n", b"two\n"]);
        let one = log(&[b"one\n"]).len() as u64;
        for length in one as usize..bytes.len() {
            assert_eq!(whole(&mut &bytes[..length]).expect("read"), one);
        }
        assert!(last(&mut Cursor::new(&bytes[..bytes.len() - 1]), 1).is_err());
    }

    proptest! {
        /// Whatever lies in a log: what is read is what stands there, from its start,
        /// and what is found from behind lies within.
        #[test]
        fn any_bytes_are_read(
            texts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..5),
            torn in proptest::collection::vec(any::<u8>(), 0..60),
            wanted in 0_usize..9,
        ) {
            let texts: Vec<&[u8]> = texts.iter().map(Vec::as_slice).collect();
            let bytes = [log(&texts), torn].concat();
            let mut reader = &bytes[..];
            let mut again = Vec::new();
            let mut n_entries = 0;
            while let Some(entry) = Entry::read(&mut reader).unwrap() {
                Entry::write(&mut again, entry.stream, entry.time, &entry.bytes);
                n_entries += 1;
            }
            prop_assert!(n_entries >= texts.len());
            prop_assert_eq!(whole(&mut &bytes[..]).unwrap(), again.len() as u64);
            // Times before 1970 are none of ours.
            let is_ours = |entry: &[u8]| entry.first_chunk::<13>().is_none_or(|head| head[5] < 0x80);
            if is_ours(&bytes[log(&texts).len()..]) {
                prop_assert!(bytes.starts_with(&again));
            }
            if let Ok((offset, found)) = last(&mut Cursor::new(&bytes), wanted) {
                prop_assert!(offset <= bytes.len() as u64 && found <= wanted);
            }
        }
    }
}
