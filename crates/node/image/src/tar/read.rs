//! Reading archives from strangers: V7, ustar, PAX and GNU, sparse included,
//! with every length bounded before it is believed.

use std::io::{self, BufReader, Read};

use crate::tar::{BLOCK, Entry, Extent, Kind, pax};

/// Longest extended header, and longest long name.
const MAX_META: u64 = 1 << 20;
/// Most stretches a sparse file may have.
const MAX_EXTENTS: usize = 1 << 16;
/// Longest path; no system call takes a longer one.
const MAX_PATH: usize = 4096;

/// Bounds on a whole archive.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimits {
    /// Bytes read from the stream, and bytes of all files with their holes.
    pub bytes: u64,
    /// Entries.
    pub entries: u64,
}

/// Reads entries one after the other. Read the data of the current entry from
/// the archive itself; what is left of it is skipped.
pub struct Archive<R> {
    input: BufReader<R>,
    limits: ReadLimits,
    n_entries: u64,
    bytes: u64,
    sizes: u64,
    /// Data of the current entry not read yet, and its padding.
    left: u64,
    padding: u64,
    finished: bool,
}

/// What extended headers say about the entry that follows.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u32>,
    gid: Option<u32>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_name: Option<Vec<u8>>,
    sparse_size: Option<u64>,
    /// Offsets and lengths in turns, formats 0.0 and 0.1.
    sparse_map: Vec<u64>,
}

impl<R: Read> Archive<R> {
    /// An archive from a plain stream.
    pub fn new(input: R, limits: ReadLimits) -> Archive<R> {
        Archive {
            input: BufReader::with_capacity(128 << 10, input),
            limits,
            n_entries: 0,
            bytes: 0,
            sizes: 0,
            left: 0,
            padding: 0,
            finished: false,
        }
    }

    /// The next entry; none at the end of the archive.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidData`] for what is malformed or beyond a limit,
    /// [`io::ErrorKind::UnexpectedEof`] for what is cut off.
    pub fn next_entry(&mut self) -> io::Result<Option<Entry>> {
        if self.finished {
            return Ok(None);
        }
        self.skip(self.left + self.padding)?;
        (self.left, self.padding) = (0, 0);
        let mut extended = Extended::default();
        loop {
            let mut header = [0; BLOCK];
            if !self.read_header(&mut header)? {
                self.finished = true;
                return Ok(None);
            }
            let size = octal(&header[124..136]).ok_or_else(|| malformed("size"))?;
            match header[156] {
                b'L' => extended.path = Some(terminated(self.meta(size)?)),
                b'K' => extended.link = Some(terminated(self.meta(size)?)),
                b'x' => {
                    let data = self.meta(size)?;
                    extended.learn(&data)?;
                }
                // Remarks about the whole archive, and volume labels.
                b'g' | b'V' => self.skip(padded(size))?,
                b'M' => return Err(invalid("archives in several volumes are not supported")),
                _ => return self.entry(&header, size, extended).map(Some),
            }
        }
    }

    /// Reads the stream to its end, so that whoever hashes it has seen it all.
    pub fn finish(mut self) -> io::Result<()> {
        self.skip(self.left + self.padding)?;
        let mut buffer = [0; 8192];
        loop {
            let n_read = self.input.read(&mut buffer)?;
            if n_read == 0 {
                return Ok(());
            }
            self.account(n_read as u64)?;
        }
    }

