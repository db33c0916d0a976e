//! What is done with containers that are there.

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::request::Streams;
use crate::run::{Attached, attach_path, exit_code};
use crate::terminal::{Conversation, End};
use crate::{Outcome, show, signals, terminal};

// Containers by name or id.
#[derive(Debug, Args)]
pub struct Names {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

// One container.
#[derive(Debug, Args)]
pub struct Name {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

// `dhow start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Attach to the streams of the container.
    #[arg(short, long)]
    attach: bool,
    /// Attach to its standard input as well.
    #[arg(short, long)]
    interactive: bool,
    /// Keys that let go of it and leave it running (such as ctrl-p,ctrl-q).
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    #[command(flatten)]
    names: Names,
}

// `dhow stop` and `dhow restart`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds before it is killed (-1: never).
    #[arg(short, long, alias = "time", value_name = "SECONDS")]
    timeout: Option<i64>,
    /// Signal to send.
    #[arg(short, long)]
    signal: Option<String>,
    #[command(flatten)]
    names: Names,
}

// `dhow kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal to send; KILL unless told otherwise.
    #[arg(short, long, default_value = "", hide_default_value = true)]
    signal: String,
    #[command(flatten)]
    names: Names,
}

// `dhow rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Kill it first if it runs.
    #[arg(short, long)]
    force: bool,
    /// Remove the link of this name, not the container.
    #[arg(short, long)]
    link: bool,
    /// Remove its anonymous volumes as well.
    #[arg(short, long)]
    volumes: bool,
    #[command(flatten)]
    names: Names,
}

// `dhow rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// New name.
    new: String,
}

// `dhow logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// Go on until the container ends.
    #[arg(short, long)]
    follow: bool,
    /// Only the last lines.
    #[arg(short = 'n', long, default_value = "all", value_name = "NUMBER")]
    tail: String,
    /// Print the time of each line.
    #[arg(short, long)]
    timestamps: bool,
    /// Only lines since a time (RFC 3339, seconds since the epoch, or 10m ago).
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only lines until a time.
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Print what the container's log options add to each line.
    #[arg(long)]
    details: bool,
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

// `dhow exec`.
#[derive(Debug, Args)]
pub struct Exec {
    /// Leave it running.
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open.
    #[arg(short, long)]
    interactive: bool,
    /// Read variables from a file.
    #[arg(long, value_name = "FILE")]
    env_file: Vec<std::path::PathBuf>,
    /// Keys that let go of it and leave it running.
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set a variable (NAME=VALUE, or NAME to pass yours on).
    #[arg(short, long, value_name = "NAME[=VALUE]", value_parser = crate::request::variable)]
    env: Vec<String>,
    /// User, or USER:GROUP.
    #[arg(short, long)]
    user: Option<String>,
    /// Working directory.
    #[arg(short, long, value_name = "PATH")]
    workdir: Option<String>,
    /// Allow everything.
    #[arg(long)]
    privileged: bool,
    /// Name or id, then program and arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        num_args = 2..,
        value_names = ["CONTAINER", "COMMAND"]
    )]
    words: Vec<String>,
}

// `dhow attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Leave standard input alone.
    #[arg(long)]
    no_stdin: bool,
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
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

// `dhow inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print by a template such as '{{.State.Pid}}'.
    #[arg(short, long)]
    format: Option<String>,
    /// Show how large the files of a container are.
    #[arg(short, long)]
    size: bool,
    /// What to look for (container, image, network or volume).
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Names or ids.
    #[arg(required = true)]
    names: Vec<String>,
}

// `dhow container inspect`.
#[derive(Debug, Args)]
pub struct InspectContainer {
    /// Print by a template such as '{{.State.Pid}}'.
    #[arg(short, long)]
    format: Option<String>,
    /// Show how large its files are.
    #[arg(short, long)]
    size: bool,
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    names: Vec<String>,
}

