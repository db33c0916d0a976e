//! `context`: daemons by name. They lie where Docker's client keeps them, so
//! that both know the same ones: `contexts/meta/ID/meta.json` in the folder of
//! its configuration, and certificates in `contexts/tls/ID/docker`, where ID is
//! the SHA-256 of the name.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use crate::amounts::{fields, truth};
use crate::config::Config;
use crate::connection::Connection;
use crate::error::Error;
use crate::listing::{self, Row};
use crate::packed::Packed;
use crate::{Outcome, show};

/// The context that is none: options and environment say where the daemon is.
pub(crate) const DEFAULT: &str = "default";
/// Which of Docker's settings names the context in use.
const CURRENT: &str = "currentContext";
/// Files of an endpoint, and the options that name them.
const FILES: [(&str, &str); 3] = [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")];

/// What is done with contexts.
#[derive(Debug, Subcommand)]
#[command(defer = true)]
pub enum Command {
    /// Create a context.
    Create(Create),
    /// Write a context, with its certificates and keys, into a tar archive.
    Export {
        /// Name.
        #[arg(value_name = "CONTEXT")]
        name: String,
        /// File that is made, or - for standard output; CONTEXT.dockercontext unless
        /// told otherwise.
        #[arg(value_name = "FILE|-")]
        file: Option<String>,
    },
    /// Make a context of such an archive.
    Import {
        /// Name.
        #[arg(value_name = "CONTEXT")]
        name: String,
        /// File, or - for standard input.
        #[arg(value_name = "FILE|-")]
        file: String,
    },
    /// Show everything about contexts, as JSON.
    Inspect {
        /// Print by a template such as '{{.Name}}'.
        #[arg(short, long)]
        format: Option<String>,
        /// Names; the one in use unless told otherwise.
        names: Vec<String>,
    },
    /// List contexts.
    #[command(visible_alias = "list")]
    Ls {
        /// Print as json, by a template such as '{{.Name}}', or 'table TEMPLATE'.
        #[arg(long)]
        format: Option<String>,
        /// Print names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove contexts.
    #[command(visible_alias = "remove")]
    Rm {
        /// Also the one in use.
        #[arg(short, long)]
        force: bool,
        /// Names.
        #[arg(required = true, value_name = "CONTEXT")]
        names: Vec<String>,
    },
    /// Print the name of the context in use.
    Show,
    /// Change a context.
    Update(Update),
    /// Use a context from now on.
    Use {
        /// Name.
        #[arg(value_name = "CONTEXT")]
        name: String,
    },
}

// `dhow context create`.
#[derive(Debug, Args)]
pub struct Create {
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// Where the daemon is (host=ADDRESS,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=BOOL).
    #[arg(long, value_name = "ENDPOINT", value_parser = endpoint)]
    docker: Option<Map<String, Value>>,
    /// Start with what another context says.
    #[arg(long, value_name = "CONTEXT")]
    from: Option<String>,
    /// Name.
    #[arg(value_name = "CONTEXT")]
    name: String,
}

// `dhow context update`.
#[derive(Debug, Args)]
pub struct Update {
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// Where the daemon is (host=ADDRESS,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=BOOL).
    #[arg(long, value_name = "ENDPOINT", value_parser = endpoint)]
    docker: Option<Map<String, Value>>,
    /// Name.
    #[arg(value_name = "CONTEXT")]
    name: String,
}

/// `NAME=VALUE` behind commas.
fn endpoint(text: &str) -> Result<Map<String, Value>, String> {
    let mut options = Map::new();
    for field in fields(text)? {
        let (name, value) = field
            .split_once('=')
            .ok_or_else(|| format!("{field} must be formatted as key=value"))?;
        match name {
            "host" | "ca" | "cert" | "key" | "from" => options.insert(name.into(), json!(value)),
            "skip-tls-verify" => options.insert(name.into(), json!(truth(name, value)?)),
            _ => return Err(format!("unrecognized config key: {name}")),
        };
    }
    Ok(options)
}

/// Where a context lies.
pub(crate) struct Place {
    pub(crate) meta: PathBuf,
    pub(crate) tls: PathBuf,
}

impl Place {
    /// The place of a context in a folder of Docker's configuration.
    pub(crate) fn of(folder: &Path, name: &str) -> Self {
        let digest = Sha256::digest(name.as_bytes());
        let id: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        let folder = folder.join("contexts");
        Self {
            meta: folder.join("meta").join(&id),
            tls: folder.join("tls").join(&id),
        }
    }

    /// What the context says.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] if there is none of this name.
    pub(crate) fn read(&self, name: &str) -> Result<Value, Error> {
        let path = self.meta.join("meta.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::Usage(format!(
                "context {name:?}: context not found: there is none of this name"
            )),
            _ => failed(&path, error),
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Usage(format!("{}: {error}", path.display())))
    }

    /// Writes what a context says, and copies its certificates.
    fn write(&self, meta: &Value, files: &Map<String, Value>) -> Result<(), Error> {
        let tls = self.tls.join("docker");
        for (option, name) in FILES {
            if let Some(path) = files.get(option).and_then(Value::as_str) {
                let bytes = fs::read(path).map_err(|error| failed(Path::new(path), error))?;
                write(&tls.join(name), &bytes)?;
            }
        }
        write(&self.meta.join("meta.json"), meta.to_string().as_bytes())
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::File(path.display().to_string(), error)
}

/// Replaces a file as a whole, in a folder that only its owner enters.
fn write(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
    let written = || -> io::Result<()> {
        let folder = path.parent().unwrap_or(Path::new("/"));
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
        let new = path.with_extension(format!("new.{}", std::process::id()));
        let mut file = fs::File::options()
            .create(true)
            .truncate(true)
            .write(true)
            .mode(0o600)
            .open(&new)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    };
    written().map_err(|error| failed(path, error))
}

pub(crate) fn run(connection: &Connection, command: Command) -> Outcome {
    let folder = connection.folder();
    let current = connection.context_name()?;
    match command {
        Command::Create(create) => {
            let place = free_place(&folder, &create.name)?;
            let from = create.from.as_deref();
            let (mut meta, mut files) = match from {
                Some(name) if name != DEFAULT => copied(&folder, name)?,
                _ => (json!({ "Metadata": {}, "Endpoints": {} }), Map::new()),
            };
            if from == Some(DEFAULT) {
                meta["Endpoints"]["docker"] =
                    json!({ "Host": connection.address_outside(), "SkipTLSVerify": false });
            }
            if from.is_none() && create.docker.is_none() {
                return Err(Error::Usage(
                    "docker endpoint configuration is required".into(),
                ));
            }
            meta["Name"] = json!(create.name);
            describe(&mut meta, &mut files, create.description, create.docker);
            place.write(&sorted(&meta), &files)?;
            show::line(&create.name);
            anstream::eprintln!("Successfully created context {:?}", create.name);
        }
        Command::Update(update) => {
            check_name(&update.name)?;
            let place = Place::of(&folder, &update.name);
            let mut meta = place.read(&update.name)?;
            let mut files = Map::new();
            describe(&mut meta, &mut files, update.description, update.docker);
            place.write(&sorted(&meta), &files)?;
            show::line(&update.name);
            anstream::eprintln!("Successfully updated context {:?}", update.name);
        }
        Command::Export { name, file } => {
            let file = file.unwrap_or_else(|| format!("{name}.dockercontext"));
            export(connection, &folder, &name, &file)?;
        }
        Command::Import { name, file } => {
            let place = free_place(&folder, &name)?;
            let mut packed = match file.as_str() {
                "-" => Packed::unpack(io::stdin().lock())?,
                path => {
                    let path = Path::new(path);
                    let open = fs::File::open(path).map_err(|error| failed(path, error))?;
                    Packed::unpack(io::BufReader::new(open))?
                }
            };
            packed.meta["Name"] = json!(name);
            for (path, bytes) in &packed.files {
                write(&place.tls.join(path), bytes)?;
            }
            place.write(&sorted(&packed.meta), &Map::new())?;
            show::line(&name);
            anstream::eprintln!("Successfully imported context {name:?}");
        }
        Command::Inspect { format, names } => {
            let names = if names.is_empty() {
                vec![current]
            } else {
                names
            };
            let mut found = Vec::new();
            for name in &names {
                found.push(inspected(connection, &folder, name)?);
            }
            match format {
                Some(format) => show::inspected(&format, found)?,
                None => show::line(show::indented(&Value::Array(found))),
            }
        }
        Command::Ls { format, quiet } => list(connection, &current, format.as_deref(), quiet)?,
        Command::Rm { force, names } => return remove(&folder, &current, force, &names),
        Command::Show => show::line(current),
        Command::Use { name } => {
            let mut config = Config::read(&folder)?;
            if name == DEFAULT {
                if let Some(values) = config.values.as_object_mut() {
                    values.remove(CURRENT);
                }
            } else {
                Place::of(&folder, &name).read(&name)?;
                config.values[CURRENT] = json!(name);
            }
            config.write()?;
            show::line(&name);
            anstream::eprintln!("Current context is now {name:?}");
            for variable in ["DHOW_HOST", "DOCKER_HOST"] {
                if std::env::var_os(variable).is_some_and(|value| !value.is_empty()) {
                    anstream::eprintln!(
                        "Warning: {variable} environment variable overrides the active context. To use {name:?}, either set the global --context flag, or unset {variable} environment variable."
                    );
                }
            }
        }
    }
    Ok(0)
}

/// The name of the context that is settled in Docker's configuration.
pub(crate) fn settled(folder: &Path) -> Result<Option<String>, Error> {
    Ok(Config::read(folder)?.text(CURRENT).map(str::to_owned))
}

/// Writes a context into a file that is not there yet.
fn export(connection: &Connection, folder: &Path, name: &str, file: &str) -> Result<(), Error> {
    use std::io::{IsTerminal as _, Write as _};
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut files = BTreeMap::new();
    let meta = if name == DEFAULT {
        by_default(connection)
    } else {
        let place = Place::of(folder, name);
        for endpoint in names_in(&place.tls) {
            for file in names_in(&place.tls.join(&endpoint)) {
                let path = Path::new(&endpoint).join(file);
                let full = place.tls.join(&path);
                files.insert(path, fs::read(&full).map_err(|error| failed(&full, error))?);
            }
        }
        place.read(name)?
    };
    let meta = sorted(&meta);
    let bytes = Packed { meta, files }.pack();
    let bytes = bytes.map_err(|error| failed(Path::new(file), error))?;
    if file == "-" {
        if io::stdout().is_terminal() {
            return Err(Error::Usage(
                "cowardly refusing to export to a terminal, specify a file path".into(),
            ));
        }
        let mut out = io::stdout().lock();
        return out
            .write_all(&bytes)
            .and_then(|()| out.flush())
            .map_err(|error| failed(Path::new(file), error));
    }
    // There are keys in it.
    let made = fs::File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file);
    made.and_then(|mut made| made.write_all(&bytes))
        .map_err(|error| failed(Path::new(file), error))?;
    anstream::eprintln!("Written file {file:?}");
    Ok(())
}

