//! A machine with a busybox image, and a runner that needs no engine: it
//! changes root into the merged view.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use dhow_build::{BuildOptions, Builder, Context, Error, Event, Output, RunRequest, RunStep};
use dhow_content::Store;
use dhow_image::tar::{Entry, Kind, Writer};
use dhow_image::{Image, Images, Import, Limits, Options, RegistryOptions};
use dhow_oci::{ContainerConfig, Platform};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

/// Runs commands with `chroot`, which Debian has anyway.
pub struct Chroot {
    images: Images,
    pub n_runs: AtomicUsize,
}

#[async_trait::async_trait]
impl RunStep for Chroot {
    async fn run(&self, request: RunRequest, output: mpsc::Sender<Bytes>) -> Result<i32, String> {
        self.n_runs.fetch_add(1, Ordering::SeqCst);
        let root = self
            .images
            .open_rootfs(&request.name)
            .map_err(|error| error.to_string())?;
        let path = format!("/proc/{}/fd/{}", std::process::id(), root.as_raw_fd());
        let mut command = tokio::process::Command::new("chroot");
        command
            .arg(path)
            .args(["/bin/busybox", "env", "-i", "PATH=/bin"])
            .args(&request.env);
        // The working directory, without a quoting problem.
        command.args(["/bin/sh", "-c", "cd \"$0\" && exec \"$@\"", &request.cwd]);
        command.args(&request.args);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| error.to_string())?;
        let mut stdin = child.stdin.take().unwrap();
        stdin
            .write_all(&request.stdin.unwrap_or_default())
            .await
            .unwrap();
        drop(stdin);
        let mut stdout = child.stdout.take().unwrap();
        let mut buffer = [0; 4096];
        loop {
            let n_read = stdout.read(&mut buffer).await.unwrap();
            if n_read == 0
                || output
                    .send(Bytes::copy_from_slice(&buffer[..n_read]))
                    .await
                    .is_err()
            {
                break;
            }
        }
        Ok(child.wait().await.unwrap().code().unwrap_or(137))
    }
}

pub struct Machine {
    pub directory: tempfile::TempDir,
    pub images: Images,
    pub run: Arc<Chroot>,
    pub builder: Builder,
}

impl Machine {
    pub fn new() -> Machine {
        let machine = Machine::at(tempfile::tempdir().unwrap());
        machine.busybox();
        machine
    }

    fn at(directory: tempfile::TempDir) -> Machine {
        let options = Options {
            root: directory.path().join("image"),
            content: Store::open(&directory.path().join("content")).unwrap(),
            platform: Platform::host(),
            limits: Limits::default(),
            registries: RegistryOptions::default(),
            now: SystemTime::now,
        };
        let images = Images::open(options).unwrap();
        let run = Arc::new(Chroot {
            images: images.clone(),
            n_runs: AtomicUsize::new(0),
        });
        let scratch = directory.path().join("build");
        let builder = Builder::new(images.clone(), run.clone(), &scratch).unwrap();
        Machine {
            directory,
            images,
            run,
            builder,
        }
    }

    /// Closes everything and opens it again.
    pub fn restart(self) -> Machine {
        let Machine {
            directory,
            images,
            run,
            builder,
        } = self;
        drop((images, run, builder));
        Machine::at(directory)
    }

