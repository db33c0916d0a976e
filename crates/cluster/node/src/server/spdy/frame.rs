//! Frames (SPDY/3, section 2.2 and following), without I/O.

use bytes::{Buf, Bytes, BytesMut};

use super::Error;
use super::headers::{HeaderReader, HeaderWriter, Headers};

const VERSION: u16 = 3;
const HEADER: usize = 8;
const CONTROL: u8 = 0x80;
const FIN: u8 = 1;
/// A control frame that is longer makes no sense here.
const LARGEST_CONTROL: usize = 64 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream is reset: it is not known.
pub(super) const INVALID_STREAM: u32 = 2;
/// Why a stream is reset: there are too many.
pub(super) const REFUSED_STREAM: u32 = 3;

/// What comes next on a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// More.
    More,
    /// Nothing: this side has ended.
    End,
}

/// A frame that has an effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Frame {
    Open {
        stream: u32,
        headers: Headers,
        then: Then,
    },
    Reply {
        stream: u32,
        headers: Headers,
        then: Then,
    },
    Headers {
        stream: u32,
        then: Then,
    },
    Data {
        stream: u32,
        data: Bytes,
        then: Then,
    },
    Reset {
        stream: u32,
        status: u32,
    },
    Ping(u32),
    GoAway {
        last: u32,
    },
    WindowUpdate {
        stream: u32,
        delta: u32,
    },
    /// Settings, and types of later versions.
    Ignored,
}

/// Takes frames out of bytes. Data is handed on as it comes, so a frame of any
/// length takes no room.
#[derive(Debug)]
pub(super) struct Decoder {
    bytes: BytesMut,
    headers: HeaderReader,
    /// Stream, bytes to come, and what comes after them.
    data: Option<(u32, usize, Then)>,
}

impl Decoder {
    pub(super) fn new() -> Self {
        Self {
            bytes: BytesMut::new(),
            headers: HeaderReader::new(),
            data: None,
        }
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next frame, if it is there.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, Error> {
        if let Some((stream, left, then)) = self.data {
            return Ok(self.more_data(stream, left, then));
        }
        let Some(header) = self.bytes.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let first = u32::from_be_bytes([header[0] & 0x7f, header[1], header[2], header[3]]);
        let flags = header[4];
        let length = u32::from_be_bytes([0, header[5], header[6], header[7]]) as usize;
        let then = if flags & FIN != 0 {
            Then::End
        } else {
            Then::More
        };
        if header[0] & CONTROL == 0 {
            self.bytes.advance(HEADER);
            return Ok(self.more_data(first, length, then));
        }
        let (version, kind) = ((first >> 16) as u16, first as u16);
        if version != VERSION {
            return Err(Error::Malformed("another version"));
        }
        if length > LARGEST_CONTROL {
            return Err(Error::Malformed("a control frame is too long"));
        }
        if self.bytes.len() < HEADER + length {
            return Ok(None);
        }
        self.bytes.advance(HEADER);
        let payload = self.bytes.split_to(length).freeze();
        self.control(kind, payload, then).map(Some)
    }

    fn more_data(&mut self, stream: u32, left: usize, then: Then) -> Option<Frame> {
        let data = self.bytes.split_to(left.min(self.bytes.len())).freeze();
        let left = left - data.len();
        self.data = (left > 0).then_some((stream, left, then));
        if left > 0 && data.is_empty() {
            return None;
        }
        let then = if left > 0 { Then::More } else { then };
        Some(Frame::Data { stream, data, then })
    }

    fn control(&mut self, kind: u16, mut payload: Bytes, then: Then) -> Result<Frame, Error> {
        let number = |payload: &mut Bytes| {
            payload
                .try_get_u32()
                .map_err(|_| Error::Malformed("a control frame is too short"))
        };
        let id = |number: u32| number & 0x7fff_ffff;
        match kind {
            SYN_STREAM => {
                let stream = id(number(&mut payload)?);
                number(&mut payload)?;
                payload
                    .try_get_u16()
                    .map_err(|_| Error::Malformed("a control frame is too short"))?;
                let headers = self.headers.read(&payload)?;
                Ok(Frame::Open {
                    stream,
                    headers,
                    then,
                })
            }
            SYN_REPLY => {
                let stream = id(number(&mut payload)?);
                let headers = self.headers.read(&payload)?;
                Ok(Frame::Reply {
                    stream,
                    headers,
                    then,
                })
            }
            HEADERS => {
                let stream = id(number(&mut payload)?);
                self.headers.read(&payload)?;
                Ok(Frame::Headers { stream, then })
            }
            RST_STREAM => Ok(Frame::Reset {
                stream: id(number(&mut payload)?),
                status: number(&mut payload)?,
            }),
            PING => Ok(Frame::Ping(number(&mut payload)?)),
            GOAWAY => Ok(Frame::GoAway {
                last: id(number(&mut payload)?),
            }),
            WINDOW_UPDATE => Ok(Frame::WindowUpdate {
                stream: id(number(&mut payload)?),
                delta: id(number(&mut payload)?),
            }),
            SETTINGS => Ok(Frame::Ignored),
            _ => Ok(Frame::Ignored),
        }
    }
}

/// Makes bytes of frames.
#[derive(Debug)]
pub(super) struct Encoder(HeaderWriter);

impl Encoder {
    pub(super) fn new() -> Self {
        Self(HeaderWriter::new())
    }

