//! `run` and `create`.

use clap::Args;
use dhow_docker::DetachKeys;
use http::Method;
use http_body_util::BodyExt;
use serde_json::Value;

use crate::client::{Client, query};
use crate::error::Error;
use crate::progress::Place;
use crate::request::{Options, Streams};
use crate::terminal::{Conversation, End};
use crate::{Outcome, images, show, signals, terminal};

// `dhow create`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Create {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    #[command(flatten)]
    options: Options,
}

// `dhow run`.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
pub struct Run {
    /// Print help.
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Print the id and leave it running.
    #[arg(short, long)]
    detach: bool,
    /// Keys that let go of it and leave it running (such as ctrl-p,ctrl-q).
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Hand the signals that the client gets to the program.
    #[arg(
        long,
        action = clap::ArgAction::Set,
        num_args = 0..=1,
        require_equals = true,
        default_value_t = true,
        default_missing_value = "true",
        value_name = "BOOL"
    )]
    sig_proxy: bool,
    #[command(flatten)]
    options: Options,
}

/// What cannot be asked for, as `docker` tells it.
fn refused(error: Error, verb: &str) -> Error {
    Error::Run {
        code: 125,
        message: format!("{error}\n\nRun 'dhow {verb} --help' for more information"),
    }
}

pub(crate) async fn create(client: &Client, create: Create) -> Outcome {
    let options = &create.options;
    let body = options
        .request(client, options.streams())
        .map_err(|error| refused(error, "create"))?;
    let id = make(client, options, &body).await?;
    show::line(id);
    Ok(0)
}

impl Options {
    /// The whole request, if it makes sense.
    fn request(&self, client: &Client, streams: Streams) -> Result<Value, Error> {
        if !matches!(self.pull.as_str(), "always" | "missing" | "never") {
            return Err(Error::Usage(format!(
                "invalid pull option: '{}': must be one of \"always\", \"missing\" or \"never\"",
                self.pull
            )));
        }
        self.body(streams, &client.proxies())
    }
}

/// Makes a container, fetching its image if it is not there.
async fn make(client: &Client, options: &Options, body: &Value) -> Result<String, Error> {
    // Made first, so that an id is never lost to a file that cannot be.
    let mut id_file = match &options.cidfile {
        Some(path) => Some(IdFile::make(path)?),
        None => None,
    };
    let image = options.image();
    let platform = options.platform.clone().unwrap_or_default();
    let place = Place::Errors.unless(options.quiet);
    if options.pull == "always" {
        images::fetch(client, image, &platform, place).await?;
    }
    let name = options.name.clone().unwrap_or_default();
    let parameters = [("name", name), ("platform", platform.clone())];
    let path = format!("/containers/create{}", query(&parameters));
    let made = match client.post(&path, Some(body)).await {
        Err(error) if error.status() == Some(404) && options.pull == "missing" => {
            anstream::eprintln!("Unable to find image '{image}' locally");
            images::fetch(client, image, &platform, place).await?;
            client.post(&path, Some(body)).await?
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
        let file = std::fs::File::create_new(path).map_err(|error| match error.kind() {
            std::io::ErrorKind::AlreadyExists => Error::Usage(format!(
                "container ID file found, make sure the other container isn't running or delete {}",
                path.display()
            )),
            _ => Error::File(path.display().to_string(), error),
        })?;
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
    if run.detach && !options.attach.is_empty() {
        return Err(Error::Usage(
            "conflicting options: cannot specify both --attach and --detach".into(),
        ));
    }
    let streams = match run.detach {
        true => Streams::NONE,
        false => options.streams(),
    };
    let body = options
        .request(client, streams)
        .map_err(|error| refused(error, "run"))?;
    terminal::check(streams.stdin, options.tty)?;
    let made = async {
        let keys = client.detach_keys(run.detach_keys.as_deref())?;
        let id = make(client, options, &body).await?;
        Ok((keys, id))
    };
    let (keys, id) = made.await.map_err(|error| refused(error, "run"))?;
    let path = format!("/containers/{id}");
    let _signals = run
        .sig_proxy
        .then(|| signals::pass_on(client.clone(), id.clone()));
    if !streams.has_output() {
        show::line(&id);
    }
    if streams == Streams::NONE {
        start(client, &path).await?;
        return Ok(0);
    }
    let conversation = Conversation {
        streams,
        tty: options.tty,
        keys,
    };
    let attached = Attached::begin(client, &path, conversation, options.rm).await?;
    attached.run(client).await
}

/// A container that is about to be started with a client attached to it.
pub(crate) struct Attached {
    path: String,
    streams: Streams,
    tty: bool,
    wait: hyper::body::Incoming,
    conversation: tokio::task::JoinHandle<Result<End, Error>>,
}

impl Attached {
    /// Attaches, so that nothing is lost of what the container prints, and
    /// waits for its end, which nobody else has to see.
    pub(crate) async fn begin(
        client: &Client,
        path: &str,
        conversation: Conversation,
        is_removed: bool,
    ) -> Result<Self, Error> {
        let (streams, tty) = (conversation.streams, conversation.tty);
        let attach = attach_path(path, streams, &conversation.keys);
        let connection = client.hijack(&attach, None).await?;
        let condition = if is_removed { "removed" } else { "next-exit" };
        let wait = format!("{path}/wait?condition={condition}");
        let wait = client.stream(Method::POST, &wait, None).await?;
        Ok(Self {
            path: path.to_owned(),
            streams,
            tty,
            wait,
            conversation: tokio::spawn(conversation.hold(connection)),
        })
    }

    /// Starts the container and converses with it. Returns its exit code, or 0
    /// when it was let go.
    pub(crate) async fn run(mut self, client: &Client) -> Outcome {
        if let Err(error) = start(client, &self.path).await {
            // The terminal is the user's again before the reason is told.
            self.conversation.abort();
            let _ = (&mut self.conversation).await;
            return Err(error);
        }
        let _sizes = self
            .tty
            .then(|| terminal::follow_size(client.clone(), format!("{}/resize", self.path)));
        let end = self
            .conversation
            .await
            .map_err(|error| Error::Broken(error.to_string()))??;
        if end == End::Detached || !self.streams.has_output() {
            return Ok(0);
        }
        let answer = self.wait.collect().await?.to_bytes();
        let answer: Value = serde_json::from_slice(&answer)
            .map_err(|error| Error::Broken(format!("unexpected answer: {error}")))?;
        match answer["Error"]["Message"].as_str().unwrap_or_default() {
            "" => Ok(exit_code(&answer["StatusCode"])),
            message => Err(Error::Run {
                code: 125,
                message: message.to_owned(),
            }),
        }
    }
}

/// Where streams of a container are attached to.
pub(crate) fn attach_path(path: &str, streams: Streams, keys: &DetachKeys) -> String {
    let flag = |is_set| if is_set { "1" } else { "" }.to_owned();
    let query = query(&[
        ("detachKeys", keys.text().to_owned()),
        ("stderr", flag(streams.stderr)),
        ("stdin", flag(streams.stdin)),
        ("stdout", flag(streams.stdout)),
        ("stream", flag(true)),
    ]);
    format!("{path}/attach{query}")
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