    fn busybox(&self) {
        let busybox = std::fs::read("/bin/busybox")
            .expect("busybox is installed (Debian package busybox-static)");
        let mut writer = Writer::new(Vec::new());
        for directory in ["bin", "etc", "tmp", "dev"] {
            writer
                .append(
                    &Entry::new(Kind::Directory, directory),
                    &mut std::io::empty(),
                )
                .unwrap();
        }
        let mut file = |path: &str, mode: u32, data: &[u8]| {
            let mut entry = Entry::new(Kind::File, path);
            (entry.mode, entry.size) = (mode, data.len() as u64);
            writer.append(&entry, &mut &data[..]).unwrap();
        };
        file("bin/busybox", 0o755, &busybox);
        file(
            "etc/passwd",
            0o644,
            b"root:x:0:0::/:/bin/sh\napp:x:1000:1001::/:/bin/sh\n",
        );
        file("etc/group", 0o644, b"root:x:0:\nstaff:x:50:\n");
        for tool in [
            "sh", "cat", "ls", "mkdir", "echo", "rm", "stat", "touch", "env",
        ] {
            let mut entry = Entry::new(Kind::Symlink, format!("bin/{tool}"));
            entry.link = b"busybox".to_vec();
            writer.append(&entry, &mut std::io::empty()).unwrap();
        }
        let tar = writer.finish().unwrap();
        let import = Import {
            config: ContainerConfig {
                env: vec!["PATH=/bin".into()],
                cmd: Some(vec!["sh".into()]),
                ..ContainerConfig::default()
            },
            name: Some("busybox".parse().unwrap()),
            ..Import::default()
        };
        self.images.import(&mut &tar[..], import).unwrap();
    }

    pub async fn build(&self, files: &[(&str, &str)]) -> Result<Built, Error> {
        self.build_with(files, BuildOptions::default()).await
    }

    pub async fn build_with(
        &self,
        files: &[(&str, &str)],
        mut options: BuildOptions,
    ) -> Result<Built, Error> {
        let context = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = context.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        options.id = "test".into();
        self.build_in(Context::Directory(context.path().to_owned()), options)
            .await
    }

    pub async fn build_in(&self, context: Context, options: BuildOptions) -> Result<Built, Error> {
        let (sender, mut events) = mpsc::channel(100);
        let building = self.builder.build(context, options, Output::new(sender));
        let listening = async {
            let mut said = String::new();
            while let Some(event) = events.recv().await {
                if let Event::Stream(text) = event {
                    said += &text;
                }
            }
            said
        };
        let both = async { tokio::join!(building, listening) };
        let (id, said) = tokio::time::timeout(Duration::from_secs(60), both)
            .await
            .expect("within a minute");
        assert!(
            self.images.rootfs_names().unwrap().is_empty(),
            "a root filesystem is left"
        );
        let scratch = self.directory.path().join("build");
        assert!(!scratch.exists() || is_empty(&scratch), "a context is left");
        let id = id?;
        Ok(Built {
            image: self.images.get(&id).unwrap(),
            said,
            images: self.images.clone(),
        })
    }

    pub fn n_runs(&self) -> usize {
        self.run.n_runs.load(Ordering::SeqCst)
    }
}

fn is_empty(directory: &Path) -> bool {
    std::fs::read_dir(directory).unwrap().next().is_none()
}

#[derive(Debug)]
pub struct Built {
    pub image: Arc<Image>,
    pub said: String,
    images: Images,
}

impl Built {
    /// Every path of the image: mode, owner, group, and content or target.
    pub fn files(&self) -> HashMap<String, (u32, u32, u32, String)> {
        let root = self.images.open_image(&self.image).unwrap();
        let mut writer = Writer::new(Vec::new());
        let options = dhow_image::archive::PackOptions::default();
        dhow_image::archive::pack(&root, &mut writer, &options).unwrap();
        let tar = writer.finish().unwrap();
        let limits = dhow_image::tar::ReadLimits {
            bytes: 1 << 30,
            entries: 10_000,
        };
        let mut archive = dhow_image::tar::Archive::new(&tar[..], limits);
        let mut files = HashMap::new();
        while let Some(entry) = archive.next_entry().unwrap() {
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut archive, &mut content).unwrap();
            if entry.kind == Kind::Symlink {
                content = entry.link;
            }
            let path = String::from_utf8(entry.path).unwrap();
            let content = String::from_utf8_lossy(&content).into_owned();
            files.insert(path, (entry.mode, entry.uid, entry.gid, content));
        }
        files
    }

    pub fn content(&self, path: &str) -> String {
        match self.files().remove(path) {
            Some((_, _, _, content)) => content,
            None => panic!("no {path} in {:?}", self.files().keys()),
        }
    }

    pub fn has(&self, path: &str) -> bool {
        self.files().contains_key(path)
    }
}
