//! Messages of D-Bus as bytes and back: the types systemd's calls need, no more.
//!
//! Follows the D-Bus specification, "Type System" and "Message Protocol".
//! Written in little endian; read in the sender's order. What is read may be
//! anything: every length is checked against what is there.

use std::borrow::Cow;

use crate::error::{Result, SystemdError};

/// Longest message that is read, in bytes.
pub(crate) const MAX_MESSAGE: usize = 1 << 20;
/// Bytes of the part of the header whose length is known beforehand.
pub(crate) const FIXED: usize = 16;

/// One property of a unit and its value.
pub type Property = (Cow<'static, str>, Value);

/// A value of one of the types that properties of units have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// `s`.
    Text(String),
    /// `b`.
    Flag(bool),
    /// `t`.
    Number(u64),
    /// `au`.
    Identifiers(Vec<u32>),
    /// `ay`.
    Bytes(Vec<u8>),
    /// `as`.
    Texts(Vec<String>),
    /// `a(ss)`.
    Pairs(Vec<(String, String)>),
}

impl Value {
    fn signature(&self) -> &'static str {
        match self {
            Self::Text(_) => "s",
            Self::Flag(_) => "b",
            Self::Number(_) => "t",
            Self::Identifiers(_) => "au",
            Self::Bytes(_) => "ay",
            Self::Texts(_) => "as",
            Self::Pairs(_) => "a(ss)",
        }
    }
}

/// Bytes under construction, from an offset that is a multiple of eight.
#[derive(Debug, Default)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    pub(crate) fn number(&mut self, value: u32) {
        self.align(4);
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    pub(crate) fn flag(&mut self, value: bool) {
        self.number(u32::from(value));
    }

    /// `s` and `o`.
    pub(crate) fn text(&mut self, text: &str) {
        self.number(length(text.len()));
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(0);
    }

    fn signature(&mut self, signature: &str) {
        // All signatures here are a few bytes.
        self.0
            .push(u8::try_from(signature.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(signature.as_bytes());
        self.0.push(0);
    }

    /// An array whose elements begin at multiples of `alignment`.
    fn array(&mut self, alignment: usize, elements: impl FnOnce(&mut Self)) {
        self.number(0);
        let place = self.0.len() - 4;
        self.align(alignment);
        let start = self.0.len();
        elements(self);
        let bytes = length(self.0.len() - start).to_le_bytes();
        self.0[place..place + 4].copy_from_slice(&bytes);
    }

    fn variant(&mut self, value: &Value) {
        self.signature(value.signature());
        match value {
            Value::Text(text) => self.text(text),
            Value::Flag(flag) => self.flag(*flag),
            Value::Number(number) => {
                self.align(8);
                self.0.extend_from_slice(&number.to_le_bytes());
            }
            Value::Identifiers(numbers) => {
                self.array(4, |writer| numbers.iter().for_each(|n| writer.number(*n)));
            }
            Value::Bytes(bytes) => self.array(1, |writer| writer.0.extend_from_slice(bytes)),
            Value::Texts(texts) => {
                self.array(4, |writer| texts.iter().for_each(|text| writer.text(text)));
            }
            Value::Pairs(pairs) => self.array(8, |writer| {
                for (one, other) in pairs {
                    writer.align(8);
                    writer.text(one);
                    writer.text(other);
                }
            }),
        }
    }

    /// `a(sv)`.
    pub(crate) fn properties(&mut self, properties: &[Property]) {
        self.array(8, |writer| {
            for (name, value) in properties {
                writer.align(8);
                writer.text(name);
                writer.variant(value);
            }
        });
    }

    /// An empty `a(sa(sv))`.
    pub(crate) fn no_units(&mut self) {
        self.array(8, |_| {});
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A method to call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Call<'a> {
    pub(crate) destination: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) member: &'static str,
    /// Types of the body.
    pub(crate) signature: &'a str,
}

impl Call<'_> {
    /// The whole message.
    pub(crate) fn encode(&self, serial: u32, body: &Writer) -> Vec<u8> {
        let mut writer = Writer(vec![b'l', CALL, 0, 1]);
        writer.number(length(body.0.len()));
        writer.number(serial);
        let fields = [
            (PATH, "o", self.path),
            (INTERFACE, "s", self.interface),
            (MEMBER, "s", self.member),
            (DESTINATION, "s", self.destination),
        ];
        writer.array(8, |writer| {
            for (code, signature, text) in fields {
                writer.align(8);
                writer.0.push(code);
                writer.signature(signature);
                writer.text(text);
            }
            if !self.signature.is_empty() {
                writer.align(8);
                writer.0.push(SIGNATURE);
                writer.signature("g");
                writer.signature(self.signature);
            }
        });
        writer.align(8);
        writer.0.extend_from_slice(&body.0);
        writer.0
    }
}

