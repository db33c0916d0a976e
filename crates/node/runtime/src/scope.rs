//! A container's control group as a scope of systemd: the unit, and the
//! configuration's resources in the words of systemd's properties.
//!
//! Systemd writes its properties to the group, and again whenever it likes; what
//! it has no word for, or words of its own for, is written to the group after
//! it. So every limit systemd knows must be told to it, and the group's files
//! have the exact values.

use std::borrow::Cow;
use std::fmt::Write as _;

use dhow_cgroup::{Bandwidth, DeviceKind, DeviceRule, Limits, in_short};
use dhow_sys::child::{Launched, Plan, Step};
use dhow_systemd::{Manager, Property, Value, slice_path, unit_name};
use rustix::fd::RawFd;

use crate::error::{Result, RuntimeError};

/// Slice of containers that name none.
const DEFAULT_SLICE: &str = "system.slice";
/// First part of the name of a container's unit that names none.
const DEFAULT_PREFIX: &str = "dhow";
/// Annotations with properties of the unit begin so.
const ANNOTATION: &str = "org.systemd.property.";
/// The period of processor time where nobody says one, in microseconds.
const USUAL_PERIOD: u64 = 100_000;
/// Systemd keeps processor time in hundredths of a processor.
const HUNDREDTH: u64 = 10_000;
const MICROSECONDS: u64 = 1_000_000;

/// Where a container's scope lies and what it is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) slice: String,
    pub(crate) unit: String,
}

impl Place {
    /// From a path of the form `SLICE:PREFIX:NAME`.
    pub(crate) fn parse(path: &str) -> Result<Self> {
        let parts: Vec<&str> = path.split(':').collect();
        let (slice, prefix, name) = match parts[..] {
            [slice, prefix, name] if !name.is_empty() => (slice, prefix, name),
            _ => {
                return Err(RuntimeError::spec(
                    "linux.cgroupsPath",
                    format!(
                        "expected cgroupsPath to be of format \"slice:prefix:name\" for systemd \
                         cgroups, got {path:?} instead"
                    ),
                ));
            }
        };
        let slice = if slice.is_empty() {
            DEFAULT_SLICE
        } else {
            slice
        };
        slice_path(slice)?;
        Ok(Self {
            slice: slice.to_owned(),
            unit: unit_name(prefix, name),
        })
    }

    /// Of a container whose path nobody chose.
    pub(crate) fn own(id: &str) -> Self {
        Self {
            slice: DEFAULT_SLICE.to_owned(),
            unit: unit_name(DEFAULT_PREFIX, id),
        }
    }

    /// Path of its group below each hierarchy's root.
    pub(crate) fn path(&self) -> Result<String> {
        Ok(format!("{}/{}", slice_path(&self.slice)?, self.unit))
    }
}

/// A scope under way: it has a process of ours in it, until the container's is
/// there, since systemd removes a scope that nobody is in.
#[derive(Debug)]
pub(crate) struct Scope {
    manager: Manager,
    unit: String,
    keeper: Option<Launched>,
}

impl Scope {
    /// Makes it. Whatever of `claim` the process in it has is closed.
    pub(crate) fn start(
        place: Place,
        id: &str,
        resources: Vec<Property>,
        claim: RawFd,
    ) -> Result<Self> {
        let mut manager = Manager::connect()?;
        let keeper = Plan {
            makers_own: Some(claim),
            // It ends when nobody is left to go on for.
            steps: vec![Step::Rendezvous],
            ..Plan::default()
        };
        let keeper = keeper
            .launch()
            .map_err(RuntimeError::sys("clone a process for the scope"))?;
        let text = |text: &str| Value::Text(text.to_owned());
        let pid = keeper.process.pid.unsigned_abs();
        let mut properties: Vec<Property> = vec![
            ("Description".into(), text(&format!("container {id}"))),
            ("Slice".into(), text(&place.slice)),
            ("PIDs".into(), Value::Identifiers(vec![pid])),
            ("Delegate".into(), Value::Flag(true)),
            ("DefaultDependencies".into(), Value::Flag(false)),
            // Nothing is to be remembered of one that failed.
            ("CollectMode".into(), text("inactive-or-failed")),
            ("MemoryAccounting".into(), Value::Flag(true)),
            ("CPUAccounting".into(), Value::Flag(true)),
            ("IOAccounting".into(), Value::Flag(true)),
            ("TasksAccounting".into(), Value::Flag(true)),
        ];
        properties.extend(resources);
        let started = manager.start_scope(&place.unit, &properties);
        let scope = Self {
            manager,
            unit: place.unit,
            keeper: Some(keeper),
        };
        match started {
            Ok(()) => Ok(scope),
            Err(error) => {
                scope.settle();
                Err(error.into())
            }
        }
    }

