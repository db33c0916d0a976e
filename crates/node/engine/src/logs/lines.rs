//! The lines of one log file, in either form, compressed or not.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt;

use dhow_shim::entry::{self, Entry};
use dhow_shim::wire::LogForm;
use flate2::read::GzDecoder;
use serde::Deserialize;

use super::{LogLine, LogStream};

/// A longer line than a shim writes is no line.
const MAX_LINE: u64 = 1 << 20;
const BLOCK: u64 = 64 << 10;

/// The lines of one file; an incomplete last one waits for its end.
pub(super) struct Lines {
    form: LogForm,
    source: Source,
    begun: Vec<u8>,
}

enum Source {
    Plain(BufReader<Bounded>),
    Compressed(Box<BufReader<GzDecoder<File>>>),
}

/// A file that may grow while it is read, up to where it is read.
struct Bounded {
    file: File,
    /// None is wherever it ends.
    end: Option<u64>,
}

impl Read for Bounded {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(end) = self.end else {
            return self.file.read(buffer);
        };
        let left = end.saturating_sub(self.file.stream_position()?);
        (&mut self.file).take(left).read(buffer)
    }
}

impl Seek for Bounded {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match (to, self.end) {
            (SeekFrom::End(0), Some(end)) => self.file.seek(SeekFrom::Start(end)),
            _ => self.file.seek(to),
        }
    }
}

/// A line of the form `json-file`.
#[derive(Deserialize)]
struct Json {
    log: String,
    stream: LogStream,
    time: crate::Moment,
    #[serde(default)]
    attrs: std::collections::BTreeMap<String, String>,
}

impl Lines {
    /// Those of a file, also what is written to it later.
    pub(super) fn plain(file: File, form: LogForm) -> Self {
        Self::up_to(None, file, form)
    }

    /// Those that are in a file now, until [`Self::go_on`]: reading what somebody
    /// writes faster would have no end, and its last lines would be others meanwhile.
    pub(super) fn present(file: File, form: LogForm) -> io::Result<Self> {
        let end = file.metadata()?.len();
        Ok(Self::up_to(Some(end), file, form))
    }

    fn up_to(end: Option<u64>, file: File, form: LogForm) -> Self {
        let reader = BufReader::with_capacity(BLOCK as usize, Bounded { file, end });
        Self {
            form,
            source: Source::Plain(reader),
            begun: Vec::new(),
        }
    }

    /// From now on there is also what is written later.
    pub(super) fn go_on(&mut self) {
        if let Source::Plain(reader) = &mut self.source {
            reader.get_mut().end = None;
        }
    }

    pub(super) fn compressed(file: File, form: LogForm) -> Self {
        let reader = BufReader::with_capacity(BLOCK as usize, GzDecoder::new(file));
        Self {
            form,
            source: Source::Compressed(Box::new(reader)),
            begun: Vec::new(),
        }
    }

    pub(super) fn next(&mut self) -> io::Result<Option<LogLine>> {
        match self.form {
            LogForm::JsonFile => self.next_json(),
            LogForm::Local => self.next_entry(),
        }
    }

    fn next_entry(&mut self) -> io::Result<Option<LogLine>> {
        let entry = match &mut self.source {
            Source::Compressed(reader) => Entry::read(reader)?,
            Source::Plain(reader) => {
                let start = reader.stream_position()?;
                let entry = Entry::read(reader)?;
                if entry.is_none() {
                    // What is half there is read again when it is whole.
                    reader.seek(SeekFrom::Start(start))?;
                }
                entry
            }
        };
        Ok(entry.map(|entry| LogLine {
            text: entry.bytes,
            stream: if entry.stream == 2 {
                LogStream::Stderr
            } else {
                LogStream::Stdout
            },
            time: entry.time,
            attributes: std::collections::BTreeMap::new(),
        }))
    }

