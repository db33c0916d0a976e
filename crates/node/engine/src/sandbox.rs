//! Sandboxes: the namespaces that the containers of a pod share.
//!
//! A sandbox is namespaces, not a process: network, IPC and host name are
//! pinned by bind mounts, and `/dev/shm` is a filesystem that its containers
//! share. All of it is gone with a reboot, and so is its record:
//!
//! ```text
//! RUN/sandboxes/ID/sandbox.json   the record, written when all is made
//! RUN/sandboxes/ID/{ipc,uts}      pins
//! RUN/sandboxes/ID/shm            mount point of the shared memory
//! RUN/network/netns/ID            pin of the network namespace
//! ```

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhow_network::{EndpointSpec, PortMapping};
use dhow_runtime::spec::{Namespace, NamespaceKind};
use dhow_shim::Moment;
use dhow_sys::namespace::{self, Kind};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::engine::Engine;
use crate::error::{Error, Result, at};
use crate::mounts::{MountKind, MountPoint};
use crate::names;
use crate::record::SharedSandbox;
use crate::shm;

const FILE: &str = "sandbox.json";

/// A sandbox as asked for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxSpec {
    /// Name by which it is listed among a network's endpoints.
    pub name: String,
    /// Host name of its containers.
    pub hostname: String,
    /// The network that it is joined to; none is the host's own.
    pub network: Option<String>,
    /// Ports of the host that lead into it.
    pub ports: Vec<PortMapping>,
    /// Contents of `/etc/resolv.conf`; empty leaves it to the engine.
    pub resolv_conf: String,
    /// Whether IPC is the host's.
    pub host_ipc: bool,
    /// Whether its containers see the host's processes.
    pub host_pid: bool,
    /// Settings of the kernel in its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Labels to find it by.
    pub labels: BTreeMap<String, String>,
    /// Whatever its maker wants to keep with it.
    pub annotations: BTreeMap<String, String>,
}

/// A sandbox as it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sandbox {
    /// Identifier, 64 hexadecimal digits.
    pub id: String,
    /// As asked for.
    pub spec: SandboxSpec,
    /// When it was made.
    pub created: Moment,
    /// Its addresses; none on the host's network.
    pub addresses: Vec<IpAddr>,
    /// Whether its namespaces are there.
    pub is_ready: bool,
}

impl Sandbox {
    /// What a container needs to be created in it.
    pub fn share(&self) -> SharedSandbox {
        SharedSandbox {
            id: self.id.clone(),
            hostname: self.spec.hostname.clone(),
            resolv_conf: self.spec.resolv_conf.clone(),
            hosts: String::new(),
            host_network: self.spec.network.is_none(),
        }
    }
}

/// The sandboxes of one engine.
#[derive(Debug, Default)]
pub(crate) struct Sandboxes {
    known: parking_lot::Mutex<BTreeMap<String, Arc<Sandbox>>>,
    /// One is made or unmade at a time for each identifier.
    operations: parking_lot::Mutex<BTreeMap<String, Arc<Mutex<()>>>>,
}

impl Sandboxes {
    fn get(&self, id: &str) -> Option<Arc<Sandbox>> {
        self.known.lock().get(id).cloned()
    }

    fn operation(&self, id: &str) -> Arc<Mutex<()>> {
        Arc::clone(self.operations.lock().entry(id.to_owned()).or_default())
    }
}