    pub(crate) fn unit(&self) -> &str {
        &self.unit
    }

    /// Path of its group below each hierarchy's root.
    pub(crate) fn path(&mut self) -> Result<std::path::PathBuf> {
        Ok(self.manager.control_group(&self.unit)?)
    }

    /// The container is in it, or will never be.
    pub(crate) fn settle(mut self) -> (Manager, String) {
        if let Some(Launched { process, .. }) = self.keeper.take() {
            // It would see us go, but the container's process, which may wait long,
            // has copies of our descriptors. It may have ended already.
            let _ = process.signal(libc::SIGKILL);
            let _ = process.wait();
        }
        (self.manager, self.unit)
    }

    /// Ends it with everybody in it.
    pub(crate) fn stop(self) -> Result<()> {
        let (mut manager, unit) = self.settle();
        Ok(manager.stop(&unit)?)
    }
}

/// Properties of the unit that annotations name, their values in the form of
/// `systemctl show`'s kin: `true`, `'text'`, `uint64 5`, `['text', 'text']`.
/// A duration is told in seconds (`…Sec`) or microseconds (`…USec`).
pub(crate) fn annotated<'a>(
    annotations: impl Iterator<Item = (&'a String, &'a String)>,
) -> Result<Vec<Property>> {
    let mut properties = Vec::new();
    for (key, text) in annotations {
        let Some(name) = key.strip_prefix(ANNOTATION) else {
            continue;
        };
        let wrong = |problem: &str| {
            RuntimeError::spec(format!("annotations[{key}]"), format!("{text:?} {problem}"))
        };
        let first = name.bytes().next();
        if !first.is_some_and(|byte| byte.is_ascii_uppercase())
            || !name.bytes().all(|byte| byte.is_ascii_alphabetic())
        {
            return Err(RuntimeError::spec(
                format!("annotations[{key}]"),
                "no name of a property: letters, the first in upper case",
            ));
        }
        let value = value(text).ok_or_else(|| {
            wrong("is no value; use true, false, 'text', uint64 N or ['text', …]")
        })?;
        let in_seconds = name.strip_suffix("Sec").filter(|_| !name.ends_with("USec"));
        properties.push(match (in_seconds, value) {
            (Some(stem), Value::Number(seconds)) => {
                let microseconds = seconds
                    .checked_mul(MICROSECONDS)
                    .ok_or_else(|| wrong("is too long"))?;
                (format!("{stem}USec").into(), Value::Number(microseconds))
            }
            (_, value) => (name.to_owned().into(), value),
        });
    }
    Ok(properties)
}

/// A value in the text form of `GVariant`, of the types that properties have.
fn value(text: &str) -> Option<Value> {
    let text = text.trim();
    let quoted = |text: &str| -> Option<String> {
        let text = text.trim();
        let inner = ['\'', '"'].iter().find_map(|mark| {
            let inner = text.strip_prefix(*mark)?.strip_suffix(*mark)?;
            (!inner.contains([*mark, '\\'])).then_some(inner)
        })?;
        Some(inner.to_owned())
    };
    match text {
        "true" => return Some(Value::Flag(true)),
        "false" => return Some(Value::Flag(false)),
        _ => {}
    }
    if let Some(inner) = text
        .strip_prefix('[')
        .and_then(|text| text.strip_suffix(']'))
    {
        if inner.trim().is_empty() {
            return Some(Value::Texts(Vec::new()));
        }
        let texts = inner.split(',').map(quoted).collect::<Option<_>>()?;
        return Some(Value::Texts(texts));
    }
    if let Some(text) = quoted(text) {
        return Some(Value::Text(text));
    }
    let digits = text.strip_prefix("uint64 ").unwrap_or(text);
    digits.trim().parse().ok().map(Value::Number)
}

