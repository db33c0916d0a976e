//! Writing archives: ustar headers, PAX records only where ustar has no room,
//! nothing that depends on who writes or when.

use std::io::{self, Read, Write};

use crate::tar::{BLOCK, Entry, Kind, pax};

/// Writes entries one after the other.
pub struct Writer<W> {
    output: W,
}

impl<W: Write> Writer<W> {
    /// Writes to `output`; wrap it in a buffer.
    pub fn new(output: W) -> Writer<W> {
        Writer { output }
    }

    /// Writes an entry and, for a file, exactly `entry.size` bytes of `data`:
    /// a file that shrinks meanwhile is padded with zeros, one that grows is
    /// cut.
    pub fn append(&mut self, entry: &Entry, data: &mut dyn Read) -> io::Result<()> {
        let size = if entry.kind == Kind::File {
            entry.size
        } else {
            0
        };
        let mut extended = Vec::new();
        let mut path = entry.path.clone();
        if entry.kind == Kind::Directory && !path.ends_with(b"/") {
            path.push(b'/');
        }
        if !fits(&path) {
            pax::append(&mut extended, b"path", &path);
        }
        if !fits(&entry.link) {
            pax::append(&mut extended, b"linkpath", &entry.link);
        }
        for (key, value, most) in [
            (&b"size"[..], size, 0o77_777_777_777),
            (b"uid", u64::from(entry.uid), 0o777_7777),
            (b"gid", u64::from(entry.gid), 0o777_7777),
        ] {
            if value > most {
                pax::append(&mut extended, key, value.to_string().as_bytes());
            }
        }
        let (seconds, nanoseconds) = entry.mtime;
        if seconds >= 0 && nanoseconds > 0 {
            let text = format!("{seconds}.{nanoseconds:09}");
            pax::append(
                &mut extended,
                b"mtime",
                text.trim_end_matches('0').as_bytes(),
            );
        } else if !(0..=0o77_777_777_777).contains(&seconds) {
            pax::append(&mut extended, b"mtime", seconds.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            let key = [b"SCHILY.xattr.", &name[..]].concat();
            pax::append(&mut extended, &key, value);
        }
        if !extended.is_empty() {
            let mut about = Entry::new(Kind::File, &b"PaxHeaders/entry"[..]);
            about.size = extended.len() as u64;
            self.header(&about, &about.path, b'x', about.size)?;
            self.output.write_all(&extended)?;
            self.pad(about.size)?;
        }
        let kind = match entry.kind {
            Kind::File => b'0',
            Kind::HardLink => b'1',
            Kind::Symlink => b'2',
            Kind::Character => b'3',
            Kind::Block => b'4',
            Kind::Directory => b'5',
            Kind::Fifo => b'6',
        };
        self.header(entry, &path, kind, size)?;
        let n_copied = io::copy(&mut data.take(size), &mut self.output)?;
        io::copy(&mut io::repeat(0).take(size - n_copied), &mut self.output)?;
        self.pad(size)
    }

    /// Writes the end marker and returns the output.
    pub fn finish(mut self) -> io::Result<W> {
        self.output.write_all(&[0; 2 * BLOCK])?;
        self.output.flush()?;
        Ok(self.output)
    }

    fn header(&mut self, entry: &Entry, path: &[u8], kind: u8, size: u64) -> io::Result<()> {
        let mut header = [0; BLOCK];
        let mut text = |at: usize, room: usize, text: &[u8]| {
            let n_bytes = text.len().min(room);
            header[at..at + n_bytes].copy_from_slice(&text[..n_bytes]);
        };
        let octal = |value: u64, width: usize, most: u64| {
            format!("{:0width$o}", if value > most { 0 } else { value })
        };
        text(0, 100, path);
        text(
            100,
            8,
            octal(u64::from(entry.mode & 0o7777), 7, u64::MAX).as_bytes(),
        );
        text(
            108,
            8,
            octal(u64::from(entry.uid), 7, 0o777_7777).as_bytes(),
        );
        text(
            116,
            8,
            octal(u64::from(entry.gid), 7, 0o777_7777).as_bytes(),
        );
        text(124, 12, octal(size, 11, 0o77_777_777_777).as_bytes());
        let seconds = u64::try_from(entry.mtime.0).unwrap_or(0);
        text(136, 12, octal(seconds, 11, 0o77_777_777_777).as_bytes());
        text(148, 8, b"        ");
        text(156, 1, &[kind]);
        text(157, 100, &entry.link);
        text(257, 8, b"ustar\x0000");
        text(
            329,
            8,
            octal(u64::from(entry.device.0), 7, 0o777_7777).as_bytes(),
        );
        text(
            337,
            8,
            octal(u64::from(entry.device.1), 7, 0o777_7777).as_bytes(),
        );
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.output.write_all(&header)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let beyond = (size % BLOCK as u64) as usize;
        if beyond == 0 {
            return Ok(());
        }
        self.output.write_all(&[0; BLOCK][beyond..])
    }
}

/// Whether a path goes into the header itself.
fn fits(path: &[u8]) -> bool {
    path.len() <= 100 && path.is_ascii()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Archive, ReadLimits};
    use proptest::prelude::*;

