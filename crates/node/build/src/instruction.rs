//! What statements mean: each instruction with its arguments, expanded with
//! the variables of the moment it is executed.

use std::collections::BTreeMap;
use std::str::FromStr;

use dhow_oci::Healthcheck;

use crate::expand::{self, Lookup};
use crate::parse::{Heredoc, Statement};

/// Names of the instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(
    missing_docs,
    reason = "they are the instructions of the Dockerfile reference"
)]
pub enum Keyword {
    Add,
    Arg,
    Cmd,
    Copy,
    Entrypoint,
    Env,
    Expose,
    From,
    Healthcheck,
    Label,
    Maintainer,
    Onbuild,
    Run,
    Shell,
    Stopsignal,
    User,
    Volume,
    Workdir,
}

impl Keyword {
    /// All of them.
    pub const ALL: [Keyword; 18] = [
        Keyword::Add,
        Keyword::Arg,
        Keyword::Cmd,
        Keyword::Copy,
        Keyword::Entrypoint,
        Keyword::Env,
        Keyword::Expose,
        Keyword::From,
        Keyword::Healthcheck,
        Keyword::Label,
        Keyword::Maintainer,
        Keyword::Onbuild,
        Keyword::Run,
        Keyword::Shell,
        Keyword::Stopsignal,
        Keyword::User,
        Keyword::Volume,
        Keyword::Workdir,
    ];

    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Keyword::Add => "ADD",
            Keyword::Arg => "ARG",
            Keyword::Cmd => "CMD",
            Keyword::Copy => "COPY",
            Keyword::Entrypoint => "ENTRYPOINT",
            Keyword::Env => "ENV",
            Keyword::Expose => "EXPOSE",
            Keyword::From => "FROM",
            Keyword::Healthcheck => "HEALTHCHECK",
            Keyword::Label => "LABEL",
            Keyword::Maintainer => "MAINTAINER",
            Keyword::Onbuild => "ONBUILD",
            Keyword::Run => "RUN",
            Keyword::Shell => "SHELL",
            Keyword::Stopsignal => "STOPSIGNAL",
            Keyword::User => "USER",
            Keyword::Volume => "VOLUME",
            Keyword::Workdir => "WORKDIR",
        }
    }
}

impl FromStr for Keyword {
    type Err = ();

    fn from_str(word: &str) -> Result<Keyword, ()> {
        let upper = word.to_uppercase();
        Keyword::ALL
            .into_iter()
            .find(|keyword| keyword.name() == upper)
            .ok_or(())
    }
}

/// A command as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Form {
    /// `["program", "argument"]`.
    Exec(Vec<String>),
    /// Given to the shell.
    Shell(String),
}

/// Files to be copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// Where from; patterns allowed.
    pub sources: Vec<String>,
    /// Where to.
    pub target: String,
    /// `--from`: a stage or an image.
    pub from: Option<String>,
    /// `--chown`.
    pub owner: Option<String>,
    /// `--chmod`, octal.
    pub mode: Option<u32>,
    /// Files whose content is in the Dockerfile, in the order of the sources.
    pub heredocs: Vec<Heredoc>,
}

