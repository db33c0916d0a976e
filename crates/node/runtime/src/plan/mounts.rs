//! The mounts of a configuration, as steps.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dhow_cgroup::Group;
use dhow_sys::child::{Keep, MountSource, MountStep, ProcAllowed, Step};
use dhow_sys::holder::{Holder, Owner};
use dhow_sys::idmap::IdMaps;
use dhow_sys::mount::{self, Attributes, Depth, Parameter, Propagation};
use dhow_sys::namespace::Kind as NamespaceKind;
use dhow_sys::resolve::{Kind, Links};
use rustix::fs::{CWD, FileType};

use super::namespaces::Namespaces;
use super::options::Options;
use super::{labels, text, view};
use crate::error::{Result, RuntimeError};
use crate::spec::{Linux, Mount, Spec, ranges};

/// What mounts depend on besides themselves.
pub(super) struct Context<'a> {
    pub(super) bundle: &'a Path,
    pub(super) namespaces: &'a Namespaces,
    /// The user namespace that is joined.
    pub(super) user: Option<&'a OwnedFd>,
    pub(super) group: Option<&'a Group>,
    pub(super) linux: &'a Linux,
}

/// Places of procfs that may be covered, as runc has them: files whose contents
/// are made up for containers, and nothing that protects anything.
const COVERABLE: [&str; 11] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/meminfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/uptime",
    "/proc/loadavg",
    "/proc/slabinfo",
    "/proc/net/dev",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/crypto/fips_enabled",
];

/// Whether `/dev` is to be read-only; that waits until everything is in it.
pub(super) fn has_read_only_dev(spec: &Spec) -> bool {
    spec.mounts
        .iter()
        .any(|mount| is_dev(mount) && mount.options.iter().any(|option| option == "ro"))
}

fn is_dev(mount: &Mount) -> bool {
    mount.destination == Path::new("/dev") && !is_bind(mount)
}

/// Whether it is for `/dev` or below, where links of the image are never followed.
pub(super) fn is_in_dev(mount: &Mount) -> bool {
    mount.destination.starts_with("/dev")
}

pub(super) fn is_bind(mount: &Mount) -> bool {
    mount.kind.as_deref() == Some("bind")
        || mount
            .options
            .iter()
            .any(|option| option == "bind" || option == "rbind")
}

/// Adds the steps of one mount.
pub(super) fn compile(
    context: &Context<'_>,
    index: usize,
    spec: &Mount,
    warnings: &mut Vec<String>,
    add: &mut impl FnMut(Step),
) -> Result<()> {
    let field = format!("mounts[{index}] ({})", spec.destination.display());
    if !spec.destination.is_absolute() {
        return Err(RuntimeError::spec(field, "the destination is not absolute"));
    }
    let mut options = Options::parse(&field, &spec.options)?;
    if options.remount {
        return remount(&field, spec, options, add);
    }
    if is_bind(spec) {
        if !options.parameters.is_empty() {
            let names: Vec<_> = options.parameters.iter().map(ToString::to_string).collect();
            warnings.push(format!(
                "{field}: a bind mount has no options of a filesystem: ignoring {}",
                names.join(",")
            ));
        }
        return bind(context, &field, spec, options).map(add);
    }
    if spec.kind.as_deref() == Some("overlay") && view::is_view(&options) {
        return view::compile(context, &field, spec, options).map(add);
    }
    if options.mapped.is_some() || !spec.uid_mappings.is_empty() || !spec.gid_mappings.is_empty() {
        return Err(RuntimeError::spec(
            field,
            "identities are mapped for bind mounts and read-only overlays only",
        ));
    }
    let kind = spec.kind.as_deref().unwrap_or_default();
    if kind.is_empty() || kind == "none" {
        return Err(RuntimeError::spec(
            field,
            "has neither a filesystem type nor the option bind",
        ));
    }
    if kind == "cgroup" || kind == "cgroup2" {
        return cgroup(context, &field, spec, &options, add);
    }
    if is_dev(spec) {
        options.attributes.set &= !libc::MOUNT_ATTR_RDONLY;
    }
    let source = spec.source.as_deref().unwrap_or(kind);
    options
        .parameters
        .insert(0, Parameter::Text(c"source".into(), text(&field, source)?));
    // What protects /proc and /sys names them by path: a link in their place
    // would leave the real thing open.
    let fixed = matches!(kind, "proc" | "sysfs") || is_in_dev(spec);
    let has_mode = options.parameters.iter().any(
        |parameter| matches!(parameter, Parameter::Text(name, _) if name.as_c_str() == c"mode"),
    );
    // The kernel labels what is in the first two, and whose messages the last one
    // shows is older than this mount of it.
    let is_labelled = !matches!(kind, "proc" | "sysfs" | "mqueue");
    if is_labelled {
        options.parameters.extend(labels::context(context.linux)?);
    }
    if options.copy_up && kind != "tmpfs" {
        return Err(RuntimeError::spec(field, "tmpcopyup is for tmpfs"));
    }
    let parameters = options.parameters;
    let source = match kind {
        "tmpfs" if options.copy_up => MountSource::Over {
            parameters,
            keep: Keep::Contents,
        },
        // As runc has it: the image knows better than the kernel's 1777.
        "tmpfs" if !has_mode => MountSource::Over {
            parameters,
            keep: Keep::Mode,
        },
        _ => MountSource::New {
            kind: text(&field, kind)?,
            parameters,
        },
    };
    add(Step::Mount(MountStep {
        path: text(&field, &spec.destination)?,
        kind: Kind::Directory,
        links: if fixed { Links::Refuse } else { Links::Follow },
        proc: if kind == "proc" {
            ProcAllowed::Yes
        } else {
            ProcAllowed::No
        },
        source,
        attributes: options.attributes,
        tree_attributes: options.tree,
        propagation: options.propagation,
    }));
    if kind == "mqueue"
        && let Some(label) = labels::of_mounts(context.linux)?
    {
        let path = text(&field, &spec.destination)?;
        add(Step::Label { path, label });
    }
    Ok(())
}

