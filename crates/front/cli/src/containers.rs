//! What is done with containers that are there.

use clap::Args;
use futures_util::stream::{self, StreamExt as _};
use http::Method;
use http_body_util::BodyExt;
use serde_json::{Value, json};

use crate::client::{Client, escape, query};
use crate::error::Error;
use crate::run::exit_code;
use crate::{Outcome, show, terminal};

/// Containers by name or id.
#[derive(Debug, Args)]
pub struct Names {
    /// Names or ids.
    #[arg(required = true, value_name = "CONTAINER")]
    pub names: Vec<String>,
}

/// One container.
#[derive(Debug, Args)]
pub struct Name {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// `dhow start`.
#[derive(Debug, Args)]
pub struct Start {
    /// Attach to the streams of the container.
    #[arg(short, long)]
    attach: bool,
    /// Attach to its standard input as well.
    #[arg(short, long)]
    interactive: bool,
    #[command(flatten)]
    names: Names,
}

/// `dhow stop` and `dhow restart`.
#[derive(Debug, Args)]
pub struct Stop {
    /// Seconds before it is killed (-1: never).
    #[arg(short, long, allow_hyphen_values = true, visible_alias = "timeout")]
    time: Option<i64>,
    /// Signal to send.
    #[arg(short, long)]
    signal: Option<String>,
    #[command(flatten)]
    names: Names,
}

/// `dhow kill`.
#[derive(Debug, Args)]
pub struct Kill {
    /// Signal to send.
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    #[command(flatten)]
    names: Names,
}

/// `dhow rm`.
#[derive(Debug, Args)]
pub struct Remove {
    /// Kill it first if it runs.
    #[arg(short, long)]
    force: bool,
    /// Remove its anonymous volumes as well.
    #[arg(short, long)]
    volumes: bool,
    #[command(flatten)]
    names: Names,
}

/// `dhow rename`.
#[derive(Debug, Args)]
pub struct Rename {
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// New name.
    new: String,
}

/// `dhow logs`.
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

/// `dhow exec`.
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
    env_file: Vec<String>,
    /// Keys that let go of it and leave it running.
    #[arg(long, value_name = "KEYS")]
    detach_keys: Option<String>,
    /// Give it a terminal.
    #[arg(short, long)]
    tty: bool,
    /// Set a variable.
    #[arg(short, long, value_name = "NAME=VALUE")]
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
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
    /// Program and arguments.
    #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// `dhow attach`.
#[derive(Debug, Args)]
pub struct Attach {
    /// Leave standard input alone.
    #[arg(long)]
    no_stdin: bool,
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// `dhow inspect`.
#[derive(Debug, Args)]
pub struct Inspect {
    /// Print by a template such as '{{.State.Pid}}'.
    #[arg(short, long)]
    format: Option<String>,
    /// What to look for (container, image, network or volume).
    #[arg(long = "type", value_name = "KIND")]
    kind: Option<String>,
    /// Names or ids.
    #[arg(required = true)]
    names: Vec<String>,
}

impl Inspect {
    /// The same of one kind of thing only.
    pub(crate) fn of(self, kind: &str) -> Self {
        Self {
            kind: Some(kind.to_owned()),
            ..self
        }
    }
}

/// `dhow export`.
#[derive(Debug, Args)]
pub struct Export {
    /// File to write; standard output unless told otherwise.
    #[arg(short, long, value_name = "FILE")]
    output: Option<std::path::PathBuf>,
    /// Name or id.
    #[arg(value_name = "CONTAINER")]
    name: String,
}

/// `dhow port`.
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
        return Err(Error::Usage("attach to one container at a time".into()));
    };
    let path = format!("/containers/{}", escape(name));
    let facts = client.get(&format!("{path}/json")).await?;
    let tty = facts["Config"]["Tty"].as_bool().unwrap_or_default();
    let stdin = start.interactive;
    let attach = format!(
        "{path}/attach?stream=1&stdin={}&stdout=1&stderr=1",
        u8::from(stdin)
    );
    let connection = client.hijack(&attach, None).await?;
    let wait = client
        .stream(
            Method::POST,
            &format!("{path}/wait?condition=next-exit"),
            None,
        )
        .await?;
    let raw = (tty && stdin).then(terminal::Raw::enter).flatten();
    let conversation = tokio::spawn(terminal::converse(connection, stdin, tty));
    client.post(&format!("{path}/start"), None).await?;
    let printed = conversation
        .await
        .map_err(|error| Error::Broken(error.to_string()))?;
    drop(raw);
    printed?;
    let answer: Value =
        serde_json::from_slice(&wait.collect().await?.to_bytes()).unwrap_or_default();
    Ok(exit_code(&answer["StatusCode"]))
}

