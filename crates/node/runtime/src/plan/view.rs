//! Overlays of layers alone, such as the files of an image: made by the maker,
//! detached, as the root is.

use std::ffi::{CStr, CString};
use std::os::fd::AsFd;
use std::path::Path;

use dhow_sys::child::{MountSource, MountStep, ProcAllowed, Step};
use dhow_sys::mount::{self, Parameter};
use dhow_sys::resolve::{Kind, Links};
use rustix::fs::FileType;

use super::labels;
use super::mounts::{Context, identities, is_in_dev};
use super::options::Options;
use super::text;
use crate::error::{Result, RuntimeError};
use crate::spec::Mount;

const LAYERS: &CStr = c"lowerdir";
/// As mount(8) has it.
const PART: &CStr = c"X-mount.subdir";

/// Whether an overlay is layers alone, or a part of them: the maker makes those, as
/// it makes the root, since the child may not in a user namespace.
pub(super) fn is_view(options: &Options) -> bool {
    let known = |parameter: &Parameter| matches!(parameter, Parameter::Text(name, _) if [LAYERS, PART].contains(&name.as_c_str()));
    parameter(options, LAYERS).is_some() && options.parameters.iter().all(known)
}

fn parameter<'a>(options: &'a Options, wanted: &CStr) -> Option<&'a CStr> {
    options
        .parameters
        .iter()
        .find_map(|parameter| match parameter {
            Parameter::Text(name, value) if name.as_c_str() == wanted => Some(value.as_c_str()),
            _ => None,
        })
}

/// Layers that cannot be written, merged.
pub(super) fn compile(
    context: &Context<'_>,
    field: &str,
    spec: &Mount,
    options: Options,
) -> Result<Step> {
    let layers = parameter(&options, LAYERS).map(paths).unwrap_or_default();
    let layers: Vec<&CStr> = layers.iter().map(CString::as_c_str).collect();
    let is_mapped = options.mapped.is_some() || !spec.uid_mappings.is_empty();
    let user = is_mapped
        .then(|| identities(context, field, spec))
        .transpose()?;
    let user = user.as_ref().map(AsFd::as_fd);
    let part = parameter(&options, PART);
    let failed = |error| {
        let shown = part.map_or_else(|| "layers".into(), CStr::to_string_lossy);
        RuntimeError::io("mount of an image", Path::new(shown.as_ref()), error)
    };
    let label = labels::of_mounts(context.linux)?;
    let tree = mount::view(&layers, user, part, label.as_deref()).map_err(failed)?;
    let stat = rustix::fs::fstat(&tree).map_err(failed)?;
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => Kind::Directory,
        _ => Kind::File,
    };
    let mut attributes = options.attributes;
    attributes.set |= libc::MOUNT_ATTR_RDONLY;
    Ok(Step::Mount(MountStep {
        path: text(field, &spec.destination)?,
        kind,
        links: if is_in_dev(spec) {
            Links::Refuse
        } else {
            Links::Follow
        },
        proc: ProcAllowed::No,
        source: MountSource::Detached(tree),
        attributes,
        tree_attributes: options.tree,
        propagation: Vec::new(),
    }))
}

/// Paths with a colon between them; a backslash takes a meaning away.
fn paths(text: &CStr) -> Vec<CString> {
    let mut paths = vec![Vec::new()];
    let mut bytes = text.to_bytes().iter();
    while let Some(byte) = bytes.next() {
        match byte {
            b':' => paths.push(Vec::new()),
            b'\\' => paths.last_mut().expect("never empty").extend(bytes.next()),
            byte => paths.last_mut().expect("never empty").push(*byte),
        }
    }
    let path = |bytes| CString::new(bytes).expect("the text held no zero");
    paths.into_iter().map(path).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_are_told_apart() {
        let shown = |text: &CStr| paths(text);
        assert_eq!(shown(c"/a:/b"), [c"/a".to_owned(), c"/b".to_owned()]);
        assert_eq!(
            shown(c"/a\\:b:/c\\\\"),
            [c"/a:b".to_owned(), c"/c\\".to_owned()]
        );
    }
}