    const LIMITS: ReadLimits = ReadLimits {
        bytes: 1 << 30,
        entries: 1000,
    };

    fn read_back(bytes: &[u8]) -> io::Result<Vec<(Entry, Vec<u8>)>> {
        let mut archive = Archive::new(bytes, LIMITS);
        let mut entries = Vec::new();
        while let Some(entry) = archive.next_entry()? {
            let mut data = Vec::new();
            archive.read_to_end(&mut data)?;
            entries.push((entry, data));
        }
        archive.finish()?;
        Ok(entries)
    }

    fn path() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(1u8..=255, 1..300)
            .prop_filter("not a directory", |path| !path.ends_with(b"/"))
    }

    proptest! {
        /// Whatever is written is read back.
        #[test]
        fn written_and_read(
            path in path(),
            link in path(),
            mode in 0u32..0o10000,
            owner: (u32, u32),
            mtime in (-(1i64 << 40)..1 << 40),
            nanoseconds in 0u32..1_000_000_000,
            device in (0u32..4096, 0u32..(1 << 20)),
            data: Vec<u8>,
            xattr: Vec<u8>,
            kind in 0usize..7,
        ) {
            let kind = [Kind::File, Kind::HardLink, Kind::Symlink, Kind::Character, Kind::Block,
                Kind::Directory, Kind::Fifo][kind];
            let mut entry = Entry::new(kind, path);
            (entry.mode, entry.uid, entry.gid) = (mode, owner.0, owner.1);
            entry.mtime = (mtime, if mtime < 0 { 0 } else { nanoseconds });
            entry.xattrs = vec![(b"user.x".to_vec(), xattr)];
            if kind == Kind::File { entry.size = data.len() as u64; }
            if matches!(kind, Kind::HardLink | Kind::Symlink) { entry.link = link; }
            if matches!(kind, Kind::Character | Kind::Block) { entry.device = device; }
            let mut writer = Writer::new(Vec::new());
            writer.append(&entry, &mut &data[..]).unwrap();
            let bytes = writer.finish().unwrap();
            if kind == Kind::Directory { entry.path.push(b'/'); }
            let data = if kind == Kind::File { data } else { Vec::new() };
            prop_assert_eq!(read_back(&bytes).unwrap(), vec![(entry, data)]);
        }

        /// Garbage, and sound archives with a few bytes changed, do not harm.
        #[test]
        fn any_bytes_are_safe(mut noise: Vec<u8>, changes: Vec<(u16, u8)>) {
            let _ = read_back(&noise);
            let mut writer = Writer::new(Vec::new());
            let mut entry = Entry::new(Kind::File, vec![b'p'; 200]);
            entry.size = 600;
            writer.append(&entry, &mut &[1; 600][..]).unwrap();
            let mut bytes = writer.finish().unwrap();
            for (at, value) in changes {
                let at = at as usize % bytes.len();
                bytes[at] = value;
            }
            // Keep the checksums true, or nothing past them is reached.
            for block in [0, 1024] {
                bytes[block + 148..block + 156].fill(b' ');
                let sum: u32 = bytes[block..block + 512].iter().map(|byte| u32::from(*byte)).sum();
                bytes[block + 148..block + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
            }
            let _ = read_back(&bytes);
            noise.resize(4096, 0);
            let _ = read_back(&noise);
        }
    }

    #[test]
    fn limits_hold() {
        let mut writer = Writer::new(Vec::new());
        for n in 0..10 {
            let mut entry = Entry::new(Kind::File, format!("f{n}"));
            entry.size = 1000;
            writer.append(&entry, &mut io::repeat(b'x')).unwrap();
        }
        let bytes = writer.finish().unwrap();
        for limits in [
            ReadLimits {
                bytes: 8000,
                entries: 100,
            },
            ReadLimits {
                bytes: 1 << 20,
                entries: 9,
            },
        ] {
            let mut archive = Archive::new(&bytes[..], limits);
            let error = loop {
                match archive.next_entry() {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("{limits:?} did not hold"),
                    Err(error) => break error,
                }
            };
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        }
    }

    #[test]
    fn a_cut_archive_is_an_error() {
        let mut writer = Writer::new(Vec::new());
        let mut entry = Entry::new(Kind::File, "f");
        entry.size = 1000;
        writer.append(&entry, &mut io::repeat(b'x')).unwrap();
        let bytes = writer.finish().unwrap();
        for cut in [100, 512, 600, 1511, 1535] {
            let error = read_back(&bytes[..cut]).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "cut at {cut}");
        }
    }
}