/// Names in a folder, none if it is not there.
fn names_in(folder: &Path) -> Vec<std::ffi::OsString> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name()).collect()
}

/// The place of a context that is not there yet.
fn free_place(folder: &Path, name: &str) -> Result<Place, Error> {
    check_name(name)?;
    let place = Place::of(folder, name);
    if place.meta.exists() {
        return Err(Error::Usage(format!("context {name:?} already exists")));
    }
    Ok(place)
}

/// What the context says that is none.
fn by_default(connection: &Connection) -> Value {
    json!({
        "Name": DEFAULT,
        "Metadata": {},
        "Endpoints": { "docker": { "Host": connection.address_outside(), "SkipTLSVerify": false } },
    })
}

fn check_name(name: &str) -> Result<(), Error> {
    if name == DEFAULT {
        return Err(Error::Usage(
            "\"default\" is a reserved context name".into(),
        ));
    }
    let mut letters = name.chars();
    let is_good = letters
        .next()
        .is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() > 1
        && letters.all(|letter| letter.is_ascii_alphanumeric() || "_.+-".contains(letter));
    if is_good {
        return Ok(());
    }
    Err(Error::Usage(format!(
        "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
    )))
}

/// What another context says, and where its certificates are.
fn copied(folder: &Path, name: &str) -> Result<(Value, Map<String, Value>), Error> {
    let place = Place::of(folder, name);
    let meta = place.read(name)?;
    let files = FILES.iter().filter_map(|(option, file)| {
        let path = place.tls.join("docker").join(file);
        let path = path.exists().then(|| json!(path.display().to_string()))?;
        Some(((*option).to_owned(), path))
    });
    Ok((meta, files.collect()))
}

