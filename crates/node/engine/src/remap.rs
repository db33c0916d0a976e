//! Who the users of containers are on the host: ranges of `/etc/subuid` and
//! `/etc/subgid` (subuid(5)), as the daemon's option `--userns-remap` names them.
//!
//! Pure: the files come as texts. Making the account that stands for `default` is
//! not done here.

use dhow_sys::idmap::{IdMaps, Range};

/// The account that `default` stands for, and its group.
pub const DEFAULT_ACCOUNT: &str = "dockremap";

/// The kernel takes no more ranges for one namespace.
const MAX_RANGES: usize = 340;

/// The host's files of accounts, as texts.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccountFiles<'a> {
    /// `/etc/passwd`.
    pub passwd: &'a str,
    /// `/etc/group`.
    pub group: &'a str,
    /// `/etc/subuid`.
    pub subuid: &'a str,
    /// `/etc/subgid`.
    pub subgid: &'a str,
}

/// Why an option names no ranges.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RemapError {
    /// Not of the form of the option.
    #[error("{0:?} is not default, USER, UID, USER:GROUP or UID:GID")]
    Form(String),
    /// Root stands for itself.
    #[error("root cannot stand for root: name an account that has subordinate identifiers")]
    Root,
    /// There is no such user.
    #[error("there is no user {0:?} in /etc/passwd")]
    NoUser(String),
    /// There is no such group.
    #[error("there is no group {0:?} in /etc/group; name one as USER:GROUP")]
    NoGroup(String),
    /// Nothing is reserved for it.
    #[error("{file} has no range for {owner:?}: add a line such as {owner}:100000:65536")]
    NoRange {
        /// The file.
        file: &'static str,
        /// The user or group.
        owner: String,
    },
    /// A line that says nothing.
    #[error("{file}, line {line}: {why}")]
    Line {
        /// The file.
        file: &'static str,
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// The ranges make no map.
    #[error("the ranges of {owner:?} in {file} {why}")]
    Ranges {
        /// The file.
        file: &'static str,
        /// The user or group.
        owner: String,
        /// What is wrong.
        why: &'static str,
    },
}

type Result<T> = std::result::Result<T, RemapError>;

/// A user or group: by name, by number, or both.
#[derive(Debug, Clone, Default)]
struct Owner {
    name: Option<String>,
    number: Option<u32>,
}

impl Owner {
    fn is(&self, text: &str) -> bool {
        self.name.as_deref() == Some(text)
            || self
                .number
                .is_some_and(|number| text.parse() == Ok(number) && !text.starts_with('+'))
    }

    fn shown(&self) -> String {
        let number = self.number.map(|number| number.to_string());
        self.name.clone().or(number).unwrap_or_default()
    }
}

/// The maps that an option's value names.
///
/// The group is the one named, else the one with the user's name, else the user's
/// own. Its ranges may be listed under the group (as Docker has it) or under the
/// user (as subgid(5) has it). Several ranges follow each other, the lowest first.
///
/// # Errors
///
/// [`RemapError`], with the way out.
pub fn remap(wanted: &str, files: &AccountFiles<'_>) -> Result<IdMaps> {
    let form = || RemapError::Form(wanted.to_owned());
    let (user, group) = match wanted.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (wanted, None),
    };
    if user.is_empty() || group.is_some_and(|group| group.is_empty() || group.contains(':')) {
        return Err(form());
    }
    let (user, group) = match user {
        "default" if group.is_some() => return Err(form()),
        "default" => (DEFAULT_ACCOUNT, None),
        user => (user, group),
    };
    let account = find(files.passwd, user);
    let user = match (&account, number(user)) {
        (Some(account), _) => account.owner.clone(),
        (None, Some(uid)) => Owner {
            name: None,
            number: Some(uid),
        },
        (None, None) => return Err(RemapError::NoUser(user.to_owned())),
    };
    if user.number == Some(0) {
        return Err(RemapError::Root);
    }
    let named = group.map_or_else(|| user.shown(), str::to_owned);
    let group = match (find(files.group, &named), number(&named)) {
        (Some(found), _) => found.owner,
        (None, Some(gid)) => Owner {
            name: None,
            number: Some(gid),
        },
        (None, None) => {
            let own = account.filter(|_| group.is_none()).map(|found| Owner {
                name: None,
                number: found.next,
            });
            own.ok_or(RemapError::NoGroup(named))?
        }
    };
    if group.number == Some(0) {
        return Err(RemapError::Root);
    }
    let users = ranges("/etc/subuid", files.subuid, &[&user])?;
    let groups = ranges("/etc/subgid", files.subgid, &[&group, &user])?;
    Ok(IdMaps { users, groups })
}