    fn entry(&mut self, header: &[u8; BLOCK], size: u64, extended: Extended) -> io::Result<Entry> {
        self.n_entries += 1;
        if self.n_entries > self.limits.entries {
            return Err(invalid(format!(
                "more than {} entries",
                self.limits.entries
            )));
        }
        let stored = extended.size.unwrap_or(size);
        let path = match (extended.sparse_name, extended.path) {
            (Some(name), _) | (None, Some(name)) => name,
            (None, None) => header_path(header),
        };
        let kind = match header[156] {
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::Character,
            b'4' => Kind::Block,
            b'5' | b'D' => Kind::Directory,
            b'6' => Kind::Fifo,
            b'\0' if path.ends_with(b"/") => Kind::Directory,
            // POSIX: what is unknown is a file.
            _ => Kind::File,
        };
        let field = |range: std::ops::Range<usize>, name| {
            octal(&header[range]).ok_or_else(|| malformed(name))
        };
        let id = |value: u64| u32::try_from(value).map_err(|_| malformed("owner"));
        let number = |value: u64| u32::try_from(value).map_err(|_| malformed("device number"));
        let mtime = match extended.mtime {
            Some(mtime) => mtime,
            None => (
                signed(&header[136..148]).ok_or_else(|| malformed("time"))?,
                0,
            ),
        };
        let device = match kind {
            Kind::Character | Kind::Block => (
                number(field(329..337, "device number")?)?,
                number(field(337..345, "device number")?)?,
            ),
            _ => (0, 0),
        };
        let mut entry = Entry {
            path,
            link: extended
                .link
                .unwrap_or_else(|| terminated(header[157..257].to_vec())),
            kind,
            mode: (field(100..108, "mode")? & 0o7777) as u32,
            uid: extended
                .uid
                .map_or_else(|| id(field(108..116, "owner")?), Ok)?,
            gid: extended
                .gid
                .map_or_else(|| id(field(116..124, "group")?), Ok)?,
            size: stored,
            mtime,
            device,
            xattrs: extended.xattrs,
            sparse: None,
        };
        if entry.path.len() > MAX_PATH || entry.link.len() > MAX_PATH {
            return Err(invalid(format!("path longer than {MAX_PATH} bytes")));
        }
        if entry.path.contains(&0) || entry.link.contains(&0) {
            return Err(malformed("path"));
        }
        // Links carry a size in some archives, but only files carry data.
        let has_data = match kind {
            Kind::File => true,
            // GNU lists a directory's names in its data.
            Kind::Directory => header[156] == b'D',
            _ => false,
        };
        self.left = if has_data { stored } else { 0 };
        self.padding = padded(self.left) - self.left;
        if kind != Kind::File {
            entry.size = 0;
            return Ok(entry);
        }
        if header[156] == b'S' {
            let (extents, size) = self.old_sparse(header)?;
            (entry.sparse, entry.size) = (Some(extents), size);
        } else if extended.sparse_major == Some(1) {
            entry.sparse = Some(self.new_sparse()?);
            entry.size = extended
                .sparse_size
                .ok_or_else(|| malformed("sparse size"))?;
        } else if let Some(size) = extended.sparse_size {
            if !extended.sparse_map.len().is_multiple_of(2) {
                return Err(malformed("sparse map"));
            }
            let pairs = extended.sparse_map.chunks_exact(2);
            entry.sparse = Some(
                pairs
                    .map(|pair| Extent {
                        offset: pair[0],
                        length: pair[1],
                    })
                    .collect(),
            );
            entry.size = size;
        }
        if let Some(extents) = &entry.sparse {
            check_extents(extents, entry.size, self.left)?;
        }
        self.sizes = self.sizes.saturating_add(entry.size);
        if self.sizes > self.limits.bytes {
            return Err(self.too_large());
        }
        Ok(entry)
    }

    /// The map in a GNU `S` header and the blocks that continue it.
    fn old_sparse(&mut self, header: &[u8; BLOCK]) -> io::Result<(Vec<Extent>, u64)> {
        let mut extents = Vec::new();
        let size = octal(&header[483..495]).ok_or_else(|| malformed("sparse size"))?;
        let mut add = |fields: &[u8]| -> io::Result<()> {
            for pair in fields.chunks_exact(24) {
                if pair[0] == 0 {
                    break;
                }
                let offset = octal(&pair[..12]).ok_or_else(|| malformed("sparse map"))?;
                let length = octal(&pair[12..]).ok_or_else(|| malformed("sparse map"))?;
                extents.push(Extent { offset, length });
            }
            if extents.len() > MAX_EXTENTS {
                return Err(invalid("sparse map is too long"));
            }
            Ok(())
        };
        add(&header[386..482])?;
        let mut more = header[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            add(&block[..504])?;
            more = block[504] != 0;
        }
        Ok((extents, size))
    }

