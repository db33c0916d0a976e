//! Telling whoever started the daemon that it is ready, by systemd's protocol:
//! a datagram to the socket that `NOTIFY_SOCKET` names.
//!
//! `dhow up` starts a daemon that way where none runs, and so does a unit of
//! `Type=notify`.

use std::fs::OpenOptions;
use std::io::ErrorKind;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::instance::Instance;

const VARIABLE: &str = "NOTIFY_SOCKET";
/// A daemon is ready within this time, or something is wrong.
const PATIENCE: Duration = Duration::from_secs(90);

/// Tells that this process is ready, if anybody wants to know.
pub(crate) fn ready() {
    let Some(name) = std::env::var_os(VARIABLE) else {
        return;
    };
    let sent = address(name.as_encoded_bytes())
        .and_then(|address| UnixDatagram::unbound()?.send_to_addr(b"READY=1", &address));
    if let Err(error) = sent {
        tracing::warn!(%error, "nobody was told that the daemon is ready");
    }
}

fn address(name: &[u8]) -> std::io::Result<SocketAddr> {
    match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        path => SocketAddr::from_pathname(Path::new(
            std::str::from_utf8(path).map_err(std::io::Error::other)?,
        )),
    }
}

/// Starts a daemon unless one serves the socket.
///
/// # Errors
///
/// When it cannot be started.
pub(crate) fn ensure_daemon(host: &str) -> Result<()> {
    let socket = host.strip_prefix("unix://").unwrap_or(host);
    if socket.contains("://") {
        // Another machine's, which is not ours to start.
        return Ok(());
    }
    match UnixStream::connect(socket) {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            ) => {}
        // It is there, or the client has a better word for why not.
        _ => return Ok(()),
    }
    let log = Instance::from_environment().data_root.join("daemon.log");
    let pid = start_daemon(&["--socket".into(), socket.into()], &log)?;
    eprintln!(
        "A daemon was started (process {pid}); its log is {}.",
        log.display()
    );
    Ok(())
}

/// Starts a daemon that outlives this process, and returns its process
/// identifier when it is ready. What it says goes to `log`.
///
/// # Errors
///
/// When it ends before it is ready; the error has the end of its log.
fn start_daemon(arguments: &[String], log: &Path) -> Result<u32> {
    if let Some(folder) = log.parent() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("make folder {}", folder.display()))?;
    }
    let output = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .with_context(|| format!("open {}", log.display()))?;
    let folder = tempfile_in(log)?;
    let socket = folder.join("notify");
    let listener = UnixDatagram::bind(&socket).context("make a socket")?;
    let _removed = Removed(&folder);
    listener.set_read_timeout(Some(PATIENCE))?;
    let own = std::env::current_exe().context("find this executable")?;
    let mut daemon = Command::new(own)
        .arg("daemon")
        .args(arguments)
        .env(VARIABLE, &socket)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(output)
        // Signals to this terminal are not meant for it.
        .process_group(0)
        .spawn()
        .context("start the daemon")?;
    let pid = daemon.id();
    // Its end is told by the same socket.
    let ended = UnixDatagram::unbound()?;
    let told = socket.clone();
    std::thread::spawn(move || {
        let status = daemon.wait().map(|status| status.to_string());
        let text = status.unwrap_or_else(|error| error.to_string());
        let _ = ended.send_to(text.as_bytes(), told);
    });
    let mut buffer = [0; 256];
    let length = listener
        .recv(&mut buffer)
        .with_context(|| format!("the daemon is not ready after {} s", PATIENCE.as_secs()))?;
    let text = String::from_utf8_lossy(&buffer[..length]);
    if text.lines().any(|line| line == "READY=1") {
        return Ok(pid);
    }
    let said = std::fs::read_to_string(log).unwrap_or_default();
    let last = said.lines().last().unwrap_or_default();
    bail!("the daemon ended ({text}): {last}");
}

/// A folder of our own beside the log.
fn tempfile_in(log: &Path) -> Result<std::path::PathBuf> {
    let folder = log.with_file_name(format!(".up-{}", std::process::id()));
    std::fs::create_dir_all(&folder)
        .with_context(|| format!("make folder {}", folder.display()))?;
    Ok(folder)
}

struct Removed<'a>(&'a Path);

impl Drop for Removed<'_> {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0);
    }
}