pub(crate) async fn stop(client: &Client, stop: Stop, verb: &str) -> Outcome {
    let query = query(&[
        (
            "t",
            stop.time
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
    let query = format!(
        "?force={}&v={}",
        u8::from(remove.force),
        u8::from(remove.volumes)
    );
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

/// `NAME=VALUE` filters as the API wants them.
pub(crate) fn filters(texts: &[String]) -> Result<String, Error> {
    if texts.is_empty() {
        return Ok(String::new());
    }
    let mut map = serde_json::Map::new();
    for text in texts {
        let (name, value) = text
            .split_once('=')
            .ok_or_else(|| Error::Usage(format!("--filter {text:?}: the form is NAME=VALUE")))?;
        let values = map.entry(name).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    Ok(Value::Object(map).to_string())
}

pub(crate) async fn logs(client: &Client, logs: Logs) -> Outcome {
    let path = format!("/containers/{}", escape(&logs.name));
    let facts = client.get(&format!("{path}/json")).await?;
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
    let Ok(span) = crate::limits::nanoseconds("", text) else {
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
    if exec.tty && exec.interactive && !terminal::is_interactive() {
        return Err(Error::Usage(
            "the input device is not a TTY: leave -t out".into(),
        ));
    }
    let mut env = Vec::new();
    for path in &exec.env_file {
        env.extend(crate::request::read_variables(path)?);
    }
    env.extend(exec.env);
    let body = json!({
        "AttachStdin": exec.interactive && !exec.detach,
        "AttachStdout": !exec.detach,
        "AttachStderr": !exec.detach,
        "Tty": exec.tty,
        "Env": env,
        "DetachKeys": exec.detach_keys.unwrap_or_default(),
        "ConsoleSize": terminal::size().filter(|_| exec.tty),
        "Cmd": exec.command,
        "User": exec.user.unwrap_or_default(),
        "WorkingDir": exec.workdir.unwrap_or_default(),
        "Privileged": exec.privileged,
    });
    let made = client
        .post(
            &format!("/containers/{}/exec", escape(&exec.name)),
            Some(&body),
        )
        .await?;
    let path = format!("/exec/{}", show::text(&made, "Id"));
    if exec.detach {
        client
            .post(&format!("{path}/start"), Some(&json!({ "Detach": true })))
            .await?;
        return Ok(0);
    }
    let start = json!({ "Detach": false, "Tty": exec.tty });
    let raw = (exec.tty && exec.interactive)
        .then(terminal::Raw::enter)
        .flatten();
    let connection = client
        .hijack(&format!("{path}/start"), Some(&start))
        .await?;
    let sizes = exec.tty.then(|| {
        tokio::spawn(terminal::follow_size(
            client.clone(),
            format!("{path}/resize"),
        ))
    });
    let printed = terminal::converse(connection, exec.interactive, exec.tty).await;
    drop(raw);
    if let Some(sizes) = sizes {
        sizes.abort();
    }
    printed?;
    let facts = client.get(&format!("{path}/json")).await?;
    Ok(exit_code(&facts["ExitCode"]))
}

pub(crate) async fn attach(client: &Client, attach: Attach) -> Outcome {
    let path = format!("/containers/{}", escape(&attach.name));
    let facts = client.get(&format!("{path}/json")).await?;
    if facts["State"]["Running"].as_bool() != Some(true) {
        return Err(Error::Usage(format!(
            "container {} does not run: start it with dhow start -a",
            attach.name
        )));
    }
    let tty = facts["Config"]["Tty"].as_bool().unwrap_or_default();
    let stdin = !attach.no_stdin && facts["Config"]["OpenStdin"].as_bool().unwrap_or_default();
    let wait = client
        .stream(
            Method::POST,
            &format!("{path}/wait?condition=not-running"),
            None,
        )
        .await?;
    let query = format!("?stream=1&stdin={}&stdout=1&stderr=1", u8::from(stdin));
    let connection = client
        .hijack(&format!("{path}/attach{query}"), None)
        .await?;
    let raw = (tty && stdin).then(terminal::Raw::enter).flatten();
    let sizes = tty.then(|| {
        tokio::spawn(terminal::follow_size(
            client.clone(),
            format!("{path}/resize"),
        ))
    });
    let printed = terminal::converse(connection, stdin, tty).await;
    drop(raw);
    if let Some(sizes) = sizes {
        sizes.abort();
    }
    printed?;
    let answer: Value =
        serde_json::from_slice(&wait.collect().await?.to_bytes()).unwrap_or_default();
    Ok(exit_code(&answer["StatusCode"]))
}

pub(crate) async fn inspect(client: &Client, inspect: Inspect) -> Outcome {
    let mut found = Vec::new();
    let mut failed = false;
    for name in &inspect.names {
        match look_up(client, name, inspect.kind.as_deref()).await {
            Ok(value) => found.push(value),
            Err(error) => {
                error.report();
                failed = true;
            }
        }
    }
    match &inspect.format {
        Some(format) => show::inspected(format, found)?,
        None => show::line(format_args!("{:#}", Value::Array(found))),
    }
    if failed { Err(Error::Told) } else { Ok(0) }
}

async fn look_up(client: &Client, name: &str, kind: Option<&str>) -> Result<Value, Error> {
    let name_escaped = escape(name);
    for (candidate, path) in [
        ("container", format!("/containers/{name_escaped}/json")),
        ("image", format!("/images/{name_escaped}/json")),
        ("network", format!("/networks/{name_escaped}")),
        ("volume", format!("/volumes/{name_escaped}")),
    ] {
        if kind.is_some_and(|kind| kind != candidate) {
            continue;
        }
        match client.get(&path).await {
            Err(error) if matches!(error.status(), Some(404 | 400)) => {}
            other => return other,
        }
    }
    Err(Error::Usage(format!("no such object: {name}")))
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
