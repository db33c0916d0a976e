//! Netlink's wire form: messages, attributes, and batches of requests.
//!
//! Layout after `linux/netlink.h`: a 16-byte header (length, type, flags,
//! sequence, port), the family's own fixed header, then attributes of a 4-byte
//! header (length, type) each; everything is aligned to four bytes and in host
//! order unless an attribute says otherwise.

/// The attribute holds other attributes.
const NLA_F_NESTED: u16 = 1 << 15;
/// Everything in an attribute's type field that is not a flag.
const NLA_TYPE_MASK: u16 = 0x3fff;

pub(crate) const NLM_F_REQUEST: u16 = 0x1;
pub(crate) const NLM_F_MULTI: u16 = 0x2;
pub(crate) const NLM_F_ACK: u16 = 0x4;
pub(crate) const NLM_F_DUMP: u16 = 0x300;
pub(crate) const NLM_F_REPLACE: u16 = 0x100;
pub(crate) const NLM_F_EXCL: u16 = 0x200;
pub(crate) const NLM_F_CREATE: u16 = 0x400;

const HEADER: usize = 16;

/// Requests that travel in one system call, in order.
///
/// The kernel answers each acknowledged request on its own: rtnetlink goes on
/// after a failed one, nf_tables takes a whole transaction or nothing.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) bytes: Vec<u8>,
    /// Sequence numbers, relative to the first, of requests that get an answer.
    pub(crate) acknowledged: Vec<u32>,
    pub(crate) n_requests: u32,
}

impl Batch {
    /// An empty batch.
    pub fn new() -> Self {
        Self::default()
    }

    /// True while nothing was added.
    pub fn is_empty(&self) -> bool {
        self.n_requests == 0
    }

    /// Size of everything added so far, in bytes.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Starts a request of message type `kind`; `flags` are added to
    /// `NLM_F_REQUEST`. The request ends when the returned value is dropped.
    pub fn request(&mut self, kind: u16, flags: u16) -> Request<'_> {
        let start = self.bytes.len();
        let sequence = self.n_requests;
        self.n_requests += 1;
        if flags & NLM_F_ACK != 0 {
            self.acknowledged.push(sequence);
        }
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes
            .extend_from_slice(&(flags | NLM_F_REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&sequence.to_ne_bytes());
        self.bytes.extend_from_slice(&0u32.to_ne_bytes());
        Request { batch: self, start }
    }

    /// Numbers the requests from `first` on, so that answers can be told apart
    /// from those to earlier batches.
    pub(crate) fn number_from(&mut self, first: u32) {
        let mut offset = 0;
        let mut sequence = first;
        while offset + HEADER <= self.bytes.len() {
            let length = u32_at(&self.bytes, offset) as usize;
            self.bytes[offset + 8..offset + 12].copy_from_slice(&sequence.to_ne_bytes());
            sequence = sequence.wrapping_add(1);
            offset += align(length);
        }
    }
}

/// One request under construction; see [`Batch::request`].
#[derive(Debug)]
pub struct Request<'a> {
    batch: &'a mut Batch,
    start: usize,
}

impl Request<'_> {
    /// Appends the family's fixed header (or part of it), padded to four bytes.
    pub fn header(&mut self, bytes: &[u8]) -> &mut Self {
        self.batch.bytes.extend_from_slice(bytes);
        self.pad();
        self
    }

    /// Appends an attribute.
    ///
    /// # Panics
    ///
    /// When `value` does not fit an attribute (65,531 bytes).
    pub fn attribute(&mut self, kind: u16, value: &[u8]) -> &mut Self {
        let length = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.batch.bytes.extend_from_slice(&length.to_ne_bytes());
        self.batch.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.batch.bytes.extend_from_slice(value);
        self.pad();
        self
    }

    /// Appends a zero-terminated string.
    pub fn string(&mut self, kind: u16, value: &str) -> &mut Self {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.attribute(kind, &bytes)
    }

    /// Appends a 32-bit number in host order.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_ne_bytes())
    }

    /// Appends a 32-bit number in network order, as nf_tables wants them.
    pub fn number_be(&mut self, kind: u16, value: u32) -> &mut Self {
        self.attribute(kind, &value.to_be_bytes())
    }

    /// Appends an attribute that holds what `fill` adds.
    ///
    /// # Panics
    ///
    /// When the nest does not fit an attribute (65,531 bytes).
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Request<'_>)) -> &mut Self {
        let start = self.batch.bytes.len();
        self.batch.bytes.extend_from_slice(&[0; 4]);
        fill(self);
        let length = u16::try_from(self.batch.bytes.len() - start).expect("a nest fits 64 KiB");
        self.batch.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
        self.batch.bytes[start + 2..start + 4]
            .copy_from_slice(&(kind | NLA_F_NESTED).to_ne_bytes());
        self
    }

    fn pad(&mut self) {
        let length = align(self.batch.bytes.len());
        self.batch.bytes.resize(length, 0);
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        let length = (self.batch.bytes.len() - self.start) as u32;
        self.batch.bytes[self.start..self.start + 4].copy_from_slice(&length.to_ne_bytes());
    }
}

