//! Running one program in a root filesystem that is no container's: the steps
//! of a build.

use std::collections::BTreeMap;
use std::path::Path;

use dhow_image::Rootfs;
use dhow_network::EndpointSpec;
use dhow_shim::Moment;
use dhow_shim::client::Shim;
use dhow_shim::wire::{LogSpec, Running, ShimSpec, Stdin, Target, VERSION};
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;

use crate::accounts;
use crate::attach::{AttachOptions, next_frame, streams};
use crate::bundle::{self, Surroundings};
use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::files;
use crate::name_files;
use crate::record::{Record, State};
use crate::selinux::Labels;
use crate::spec::{Config, HostConfig};
use crate::start::told;
use crate::users;

/// A program to run to its end.
#[derive(Debug, Clone)]
pub struct Step {
    /// A name that no container and no other step has.
    pub name: String,
    /// Where it runs; what it writes goes to the upper directory.
    pub rootfs: Rootfs,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `NAME=value`, above what every container has.
    pub env: Vec<String>,
    /// Where it starts.
    pub cwd: String,
    /// Whom it runs as; empty means root.
    pub user: String,
    /// `default`, `none` or `host`.
    pub network: String,
    /// What it reads.
    pub stdin: Option<Vec<u8>>,
}

impl Engine {
    /// Runs a step; what it prints goes to `output` as it comes. Returns its
    /// exit code. Nothing but what it wrote is left, also when the future is
    /// dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] when the program cannot be executed, and whatever its
    /// sandbox says.
    pub async fn run_step(&self, step: Step, output: mpsc::Sender<Vec<u8>>) -> Result<i32> {
        // On a task of its own: a caller that goes away is noticed by the
        // closed channel, and the step is cleaned up all the same.
        let engine = self.clone();
        tokio::spawn(async move {
            let name = step.name.clone();
            let run = engine.inner.config.run.join("steps").join(&name);
            let ended = engine.run_step_in(step, &run, &output).await;
            let networks = engine.networks().clone();
            let _ = spawn_blocking(move || {
                let _ = networks.remove_sandbox(&name);
                users::let_go(&run);
                std::fs::remove_dir_all(&run)
            })
            .await;
            ended
        })
        .await
        .map_err(|error| Error::Runtime(error.to_string()))?
    }

    /// Ends the steps of a daemon that died: nobody waits for them any more.
    pub(crate) async fn end_steps(&self) {
        let steps = self.inner.config.run.join("steps");
        for entry in std::fs::read_dir(&steps).into_iter().flatten().flatten() {
            let run = entry.path();
            tracing::warn!(step = %run.display(), "its build is gone; ended");
            if let Ok((shim, _)) = Shim::connect(&run.join("shim")).await {
                let _ = shim.delete(Running::Kill).await;
            }
            let engine = self.clone();
            let _ = spawn_blocking(move || {
                let name = run.file_name().unwrap_or_default().to_string_lossy();
                let path = engine.config().groups.of(&name, &HostConfig::default());
                engine.end_unsupervised(&name, &path);
                let _ = engine.networks().remove_sandbox(&name);
                users::let_go(&run);
                std::fs::remove_dir_all(&run)
            })
            .await;
        }
    }

    async fn run_step_in(
        &self,
        step: Step,
        run: &Path,
        output: &mpsc::Sender<Vec<u8>>,
    ) -> Result<i32> {
        let stdin = step.stdin.clone();
        let spec = {
            let (engine, run) = (self.clone(), run.to_owned());
            spawn_blocking(move || engine.prepare_step(&step, &run))
                .await
                .expect("it does not panic")?
        };
        let (shim, mut events) = Shim::launch(&self.inner.supervisor, &spec)
            .await
            .map_err(told)?;
        // The shim drops a connection that does not keep up with its events.
        let following = tokio::spawn(async move { while events.next().await.is_some() {} });
        let ended = drive(&shim, stdin, output).await;
        let deleted = shim.delete(Running::Kill).await;
        following.abort();
        let code = ended?;
        deleted.map_err(told)?;
        Ok(code)
    }

