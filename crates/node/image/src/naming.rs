//! Names: finding what a user means, tagging, removing. Docker's rules.

use std::sync::Arc;

use dhow_oci::{Digest, Reference};

use crate::images::{Images, Users};
use crate::state::State;
use crate::table::{NameRow, Write};
use crate::types::{Image, Listed, PruneScope, Pruned, Removal, Removed};
use crate::{Error, Result};

/// An image and how the user named it.
struct Found {
    image: Arc<Image>,
    /// The name that led there; none if it was an id.
    name: Option<Reference>,
}

impl Images {
    /// The image a user means: by name, by digest, by id or a prefix of it.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`], [`Error::Ambiguous`], [`Error::Reference`].
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        Ok(find(&self.inner.book.read(), text)?.image)
    }

    /// Gives the image with this id a name, taking it from any other. Durable
    /// when it returns.
    ///
    /// # Errors
    /// [`Error::NoSuchImage`]; [`Error::Invalid`] for a name with a digest.
    pub fn tag(&self, id: &Digest, name: &Reference) -> Result<()> {
        if name.digest().is_some() {
            return Err(Error::Invalid(
                "refusing to create a tag with a digest reference".into(),
            ));
        }
        let name = name.clone().or_latest();
        let now = self.now();
        self.inner.book.change(|state| {
            let image = state.images.get(id);
            let image = image.ok_or_else(|| Error::NoSuchImage(id.to_string()))?;
            let row = NameRow {
                image: id.clone(),
                target: image.manifest.clone(),
            };
            let tagged = Image {
                tagged: now,
                ..Image::clone(image)
            };
            Ok((
                vec![Write::Name(name, row), Write::Image(Arc::new(tagged))],
                (),
            ))
        })
    }

    /// Removes a name, and the image with its last one; by id, the image with
    /// all its names. Docker's rules and words. Blocks.
    ///
    /// # Errors
    /// [`Error::Conflict`] if it is needed; those of [`Images::resolve`].
    pub fn remove(&self, text: &str, how: Removal, users: Users<'_>) -> Result<Vec<Removed>> {
        let mut removed = self.inner.book.change(|state| {
            let found = find(state, text)?;
            match found.name {
                Some(name) => remove_name(state, &found.image, &name, how, users),
                None => remove_image(state, &found.image, how, users),
            }
        })?;
        if removed
            .iter()
            .any(|line| matches!(line, Removed::Deleted(_)))
        {
            removed.extend(self.sweep_all()?.removed);
        }
        Ok(removed)
    }

    /// Removes the unused images in `scope` for which `wanted` says yes.
    /// Blocks.
    pub fn prune(
        &self,
        scope: PruneScope,
        wanted: &dyn Fn(&Listed) -> bool,
        users: Users<'_>,
    ) -> Result<Pruned> {
        let mut pruned = Pruned::default();
        for listed in self.list() {
            if scope == PruneScope::Dangling && !listed.names.tags.is_empty() {
                continue;
            }
            if wanted(&listed) {
                pruned.removed.extend(self.remove_unused(&listed, users)?);
            }
        }
        let swept = self.sweep_all()?;
        pruned.removed.extend(swept.removed);
        pruned.reclaimed = swept.reclaimed;
        Ok(pruned)
    }

    /// Removes an image and its names, unless somebody has named it or begun
    /// to use it since it was listed.
    pub(crate) fn remove_unused(&self, listed: &Listed, users: Users<'_>) -> Result<Vec<Removed>> {
        let id = &listed.image.id;
        self.inner.book.change(|state| {
            let names = state.names_of(id);
            if names != listed.names || !state.images.contains_key(id) || !users(id).is_empty() {
                return Ok((Vec::new(), Vec::new()));
            }
            Ok(deletion(state, id))
        })
    }
}