/// One message received from the kernel.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    /// Message type, for example `RTM_NEWLINK`.
    pub kind: u16,
    /// Header flags.
    pub flags: u16,
    /// Sequence number of the request that this answers.
    pub sequence: u32,
    /// Port of the socket that this answers, or whose request this tells of.
    pub port: u32,
    /// Everything after the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a fixed header of `header` bytes.
    pub fn attributes(&self, header: usize) -> Attributes<'a> {
        Attributes(self.payload.get(align(header)..).unwrap_or_default())
    }
}

/// The messages in one datagram; a truncated tail ends the iteration.
pub(crate) struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let bytes = self.0;
        let length = u32::from_ne_bytes(bytes.get(0..4)?.try_into().ok()?) as usize;
        if length < HEADER || length > bytes.len() {
            return None;
        }
        self.0 = bytes.get(align(length)..).unwrap_or_default();
        Some(Message {
            kind: u16_at(bytes, 4),
            flags: u16_at(bytes, 6),
            sequence: u32_at(bytes, 8),
            port: u32_at(bytes, 12),
            payload: &bytes[HEADER..length],
        })
    }
}

/// An iterator over attributes: type without flags, and value.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// The attributes nested in `value`.
    pub fn nested(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// The value of the first attribute of type `kind`.
    pub fn get(self, kind: u16) -> Option<&'a [u8]> {
        self.into_iter()
            .find(|(found, _)| *found == kind)
            .map(|(_, value)| value)
    }

    /// The first attribute of type `kind` as a number in host order.
    pub fn number(self, kind: u16) -> Option<u32> {
        Some(u32::from_ne_bytes(
            self.get(kind)?.get(..4)?.try_into().ok()?,
        ))
    }

    /// The first attribute of type `kind` as text, without its terminator.
    pub fn string(self, kind: u16) -> Option<String> {
        let value = self.get(kind)?;
        let end = value
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(value.len());
        Some(String::from_utf8_lossy(&value[..end]).into_owned())
    }
}

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let bytes = self.0;
        if bytes.len() < 4 {
            return None;
        }
        let length = u16_at(bytes, 0) as usize;
        if length < 4 || length > bytes.len() {
            return None;
        }
        self.0 = bytes.get(align(length)..).unwrap_or_default();
        Some((u16_at(bytes, 2) & NLA_TYPE_MASK, &bytes[4..length]))
    }
}

fn align(length: usize) -> usize {
    (length + 3) & !3
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> u16 {
    u16::from_ne_bytes([bytes[offset], bytes[offset + 1]])
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> u32 {
    u32::from_ne_bytes([
        bytes[offset],
        bytes[offset + 1],
        bytes[offset + 2],
        bytes[offset + 3],
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_built_is_read_back() {
        let mut batch = Batch::new();
        batch
            .request(16, NLM_F_ACK)
            .header(&[1; 5])
            .string(3, "eth0")
            .nest(18, |nest| {
                nest.string(1, "veth").number(2, 7);
            });
        batch.request(17, 0).header(&[0; 4]);
        batch.number_from(40);

        let messages: Vec<Message<'_>> = Messages(&batch.bytes).collect();
        assert_eq!(messages.len(), 2);
        assert_eq!((messages[0].kind, messages[0].sequence), (16, 40));
        assert_eq!((messages[1].kind, messages[1].sequence), (17, 41));
        let attributes = messages[0].attributes(5);
        assert_eq!(attributes.string(3).as_deref(), Some("eth0"));
        let nested = Attributes::nested(attributes.get(18).expect("the nest is there"));
        assert_eq!(nested.string(1).as_deref(), Some("veth"));
        assert_eq!(nested.number(2), Some(7));
    }

    #[test]
    fn cut_or_lying_bytes_end_the_iteration() {
        let mut batch = Batch::new();
        batch
            .request(16, 0)
            .header(&[0; 16])
            .string(3, "eth0")
            .number(4, 1500);
        for end in 0..batch.bytes.len() {
            for message in Messages(&batch.bytes[..end]) {
                let _ = message.attributes(16).count();
            }
        }
        let mut lying = batch.bytes.clone();
        for index in 0..lying.len() {
            let kept = std::mem::replace(&mut lying[index], 0xff);
            for message in Messages(&lying) {
                let _ = message.attributes(16).count();
            }
            lying[index] = kept;
        }
    }
}
