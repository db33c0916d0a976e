//! Where the control groups of containers lie, who makes them, and which of them
//! are an instance's own. The groups themselves are the runtime's.

use std::path::{Component, Path, PathBuf};

use dhow_runtime::Groups;

use crate::error::{Error, Result};
use crate::spec::HostConfig;

/// Slice of the containers that name none, where systemd makes the groups.
const SLICE: &str = "system.slice";
/// As Docker says it.
const NO_SLICE: &str =
    "cgroup-parent for systemd cgroup should be a valid slice named as \"xxx.slice\"";
/// A name in a parent's place, to find where the parent is.
const SOMEBODY: &str = "x";

/// The control groups of an instance's containers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlGroups {
    driver: Groups,
    /// A path, or a slice where systemd makes the groups.
    parent: String,
    /// The instance's name, with which the names of scopes begin.
    instance: String,
}

impl ControlGroups {
    /// Those of an instance of this name. `parent` is that of containers that name
    /// none; where nothing is said it is a group of the instance's name, or
    /// systemd's own slice for services.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] for what cannot be a parent.
    pub fn new(driver: Groups, parent: Option<&str>, instance: &str) -> Result<Self> {
        let parent = match (parent, driver) {
            (Some(parent), _) => parent.to_owned(),
            (None, Groups::Files) => format!("/{instance}"),
            (None, Groups::Systemd) => SLICE.to_owned(),
        };
        let groups = Self {
            driver,
            parent,
            instance: instance.to_owned(),
        };
        let mut parts = Path::new(&groups.parent).components();
        let is_name = |part| matches!(part, Component::RootDir | Component::Normal(_));
        let is_path = !groups.parent.is_empty() && parts.all(is_name);
        if driver == Groups::Files && !is_path {
            return Err(Error::Invalid(format!(
                "cgroup-parent {:?}: use a path such as /containers",
                groups.parent
            )));
        }
        groups.check_parent(&groups.parent)?;
        Ok(groups)
    }

    /// Who makes them.
    pub fn driver(&self) -> Groups {
        self.driver
    }

