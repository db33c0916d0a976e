//! Seccomp profiles as Docker's clients send them: rules that depend on the
//! capabilities, the architecture and the kernel are settled here, and what
//! remains is a filter of the OCI configuration.

use dhow_runtime::spec::{Architecture, Seccomp, SyscallRule};
use serde::Deserialize;

use crate::error::{Error, Result};

/// A profile: a filter with conditions.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Profile {
    #[serde(flatten)]
    filter: Seccomp,
    #[serde(default)]
    arch_map: Vec<ArchitectureMap>,
    #[serde(default)]
    syscalls: Vec<ConditionalRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ArchitectureMap {
    architecture: Architecture,
    #[serde(default)]
    sub_architectures: Option<Vec<Architecture>>,
}

#[derive(Deserialize)]
struct ConditionalRule {
    #[serde(default)]
    name: String,
    #[serde(default)]
    names: Vec<String>,
    #[serde(default)]
    includes: Option<Conditions>,
    #[serde(default)]
    excludes: Option<Conditions>,
    #[serde(flatten)]
    rest: Rest,
}

/// The part of a rule that needs no looking into.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rest {
    action: dhow_runtime::spec::Action,
    #[serde(default)]
    errno_ret: Option<u32>,
    #[serde(default)]
    args: Option<Vec<dhow_runtime::spec::Argument>>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Conditions {
    caps: Option<Vec<String>>,
    arches: Option<Vec<String>>,
    min_kernel: String,
}

/// What the conditions are about.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Host<'a> {
    /// The container's capabilities.
    pub(crate) capabilities: &'a [String],
    /// The kernel's version, major and minor.
    pub(crate) kernel: (u32, u32),
}

/// Parses a profile.
///
/// # Errors
///
/// [`Error::Invalid`] says what is wrong with it.
pub(crate) fn parse(text: &str, host: Host<'_>) -> Result<Seccomp> {
    let invalid = |why: String| Error::Invalid(format!("decoding seccomp profile failed: {why}"));
    let mut value: serde_json::Value =
        serde_json::from_str(text).map_err(|error| invalid(error.to_string()))?;
    // Go writes empty lists as null.
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|_, field| !field.is_null());
    }
    let profile: Profile =
        serde_json::from_value(value).map_err(|error| invalid(error.to_string()))?;
    let mut filter = profile.filter;
    if !filter.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(invalid(
            "use either 'architectures' or 'archMap'".to_owned(),
        ));
    }
    for map in profile.arch_map {
        if map.architecture == NATIVE {
            filter.architectures.push(map.architecture);
            filter
                .architectures
                .extend(map.sub_architectures.into_iter().flatten());
        }
    }
    filter.syscalls = Vec::new();
    for rule in profile.syscalls {
        let mut names = rule.names;
        match (names.is_empty(), rule.name.is_empty()) {
            (false, false) => {
                return Err(invalid("use either 'name' or 'names' in a rule".to_owned()));
            }
            (true, false) => names.push(rule.name),
            (false, true) => {}
            (true, true) => continue,
        }
        let included = rule.includes.unwrap_or_default();
        let excluded = rule.excludes.unwrap_or_default();
        if included.all_hold(host).map_err(invalid)?
            && !excluded.any_holds(host).map_err(invalid)?
        {
            filter.syscalls.push(SyscallRule {
                names,
                action: rule.rest.action,
                errno_ret: rule.rest.errno_ret,
                args: rule.rest.args.unwrap_or_default(),
            });
        }
    }
    Ok(filter)
}

impl Conditions {
    fn all_hold(&self, host: Host<'_>) -> std::result::Result<bool, String> {
        let caps = self.caps.iter().flatten();
        let arches = self.arches.iter().flatten();
        Ok(caps.clone().all(|name| host.has(name))
            && (arches.clone().count() == 0 || arches.clone().any(|name| is_native(name)))
            && (self.min_kernel.is_empty() || host.kernel >= version(&self.min_kernel)?))
    }

    fn any_holds(&self, host: Host<'_>) -> std::result::Result<bool, String> {
        Ok(self.caps.iter().flatten().any(|name| host.has(name))
            || self.arches.iter().flatten().any(|name| is_native(name))
            || (!self.min_kernel.is_empty() && host.kernel >= version(&self.min_kernel)?))
    }
}

impl Host<'_> {
    fn has(&self, capability: &str) -> bool {
        self.capabilities.iter().any(|name| name == capability)
    }
}

#[cfg(target_arch = "x86_64")]
const NATIVE: Architecture = Architecture::X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: Architecture = Architecture::Aarch64;

/// Whether Go's name of an architecture is this machine's.
fn is_native(name: &str) -> bool {
    match std::env::consts::ARCH {
        "x86_64" => name == "amd64",
        "aarch64" => name == "arm64",
        other => name == other,
    }
}

/// `major.minor`.
fn version(text: &str) -> std::result::Result<(u32, u32), String> {
    text.split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)))
        .ok_or_else(|| format!("{text:?} is no kernel version; use MAJOR.MINOR"))
}

/// The running kernel's version.
pub(crate) fn kernel() -> (u32, u32) {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers = release
        .split(|letter: char| !letter.is_ascii_digit())
        .map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{
        "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1,
        "archMap": [
            {"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
            {"architecture": "SCMP_ARCH_AARCH64", "subArchitectures": null}
        ],
        "syscalls": [
            {"names": ["read"], "action": "SCMP_ACT_ALLOW", "args": null, "includes": {}, "excludes": {}},
            {"names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38, "excludes": {"caps": ["CAP_SYS_ADMIN"]}},
            {"names": ["ptrace"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "4.8"}},
            {"names": ["later"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "99.0"}},
            {"names": ["s390"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"name": "old", "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["s390x"]}}
        ]
    }"#;

    fn names(capabilities: &[&str]) -> Vec<String> {
        let capabilities: Vec<String> = capabilities.iter().map(|name| (*name).into()).collect();
        let host = Host {
            capabilities: &capabilities,
            kernel: (6, 1),
        };
        let filter = parse(PROFILE, host).expect("good");
        assert!(filter.architectures.contains(&NATIVE));
        let rules = filter.syscalls.into_iter();
        rules.flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn conditions_are_settled() {
        assert_eq!(names(&[]), ["read", "clone3", "ptrace", "old"]);
        assert_eq!(
            names(&["CAP_SYS_ADMIN"]),
            ["read", "mount", "ptrace", "old"]
        );
    }

    #[test]
    fn what_is_no_profile_is_refused() {
        let host = Host {
            capabilities: &[],
            kernel: (6, 1),
        };
        for (text, part) in [
            ("{", "decoding seccomp profile failed"),
            ("{}", "defaultAction"),
            (r#"{"defaultAction":"SCMP_ACT_WHAT"}"#, "SCMP_ACT_WHAT"),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","names":["b"],"action":"SCMP_ACT_ALLOW"}]}"#,
                "either 'name' or 'names'",
            ),
            (
                r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"name":"a","action":"SCMP_ACT_ALLOW","includes":{"minKernel":"new"}}]}"#,
                "no kernel version",
            ),
        ] {
            let error = parse(text, host).expect_err(text).to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
