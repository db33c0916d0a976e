//! Unpacked layers, shared by all who run, build or mount them, and the root
//! filesystems prepared on top of them.
//!
//! A snapshot appears by a rename after everything in it is on disk; until
//! then it is a draft. Removal renames into `doomed` first. So whatever a
//! crash interrupts, `snapshots` and `rootfs` hold whole things only.

use std::collections::{HashMap, HashSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use dhow_oci::Digest;
use rustix::fs::{
    AtFlags, FileType, Gid, IFlags, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use serde::{Deserialize, Serialize};

use crate::archive::{
    Ahead, Devices, Ownership, Replace, UnpackOptions, Whiteouts, open_in, remove_layer,
    remove_tree, unpack,
};
use crate::error::at;
use crate::overlay::{self, Writable};
use crate::pins::Pins;
use crate::quota::Sizes;
use crate::tar::{Archive, ReadLimits};
use crate::types::Rootfs;
use crate::{Error, Result};

/// Overlayfs takes no more layers.
pub(crate) const MAX_LAYERS: usize = 500;

/// What is remembered of a snapshot, in `layer.json` beside its files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct About {
    /// The snapshot below; none for the bottom one.
    parent: Option<Digest>,
    /// Digest of the plain tar it was unpacked from.
    diff_id: Digest,
    /// Bytes of all its files.
    size: u64,
}

/// The snapshots and root filesystems under one directory.
#[derive(Debug)]
pub(crate) struct Snapshots {
    root: PathBuf,
    known: RwLock<HashMap<Digest, About>>,
    next: AtomicU64,
    /// Nanoseconds since the epoch at which it was opened.
    opened: u128,
    /// Where the file system can keep root file systems within a size.
    pub(crate) sizes: Option<Sizes>,
    pub(crate) pins: Pins,
}

/// A directory being filled; removed unless it is published.
#[derive(Debug)]
pub(crate) struct Draft {
    path: PathBuf,
    published: bool,
    /// Directories whose attributes are those of the layer below.
    implied: Vec<Vec<u8>>,
    pub(crate) diff_id: Digest,
    pub(crate) size: u64,
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.published
            && let Err(error) = remove_with(&self.path, remove_layer)
        {
            tracing::warn!(path = %self.path.display(), %error, "draft left behind");
        }
    }
}

impl Snapshots {
    /// Opens what is under `root`, and clears away what was interrupted.
    pub(crate) fn open(root: &Path, now: SystemTime) -> Result<Snapshots> {
        for directory in ["snapshots", "rootfs", "drafts", "layers", "doomed", "empty"] {
            let path = root.join(directory);
            fs::create_dir_all(&path).map_err(at("create", &path))?;
        }
        spread(&root.join("layers"));
        let sizes =
            Sizes::open(root, &root.join("rootfs")).map_err(at("look for quotas of", root))?;
        for directory in ["drafts", "layers", "doomed"] {
            let path = root.join(directory);
            for entry in fs::read_dir(&path).map_err(at("list", &path))? {
                let path = entry.map_err(at("list", &path))?.path();
                remove_rootfs(&path, sizes.as_ref()).map_err(at("remove", &path))?;
            }
        }
        if let Some(sizes) = &sizes {
            sizes.sweep().map_err(at("take quotas back of", root))?;
        }
        let mut known = HashMap::new();
        let path = root.join("snapshots");
        for entry in fs::read_dir(&path).map_err(at("list", &path))? {
            let entry = entry.map_err(at("list", &path))?;
            let Ok(chain_id) = Digest::from_sha256_hex(&entry.file_name().to_string_lossy()) else {
                continue;
            };
            let path = entry.path().join("layer.json");
            let bytes = fs::read(&path).map_err(at("read", &path))?;
            let about = serde_json::from_slice(&bytes).map_err(|source| Error::Json {
                what: path.display().to_string(),
                source,
            })?;
            known.insert(chain_id, about);
        }
        // What was published right before a kill is counted on from now on.
        File::open(&path)
            .and_then(|directory| directory.sync_all())
            .map_err(at("sync", &path))?;
        Ok(Snapshots {
            root: root.to_owned(),
            known: RwLock::new(known),
            next: AtomicU64::new(0),
            opened: now
                .duration_since(UNIX_EPOCH)
                .unwrap_or_default()
                .as_nanos(),
            sizes,
            pins: Pins::default(),
        })
    }