    /// The map that PAX sparse format 1.0 puts before the data.
    fn new_sparse(&mut self) -> io::Result<Vec<Extent>> {
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        loop {
            if self.left < BLOCK as u64 {
                return Err(malformed("sparse map"));
            }
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            self.left -= BLOCK as u64;
            for byte in block {
                if byte != b'\n' {
                    line.push(byte);
                    if line.len() > 20 {
                        return Err(malformed("sparse map"));
                    }
                    continue;
                }
                numbers.push(pax::number(&line).ok_or_else(|| malformed("sparse map"))?);
                line.clear();
                let n_extents = numbers[0] as usize;
                if n_extents > MAX_EXTENTS {
                    return Err(invalid("sparse map is too long"));
                }
                if numbers.len() == 1 + 2 * n_extents {
                    let pairs = numbers[1..].chunks_exact(2);
                    return Ok(pairs
                        .map(|pair| Extent {
                            offset: pair[0],
                            length: pair[1],
                        })
                        .collect());
                }
            }
        }
    }

    /// Reads a header; false at the end of the archive.
    fn read_header(&mut self, header: &mut [u8; BLOCK]) -> io::Result<bool> {
        let mut n_read = 0;
        while n_read < BLOCK {
            let n = self.input.read(&mut header[n_read..])?;
            if n == 0 && n_read == 0 {
                return Ok(false);
            }
            if n == 0 {
                return Err(cut_off());
            }
            n_read += n;
        }
        self.account(BLOCK as u64)?;
        if header.iter().all(|byte| *byte == 0) {
            return Ok(false);
        }
        let expected = octal(&header[148..156]).ok_or_else(|| invalid("not a tar archive"))?;
        let unsigned: u64 = sum(header, u64::from);
        let signed = sum(header, |byte| i64::from(byte as i8));
        if expected != unsigned && i64::try_from(expected) != Ok(signed) {
            return Err(invalid("not a tar archive: header checksum does not match"));
        }
        Ok(true)
    }

    fn meta(&mut self, size: u64) -> io::Result<Vec<u8>> {
        if size > MAX_META {
            return Err(invalid(format!("extended header of {size} bytes")));
        }
        let mut data = vec![0; padded(size) as usize];
        self.fill(&mut data)?;
        data.truncate(size as usize);
        Ok(data)
    }

    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        self.account(buffer.len() as u64)?;
        self.input
            .read_exact(buffer)
            .map_err(|error| match error.kind() {
                io::ErrorKind::UnexpectedEof => cut_off(),
                _ => error,
            })
    }

    fn skip(&mut self, mut n_bytes: u64) -> io::Result<()> {
        let mut buffer = [0; 8192];
        while n_bytes > 0 {
            let wanted = buffer
                .len()
                .min(usize::try_from(n_bytes).unwrap_or(usize::MAX));
            self.fill(&mut buffer[..wanted])?;
            n_bytes -= wanted as u64;
        }
        Ok(())
    }

    fn account(&mut self, n_bytes: u64) -> io::Result<()> {
        self.bytes = self.bytes.saturating_add(n_bytes);
        if self.bytes > self.limits.bytes {
            return Err(self.too_large());
        }
        Ok(())
    }

    fn too_large(&self) -> io::Error {
        invalid(format!(
            "archive unpacks to more than the {} bytes allowed",
            self.limits.bytes
        ))
    }
}

impl<R: Read> Read for Archive<R> {
    /// Reads data of the current entry.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = buffer
            .len()
            .min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if wanted == 0 {
            return Ok(0);
        }
        let n_read = self.input.read(&mut buffer[..wanted])?;
        if n_read == 0 {
            return Err(cut_off());
        }
        self.account(n_read as u64)?;
        self.left -= n_read as u64;
        Ok(n_read)
    }
}

