//! Taking in archives of images: Docker's form and the OCI layout.
//!
//! The archive is read once, as it comes: blobs go to the content store, the
//! few documents that say what they mean are kept until the end.

use std::collections::HashMap;
use std::io::Read;

use dhow_content::Lease;
use dhow_oci::{
    Algorithm, Compression, Descriptor, Digest, Document, MAX_DOCUMENT, Manifest, Reference,
    chain_ids, media_type,
};
use serde::Deserialize;

use crate::archive::{Decompressor, clean};
use crate::error::{at, unreadable};
use crate::images::{Images, top};
use crate::layers::copy_bounded;
use crate::snapshots::MAX_LAYERS;
use crate::state::parse_config;
use crate::tar::{Archive, Kind};
use crate::types::{Layer, Loaded};
use crate::{Error, ProgressSender, Result};

/// The annotation under which tools keep a full name in an OCI layout.
pub(crate) const IMAGE_NAME: &str = "io.containerd.image.name";
/// The OCI layout's own annotation: a tag, or a full name.
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// How deep indexes may be nested.
const MAX_DEPTH: usize = 4;

/// Files an archive of images may hold: each becomes a blob.
const MAX_FILES: usize = 65_536;

/// One image in Docker's `manifest.json`.
#[derive(Deserialize, serde::Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct DockerImage {
    pub(crate) config: String,
    #[serde(default)]
    pub(crate) repo_tags: Option<Vec<String>>,
    pub(crate) layers: Vec<String>,
}

/// An archive after it has been read.
struct Contents {
    /// Files, by clean path.
    files: HashMap<String, Digest>,
    /// Symbolic links, as old archives share layers.
    links: HashMap<String, String>,
    docker: Option<Vec<u8>>,
    index: Option<Vec<u8>>,
}

/// An image found in an archive.
struct Found {
    manifest: Option<(Descriptor, Manifest)>,
    config: Digest,
    /// Blobs of the layers, bottom first.
    layers: Vec<Digest>,
    names: Vec<Reference>,
}

impl Images {
    /// Takes in an archive of images, Docker's or OCI's, compressed or not.
    /// Blocks.
    ///
    /// # Errors
    /// [`Error::Archive`] if it is no such archive, hostile or beyond a limit.
    pub fn load(
        &self,
        input: &mut (dyn Read + Send),
        progress: &ProgressSender,
    ) -> Result<Vec<Loaded>> {
        let loaded = self.leased(|lease| self.load_all(input, progress, lease));
        loaded.map_err(Error::of_archive)
    }

    fn load_all(
        &self,
        input: &mut (dyn Read + Send),
        progress: &ProgressSender,
        lease: &Lease,
    ) -> Result<Vec<Loaded>> {
        let contents = self.take_in(input, lease)?;
        let mut found = Vec::new();
        // Docker's list has the names; the layout's index has the manifests.
        let indexed = match &contents.index {
            Some(index) => self.find_indexed(&contents, index)?,
            None => Vec::new(),
        };
        match &contents.docker {
            Some(docker) => {
                let images: Vec<DockerImage> =
                    serde_json::from_slice(docker).map_err(|source| Error::Json {
                        what: "manifest.json".into(),
                        source,
                    })?;
                for image in images {
                    found.push(find_listed(&contents, image, &indexed)?);
                }
            }
            None => found = indexed,
        }
        if found.is_empty() {
            return Err(Error::archive(
                "archive holds no image: neither manifest.json nor index.json names one",
            ));
        }
        found
            .into_iter()
            .map(|found| self.take_up(lease, found, progress))
            .collect()
    }