/// An instruction, ready to be executed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(
    missing_docs,
    reason = "they are the instructions of the Dockerfile reference"
)]
pub enum Instruction {
    Add(Files),
    Arg(Vec<(String, Option<String>)>),
    Cmd(Form),
    Copy(Files),
    Entrypoint(Form),
    Env(Vec<(String, String)>),
    Expose(Vec<String>),
    From {
        image: String,
        platform: Option<String>,
        name: Option<String>,
    },
    Healthcheck(Healthcheck),
    Label(Vec<(String, String)>),
    Maintainer(String),
    Onbuild(String),
    Run {
        form: Form,
        network: Option<String>,
        stdin: Option<String>,
    },
    Shell(Vec<String>),
    Stopsignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

impl Instruction {
    /// Reads and expands a statement.
    ///
    /// # Errors
    /// A text that says what is wrong with it.
    pub fn read(
        statement: &Statement,
        escape: char,
        lookup: Lookup<'_>,
    ) -> Result<Instruction, String> {
        let keyword = statement.keyword;
        let flags = Flags::new(statement, escape, lookup)?;
        let arguments = statement.arguments.trim();
        let one = || expand::word(arguments, escape, lookup);
        let instruction = match keyword {
            Keyword::Add | Keyword::Copy => files(statement, &flags, escape, lookup)?,
            Keyword::Arg => {
                let mut declared = Vec::new();
                for part in expand::split(arguments, escape) {
                    let (name, value) = match part.split_once('=') {
                        Some((name, value)) => (name, Some(expand::word(value, escape, lookup)?)),
                        None => (part, None),
                    };
                    if name.is_empty() {
                        return Err("ARG names can not be blank".to_owned());
                    }
                    declared.push((name.to_owned(), value));
                }
                Instruction::Arg(declared)
            }
            Keyword::Cmd => Instruction::Cmd(form(arguments)),
            Keyword::Entrypoint => Instruction::Entrypoint(form(arguments)),
            Keyword::Env => Instruction::Env(pairs("ENV", arguments, escape, lookup)?),
            Keyword::Label => Instruction::Label(pairs("LABEL", arguments, escape, lookup)?),
            Keyword::Expose => {
                let mut ports = Vec::new();
                for word in expand::words(arguments, escape, lookup)? {
                    for port in word.split_whitespace() {
                        ports.extend(self::ports(port)?);
                    }
                }
                Instruction::Expose(ports)
            }
            Keyword::From => from(arguments, &flags, escape, lookup)?,
            Keyword::Healthcheck => Instruction::Healthcheck(healthcheck(arguments, &flags)?),
            Keyword::Maintainer => Instruction::Maintainer(arguments.to_owned()),
            Keyword::Onbuild => onbuild(statement)?,
            Keyword::Run => run(statement, &flags)?,
            Keyword::Shell => match form(arguments) {
                Form::Exec(words) if !words.is_empty() => Instruction::Shell(words),
                _ => return Err("SHELL requires the arguments to be in JSON form".to_owned()),
            },
            Keyword::Stopsignal => Instruction::Stopsignal(one()?),
            Keyword::User => Instruction::User(one()?),
            Keyword::Volume => {
                let paths = match form(arguments) {
                    Form::Exec(words) => words
                        .iter()
                        .map(|path| expand::word(path, escape, lookup))
                        .collect::<Result<Vec<_>, _>>()?,
                    Form::Shell(_) => expand::words(arguments, escape, lookup)?,
                };
                if paths.iter().any(|path| path.trim().is_empty()) {
                    return Err("VOLUME specified can not be an empty string".to_owned());
                }
                Instruction::Volume(paths)
            }
            Keyword::Workdir => Instruction::Workdir(one()?),
        };
        flags.all_known(keyword)?;
        Ok(instruction)
    }
}

/// The flags of a statement, and which of them have been understood.
struct Flags {
    values: BTreeMap<String, Option<String>>,
    known: std::cell::RefCell<Vec<&'static str>>,
}

impl Flags {
    fn new(statement: &Statement, escape: char, lookup: Lookup<'_>) -> Result<Flags, String> {
        let mut values = BTreeMap::new();
        for (name, value) in &statement.flags {
            let value = match value {
                Some(value) => Some(expand::word(value, escape, lookup)?),
                None => None,
            };
            if values.insert(name.clone(), value).is_some() {
                return Err(format!("duplicate flag specified: --{name}"));
            }
        }
        Ok(Flags {
            values,
            known: std::cell::RefCell::default(),
        })
    }

    /// The value of a flag that needs one.
    fn value(&self, name: &'static str) -> Result<Option<String>, String> {
        self.known.borrow_mut().push(name);
        match self.values.get(name) {
            None => Ok(None),
            Some(Some(value)) => Ok(Some(value.clone())),
            Some(None) => Err(format!("missing a value on flag: --{name}")),
        }
    }

    /// A flag whose presence changes nothing here.
    fn accept(&self, name: &'static str) {
        self.known.borrow_mut().push(name);
    }

