//! RUN: a command in a root filesystem, its environment and its output.

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{Build, Session, State, UNDECLARED, follow};
use crate::change;
use crate::diagnose::{Error, Result};
use crate::instruction::Form;
use crate::output::Event;
use crate::run::RunRequest;

impl Build<'_> {
    pub(super) fn run(
        &self,
        session: &mut Session,
        state: &mut State,
        form: Form,
        network: Option<String>,
        stdin: Option<String>,
    ) -> Result<()> {
        let words = change::command(&form, &state.config.config);
        let default = match self.options.network.as_str() {
            "" => "default",
            network => network,
        };
        let network = network.unwrap_or_else(|| default.to_owned());
        // Declared arguments are part of the environment, and of the key.
        let set: Vec<&str> = state
            .config
            .config
            .env
            .iter()
            .map(|pair| pair.split('=').next().unwrap_or_default())
            .collect();
        let args: Vec<String> = state
            .args
            .iter()
            .filter(|(name, _)| !set.contains(&name.as_str()))
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        let command = match &form {
            Form::Shell(_) => words.join(" "),
            Form::Exec(_) => words.join(" "),
        };
        let by = match args.len() {
            0 => command.clone(),
            n => format!("|{n} {} {command}", args.join(" ")),
        };
        let encoded = serde_json::to_string(&(&words, &args, &network, &stdin))
            .expect("texts are plain data");
        let key = follow(&state.key, &["RUN", &encoded]);
        let mut env = state.config.config.env.clone();
        env.extend(args);
        for name in UNDECLARED {
            if let Some(Some(value)) = self.options.build_args.get(name)
                && !state.args.contains_key(name)
            {
                env.push(format!("{name}={value}"));
            }
        }
        let cwd = match state.config.config.working_dir.as_str() {
            "" => "/".to_owned(),
            cwd => cwd.to_owned(),
        };
        let user = state.config.config.user.clone();
        self.layer(session, state, key, &by, |build, workspace, _| {
            let request = RunRequest {
                name: workspace.name.clone(),
                rootfs: build.images.rootfs(&workspace.name)?,
                args: words,
                env,
                cwd,
                user,
                network,
                stdin: stdin.map(Bytes::from),
            };
            build
                .output
                .say(format!(" ---> Running in {}\n", workspace.name))?;
            let code = build.run_to_end(request)?;
            if code != 0 {
                return Err(Error::Command { command, code });
            }
            build.output.say(format!(
                " ---> Removed intermediate container {}\n",
                workspace.name
            ))
        })
    }

    fn run_to_end(&self, request: RunRequest) -> Result<i32> {
        self.handle.block_on(async {
            let (sender, mut pieces) = mpsc::channel::<Bytes>(64);
            let running = self.run.run(request, sender);
            let telling = async {
                let mut text = Text::default();
                while let Some(piece) = pieces.recv().await {
                    let text = text.take(&piece);
                    if !text.is_empty() {
                        self.output.send(Event::Stream(text)).await?;
                    }
                }
                Ok::<_, Error>(())
            };
            tokio::select! {
                // Whatever it wrote is told before its end is.
                (code, told) = async { tokio::join!(running, telling) } => {
                    told?;
                    code.map_err(Error::Invalid)
                }
                () = self.output.closed() => Err(Error::Cancelled),
            }
        })
    }
}

/// Text from bytes that may be cut within a character.
#[derive(Default)]
struct Text(Vec<u8>);

impl Text {
    fn take(&mut self, piece: &[u8]) -> String {
        self.0.extend_from_slice(piece);
        let whole = match std::str::from_utf8(&self.0) {
            Ok(_) => self.0.len(),
            // Only an unfinished end waits for more.
            Err(error) if error.error_len().is_none() => error.valid_up_to(),
            Err(_) => self.0.len(),
        };
        let rest = self.0.split_off(whole);
        let text = String::from_utf8_lossy(&self.0).into_owned();
        self.0 = rest;
        text
    }
}