    fn take_in(&self, input: &mut (dyn Read + Send), lease: &Lease) -> Result<Contents> {
        let content = &self.inner.content;
        let limits = &self.inner.options.limits;
        let mut contents = Contents {
            files: HashMap::new(),
            links: HashMap::new(),
            docker: None,
            index: None,
        };
        let plain = Decompressor::new(input).map_err(unreadable)?;
        let mut archive = Archive::new(plain, self.read_limits());
        while let Some(entry) = archive.next_entry().map_err(unreadable)? {
            let path = clean(&entry.path).map_err(unreadable)?;
            let path = String::from_utf8_lossy(&path).into_owned();
            match entry.kind {
                Kind::File => {}
                Kind::Symlink => {
                    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
                    let link = [folder.as_bytes(), b"/", &entry.link].concat();
                    let link = clean(&link).map_err(unreadable)?;
                    contents
                        .links
                        .insert(path, String::from_utf8_lossy(&link).into_owned());
                    continue;
                }
                _ => continue,
            }
            if contents.files.len() + contents.links.len() > MAX_FILES {
                return Err(Error::archive(format!(
                    "archive holds more than {MAX_FILES} files: it is no archive of images"
                )));
            }
            let document = match path.as_str() {
                "manifest.json" => &mut contents.docker,
                "index.json" => &mut contents.index,
                _ => {
                    let mut ingest = content.ingest_anew(Algorithm::Sha256)?;
                    copy_bounded(&mut archive, &mut ingest, limits.unpacked_bytes)?;
                    let named = path.strip_prefix("blobs/sha256/");
                    let named = named.and_then(|hex| Digest::from_sha256_hex(hex).ok());
                    let digest = match named {
                        Some(expected) => ingest.commit(lease, &expected, None)?,
                        None => ingest.commit_any(lease)?,
                    };
                    contents.files.insert(path, digest);
                    continue;
                }
            };
            if entry.size > MAX_DOCUMENT as u64 {
                return Err(Error::archive(format!("{path} has {} bytes", entry.size)));
            }
            let mut bytes = Vec::new();
            archive.read_to_end(&mut bytes).map_err(unreadable)?;
            *document = Some(bytes);
        }
        Ok(contents)
    }

    /// The images that an OCI layout's index leads to.
    fn find_indexed(&self, contents: &Contents, index: &[u8]) -> Result<Vec<Found>> {
        let mut found = Vec::new();
        let document = parse(&Digest::of(index), index, "")?;
        let mut pending = vec![(document, None::<Reference>, 0)];
        while let Some((document, name, depth)) = pending.pop() {
            let Document::Index(index) = document else {
                continue;
            };
            // Below the top, an index means one image for several platforms.
            let choice: Vec<&Descriptor> = match depth {
                0 => index.manifests.iter().collect(),
                MAX_DEPTH => return Err(Error::archive("indexes are nested too deep")),
                _ => {
                    let present: Vec<Descriptor> = index
                        .manifests
                        .iter()
                        .filter(|entry| contents.has(&entry.digest))
                        .cloned()
                        .collect();
                    let chosen = self.inner.options.platform.choose(&present);
                    let chosen = chosen.map(|chosen| chosen.digest.clone());
                    index
                        .manifests
                        .iter()
                        .filter(|entry| Some(&entry.digest) == chosen.as_ref())
                        .collect()
                }
            };
            for entry in choice {
                let bytes = self
                    .inner
                    .content
                    .read(&entry.digest, MAX_DOCUMENT as u64)?;
                let own = [IMAGE_NAME, REF_NAME]
                    .iter()
                    .filter_map(|key| entry.annotations.get(*key))
                    .find(|name| name.contains(['/', ':']))
                    .and_then(|name| Reference::parse(name).ok());
                let name = own.or_else(|| name.clone());
                match parse(&entry.digest, &bytes, &entry.media_type)? {
                    Document::Manifest(manifest) => {
                        let kind = manifest.media_type.clone().unwrap_or_default();
                        let digest = entry.digest.clone();
                        let descriptor = Descriptor::new(kind, digest, bytes.len() as u64);
                        found.push(Found {
                            config: manifest.config.digest.clone(),
                            layers: manifest.layers.iter().map(|l| l.digest.clone()).collect(),
                            manifest: Some((descriptor, manifest)),
                            names: name.into_iter().collect(),
                        });
                    }
                    document => pending.push((document, name, depth + 1)),
                }
            }
        }
        // Several entries may name one image.
        let mut merged: Vec<Found> = Vec::new();
        for image in found {
            match merged.iter_mut().find(|other| other.config == image.config) {
                Some(other) => other.names.extend(image.names),
                None => merged.push(image),
            }
        }
        Ok(merged)
    }

