//! The durable table: names, images and build steps, in one redb database so
//! that what belongs together is written together.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use dhow_oci::{Descriptor, Digest, Reference};
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::types::{Image, Layer, Step};
use crate::{Error, Result};

const NAMES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("names");
const IMAGES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("images");
const STEPS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("steps");
const USED: TableDefinition<'_, &str, i64> = TableDefinition::new("used");
const PLACES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("places");

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NameRow {
    /// The image id.
    pub(crate) image: Digest,
    /// What the name means in its registry: an index or a manifest.
    pub(crate) target: Descriptor,
}

/// An image; the rest of it is in its configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ImageRow {
    pub(crate) manifest: Descriptor,
    pub(crate) layers: Vec<Layer>,
    pub(crate) tagged: i64,
}

/// One change of the table.
#[derive(Debug)]
pub(crate) enum Write {
    Name(Reference, NameRow),
    Unname(Reference),
    Image(Arc<Image>),
    Forget(Digest),
    Used(Digest, i64),
    /// The repositories that have all of an image.
    Places(Digest, Vec<String>),
    Step(Digest, Step),
    ForgetStep(Digest),
}

/// Everything in the table.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) names: BTreeMap<Reference, NameRow>,
    pub(crate) images: HashMap<Digest, ImageRow>,
    pub(crate) steps: HashMap<Digest, Step>,
    pub(crate) used: HashMap<Digest, i64>,
    pub(crate) places: HashMap<Digest, Vec<String>>,
}

/// The database, open but after an error: redb refuses everything then, until it is
/// opened again, and a full disk may have room by that time.
#[derive(Debug)]
pub(crate) struct Table {
    path: PathBuf,
    database: Mutex<Option<Database>>,
}

impl Table {
    pub(crate) fn open(path: &Path) -> Result<Table> {
        let table = Table {
            path: path.to_owned(),
            database: Mutex::default(),
        };
        // Make the tables, so that reading needs no case for their absence.
        table.write(&[])?;
        Ok(table)
    }

    /// Does something with the open database.
    fn with<T>(&self, work: impl FnOnce(&Database) -> Result<T>) -> Result<T> {
        let mut kept = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let database = match kept.take() {
            Some(database) => database,
            None => open_database(&self.path).map_err(failed)?,
        };
        let done = work(&database)?;
        *kept = Some(database);
        Ok(done)
    }

    pub(crate) fn read(&self) -> Result<Rows> {
        self.with(read)
    }

    /// Makes all changes or none; durable when it returns.
    pub(crate) fn write(&self, writes: &[Write]) -> Result<()> {
        self.with(|database| write(database, writes))
    }
}

/// Opens the database, or makes one: under another name until all of it is on disk, for
/// redb refuses a file whose making a crash cut off.
fn open_database(path: &Path) -> std::result::Result<Database, redb::Error> {
    if !path.try_exists()? {
        let new = path.with_extension("redb.new");
        if new.try_exists()? {
            fs::remove_file(&new)?;
        }
        Database::create(&new)?.close()?;
        fs::rename(&new, path)?;
        if let Some(folder) = path.parent() {
            fs::File::open(folder)?.sync_all()?;
        }
    }
    Ok(Database::open(path)?)
}

fn read(database: &Database) -> Result<Rows> {
    let reading = database.begin_read().map_err(failed)?;
    let mut rows = Rows::default();
    let names = reading.open_table(NAMES).map_err(failed)?;
    for row in names.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        rows.names.insert(
            Reference::parse(key.value())?,
            decode("name", value.value())?,
        );
    }
    let images = reading.open_table(IMAGES).map_err(failed)?;
    for row in images.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        rows.images
            .insert(digest(key.value())?, decode("image", value.value())?);
    }
    let steps = reading.open_table(STEPS).map_err(failed)?;
    for row in steps.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        rows.steps
            .insert(digest(key.value())?, decode("step", value.value())?);
    }
    let used = reading.open_table(USED).map_err(failed)?;
    for row in used.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        rows.used.insert(digest(key.value())?, value.value());
    }
    let places = reading.open_table(PLACES).map_err(failed)?;
    for row in places.iter().map_err(failed)? {
        let (key, value) = row.map_err(failed)?;
        rows.places
            .insert(digest(key.value())?, decode("place", value.value())?);
    }
    Ok(rows)
}

fn write(database: &Database, writes: &[Write]) -> Result<()> {
    let mut writing = database.begin_write().map_err(failed)?;
    // Opening after a crash must not read the whole file.
    writing.set_quick_repair(true);
    {
        let mut names = writing.open_table(NAMES).map_err(failed)?;
        let mut images = writing.open_table(IMAGES).map_err(failed)?;
        let mut steps = writing.open_table(STEPS).map_err(failed)?;
        let mut uses = writing.open_table(USED).map_err(failed)?;
        let mut places = writing.open_table(PLACES).map_err(failed)?;
        for write in writes {
            let done = match write {
                Write::Name(name, row) => names
                    .insert(name.to_string().as_str(), &encode(row)[..])
                    .map(drop),
                Write::Unname(name) => names.remove(name.to_string().as_str()).map(drop),
                Write::Image(image) => {
                    let row = ImageRow {
                        manifest: image.manifest.clone(),
                        layers: image.layers.clone(),
                        tagged: image.tagged,
                    };
                    images
                        .insert(image.id.as_str(), &encode(&row)[..])
                        .map(drop)
                }
                Write::Forget(id) => images
                    .remove(id.as_str())
                    .and_then(|_| uses.remove(id.as_str()))
                    .and_then(|_| places.remove(id.as_str()))
                    .map(drop),
                Write::Used(id, used) => uses.insert(id.as_str(), used).map(drop),
                Write::Places(id, all) => places.insert(id.as_str(), &encode(all)[..]).map(drop),
                Write::Step(key, row) => steps.insert(key.as_str(), &encode(row)[..]).map(drop),
                Write::ForgetStep(key) => steps.remove(key.as_str()).map(drop),
            };
            done.map_err(failed)?;
        }
    }
    writing.commit().map_err(failed)
}

fn encode(row: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(row).expect("rows are plain data")
}

fn decode<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|source| Error::Json {
        what: format!("a {what} in the image table"),
        source,
    })
}

fn digest(text: &str) -> Result<Digest> {
    text.parse()
        .map_err(|_| Error::Invalid(format!("image table: bad digest {text:?}")))
}

fn failed(error: impl Into<redb::Error>) -> Error {
    Error::Table(Box::new(error.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_whose_making_was_cut_off_is_made_anew() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("images.redb");
        let half = folder.path().join("images.redb.new");
        std::fs::write(&half, [0; 4096]).expect("written");
        open_database(&path).expect("it is made");
        assert!(path.exists() && !half.exists());
        open_database(&path).expect("it is there");
    }
}