    fn all_known(&self, keyword: Keyword) -> Result<(), String> {
        let known = self.known.borrow();
        match self
            .values
            .keys()
            .find(|name| !known.contains(&name.as_str()))
        {
            None => Ok(()),
            Some(name) => {
                let guess = crate::diagnose::nearest(name, known.iter().copied());
                let hint = guess.map(|guess| format!(", did you mean --{guess}?"));
                let hint = hint.unwrap_or_default();
                Err(format!(
                    "{} does not know the flag --{name}{hint}",
                    keyword.name()
                ))
            }
        }
    }
}

fn form(arguments: &str) -> Form {
    if arguments.starts_with('[')
        && let Ok(words) = serde_json::from_str::<Vec<String>>(arguments)
    {
        return Form::Exec(words);
    }
    Form::Shell(arguments.to_owned())
}

fn pairs(
    keyword: &str,
    arguments: &str,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<Vec<(String, String)>, String> {
    let parts = expand::split(arguments, escape);
    let first = parts.first().copied().unwrap_or_default();
    if !first.contains('=') {
        // The old form: a name, and everything after it.
        let (name, value) = arguments
            .split_once(char::is_whitespace)
            .ok_or_else(|| format!("{keyword} must have two arguments"))?;
        let name = expand::word(name, escape, lookup)?;
        return Ok(vec![(
            name,
            expand::word(value.trim_start(), escape, lookup)?,
        )]);
    }
    let mut pairs = Vec::new();
    for part in parts {
        let (name, value) = part.split_once('=').ok_or_else(|| {
            format!("syntax error - can't find = in {part:?}. Must be of the form: name=value")
        })?;
        let name = expand::word(name, escape, lookup)?;
        if name.is_empty() {
            return Err(format!("{keyword} names can not be blank"));
        }
        pairs.push((name, expand::word(value, escape, lookup)?));
    }
    Ok(pairs)
}

fn from(
    arguments: &str,
    flags: &Flags,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<Instruction, String> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    let (image, name) = match words[..] {
        [image] => (image, None),
        [image, as_, name] if as_.eq_ignore_ascii_case("as") => (image, Some(name)),
        _ => {
            return Err(
                "FROM requires either one argument, or three: FROM <source> AS <name>".into(),
            );
        }
    };
    let name = match name {
        None => None,
        Some(name) => {
            let name = name.to_lowercase();
            let sound = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
            if !sound {
                return Err(format!(
                    "invalid name for build stage: {name:?}, name can't start with a number or \
                     contain symbols"
                ));
            }
            Some(name)
        }
    };
    let image = expand::word(image, escape, lookup)?;
    if image.is_empty() {
        return Err("base name should not be blank: is a variable in it not set?".to_owned());
    }
    let platform = flags
        .value("platform")?
        .filter(|platform| !platform.is_empty());
    Ok(Instruction::From {
        image,
        platform,
        name,
    })
}

fn files(
    statement: &Statement,
    flags: &Flags,
    escape: char,
    lookup: Lookup<'_>,
) -> Result<Instruction, String> {
    let arguments = statement.arguments.trim();
    let mut words = match form(arguments) {
        Form::Exec(words) => words
            .iter()
            .map(|path| expand::word(path, escape, lookup))
            .collect::<Result<Vec<_>, _>>()?,
        Form::Shell(_) => expand::split(arguments, escape)
            .into_iter()
            // Here-documents stand for themselves.
            .filter(|word| statement.heredocs.is_empty() || !word.starts_with("<<"))
            .map(|word| expand::word(word, escape, lookup))
            .collect::<Result<Vec<_>, _>>()?,
    };
    let name = statement.keyword.name();
    if words.len() + statement.heredocs.len() < 2 {
        return Err(format!(
            "{name} requires at least two arguments, but only one was provided. Destination could \
             not be determined"
        ));
    }
    let target = words.pop().unwrap_or_default();
    if target.is_empty() {
        return Err(format!(
            "{name}: the destination is empty: is a variable in it not set?"
        ));
    }
    let mut heredocs = statement.heredocs.clone();
    for heredoc in &mut heredocs {
        if heredoc.expand {
            heredoc.content = expand::document(&heredoc.content, escape, lookup)?;
        }
    }
    let mode = match flags.value("chmod")? {
        None => None,
        Some(text) => Some(
            u32::from_str_radix(&text, 8)
                .ok()
                .filter(|mode| *mode <= 0o7777)
                .ok_or_else(|| format!("--chmod={text}: expected an octal mode such as 755"))?,
        ),
    };
    // Layers are on their own here anyhow.
    flags.accept("link");
    let owner = flags.value("chown")?;
    if statement.keyword == Keyword::Add {
        let files = Files {
            sources: words,
            target,
            from: None,
            owner,
            mode,
            heredocs,
        };
        return Ok(Instruction::Add(files));
    }
    let from = flags.value("from")?;
    Ok(Instruction::Copy(Files {
        sources: words,
        target,
        from,
        owner,
        mode,
        heredocs,
    }))
}

fn run(statement: &Statement, flags: &Flags) -> Result<Instruction, String> {
    let network = flags.value("network")?;
    if let Some(network) = &network
        && !matches!(network.as_str(), "default" | "none" | "host")
    {
        return Err(format!(
            "--network={network}: expected default, none or host"
        ));
    }
    if flags.values.contains_key("mount") || flags.values.contains_key("security") {
        return Err(
            "RUN --mount and --security belong to BuildKit, which this builder is not".to_owned(),
        );
    }
    let arguments = statement.arguments.trim();
    if statement.heredocs.is_empty() {
        return Ok(Instruction::Run {
            form: form(arguments),
            network,
            stdin: None,
        });
    }
    // A document alone is the script; otherwise the shell sees it as written.
    let alone = statement.heredocs.len() == 1
        && arguments.starts_with("<<")
        && !arguments.contains(char::is_whitespace);
    if alone {
        let script = &statement.heredocs[0].content;
        if let Some(rest) = script.strip_prefix("#!") {
            // Its own interpreter reads it.
            let line = rest.lines().next().unwrap_or_default().trim();
            let mut words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            words.push("/dev/stdin".to_owned());
            let stdin = Some(script.clone());
            return Ok(Instruction::Run {
                form: Form::Exec(words),
                network,
                stdin,
            });
        }
        return Ok(Instruction::Run {
            form: Form::Shell(script.clone()),
            network,
            stdin: None,
        });
    }
    let mut text = arguments.to_owned();
    for heredoc in &statement.heredocs {
        text = format!(
            "{}\n{}{}",
            text.trim_end_matches('\n'),
            heredoc.content,
            heredoc.name
        );
    }
    text.push('\n');
    Ok(Instruction::Run {
        form: Form::Shell(text),
        network,
        stdin: None,
    })
}

fn onbuild(statement: &Statement) -> Result<Instruction, String> {
    let trigger = statement.shown["ONBUILD".len()..].trim();
    let word = trigger.split_whitespace().next().unwrap_or_default();
    match word.parse::<Keyword>() {
        Ok(Keyword::Onbuild) => {
            Err("chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed".to_owned())
        }
        Ok(keyword @ (Keyword::From | Keyword::Maintainer)) => Err(format!(
            "{} isn't allowed as an ONBUILD trigger",
            keyword.name()
        )),
        Ok(_) => Ok(Instruction::Onbuild(trigger.to_owned())),
        Err(()) => Err(format!("unknown instruction in ONBUILD: {word}")),
    }
}

fn healthcheck(arguments: &str, flags: &Flags) -> Result<Healthcheck, String> {
    let (kind, rest) = arguments
        .split_once(char::is_whitespace)
        .unwrap_or((arguments, ""));
    let mut check = Healthcheck::default();
    let duration = |name| match flags.value(name)? {
        None => Ok(0),
        Some(text) => nanoseconds(&text)
            .ok_or_else(|| format!("--{name}={text}: expected a duration such as 30s or 1m30s")),
    };
    check.interval = duration("interval")?;
    check.timeout = duration("timeout")?;
    check.start_period = duration("start-period")?;
    check.start_interval = duration("start-interval")?;
    if let Some(text) = flags.value("retries")? {
        check.retries = text
            .parse()
            .ok()
            .filter(|retries| *retries >= 0)
            .ok_or_else(|| format!("--retries={text}: expected a number"))?;
    }
    match kind.to_uppercase().as_str() {
        "NONE" if rest.trim().is_empty() => check.test = vec!["NONE".to_owned()],
        "CMD" => {
            check.test = match form(rest.trim()) {
                Form::Exec(words) => [vec!["CMD".to_owned()], words].concat(),
                Form::Shell(command) => vec!["CMD-SHELL".to_owned(), command],
            };
            if check.test.last().is_some_and(String::is_empty) || check.test.len() < 2 {
                return Err("missing command after HEALTHCHECK CMD".to_owned());
            }
        }
        _ => {
            return Err(format!(
                "unknown type {kind:?} in HEALTHCHECK (try CMD or NONE)"
            ));
        }
    }
    Ok(check)
}

/// Go's durations: numbers with units, one after the other.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let unit = rest
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "ns" => 1.0,
                "us" | "µs" => 1e3,
                "ms" => 1e6,
                "s" => 1e9,
                "m" => 60e9,
                "h" => 3600e9,
                _ => return None,
            };
        rest = &rest[unit..];
    }
    (total <= i64::MAX as f64 && !text.is_empty()).then_some(total as i64)
}

