//! `dhow login`, `dhow logout`.

use std::io::{BufRead, Read, Write};

use clap::Args;
use rustix::termios::{LocalModes, OptionalActions, Termios, tcgetattr, tcsetattr};
use serde_json::json;

use crate::client::Client;
use crate::credentials::{Credentials, DOCKER_HUB};
use crate::error::Error;
use crate::{Outcome, show, terminal};

// `dhow login`.
#[derive(Debug, Args)]
pub struct Login {
    /// User name; asked for unless given.
    #[arg(short, long)]
    username: Option<String>,
    /// Password; others can see it on the command line.
    #[arg(short, long)]
    password: Option<String>,
    /// Read the password from standard input.
    #[arg(long)]
    password_stdin: bool,
    /// Registry (HOST[:PORT]); Docker Hub unless told otherwise.
    server: Option<String>,
}

// `dhow logout`.
#[derive(Debug, Args)]
pub struct Logout {
    /// Registry (HOST[:PORT]); Docker Hub unless told otherwise.
    server: Option<String>,
}

pub(crate) async fn login(client: &Client, login: Login) -> Outcome {
    let wrong = match (&login.password, login.password_stdin, &login.username) {
        (Some(_), true, _) => "--password and --password-stdin are mutually exclusive",
        (None, true, None) => "the --password-stdin option requires --username to be set",
        _ => "",
    };
    if !wrong.is_empty() {
        return Err(Error::Usage(wrong.into()));
    }
    let registry = name_of(login.server.as_deref());
    let mut credentials = Credentials::open(client.folder())?;
    let user = match login.username {
        Some(user) => user,
        None => ask("Username: ")?,
    };
    let password = match (login.password, login.password_stdin) {
        (Some(password), _) => password,
        (None, true) => {
            let mut text = String::new();
            std::io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Error::File("standard input".into(), error))?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        (None, false) => {
            let _silence = Silence::enter();
            let password = ask("Password: ")?;
            anstream::eprintln!();
            password
        }
    };
    if user.is_empty() || password.is_empty() {
        return Err(Error::Usage(
            "user name and password are needed: --username NAME --password-stdin".into(),
        ));
    }
    let auth = json!({ "username": user, "password": password, "serveraddress": registry });
    let answer = client.post("/auth", Some(&auth)).await?;
    let token = show::text(&answer, "IdentityToken");
    if credentials.store(registry, &user, &password, token)? {
        anstream::eprintln!(
            "WARNING: the secret lies unencrypted in config.json; a credential helper \
             (credsStore) keeps it better."
        );
    }
    show::line(show::text(&answer, "Status"));
    Ok(0)
}

pub(crate) fn logout(client: &Client, logout: &Logout) -> Outcome {
    let registry = name_of(logout.server.as_deref());
    if Credentials::open(client.folder())?.erase(registry)? {
        show::line(format_args!("Removing login credentials for {registry}"));
    } else {
        show::line(format_args!("Not logged in to {registry}"));
    }
    Ok(0)
}

/// What a registry is called among credentials.
fn name_of(server: Option<&str>) -> &str {
    let Some(server) = server else {
        return DOCKER_HUB;
    };
    let host = server
        .strip_prefix("https://")
        .or_else(|| server.strip_prefix("http://"))
        .unwrap_or(server);
    match host.split('/').next().unwrap_or_default() {
        "docker.io" | "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        host => host,
    }
}

fn ask(prompt: &str) -> Result<String, Error> {
    if !terminal::is_interactive() {
        return Err(Error::Usage(
            "cannot ask without a terminal: give --username NAME --password-stdin".into(),
        ));
    }
    let failed = |error| Error::File("the terminal".into(), error);
    anstream::eprint!("{prompt}");
    std::io::stderr().flush().map_err(failed)?;
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .map_err(failed)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

/// The terminal without echo, until it is dropped.
struct Silence(Termios);

impl Silence {
    fn enter() -> Option<Silence> {
        let before = tcgetattr(std::io::stdin()).ok()?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        tcsetattr(std::io::stdin(), OptionalActions::Drain, &silent).ok()?;
        Some(Silence(before))
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        let _ = tcsetattr(std::io::stdin(), OptionalActions::Drain, &self.0);
    }
}