// `dhow export`.
#[derive(Debug, Args)]
pub struct Export {
    /// File to write; standard output unless told otherwise.
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

// `dhow port`.
#[derive(Debug, Args)]
pub struct Port {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Only this port of the container (PORT[/PROTOCOL]).
    #[arg(value_name = "PORT")]
    port: Option<String>,
}

/// Requests that are under way at a time.
const AT_ONCE: usize = 16;

/// Asks the same of each, several at a time; those that fail are told, and the
/// rest is done.
async fn for_each<F>(names: &[String], mut ask: impl FnMut(String) -> F) -> Outcome
where
    F: Future<Output = Result<(), Error>>,
{
    let mut failed = false;
    let mut answers = stream::iter(names.iter().map(|name| ask(name.clone())))
        .buffered(AT_ONCE)
        .zip(stream::iter(names));
    while let Some((answer, name)) = answers.next().await {
        match answer {
            Ok(()) => show::line(name),
            Err(error) => {
                error.report();
                failed = true;
            }
        }
    }
    if failed { Err(Error::Told) } else { Ok(0) }
}

pub(crate) async fn each(client: &Client, names: &Names, verb: &str) -> Outcome {
    for_each(&names.names, |name| async move {
        client
            .post(&format!("/containers/{}/{verb}", escape(&name)), None)
            .await
            .map(|_| ())
    })
    .await
}

pub(crate) async fn start(client: &Client, start: Start) -> Outcome {
    if !start.attach && !start.interactive {
        return each(client, &start.names, "start").await;
    }
    let [name] = start.names.names.as_slice() else {
        return Err(Error::Usage(
            "you cannot start and attach multiple containers at once".into(),
        ));
    };
    let facts = client
        .get(&format!("/containers/{}/json", escape(name)))
        .await?;
    let is = |part: &str, field: &str| facts[part][field].as_bool().unwrap_or_default();
    let tty = is("Config", "Tty");
    let streams = Streams {
        stdin: start.interactive && is("Config", "OpenStdin"),
        stdout: true,
        stderr: true,
    };
    let conversation = Conversation {
        streams,
        tty,
        keys: client.detach_keys(start.detach_keys.as_deref())?,
    };
    let id = show::text(&facts, "Id").to_owned();
    let path = format!("/containers/{id}");
    let _signals = (!tty).then(|| signals::pass_on(client.clone(), id));
    let is_removed = is("HostConfig", "AutoRemove");
    let attached = Attached::begin(client, &path, conversation, is_removed).await?;
    match attached.run(client).await {
        // Only `run` tells by its exit code why nothing was started.
        Err(Error::Run { message, .. }) => Err(Error::Usage(message)),
        other => other,
    }
}

pub(crate) async fn stop(client: &Client, stop: Stop, verb: &str) -> Outcome {
    let query = query(&[
        (
            "t",
            stop.timeout
                .map_or_else(String::new, |seconds| seconds.to_string()),
        ),
        ("signal", stop.signal.clone().unwrap_or_default()),
    ]);
    for_each(&stop.names.names, |name| {
        let path = format!("/containers/{}/{verb}{query}", escape(&name));
        async move { client.post(&path, None).await.map(|_| ()) }
    })
    .await
}

pub(crate) async fn kill(client: &Client, kill: Kill) -> Outcome {
    let query = query(&[("signal", kill.signal.clone())]);
    for_each(&kill.names.names, |name| {
        let path = format!("/containers/{}/kill{query}", escape(&name));
        async move { client.post(&path, None).await.map(|_| ()) }
    })
    .await
}

pub(crate) async fn wait(client: &Client, names: &Names) -> Outcome {
    for name in &names.names {
        let answer = client
            .post(&format!("/containers/{}/wait", escape(name)), None)
            .await?;
        show::line(&answer["StatusCode"]);
    }
    Ok(0)
}

pub(crate) async fn remove(client: &Client, remove: Remove) -> Outcome {
    let flag = |is_set| if is_set { "1" } else { "" }.to_owned();
    let query = query(&[
        ("force", flag(remove.force)),
        ("link", flag(remove.link)),
        ("v", flag(remove.volumes)),
    ]);
    for_each(&remove.names.names, |name| {
        let path = format!("/containers/{}{query}", escape(&name));
        async move { client.delete(&path).await.map(|_| ()) }
    })
    .await
}

pub(crate) async fn rename(client: &Client, rename: Rename) -> Outcome {
    let query = query(&[("name", rename.new)]);
    client
        .post(
            &format!("/containers/{}/rename{query}", escape(&rename.name)),
            None,
        )
        .await?;
    Ok(0)
}

pub(crate) async fn logs(client: &Client, logs: Logs) -> Outcome {
    let path = format!("/containers/{}", escape(&logs.name));
    let facts = client.get(&format!("{path}/json")).await?;
    let path = format!("/containers/{}", show::text(&facts, "Id"));
    let tty = facts["Config"]["Tty"].as_bool().unwrap_or_default();
    let query = query(&[
        ("stdout", "1".into()),
        ("stderr", "1".into()),
        ("follow", u8::from(logs.follow).to_string()),
        ("tail", logs.tail),
        ("timestamps", u8::from(logs.timestamps).to_string()),
        ("details", u8::from(logs.details).to_string()),
        ("since", point(logs.since.as_deref())),
        ("until", point(logs.until.as_deref())),
    ]);
    let body = client
        .stream(Method::GET, &format!("{path}/logs{query}"), None)
        .await?;
    let chunks =
        futures_util::TryStreamExt::map_err(body.into_data_stream(), std::io::Error::other);
    let mut reader = tokio_util::io::StreamReader::new(Box::pin(chunks));
    let printed = if tty {
        tokio::io::copy(&mut reader, &mut tokio::io::stdout())
            .await
            .map(|_| ())
    } else {
        terminal::copy_frames(&mut reader).await
    };
    match printed {
        // Whoever reads our output has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(0),
        Err(error) => Err(Error::Broken(error.to_string())),
        Ok(()) => Ok(0),
    }
}

/// A point in time as the API has it; a span such as `10m` is so long ago.
pub(crate) fn point(text: Option<&str>) -> String {
    let text = text.unwrap_or_default();
    let Ok(span) = crate::amounts::nanoseconds(text) else {
        return text.to_owned();
    };
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .unwrap_or_default();
    let span = std::time::Duration::from_nanos(span.unsigned_abs());
    let then = now.saturating_sub(span);
    format!("{}.{:09}", then.as_secs(), then.subsec_nanos())
}

pub(crate) async fn export(client: &Client, export: Export) -> Outcome {
    let path = format!("/containers/{}/export", escape(&export.name));
    let body = client.stream(Method::GET, &path, None).await?;
    crate::images::write_archive(body, export.output.as_deref()).await
}

pub(crate) async fn port(client: &Client, port: Port) -> Outcome {
    let facts = client
        .get(&format!("/containers/{}/json", escape(&port.name)))
        .await?;
    let wanted = port.port.as_ref().map(|port| match port.contains('/') {
        true => port.clone(),
        false => format!("{port}/tcp"),
    });
    let mut found = false;
    let ports = facts["NetworkSettings"]["Ports"].as_object();
    for (inside, bindings) in ports.into_iter().flatten() {
        if wanted.as_ref().is_some_and(|wanted| wanted != inside) {
            continue;
        }
        for binding in bindings.as_array().into_iter().flatten() {
            found = true;
            let address = show::text(binding, "HostIp");
            let address = match address.contains(':') {
                true => format!("[{address}]"),
                false => address.to_owned(),
            };
            let outside = format!("{address}:{}", show::text(binding, "HostPort"));
            match &wanted {
                Some(_) => show::line(outside),
                None => show::line(format_args!("{inside} -> {outside}")),
            }
        }
    }
    match wanted {
        Some(wanted) if !found => Err(Error::Usage(format!(
            "no public port '{wanted}' published for {}",
            port.name
        ))),
        _ => Ok(0),
    }
}

pub(crate) async fn exec(client: &Client, exec: Exec) -> Outcome {
    let mut env = crate::request::read_variables(&exec.env_file)?;
    env.extend(exec.env);
    let streams = Streams {
        stdin: exec.interactive && !exec.detach,
        stdout: !exec.detach,
        stderr: !exec.detach,
    };
    terminal::check(streams.stdin, exec.tty)?;
    let keys = client.detach_keys(exec.detach_keys.as_deref())?;
    let name = &exec.words[0];
    let size = terminal::size().filter(|_| exec.tty);
    let body = json!({
        "AttachStdin": streams.stdin,
        "AttachStdout": streams.stdout,
        "AttachStderr": streams.stderr,
        "Detach": exec.detach,
        "Tty": exec.tty,
        "Env": env,
        "DetachKeys": keys.text(),
        "ConsoleSize": size,
        "Cmd": exec.words[1..],
        "User": exec.user.unwrap_or_default(),
        "WorkingDir": exec.workdir.unwrap_or_default(),
        "Privileged": exec.privileged,
    });
    let path = format!("/containers/{}/exec", escape(name));
    let made = client.post(&path, Some(&body)).await?;
    let path = format!("/exec/{}", show::text(&made, "Id"));
    let start = json!({ "Detach": exec.detach, "Tty": exec.tty, "ConsoleSize": size });
    if exec.detach {
        client.post(&format!("{path}/start"), Some(&start)).await?;
        return Ok(0);
    }
    let connection = client
        .hijack(&format!("{path}/start"), Some(&start))
        .await?;
    let _sizes = exec
        .tty
        .then(|| terminal::follow_size(client.clone(), format!("{path}/resize")));
    let tty = exec.tty;
    let conversation = Conversation { streams, tty, keys };
    if conversation.hold(connection).await? == End::Detached {
        return Err(let_go());
    }
    let facts = client.get(&format!("{path}/json")).await?;
    Ok(exit_code(&facts["ExitCode"]))
}

pub(crate) async fn attach(client: &Client, attach: Attach) -> Outcome {
    let path = format!("/containers/{}", escape(&attach.name));
    let facts = client.get(&format!("{path}/json")).await?;
    let is = |part: &str, field: &str| facts[part][field].as_bool().unwrap_or_default();
    let why_not = if !is("State", "Running") {
        "cannot attach to a stopped container, start it first"
    } else if is("State", "Paused") {
        "cannot attach to a paused container, unpause it first"
    } else if is("State", "Restarting") {
        "cannot attach to a restarting container, wait until it is running"
    } else {
        ""
    };
    if !why_not.is_empty() {
        return Err(Error::Usage(why_not.into()));
    }
    let tty = is("Config", "Tty");
    terminal::check(!attach.no_stdin, tty)?;
    let streams = Streams {
        stdin: !attach.no_stdin && is("Config", "OpenStdin"),
        stdout: true,
        stderr: true,
    };
    let keys = client.detach_keys(attach.detach_keys.as_deref())?;
    let wait = format!("{path}/wait?condition=not-running");
    let wait = client.stream(Method::POST, &wait, None).await?;
    let _signals =
        (attach.sig_proxy && !tty).then(|| signals::pass_on(client.clone(), attach.name.clone()));
    let connection = client
        .hijack(&attach_path(&path, streams, &keys), None)
        .await?;
    let _sizes = tty.then(|| terminal::follow_size(client.clone(), format!("{path}/resize")));
    let conversation = Conversation { streams, tty, keys };
    if conversation.hold(connection).await? == End::Detached {
        return Err(let_go());
    }
    let answer: Value =
        serde_json::from_slice(&wait.collect().await?.to_bytes()).unwrap_or_default();
    Ok(exit_code(&answer["StatusCode"]))
}

/// What `attach` and `exec` end with when the keys are typed, as `docker` has
/// it.
fn let_go() -> Error {
    Error::Usage("read escape sequence".into())
}

/// Kinds of things that Docker knows.
const KINDS: [&str; 10] = [
    "config",
    "container",
    "image",
    "network",
    "node",
    "plugin",
    "secret",
    "service",
    "task",
    "volume",
];

pub(crate) async fn inspect(client: &Client, inspect: Inspect) -> Outcome {
    let kind = inspect.kind.as_deref().filter(|kind| !kind.is_empty());
    if let Some(kind) = kind
        && !KINDS.contains(&kind)
    {
        let known: Vec<String> = KINDS.iter().map(|kind| format!("{kind:?}")).collect();
        return Err(Error::Usage(format!(
            "unknown type: {kind:?}: must be one of {}",
            known.join(", ")
        )));
    }
    let mut found = Vec::new();
    let mut missing = Vec::new();
    for name in &inspect.names {
        match look_up(client, name, kind, inspect.size).await {
            Ok(value) => found.push(value),
            Err(error) => missing.push(error),
        }
    }
    show::found(inspect.format.as_deref(), found, &missing)
}

pub(crate) async fn inspect_containers(client: &Client, inspect: InspectContainer) -> Outcome {
    let query = size_query(inspect.size);
    let path = |name: &str| format!("/containers/{}/json{query}", escape(name));
    show::inspect_each(client, &inspect.names, inspect.format.as_deref(), path).await
}

fn size_query(size: bool) -> &'static str {
    if size { "?size=1" } else { "" }
}

