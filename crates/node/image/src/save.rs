//! Writing archives of images: an OCI layout that Docker's loader reads, too.

use std::collections::{BTreeMap, HashSet};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;

use dhow_oci::{Descriptor, Digest, Index, Reference, media_type};

use crate::Result;
use crate::error::at;
use crate::images::Images;
use crate::load::{DockerImage, IMAGE_NAME, REF_NAME};
use crate::tar::{Entry, Kind, Writer};
use crate::types::Image;

/// The images to be saved and the names they keep, by id.
type Chosen = BTreeMap<Digest, (Arc<Image>, Vec<Reference>)>;

impl Images {
    /// Writes images as an archive that both `docker load` and readers of the
    /// OCI layout understand. A repository without a tag means all its tags.
    /// Blocks.
    ///
    /// # Errors
    /// Those of [`Images::resolve`], before anything is written.
    pub fn save(&self, names: &[String], output: &mut dyn Write) -> Result<()> {
        let chosen = self.chosen(names)?;
        let lease = self.inner.content.lease();
        for (image, _) in chosen.values() {
            for blob in blobs(image) {
                lease.hold(&blob);
            }
        }
        let written = at("write", Path::new("archive"));
        self.write_archive(&chosen, Writer::new(output))
            .map_err(written)
    }

    fn chosen(&self, names: &[String]) -> Result<Chosen> {
        let mut chosen = Chosen::new();
        let mut choose = |image: Arc<Image>, name: Option<Reference>| {
            let (_, names) = chosen
                .entry(image.id.clone())
                .or_insert((image, Vec::new()));
            if let Some(name) = name
                && !names.contains(&name)
            {
                names.push(name);
            }
        };
        for text in names {
            let reference = Reference::parse(text).ok();
            let mut is_repository = false;
            if let Some(reference) = &reference
                && reference.tag().is_none()
                && reference.digest().is_none()
            {
                for listed in self.list() {
                    for tag in &listed.names.tags {
                        if tag.name() == reference.name() {
                            is_repository = true;
                            choose(Arc::clone(&listed.image), Some(tag.clone()));
                        }
                    }
                }
            }
            if is_repository {
                continue;
            }
            let image = self.resolve(text)?;
            let name = reference.filter(|name| self.names(&image.id).tags.contains(name));
            choose(image, name);
        }
        Ok(chosen)
    }

    fn write_archive(&self, chosen: &Chosen, mut writer: Writer<&mut dyn Write>) -> io::Result<()> {
        let mut written = HashSet::new();
        for folder in ["blobs", "blobs/sha256"] {
            writer.append(&Entry::new(Kind::Directory, folder), &mut io::empty())?;
        }
        let mut docker = Vec::new();
        let mut manifests = Vec::new();
        for (image, names) in chosen.values() {
            for digest in blobs(image) {
                if written.insert(digest.clone()) {
                    let blob = self
                        .inner
                        .content
                        .open_blob(&digest)
                        .map_err(io::Error::other)?;
                    let mut entry = Entry::new(Kind::File, blob_path(&digest));
                    entry.size = blob.size;
                    let mut data = blob.file;
                    writer.append(&entry, &mut data)?;
                }
            }
            docker.push(DockerImage {
                config: blob_path(&image.id),
                repo_tags: Some(names.iter().map(Reference::familiar).collect()),
                layers: image
                    .layers
                    .iter()
                    .map(|layer| blob_path(&layer.blob.digest))
                    .collect(),
            });
            let mut entry = image.manifest.clone();
            entry.platform = Some(image.config.platform());
            if names.is_empty() {
                manifests.push(entry.clone());
            }
            for name in names {
                let mut named: Descriptor = entry.clone();
                named
                    .annotations
                    .insert(IMAGE_NAME.to_owned(), name.to_string());
                let tag = name.tag().unwrap_or_default().to_owned();
                named.annotations.insert(REF_NAME.to_owned(), tag);
                manifests.push(named);
            }
        }
        let mut index = Index::new(manifests);
        index.media_type = Some(media_type::OCI_INDEX.to_owned());
        let documents = [
            ("index.json", serde_json::to_vec(&index)),
            ("manifest.json", serde_json::to_vec(&docker)),
            (
                "oci-layout",
                Ok(br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()),
            ),
        ];
        for (name, bytes) in documents {
            let bytes = bytes.expect("plain data");
            let mut entry = Entry::new(Kind::File, name);
            entry.size = bytes.len() as u64;
            writer.append(&entry, &mut (&bytes[..] as &[u8]).by_ref())?;
        }
        writer.finish().map(drop)
    }
}

fn blobs(image: &Image) -> Vec<Digest> {
    let mut blobs = vec![image.id.clone(), image.manifest.digest.clone()];
    blobs.extend(image.layers.iter().map(|layer| layer.blob.digest.clone()));
    blobs
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}