    /// Unpacks and records an image whose blobs are all there.
    fn take_up(&self, lease: &Lease, found: Found, progress: &ProgressSender) -> Result<Loaded> {
        let inner = &self.inner;
        let bytes = inner
            .content
            .read(&found.config, inner.options.limits.config_bytes)?;
        let config = parse_config(&found.config, &bytes)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != found.layers.len() {
            return Err(Error::archive(format!(
                "image {} names {} layers, but the archive lists {}",
                found.config.short(),
                diff_ids.len(),
                found.layers.len()
            )));
        }
        if diff_ids.len() > MAX_LAYERS {
            return Err(Error::archive(format!(
                "image {} has {} layers; the kernel mounts {MAX_LAYERS} at most",
                found.config.short(),
                diff_ids.len()
            )));
        }
        let chain_ids = chain_ids(diff_ids);
        let _pin = inner.snapshots.pins.pin(chain_ids.iter().cloned());
        let mut layers: Vec<Layer> = Vec::new();
        let mut drafts = Vec::new();
        for (n, digest) in found.layers.iter().enumerate() {
            let blob = inner.content.open_blob(digest)?;
            let size = match inner.snapshots.size(&chain_ids[n]) {
                Some(size) => size,
                None => {
                    progress.count(diff_ids[n].short(), "Loading layer", 0, blob.size);
                    let draft = inner.snapshots.unpack(blob.file, self.read_limits())?;
                    progress.count(diff_ids[n].short(), "Loading layer", blob.size, blob.size);
                    if draft.diff_id != diff_ids[n] {
                        return Err(Error::DiffId {
                            layer: digest.clone(),
                            expected: diff_ids[n].clone(),
                            actual: draft.diff_id.clone(),
                        });
                    }
                    let size = draft.size;
                    drafts.push((chain_ids[n].clone(), top(&layers).cloned(), draft));
                    size
                }
            };
            let descriptor = match &found.manifest {
                Some((_, manifest)) => manifest.layers[n].clone(),
                None => {
                    let kind = sniff_blob(&inner.content, digest)?.oci_layer();
                    Descriptor::new(kind, digest.clone(), blob.size)
                }
            };
            layers.push(Layer {
                blob: descriptor,
                diff_id: diff_ids[n].clone(),
                chain_id: chain_ids[n].clone(),
                size,
            });
        }
        inner.snapshots.publish(drafts)?;
        let manifest = match found.manifest {
            Some((descriptor, _)) => descriptor,
            None => {
                let kind = media_type::OCI_CONFIG;
                let config = Descriptor::new(kind, found.config.clone(), bytes.len() as u64);
                let blobs = layers.iter().map(|layer| layer.blob.clone()).collect();
                let manifest =
                    serde_json::to_vec(&Manifest::new(config, blobs)).expect("plain data");
                let digest = inner.content.put(lease, &manifest)?;
                Descriptor::new(media_type::OCI_MANIFEST, digest, manifest.len() as u64)
            }
        };
        let names: Vec<Reference> = found
            .names
            .into_iter()
            .filter(|name| name.digest().is_none())
            .collect();
        let names: Vec<Reference> = names.into_iter().map(Reference::or_latest).collect();
        let rows: Vec<_> = names
            .iter()
            .map(|name| (name.clone(), manifest.clone()))
            .collect();
        let image = self.register(&bytes, manifest, layers, rows)?;
        Ok(Loaded {
            id: image.id.clone(),
            names,
        })
    }
}

impl Contents {
    fn has(&self, digest: &Digest) -> bool {
        self.files.values().any(|file| file == digest)
    }

    /// The blob at a path of the archive.
    fn file(&self, path: &str) -> Result<&Digest> {
        let mut path = path;
        // Links to links are not what anybody writes, but loops are cheap.
        for _ in 0..8 {
            if let Some(digest) = self.files.get(path) {
                return Ok(digest);
            }
            match self.links.get(path) {
                Some(link) => path = link,
                None => break,
            }
        }
        Err(Error::archive(format!(
            "archive lacks {path:?}, which its manifest.json names"
        )))
    }
}

fn find_listed(contents: &Contents, image: DockerImage, indexed: &[Found]) -> Result<Found> {
    let config = contents.file(&image.config)?.clone();
    let layers: Result<Vec<Digest>> = image
        .layers
        .iter()
        .map(|path| contents.file(path).cloned())
        .collect();
    let layers = layers?;
    let names: std::result::Result<Vec<Reference>, _> = image
        .repo_tags
        .iter()
        .flatten()
        .map(|name| Reference::parse(name))
        .collect();
    // Keep the manifest the image was pushed or pulled with, if it is there.
    let known = indexed
        .iter()
        .find(|found| found.config == config && found.layers == layers);
    let manifest = known.and_then(|found| found.manifest.clone());
    Ok(Found {
        manifest,
        config,
        layers,
        names: names?,
    })
}

fn sniff_blob(content: &dhow_content::Store, digest: &Digest) -> Result<Compression> {
    let mut start = Vec::new();
    let path = content.blob_path(digest);
    let blob = content.open_blob(digest)?;
    blob.file
        .take(4)
        .read_to_end(&mut start)
        .map_err(at("read", &path))?;
    Ok(Compression::sniff(&start))
}

fn parse(digest: &Digest, bytes: &[u8], announced: &str) -> Result<Document> {
    Document::parse(bytes, announced).map_err(|source| Error::Manifest {
        digest: digest.clone(),
        source,
    })
}
