//! Executing a Dockerfile: stage by stage, statement by statement.

mod copy;
mod run;

use std::collections::{BTreeMap, HashMap};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

use dhow_image::tar::ReadLimits;
use dhow_image::{Hold, Image, Images, Layer, ProgressSender, PullOptions, RegistryAuth, Step};
use dhow_oci::{DEFAULT_REGISTRY, Digest, History, ImageConfig, Platform, Reference, chain_id};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use crate::builder::{BuildOptions, CacheUse, PullUse};
use crate::change;
use crate::context;
use crate::copy::make_directories;
use crate::diagnose::{Error, Result, at};
use crate::instruction::{Instruction, Keyword};
use crate::output::{Event, Output};
use crate::parse::{Dockerfile, Statement, parse};
use crate::run::RunStep;
use crate::stage::{Plan, Stage};

/// Arguments everybody may give without declaring them, and which do not
/// change what is built.
const UNDECLARED: [&str; 10] = [
    "HTTP_PROXY",
    "http_proxy",
    "HTTPS_PROXY",
    "https_proxy",
    "FTP_PROXY",
    "ftp_proxy",
    "NO_PROXY",
    "no_proxy",
    "ALL_PROXY",
    "all_proxy",
];

/// One build.
pub(crate) struct Build<'a> {
    pub(crate) images: &'a Images,
    pub(crate) run: &'a dyn RunStep,
    pub(crate) scratch: &'a Path,
    pub(crate) files: &'a context::Files,
    pub(crate) dockerfile: &'a Dockerfile,
    pub(crate) options: &'a BuildOptions,
    pub(crate) output: &'a Output,
    pub(crate) handle: &'a Handle,
    pub(crate) limits: ReadLimits,
    /// What names of root filesystems begin with.
    pub(crate) prefix: String,
}

/// What has been built so far of a stage.
#[derive(Clone)]
struct State {
    config: ImageConfig,
    layers: Vec<Layer>,
    /// Declared arguments that have a value.
    args: BTreeMap<String, String>,
    /// Names everything that led here: base, statements, their results.
    key: Digest,
    hold: Arc<Hold>,
}

/// What an executed statement comes to.
struct Outcome {
    layer: Option<Layer>,
    created: i64,
}

/// Things that last as long as the whole build.
struct Session {
    n_steps: usize,
    n_done: usize,
    n_rootfs: usize,
    results: HashMap<usize, State>,
    /// Steps to be remembered with the next layer.
    pending: Vec<(Digest, Step)>,
    /// Build arguments that some ARG declared.
    consumed: Vec<String>,
}

/// A root filesystem that is released unless it became a layer.
struct Workspace<'a> {
    images: &'a Images,
    name: String,
}

impl Drop for Workspace<'_> {
    fn drop(&mut self) {
        // What stays behind is released when the builder starts again.
        let _ = self.images.release(&self.name);
    }
}

