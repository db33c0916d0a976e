//! Recognising and undoing compression.

use std::io::{self, BufRead, BufReader, Read};

use dhow_oci::Compression;

/// Largest zstd window that is allocated for a stranger: 128 MiB, as the
/// format recommends for decoders.
const ZSTD_WINDOW_LOG: u32 = 27;

/// A plain stream from one that may be compressed.
pub enum Decompressor<'a> {
    /// Was plain already.
    Plain(Box<dyn Read + Send + 'a>),
    /// gzip, any number of members.
    Gzip(Box<flate2::bufread::MultiGzDecoder<Source<'a>>>),
    /// zstd, any number of frames.
    Zstd(Box<zstd::stream::read::Decoder<'static, Source<'a>>>),
}

type Source<'a> = BufReader<Box<dyn Read + Send + 'a>>;

/// The compression of a stream, from its first bytes, and the whole stream.
pub fn sniff<'a>(
    mut input: impl Read + Send + 'a,
) -> io::Result<(Compression, Box<dyn Read + Send + 'a>)> {
    let mut start = Vec::with_capacity(4);
    (&mut input).take(4).read_to_end(&mut start)?;
    let compression = Compression::sniff(&start);
    Ok((compression, Box::new(io::Cursor::new(start).chain(input))))
}

impl<'a> Decompressor<'a> {
    /// Looks at the first bytes and undoes what they announce.
    pub fn new(input: impl Read + Send + 'a) -> io::Result<Decompressor<'a>> {
        let (compression, input) = sniff(input)?;
        let source = BufReader::with_capacity(128 << 10, input);
        Ok(match compression {
            Compression::None => Decompressor::Plain(Box::new(source)),
            Compression::Gzip => {
                Decompressor::Gzip(Box::new(flate2::bufread::MultiGzDecoder::new(source)))
            }
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
                decoder.window_log_max(ZSTD_WINDOW_LOG)?;
                Decompressor::Zstd(Box::new(decoder))
            }
        })
    }

    /// Reads the compressed stream itself to its end: padding after the last
    /// member belongs to the blob, too.
    pub fn drain(self) -> io::Result<()> {
        let mut source: Box<dyn BufRead> = match self {
            Decompressor::Plain(mut source) => {
                return io::copy(&mut source, &mut io::sink()).map(drop);
            }
            Decompressor::Gzip(decoder) => Box::new(decoder.into_inner()),
            Decompressor::Zstd(decoder) => Box::new(decoder.finish()),
        };
        io::copy(&mut source, &mut io::sink()).map(drop)
    }
}

impl Read for Decompressor<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decompressor::Plain(input) => input.read(buffer),
            Decompressor::Gzip(input) => input.read(buffer),
            Decompressor::Zstd(input) => input.read(buffer),
        }
    }
}
