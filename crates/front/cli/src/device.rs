//! `--device`, `--gpus`: devices of the host.

use serde_json::{Value, json};

use crate::amounts::fields;

/// One `--device`: a node of the host's, or a name of the Container Device
/// Interface (`VENDOR/CLASS=NAME`).
pub(crate) enum Device {
    Node(Value),
    Named(String),
}

impl Device {
    /// Reads `HOST[:CONTAINER][:PERMISSIONS]`, or a name.
    ///
    /// # Errors
    ///
    /// What is wrong, in Docker's words.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        if is_name(text) {
            return Ok(Self::Named(text.to_owned()));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let (host, inside, access) = match parts[..] {
            [host] => (host, host, "rwm"),
            [host, access] if is_access(access) => (host, host, access),
            [host, inside] => (host, inside, "rwm"),
            [host, inside, access] if is_access(access) => (host, inside, access),
            [_, _, access] => return Err(format!("invalid device mode: {access}")),
            _ => return Err(format!("bad format for path: {text}")),
        };
        if let Some(path) = [host, inside].iter().find(|path| !path.starts_with('/')) {
            return Err(format!("{path} is not an absolute path"));
        }
        Ok(Self::Node(json!({
            "PathOnHost": host,
            "PathInContainer": inside,
            "CgroupPermissions": access,
        })))
    }
}

/// Letters of `rwm`, each at most once.
fn is_access(text: &str) -> bool {
    let mut left = vec!['r', 'w', 'm'];
    !text.is_empty()
        && text.chars().all(|letter| {
            let at = left.iter().position(|known| *known == letter);
            at.map(|at| left.remove(at)).is_some()
        })
}

fn is_name(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else {
        return false;
    };
    let Some((vendor, class)) = kind.split_once('/') else {
        return false;
    };
    let is_plain = |word: &str| {
        !word.is_empty()
            && word
                .chars()
                .all(|letter| letter.is_ascii_alphanumeric() || "_-.:".contains(letter))
    };
    is_plain(vendor) && is_plain(class) && is_plain(name)
}

/// A request for graphics processors: `all`, a number, or
/// `device=…,count=…,driver=…,capabilities=…,options=…`.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn gpus(text: &str) -> Result<Value, String> {
    let count = |text: &str| match text {
        "all" => Ok(-1),
        text => text.parse::<i64>().map_err(|_| {
            format!("invalid count ({text}): value must be either \"all\" or an integer")
        }),
    };
    let mut request = json!({
        "Driver": "",
        "Count": 0,
        "DeviceIDs": null,
        "Capabilities": [],
        "Options": {},
    });
    let mut capabilities = Vec::new();
    let (mut has_count, mut has_devices) = (false, false);
    for field in fields(text)? {
        let (name, value) = match field.split_once('=') {
            Some(pair) => pair,
            None => ("count", field.as_str()),
        };
        match name {
            "driver" => request["Driver"] = json!(value),
            "count" => {
                has_count = true;
                request["Count"] = json!(count(value)?);
            }
            "device" => {
                has_devices = true;
                request["DeviceIDs"] = json!(value.split(',').collect::<Vec<_>>());
            }
            "capabilities" => capabilities.extend(value.split(',').map(str::to_owned)),
            "options" => {
                for option in fields(value)? {
                    let (name, value) = option.split_once('=').unwrap_or((&option, ""));
                    request["Options"][name] = json!(value);
                }
            }
            _ => return Err(format!("unexpected key '{name}' in '{field}'")),
        }
    }
    if has_count && has_devices {
        return Err("cannot set both count and device".into());
    }
    if !has_count && !has_devices {
        request["Count"] = json!(1);
    }
    if !capabilities.iter().any(|known| known == "gpu") {
        capabilities.push("gpu".into());
    }
    request["Capabilities"] = json!([capabilities]);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_have_paths_and_permissions() {
        for (text, host, inside, access) in [
            ("/dev/x", "/dev/x", "/dev/x", "rwm"),
            ("/dev/x:r", "/dev/x", "/dev/x", "r"),
            ("/dev/x:/dev/y", "/dev/x", "/dev/y", "rwm"),
            ("/dev/x:/dev/y:wm", "/dev/x", "/dev/y", "wm"),
        ] {
            let expected = json!({ "PathOnHost": host, "PathInContainer": inside, "CgroupPermissions": access });
            assert!(
                matches!(Device::parse(text), Ok(Device::Node(node)) if node == expected),
                "{text}"
            );
        }
        for bad in [
            "x",
            "/dev/x:y",
            "/dev/x:rr",
            "/dev/x:/dev/y:z",
            "/a:/b:r:w",
            "",
        ] {
            assert!(Device::parse(bad).is_err(), "{bad}");
        }
        let named = Device::parse("vendor.com/class=name");
        assert!(matches!(named, Ok(Device::Named(name)) if name == "vendor.com/class=name"));
    }

    #[test]
    fn graphics_processors() {
        assert_eq!(gpus("all").expect("good")["Count"], -1);
        assert_eq!(gpus("2").expect("good")["Count"], 2);
        let request = gpus(r#""device=0,1",capabilities=utility,options=a=b"#).expect("good");
        assert_eq!(request["DeviceIDs"], json!(["0", "1"]));
        assert_eq!(request["Capabilities"], json!([["utility", "gpu"]]));
        assert_eq!(request["Options"], json!({ "a": "b" }));
        for bad in ["x", "x=y", "count=1,device=0"] {
            assert!(gpus(bad).is_err(), "{bad}");
        }
    }
}
