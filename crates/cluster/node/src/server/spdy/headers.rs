//! Header blocks: names and values, compressed with one zlib stream per
//! direction that begins with a dictionary (SPDY/3, section 2.6.10).

use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

use super::Error;

/// Words of the dictionary, each with its length before it.
const WORDS: &str = "options head post put delete trace accept accept-charset \
accept-encoding accept-language accept-ranges age allow authorization cache-control \
connection content-base content-encoding content-language content-length \
content-location content-md5 content-range content-type date etag expect expires from \
host if-match if-modified-since if-none-match if-range if-unmodified-since \
last-modified location max-forwards pragma proxy-authenticate proxy-authorization \
range referer retry-after server te trailer transfer-encoding upgrade user-agent vary \
via warning www-authenticate method get status 200|OK version HTTP/1.1 url public \
set-cookie keep-alive origin";
/// The rest of the dictionary.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413\
414415416417502504505203 Non-Authoritative Information204 No Content301 Moved \
Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not Found500 Internal \
Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug \
Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,\
image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,\
utf-,*,enq=0.";

/// A block that grows beyond this is a bomb.
const LARGEST: usize = 64 * 1024;

/// Names and values, in order; a name may have several values.
pub(super) type Headers = Vec<(String, String)>;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS.split(' ') {
        let word = word.replace('|', " ");
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Reads the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct HeaderReader(Decompress);

impl HeaderReader {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, Error> {
        parse(&self.inflate(block)?)
    }

    fn inflate(&mut self, mut block: &[u8]) -> Result<Vec<u8>, Error> {
        let mut inflated = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            let (read, written) = (self.0.total_in(), self.0.total_out());
            let done = self.0.decompress(block, &mut chunk, FlushDecompress::Sync);
            let n_read = (self.0.total_in() - read) as usize;
            let n_written = (self.0.total_out() - written) as usize;
            block = &block[n_read..];
            inflated.extend_from_slice(&chunk[..n_written]);
            if inflated.len() > LARGEST {
                return Err(Error::Malformed("a header block is too large"));
            }
            match done {
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0
                        .set_dictionary(&dictionary())
                        .map_err(|_| Error::Malformed("another dictionary is wanted"))?;
                }
                Err(_) => return Err(Error::Malformed("a header block is not compressed")),
                Ok(Status::StreamEnd) if !block.is_empty() => {
                    return Err(Error::Malformed("the header stream has ended"));
                }
                Ok(_) if n_written == chunk.len() => {}
                Ok(_) if block.is_empty() || (n_read == 0 && n_written == 0) => {
                    return Ok(inflated);
                }
                Ok(_) => {}
            }
        }
    }
}

fn parse(mut bytes: &[u8]) -> Result<Headers, Error> {
    let mut headers = Vec::new();
    let count = number(&mut bytes)?;
    for _ in 0..count {
        let name = text(&mut bytes)?;
        for value in text(&mut bytes)?.split('\0') {
            headers.push((name.clone(), value.to_owned()));
        }
    }
    Ok(headers)
}

fn number(bytes: &mut &[u8]) -> Result<u32, Error> {
    let (number, rest) = bytes
        .split_first_chunk::<4>()
        .ok_or(Error::Malformed("a header block breaks off"))?;
    *bytes = rest;
    Ok(u32::from_be_bytes(*number))
}

fn text(bytes: &mut &[u8]) -> Result<String, Error> {
    let length = number(bytes)? as usize;
    if length > bytes.len() {
        return Err(Error::Malformed("a header block breaks off"));
    }
    let (text, rest) = bytes.split_at(length);
    *bytes = rest;
    String::from_utf8(text.to_vec()).map_err(|_| Error::Malformed("a header is not text"))
}

/// Writes the blocks of one direction, in order.
#[derive(Debug)]
pub(super) struct HeaderWriter(Compress);

impl HeaderWriter {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        compress
            .set_dictionary(&dictionary())
            .expect("a stream that has not begun takes a dictionary");
        Self(compress)
    }

    pub(super) fn write(&mut self, headers: &[(String, String)]) -> Vec<u8> {
        let mut plain = (headers.len() as u32).to_be_bytes().to_vec();
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
            plain.extend_from_slice(text.as_bytes());
        }
        let mut block = Vec::with_capacity(plain.len() + 64);
        let mut rest = &plain[..];
        loop {
            let read = self.0.total_in();
            block.reserve(64 + rest.len());
            self.0
                .compress_vec(rest, &mut block, FlushCompress::Sync)
                .expect("compression into memory does not fail");
            rest = &rest[(self.0.total_in() - read) as usize..];
            if rest.is_empty() && block.len() < block.capacity() {
                return block;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_dictionary_is_the_one_of_the_protocol() {
        let dictionary = dictionary();
        assert_eq!(dictionary.len(), 1423);
        let (mut a, mut b) = (1u32, 0u32);
        for byte in &dictionary {
            a = (a + u32::from(*byte)) % 65_521;
            b = (b + a) % 65_521;
        }
        assert_eq!(b << 16 | a, 0xe3c6_a7c2, "Adler-32");
    }

    fn some_headers() -> impl Strategy<Value = Headers> {
        let text = "[a-z0-9:./ -]{0,40}";
        proptest::collection::vec((text, text), 0..20)
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(blocks in proptest::collection::vec(some_headers(), 1..6)) {
            let (mut writer, mut reader) = (HeaderWriter::new(), HeaderReader::new());
            for headers in blocks {
                let block = writer.write(&headers);
                prop_assert_eq!(reader.read(&block).expect("a block"), headers);
            }
        }

        #[test]
        fn hostile_blocks_end_in_an_error(noise in proptest::collection::vec(any::<u8>(), 0..300), bend in any::<(usize, u8)>()) {
            let _ = HeaderReader::new().read(&noise);
            let _ = parse(&noise);
            let mut block = HeaderWriter::new().write(&[("streamtype".into(), "data".into())]);
            let at = bend.0 % block.len();
            block[at] = bend.1;
            let _ = HeaderReader::new().read(&block);
        }
    }

    #[test]
    fn a_block_that_grows_without_end_is_refused() {
        let value = "a".repeat(2 * LARGEST);
        let block = HeaderWriter::new().write(&[("name".into(), value)]);
        assert!(block.len() < 4096, "it is small on the wire");
        assert!(HeaderReader::new().read(&block).is_err());
    }
}