    fn next_json(&mut self) -> io::Result<Option<LogLine>> {
        let reader: &mut dyn BufRead = match &mut self.source {
            Source::Plain(reader) => reader,
            Source::Compressed(reader) => reader,
        };
        loop {
            let limit = MAX_LINE.saturating_sub(self.begun.len() as u64).max(1);
            let read = (&mut *reader)
                .take(limit)
                .read_until(b'\n', &mut self.begun)?;
            if self.begun.last() != Some(&b'\n') {
                if read == 0 {
                    return Ok(None);
                }
                if self.begun.len() as u64 >= MAX_LINE {
                    self.begun.clear();
                }
                continue;
            }
            // A line that power loss tore is left out, not the log.
            let line = serde_json::from_slice::<Json>(&self.begun);
            self.begun.clear();
            if let Ok(line) = line {
                return Ok(Some(LogLine {
                    text: line.log.into_bytes(),
                    stream: line.stream,
                    time: line.time,
                    attributes: line.attrs,
                }));
            }
        }
    }

    /// Leaves out all but the last `wanted` lines; returns how many are left.
    pub(super) fn keep_last(&mut self, wanted: usize) -> io::Result<usize> {
        if let Source::Plain(reader) = &mut self.source {
            let (offset, found) = match self.form {
                LogForm::JsonFile => last_lines(reader, wanted)?,
                LogForm::Local => match entry::last(reader, wanted) {
                    // One that is just being written, or torn: told from the start.
                    Err(error) if error.kind() == io::ErrorKind::InvalidData => (0, usize::MAX),
                    found => found?,
                },
            };
            reader.seek(SeekFrom::Start(offset))?;
            if found != usize::MAX {
                return Ok(found);
            }
        }
        self.keep_last_of(wanted, |_| true)
    }

    /// Leaves out all before the last `wanted` lines that `counts`; returns how
    /// many of them are left. Reads the file twice.
    pub(super) fn keep_last_of(
        &mut self,
        wanted: usize,
        counts: impl Fn(&LogLine) -> bool,
    ) -> io::Result<usize> {
        self.rewind()?;
        let mut total = 0_usize;
        while let Some(line) = self.next()? {
            total += usize::from(counts(&line));
        }
        self.rewind()?;
        let mut surplus = total.saturating_sub(wanted);
        while surplus > 0 {
            let Some(line) = self.next()? else { break };
            surplus -= usize::from(counts(&line));
        }
        Ok(total.min(wanted))
    }

    fn rewind(&mut self) -> io::Result<()> {
        self.begun.clear();
        match &mut self.source {
            Source::Plain(reader) => reader.rewind(),
            Source::Compressed(reader) => {
                let mut file = reader.get_ref().get_ref().try_clone()?;
                file.rewind()?;
                **reader = BufReader::with_capacity(BLOCK as usize, GzDecoder::new(file));
                Ok(())
            }
        }
    }

    /// Whether they are those of this file.
    pub(super) fn is_of(&self, file: &File) -> io::Result<bool> {
        Ok(self.inode()? == file.metadata()?.ino())
    }

    /// The inode number of their file, which no other has while it is open.
    pub(super) fn inode(&self) -> io::Result<u64> {
        let own = match &self.source {
            Source::Plain(reader) => &reader.get_ref().file,
            Source::Compressed(reader) => reader.get_ref().get_ref(),
        };
        Ok(own.metadata()?.ino())
    }
}

