//! `--mount` and `--volume`: what lies where in a container.

use serde_json::{Value, json};

use crate::amounts::{bytes, fields, truth};

/// The path of this machine that a relative one means: what begins with a dot
/// is a path, anything else a volume's name.
pub(crate) fn absolute(source: &str) -> String {
    if !source.starts_with('.') {
        return source.to_owned();
    }
    let Ok(path) = std::path::absolute(source) else {
        return source.to_owned();
    };
    // By its words alone, as Docker's client has it.
    let mut clean = std::path::PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => {
                clean.pop();
            }
            part => clean.push(part),
        }
    }
    clean.display().to_string()
}

/// One `--volume`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Volume {
    /// A volume that the container alone has, by its path.
    Own(String),
    /// Something of the host's, or a volume with a name.
    Bound(String),
}

impl Volume {
    pub(crate) fn parse(text: &str) -> Self {
        match text.split_once(':') {
            None => Self::Own(text.to_owned()),
            Some((source, rest)) => Self::Bound(format!("{}:{rest}", absolute(source))),
        }
    }
}

/// A mount as the API has it, of `type=…,source=…,target=…`.
///
/// # Errors
///
/// What is wrong, in Docker's words.
pub(crate) fn parse(text: &str) -> Result<Value, String> {
    let mut mount = json!({ "Type": "volume" });
    for field in fields(text)? {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name.to_ascii_lowercase(), value),
            None => (field.to_ascii_lowercase(), ""),
        };
        let is_bare = !field.contains('=');
        if is_bare && !BARE.contains(&name.as_str()) {
            return Err(format!("invalid field '{field}' must be a key=value pair"));
        }
        let truth = || {
            if is_bare {
                Ok(true)
            } else {
                truth(&name, value)
            }
        };
        let pair = || value.split_once('=').unwrap_or((value, ""));
        match name.as_str() {
            "type" => mount["Type"] = json!(value.to_ascii_lowercase()),
            "source" | "src" => mount["Source"] = json!(absolute(value)),
            "target" | "dst" | "destination" => mount["Target"] = json!(value),
            "readonly" | "ro" => mount["ReadOnly"] = json!(truth()?),
            "consistency" => mount["Consistency"] = json!(value.to_ascii_lowercase()),
            "bind-propagation" => {
                mount["BindOptions"]["Propagation"] = json!(value.to_ascii_lowercase());
            }
            "bind-nonrecursive" => mount["BindOptions"]["NonRecursive"] = json!(truth()?),
            "bind-recursive" => recursive(&mut mount, value)?,
            "bind-create-src" => mount["BindOptions"]["CreateMountpoint"] = json!(truth()?),
            "volume-subpath" => mount["VolumeOptions"]["Subpath"] = json!(value),
            "volume-nocopy" => mount["VolumeOptions"]["NoCopy"] = json!(truth()?),
            "volume-label" => {
                let (name, value) = pair();
                mount["VolumeOptions"]["Labels"][name] = json!(value);
            }
            "volume-driver" => mount["VolumeOptions"]["DriverConfig"]["Name"] = json!(value),
            "volume-opt" => {
                let (name, value) = pair();
                mount["VolumeOptions"]["DriverConfig"]["Options"][name] = json!(value);
            }
            "image-subpath" => mount["ImageOptions"]["Subpath"] = json!(value),
            "tmpfs-size" => {
                let size =
                    bytes(value).map_err(|_| format!("invalid value for {name}: {value}"))?;
                mount["TmpfsOptions"]["SizeBytes"] = json!(size);
            }
            "tmpfs-mode" => {
                let mode = u32::from_str_radix(value, 8)
                    .map_err(|_| format!("invalid value for {name}: {value}"))?;
                mount["TmpfsOptions"]["Mode"] = json!(mode);
            }
            _ => return Err(format!("unexpected key '{name}' in '{field}'")),
        }
    }
    check(&mount)?;
    Ok(mount)
}

/// Options that may stand without a value.
const BARE: [&str; 5] = [
    "readonly",
    "ro",
    "volume-nocopy",
    "bind-nonrecursive",
    "bind-create-src",
];