fn find(state: &State, text: &str) -> Result<Found> {
    let by_id = |id: &Digest| {
        state.images.get(id).map(|image| Found {
            image: Arc::clone(image),
            name: None,
        })
    };
    let whole = match text.strip_prefix("sha256:") {
        Some(hex) => Digest::from_sha256_hex(hex),
        None => Digest::from_sha256_hex(text),
    };
    if let Ok(digest) = &whole {
        if let Some(found) = by_id(digest) {
            return Ok(found);
        }
        // The digest of a manifest, as a registry names the image.
        let image = state
            .images
            .values()
            .find(|image| image.manifest.digest == *digest);
        return match image {
            Some(image) => Ok(Found {
                image: Arc::clone(image),
                name: None,
            }),
            None => Err(Error::NoSuchImage(text.to_owned())),
        };
    }
    let reference = Reference::parse(text);
    if let Ok(reference) = &reference {
        let mut name = reference.clone().or_latest();
        if let (Some(_), Some(digest)) = (name.tag(), name.digest()) {
            name = name.with_digest(digest.clone());
        }
        if let Some(row) = state.names.get(&name)
            && let Some(found) = by_id(&row.image)
        {
            return Ok(Found {
                name: Some(name),
                ..found
            });
        }
    }
    let prefix = text.strip_prefix("sha256:").unwrap_or(text);
    if !prefix.is_empty()
        && prefix
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    {
        let mut fitting: Vec<&Arc<Image>> = state
            .images
            .values()
            .filter(|image| image.id.hex().starts_with(prefix))
            .collect();
        match fitting[..] {
            [] => {}
            [image] => {
                return Ok(Found {
                    image: Arc::clone(image),
                    name: None,
                });
            }
            _ => {
                fitting.sort_by(|a, b| a.id.cmp(&b.id));
                return Err(Error::Ambiguous {
                    prefix: text.to_owned(),
                    candidates: fitting
                        .iter()
                        .take(5)
                        .map(|image| image.id.short().to_owned())
                        .collect(),
                });
            }
        }
    }
    Err(Error::NoSuchImage(reference?.or_latest().familiar()))
}

type Decision = (Vec<Write>, Vec<Removed>);

fn remove_name(
    state: &State,
    image: &Image,
    name: &Reference,
    how: Removal,
    users: Users<'_>,
) -> Result<Decision> {
    let names = state.names_of(&image.id);
    let users = users(&image.id);
    let all = || names.tags.iter().chain(&names.digests);
    if is_single(&names.tags, &names.digests)
        && how == Removal::Careful
        && let Some(user) = users.first()
    {
        return Err(Error::Conflict(format!(
            "unable to remove repository reference {:?} (must force) - container {} is using its \
             referenced image {}",
            name.familiar(),
            short(&user.container),
            image.id.short()
        )));
    }
    let mut gone = vec![name.clone()];
    // With the last tag of a repository go its digests.
    let same = |other: &&Reference| other.name() == name.name() && *other != name;
    if name.tag().is_some() && !names.tags.iter().any(|tag| same(&tag)) {
        gone.extend(names.digests.iter().filter(same).cloned());
    }
    let is_last = all().all(|name| gone.contains(name));
    // Its last name goes, but the image stays for whoever uses it.
    if !is_last || !users.is_empty() {
        let writes = gone.iter().cloned().map(Write::Unname).collect();
        return Ok((writes, gone.into_iter().map(Removed::Untagged).collect()));
    }
    Ok(deletion(state, &image.id))
}

fn remove_image(state: &State, image: &Image, how: Removal, users: Users<'_>) -> Result<Decision> {
    let names = state.names_of(&image.id);
    let conflict = |force: &str, why: String| {
        Err(Error::Conflict(format!(
            "unable to delete {} ({force}) - {why}",
            image.id.short()
        )))
    };
    let users = users(&image.id);
    if let Some(user) = users.iter().find(|user| user.running) {
        let container = short(&user.container);
        let why = format!("image is being used by running container {container}");
        return conflict("cannot be forced", why);
    }
    if how == Removal::Careful {
        if !is_single(&names.tags, &names.digests) {
            let why = "image is referenced in multiple repositories".to_owned();
            return conflict("must be forced", why);
        }
        if let Some(user) = users.first() {
            let container = short(&user.container);
            let why = format!("image is being used by stopped container {container}");
            return conflict("must be forced", why);
        }
    }
    Ok(deletion(state, &image.id))
}

/// Everything that goes when an image goes.
fn deletion(state: &State, id: &Digest) -> Decision {
    let names = state.names_of(id);
    let mut writes = Vec::new();
    let mut removed = Vec::new();
    for name in names.tags.into_iter().chain(names.digests) {
        writes.push(Write::Unname(name.clone()));
        removed.push(Removed::Untagged(name));
    }
    writes.push(Write::Forget(id.clone()));
    removed.push(Removed::Deleted(id.clone()));
    (writes, removed)
}

/// Whether the names amount to one: at most one tag, and digests of the same
/// repository.
fn is_single(tags: &[Reference], digests: &[Reference]) -> bool {
    match tags {
        [] => digests.len() <= 1,
        [tag] => digests.iter().all(|digest| digest.name() == tag.name()),
        _ => false,
    }
}

fn short(container: &str) -> &str {
    container.get(..12).unwrap_or(container)
}
