//! Where an instance keeps its things, and by which names the kernel knows it.
//!
//! Several instances live side by side on one machine when they differ in
//! name, data folder and run folder.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::{Args, Parser};
use rustix::io::Errno;

/// How long a daemon that was killed may hold its folders: a child of its that is
/// about to be executed has them open until then.
const LETTING_GO: Duration = Duration::from_secs(1);

// How an instance is set apart from others.
#[derive(Debug, Clone, Args)]
pub(crate) struct Instance {
    /// Name of the instance, for several on one machine.
    #[arg(long, default_value = "", env = "DHOW_INSTANCE", value_name = "NAME")]
    instance: String,
    /// Folder for what survives a reboot.
    #[arg(
        long,
        default_value = "/var/lib/dhow",
        env = "DHOW_DATA_ROOT",
        value_name = "FOLDER"
    )]
    pub(crate) data_root: PathBuf,
    /// Folder for what does not.
    #[arg(
        long,
        default_value = "/run/dhow",
        env = "DHOW_RUN_ROOT",
        value_name = "FOLDER"
    )]
    pub(crate) run_root: PathBuf,
}

impl Instance {
    /// The instance that the environment names, as a daemon without options
    /// would be.
    pub(crate) fn from_environment() -> Self {
        #[derive(Parser)]
        struct Only {
            #[command(flatten)]
            instance: Instance,
        }
        let parsed = Only::try_parse_from(["dhow"]);
        parsed.expect("every option has a default").instance
    }

    /// Name of our nf_tables tables, and of the control group of containers.
    pub(crate) fn name(&self) -> String {
        if self.instance.is_empty() {
            "dhow".into()
        } else {
            format!("dhow-{}", self.instance)
        }
    }

    /// Start of the names of our links: at most four bytes.
    pub(crate) fn link_prefix(&self) -> String {
        if self.instance.is_empty() {
            return "dhow".into();
        }
        // FNV-1a: instances with different names rarely meet.
        let hash = self.instance.bytes().fold(0x811c_9dc5u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
        format!("d{:03x}", hash & 0xfff)
    }

    /// Checks the name and makes the folders.
    pub(crate) fn prepare(&self) -> Result<()> {
        ensure!(
            self.instance.len() <= 32
                && self
                    .instance
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-'),
            "instance name {:?}: use up to 32 letters, digits and dashes",
            self.instance
        );
        for folder in [&self.data_root, &self.run_root] {
            std::fs::create_dir_all(folder)
                .with_context(|| format!("make folder {}", folder.display()))?;
        }
        // A program with root's set-id bit that a container made lies in there, and
        // is nobody else's to run.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
        std::fs::set_permissions(&self.data_root, mode)
            .with_context(|| format!("close folder {}", self.data_root.display()))?;
        Ok(())
    }

    /// Keeps a second daemon away from our folders, until the file is closed.
    pub(crate) fn lock(&self) -> Result<std::fs::File> {
        let path = self.data_root.join("lock");
        let file =
            std::fs::File::create(&path).with_context(|| format!("open {}", path.display()))?;
        let flags = rustix::fs::FlockOperation::NonBlockingLockExclusive;
        let began = Instant::now();
        loop {
            match rustix::fs::flock(&file, flags) {
                Err(Errno::WOULDBLOCK) if began.elapsed() < LETTING_GO => {
                    std::thread::sleep(LETTING_GO / 100);
                }
                locked => {
                    locked.with_context(|| {
                        format!(
                            "{} is used by another daemon: stop it, or give this one its own --data-root, --run-root and --instance",
                            self.data_root.display()
                        )
                    })?;
                    break;
                }
            }
        }
        Ok(file)
    }

    /// The `dhow-runtime` executable: beside this one.
    pub(crate) fn runtime(&self) -> Result<PathBuf> {
        let own = std::env::current_exe().context("find this executable")?;
        let beside = own.parent().unwrap_or(Path::new("/")).join("dhow-runtime");
        ensure!(
            beside.exists(),
            "{} is missing: install dhow-runtime beside dhow",
            beside.display()
        );
        Ok(beside)
    }

    /// A random identifier that stays with the data.
    pub(crate) fn id(&self) -> Result<String> {
        let path = self.data_root.join("id");
        match std::fs::read_to_string(&path) {
            Ok(id) if !id.trim().is_empty() => Ok(id.trim().into()),
            _ => {
                let id = dhow_engine::identifier()[..32].to_owned();
                std::fs::File::create(&path)
                    .and_then(|mut file| {
                        file.write_all(id.as_bytes())?;
                        file.sync_all()
                    })
                    .with_context(|| format!("write {}", path.display()))?;
                Ok(id)
            }
        }
    }
}