fn recursive(mount: &mut Value, value: &str) -> Result<(), String> {
    match value {
        "enabled" => {}
        "disabled" => mount["BindOptions"]["NonRecursive"] = json!(true),
        "writable" => mount["BindOptions"]["ReadOnlyNonRecursive"] = json!(true),
        "readonly" => mount["BindOptions"]["ReadOnlyForceRecursive"] = json!(true),
        _ => {
            return Err(format!(
                "invalid value for bind-recursive: {value} (must be \"enabled\", \"disabled\", \"writable\", or \"readonly\")"
            ));
        }
    }
    Ok(())
}

fn check(mount: &Value) -> Result<(), String> {
    if mount["Type"] == "" {
        return Err("type is required".into());
    }
    if mount["Target"].as_str().unwrap_or_default().is_empty() {
        return Err("target is required".into());
    }
    for (options, kind) in [
        ("BindOptions", "bind"),
        ("VolumeOptions", "volume"),
        ("ImageOptions", "image"),
        ("TmpfsOptions", "tmpfs"),
    ] {
        if !mount[options].is_null() && mount["Type"] != kind {
            let own = mount["Type"].as_str().unwrap_or_default();
            return Err(format!(
                "cannot mix '{kind}-*' options with mount type '{own}'"
            ));
        }
    }
    let is_readonly = mount["ReadOnly"] == true;
    let bind = &mount["BindOptions"];
    if bind["ReadOnlyNonRecursive"] == true && !is_readonly {
        return Err(
            "option 'bind-recursive=writable' requires 'readonly' to be specified in conjunction"
                .into(),
        );
    }
    if bind["ReadOnlyForceRecursive"] == true {
        if !is_readonly {
            return Err("option 'bind-recursive=readonly' requires 'readonly' to be specified in conjunction".into());
        }
        if bind["Propagation"] != "rprivate" {
            return Err("option 'bind-recursive=readonly' requires 'bind-propagation=rprivate' to be specified in conjunction".into());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read() {
        for (text, expected) in [
            ("dst=/b", json!({ "Type": "volume", "Target": "/b" })),
            (
                "type=bind,src=/a,dst=/b,readonly=0,consistency=cached",
                json!({ "Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": false, "Consistency": "cached" }),
            ),
            (
                "type=bind,src=/a/.,dst=/b,ro,bind-nonrecursive",
                json!({ "Type": "bind", "Source": "/a/.", "Target": "/b", "ReadOnly": true, "BindOptions": { "NonRecursive": true } }),
            ),
            (
                r#"type=volume,src=v,dst=/x,"volume-opt=o=addr=1,rw",volume-opt=type=nfs"#,
                json!({ "Type": "volume", "Source": "v", "Target": "/x", "VolumeOptions": { "DriverConfig": { "Options": { "o": "addr=1,rw", "type": "nfs" } } } }),
            ),
            (
                "type=tmpfs,dst=/x,tmpfs-size=1m,tmpfs-mode=1770",
                json!({ "Type": "tmpfs", "Target": "/x", "TmpfsOptions": { "SizeBytes": 1 << 20, "Mode": 0o1770 } }),
            ),
        ] {
            assert_eq!(parse(text).expect(text), expected);
        }
        for bad in [
            "",
            "type=bind,src=/a",
            "dst=/b,tmpfs-size=1m",
            "dst=/b,x=y",
            "dst=/b,x",
            "dst=/b,readonly=maybe",
            "type=bind,src=/a,dst=/b,bind-recursive=readonly",
            "type=bind,src=/a,dst=/b,bind-recursive=some",
        ] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_begins_with_a_dot_is_a_path() {
        let here = std::env::current_dir().expect("there is one");
        let above = here.parent().expect("it is not the root").display();
        assert_eq!(
            Volume::parse("../x:/y:ro"),
            Volume::Bound(format!("{above}/x:/y:ro"))
        );
        assert_eq!(Volume::parse("."), Volume::Own(".".into()));
        assert_eq!(Volume::parse("name:/y"), Volume::Bound("name:/y".into()));
        assert_eq!(Volume::parse("/y"), Volume::Own("/y".into()));
    }
}