/// Changes the attributes of what is mounted already.
fn remount(field: &str, spec: &Mount, options: Options, add: &mut impl FnMut(Step)) -> Result<()> {
    if let Some(parameter) = options.parameters.first() {
        return Err(RuntimeError::spec(
            field,
            format!("remount changes attributes of the mount only, not {parameter}"),
        ));
    }
    for (attributes, depth) in [
        (options.attributes, Depth::One),
        (options.tree, Depth::Tree),
    ] {
        if !attributes.is_empty() {
            add(Step::Change {
                path: text(field, &spec.destination)?,
                attributes,
                depth,
            });
        }
    }
    Ok(())
}

fn bind(context: &Context<'_>, field: &str, spec: &Mount, options: Options) -> Result<Step> {
    let source = spec.source.as_deref().filter(|source| !source.is_empty());
    let source = source.ok_or_else(|| RuntimeError::spec(field, "a bind mount needs a source"))?;
    let source = context.bundle.join(source);
    let failed = |error| RuntimeError::io("bind mount", &source, error);
    let depth = options.bind.unwrap_or(Depth::Tree);
    let tree = mount::copy(CWD, &text(field, &source)?, depth).map_err(failed)?;
    let stat = rustix::fs::fstat(&tree).map_err(failed)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    let asked = &options.propagation;
    let is_top = |(kind, depth): &(_, _)| *kind != Propagation::Shared && *depth == Depth::One;
    let before = if asked.is_empty() {
        Some((Propagation::Private, Depth::Tree))
    } else {
        // What is asked for the top alone leaves nothing below it that gives to the
        // host: it takes, as with runc.
        let below = (Propagation::Slave, Depth::Tree);
        asked.iter().all(is_top).then_some(below)
    };
    for (propagation, depth) in before.iter().chain(asked) {
        mount::change(
            tree.as_fd(),
            c"",
            *depth,
            Attributes::default(),
            Some(*propagation),
        )
        .map_err(failed)?;
    }
    let mapped = options
        .mapped
        .or((!spec.uid_mappings.is_empty()).then_some(Depth::One));
    if let Some(depth) = mapped {
        let namespace = identities(context, field, spec)?;
        // `EINVAL` is what a filesystem says that cannot.
        mount::map_identities(tree.as_fd(), namespace.as_fd(), depth)
            .map_err(|error| RuntimeError::io("map the identities of", &source, error))?;
    }
    let coverable = COVERABLE
        .iter()
        .any(|path| spec.destination == Path::new(path));
    Ok(Step::Mount(MountStep {
        path: text(field, &spec.destination)?,
        kind,
        links: if is_in_dev(spec) {
            Links::Refuse
        } else {
            Links::Follow
        },
        proc: if coverable {
            ProcAllowed::Yes
        } else {
            ProcAllowed::No
        },
        source: MountSource::Detached(tree),
        attributes: options.attributes,
        tree_attributes: options.tree,
        propagation: Vec::new(),
    }))
}