impl Build<'_> {
    pub(crate) fn execute(&self) -> Result<Digest> {
        let predefined = |name: &str| self.platform_arg(name);
        let plan = Plan::new(
            self.dockerfile,
            &self.options.build_args,
            &predefined,
            self.options.target.as_deref(),
        )?;
        let needed = plan.needed();
        let n_steps = needed
            .iter()
            .map(|n| 1 + plan.stages[*n].statements.len())
            .sum::<usize>()
            + usize::from(!self.options.labels.is_empty());
        let mut session = Session {
            n_steps,
            n_done: 0,
            n_rootfs: 0,
            results: HashMap::new(),
            pending: Vec::new(),
            consumed: plan.globals.keys().cloned().collect(),
        };
        for n in needed {
            let state = self.stage(&plan, n, &mut session)?;
            session.results.insert(n, state);
        }
        let mut state = session.results[&plan.target].clone();
        if !self.options.labels.is_empty() {
            let labels: Vec<(String, String)> = self.options.labels.clone().into_iter().collect();
            let shown = pairs_shown("LABEL", &labels);
            self.announce(&mut session, &shown)?;
            let by = nop(&shown);
            self.metadata(&mut session, &mut state, &by, |config| {
                config.config.labels.extend(labels);
            })?;
        }
        self.images
            .remember_steps(&std::mem::take(&mut session.pending))?;
        self.warn_unused(&session)?;
        let first = self.options.tags.first();
        let image = self.images.create(&state.config, &state.layers, first)?;
        for tag in self.options.tags.iter().skip(1) {
            self.images.tag(&image.id, tag)?;
        }
        self.output.event(Event::Image(image.id.clone()))?;
        Ok(image.id.clone())
    }

    fn stage(&self, plan: &Plan<'_>, number: usize, session: &mut Session) -> Result<State> {
        let stage = &plan.stages[number];
        self.announce(session, &stage.from.shown)?;
        let mut state = self.base(stage, session)?;
        self.output.say(format!(" ---> {}\n", state.key.short()))?;
        let triggers = std::mem::take(&mut state.config.config.on_build);
        if !triggers.is_empty() {
            let n = triggers.len();
            let noun = if n == 1 { "trigger" } else { "triggers" };
            self.output.say(format!("# Executing {n} build {noun}\n"))?;
            for trigger in triggers {
                let triggered = parse("ONBUILD", &trigger)?;
                for statement in &triggered.statements {
                    self.statement(plan, number, &triggered, statement, &mut state, session)?;
                }
            }
        }
        for statement in stage.statements {
            self.announce(session, &statement.shown)?;
            self.statement(
                plan,
                number,
                self.dockerfile,
                statement,
                &mut state,
                session,
            )?;
            self.output.say(format!(" ---> {}\n", state.key.short()))?;
        }
        Ok(state)
    }

    /// What a stage begins with.
    fn base(&self, stage: &Stage<'_>, session: &Session) -> Result<State> {
        let wrong = |message: String| Error::Step(self.dockerfile.about(stage.from, message));
        if let Some(base) = stage.base {
            let mut state = session.results[&base].clone();
            state.args.clear();
            return Ok(state);
        }
        let platform = match &stage.platform {
            Some(text) => Some(
                text.parse::<Platform>()
                    .map_err(|error| wrong(error.to_string()))?,
            ),
            None => self.options.platform.clone(),
        };
        if stage.image == "scratch" {
            let platform = platform.unwrap_or_else(|| self.images.options().platform.clone());
            return Ok(State {
                key: Digest::of(format!("scratch {platform}").as_bytes()),
                config: ImageConfig {
                    architecture: platform.architecture,
                    variant: platform.variant,
                    os: platform.os,
                    ..ImageConfig::default()
                },
                layers: Vec::new(),
                args: BTreeMap::new(),
                hold: Arc::new(self.images.hold(&[])),
            });
        }
        let image = self
            .image(&stage.image, platform.as_ref())
            .map_err(|error| match error {
                Error::Image(error) => wrong(describe(&error)),
                other => other,
            })?;
        let hold = self.images.hold(&image.layers);
        Ok(State {
            key: image.id.clone(),
            config: image.config.clone(),
            layers: image.layers.clone(),
            args: BTreeMap::new(),
            hold: Arc::new(hold),
        })
    }

    /// An image by name, pulled if need be.
    fn image(&self, name: &str, platform: Option<&Platform>) -> Result<Arc<Image>> {
        if self.options.pull == PullUse::Missing {
            match self.images.resolve(name) {
                Ok(image)
                    if platform.is_none_or(|platform| {
                        platform.fitness(&image.config.platform()).is_some()
                    }) =>
                {
                    return Ok(image);
                }
                Ok(_) | Err(dhow_image::Error::NoSuchImage(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let reference = Reference::parse(name).map_err(dhow_image::Error::from)?;
        let options = PullOptions {
            auth: self.auth(reference.registry()),
            platform: platform.cloned(),
        };
        let (sender, mut lines) = mpsc::channel(256);
        self.handle.block_on(async {
            let pulling = self
                .images
                .pull(&reference, options, ProgressSender::new(sender));
            let telling = async {
                while let Some(line) = lines.recv().await {
                    if self.output.send(Event::Progress(line)).await.is_err() {
                        break;
                    }
                }
                // The pull ends on its own, or nobody listens.
                std::future::pending::<()>().await;
            };
            tokio::select! {
                pulled = pulling => Ok(pulled?.image),
                () = telling => Err(Error::Cancelled),
                () = self.output.closed() => Err(Error::Cancelled),
            }
        })
    }

    /// Who we are to a registry. Clients know Docker Hub by an old address.
    fn auth(&self, registry: &str) -> Option<RegistryAuth> {
        let auths = &self.options.auths;
        let of_hub = || auths.get("https://index.docker.io/v1/");
        let found = auths.get(registry);
        found
            .or_else(|| of_hub().filter(|_| registry == DEFAULT_REGISTRY))
            .cloned()
    }

    fn statement(
        &self,
        plan: &Plan<'_>,
        stage: usize,
        dockerfile: &Dockerfile,
        statement: &Statement,
        state: &mut State,
        session: &mut Session,
    ) -> Result<()> {
        let wrong = |message: String| Error::Dockerfile(dockerfile.about(statement, message));
        let variables = variables(state);
        let lookup = |name: &str| variables.get(name).cloned();
        let instruction =
            Instruction::read(statement, dockerfile.escape, &lookup).map_err(wrong)?;
        let set = |session: &mut Session,
                   state: &mut State,
                   shown: String,
                   change: &mut dyn FnMut(&mut ImageConfig)| {
            self.metadata(session, state, &nop(&shown), |config| change(config))
        };
        match instruction {
            Instruction::From { .. } => unreachable!("stages begin with FROM, and end before it"),
            Instruction::Arg(declared) => {
                for (name, default) in declared {
                    session.consumed.push(name.clone());
                    let given = self.options.build_args.get(&name).cloned().flatten();
                    let value = given
                        .or(default)
                        .or_else(|| plan.globals.get(&name).cloned())
                        .or_else(|| self.platform_arg(&name));
                    if let Some(value) = value {
                        state.args.insert(name, value);
                    }
                }
                let shown = format!("ARG {}", statement.arguments);
                set(session, state, shown, &mut |_| {})
            }
            Instruction::Maintainer(name) => set(
                session,
                state,
                format!("MAINTAINER {name}"),
                &mut |config| {
                    config.author.clone_from(&name);
                },
            ),
            Instruction::Env(_)
            | Instruction::Label(_)
            | Instruction::Expose(_)
            | Instruction::Volume(_)
            | Instruction::User(_)
            | Instruction::Stopsignal(_)
            | Instruction::Onbuild(_)
            | Instruction::Shell(_)
            | Instruction::Healthcheck(_)
            | Instruction::Cmd(_)
            | Instruction::Entrypoint(_) => {
                let shown = self.shown(&instruction, statement, state);
                // A new entry point makes an inherited command meaningless.
                let is_inherited = !stage_has(plan, stage, statement, Keyword::Cmd);
                set(session, state, shown, &mut |config| {
                    change::apply(&instruction, &mut config.config, is_inherited);
                })
            }
            Instruction::Workdir(path) => {
                let path = join(&state.config.config.working_dir, &path);
                self.workdir(session, state, &path)
                    .map_err(|error| match error {
                        Error::Io { source, .. } => wrong(source.to_string()),
                        other => other,
                    })
            }
            Instruction::Run {
                form,
                network,
                stdin,
            } => self.run(session, state, form, network, stdin),
            Instruction::Copy(files) => {
                self.copy(plan, stage, session, state, &files, Keyword::Copy, &wrong)
            }
            Instruction::Add(files) => {
                self.copy(plan, stage, session, state, &files, Keyword::Add, &wrong)
            }
        }
    }

    /// A statement that changes the configuration only.
    fn metadata(
        &self,
        session: &mut Session,
        state: &mut State,
        by: &str,
        change: impl FnOnce(&mut ImageConfig),
    ) -> Result<()> {
        let key = follow(&state.key, &[by]);
        let created = match self.cached(&key) {
            Some(step) => step.created,
            None => {
                let created = self.now();
                let step = Step {
                    layer: None,
                    note: by.to_owned(),
                    created,
                    used: created,
                };
                session.pending.push((key.clone(), step));
                created
            }
        };
        change(&mut state.config);
        self.advance(
            state,
            key,
            by,
            &Outcome {
                layer: None,
                created,
            },
        );
        Ok(())
    }

    /// A statement that may make a layer: found in the cache, or made.
    fn layer(
        &self,
        session: &mut Session,
        state: &mut State,
        key: Digest,
        by: &str,
        make: impl FnOnce(&Self, &Workspace<'_>, &State) -> Result<()>,
    ) -> Result<()> {
        if let Some(step) = self.cached(&key)
            && step
                .layer
                .as_ref()
                .is_none_or(|layer| fits(&state.layers, layer))
        {
            self.output.say(" ---> Using cache\n")?;
            let used = self.now();
            let outcome = Outcome {
                layer: step.layer.clone(),
                created: step.created,
            };
            session.pending.push((key.clone(), Step { used, ..step }));
            self.advance(state, key, by, &outcome);
            return Ok(());
        }
        session.n_rootfs += 1;
        let name = format!("{}-{}", self.prefix, session.n_rootfs);
        self.images.prepare_on(&state.layers, &name)?;
        let workspace = Workspace {
            images: self.images,
            name,
        };
        make(self, &workspace, state)?;
        let layer = self.images.commit_layer(&state.layers, &workspace.name)?;
        let created = self.now();
        let note = by.chars().take(200).collect();
        let step = Step {
            layer: layer.clone(),
            note,
            created,
            used: created,
        };
        session.pending.push((key.clone(), step));
        self.images
            .remember_steps(&std::mem::take(&mut session.pending))?;
        self.advance(state, key, by, &Outcome { layer, created });
        Ok(())
    }

    fn advance(&self, state: &mut State, key: Digest, by: &str, outcome: &Outcome) {
        let created = timestamp(outcome.created);
        state.config.created = Some(created.clone());
        state.config.history.push(History {
            created: Some(created),
            created_by: by.to_owned(),
            empty_layer: outcome.layer.is_none(),
            ..History::default()
        });
        // What follows depends on what came out, not only on what was asked.
        let result = outcome
            .layer
            .as_ref()
            .map_or("-", |layer| layer.diff_id.as_str());
        state.key = follow(&key, &[result]);
        if let Some(layer) = &outcome.layer {
            state.config.rootfs.diff_ids.push(layer.diff_id.clone());
            state.layers.push(layer.clone());
            state.hold = Arc::new(self.images.hold(&state.layers));
        }
    }

    fn workdir(&self, session: &mut Session, state: &mut State, path: &str) -> Result<()> {
        let by = nop(&format!("WORKDIR {path}"));
        let key = follow(&state.key, &[&by]);
        state.config.config.working_dir = path.to_owned();
        self.layer(session, state, key, &by, |build, workspace, _| {
            let rootfs = build.images.open_rootfs(&workspace.name)?;
            let path = path.trim_start_matches('/');
            make_directories(rootfs.as_fd(), path.as_bytes(), (0, 0)).map_err(at("create", path))
        })
    }

    /// How a statement that changes the configuration stands in the history.
    fn shown(&self, instruction: &Instruction, statement: &Statement, state: &State) -> String {
        match instruction {
            Instruction::Env(pairs) => pairs_shown("ENV", pairs),
            Instruction::Label(pairs) => pairs_shown("LABEL", pairs),
            Instruction::Expose(ports) => format!("EXPOSE {}", ports.join(" ")),
            Instruction::Volume(paths) => format!("VOLUME [{}]", paths.join(" ")),
            Instruction::User(user) => format!("USER {user}"),
            Instruction::Stopsignal(signal) => format!("STOPSIGNAL {signal}"),
            Instruction::Onbuild(trigger) => format!("ONBUILD {trigger}"),
            Instruction::Shell(words) => format!("SHELL {words:?}"),
            Instruction::Cmd(form) => {
                format!("CMD {:?}", change::command(form, &state.config.config))
            }
            Instruction::Entrypoint(form) => {
                format!(
                    "ENTRYPOINT {:?}",
                    change::command(form, &state.config.config)
                )
            }
            _ => format!("{} {}", statement.keyword.name(), statement.arguments),
        }
    }

    fn cached(&self, key: &Digest) -> Option<Step> {
        match self.options.cache {
            CacheUse::Use => self.images.step(key),
            CacheUse::Ignore => None,
        }
    }

    fn announce(&self, session: &mut Session, shown: &str) -> Result<()> {
        session.n_done += 1;
        self.output.say(format!(
            "Step {}/{} : {shown}\n",
            session.n_done, session.n_steps
        ))
    }

    fn warn_unused(&self, session: &Session) -> Result<()> {
        let unused: Vec<&str> = self
            .options
            .build_args
            .keys()
            .map(String::as_str)
            .filter(|name| !UNDECLARED.contains(name))
            .filter(|name| !session.consumed.iter().any(|known| known == name))
            .collect();
        if unused.is_empty() {
            return Ok(());
        }
        let unused = unused.join(" ");
        self.output.say(format!(
            "[Warning] One or more build-args [{unused}] were not consumed\n"
        ))
    }

    /// What the platform defines, for those who declare it.
    fn platform_arg(&self, name: &str) -> Option<String> {
        let host = &self.images.options().platform;
        let target = self.options.platform.as_ref().unwrap_or(host);
        let (kind, rest) = name
            .strip_prefix("TARGET")
            .map(|rest| (target, rest))
            .or_else(|| name.strip_prefix("BUILD").map(|rest| (host, rest)))?;
        match rest {
            "PLATFORM" => Some(kind.to_string()),
            "OS" => Some(kind.os.clone()),
            "ARCH" => Some(kind.architecture.clone()),
            "VARIANT" => Some(kind.variant.clone()),
            _ => None,
        }
    }

    fn now(&self) -> i64 {
        let now = (self.images.options().now)();
        let since = now
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }
}

/// The variables a statement sees: the environment before arguments.
fn variables(state: &State) -> BTreeMap<String, String> {
    let mut variables = state.args.clone();
    for pair in &state.config.config.env {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        variables.insert(name.to_owned(), value.to_owned());
    }
    variables
}

pub(crate) fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let pair = format!("{name}={value}");
    let same = |other: &&mut String| other.split('=').next() == Some(name);
    match env.iter_mut().find(same) {
        Some(other) => *other = pair,
        None => env.push(pair),
    }
}

/// Whether a stage has another statement of this keyword before this one.
fn stage_has(plan: &Plan<'_>, stage: usize, statement: &Statement, keyword: Keyword) -> bool {
    plan.stages[stage]
        .statements
        .iter()
        .any(|other| other.keyword == keyword && other.line < statement.line)
}

/// Whether a cached layer lies on exactly this stack.
fn fits(layers: &[Layer], layer: &Layer) -> bool {
    let diff_ids: Vec<Digest> = layers
        .iter()
        .map(|layer| &layer.diff_id)
        .chain([&layer.diff_id])
        .cloned()
        .collect();
    chain_id(&diff_ids).as_ref() == Some(&layer.chain_id)
}

fn follow(key: &Digest, parts: &[&str]) -> Digest {
    let mut text = key.to_string();
    for part in parts {
        // Lengths keep the parts apart.
        text.push_str(&format!("\n{}:{part}", part.len()));
    }
    Digest::of(text.as_bytes())
}

fn nop(shown: &str) -> String {
    format!("/bin/sh -c #(nop)  {shown}")
}

fn pairs_shown(keyword: &str, pairs: &[(String, String)]) -> String {
    let pairs: Vec<String> = pairs
        .iter()
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    format!("{keyword} {}", pairs.join(" "))
}

/// A path from a working directory, clean and absolute.
pub(crate) fn join(directory: &str, path: &str) -> String {
    let whole = match path.starts_with('/') {
        true => path.to_owned(),
        false => format!("{directory}/{path}"),
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in whole.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

fn timestamp(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds)
        .unwrap_or(jiff::Timestamp::UNIX_EPOCH)
        .to_string()
}

/// An error with its causes.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
