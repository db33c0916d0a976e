//! What a container's security options mean: its system-call filter, its AppArmor
//! profile, and whether it may gain privileges.

use dhow_runtime::spec::Seccomp;

use crate::error::{Error, Result};
use crate::machine::Machine;
use crate::seccomp::{self, Host};
use crate::spec::HostConfig;

/// What AppArmor calls having no profile.
pub(crate) const UNCONFINED: &str = "unconfined";

/// The parsed `--security-opt`.
#[derive(Debug, Default)]
pub(crate) struct SecurityOptions {
    pub(crate) no_new_privileges: bool,
    /// Whether nothing in `/proc` and `/sys` is masked or kept from being written.
    pub(crate) unconfined_paths: bool,
    profile: Option<String>,
    /// Name of an AppArmor profile, or `unconfined`.
    pub(crate) apparmor: Option<String>,
    /// What SELinux's labels are to be, as `type:NAME`.
    pub(crate) labels: Vec<String>,
}

impl SecurityOptions {
    pub(crate) fn parse(options: &[String]) -> Result<Self> {
        let mut parsed = Self::default();
        for option in options {
            let (name, value) = option
                .split_once('=')
                .or_else(|| option.split_once(':'))
                .unwrap_or((option.as_str(), "true"));
            match (name, value) {
                ("no-new-privileges", "true") => parsed.no_new_privileges = true,
                ("no-new-privileges", "false") => parsed.no_new_privileges = false,
                ("systempaths", "unconfined") => parsed.unconfined_paths = true,
                ("seccomp", profile) => parsed.profile = Some(profile.into()),
                ("apparmor", UNCONFINED) => parsed.apparmor = Some(UNCONFINED.to_owned()),
                ("apparmor", name) if !name.is_empty() => {
                    if !Machine::here().apparmor {
                        return Err(Error::Invalid(format!(
                            "invalid --security-opt {option:?}: AppArmor is not enabled on this \
                             system; leave it out"
                        )));
                    }
                    parsed.apparmor = Some(name.to_owned());
                }
                // They mean nothing to an engine without `--selinux-enabled`.
                ("label", label) => parsed.labels.push(label.to_owned()),
                _ => return Err(Error::Invalid(format!("invalid --security-opt {option:?}"))),
            }
        }
        Ok(parsed)
    }

    /// The AppArmor profile of a container's programs: the one that was named, or
    /// `default`, which those that are privileged do without; `unconfined` without
    /// any, and nothing on a machine without AppArmor.
    pub(crate) fn apparmor(
        &self,
        host: &HostConfig,
        default: Option<&str>,
        machine: Machine,
    ) -> String {
        if !machine.apparmor {
            return String::new();
        }
        let default = default.filter(|_| !host.privileged);
        let named = self.apparmor.as_deref().or(default);
        named.unwrap_or(UNCONFINED).to_owned()
    }

    /// The system-call filter.
    pub(crate) fn seccomp(&self, capabilities: &[String]) -> Result<Option<Seccomp>> {
        match self.profile.as_deref() {
            Some("unconfined") => Ok(None),
            None | Some("builtin" | "default") => {
                Ok(Some(dhow_runtime::seccomp::docker_default(capabilities)))
            }
            // The client reads the file and sends what is in it.
            Some(profile) => {
                let host = Host {
                    capabilities,
                    kernel: seccomp::kernel(),
                };
                seccomp::parse(profile, host).map(Some)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::tests::OLD;

    #[test]
    fn those_that_name_no_profile_have_the_default_one() {
        let profile = |options: &[&str], privileged, default, apparmor| {
            let options: Vec<String> = options.iter().map(|&option| option.into()).collect();
            let options = SecurityOptions::parse(&options).expect("they are good");
            let host = HostConfig {
                privileged,
                ..HostConfig::default()
            };
            options.apparmor(&host, default, Machine { apparmor, ..OLD })
        };
        let default = Some("docker-default");
        assert_eq!(profile(&[], false, default, true), "docker-default");
        assert_eq!(profile(&[], true, default, true), "unconfined");
        assert_eq!(profile(&[], false, None, true), "unconfined");
        let without = ["apparmor=unconfined"];
        assert_eq!(profile(&without, false, default, true), "unconfined");
        assert_eq!(profile(&[], false, default, false), "");
        assert_eq!(profile(&without, false, None, false), "");
    }
}