    fn prepare_step(&self, step: &Step, run: &Path) -> Result<ShimSpec> {
        let bundle = run.join("bundle");
        std::fs::create_dir_all(&bundle).map_err(at("make", &bundle))?;
        let passwd = files::read_in_layers(&step.rootfs, Path::new("etc/passwd"));
        let group = files::read_in_layers(&step.rootfs, Path::new("etc/group"));
        let identity = accounts::identify(&step.user, &[], &passwd, &group)?;
        let labels = self.labels(&HostConfig::default(), None)?;
        let record = step_record(step, labels);
        let mut users = self.make_users(&record, run)?;
        let network = match step.network.as_str() {
            "host" => None,
            mode => {
                self.networks().remove_sandbox(&step.name)?;
                let own = users.as_mut().and_then(|users| users.network.take());
                let path = match own {
                    Some(namespace) => self.networks().adopt_sandbox(&step.name, namespace)?,
                    None => self.networks().create_sandbox(&step.name)?,
                };
                if mode != "none" {
                    let spec = EndpointSpec {
                        name: step.name.clone(),
                        ..EndpointSpec::default()
                    };
                    self.networks().join("bridge", &step.name, spec)?;
                }
                Some(path)
            }
        };
        name_files::write_to(self, run, &record)?;
        let config = bundle::compose(
            &record,
            &Surroundings {
                identity: &identity,
                network,
                images: BTreeMap::new(),
                users: users.as_ref(),
                joined: Vec::new(),
                memory: None,
                hostname: "buildkitsandbox",
                files: Some(run),
                groups: &self.inner.config.groups,
                apparmor: self.inner.config.apparmor.as_deref(),
                descriptors: self.inner.config.descriptors,
                init: None,
            },
        )?;
        let path = bundle.join("config.json");
        let bytes = serde_json::to_vec(&config).expect("a configuration is plain values");
        std::fs::write(&path, bytes).map_err(at("write", path))?;
        Ok(ShimSpec {
            version: VERSION,
            id: step.name.clone(),
            bundle,
            runtime_root: self.inner.config.run.join("runtime"),
            dir: run.join("shim"),
            root: self.root_source(step.rootfs.clone(), users.is_some()),
            stdin: if step.stdin.is_some() {
                Stdin::Once
            } else {
                Stdin::Closed
            },
            log: LogSpec::default(),
            groups: self.inner.config.groups.driver(),
        })
    }
}

/// A step as the record of a container that is never kept.
fn step_record(step: &Step, labels: Labels) -> Record {
    Record {
        id: step.name.clone(),
        name: step.name.clone(),
        created: Moment::now(),
        image: String::new(),
        args: step.args.clone(),
        config: Config {
            hostname: "buildkitsandbox".into(),
            env: step.env.clone(),
            working_dir: step.cwd.clone(),
            open_stdin: step.stdin.is_some(),
            ..Config::default()
        },
        host: HostConfig {
            network_mode: step.network.clone(),
            ipc_mode: "private".into(),
            cgroupns_mode: "private".into(),
            ..HostConfig::default()
        },
        networks: BTreeMap::new(),
        mounts: Vec::new(),
        sandbox: None,
        process_label: labels.process,
        mount_label: labels.mount,
        state: State::default(),
        restart_count: 0,
        stopped_by_hand: false,
    }
}

async fn drive(shim: &Shim, stdin: Option<Vec<u8>>, output: &mpsc::Sender<Vec<u8>>) -> Result<i32> {
    shim.create().await.map_err(told)?;
    let wanted = AttachOptions {
        stdin: stdin.is_some(),
        stdout: true,
        stderr: true,
    };
    let attached = streams(shim, Target::Container, wanted).await?;
    let (mut printed, mut typed) = (attached.output, attached.input);
    shim.start().await.map_err(told)?;
    let typing = async {
        if let Some(stdin) = stdin {
            // A program that does not read its input is none of our business.
            let _ = typed.write_all(&stdin).await;
        }
        let _ = typed.shutdown().await;
    };
    let printing = async {
        while let Some(text) = next_frame(&mut printed).await {
            if output.send(text).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(typing, printing) } => {}
        () = output.closed() => return Err(Error::Conflict("nobody waits for the step".into())),
    }
    let exit = shim.wait(Target::Container).await.map_err(told)?;
    Ok(exit.code)
}
