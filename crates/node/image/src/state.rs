//! What the store knows, in memory and in the table: one lock for writers, so
//! that a decision and its record belong together; readers never wait for the
//! disk.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard};

use dhow_oci::{Digest, ImageConfig, Reference};

use crate::table::{ImageRow, NameRow, Table, Write};
use crate::types::{Image, Layer, Limits, Names, Step};
use crate::{Error, Result};

/// Everything in memory.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) images: HashMap<Digest, Arc<Image>>,
    pub(crate) names: BTreeMap<Reference, NameRow>,
    pub(crate) steps: HashMap<Digest, Step>,
    /// Seconds since the epoch at which images were used.
    pub(crate) used: HashMap<Digest, i64>,
    /// Repositories (`registry/repository`) that have all of an image, the one
    /// heard of last first. Known beyond the names: a layer need not be sent
    /// to a registry that has it.
    pub(crate) places: HashMap<Digest, Vec<String>>,
}

/// How many places of an image are remembered.
const MAX_PLACES: usize = 8;

/// The state and its durable twin.
#[derive(Debug)]
pub(crate) struct Book {
    table: Table,
    state: RwLock<State>,
    writing: Mutex<()>,
}

impl Book {
    /// Reads the table; images whose configuration is lost are left out, with
    /// a warning.
    pub(crate) fn open(
        table: Table,
        content: &dhow_content::Store,
        limits: &Limits,
    ) -> Result<Book> {
        let rows = table.read()?;
        let mut state = State {
            names: rows.names,
            steps: rows.steps,
            used: rows.used,
            places: rows.places,
            ..State::default()
        };
        for (id, row) in rows.images {
            let bytes = content.read(&id, limits.config_bytes).map_err(Error::from);
            match bytes.and_then(|bytes| image(&id, &bytes, row)) {
                Ok(image) => {
                    state.images.insert(id, Arc::new(image));
                }
                Err(error) => tracing::warn!(image = %id, %error, "image is unreadable"),
            }
        }
        state
            .names
            .retain(|_, row| state.images.contains_key(&row.image));
        Ok(Book {
            table,
            state: RwLock::new(state),
            writing: Mutex::new(()),
        })
    }

    /// The state as it is now.
    pub(crate) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Decides on changes while nobody else can change anything, then makes
    /// them durable, then visible.
    pub(crate) fn change<T>(
        &self,
        decide: impl FnOnce(&State) -> Result<(Vec<Write>, T)>,
    ) -> Result<T> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (writes, outcome) = decide(&self.read())?;
        if writes.is_empty() {
            return Ok(outcome);
        }
        self.table.write(&writes)?;
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        for write in writes {
            match write {
                Write::Name(name, row) => drop(state.names.insert(name, row)),
                Write::Unname(name) => drop(state.names.remove(&name)),
                Write::Image(image) => drop(state.images.insert(image.id.clone(), image)),
                Write::Forget(id) => {
                    state.images.remove(&id);
                    state.used.remove(&id);
                    state.places.remove(&id);
                }
                Write::Used(id, used) => drop(state.used.insert(id, used)),
                Write::Places(id, places) => drop(state.places.insert(id, places)),
                Write::Step(key, step) => drop(state.steps.insert(key, step)),
                Write::ForgetStep(key) => drop(state.steps.remove(&key)),
            }
        }
        Ok(outcome)
    }
}

impl State {
    /// All names of an image.
    pub(crate) fn names_of(&self, id: &Digest) -> Names {
        let mut names = Names::default();
        for (name, row) in &self.names {
            if row.image == *id {
                match name.digest() {
                    Some(_) => names.digests.push(name.clone()),
                    None => names.tags.push(name.clone()),
                }
            }
        }
        names
    }

    /// What is to be written when a repository is known to have an image;
    /// nothing if that is known.
    pub(crate) fn placed(&self, id: &Digest, repository: &Reference) -> Option<Write> {
        let place = repository.name();
        let known = self.places.get(id).map_or(&[][..], Vec::as_slice);
        if known.first() == Some(&place) {
            return None;
        }
        let others = known.iter().filter(|other| **other != place).cloned();
        let places = std::iter::once(place.clone()).chain(others);
        Some(Write::Places(id.clone(), places.take(MAX_PLACES).collect()))
    }

    /// Whether a blob is known to unpack to a layer.
    pub(crate) fn is_pair(&self, blob: &Digest, diff_id: &Digest) -> bool {
        let is_it = |layer: &Layer| layer.blob.digest == *blob && layer.diff_id == *diff_id;
        let mut images = self.images.values();
        images.any(|image| image.layers.iter().any(is_it))
    }

    /// Repositories that have a blob, by images whose layer it is.
    pub(crate) fn places_of<'a>(&'a self, blob: &'a Digest) -> impl Iterator<Item = &'a str> {
        let has = |image: &Image| image.layers.iter().any(|layer| layer.blob.digest == *blob);
        self.places
            .iter()
            .filter(move |(id, _)| self.images.get(*id).is_some_and(|image| has(image)))
            .flat_map(|(_, places)| places)
            .map(String::as_str)
    }
}

/// An image from its row and its configuration.
pub(crate) fn image(id: &Digest, config: &[u8], row: ImageRow) -> Result<Image> {
    let config = parse_config(id, config)?;
    Ok(Image {
        id: id.clone(),
        created: config.created.as_deref().map_or(0, seconds),
        config,
        manifest: row.manifest,
        layers: row.layers,
        tagged: row.tagged,
    })
}

/// Reads an image configuration.
pub(crate) fn parse_config(id: &Digest, bytes: &[u8]) -> Result<ImageConfig> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        what: format!("image configuration {id}"),
        source,
    })
}

/// Seconds since the epoch of an RFC 3339 time; zero if it is none.
pub(crate) fn seconds(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>()
        .map_or(0, jiff::Timestamp::as_second)
}
