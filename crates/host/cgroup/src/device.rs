//! Rules about device access.

use std::fmt;

/// One rule of device access.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceRule {
    /// Grants or refuses.
    pub allow: bool,
    /// Which kind of devices.
    pub kind: DeviceKind,
    /// Major number; absent is every number.
    pub major: Option<u32>,
    /// Minor number; absent is every number.
    pub minor: Option<u32>,
    /// Reading.
    pub read: bool,
    /// Writing.
    pub write: bool,
    /// Making nodes.
    pub mknod: bool,
}

/// Kinds of devices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeviceKind {
    /// Every kind, every number, every access.
    All,
    /// Character devices.
    Character,
    /// Block devices.
    Block,
}

impl fmt::Display for DeviceRule {
    /// The form `devices.allow` and `devices.deny` take.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            DeviceKind::All => return write!(formatter, "a"),
            DeviceKind::Character => 'c',
            DeviceKind::Block => 'b',
        };
        write!(formatter, "{kind} ")?;
        let number =
            |number: Option<u32>| number.map_or("*".to_owned(), |number| number.to_string());
        write!(formatter, "{}:{} ", number(self.major), number(self.minor))?;
        for (granted, letter) in [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')] {
            if granted {
                write!(formatter, "{letter}")?;
            }
        }
        Ok(())
    }
}
