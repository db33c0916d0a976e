//! COPY and ADD: where sources come from and what their target means.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use dhow_image::Hold;

use super::{Build, Session, State, describe, follow, join, nop};
use crate::copy::{self, Shape, Source, Target, Tree};
use crate::diagnose::{Error, Result, at};
use crate::ignore::Ignore;
use crate::instruction::{Files, Keyword};
use crate::stage::Plan;

impl Build<'_> {
    #[allow(
        clippy::too_many_arguments,
        reason = "they are one statement in its surroundings"
    )]
    pub(super) fn copy(
        &self,
        plan: &Plan<'_>,
        stage: usize,
        session: &mut Session,
        state: &mut State,
        files: &Files,
        keyword: Keyword,
        wrong: &dyn Fn(String) -> Error,
    ) -> Result<()> {
        let name = keyword.name();
        let nothing = Ignore::default();
        // Where the sources are, and what keeps them there.
        let other: Option<(OwnedFd, Hold)> = match &files.from {
            None => None,
            Some(from) => {
                let layers = match plan.find(from, stage) {
                    Some(number) => session.results[&number].layers.clone(),
                    None if from == "scratch" => Vec::new(),
                    None => {
                        let platform = self.options.platform.as_ref();
                        let image = self.image(from, platform).map_err(|error| match error {
                            Error::Image(error) => wrong(format!(
                                "invalid from flag value {from}: {}",
                                describe(&error)
                            )),
                            other => other,
                        })?;
                        image.layers.clone()
                    }
                };
                let hold = self.images.hold(&layers);
                Some((self.images.open_layers(&layers)?, hold))
            }
        };
        let tree = match &other {
            Some((root, _)) => Tree {
                root: root.as_fd(),
                ignore: &nothing,
            },
            None => Tree {
                root: self.files.root.as_fd(),
                ignore: &self.files.ignore,
            },
        };
        let mut sources = Vec::new();
        for pattern in &files.sources {
            let is_remote = pattern.starts_with("http://") || pattern.starts_with("https://");
            if keyword == Keyword::Add && is_remote {
                sources.push(
                    self.fetch(pattern)
                        .map_err(|error| wrong(error.to_string()))?,
                );
                continue;
            }
            let found = tree
                .find(pattern)
                .map_err(|error| wrong(error.to_string()))?;
            if found.is_empty() {
                return Err(wrong(match &files.from {
                    None => format!(
                        "{name} failed: file not found in build context or excluded by \
                         .dockerignore: stat {pattern}: file does not exist"
                    ),
                    Some(from) => {
                        format!("{name} failed: stat {pattern} in {from}: file does not exist")
                    }
                }));
            }
            sources.extend(found);
        }
        for heredoc in &files.heredocs {
            sources.push(Source::Inline {
                name: heredoc.name.clone().into_bytes(),
                content: heredoc.content.clone().into_bytes(),
            });
        }
        let ends_as_directory = files.target.ends_with('/')
            || matches!(files.target.as_str(), "." | "..")
            || files.target.ends_with("/.");
        let has_directory = sources
            .iter()
            .any(|source| matches!(source, Source::Directory(_)));
        if sources.len() > 1 && !ends_as_directory {
            return Err(wrong(format!(
                "When using {name} with more than one source file, the destination must be a \
                 directory and end with a /"
            )));
        }
        let target = join(&state.config.config.working_dir, &files.target);
        let content = tree
            .digest(&sources)
            .map_err(|error| wrong(format!("{name} failed: {error}")))?;
        let parts = serde_json::to_string(&(
            &target,
            ends_as_directory,
            &files.owner,
            files.mode,
            content.as_str(),
        ))
        .expect("texts are plain data");
        let key = follow(&state.key, &[name, &parts]);
        let kind = match sources.as_slice() {
            [Source::File { .. } | Source::Inline { .. } | Source::Outside { .. }] => "file",
            [Source::Directory(_)] => "dir",
            _ => "multi",
        };
        let by = nop(&format!(
            "{name} {kind}:{} in {}",
            content.hex(),
            files.target
        ));
        self.layer(session, state, key, &by, |build, workspace, _| {
            let rootfs = build.images.open_rootfs(&workspace.name)?;
            let rootfs = rootfs.as_fd();
            let owner = match &files.owner {
                Some(text) => Some(copy::owner(rootfs, text).map_err(wrong)?),
                None => None,
            };
            let path = target.trim_start_matches('/').as_bytes().to_vec();
            let failed = |error: std::io::Error| wrong(format!("{name} failed: {error}"));
            let mut plain = Vec::new();
            for source in sources {
                // Local archives are unpacked, fetched ones are files.
                if keyword == Keyword::Add
                    && let Source::File { path: from, .. } = &source
                {
                    let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::NONBLOCK;
                    let opened = dhow_image::archive::open_in(tree.root, from, flags);
                    let file = File::from(opened.map_err(failed)?);
                    if copy::is_archive(&file).map_err(failed)? {
                        copy::extract(&file, rootfs, &path, owner, build.limits).map_err(failed)?;
                        continue;
                    }
                }
                plain.push(source);
            }
            if plain.is_empty() {
                return Ok(());
            }
            let into = ends_as_directory || has_directory || copy::is_directory(rootfs, &path);
            let shape = if into { Shape::Directory } else { Shape::File };
            let target = Target {
                path,
                shape,
                owner: owner.unwrap_or((0, 0)),
                mode: files.mode,
            };
            tree.copy(&plain, rootfs, &target, build.limits)
                .map_err(failed)
        })
    }

    /// Fetches what ADD names by address.
    fn fetch(&self, address: &str) -> Result<Source> {
        let path = address.split(['?', '#']).next().unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        if name.is_empty() || path.matches('/').count() < 3 {
            return Err(Error::Invalid(format!(
                "cannot determine filename from url: {address}"
            )));
        }
        std::fs::create_dir_all(self.scratch).map_err(at("create", self.scratch))?;
        let mut file =
            tempfile::tempfile_in(self.scratch).map_err(at("create a file in", self.scratch))?;
        self.output.say(format!("Downloading {address}\n"))?;
        self.handle.block_on(async {
            tokio::select! {
                fetched = self.images.fetch(address, &mut file) => Ok(fetched?),
                () = self.output.closed() => Err(Error::Cancelled),
            }
        })?;
        rustix::fs::fchmod(&file, rustix::fs::Mode::from_raw_mode(0o600))
            .map_err(|error| at("set mode of", self.scratch)(error.into()))?;
        Ok(Source::Outside {
            file,
            name: name.as_bytes().to_vec(),
        })
    }
}
