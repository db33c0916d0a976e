//! `--userns-remap`: from the option to ranges of identifiers, with the account
//! that stands for `default` made where it is missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use dhow_engine::{AccountFiles, DEFAULT_ACCOUNT, IdMaps, RemapError, remap};

/// How many identifiers the default account gets.
const N_DEFAULT: u32 = 65_536;
/// The lowest identifier that is taken for it.
const FIRST_DEFAULT: u32 = 100_000;

/// The maps that the option's value names; the files of accounts lie below `root`.
pub(crate) fn resolve(wanted: &str, root: &Path) -> Result<IdMaps> {
    if wanted == "default" {
        make_default(root).context("the account of --userns-remap=default")?;
    }
    let files = Files::read(root)?;
    let maps = remap(wanted, &files.texts()).with_context(|| format!("--userns-remap={wanted}"))?;
    tracing::info!(
        users = maps.users.len(),
        first = maps.users[0].outside,
        "users of containers are mapped"
    );
    Ok(maps)
}

/// The host's files of accounts.
struct Files {
    passwd: String,
    group: String,
    subuid: String,
    subgid: String,
}

impl Files {
    fn read(root: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = root.join("etc").join(name);
            match std::fs::read_to_string(&path) {
                // Who has none has no ranges either, and that is told by name.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
                other => other.with_context(|| format!("read {}", path.display())),
            }
        };
        Ok(Self {
            passwd: read("passwd")?,
            group: read("group")?,
            subuid: read("subuid")?,
            subgid: read("subgid")?,
        })
    }

    fn texts(&self) -> AccountFiles<'_> {
        AccountFiles {
            passwd: &self.passwd,
            group: &self.group,
            subuid: &self.subuid,
            subgid: &self.subgid,
        }
    }
}

/// Makes the default account, and reserves ranges for it, as far as either is
/// missing. The programs of the host's own account database do it: they lock it.
fn make_default(root: &Path) -> Result<()> {
    let missing = |files: &Files| match remap("default", &files.texts()) {
        Ok(_) => Ok(None),
        Err(error @ (RemapError::NoUser(_) | RemapError::NoRange { .. })) => Ok(Some(error)),
        Err(error) => Err(error),
    };
    let mut files = Files::read(root)?;
    if let Some(RemapError::NoUser(_)) = missing(&files)? {
        run(
            root,
            "useradd",
            &[
                "--system",
                "--user-group",
                "--no-create-home",
                "--home-dir",
                "/nonexistent",
                "--shell",
                "/bin/false",
                DEFAULT_ACCOUNT,
            ],
        )?;
        files = Files::read(root)?;
    }
    while let Some(RemapError::NoRange { file, .. }) = missing(&files)? {
        let (text, option) = match file {
            "/etc/subuid" => (&files.subuid, "--add-subuids"),
            _ => (&files.subgid, "--add-subgids"),
        };
        let first = first_free(text);
        let last = first.checked_add(N_DEFAULT - 1);
        let last = last.with_context(|| format!("{file} has no room left"))?;
        run(
            root,
            "usermod",
            &[option, &format!("{first}-{last}"), DEFAULT_ACCOUNT],
        )?;
        let before = std::mem::replace(&mut files, Files::read(root)?);
        if (&before.subuid, &before.subgid) == (&files.subuid, &files.subgid) {
            bail!(
                "usermod has reserved nothing in {file}; add the line {DEFAULT_ACCOUNT}:{first}:{N_DEFAULT}"
            );
        }
    }
    Ok(())
}

/// The first identifier above all that are reserved in a file.
fn first_free(text: &str) -> u32 {
    let end = |line: &str| {
        let mut fields = line.split(':').skip(1);
        let mut number = || fields.next()?.parse::<u32>().ok();
        number()?.checked_add(number()?)
    };
    text.lines()
        .filter_map(end)
        .max()
        .unwrap_or_default()
        .max(FIRST_DEFAULT)
}

fn run(root: &Path, program: &str, arguments: &[&str]) -> Result<()> {
    let shown = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    if root != Path::new("/") {
        command.arg("--prefix").arg(root);
    }
    let output = command.args(arguments).output();
    let output = output.with_context(|| {
        format!("cannot run {program}; make the account yourself, as {shown} does, and add {DEFAULT_ACCOUNT}:{FIRST_DEFAULT}:{N_DEFAULT} to /etc/subuid and /etc/subgid")
    })?;
    if !output.status.success() {
        bail!(
            "{shown}: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_do_not_meet() {
        assert_eq!(first_free(""), 100_000);
        assert_eq!(first_free("a:100000:65536\nb:300000:1\nbroken\n"), 300_001);
        assert_eq!(first_free("a:1:2\n"), 100_000);
    }
}
