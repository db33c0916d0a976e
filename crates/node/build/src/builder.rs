//! The builder: options in, image out.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use dhow_image::tar::ReadLimits;
use dhow_image::{Images, RegistryAuth};
use dhow_oci::{Digest, Platform, Reference};

use crate::context::{Context, Files};
use crate::diagnose::{Error, Result, at};
use crate::execute::Build;
use crate::output::Output;
use crate::parse::parse;
use crate::run::RunStep;

/// What names of the builder's root filesystems begin with.
const PREFIX: &str = "build-";

/// Whether results of earlier builds are used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheUse {
    /// Where they fit.
    #[default]
    Use,
    /// Never; `--no-cache`.
    Ignore,
}

/// Whether base images are pulled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PullUse {
    /// If they are not here.
    #[default]
    Missing,
    /// Always; `--pull`.
    Always,
}

/// How to build.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// A name for this build that no other has: letters, digits, `-`.
    pub id: String,
    /// Path of the Dockerfile in the context; empty is `Dockerfile`.
    pub dockerfile: String,
    /// The Dockerfile itself, if it is not in the context.
    pub dockerfile_text: Option<String>,
    /// Names of the image.
    pub tags: Vec<Reference>,
    /// `--build-arg`; none takes the default.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// The stage to stop at; none is the last.
    pub target: Option<String>,
    /// The platform to build for, if not this machine's.
    pub platform: Option<Platform>,
    /// Whether results of earlier builds are used.
    pub cache: CacheUse,
    /// Whether base images are pulled.
    pub pull: PullUse,
    /// Network of RUN steps; empty is `default`.
    pub network: String,
    /// Who we are to registries, by registry (`docker.io`, `localhost:5000`).
    pub auths: HashMap<String, RegistryAuth>,
}

/// Builds images. Clones share everything.
#[derive(Clone)]
pub struct Builder {
    images: Images,
    run: Arc<dyn RunStep>,
    scratch: PathBuf,
}

impl Builder {
    /// A builder that keeps contexts below `scratch` while it needs them.
    /// Removes what builds of an earlier process left behind. Blocks.
    pub fn new(images: Images, run: Arc<dyn RunStep>, scratch: &Path) -> Result<Builder> {
        for name in images.rootfs_names()? {
            if name.starts_with(PREFIX) {
                images.release(&name)?;
            }
        }
        match std::fs::remove_dir_all(scratch) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(at("clear", scratch)(error));
            }
            _ => {}
        }
        Ok(Builder {
            images,
            run,
            scratch: scratch.to_owned(),
        })
    }

    /// Builds an image and returns its id. What it says goes to `output`; when
    /// nobody listens any more, it stops at the next step.
    ///
    /// Cancel-safe: when the future is dropped, the build goes on until it
    /// notices that the output is closed.
    ///
    /// # Errors
    /// [`Error::Dockerfile`] and [`Error::Invalid`] for what the user did
    /// wrong, [`Error::Command`] for a command that failed.
    pub async fn build(
        &self,
        context: Context,
        options: BuildOptions,
        output: Output,
    ) -> Result<Digest> {
        let builder = self.clone();
        let handle = tokio::runtime::Handle::current();
        // Most of a build is files; what is not waits on this handle.
        let building = tokio::task::spawn_blocking(move || {
            builder.build_here(context, &options, &output, &handle)
        });
        match building.await {
            Ok(outcome) => outcome,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Cancelled),
        }
    }

    fn build_here(
        &self,
        context: Context,
        options: &BuildOptions,
        output: &Output,
        handle: &tokio::runtime::Handle,
    ) -> Result<Digest> {
        let sound = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if options.id.is_empty() || options.id.len() > 64 || !options.id.chars().all(sound) {
            return Err(Error::Invalid(format!(
                "{:?} is no name for a build",
                options.id
            )));
        }
        let limits = self.images.options().limits;
        let limits = ReadLimits {
            bytes: limits.unpacked_bytes,
            entries: limits.entries,
        };
        let files = Files::open(context, &self.scratch, limits)?;
        let name = match options.dockerfile.as_str() {
            "" => "Dockerfile",
            name => name,
        };
        let text = match &options.dockerfile_text {
            Some(text) => text.clone(),
            None => files.text(name)?.ok_or_else(|| {
                Error::Invalid(format!("Cannot locate specified Dockerfile: {name}"))
            })?,
        };
        let dockerfile = parse(name, &text)?;
        let build = Build {
            images: &self.images,
            run: &*self.run,
            scratch: &self.scratch,
            files: &files,
            dockerfile: &dockerfile,
            options,
            output,
            handle,
            limits,
            prefix: format!("{PREFIX}{}", options.id),
        };
        build.execute()
    }
}