/// The user namespace that a mount's identities are mapped through.
pub(super) fn identities(context: &Context<'_>, field: &str, spec: &Mount) -> Result<OwnedFd> {
    let mut maps = context.linux.id_maps();
    if !spec.uid_mappings.is_empty() {
        maps.users = ranges(&spec.uid_mappings);
    }
    if !spec.gid_mappings.is_empty() {
        maps.groups = ranges(&spec.gid_mappings);
    }
    match context.user {
        Some(joined) if maps == IdMaps::default() => joined.try_clone().map_err(|error| {
            let error = dhow_sys::Errno::from_io_error(&error).unwrap_or(dhow_sys::Errno::MFILE);
            RuntimeError::sys("duplicate the user namespace")(error)
        }),
        _ => user_namespace(field, &maps),
    }
}

/// A user namespace with these maps, held by nothing but the descriptor.
pub(super) fn user_namespace(field: &str, maps: &IdMaps) -> Result<OwnedFd> {
    if maps.users.is_empty() || maps.groups.is_empty() {
        return Err(RuntimeError::spec(
            field,
            "an identity-mapped mount needs both mappings",
        ));
    }
    Holder::start(Owner::New(maps), &[])
        .and_then(|holder| holder.open(NamespaceKind::User))
        .map_err(RuntimeError::sys("make a user namespace for a mount"))
}

/// The control groups as the container sees them.
fn cgroup(
    context: &Context<'_>,
    field: &str,
    spec: &Mount,
    options: &Options,
    add: &mut impl FnMut(Step),
) -> Result<()> {
    let Some(group) = context.group else {
        return Err(RuntimeError::spec(
            field,
            "this machine has no control groups",
        ));
    };
    let own_view = context.namespaces.is_new(NamespaceKind::Cgroup);
    let destination = text(field, &spec.destination)?;
    let step = |path: CString, source, attributes| {
        Step::Mount(MountStep {
            path,
            kind: Kind::Directory,
            links: Links::Refuse,
            proc: ProcAllowed::No,
            source,
            attributes,
            tree_attributes: Attributes::default(),
            propagation: options.propagation.clone(),
        })
    };
    let copy = |directory: &Path| {
        let failed = |error| RuntimeError::io("bind mount", directory, error);
        let tree = mount::copy(CWD, &text(field, directory)?, Depth::One).map_err(failed)?;
        mount::change(
            tree.as_fd(),
            c"",
            Depth::One,
            Attributes::default(),
            Some(Propagation::Private),
        )
        .map_err(failed)?;
        Ok::<_, RuntimeError>(MountSource::Detached(tree))
    };
    if group.layout().is_pure_v2() {
        let source = match group.v2() {
            Some(directory) if !own_view => copy(&directory)?,
            _ => MountSource::New {
                kind: c"cgroup2".into(),
                parameters: Vec::new(),
            },
        };
        add(step(destination, source, options.attributes));
        return Ok(());
    }

    let mut parameters = vec![
        Parameter::Text(c"source".into(), c"tmpfs".into()),
        Parameter::Text(c"mode".into(), c"755".into()),
    ];
    parameters.extend(labels::context(context.linux)?);
    let mut writable = options.attributes;
    writable.set &= !libc::MOUNT_ATTR_RDONLY;
    add(step(
        destination.clone(),
        MountSource::New {
            kind: c"tmpfs".into(),
            parameters,
        },
        writable,
    ));
    for hierarchy in &group.layout().v1 {
        let name = hierarchy.usual_name();
        // A new mount would show the same, at the price of a look at every group
        // of the machine.
        let source = copy(&hierarchy.mount.join(group.path()))?;
        let place = spec.destination.join(&name);
        add(step(text(field, &place)?, source, options.attributes));
        if hierarchy.controllers.len() > 1 {
            for controller in &hierarchy.controllers {
                add(Step::Symlink {
                    path: text(field, spec.destination.join(controller))?,
                    target: text(field, &name)?,
                });
            }
        }
    }
    if options.attributes.set & libc::MOUNT_ATTR_RDONLY != 0 {
        add(Step::Change {
            path: destination,
            attributes: Attributes::READ_ONLY,
            depth: Depth::One,
        });
    }
    Ok(())
}