    /// What Docker calls whoever makes them.
    pub fn driver_name(&self) -> &'static str {
        match self.driver {
            Groups::Files => "cgroupfs",
            Groups::Systemd => "systemd",
        }
    }

    /// Whether this machine has who is to make them.
    ///
    /// # Errors
    ///
    /// [`Error::Runtime`] says what is missing.
    pub(crate) fn check(&self) -> Result<()> {
        self.driver
            .check()
            .map_err(|error| Error::Runtime(dhow_runtime::chain(&error)))
    }

    /// Whether there can be groups of containers below a parent; an empty one is
    /// ours.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`].
    pub(crate) fn check_parent(&self, parent: &str) -> Result<()> {
        let is_slice = || self.driver.path(&self.below(parent, SOMEBODY)).is_ok();
        if parent.is_empty() || self.driver == Groups::Files || is_slice() {
            Ok(())
        } else {
            Err(Error::Invalid(NO_SLICE.to_owned()))
        }
    }

    /// The `cgroupsPath` of a container.
    pub(crate) fn of(&self, id: &str, host: &HostConfig) -> String {
        match host.cgroup_parent.as_str() {
            "" => self.below(&self.parent, id),
            own => self.below(own, id),
        }
    }

    fn below(&self, parent: &str, id: &str) -> String {
        match self.driver {
            Groups::Files => format!("{}/{id}", parent.trim_end_matches('/')),
            Groups::Systemd => format!("{parent}:{}:{id}", self.instance),
        }
    }

    /// Path below each hierarchy's root of the group in which those of containers
    /// are that name no other.
    pub(crate) fn parent(&self) -> PathBuf {
        let path = self.driver.path(&self.below(&self.parent, SOMEBODY));
        let path = path.expect("it was checked when it was set");
        path.parent().map(Path::to_owned).unwrap_or_default()
    }

    /// Which container's a group in there is, by its name; none of others' groups
    /// as far as names tell.
    pub(crate) fn container<'a>(&self, name: &'a str) -> Option<&'a str> {
        let id = match self.driver {
            Groups::Files => Some(name),
            Groups::Systemd => name
                .strip_prefix(self.instance.as_str())
                .and_then(|rest| rest.strip_prefix('-'))
                .and_then(|rest| rest.strip_suffix(".scope")),
        };
        id.filter(|id| id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    }

    /// Whether a group in there with the name of a container is ours also if no
    /// container is known by that name: not in a folder that is somebody else's.
    pub(crate) fn are_ours(&self) -> bool {
        self.driver == Groups::Systemd || self.parent == format!("/{}", self.instance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    fn groups(driver: Groups, parent: Option<&str>, instance: &str) -> ControlGroups {
        ControlGroups::new(driver, parent, instance).expect("it can be")
    }

    fn path(groups: &ControlGroups, parent: &str) -> String {
        let host = HostConfig {
            cgroup_parent: parent.into(),
            ..HostConfig::default()
        };
        groups.of(ID, &host)
    }

    #[test]
    fn containers_are_below_their_parent() {
        let files = groups(Groups::Files, None, "dhow-a");
        assert_eq!(path(&files, ""), format!("/dhow-a/{ID}"));
        assert_eq!(path(&files, "/other/"), format!("/other/{ID}"));
        assert_eq!(files.parent(), Path::new("/dhow-a"));
        let chosen = groups(Groups::Files, Some("/all/ours"), "dhow-a");
        assert_eq!(path(&chosen, ""), format!("/all/ours/{ID}"));
        let systemd = groups(Groups::Systemd, None, "dhow-a");
        assert_eq!(path(&systemd, ""), format!("system.slice:dhow-a:{ID}"));
        assert_eq!(
            path(&systemd, "b-c.slice"),
            format!("b-c.slice:dhow-a:{ID}")
        );
        assert_eq!(systemd.parent(), Path::new("/system.slice"));
        let chosen = groups(Groups::Systemd, Some("b-c.slice"), "dhow-a");
        assert_eq!(chosen.parent(), Path::new("/b.slice/b-c.slice"));
    }

    #[test]
    fn what_is_left_is_told_from_what_is_others() {
        let short = groups(Groups::Systemd, None, "dhow");
        let long = groups(Groups::Systemd, None, "dhow-a");
        let (its, theirs) = (format!("dhow-{ID}.scope"), format!("dhow-a-{ID}.scope"));
        assert_eq!(short.container(&its), Some(ID));
        assert_eq!(short.container(&theirs), None);
        assert_eq!(long.container(&theirs), Some(ID));
        assert_eq!(long.container(&its), None);
        assert_eq!(short.container(&format!("docker-{ID}.scope")), None);
        assert_eq!(short.container("dhow.service"), None);
        let files = groups(Groups::Files, None, "dhow");
        assert_eq!(files.container(ID), Some(ID));
        assert_eq!(files.container("buildkit"), None);
        assert!(short.are_ours() && files.are_ours());
        let shared = groups(Groups::Files, Some("/shared"), "dhow");
        assert!(!shared.are_ours(), "two instances may share it");
    }

    #[test]
    fn parents_that_cannot_be_are_refused() {
        for wrong in ["x", "/a/b", ".slice", "a--b.slice", "a.scope", "a:b.slice"] {
            let error = ControlGroups::new(Groups::Systemd, Some(wrong), "dhow");
            let error = error.expect_err(wrong).to_string();
            assert!(error.contains("named as \"xxx.slice\""), "{wrong}: {error}");
        }
        for wrong in ["", "..", "/a/../b"] {
            let error = ControlGroups::new(Groups::Files, Some(wrong), "dhow");
            let error = error.expect_err(wrong).to_string();
            assert!(error.contains("use a path"), "{wrong}: {error}");
        }
        let systemd = groups(Groups::Systemd, None, "dhow");
        assert!(systemd.check_parent("").is_ok());
        assert!(systemd.check_parent("/a").is_err());
    }
}