/// An entry of `/etc/passwd` or `/etc/group`.
struct Entry {
    owner: Owner,
    /// The number after its own, which is a user's group.
    next: Option<u32>,
}

fn find(table: &str, wanted: &str) -> Option<Entry> {
    let by_number = number(wanted);
    table.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        let own = number(fields.nth(1)?)?;
        let is_it = name == wanted || by_number == Some(own);
        is_it.then(|| Entry {
            owner: Owner {
                name: Some(name.to_owned()),
                number: Some(own),
            },
            next: fields.next().and_then(number),
        })
    })
}

/// The ranges of the first of `owners` that has any.
fn ranges(file: &'static str, text: &str, owners: &[&Owner]) -> Result<Vec<Range>> {
    let mut listed = Vec::new();
    for (index, line) in text.lines().enumerate() {
        let wrong = |why| RemapError::Line {
            file,
            line: index + 1,
            why,
        };
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let fields: Vec<&str> = line.split(':').collect();
        let [name, start, count] = fields[..] else {
            return Err(wrong("is not of the form NAME:FIRST:COUNT"));
        };
        let (Some(start), Some(count)) = (number(start), number(count)) else {
            return Err(wrong(
                "has no numbers below 4294967296 in its second and third field",
            ));
        };
        if name.is_empty() || count == 0 {
            return Err(wrong("has no name, or a count of nothing"));
        }
        // The highest number is nobody's.
        if start.checked_add(count).is_none() {
            return Err(wrong("goes beyond 4294967294"));
        }
        listed.push((name, start, count));
    }
    let nothing = || RemapError::NoRange {
        file,
        owner: owners
            .first()
            .map(|owner| owner.shown())
            .unwrap_or_default(),
    };
    let has_any = |owner: &&&Owner| listed.iter().any(|(name, ..)| owner.is(name));
    let owner = owners.iter().find(has_any).ok_or_else(nothing)?;
    let mut own: Vec<(u32, u32)> = listed
        .iter()
        .filter(|(name, ..)| owner.is(name))
        .map(|&(_, start, count)| (start, count))
        .collect();
    own.sort_unstable();
    let wrong = |why| RemapError::Ranges {
        file,
        owner: owner.shown(),
        why,
    };
    if own[0].0 == 0 {
        return Err(wrong("begin with the host's root"));
    }
    if own.windows(2).any(|pair| pair[0].0 + pair[0].1 > pair[1].0) {
        return Err(wrong("overlap"));
    }
    if own.len() > MAX_RANGES {
        return Err(wrong("are more than the kernel takes (340)"));
    }
    let mut inside = 0;
    Ok(own
        .into_iter()
        .map(|(outside, count)| {
            let range = Range {
                inside,
                outside,
                count,
            };
            // Ranges that do not overlap have no more members than there are numbers.
            inside += count;
            range
        })
        .collect())
}