async fn look_up(
    client: &Client,
    name: &str,
    kind: Option<&str>,
    size: bool,
) -> Result<Value, Error> {
    let escaped = escape(name);
    for (candidate, path) in [
        (
            "container",
            format!("/containers/{escaped}/json{}", size_query(size)),
        ),
        ("image", format!("/images/{escaped}/json")),
        ("network", format!("/networks/{escaped}")),
        ("volume", format!("/volumes/{escaped}")),
    ] {
        if kind.is_some_and(|kind| kind != candidate) {
            continue;
        }
        match client.get(&path).await {
            Err(error) if kind.is_none() && matches!(error.status(), Some(404 | 400)) => {}
            other => return other,
        }
    }
    let kind = kind.unwrap_or("object");
    Err(Error::Usage(format!("error: no such {kind}: {name}")))
}

pub(crate) async fn diff(client: &Client, name: Name) -> Outcome {
    let changes = client
        .get(&format!("/containers/{}/changes", escape(&name.name)))
        .await?;
    for change in changes.as_array().into_iter().flatten() {
        let kind = ["C", "A", "D"][change["Kind"].as_u64().unwrap_or_default().min(2) as usize];
        show::line(format_args!("{kind} {}", show::text(change, "Path")));
    }
    Ok(0)
}
