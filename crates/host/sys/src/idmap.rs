//! Identity maps of user namespaces (user_namespaces(7)): who somebody inside is
//! outside, and the other way round.

use std::fmt::Write as _;
use std::os::fd::AsFd;

use crate::{Errno, Result, resolve};

/// Consecutive identifiers that are mapped to as many outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Range {
    /// The first inside.
    pub inside: u32,
    /// The first outside.
    pub outside: u32,
    /// How many.
    pub count: u32,
}

/// The maps of a user namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct IdMaps {
    /// Those of users.
    pub users: Vec<Range>,
    /// Those of groups.
    pub groups: Vec<Range>,
}

/// What the kernel shows for identifiers that are not mapped.
pub const NOBODY: u32 = 65534;

impl Range {
    fn translate(ranges: &[Self], id: u32, way: impl Fn(&Self) -> (u32, u32)) -> Option<u32> {
        ranges.iter().find_map(|range| {
            let (from, to) = way(range);
            let offset = id.checked_sub(from)?;
            (offset < range.count).then(|| to.checked_add(offset))?
        })
    }

    fn outwards(&self) -> (u32, u32) {
        (self.inside, self.outside)
    }

    fn inwards(&self) -> (u32, u32) {
        (self.outside, self.inside)
    }
}

impl IdMaps {
    /// The maps of the user namespace that a process is in, as this process sees
    /// them.
    ///
    /// # Errors
    ///
    /// `ENOENT` or `ESRCH` if there is no such process, `EBADMSG` for what is no
    /// map.
    pub fn of(pid: i32) -> Result<Self> {
        let read = |name: &str| {
            let text = std::fs::read_to_string(format!("/proc/{pid}/{name}"));
            let text = text.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
            parse(&text).ok_or(Errno::BADMSG)
        };
        Ok(Self {
            users: read("uid_map")?,
            groups: read("gid_map")?,
        })
    }

    /// Gives the new user namespace of a process these maps; once only.
    ///
    /// # Errors
    ///
    /// What write(2) says: `EPERM` if it has maps, `EINVAL` for maps that overlap.
    pub fn write(&self, pid: i32) -> Result<()> {
        let proc = resolve::open_proc()?;
        for (file, ranges) in [("uid_map", &self.users), ("gid_map", &self.groups)] {
            let path = std::ffi::CString::new(format!("{pid}/{file}")).expect("no zero in it");
            resolve::write_in_proc(proc.as_fd(), &path, text(ranges).as_bytes())?;
        }
        Ok(())
    }

    /// Who a user and a group inside are outside; none if one of them is not mapped.
    #[must_use]
    pub fn outside(&self, uid: u32, gid: u32) -> Option<(u32, u32)> {
        Some((
            Range::translate(&self.users, uid, Range::outwards)?,
            Range::translate(&self.groups, gid, Range::outwards)?,
        ))
    }

    /// Who a user and a group outside are inside; [`NOBODY`] for those not mapped,
    /// as the kernel shows them.
    #[must_use]
    pub fn inside(&self, uid: u32, gid: u32) -> (u32, u32) {
        let inside = |ranges: &[Range], id| Range::translate(ranges, id, Range::inwards);
        (
            inside(&self.users, uid).unwrap_or(NOBODY),
            inside(&self.groups, gid).unwrap_or(NOBODY),
        )
    }
}

fn text(ranges: &[Range]) -> String {
    let mut text = String::new();
    for range in ranges {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{} {} {}", range.inside, range.outside, range.count);
    }
    text
}

fn parse(text: &str) -> Option<Vec<Range>> {
    text.lines()
        .map(|line| {
            let mut words = line.split_whitespace();
            let mut number = || words.next()?.parse().ok();
            Some(Range {
                inside: number()?,
                outside: number()?,
                count: number()?,
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn maps(ranges: &[(u32, u32, u32)]) -> IdMaps {
        let range = |&(inside, outside, count): &(u32, u32, u32)| Range {
            inside,
            outside,
            count,
        };
        let users: Vec<Range> = ranges.iter().map(range).collect();
        IdMaps {
            groups: users.clone(),
            users,
        }
    }

    #[test]
    fn both_ways() {
        let maps = maps(&[(0, 100_000, 10), (10, 500, 5)]);
        assert_eq!(maps.outside(0, 14), Some((100_000, 504)));
        assert_eq!(maps.outside(0, 15), None);
        assert_eq!(maps.inside(100_009, 500), (9, 10));
        assert_eq!(maps.inside(0, 504), (NOBODY, 14));
        assert_eq!(parse(&text(&maps.users)), Some(maps.users));
    }

    #[test]
    fn here_everybody_has_an_identity() {
        let here = IdMaps::of(std::process::id().cast_signed()).unwrap();
        assert!(here.outside(0, 0).is_some());
        assert_eq!(IdMaps::of(0), Err(Errno::NOENT));
    }
}