impl Extended {
    fn learn(&mut self, data: &[u8]) -> io::Result<()> {
        let bad = || malformed("extended header");
        for (key, value) in pax::records(data).ok_or_else(bad)? {
            match key {
                b"path" => self.path = Some(value.to_vec()),
                b"linkpath" => self.link = Some(value.to_vec()),
                b"size" => self.size = Some(pax::number(value).ok_or_else(bad)?),
                b"uid" => self.uid = Some(pax::number(value).ok_or_else(bad)?),
                b"gid" => self.gid = Some(pax::number(value).ok_or_else(bad)?),
                b"mtime" => self.mtime = Some(pax::time(value).ok_or_else(bad)?),
                b"GNU.sparse.major" => {
                    self.sparse_major = Some(pax::number(value).ok_or_else(bad)?);
                }
                b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
                b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                    self.sparse_size = Some(pax::number(value).ok_or_else(bad)?);
                }
                b"GNU.sparse.map" => {
                    self.sparse_map = value
                        .split(|byte| *byte == b',')
                        .filter(|number| !number.is_empty())
                        .map(|number| pax::number(number).ok_or_else(bad))
                        .collect::<io::Result<_>>()?;
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    self.sparse_map.push(pax::number(value).ok_or_else(bad)?);
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        self.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
            if self.sparse_map.len() > 2 * MAX_EXTENTS {
                return Err(invalid("sparse map is too long"));
            }
        }
        Ok(())
    }
}

fn check_extents(extents: &[Extent], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0;
    let mut total = 0u64;
    for extent in extents {
        let after = extent
            .offset
            .checked_add(extent.length)
            .filter(|after| *after <= size);
        let (true, Some(after)) = (extent.offset >= end, after) else {
            return Err(malformed("sparse map"));
        };
        end = after;
        total += extent.length;
    }
    if total > stored {
        return Err(malformed("sparse map"));
    }
    Ok(())
}

fn sum<T: std::iter::Sum>(header: &[u8; BLOCK], value: impl Fn(u8) -> T) -> T {
    header
        .iter()
        .enumerate()
        .map(|(at, byte)| {
            value(if (148..156).contains(&at) {
                b' '
            } else {
                *byte
            })
        })
        .sum()
}

fn header_path(header: &[u8; BLOCK]) -> Vec<u8> {
    let name = terminated(header[..100].to_vec());
    // Only ustar has a prefix; GNU keeps other things there.
    if &header[257..263] == b"ustar\0" && header[345] != 0 {
        let mut path = terminated(header[345..500].to_vec());
        path.push(b'/');
        path.extend_from_slice(&name);
        return path;
    }
    name
}

fn terminated(mut text: Vec<u8>) -> Vec<u8> {
    if let Some(end) = text.iter().position(|byte| *byte == 0) {
        text.truncate(end);
    }
    text
}

fn padded(size: u64) -> u64 {
    size.saturating_add(BLOCK as u64 - 1) / BLOCK as u64 * BLOCK as u64
}

/// A numeric field: octal digits, or big endian with the high bit set.
fn octal(field: &[u8]) -> Option<u64> {
    signed(field).and_then(|value| u64::try_from(value).ok())
}

fn signed(field: &[u8]) -> Option<i64> {
    if field[0] & 0x80 != 0 {
        let negative = field[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        for (at, byte) in field.iter().enumerate() {
            let byte = if at == 0 && !negative {
                byte & 0x7f
            } else {
                *byte
            };
            value = (value << 8) | i128::from(byte);
            if value > i128::from(i64::MAX) || value < i128::from(i64::MIN) {
                return None;
            }
        }
        return Some(value as i64);
    }
    let digits: Vec<u8> = field
        .iter()
        .copied()
        .skip_while(|byte| *byte == b' ')
        .take_while(|byte| *byte != 0 && *byte != b' ')
        .collect();
    if digits.is_empty() {
        return Some(0);
    }
    i64::from_str_radix(std::str::from_utf8(&digits).ok()?, 8)
        .ok()
        .filter(|value| *value >= 0)
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "archive is cut off")
}

fn malformed(what: &str) -> io::Error {
    invalid(format!("malformed archive: bad {what}"))
}

fn invalid(text: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.into())
}