/// Properties for limits. `pure` is whether the machine has version 2 alone,
/// `now` the processor time the group has already.
pub(crate) fn properties(limits: &Limits, pure: bool, now: Option<Bandwidth>) -> Vec<Property> {
    let mut properties = Vec::new();
    let mut put = |name: &'static str, value: Option<Value>| {
        if let Some(value) = value {
            properties.push((Cow::Borrowed(name), value));
        }
    };
    let some = |limit: Option<i64>| limit.filter(|limit| *limit != 0).map(bound);
    if pure {
        put("MemoryMax", some(limits.memory));
        put("MemoryLow", some(limits.memory_reservation));
        // One that needs the limit in force is written to the group alone.
        let swap = limits.swap_alone(None).ok().flatten();
        put("MemorySwapMax", swap.map(bound));
        if limits.cpu_idle != Some(1) {
            put("CPUWeight", limits.cpu_weight().map(Value::Number));
        }
        put("AllowedCPUs", bits(&limits.cpus));
        put("AllowedMemoryNodes", bits(&limits.mems));
        for (file, name) in UNIFIED {
            put(name, limits.unified.get(file).and_then(|text| number(text)));
        }
        for (file, name) in [
            ("cpuset.cpus", "AllowedCPUs"),
            ("cpuset.mems", "AllowedMemoryNodes"),
        ] {
            put(name, limits.unified.get(file).and_then(|text| bits(text)));
        }
    } else {
        put("MemoryLimit", some(limits.memory));
        let shares = limits.cpu_shares.filter(|shares| *shares != 0);
        put("CPUShares", shares.map(Value::Number));
        let weight = limits.io_weight.filter(|weight| *weight != 0);
        let weight = weight.map(|weight| Value::Number(weight.into()));
        put("BlockIOWeight", weight);
    }
    let tasks = limits.pids.map(|n| bound(if n > 0 { n } else { -1 }));
    put("TasksMax", tasks);
    if let Some((quota, period)) = bandwidth(limits, now) {
        put("CPUQuotaPerSecUSec", Some(Value::Number(quota)));
        put("CPUQuotaPeriodUSec", Some(Value::Number(period)));
    }
    if !limits.devices.is_empty() {
        properties.extend(devices(&limits.devices));
    }
    properties
}

/// Files of version 2 whose value is one number, and the property of each.
const UNIFIED: [(&str, &str); 7] = [
    ("cpu.weight", "CPUWeight"),
    ("memory.high", "MemoryHigh"),
    ("memory.low", "MemoryLow"),
    ("memory.max", "MemoryMax"),
    ("memory.min", "MemoryMin"),
    ("memory.swap.max", "MemorySwapMax"),
    ("pids.max", "TasksMax"),
];

fn bound(limit: i64) -> Value {
    Value::Number(u64::try_from(limit).unwrap_or(u64::MAX))
}

fn number(text: &str) -> Option<Value> {
    match text.trim() {
        "max" => Some(Value::Number(u64::MAX)),
        digits => digits.parse().ok().map(Value::Number),
    }
}