impl Engine {
    /// Makes a sandbox.
    ///
    /// # Errors
    ///
    /// [`Error::Network`] when it cannot be joined to its network,
    /// [`Error::File`] when the kernel refuses; nothing is left behind then.
    pub async fn sandbox_create(&self, spec: SandboxSpec) -> Result<Arc<Sandbox>> {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let id = names::identifier();
            let made = engine.make_sandbox(&id, spec);
            if made.is_err() {
                // The first error is the one to tell.
                let _ = engine.unmake_sandbox(&id);
                let _ = std::fs::remove_dir_all(engine.sandbox_folder(&id));
            }
            made
        })
        .await
        .expect("making a sandbox does not panic")
    }

    fn make_sandbox(&self, id: &str, spec: SandboxSpec) -> Result<Arc<Sandbox>> {
        let folder = self.sandbox_folder(id);
        std::fs::create_dir_all(&folder).map_err(at("make", &folder))?;
        let (ipc, uts) = (folder.join("ipc"), folder.join("uts"));
        let mut pins: Vec<(Kind, &Path)> = Vec::new();
        if !spec.host_ipc {
            pins.push((Kind::Ipc, &ipc));
        }
        if spec.network.is_some() {
            pins.push((Kind::Uts, &uts));
        }
        if !pins.is_empty() {
            namespace::pin_new(&pins)
                .map_err(|error| at("pin namespaces in", &folder)(error.into()))?;
        }
        if !spec.host_ipc {
            shm::make(&folder, shm::SIZE, &self.label_of_sandbox(id))?;
        }
        let mut addresses = Vec::new();
        if let Some(network) = &spec.network {
            self.networks().create_pinned_sandbox(id)?;
            let endpoint = EndpointSpec {
                name: spec.name.clone(),
                ports: spec.ports.iter().cloned().map(Into::into).collect(),
                ..EndpointSpec::default()
            };
            addresses = self.networks().join(network, id, endpoint)?.addresses;
        }
        let sandbox = Arc::new(Sandbox {
            id: id.to_owned(),
            spec,
            created: Moment::now(),
            addresses,
            is_ready: true,
        });
        self.keep_sandbox(&sandbox)?;
        Ok(sandbox)
    }

    /// Ends all containers of a sandbox by force and lets its namespaces go.
    /// One that is stopped or gone is no error.
    ///
    /// # Errors
    ///
    /// The kernel's refusal.
    pub async fn sandbox_stop(&self, id: &str) -> Result<()> {
        if self.inner.sandboxes.get(id).is_none() {
            return Ok(());
        }
        let operation = self.inner.sandboxes.operation(id);
        let _operation = operation.lock().await;
        let Some(sandbox) = self.inner.sandboxes.get(id) else {
            return Ok(());
        };
        let containers = self.sandbox_containers(id);
        for container in &containers {
            match self.kill(container, "KILL").await {
                Ok(()) | Err(Error::Conflict(_) | Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        for container in &containers {
            match self.wait(container, crate::WaitFor::NotRunning).await {
                Ok(_) | Err(Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        if !sandbox.is_ready {
            return Ok(());
        }
        let (engine, stopped) = (
            self.clone(),
            Sandbox {
                is_ready: false,
                ..Sandbox::clone(&sandbox)
            },
        );
        tokio::task::spawn_blocking(move || {
            engine.unmake_sandbox(&stopped.id)?;
            engine.keep_sandbox(&Arc::new(stopped))
        })
        .await
        .expect("stopping a sandbox does not panic")
    }

    /// Removes a sandbox with all its containers. One that is gone is no error.
    ///
    /// # Errors
    ///
    /// As [`Engine::sandbox_stop`].
    pub async fn sandbox_remove(&self, id: &str) -> Result<()> {
        self.sandbox_stop(id).await?;
        for container in self.sandbox_containers(id) {
            match self.remove(&container, true, true).await {
                Ok(()) | Err(Error::NoSuchContainer(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let folder = self.sandbox_folder(id);
        match tokio::fs::remove_dir_all(&folder).await {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("remove", folder)(error));
            }
            _ => {}
        }
        self.inner.sandboxes.known.lock().remove(id);
        self.inner.sandboxes.operations.lock().remove(id);
        Ok(())
    }

    /// All sandboxes.
    pub fn sandboxes(&self) -> Vec<Arc<Sandbox>> {
        self.inner
            .sandboxes
            .known
            .lock()
            .values()
            .cloned()
            .collect()
    }

    /// The sandbox with this identifier.
    ///
    /// # Errors
    ///
    /// [`Error::NoSuchSandbox`].
    pub fn sandbox(&self, id: &str) -> Result<Arc<Sandbox>> {
        self.inner
            .sandboxes
            .get(id)
            .ok_or_else(|| Error::NoSuchSandbox(id.to_owned()))
    }

    fn sandbox_containers(&self, id: &str) -> Vec<String> {
        let is_in = |sandbox: &SharedSandbox| sandbox.id == id;
        self.containers()
            .iter()
            .filter(|container| container.record().sandbox.as_ref().is_some_and(is_in))
            .map(|container| container.id.clone())
            .collect()
    }

    fn sandbox_folder(&self, id: &str) -> PathBuf {
        self.inner.config.run.join("sandboxes").join(id)
    }

    fn keep_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let folder = self.sandbox_folder(&sandbox.id);
        let (path, new) = (folder.join(FILE), folder.join("sandbox.json.new"));
        let bytes = serde_json::to_vec(&**sandbox).expect("a record is plain values");
        std::fs::write(&new, bytes)
            .and_then(|()| std::fs::rename(&new, &path))
            .inspect_err(|_| drop(std::fs::remove_file(&new)))
            .map_err(at("write", path))?;
        self.inner
            .sandboxes
            .known
            .lock()
            .insert(sandbox.id.clone(), Arc::clone(sandbox));
        Ok(())
    }

    /// Lets the namespaces of a sandbox go, as far as they are there.
    fn unmake_sandbox(&self, id: &str) -> Result<()> {
        self.networks().remove_sandbox(id)?;
        let folder = self.sandbox_folder(id);
        for pin in ["ipc", "uts"] {
            let pin = folder.join(pin);
            namespace::unpin(&pin).map_err(|error| at("unpin", &pin)(error.into()))?;
        }
        shm::remove(&folder)
    }

    /// Reads the sandboxes; what a crash left half made is unmade.
    pub(crate) fn read_sandboxes(&self) -> Result<()> {
        let folder = self.inner.config.run.join("sandboxes");
        std::fs::create_dir_all(&folder).map_err(at("make", &folder))?;
        for entry in std::fs::read_dir(&folder).map_err(at("read", &folder))? {
            let path = entry.map_err(at("read", &folder))?.path();
            let read = std::fs::read(path.join(FILE)).ok();
            let sandbox = read.and_then(|bytes| serde_json::from_slice::<Sandbox>(&bytes).ok());
            if let Some(sandbox) = sandbox {
                let mut known = self.inner.sandboxes.known.lock();
                known.insert(sandbox.id.clone(), Arc::new(sandbox));
                continue;
            }
            let Some(id) = path.file_name().and_then(|name| name.to_str()) else {
                continue;
            };
            tracing::warn!(sandbox = id, "was not made to the end; removed");
            self.unmake_sandbox(id)?;
            std::fs::remove_dir_all(&path).map_err(at("remove", &path))?;
        }
        Ok(())
    }

    /// The namespaces that a container in a sandbox joins, besides its network.
    pub(crate) fn sandbox_namespaces(&self, shared: &SharedSandbox) -> Result<Vec<Namespace>> {
        let sandbox = self.sandbox(&shared.id)?;
        if !sandbox.is_ready {
            return Err(Error::Conflict(format!("sandbox {} is stopped", shared.id)));
        }
        let folder = self.sandbox_folder(&shared.id);
        let join = |kind, name: &str| Namespace {
            kind,
            path: Some(folder.join(name)),
        };
        let mut joined = Vec::new();
        if !sandbox.spec.host_ipc {
            joined.push(join(NamespaceKind::Ipc, "ipc"));
        }
        if sandbox.spec.network.is_some() {
            joined.push(join(NamespaceKind::Uts, "uts"));
        }
        Ok(joined)
    }

    /// The shared memory of a sandbox, as a mount of its containers.
    pub(crate) fn sandbox_memory(&self, shared: &SharedSandbox) -> Result<Option<MountPoint>> {
        let sandbox = self.sandbox(&shared.id)?;
        let shm = self.sandbox_folder(&shared.id).join("shm");
        Ok((!sandbox.spec.host_ipc).then(|| MountPoint {
            kind: MountKind::Bind,
            source: shm.display().to_string(),
            destination: "/dev/shm".into(),
            writable: true,
            ..MountPoint::default()
        }))
    }
}
