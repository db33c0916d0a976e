//! Network namespaces: made, pinned to a path, entered and let go.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Why a network namespace could not be made, entered or removed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} network namespace {}", path.display())]
pub struct NamespaceError {
    operation: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// A network namespace.
///
/// It lives as long as a process, a descriptor or a mount holds it. One made by
/// [`Namespace::create_pinned`] is held by a bind mount and outlives its maker.
#[derive(Debug)]
pub struct Namespace {
    file: File,
    path: PathBuf,
}

impl Namespace {
    /// Makes a namespace that lives as long as the value that is returned, and
    /// whoever joined it.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when the kernel refuses.
    pub fn create() -> Result<Self, NamespaceError> {
        Self::create_with(|| ()).map(|(namespace, ())| namespace)
    }

    /// Makes a namespace, and returns what `body`, run inside, returns.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when the kernel refuses.
    ///
    /// # Panics
    ///
    /// When `body` does.
    pub fn create_with<T: Send>(
        body: impl FnOnce() -> T + Send,
    ) -> Result<(Self, T), NamespaceError> {
        // The namespace is made on a thread that ends at once: what holds it
        // is the descriptor.
        let path = Path::new("/proc/thread-self/ns/net");
        let made = std::thread::scope(|scope| {
            let maker = scope.spawn(|| -> io::Result<(File, T)> {
                // SAFETY: a network namespace is no memory; this thread shares
                // everything else with the process as before.
                if unsafe { libc::unshare(libc::CLONE_NEWNET) } != 0 {
                    return Err(io::Error::last_os_error());
                }
                Ok((File::open(path)?, body()))
            });
            maker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        });
        match made {
            Ok((file, done)) => {
                let path = "(unpinned)".into();
                Ok((Self { file, path }, done))
            }
            Err(source) => Err(NamespaceError {
                operation: "make",
                path: path.into(),
                source,
            }),
        }
    }

    /// Pins the namespace to `path`, a file that must not exist yet; the folder
    /// must.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when the path is taken or the kernel refuses; nothing
    /// is left behind then.
    pub fn pin(mut self, path: &Path) -> Result<Self, NamespaceError> {
        let failed = |operation| {
            move |source: io::Error| NamespaceError {
                operation,
                path: path.into(),
                source,
            }
        };
        OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(path)
            .map_err(failed("make the pin of"))?;
        let held = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        if let Err(error) = mount_bind(held, path) {
            let _ = std::fs::remove_file(path);
            return Err(failed("pin")(error.into()));
        }
        self.path = path.into();
        Ok(self)
    }

    /// Makes a namespace and pins it to `path`; see [`Namespace::pin`].
    ///
    /// # Errors
    ///
    /// As [`Namespace::pin`].
    pub fn create_pinned(path: &Path) -> Result<Self, NamespaceError> {
        Self::create()?.pin(path)
    }

    /// Opens the namespace pinned at `path`, or that of a process
    /// (`/proc/PID/ns/net`).
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when there is none.
    pub fn open(path: &Path) -> Result<Self, NamespaceError> {
        let file = File::open(path).map_err(|source| NamespaceError {
            operation: "open",
            path: path.into(),
            source,
        })?;
        Ok(Self {
            file,
            path: path.into(),
        })
    }

    /// Holds the namespace once more.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when there are no descriptors left.
    pub fn try_clone(&self) -> Result<Self, NamespaceError> {
        let file = self.file.try_clone().map_err(|source| NamespaceError {
            operation: "hold",
            path: self.path.clone(),
            source,
        })?;
        Ok(Self {
            file,
            path: self.path.clone(),
        })
    }

    /// Runs `body` inside, on a thread of its own, and returns what it returns.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when the namespace cannot be entered.
    ///
    /// # Panics
    ///
    /// When `body` does.
    pub fn run<T: Send>(&self, body: impl FnOnce() -> T + Send) -> Result<T, NamespaceError> {
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| {
                move_into_link_name_space(self.file.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(body())
            });
            inside
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
        .map_err(|source: rustix::io::Errno| NamespaceError {
            operation: "enter",
            path: self.path.clone(),
            source: source.into(),
        })
    }

    /// Lets go of a pinned namespace. It is gone when nobody else holds it; one
    /// that is not there is no error.
    ///
    /// # Errors
    ///
    /// [`NamespaceError`] when the pin cannot be removed.
    pub fn remove_pinned(path: &Path) -> Result<(), NamespaceError> {
        remove(path).map_err(|source| NamespaceError {
            operation: "remove",
            path: path.into(),
            source,
        })
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
        // Not a mount (any more), or not there.
        Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
        Err(error) => return Err(error.into()),
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl From<OwnedFd> for Namespace {
    /// The namespace that a descriptor of its file stands for.
    fn from(file: OwnedFd) -> Self {
        Self {
            file: file.into(),
            path: "(unpinned)".into(),
        }
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}