const CALL: u8 = 1;
const ANSWER: u8 = 2;
const ERROR: u8 = 3;
const SIGNAL: u8 = 4;

const PATH: u8 = 1;
const INTERFACE: u8 = 2;
const MEMBER: u8 = 3;
const ERROR_NAME: u8 = 4;
const REPLY_SERIAL: u8 = 5;
const DESTINATION: u8 = 6;
const SIGNATURE: u8 = 8;

/// What kind a message is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Call,
    Answer,
    Error,
    Signal,
    /// One of a later version.
    Other,
}

/// A message that came.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Message {
    pub(crate) kind: Kind,
    /// Serial of the call it answers; zero for none.
    pub(crate) answers: u32,
    pub(crate) member: String,
    pub(crate) error: String,
    is_big_endian: bool,
    body: Vec<u8>,
}

/// How many bytes a message has that begins with these.
pub(crate) fn size(fixed: &[u8; FIXED]) -> Result<usize> {
    let is_big_endian = match fixed[0] {
        b'l' => false,
        b'B' => true,
        _ => return Err(SystemdError::Garbled("no byte order")),
    };
    let mut reader = Reader::new(fixed, is_big_endian);
    reader.at = 4;
    let body = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    reader.number()?;
    let fields = usize::try_from(reader.number()?).unwrap_or(usize::MAX);
    if body > MAX_MESSAGE || fields > MAX_MESSAGE {
        return Err(SystemdError::Garbled("a message without end"));
    }
    Ok((FIXED + fields).next_multiple_of(8) + body)
}

impl Message {
    /// Reads a whole message.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Self> {
        let fixed: &[u8; FIXED] = bytes
            .first_chunk()
            .ok_or(SystemdError::Garbled("a message without a head"))?;
        if size(fixed)? != bytes.len() {
            return Err(SystemdError::Garbled("a message of another length"));
        }
        let mut message = Self {
            kind: match fixed[1] {
                CALL => Kind::Call,
                ANSWER => Kind::Answer,
                ERROR => Kind::Error,
                SIGNAL => Kind::Signal,
                _ => Kind::Other,
            },
            answers: 0,
            member: String::new(),
            error: String::new(),
            is_big_endian: fixed[0] == b'B',
            body: Vec::new(),
        };
        let mut reader = Reader::new(bytes, message.is_big_endian);
        reader.at = FIXED - 4;
        let end = reader.number()? as usize + FIXED;
        while reader.at < end {
            reader.align(8)?;
            let code = reader.byte()?;
            let signature = reader.signature()?.to_owned();
            match (code, signature.as_str()) {
                (MEMBER, "s") => message.member = reader.text()?.to_owned(),
                (ERROR_NAME, "s") => message.error = reader.text()?.to_owned(),
                (REPLY_SERIAL, "u") => message.answers = reader.number()?,
                (_, "s" | "o") => drop(reader.text()?),
                (_, "u") => drop(reader.number()?),
                (_, "g") => drop(reader.signature()?),
                _ => return Err(SystemdError::Garbled("a field of an unknown type")),
            }
        }
        reader.align(8)?;
        message.body = bytes.get(reader.at..).unwrap_or_default().to_vec();
        Ok(message)
    }

    /// What it says.
    pub(crate) fn body(&self) -> Reader<'_> {
        Reader::new(&self.body, self.is_big_endian)
    }
}

