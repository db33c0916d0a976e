//! A root filesystem of a few megabytes.

use std::path::PathBuf;
use std::process::Command;

use crate::executables::require;
use crate::host::Host;

/// Archives Debian's statically linked busybox with a few accounts; returns
/// where the archive is.
///
/// # Panics
///
/// Without it.
pub(crate) fn archive(host: &Host) -> PathBuf {
    let busybox = require("busybox", "the Debian package busybox-static");
    let root = host.folder().join("busybox");
    for folder in ["bin", "etc", "tmp", "root", "data"] {
        std::fs::create_dir_all(root.join(folder)).expect("a folder");
    }
    std::fs::copy(busybox, root.join("bin/busybox")).expect("busybox");
    let list = Command::new(root.join("bin/busybox"))
        .arg("--list")
        .output()
        .expect("it is statically linked: install the Debian package busybox-static");
    for name in String::from_utf8_lossy(&list.stdout)
        .lines()
        .filter(|name| *name != "busybox")
    {
        std::os::unix::fs::symlink("busybox", root.join("bin").join(name)).expect("a link");
    }
    let write = |path: &str, text: &str| {
        std::fs::write(root.join(path), text).expect("written");
    };
    write(
        "etc/passwd",
        "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33::/data:/bin/sh\n",
    );
    write("etc/group", "root:x:0:\nweb:x:33:\nlog:x:44:web\n");
    write("data/greeting", "from the image\n");
    let archive = host.folder().join("busybox.tar");
    let text = |path: &PathBuf| {
        path.to_str()
            .expect("test folders have plain names")
            .to_owned()
    };
    host.run("tar", &["-C", &text(&root), "-cf", &text(&archive), "."])
        .ok();
    archive
}