/// Processor time per second and the period, both in microseconds.
fn bandwidth(limits: &Limits, now: Option<Bandwidth>) -> Option<(u64, u64)> {
    let mut quota = limits.cpu_quota.filter(|quota| *quota != 0);
    let mut period = limits.cpu_period.filter(|period| *period != 0);
    if let Some(text) = limits.unified.get("cpu.max") {
        let mut words = text.split_whitespace();
        quota = words.next().map(|word| word.parse().unwrap_or(-1));
        period = words.next().and_then(|word| word.parse().ok()).or(period);
    }
    if quota.is_none() && period.is_none() {
        return None;
    }
    let period = period
        .or(now.map(|now| now.period))
        .unwrap_or(USUAL_PERIOD)
        .max(1);
    let quota = match quota {
        Some(quota) => u64::try_from(quota).ok(),
        None => now.and_then(|now| now.quota),
    };
    let per_second = quota.map_or(u64::MAX, |quota| {
        let exact = quota.saturating_mul(MICROSECONDS) / period;
        // Rounded up: the group's file keeps the exact value.
        exact.div_ceil(HUNDREDTH).saturating_mul(HUNDREDTH)
    });
    Some((per_second, period))
}

/// A list such as `0-3,6` as bits, the lowest first.
fn bits(list: &str) -> Option<Value> {
    /// More than any machine has.
    const MOST: usize = 8192;
    let mut bytes = Vec::new();
    for part in list.split(',').filter(|part| !part.trim().is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        if last >= MOST {
            return None;
        }
        for bit in first..=last {
            if bytes.len() <= bit / 8 {
                bytes.resize(bit / 8 + 1, 0);
            }
            bytes[bit / 8] |= 1 << (bit % 8);
        }
    }
    (!bytes.is_empty()).then_some(Value::Bytes(bytes))
}