/// Bytes being read, from an offset that is a multiple of eight.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    is_big_endian: bool,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8], is_big_endian: bool) -> Self {
        Self {
            bytes,
            at: 0,
            is_big_endian,
        }
    }

    fn take(&mut self, n_bytes: usize) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n_bytes);
        let taken = end.and_then(|end| self.bytes.get(self.at..end));
        let taken = taken.ok_or(SystemdError::Garbled("a message that ends too early"))?;
        self.at += n_bytes;
        Ok(taken)
    }

    fn align(&mut self, to: usize) -> Result<()> {
        self.take(self.at.next_multiple_of(to) - self.at).map(drop)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    /// `u`.
    pub(crate) fn number(&mut self) -> Result<u32> {
        self.align(4)?;
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.take(4)?);
        Ok(if self.is_big_endian {
            u32::from_be_bytes(bytes)
        } else {
            u32::from_le_bytes(bytes)
        })
    }

    fn zero_terminated(&mut self, n_bytes: usize) -> Result<&'a str> {
        let bytes = self.take(n_bytes)?;
        self.take(1)?;
        std::str::from_utf8(bytes).map_err(|_| SystemdError::Garbled("a text that is no UTF-8"))
    }

    /// `s` and `o`.
    pub(crate) fn text(&mut self) -> Result<&'a str> {
        let n_bytes = self.number()?;
        self.zero_terminated(usize::try_from(n_bytes).unwrap_or(usize::MAX))
    }

    fn signature(&mut self) -> Result<&'a str> {
        let n_bytes = self.byte()?;
        self.zero_terminated(usize::from(n_bytes))
    }

    /// `v`, if a text is in it.
    pub(crate) fn variant_text(&mut self) -> Result<&'a str> {
        match self.signature()? {
            "s" | "o" => self.text(),
            _ => Err(SystemdError::Garbled("a value of another type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn properties_are_laid_out_as_specified() {
        let mut writer = Writer::default();
        writer.properties(&[
            ("A".into(), Value::Flag(true)),
            ("Bc".into(), Value::Number(7)),
            ("D".into(), Value::Identifiers(vec![1, 2])),
            ("E".into(), Value::Pairs(vec![("p".into(), "rw".into())])),
            ("F".into(), Value::Texts(vec![])),
        ]);
        let expected: &[&[u8]] = &[
            &[120, 0, 0, 0, 0, 0, 0, 0],
            // A
            &[1, 0, 0, 0, b'A', 0, 1, b'b'],
            &[0, 0, 0, 0, 1, 0, 0, 0],
            // Bc
            &[2, 0, 0, 0, b'B', b'c', 0, 1],
            &[b't', 0, 0, 0, 0, 0, 0, 0],
            &[7, 0, 0, 0, 0, 0, 0, 0],
            // D
            &[1, 0, 0, 0, b'D', 0, 2, b'a'],
            &[b'u', 0, 0, 0, 8, 0, 0, 0],
            &[1, 0, 0, 0, 2, 0, 0, 0],
            // E
            &[1, 0, 0, 0, b'E', 0, 5, b'a'],
            &[b'(', b's', b's', b')', 0, 0, 0, 0],
            &[15, 0, 0, 0, 0, 0, 0, 0],
            &[1, 0, 0, 0, b'p', 0, 0, 0],
            &[2, 0, 0, 0, b'r', b'w', 0, 0],
            // F
            &[1, 0, 0, 0, b'F', 0, 2, b'a'],
            &[b's', 0, 0, 0, 0, 0, 0, 0],
        ];
        assert_eq!(writer.bytes(), expected.concat());
    }

    #[test]
    fn a_call_is_a_message() {
        let mut body = Writer::default();
        body.text("unit");
        let call = Call {
            destination: "a.b",
            path: "/a/b",
            interface: "c.d",
            member: "Do",
            signature: "s",
        };
        let bytes = call.encode(3, &body);
        let fixed = bytes.first_chunk().expect("it is longer");
        assert_eq!(size(fixed).expect("it is sound"), bytes.len());
        let message = Message::decode(&bytes).expect("it is sound");
        assert_eq!((message.kind, message.member.as_str()), (Kind::Call, "Do"));
        assert_eq!(message.body().text().expect("one"), "unit");
        assert!(Message::decode(&bytes[..bytes.len() - 1]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(mut bytes in prop::collection::vec(any::<u8>(), 0..200), little: bool) {
            if let Some(first) = bytes.first_mut() {
                *first = if little { b'l' } else { b'B' };
            }
            if let Ok(message) = Message::decode(&bytes) {
                let mut reader = message.body();
                let _ = reader.variant_text();
                let _ = reader.text();
            }
        }

        #[test]
        fn a_damaged_message_harms_nobody(at in 0_usize..80, value: u8) {
            let call = Call { destination: "a.b", path: "/a", interface: "c.d", member: "Do", signature: "s" };
            let mut body = Writer::default();
            body.text("unit");
            let mut bytes = call.encode(1, &body);
            let at = at % bytes.len();
            bytes[at] = value;
            if let Ok(message) = Message::decode(&bytes) {
                let _ = message.body().text();
            }
        }
    }
}