fn describe(
    meta: &mut Value,
    files: &mut Map<String, Value>,
    description: Option<String>,
    docker: Option<Map<String, Value>>,
) {
    if let Some(description) = description {
        meta["Metadata"]["Description"] = json!(description);
    }
    let Some(mut docker) = docker else { return };
    meta["Endpoints"]["docker"] = json!({
        "Host": docker.remove("host").unwrap_or_default().as_str().unwrap_or_default(),
        "SkipTLSVerify": docker.remove("skip-tls-verify").is_some_and(|value| value == true),
    });
    *files = docker;
}

/// In the order in which Docker's client writes them.
fn sorted(meta: &Value) -> Value {
    json!({
        "Name": meta["Name"],
        "Metadata": meta["Metadata"],
        "Endpoints": meta["Endpoints"],
    })
}

fn inspected(connection: &Connection, folder: &Path, name: &str) -> Result<Value, Error> {
    if name == DEFAULT {
        let mut meta = by_default(connection);
        meta["TLSMaterial"] = json!({});
        meta["Storage"] = json!({ "MetadataPath": "<IN MEMORY>", "TLSPath": "<IN MEMORY>" });
        return Ok(meta);
    }
    let place = Place::of(folder, name);
    let mut meta = sorted(&place.read(name)?);
    let files = FILES.iter().map(|(_, file)| *file);
    let files: Vec<&str> = files
        .filter(|file| place.tls.join("docker").join(file).exists())
        .collect();
    meta["TLSMaterial"] = if files.is_empty() {
        json!({})
    } else {
        json!({ "docker": files })
    };
    meta["Storage"] = json!({
        "MetadataPath": place.meta.display().to_string(),
        "TLSPath": place.tls.display().to_string(),
    });
    Ok(meta)
}