/// Rules about devices. Systemd can only add to nothing; where that is too
/// narrow a word for the rules it is told a wider one, and the group's own rules
/// are asked as well.
fn devices(rules: &[DeviceRule]) -> Vec<Property> {
    let short = in_short(rules);
    let denies = short.first().is_some_and(|rule| !rule.allow);
    let policy = if denies { "strict" } else { "auto" };
    let list = short.iter().skip(1).filter(|_| denies).map(|rule| {
        let (class, folder) = match rule.kind {
            DeviceKind::Block => ("block", "block"),
            _ => ("char", "char"),
        };
        let name = match (rule.major, rule.minor) {
            (Some(major), Some(minor)) => format!("/dev/{folder}/{major}:{minor}"),
            (Some(major), None) => format!("{class}-{major}"),
            (None, _) => format!("{class}-*"),
        };
        let mut access = String::new();
        for (granted, letter) in [(rule.read, 'r'), (rule.write, 'w'), (rule.mknod, 'm')] {
            if granted {
                // Writing to a string cannot fail.
                let _ = write!(access, "{letter}");
            }
        }
        (name, access)
    });
    let list: Vec<(String, String)> = list.collect();
    vec![
        ("DevicePolicy".into(), Value::Text(policy.to_owned())),
        // An empty list takes back what was said before.
        ("DeviceAllow".into(), Value::Pairs(Vec::new())),
        ("DeviceAllow".into(), Value::Pairs(list)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find<'a>(properties: &'a [Property], name: &str) -> Option<&'a Value> {
        let found = properties.iter().rfind(|(known, _)| known == name);
        found.map(|(_, value)| value)
    }

    #[test]
    fn paths_name_units() {
        let place = |path: &str| Place::parse(path).map(|place| place.path().unwrap());
        assert_eq!(
            place("machine-a.slice:libpod:1a").unwrap(),
            "/machine.slice/machine-a.slice/libpod-1a.scope"
        );
        assert_eq!(
            place(":docker:1a").unwrap(),
            "/system.slice/docker-1a.scope"
        );
        assert_eq!(place("-.slice::1a").unwrap(), "/1a.scope");
        for wrong in ["/docker/1a", "a:b", "a:b:c", "system.slice:x:", "a:b:c:d"] {
            assert!(place(wrong).is_err(), "{wrong}");
        }
        assert_eq!(
            Place::own("x").path().unwrap(),
            "/system.slice/dhow-x.scope"
        );
    }

    #[test]
    fn limits_are_properties() {
        let limits = Limits {
            memory: Some(64 << 20),
            memory_and_swap: Some(96 << 20),
            cpu_shares: Some(1024),
            cpu_quota: Some(50_500),
            cpus: "0-1,9".to_owned(),
            pids: Some(-1),
            unified: [("memory.high".to_owned(), "max".to_owned())].into(),
            ..Limits::default()
        };
        let pure = properties(&limits, true, None);
        let n = |number| Some(Value::Number(number));
        for (name, value) in [
            ("MemoryMax", n(64 << 20)),
            ("MemorySwapMax", n(32 << 20)),
            ("CPUWeight", n(100)),
            ("CPUQuotaPerSecUSec", n(510_000)),
            ("CPUQuotaPeriodUSec", n(100_000)),
            ("TasksMax", n(u64::MAX)),
            ("MemoryHigh", n(u64::MAX)),
            ("AllowedCPUs", Some(Value::Bytes(vec![3, 2]))),
            ("MemoryLimit", None),
            ("DevicePolicy", None),
        ] {
            assert_eq!(find(&pure, name), value.as_ref(), "{name}");
        }
        let old = properties(&limits, false, None);
        assert_eq!(find(&old, "MemoryLimit"), n(64 << 20).as_ref());
        assert_eq!(find(&old, "AllowedCPUs"), None);
    }

    #[test]
    fn a_new_period_keeps_the_quota() {
        let limits = Limits {
            cpu_period: Some(50_000),
            ..Limits::default()
        };
        let now = Bandwidth {
            quota: Some(25_000),
            period: 100_000,
        };
        let changed = properties(&limits, true, Some(now));
        let quota = find(&changed, "CPUQuotaPerSecUSec");
        assert_eq!(quota, Some(&Value::Number(500_000)));
        assert!(properties(&Limits::default(), true, Some(now)).is_empty());
    }

    #[test]
    fn device_rules_are_told_as_far_as_there_are_words() {
        let rule = |allow, kind, major, minor, write| DeviceRule {
            allow,
            kind,
            major,
            minor,
            read: true,
            write,
            mknod: true,
        };
        let rules = [
            rule(false, DeviceKind::All, None, None, true),
            rule(true, DeviceKind::Character, Some(1), Some(3), true),
            rule(true, DeviceKind::Block, Some(8), None, false),
            rule(true, DeviceKind::Character, None, Some(5), true),
        ];
        let told = devices(&rules);
        let pair = |name: &str, access: &str| (name.to_owned(), access.to_owned());
        assert_eq!(
            find(&told, "DeviceAllow"),
            Some(&Value::Pairs(vec![
                pair("/dev/char/1:3", "rwm"),
                pair("block-8", "rm"),
                pair("char-*", "rwm"),
            ]))
        );
        let open = devices(&[rule(true, DeviceKind::All, None, None, true)]);
        assert_eq!(
            find(&open, "DevicePolicy"),
            Some(&Value::Text("auto".into()))
        );
        assert_eq!(find(&open, "DeviceAllow"), Some(&Value::Pairs(vec![])));
    }

    #[test]
    fn annotations_name_properties() {
        let of = |name: &str, text: &str| {
            let key = format!("{ANNOTATION}{name}");
            annotated([(&key, &text.to_owned())].into_iter())
        };
        let one = |name: &str, text: &str| of(name, text).unwrap().remove(0);
        assert_eq!(
            one("TimeoutStopSec", "uint64 5"),
            ("TimeoutStopUSec".into(), Value::Number(5_000_000))
        );
        assert_eq!(
            one("After", "['a.service', \"b.service\"]"),
            (
                "After".into(),
                Value::Texts(vec!["a.service".into(), "b.service".into()])
            )
        );
        assert_eq!(
            one("CollectMode", "'inactive'").1,
            Value::Text("inactive".into())
        );
        for (name, text) in [
            ("After", "[a]"),
            ("X", "nonsense"),
            ("lower", "true"),
            ("A.b", "1"),
        ] {
            assert!(of(name, text).is_err(), "{name}={text}");
        }
        assert!(
            annotated([(&"other".to_owned(), &"x".to_owned())].into_iter())
                .unwrap()
                .is_empty()
        );
    }
}
