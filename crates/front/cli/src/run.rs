//! `run` and `create`.

use clap::Args;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::request::Options;
use crate::{Outcome, images, show, terminal};

/// `dhow create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Create {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    options: Options,
}

/// `dhow run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print the id and leave it running.
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    options: Options,
}

pub(crate) async fn create(client: &Client, create: Create) -> Outcome {
    let id = make(client, &create.options, false).await?;
    show::line(id);
    Ok(0)
}

/// Makes a container, fetching its image if it is not there.
async fn make(client: &Client, options: &Options, attach: bool) -> Result<String, Error> {
    let body = options.body(attach)?;
    // Made first, so that an id is never lost to a file that cannot be.
    let mut id_file = match &options.cidfile {
        Some(path) => Some(IdFile::make(path)?),
        None => None,
    };
    let platform = options.platform.clone().unwrap_or_default();
    if options.pull == "always" {
        images::fetch(client, &options.image, &platform, options.quiet).await?;
    }
    let name = options.name.clone().unwrap_or_default();
    let parameters = [("name", name), ("platform", platform.clone())];
    let path = format!("/containers/create{}", query(&parameters));
    let made = match client.post(&path, Some(&body)).await {
        Err(error) if error.status() == Some(404) && options.pull == "missing" => {
            anstream::eprintln!("Unable to find image '{}' locally", options.image);
            images::fetch(client, &options.image, &platform, options.quiet).await?;
            client.post(&path, Some(&body)).await?
        }
        other => other?,
    };
    for warning in made["Warnings"].as_array().into_iter().flatten() {
        anstream::eprintln!("WARNING: {}", warning.as_str().unwrap_or_default());
    }
    let id = show::text(&made, "Id").to_owned();
    if let Some(file) = &mut id_file {
        file.write(&id)?;
    }
    Ok(id)
}

/// The file of `--cidfile`; gone again unless it got an id.
struct IdFile {
    path: std::path::PathBuf,
    file: std::fs::File,
    has_id: bool,
}

impl IdFile {
    fn make(path: &std::path::Path) -> Result<Self, Error> {
        let file = std::fs::File::create_new(path)
            .map_err(|error| Error::File(path.display().to_string(), error))?;
        Ok(Self {
            path: path.to_owned(),
            file,
            has_id: false,
        })
    }

    fn write(&mut self, id: &str) -> Result<(), Error> {
        use std::io::Write as _;
        self.file
            .write_all(id.as_bytes())
            .map_err(|error| Error::File(self.path.display().to_string(), error))?;
        self.has_id = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.has_id {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

pub(crate) async fn run(client: &Client, run: Run) -> Outcome {
    let options = &run.options;
    if options.tty && options.interactive && !run.detach && !terminal::is_interactive() {
        return Err(Error::Usage(
            "the input device is not a TTY: leave -t out".into(),
        ));
    }
    let id = make(client, options, !run.detach)
        .await
        .map_err(|error| match error {
            Error::Usage(_) | Error::Unreachable { .. } => error,
            error => Error::Run {
                code: 125,
                message: error.to_string(),
            },
        })?;
    let path = format!("/containers/{id}");
    if run.detach {
        start(client, &path).await?;
        show::line(id);
        return Ok(0);
    }
    let attach = format!(
        "{path}/attach?stream=1&stdin={}&stdout=1&stderr=1",
        u8::from(options.interactive)
    );
    let connection = client.hijack(&attach, None).await?;
    let condition = if options.rm { "removed" } else { "next-exit" };
    let wait = client
        .stream(
            Method::POST,
            &format!("{path}/wait?condition={condition}"),
            None,
        )
        .await?;
    // The conversation begins before the program does: nothing it prints is lost.
    let raw = (options.tty && options.interactive)
        .then(terminal::Raw::enter)
        .flatten();
    let conversation = tokio::spawn(terminal::converse(
        connection,
        options.interactive,
        options.tty,
    ));
    start(client, &path).await?;
    let sizes = options.tty.then(|| {
        tokio::spawn(terminal::follow_size(
            client.clone(),
            format!("{path}/resize"),
        ))
    });
    let signals = (!options.tty).then(|| tokio::spawn(pass_signals(client.clone(), id.clone())));

    let printed = conversation
        .await
        .map_err(|error| Error::Broken(error.to_string()))?;
    drop(raw);
    for task in [sizes, signals].into_iter().flatten() {
        task.abort();
    }
    printed?;
    let answer = wait.collect().await?.to_bytes();
    let answer: Value = serde_json::from_slice(&answer)
        .map_err(|error| Error::Broken(format!("unexpected answer: {error}")))?;
    if let Some(message) = answer["Error"]["Message"]
        .as_str()
        .filter(|text| !text.is_empty())
    {
        return Err(Error::Run {
            code: 125,
            message: message.to_owned(),
        });
    }
    Ok(exit_code(&answer["StatusCode"]))
}

async fn start(client: &Client, path: &str) -> Result<(), Error> {
    client
        .post(&format!("{path}/start"), None)
        .await
        .map(|_| ())
        .map_err(|error| {
            let message = error.to_string();
            Error::Run {
                code: start_code(&message),
                message,
            }
        })
}

/// The exit code of a container that could not be started, as a shell and
/// `docker` have it.
fn start_code(message: &str) -> u8 {
    let says = |text: &str| message.contains(text);
    if says("executable file not found") || says("no such file or directory") {
        127
    } else if says("permission denied") || says("is a directory") {
        126
    } else {
        125
    }
}

/// An exit code as a process can have it.
pub(crate) fn exit_code(value: &Value) -> u8 {
    value.as_i64().map_or(125, |code| (code & 0xff) as u8)
}

/// Hands the signals that this process gets to the container.
async fn pass_signals(client: Client, id: String) {
    use tokio::signal::unix::{SignalKind, signal};
    let kinds = [
        (SignalKind::interrupt(), "SIGINT"),
        (SignalKind::terminate(), "SIGTERM"),
        (SignalKind::hangup(), "SIGHUP"),
        (SignalKind::quit(), "SIGQUIT"),
    ];
    let mut tasks = tokio::task::JoinSet::new();
    for (kind, name) in kinds {
        let Ok(mut signals) = signal(kind) else {
            continue;
        };
        let (client, id) = (client.clone(), id.clone());
        tasks.spawn(async move {
            while signals.recv().await.is_some() {
                let path = format!("/containers/{}/kill?signal={name}", escape(&id));
                // A container that is gone needs no signal.
                let _ = client.post(&path, None).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}
