//! Users and groups, as the container's own files name them.

use dhow_runtime::spec::User;

use crate::error::{Error, Result};

/// Whom a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    /// Numbers for the runtime.
    pub(crate) user: User,
    /// The user's home folder.
    pub(crate) home: String,
}

/// Resolves `user`, `uid`, `user:group` or `uid:gid` with the texts of the
/// container's `/etc/passwd` and `/etc/group`; `further` are the groups of
/// `--group-add`. Numbers need no entry; names do.
///
/// A name is never taken for a number with something behind it: whatever is
/// not all digits is looked up as a name.
pub(crate) fn identify(
    user: &str,
    further: &[String],
    passwd: &str,
    group: &str,
) -> Result<Identity> {
    let (user, wanted_group) = match user.split_once(':') {
        Some((user, group)) => (user, Some(group).filter(|group| !group.is_empty())),
        None => (user, None),
    };
    let accounts = || passwd.lines().filter_map(Account::parse);
    let user = if user.is_empty() { "0" } else { user };
    let account = match number(user)? {
        Some(uid) => accounts()
            .find(|account| account.uid == uid)
            .unwrap_or(Account {
                name: "",
                uid,
                gid: 0,
                home: "/",
            }),
        None => accounts()
            .find(|account| account.name == user)
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "unable to find user {user}: no matching entries in passwd file"
                ))
            })?,
    };
    let gid_of = |name: &str| -> Result<u32> {
        if let Some(gid) = number(name)? {
            return Ok(gid);
        }
        groups(group)
            .find(|group| group.0 == name)
            .map(|group| group.1)
            .ok_or_else(|| {
                Error::Invalid(format!(
                    "unable to find group {name}: no matching entries in group file"
                ))
            })
    };
    let mut identity = Identity {
        user: User {
            uid: account.uid,
            gid: account.gid,
            ..User::default()
        },
        home: if account.home.is_empty() {
            "/"
        } else {
            account.home
        }
        .to_owned(),
    };
    match wanted_group {
        // A group that is named replaces those that the user is a member of.
        Some(name) => identity.user.gid = gid_of(name)?,
        None if !account.name.is_empty() => {
            let member = |members: &str| members.split(',').any(|member| member == account.name);
            identity.user.additional_gids = groups(group)
                .filter(|group| member(group.2))
                .map(|group| group.1)
                .collect();
        }
        None => {}
    }
    for name in further {
        identity.user.additional_gids.push(gid_of(name)?);
    }
    // Whoever gives up the group for another must not lose what is denied to it
    // (CVE-2022-36109).
    identity.user.additional_gids.push(identity.user.gid);
    identity.user.additional_gids.sort_unstable();
    identity.user.additional_gids.dedup();
    Ok(identity)
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> Account<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.trim().split(':');
        let (name, _, uid, gid, _, home) = (
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
            fields.next()?,
        );
        Some(Self {
            name,
            uid: uid.parse().ok()?,
            gid: gid.parse().ok()?,
            home,
        })
    }
}

fn groups(text: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        let (name, _, gid) = (fields.next()?, fields.next()?, fields.next()?);
        Some((name, gid.parse().ok()?, fields.next().unwrap_or_default()))
    })
}

/// The number that `text` is, `None` when it is a name.
fn number(text: &str) -> Result<Option<u32>> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<u32>() {
        // Identifiers are signed in the kernel's interfaces.
        Ok(number) if i32::try_from(number).is_ok() => Ok(Some(number)),
        _ => Err(Error::Invalid(format!(
            "uids and gids must be in range 0-2147483647: {text} is not"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/var/www:\nbad line\n12ab:x:7:7::/odd:\n";
    const GROUP: &str = "root:x:0:\nweb:x:33:\nlog:x:44:web,other\naudio:x:29:web\n";

    #[track_caller]
    fn check(user: &str, further: &[&str], uid: u32, gid: u32, groups: &[u32], home: &str) {
        let further: Vec<String> = further.iter().map(|name| (*name).into()).collect();
        let identity = identify(user, &further, PASSWD, GROUP).expect(user);
        assert_eq!((identity.user.uid, identity.user.gid), (uid, gid));
        assert_eq!(identity.user.additional_gids, groups);
        assert_eq!(identity.home, home);
    }

    #[test]
    fn forms_of_users() {
        check("", &[], 0, 0, &[0], "/root");
        check("web", &[], 33, 33, &[29, 33, 44], "/var/www");
        check(
            "33",
            &["log", "100"],
            33,
            33,
            &[29, 33, 44, 100],
            "/var/www",
        );
        check("web:log", &[], 33, 44, &[44], "/var/www");
        check("1000", &[], 1000, 0, &[0], "/");
        check("1000:1001", &[], 1000, 1001, &[1001], "/");
        check("12ab", &[], 7, 7, &[7], "/odd");
        for (user, part) in [
            (
                "nobody",
                "unable to find user nobody: no matching entries in passwd file",
            ),
            ("web:none", "unable to find group none"),
            ("4294967296", "must be in range 0-2147483647"),
            ("2147483648", "must be in range"),
            ("-1", "unable to find user -1"),
            ("0x0", "unable to find user 0x0"),
            ("+0", "unable to find user +0"),
        ] {
            let error = identify(user, &[], PASSWD, GROUP)
                .expect_err(user)
                .to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