    /// Unpacked size of a snapshot, if there is one of this name.
    pub(crate) fn size(&self, chain_id: &Digest) -> Option<u64> {
        self.read().get(chain_id).map(|about| about.size)
    }

    /// Unpacks a layer, compressed or not, reading it to its end. Which layer
    /// it lies on does not matter yet.
    pub(crate) fn unpack(
        &self,
        layer: impl Read + Send + 'static,
        limits: ReadLimits,
    ) -> Result<Draft> {
        let mut draft = self.draft()?;
        let path = draft.path.join("fs");
        let root = File::open(&path).map_err(at("open", &path))?;
        let failed = |error: io::Error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Error::Archive(error.to_string())
            }
            _ => Error::Io {
                action: "unpack into",
                path: path.clone(),
                source: error,
            },
        };
        let mut plain = Hashing::new(Ahead::start(layer).map_err(failed)?);
        let mut archive = Archive::new(&mut plain, limits);
        let options = UnpackOptions {
            whiteouts: Whiteouts::Overlay,
            ownership: Ownership::Recorded,
            devices: Devices::Create,
            replace: Replace::Anything,
        };
        let unpacked = unpack(&mut archive, &root, options).map_err(failed)?;
        archive.finish().map_err(failed)?;
        draft.diff_id = plain.finish();
        draft.size = unpacked.bytes;
        draft.implied = unpacked.implied.into_iter().collect();
        Ok(draft)
    }

    /// Makes a draft of what was written to a root filesystem, which is gone
    /// thereafter.
    pub(crate) fn adopt(&self, name: &str, diff_id: Digest, size: u64) -> Result<Draft> {
        let mut draft = self.draft()?;
        let from = self.rootfs_path(name)?.join("upper");
        let to = draft.path.join("fs");
        fs::remove_dir(&to).map_err(at("remove", &to))?;
        fs::rename(&from, &to).map_err(at("rename", &from))?;
        (draft.diff_id, draft.size) = (diff_id, size);
        self.release(name)?;
        Ok(draft)
    }

    /// Makes drafts visible as the stack they belong to, all synced to disk at
    /// once: `(chain id, chain id below, draft)`, bottom first.
    pub(crate) fn publish(
        &self,
        drafts: impl IntoIterator<Item = (Digest, Option<Digest>, Draft)>,
    ) -> Result<()> {
        let drafts: Vec<_> = drafts.into_iter().collect();
        if drafts.is_empty() {
            return Ok(());
        }
        for (at_draft, (_, parent, draft)) in drafts.iter().enumerate() {
            self.settle_implied(&drafts[..at_draft], parent.as_ref(), draft)?;
            let about = about(parent, draft);
            let path = draft.path.join("layer.json");
            let bytes = serde_json::to_vec(&about).expect("plain data");
            fs::write(&path, bytes).map_err(at("write", &path))?;
        }
        let directory = self.root.join("snapshots");
        let handle = File::open(&directory).map_err(at("open", &directory))?;
        rustix::fs::syncfs(&handle).map_err(at("sync", &directory))?;
        for (chain_id, parent, mut draft) in drafts {
            let target = directory.join(chain_id.hex());
            match fs::rename(&draft.path, &target) {
                Ok(()) => draft.published = true,
                // Somebody else unpacked the same; the draft goes.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists
                    ) => {}
                Err(error) => return Err(at("rename", &draft.path)(error)),
            }
            let about = about(&parent, &draft);
            self.write().entry(chain_id).or_insert(about);
        }
        handle.sync_all().map_err(at("sync", &directory))
    }

    /// The directories of a stack, topmost first; `chain_id` none is the empty
    /// stack, an empty directory.
    pub(crate) fn lower(&self, chain_id: Option<&Digest>) -> Result<Vec<PathBuf>> {
        let known = self.read();
        let mut lower = Vec::new();
        let mut next = chain_id;
        while let Some(chain_id) = next {
            let about = known.get(chain_id).ok_or_else(|| {
                Error::Invalid(format!("snapshot {} is missing", chain_id.short()))
            })?;
            lower.push(self.files(chain_id));
            next = about.parent.as_ref();
        }
        if lower.is_empty() {
            lower.push(self.root.join("empty"));
        }
        if lower.len() > MAX_LAYERS {
            return Err(Error::Invalid(format!(
                "image has {} layers; the kernel mounts {MAX_LAYERS} at most",
                lower.len()
            )));
        }
        Ok(lower)
    }

    /// The directories of a stack as a merged, read-only view wants them.
    pub(crate) fn view(&self, mut lower: Vec<PathBuf>) -> Vec<PathBuf> {
        if lower.len() == 1 {
            // An overlay without a writable part wants two.
            lower.push(self.root.join("empty"));
        }
        lower
    }

    /// A merged, read-only view of a stack.
    pub(crate) fn mount(&self, lower: &[PathBuf]) -> Result<OwnedFd> {
        overlay::mount(&self.view(lower.to_vec()), None)
    }

    /// Prepares a root filesystem on top of a stack; `size` is how many bytes may
    /// be written to it.
    pub(crate) fn prepare(
        &self,
        chain_id: Option<&Digest>,
        name: &str,
        size: Option<u64>,
    ) -> Result<Rootfs> {
        let target = self.rootfs_path(name)?;
        let lower = self.lower(chain_id)?;
        let draft = self.root.join("drafts").join(self.number());
        let made = (|| {
            fs::create_dir(&draft).map_err(at("create", &draft))?;
            if let Some(size) = size {
                let sizes = self.sizes.as_ref().ok_or(Error::NoQuotas)?;
                sizes.assign(&draft, size).map_err(at("limit", &draft))?;
            }
            for directory in [&draft.join("upper"), &draft.join("work")] {
                fs::create_dir(directory).map_err(at("create", directory))?;
            }
            // The root is entered by whoever the container runs as.
            let upper = draft.join("upper");
            copy_root(&lower[0], &upper).map_err(at("set mode of", &upper))?;
            let base = match chain_id {
                Some(chain_id) => format!("../../snapshots/{}", chain_id.hex()),
                None => "../../empty".to_owned(),
            };
            let link = draft.join("base");
            std::os::unix::fs::symlink(base, &link).map_err(at("link", &link))?;
            fs::rename(&draft, &target).map_err(|error| match error.kind() {
                io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::AlreadyExists => {
                    Error::RootfsExists(name.to_owned())
                }
                _ => at("rename", &draft)(error),
            })
        })();
        if made.is_err() {
            // The first error is the one that matters.
            let _ = remove_rootfs(&draft, self.sizes.as_ref());
        }
        made?;
        Ok(Rootfs {
            lower,
            upper: target.join("upper"),
            work: target.join("work"),
        })
    }

    /// The root filesystem of this name, and the top of its stack.
    pub(crate) fn rootfs(&self, name: &str) -> Result<(Rootfs, Option<Digest>)> {
        let path = self.rootfs_path(name)?;
        let base = match fs::read_link(path.join("base")) {
            Ok(base) => base,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(Error::NoSuchRootfs(name.to_owned()));
            }
            Err(error) => return Err(at("read", &path)(error)),
        };
        let base = base
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let chain_id = match base {
            "empty" => None,
            hex => Some(Digest::from_sha256_hex(hex).map_err(|_| {
                Error::Invalid(format!("root filesystem {name:?} has no sound base"))
            })?),
        };
        let lower = self.lower(chain_id.as_ref())?;
        Ok((
            Rootfs {
                lower,
                upper: path.join("upper"),
                work: path.join("work"),
            },
            chain_id,
        ))
    }

    /// A merged, writable view of a root filesystem.
    pub(crate) fn open_rootfs(&self, name: &str) -> Result<OwnedFd> {
        let (rootfs, _) = self.rootfs(name)?;
        overlay::mount(
            &rootfs.lower,
            Some(Writable {
                upper: &rootfs.upper,
                work: &rootfs.work,
            }),
        )
    }

    /// The names of all root filesystems.
    pub(crate) fn rootfs_names(&self) -> Result<Vec<String>> {
        let path = self.root.join("rootfs");
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(at("list", &path))? {
            let entry = entry.map_err(at("list", &path))?;
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    }

    /// Removes a root filesystem, if there is one.
    pub(crate) fn release(&self, name: &str) -> Result<()> {
        self.doom(&self.rootfs_path(name)?)
    }

    /// Removes every snapshot that is neither in `live`, nor pinned, nor below
    /// a root filesystem or another one that stays. Returns which went, upper
    /// ones first, and the bytes freed. `live` is computed while nobody can pin.
    pub(crate) fn sweep(
        &self,
        live: impl FnOnce() -> HashSet<Digest>,
    ) -> Result<(Vec<Digest>, u64)> {
        let pins = self.pins.lock();
        let mut roots = live();
        roots.extend(pins.keys().cloned());
        for name in self.rootfs_names()? {
            // Its stack may be broken; its top must stay all the same.
            if let Ok((_, Some(chain_id))) = self.rootfs(&name) {
                roots.insert(chain_id);
            }
        }
        let mut known = self.write();
        let mut alive = HashSet::new();
        for root in &roots {
            let mut next = Some(root);
            while let Some(chain_id) = next {
                if !alive.insert(chain_id.clone()) {
                    break;
                }
                next = known.get(chain_id).and_then(|about| about.parent.as_ref());
            }
        }
        let mut dead: Vec<Digest> = known
            .keys()
            .filter(|chain_id| !alive.contains(*chain_id))
            .cloned()
            .collect();
        dead.sort_by_cached_key(|chain_id| {
            std::cmp::Reverse((depth(&known, chain_id), chain_id.clone()))
        });
        let mut freed = 0;
        let mut doomed = Vec::new();
        for chain_id in &dead {
            let from = self.root.join("snapshots").join(chain_id.hex());
            let to = self.root.join("doomed").join(self.number());
            fs::rename(&from, &to).map_err(at("rename", &from))?;
            freed += known.remove(chain_id).map_or(0, |about| about.size);
            doomed.push(to);
        }
        drop(known);
        drop(pins);
        // The slow part holds nobody up.
        for path in doomed {
            remove_with(&path, remove_layer).map_err(at("remove", &path))?;
        }
        Ok((dead, freed))
    }

    fn doom(&self, path: &Path) -> Result<()> {
        let doomed = self.root.join("doomed").join(self.number());
        match fs::rename(path, &doomed) {
            Ok(()) => remove_rootfs(&doomed, self.sizes.as_ref()).map_err(at("remove", &doomed)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(at("rename", path)(error)),
        }
    }

    fn draft(&self) -> Result<Draft> {
        let name = format!("{}-{}", self.opened, self.number());
        let path = self.root.join("layers").join(name);
        let files = path.join("fs");
        fs::create_dir_all(&files).map_err(at("create", &files))?;
        Ok(Draft {
            path,
            published: false,
            implied: Vec::new(),
            diff_id: Digest::of(b""),
            size: 0,
        })
    }

    /// Gives directories that a layer did not mention the attributes they have
    /// in the layers below, instead of shadowing those with made-up ones.
    fn settle_implied(
        &self,
        below: &[(Digest, Option<Digest>, Draft)],
        parent: Option<&Digest>,
        draft: &Draft,
    ) -> Result<()> {
        if draft.implied.is_empty() {
            return Ok(());
        }
        let fresh = below
            .iter()
            .rev()
            .map(|(_, _, draft)| draft.path.join("fs"));
        let bottom = match below.first() {
            Some((_, bottom, _)) => bottom.as_ref(),
            None => parent,
        };
        let lower: Vec<PathBuf> = match bottom {
            Some(chain_id) => fresh.chain(self.lower(Some(chain_id))?).collect(),
            None => fresh.collect(),
        };
        let files = draft.path.join("fs");
        let root = File::open(&files).map_err(at("open", &files))?;
        for layer in lower.iter().rev() {
            let layer = File::open(layer).map_err(at("open", layer))?;
            for path in &draft.implied {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW;
                let (Ok(from), Ok(to)) =
                    (open_in(&layer, path, flags), open_in(&root, path, flags))
                else {
                    continue;
                };
                copy_attributes(&from, &to).map_err(at("set attributes in", &files))?;
            }
        }
        Ok(())
    }

    fn files(&self, chain_id: &Digest) -> PathBuf {
        let mut path = self.root.join("snapshots");
        path.push(chain_id.hex());
        path.push("fs");
        path
    }

    fn rootfs_path(&self, name: &str) -> Result<PathBuf> {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte);
        if name.is_empty()
            || name.len() > 128
            || !name.bytes().all(sound)
            || !name.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Err(Error::Invalid(format!(
                "{name:?} is no name for a root filesystem"
            )));
        }
        Ok(self.root.join("rootfs").join(name))
    }

    fn number(&self) -> String {
        self.next.fetch_add(1, Ordering::Relaxed).to_string()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<Digest, About>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<Digest, About>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How many snapshots lie below one.
fn depth(known: &HashMap<Digest, About>, chain_id: &Digest) -> usize {
    let parent = |chain_id: &Digest| known.get(chain_id)?.parent.clone();
    std::iter::successors(parent(chain_id), parent)
        // A loop is nothing we wrote.
        .take(MAX_LAYERS)
        .count()
}

fn about(parent: &Option<Digest>, draft: &Draft) -> About {
    About {
        parent: parent.clone(),
        diff_id: draft.diff_id.clone(),
        size: draft.size,
    }
}

/// Asks the file system to lay out each directory in here on its own, as ext4
/// does for home directories. Layers come and go as wholes; laid out side by
/// side, a new one would wade through the inodes of those just removed, which
/// ext4 without a journal does not use again for minutes and passes one by one.
/// The place is chosen by name, so names should differ from time to time.
fn spread(path: &Path) {
    let asked = File::open(path).ok().and_then(|directory| {
        let flags = rustix::fs::ioctl_getflags(&directory).ok()?;
        rustix::fs::ioctl_setflags(&directory, flags | IFlags::TOPDIR).ok()
    });
    if asked.is_none() {
        tracing::debug!(path = %path.display(), "file system takes no hint about layout");
    }
}

fn remove_path(path: &Path) -> io::Result<()> {
    remove_with(path, remove_tree)
}

/// Removes what was a root filesystem, or was to become one, and takes back its
/// size.
fn remove_rootfs(path: &Path, sizes: Option<&Sizes>) -> io::Result<()> {
    let project = sizes.and_then(|sizes| sizes.of(path));
    remove_path(path)?;
    if let (Some(sizes), Some(project)) = (sizes, project) {
        sizes.give_back(project);
    }
    Ok(())
}

fn remove_with(path: &Path, remove: fn(File, &[u8]) -> io::Result<()>) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Ok(());
    };
    remove(File::open(parent)?, name.as_bytes())
}