/// Where the last `wanted` lines of a file begin, and how many there are.
fn last_lines(file: &mut (impl Read + Seek), wanted: usize) -> io::Result<(u64, usize)> {
    let mut end = file.seek(SeekFrom::End(0))?;
    if wanted == 0 {
        return Ok((end, 0));
    }
    let mut found = 0;
    let mut block = Vec::new();
    while end > 0 {
        let start = end.saturating_sub(BLOCK);
        file.seek(SeekFrom::Start(start))?;
        block.clear();
        file.take(end - start).read_to_end(&mut block)?;
        for (index, _) in block
            .iter()
            .enumerate()
            .rev()
            .filter(|(_, byte)| **byte == b'\n')
        {
            if found == wanted {
                return Ok((start + index as u64 + 1, found));
            }
            found += 1;
        }
        end = start;
    }
    Ok((0, found))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn texts(lines: &mut Lines) -> Vec<String> {
        std::iter::from_fn(|| lines.next().expect("read"))
            .map(|line| String::from_utf8(line.text).expect("text"))
            .collect()
    }

    #[test]
    fn the_last_lines_are_found_from_behind() {
        let mut file = tempfile::tempfile().expect("a file");
        for n in 0..20_000 {
            writeln!(file, "line {n:06}").expect("written");
        }
        for wanted in [0, 1, 2, 5_000, 19_999, 20_000, 30_000] {
            let (offset, found) = last_lines(&mut file, wanted).expect("found");
            assert_eq!(found, wanted.min(20_000));
            assert_eq!(offset, (20_000 - found as u64) * 12);
        }
    }

    #[test]
    fn what_is_present_does_not_grow() {
        for form in [LogForm::Local, LogForm::JsonFile] {
            let line = |text: &str| {
                match form {
                LogForm::Local => {
                    let mut bytes = Vec::new();
                    Entry::write(&mut bytes, 1, crate::Moment::now(), text.as_bytes());
                    bytes
                }
                LogForm::JsonFile => format!(
                    "{{\"log\":\"{}\\n\",\"stream\":\"stdout\",\"time\":\"2026-01-01T00:00:00Z\"}}\n",
                    text.trim_end()
                )
                .into_bytes(),
            }
            };
            let named = tempfile::NamedTempFile::new().expect("a file");
            let mut writer = named.reopen().expect("it is there");
            writer.write_all(&line("one\n")).expect("written");
            let opened = || named.reopen().expect("it is there");
            let mut all = Lines::present(opened(), form).expect("a file");
            let mut last = Lines::present(opened(), form).expect("a file");
            writer.write_all(&line("two\n")).expect("written");
            assert_eq!(texts(&mut all), ["one\n"]);
            assert_eq!(last.keep_last(1).expect("read"), 1);
            assert_eq!(texts(&mut last), ["one\n"]);
            for lines in [&mut all, &mut last] {
                lines.go_on();
                assert_eq!(texts(lines), ["two\n"]);
            }
        }
    }

    #[test]
    fn torn_lines_are_left_out() {
        let mut file = tempfile::tempfile().expect("a file");
        let good = r#"{"log":"hi\n","stream":"stdout","time":"2026-01-01T00:00:00.000000000Z"}"#;
        write!(file, "{{\"log\":\"to\n{good}\n{good}").expect("written");
        file.rewind().expect("rewound");
        let mut lines = Lines::plain(file, LogForm::JsonFile);
        assert_eq!(texts(&mut lines), ["hi\n"], "the last line has no end yet");
    }

    #[test]
    fn tails_are_the_same_compressed_or_not() {
        let mut bytes = Vec::new();
        for n in 0..10 {
            Entry::write(
                &mut bytes,
                1,
                crate::Moment::now(),
                format!("{n}\n").as_bytes(),
            );
        }
        for wanted in [0, 1, 9, 10, 11] {
            let mut plain = tempfile::tempfile().expect("a file");
            plain.write_all(&bytes).expect("written");
            let compressed = tempfile::tempfile().expect("a file");
            let mut encoder = GzEncoder::new(compressed, Compression::fast());
            encoder.write_all(&bytes).expect("written");
            let mut compressed = encoder.finish().expect("written");
            compressed.rewind().expect("rewound");
            let expected: Vec<String> = (10 - wanted.min(10)..10)
                .map(|n| format!("{n}\n"))
                .collect();
            for mut lines in [
                Lines::plain(plain, LogForm::Local),
                Lines::compressed(compressed, LogForm::Local),
            ] {
                assert_eq!(lines.keep_last(wanted).expect("read"), wanted.min(10));
                assert_eq!(texts(&mut lines), expected);
            }
        }
    }

    #[test]
    fn an_entry_that_is_half_there_waits_for_its_end() {
        let mut bytes = Vec::new();
        Entry::write(&mut bytes, 2, crate::Moment::now(), b"whole\n");
        let mut file = tempfile::tempfile().expect("a file");
        let mut writer = file.try_clone().expect("a copy");
        file.write_all(&bytes[..7]).expect("written");
        file.rewind().expect("rewound");
        let mut lines = Lines::plain(file, LogForm::Local);
        assert_eq!(lines.next().expect("read"), None);
        writer.seek(SeekFrom::Start(7)).expect("found");
        writer.write_all(&bytes[7..]).expect("written");
        lines.rewind().expect("rewound");
        assert_eq!(texts(&mut lines), ["whole\n"]);
    }
}
