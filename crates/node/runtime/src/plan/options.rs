//! Mount options as texts, to what the mount calls take (config.md, "Linux
//! mount options").

use dhow_sys::mount::{Attributes, Depth, Parameter, Propagation};
use libc::{
    MOUNT_ATTR__ATIME, MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME,
    MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID, MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY,
    MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};

use crate::error::Result;
use crate::plan::text;

/// Options of one mount, sorted by what they are about.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// A bind mount, and how much of it.
    pub(super) bind: Option<Depth>,
    /// Of the mount itself.
    pub(super) attributes: Attributes,
    /// Of the mount and all below it.
    pub(super) tree: Attributes,
    /// In the order they were named.
    pub(super) propagation: Vec<(Propagation, Depth)>,
    /// The filesystem's own.
    pub(super) parameters: Vec<Parameter>,
    /// Identities are mapped, and how deep.
    pub(super) mapped: Option<Depth>,
    /// The new filesystem begins with a copy of what it covers.
    pub(super) copy_up: bool,
    /// What is there already is changed.
    pub(super) remount: bool,
}

impl Options {
    pub(super) fn parse(field: &str, options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            parsed.take(field, option)?;
        }
        Ok(parsed)
    }

    fn take(&mut self, field: &str, option: &str) -> Result<()> {
        if let Some((attribute, set)) = attribute(option) {
            change(&mut self.attributes, attribute, set);
            return Ok(());
        }
        // With an r before, an attribute is for the whole tree.
        if let Some((attribute, set)) = option.strip_prefix('r').and_then(attribute) {
            change(&mut self.tree, attribute, set);
            return Ok(());
        }
        if let Some(propagation) = propagation(option) {
            self.propagation.push(propagation);
            return Ok(());
        }
        match option {
            "bind" => self.bind = self.bind.or(Some(Depth::One)),
            "rbind" => self.bind = Some(Depth::Tree),
            "idmap" => self.mapped = Some(Depth::One),
            "ridmap" => self.mapped = Some(Depth::Tree),
            "tmpcopyup" => self.copy_up = true,
            "remount" => self.remount = true,
            "" | "defaults" | "silent" | "loud" | "iversion" | "noiversion" => {}
            _ => match option.split_once('=') {
                Some((name, value)) => {
                    self.parameters
                        .push(Parameter::Text(text(field, name)?, text(field, value)?));
                }
                None => self.parameters.push(Parameter::Flag(text(field, option)?)),
            },
        }
        Ok(())
    }
}

/// The attribute an option is about, and whether it sets or clears it.
fn attribute(option: &str) -> Option<(u64, bool)> {
    Some(match option {
        "ro" => (MOUNT_ATTR_RDONLY, true),
        "rw" => (MOUNT_ATTR_RDONLY, false),
        "nosuid" => (MOUNT_ATTR_NOSUID, true),
        "suid" => (MOUNT_ATTR_NOSUID, false),
        "nodev" => (MOUNT_ATTR_NODEV, true),
        "dev" => (MOUNT_ATTR_NODEV, false),
        "noexec" => (MOUNT_ATTR_NOEXEC, true),
        "exec" => (MOUNT_ATTR_NOEXEC, false),
        "nodiratime" => (MOUNT_ATTR_NODIRATIME, true),
        "diratime" => (MOUNT_ATTR_NODIRATIME, false),
        "nosymfollow" => (MOUNT_ATTR_NOSYMFOLLOW, true),
        "symfollow" => (MOUNT_ATTR_NOSYMFOLLOW, false),
        "noatime" => (MOUNT_ATTR_NOATIME, true),
        "strictatime" => (MOUNT_ATTR_STRICTATIME, true),
        // These all say: as it is by default.
        "relatime" | "atime" | "nostrictatime" | "norelatime" => (MOUNT_ATTR_RELATIME, true),
        _ => return None,
    })
}