/// `80`, `80/udp`, `8000-8010/tcp` as the ports they mean.
fn ports(text: &str) -> Result<Vec<String>, String> {
    let bad = || format!("invalid containerPort: {text}");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let first: u16 = first.parse().map_err(|_| bad())?;
    let last: u16 = last.parse().map_err(|_| bad())?;
    if first > last {
        return Err(bad());
    }
    Ok((first..=last)
        .map(|port| format!("{port}/{protocol}"))
        .collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    fn read(line: &str) -> Result<Instruction, String> {
        let dockerfile = parse("D", line).map_err(|error| error.to_string())?;
        let lookup = |name: &str| (name == "v").then(|| "value".to_owned());
        Instruction::read(&dockerfile.statements[0], dockerfile.escape, &lookup)
    }

    #[test]
    fn forms_are_told_apart() {
        let words = |words: &[&str]| words.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            read(r#"CMD ["a", "$v"]"#),
            Ok(Instruction::Cmd(Form::Exec(words(&["a", "$v"]))))
        );
        assert_eq!(
            read("CMD a $v"),
            Ok(Instruction::Cmd(Form::Shell("a $v".into())))
        );
        assert_eq!(
            read("CMD ['a']"),
            Ok(Instruction::Cmd(Form::Shell("['a']".into())))
        );
        assert!(read("SHELL /bin/sh").is_err());
    }

    #[test]
    fn pairs_have_two_forms() {
        let env = |pairs: &[(&str, &str)]| {
            let pairs = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            Ok(Instruction::Env(pairs.collect()))
        };
        assert_eq!(
            read("ENV a=1 b=\"2 $v\" c=x\\ y"),
            env(&[("a", "1"), ("b", "2 value"), ("c", "x y")])
        );
        assert_eq!(read("ENV a one two"), env(&[("a", "one two")]));
        assert!(read("ENV a").is_err());
        assert!(read("ENV a=1 b").is_err());
        assert!(read("ENV =1").is_err());
    }

    #[test]
    fn durations_ports_and_checks() {
        assert_eq!(nanoseconds("1m30s"), Some(90_000_000_000));
        assert_eq!(nanoseconds("1.5s"), Some(1_500_000_000));
        assert_eq!(nanoseconds("5"), None);
        assert_eq!(
            ports("8000-8002/UDP").unwrap(),
            ["8000/udp", "8001/udp", "8002/udp"]
        );
        assert!(ports("99999").is_err() && ports("1/x").is_err() && ports("2-1").is_err());
        let Ok(Instruction::Healthcheck(check)) =
            read("HEALTHCHECK --interval=5s --retries=3 CMD curl -f http://x")
        else {
            panic!("no healthcheck");
        };
        assert_eq!(check.test, ["CMD-SHELL", "curl -f http://x"]);
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
        assert!(read("HEALTHCHECK CMD").is_err() && read("HEALTHCHECK FOO x").is_err());
    }

    #[test]
    fn unknown_flags_are_named() {
        assert_eq!(
            read("COPY --chwon=1 a b").unwrap_err(),
            "COPY does not know the flag --chwon, did you mean --chown?"
        );
        assert!(read("FROM --platform x").is_err());
        assert!(read("COPY a").is_err());
        assert!(read("FROM a b").is_err());
        assert!(read("FROM ${none}").is_err());
        assert!(read("ONBUILD ONBUILD RUN x").is_err());
    }

    #[test]
    fn documents_become_scripts() {
        let script = read("RUN <<EOF\na\nb\nEOF\n").unwrap();
        let Instruction::Run { form, .. } = script else {
            panic!("no run")
        };
        assert_eq!(form, Form::Shell("a\nb\n".into()));
        let Ok(Instruction::Run { form, stdin, .. }) = read("RUN <<EOF\n#!/bin/x -y\nz\nEOF\n")
        else {
            panic!("no run")
        };
        assert_eq!(
            form,
            Form::Exec(vec!["/bin/x".into(), "-y".into(), "/dev/stdin".into()])
        );
        assert_eq!(stdin.as_deref(), Some("#!/bin/x -y\nz\n"));
        let Ok(Instruction::Run { form, .. }) = read("RUN cat <<EOF >f\na\nEOF\n") else {
            panic!("no run")
        };
        assert_eq!(form, Form::Shell("cat <<EOF >f\na\nEOF\n".into()));
    }
}