/// A number of digits alone.
fn number(text: &str) -> Option<u32> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    is_number.then(|| text.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FILES: AccountFiles<'_> = AccountFiles {
        passwd: "root:x:0:0::/:/bin/sh\nuser:x:1000:100::/:/bin/sh\ndockremap:x:990:991::/:/bin/false\n",
        group: "root:x:0:\nusers:x:100:\ndockremap:x:991:\n",
        subuid: "# comment\nuser:300000:10\n\nuser:100000:5\n990:200000:65536\n7:1:2\n",
        subgid: "users:400000:65536\ndockremap:200000:65536\nuser:500000:3\n7:8:9\n",
    };

    fn shown(maps: &IdMaps) -> [Vec<(u32, u32, u32)>; 2] {
        let all = |ranges: &[Range]| {
            let three = |range: &Range| (range.inside, range.outside, range.count);
            ranges.iter().map(three).collect()
        };
        [all(&maps.users), all(&maps.groups)]
    }

    #[test]
    fn accounts_name_their_ranges() {
        let users = vec![(0, 100_000, 5), (5, 300_000, 10)];
        for (wanted, expected) in [
            // Its group by name is not there, so its own, by number.
            ("user", [users.clone(), vec![(0, 500_000, 3)]]),
            ("1000:100", [users.clone(), vec![(0, 400_000, 65536)]]),
            ("user:users", [users, vec![(0, 400_000, 65536)]]),
            (
                "default",
                [vec![(0, 200_000, 65536)], vec![(0, 200_000, 65536)]],
            ),
            ("7:7", [vec![(0, 1, 2)], vec![(0, 8, 9)]]),
        ] {
            let maps = remap(wanted, &FILES).unwrap_or_else(|error| panic!("{wanted}: {error}"));
            assert_eq!(shown(&maps), expected, "{wanted}");
        }
    }

    #[test]
    fn strangers_words_are_refused_with_a_reason() {
        for (wanted, part) in [
            ("", "is not default, USER"),
            (":", "is not default, USER"),
            ("user:", "is not default, USER"),
            ("default:users", "is not default, USER"),
            ("root", "root cannot stand for root"),
            ("0:0", "root cannot stand for root"),
            ("user:0", "root cannot stand for root"),
            ("nobody", "no user \"nobody\""),
            ("user:nogroup", "no group \"nogroup\""),
            ("8:8", "/etc/subuid has no range for \"8\""),
        ] {
            let error = remap(wanted, &FILES).expect_err(wanted).to_string();
            assert!(error.contains(part), "{wanted}: {error}");
        }
        for (subuid, part) in [
            ("user:1", "line 1: is not of the form"),
            ("other:1:2\nuser:1:2:3", "line 2: is not of the form"),
            ("user:+1:2", "line 1: has no numbers"),
            ("user: 1:2", "line 1: has no numbers"),
            ("user:1:4294967296", "line 1: has no numbers"),
            ("user:4294967295:1", "line 1: goes beyond"),
            ("user:1:0", "a count of nothing"),
            ("user:0:5", "begin with the host's root"),
            ("user:10:5\nuser:14:1", "overlap"),
            ("", "has no range for \"user\""),
        ] {
            let files = AccountFiles { subuid, ..FILES };
            let error = remap("user", &files).expect_err(subuid).to_string();
            assert!(error.contains(part), "{subuid:?}: {error}");
        }
    }

    proptest! {
        /// Whatever the files hold: a map of ranges that follow each other, or a
        /// reason.
        #[test]
        fn any_file_is_a_map_or_refused(
            lines in prop::collection::vec("(user|users|x|):[0-9]{0,11}(:[0-9]{0,11})?", 0..8),
        ) {
            let text = lines.join("\n");
            let files = AccountFiles { subuid: &text, subgid: &text, ..FILES };
            if let Ok(maps) = remap("user:users", &files) {
                for ranges in [&maps.users, &maps.groups] {
                    let mut next = 0;
                    for range in ranges {
                        prop_assert_eq!(range.inside, next);
                        prop_assert!(range.outside > 0 && range.count > 0);
                        next += range.count;
                    }
                }
            }
        }
    }
}