const TITLES: [(&str, &str); 5] = [
    ("Current", "CURRENT"),
    ("Description", "DESCRIPTION"),
    ("DockerEndpoint", "DOCKER ENDPOINT"),
    ("Error", "ERROR"),
    ("Name", "NAME"),
];

fn list(
    connection: &Connection,
    current: &str,
    format: Option<&str>,
    quiet: bool,
) -> Result<(), Error> {
    let mut all = vec![json!({
        "Name": DEFAULT,
        "Metadata": { "Description": "Current DOCKER_HOST based configuration" },
        "Endpoints": { "docker": { "Host": connection.address_outside() } },
    })];
    let folder = connection.folder().join("contexts/meta");
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        if let Ok(bytes) = fs::read(entry.path().join("meta.json"))
            && let Ok(meta) = serde_json::from_slice(&bytes)
        {
            all.push(meta);
        }
    }
    all.sort_by(|one, other| show::text(one, "Name").cmp(show::text(other, "Name")));
    if quiet {
        show::lines(all.iter().map(|meta| show::text(meta, "Name")));
        return Ok(());
    }
    let rows: Vec<Row> = all
        .iter()
        .map(|meta| {
            let name = show::text(meta, "Name");
            let is_current = name == current;
            // A table marks the one in use; templates ask for it.
            let mark = if is_current && format.is_none_or(|format| format == "table") {
                " *"
            } else {
                ""
            };
            Row::new([
                ("Current", is_current.into()),
                (
                    "Description",
                    show::text(&meta["Metadata"], "Description").into(),
                ),
                (
                    "DockerEndpoint",
                    show::text(&meta["Endpoints"]["docker"], "Host").into(),
                ),
                ("Error", "".into()),
                ("Name", format!("{name}{mark}").into()),
            ])
        })
        .collect();
    let format = match format.unwrap_or("table") {
        "table" => "table {{.Name}}\t{{.Description}}\t{{.DockerEndpoint}}\t{{.Error}}",
        format => format,
    };
    listing::print(format, &TITLES, &rows)
}

fn remove(folder: &Path, current: &str, force: bool, names: &[String]) -> Outcome {
    let mut failed_any = false;
    for name in names {
        let removed = || -> Result<(), Error> {
            if name == DEFAULT {
                return Err(Error::Usage("context \"default\" cannot be removed".into()));
            }
            if name == current && !force {
                return Err(Error::Usage(format!(
                    "context {name:?} is in use, set -f flag to force remove"
                )));
            }
            let place = Place::of(folder, name);
            if !place.meta.exists() && !force {
                return Err(Error::Usage(format!("context {name:?}: not found")));
            }
            for path in [&place.meta, &place.tls] {
                match fs::remove_dir_all(path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => {
                        return Err(failed(path, error));
                    }
                    _ => {}
                }
            }
            let mut config = Config::read(folder)?;
            if config.text(CURRENT) == Some(name) {
                if let Some(values) = config.values.as_object_mut() {
                    values.remove(CURRENT);
                }
                config.write()?;
            }
            Ok(())
        };
        match removed() {
            Ok(()) => show::line(name),
            Err(error) => {
                error.report();
                failed_any = true;
            }
        }
    }
    if failed_any { Err(Error::Told) } else { Ok(0) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked() {
        for good in ["far", "a.b", "x1"] {
            check_name(good).expect(good);
        }
        for bad in ["", "a", "default", "a b", "-a", "a/b"] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn endpoints_are_read() {
        let options = endpoint("host=tcp://h:1,ca=/ca,skip-tls-verify=1").expect("good");
        assert_eq!(
            Value::Object(options),
            json!({ "host": "tcp://h:1", "ca": "/ca", "skip-tls-verify": true })
        );
        for bad in ["host", "x=y", "skip-tls-verify=maybe"] {
            assert!(endpoint(bad).is_err(), "{bad}");
        }
    }
}