/// Gives a new upper directory the mode and owner of the root below it.
fn copy_root(from: &Path, to: &Path) -> io::Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let from = rustix::fs::open(from, flags, Mode::empty())?;
    let to = rustix::fs::open(to, flags, Mode::empty())?;
    copy_attributes(&from, &to)
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    use std::os::fd::AsFd;
    let stat = rustix::fs::statat(from, "", AtFlags::EMPTY_PATH)?;
    debug_assert_eq!(FileType::from_raw_mode(stat.st_mode), FileType::Directory);
    rustix::fs::fchown(
        to,
        Some(Uid::from_raw(stat.st_uid)),
        Some(Gid::from_raw(stat.st_gid)),
    )?;
    rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    for (name, value) in crate::archive::attributes(from.as_fd())? {
        let name = String::from_utf8_lossy(&name).into_owned();
        rustix::fs::fsetxattr(to, name, &value, XattrFlags::empty())?;
    }
    let time = Timespec {
        tv_sec: stat.st_mtime as i64,
        tv_nsec: stat.st_mtime_nsec as _,
    };
    let times = Timestamps {
        last_access: time,
        last_modification: time,
    };
    Ok(rustix::fs::futimens(to, &times)?)
}

/// Hashes what is read through it.
struct Hashing<R> {
    input: R,
    digester: dhow_oci::Digester,
}

impl<R: Read> Hashing<R> {
    fn new(input: R) -> Hashing<R> {
        Hashing {
            input,
            digester: dhow_oci::Algorithm::Sha256.digester(),
        }
    }

    fn finish(self) -> Digest {
        self.digester.finish()
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n_read = self.input.read(buffer)?;
        self.digester.update(&buffer[..n_read]);
        Ok(n_read)
    }
}
