//! OCI runtimes: one bundle, `run … true` and `exec … true`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};
use dhow_testkit::{Host, runtime};

use crate::peers;
use crate::report::Report;
use crate::turns::{Contender, in_turns, median, ratio, run};

/// Our runtime's name.
const OURS: &str = "dhow-runtime";
/// What crun is called by, where it has to be.
const WRAPPER: &str = "crun's wrapper alone";

/// A runtime and how it is called here.
struct Runtime {
    name: &'static str,
    command: Vec<String>,
}

impl Runtime {
    fn command(&self, state: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]);
        command.arg("--root").arg(state.join(self.name));
        command.args(arguments);
        command
    }
}

pub fn measure(report: &mut Report, rounds: usize) -> Result<()> {
    report.part("OCI runtimes");
    let host = Host::new();
    let bundle = bundle(host.folder())?;
    let own = |path: PathBuf| vec![path.display().to_string()];
    let mut runtimes = vec![Runtime {
        name: OURS,
        command: own(runtime()),
    }];
    for name in ["crun", "runc"] {
        let Some(path) = peers::find(name) else {
            report.missing(name);
            continue;
        };
        let mut command = own(path);
        if name == "crun" && Path::new("/sys/fs/cgroup/unified").exists() {
            // crun refuses the hybrid of both versions: it gets a view of the
            // first alone. What the wrapper costs is measured beside it.
            let wrapper = [
                "unshare",
                "-m",
                "sh",
                "-c",
                "umount /sys/fs/cgroup/unified; exec \"$@\"",
                "sh",
            ];
            command.splice(0..0, wrapper.map(str::to_owned));
        }
        runtimes.push(Runtime { name, command });
    }
    // Where it is when they are installed: below /run, in memory.
    let memory = tempfile::Builder::new()
        .prefix("dhow-bench-")
        .tempdir_in("/dev/shm")
        .context("a folder in memory")?;
    let state = memory.path().to_owned();
    let bundle = bundle.display().to_string();
    let id = |name: &str| format!("bench-{name}-{}", std::process::id());

    let mut contenders: Vec<Contender<'_>> = runtimes
        .iter()
        .map(|one| {
            let (state, bundle, id) = (&state, &bundle, id(one.name));
            Contender::command(one.name, move || {
                one.command(state, &["run", "--bundle", bundle, &id])
            })
        })
        .collect();
    contenders.push(Contender::command("unshare -fpmniu true", || {
        let mut command = Command::new("unshare");
        command.args(["-fpmniu", "--", "true"]);
        command
    }));
    contenders.push(Contender::command("true alone", || Command::new("true")));
    contenders.push(Contender::command(WRAPPER, || {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", "umount /sys/fs/cgroup/unified; exec true"]);
        command
    }));
    if !Path::new("/sys/fs/cgroup/unified").exists() {
        contenders.pop();
    }
    let rows = in_turns(rounds, contenders)?;
    report.times("run … true: all namespaces, seccomp, control group", &rows);
    let ours = median(&rows, OURS)?;
    if let Ok(theirs) = median(&rows, "crun") {
        let wrapper = median(&rows, WRAPPER).unwrap_or(0.0);
        let name = "`dhow-runtime run`, of crun's without what its wrapper costs";
        report.target(name, ours / (theirs - wrapper), 0.35, "×");
    }
    let bare = ratio(&rows, OURS, "unshare -fpmniu true")?;
    report.target("`dhow-runtime run`, of a plain unshare", bare, 3.0, "×");

    let bundle = sleeping(host.folder())?;
    let bundle = bundle.display().to_string();
    let mut started = Vec::new();
    for one in &runtimes {
        let id = id(one.name);
        let arguments = ["run", "--detach", "--bundle", &bundle, &id];
        let mut command = one.command(&state, &arguments);
        command.stderr(Stdio::null());
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
        ensure!(status?.success(), "{} does not start", one.name);
        started.push((one, id));
    }
    let contenders = started
        .iter()
        .map(|(one, id)| {
            let state = &state;
            Contender::command(one.name, move || one.command(state, &["exec", id, "true"]))
        })
        .collect();
    let execs = in_turns(rounds, contenders);
    for (one, id) in &started {
        run(&mut one.command(&state, &["delete", "--force", id]))?;
    }
    let execs = execs?;
    report.times("exec … true", &execs);
    if let Ok(theirs) = median(&execs, "crun") {
        let wrapper = median(&rows, WRAPPER).unwrap_or(0.0);
        let of_theirs = median(&execs, OURS)? / (theirs - wrapper);
        let name = "`dhow-runtime exec`, of crun's without what its wrapper costs";
        report.target(name, of_theirs, 0.35, "×");
    }
    host.audit();
    Ok(())
}

/// A bundle that runs `true` in a root filesystem of busybox.
fn bundle(folder: &Path) -> Result<PathBuf> {
    make(folder, "true", &["true"])
}

/// A bundle that runs until it is killed.
fn sleeping(folder: &Path) -> Result<PathBuf> {
    make(folder, "sleep", &["sleep", "3600"])
}

fn make(folder: &Path, name: &str, program: &[&str]) -> Result<PathBuf> {
    let bundle = folder.join(name);
    let bin = bundle.join("rootfs/bin");
    std::fs::create_dir_all(&bin).context("make a bundle")?;
    let busybox = peers::find("busybox").context("busybox is missing: run `make setup`")?;
    std::fs::copy(busybox, bin.join("busybox"))?;
    for link in ["true", "sleep"] {
        std::os::unix::fs::symlink("busybox", bin.join(link))?;
    }
    run(Command::new(runtime())
        .arg("spec")
        .arg("--bundle")
        .arg(&bundle))?;
    let path = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&std::fs::read(&path)?)?;
    spec["process"]["terminal"] = false.into();
    spec["process"]["args"] = program.into();
    let capabilities = spec["process"]["capabilities"]["bounding"].clone();
    let capabilities: Vec<String> = serde_json::from_value(capabilities)?;
    let filter = dhow_runtime::seccomp::docker_default(&capabilities);
    spec["linux"]["seccomp"] = serde_json::to_value(filter)?;
    // Debian's crun knows no later version.
    spec["ociVersion"] = "1.0.2".into();
    std::fs::write(&path, serde_json::to_vec(&spec)?)?;
    Ok(bundle)
}