    pub(super) fn encode(&mut self, frame: &Frame) -> Bytes {
        let flags = |then: Then| if then == Then::End { FIN } else { 0 };
        let numbers = |numbers: &[u32]| -> Vec<u8> {
            numbers
                .iter()
                .flat_map(|number| number.to_be_bytes())
                .collect()
        };
        match frame {
            Frame::Open {
                stream,
                headers,
                then,
            } => {
                let mut payload = numbers(&[*stream, 0]);
                payload.extend_from_slice(&[0, 0]);
                payload.extend_from_slice(&self.0.write(headers));
                control(SYN_STREAM, flags(*then), &payload)
            }
            Frame::Reply {
                stream,
                headers,
                then,
            } => {
                let mut payload = numbers(&[*stream]);
                payload.extend_from_slice(&self.0.write(headers));
                control(SYN_REPLY, flags(*then), &payload)
            }
            Frame::Headers { stream, then } => {
                let mut payload = numbers(&[*stream]);
                payload.extend_from_slice(&self.0.write(&[]));
                control(HEADERS, flags(*then), &payload)
            }
            Frame::Data { stream, data, then } => {
                let mut bytes = BytesMut::with_capacity(HEADER + data.len());
                bytes.extend_from_slice(&stream.to_be_bytes());
                bytes.extend_from_slice(&length(flags(*then), data.len()));
                bytes.extend_from_slice(data);
                bytes.freeze()
            }
            Frame::Reset { stream, status } => {
                control(RST_STREAM, 0, &numbers(&[*stream, *status]))
            }
            Frame::Ping(number) => control(PING, 0, &numbers(&[*number])),
            Frame::GoAway { last } => control(GOAWAY, 0, &numbers(&[*last, 0])),
            Frame::WindowUpdate { stream, delta } => {
                control(WINDOW_UPDATE, 0, &numbers(&[*stream, *delta]))
            }
            Frame::Ignored => control(SETTINGS, 0, &numbers(&[0])),
        }
    }
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&(VERSION | 0x8000).to_be_bytes());
    bytes.extend_from_slice(&kind.to_be_bytes());
    bytes.extend_from_slice(&length(flags, payload.len()));
    bytes.extend_from_slice(payload);
    bytes.freeze()
}

/// Flags and a length of 24 bits.
fn length(flags: u8, length: usize) -> [u8; 4] {
    let length = u32::try_from(length)
        .ok()
        .filter(|length| *length < 1 << 24)
        .expect("frames are cut to size before");
    (u32::from(flags) << 24 | length).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn then() -> impl Strategy<Value = Then> {
        prop_oneof![Just(Then::More), Just(Then::End)]
    }

    fn frame() -> impl Strategy<Value = Frame> {
        let stream = 1..0x7fff_ffffu32;
        let headers = proptest::collection::vec(("[a-z]{1,9}", "[a-z0-9]{0,9}"), 0..4);
        prop_oneof![
            (stream.clone(), headers.clone(), then()).prop_map(|(stream, headers, then)| {
                Frame::Open {
                    stream,
                    headers,
                    then,
                }
            }),
            (stream.clone(), headers, then()).prop_map(|(stream, headers, then)| Frame::Reply {
                stream,
                headers,
                then
            }),
            (
                stream.clone(),
                proptest::collection::vec(any::<u8>(), 1..900),
                then()
            )
                .prop_map(|(stream, data, then)| Frame::Data {
                    stream,
                    data: data.into(),
                    then
                }),
            (stream.clone(), any::<u32>())
                .prop_map(|(stream, status)| Frame::Reset { stream, status }),
            any::<u32>().prop_map(Frame::Ping),
            stream.clone().prop_map(|last| Frame::GoAway { last }),
            (stream, 1..0x7fff_ffffu32)
                .prop_map(|(stream, delta)| Frame::WindowUpdate { stream, delta }),
        ]
    }

    /// Joins pieces of data that belong to one frame.
    fn joined(frames: Vec<Frame>) -> Vec<Frame> {
        let mut all: Vec<Frame> = Vec::new();
        for frame in frames {
            if let Frame::Data { stream, data, then } = &frame
                && let Some(Frame::Data {
                    stream: before,
                    data: some,
                    then: last,
                }) = all.last_mut()
                && before == stream
                && *last == Then::More
            {
                *some = [&some[..], data].concat().into();
                *last = *then;
                continue;
            }
            all.push(frame);
        }
        all
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded_however_it_is_cut(
            frames in proptest::collection::vec(frame(), 1..12),
            cut in 1usize..70,
        ) {
            let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
            let mut decoded = Vec::new();
            for frame in &frames {
                for piece in encoder.encode(frame).chunks(cut) {
                    decoder.push(piece);
                    while let Some(frame) = decoder.next().expect("a frame") {
                        decoded.push(frame);
                    }
                }
            }
            prop_assert_eq!(joined(decoded), joined(frames));
        }

        #[test]
        fn hostile_bytes_do_no_harm(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            frames in proptest::collection::vec(frame(), 1..5),
            bend in any::<(usize, u8)>(),
        ) {
            let mut encoder = Encoder::new();
            let mut bytes: Vec<u8> =
                frames.iter().flat_map(|frame| encoder.encode(frame)).collect();
            let at = bend.0 % bytes.len();
            bytes[at] = bend.1;
            for bytes in [noise, bytes] {
                let mut decoder = Decoder::new();
                decoder.push(&bytes);
                while let Ok(Some(_)) = decoder.next() {}
            }
        }
    }
}