fn change(attributes: &mut Attributes, attribute: u64, set: bool) {
    let is_time = [
        MOUNT_ATTR_RELATIME,
        MOUNT_ATTR_NOATIME,
        MOUNT_ATTR_STRICTATIME,
    ]
    .contains(&attribute);
    if is_time {
        // One field of several bits: cleared as a whole before a value is set.
        attributes.set = attributes.set & !MOUNT_ATTR__ATIME | attribute;
        attributes.clear |= MOUNT_ATTR__ATIME;
    } else if set {
        attributes.set |= attribute;
        attributes.clear &= !attribute;
    } else {
        attributes.set &= !attribute;
        attributes.clear |= attribute;
    }
}

/// Propagation by name, and how deep it goes.
pub(super) fn propagation(option: &str) -> Option<(Propagation, Depth)> {
    Some(match option {
        "shared" => (Propagation::Shared, Depth::One),
        "rshared" => (Propagation::Shared, Depth::Tree),
        "slave" => (Propagation::Slave, Depth::One),
        "rslave" => (Propagation::Slave, Depth::Tree),
        "private" => (Propagation::Private, Depth::One),
        "rprivate" => (Propagation::Private, Depth::Tree),
        "unbindable" => (Propagation::Unbindable, Depth::One),
        "runbindable" => (Propagation::Unbindable, Depth::Tree),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(options: &[&str]) -> Options {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        Options::parse("mounts", &options).unwrap()
    }

    #[test]
    fn the_last_word_counts() {
        let options = parse(&[
            "ro",
            "nosuid",
            "rw",
            "noatime",
            "strictatime",
            "rbind",
            "rro",
        ]);
        assert_eq!(options.bind, Some(Depth::Tree));
        assert_eq!(
            options.attributes.set,
            MOUNT_ATTR_NOSUID | MOUNT_ATTR_STRICTATIME
        );
        assert_eq!(
            options.attributes.clear,
            MOUNT_ATTR_RDONLY | MOUNT_ATTR__ATIME
        );
        assert_eq!(options.tree.set, MOUNT_ATTR_RDONLY);
    }

    #[test]
    fn what_is_the_filesystems_stays_its_own() {
        let options = parse(&["mode=755", "newinstance", "rslave", "size=65536k"]);
        assert_eq!(options.propagation, [(Propagation::Slave, Depth::Tree)]);
        assert_eq!(options.parameters.len(), 3);
        assert_eq!(
            options.parameters[1],
            Parameter::Flag(c"newinstance".into())
        );
        // "relatime" is not "elatime" for the tree.
        assert_eq!(parse(&["relatime"]).tree, Attributes::default());
    }

    const ATTRIBUTES: [&str; 17] = [
        "ro",
        "rw",
        "nosuid",
        "suid",
        "nodev",
        "dev",
        "noexec",
        "exec",
        "nodiratime",
        "diratime",
        "nosymfollow",
        "symfollow",
        "noatime",
        "strictatime",
        "relatime",
        "atime",
        "norelatime",
    ];

    /// What mount_setattr(2) makes of the mount's present attributes.
    fn after(attributes: Attributes, before: u64) -> u64 {
        before & !attributes.clear | attributes.set
    }

    proptest! {
        /// Strangers' texts are parsed or refused, and nothing else happens.
        #[test]
        fn any_option_is_taken_or_refused(options in prop::collection::vec(".{0,20}", 0..8)) {
            let _ = Options::parse("mounts", &options);
        }

        /// Options one after the other do what each of them does in its turn,
        /// for the mount and for the tree alike.
        #[test]
        fn attributes_are_as_if_set_one_by_one(
            names in prop::collection::vec(prop::sample::select(&ATTRIBUTES[..]), 0..8),
            before in 0..256_u64,
        ) {
            // A mount always has exactly one of the times.
            let before = before & !MOUNT_ATTR__ATIME;
            let one_by_one = names.iter().fold(before, |now, name| {
                let step = parse(&[name]);
                after(step.attributes, now)
            });
            prop_assert_eq!(after(parse(&names).attributes, before), one_by_one);
            let tree: Vec<String> = names.iter().map(|name| format!("r{name}")).collect();
            let tree = Options::parse("mounts", &tree).unwrap();
            prop_assert_eq!(after(tree.tree, before), one_by_one);
            prop_assert_eq!(tree.attributes, Attributes::default());
        }
    }
}
