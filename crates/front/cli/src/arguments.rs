//! Arguments as Docker's client reads them.
//!
//! Its flags have rules of their own, which scripts rely on: `--rm=false`, the
//! last of two values wins, a flag behind an image belongs to the program.
//! So they are read here, with clap's definition as the table of what there
//! is, and handed to clap in words that have one meaning: `--name=value` each,
//! then `--`, then what is no flag. What was wrong is told in Docker's shape,
//! with its exit codes.

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command, Parser};

/// What a flag that makes no sense ends with.
const WRONG_FLAG: u8 = 125;
/// What too many words, or too few, end with.
const WRONG_WORDS: u8 = 1;

/// Reads the arguments of this program, whose name comes first.
///
/// # Errors
///
/// What the program ends with when there is nothing to do: help was asked for,
/// or something was wrong. It is told already.
pub fn parse<P: Parser>(words: impl IntoIterator<Item = OsString>) -> Result<P, ExitCode> {
    let words: Vec<OsString> = words.into_iter().collect();
    let definition = definition(P::command(), &words);
    let read = read(&definition, words).map_err(|refusal| refusal.tell())?;
    let parsed = P::command()
        .try_get_matches_from(&read.words)
        .and_then(|matches| P::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
            anstream::print!("{}", error.render().ansi());
            ExitCode::SUCCESS
        }
        // Flags alone ask for nothing.
        ErrorKind::MissingSubcommand => {
            anstream::print!("{}", read.command.clone().render_help().ansi());
            ExitCode::SUCCESS
        }
        _ => {
            let message = message_of(&error, read.command);
            Refusal::flag(read.command, &read.path, message).tell()
        }
    })
}

/// The definition, complete for the commands that the words name: there are more
/// than a hundred, and making them all takes longer than reading one.
fn definition(all: Command, words: &[OsString]) -> Command {
    let is_named = |command: &Command| {
        let mut names = command.get_all_aliases().chain([command.get_name()]);
        names.any(|name| words.iter().any(|word| word == name))
    };
    let mut definition = all.mut_subcommands(|command| match is_named(&command) {
        true => command,
        false => command.defer(|empty| empty),
    });
    definition.build();
    definition
}

/// What was read: words with one meaning, and whose they are.
struct Read<'d> {
    words: Vec<OsString>,
    command: &'d Command,
    path: String,
}

/// Why arguments were not taken.
#[derive(Debug)]
struct Refusal {
    text: String,
    code: u8,
}

impl Refusal {
    fn flag(command: &Command, path: &str, message: impl std::fmt::Display) -> Self {
        let usage = command.clone().render_usage().to_string();
        let usage = usage.trim_start_matches("Usage:").trim();
        Self {
            text: format!(
                "{message}\n\nUsage:  {usage}\n\nRun '{path} --help' for more information"
            ),
            code: WRONG_FLAG,
        }
    }

    fn words(command: &Command, path: &str, message: &str) -> Self {
        let refusal = Self::flag(command, path, format_args!("dhow: '{path}' {message}"));
        Self {
            code: WRONG_WORDS,
            ..refusal
        }
    }

    fn unknown(path: &str, name: &str) -> Self {
        Self {
            text: format!(
                "dhow: unknown command: {path} {name}\n\nRun '{path} --help' for more information"
            ),
            code: WRONG_WORDS,
        }
    }

    fn tell(&self) -> ExitCode {
        anstream::eprintln!("{}", self.text);
        ExitCode::from(self.code)
    }
}

fn read(
    definition: &Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Read<'_>, Refusal> {
    let mut words: Vec<OsString> = words.into_iter().collect();
    words.reverse();
    let program = words.pop().unwrap_or_else(|| "dhow".into());
    let mut read = Read {
        words: vec![program],
        command: definition,
        path: definition.get_name().to_owned(),
    };
    loop {
        let command = read.command;
        let mut level = Level::new(command, &read.path);
        level.read(&mut words)?;
        read.words.extend(level.flags());
        let mut others = level.others;
        if level.asks_help || !command.has_subcommands() {
            if !level.asks_help {
                check_count(command, &read.path, others.len())?;
                read.words.push("--".into());
            }
            read.words.append(&mut others);
            return Ok(read);
        }
        let Some(name) = others.first().cloned() else {
            return Ok(read);
        };
        let Some(next) = command.find_subcommand(&name) else {
            return Err(Refusal::unknown(&read.path, &name.to_string_lossy()));
        };
        if next.get_name() == "help" {
            // Help knows its own words.
            read.words.append(&mut others);
            return Ok(read);
        }
        read.path = format!("{} {}", read.path, next.get_name());
        read.words.push(next.get_name().into());
        read.command = next;
        words = others.split_off(1);
        words.reverse();
    }
}

/// The words of one command, up to those of its subcommand.
struct Level<'d> {
    command: &'d Command,
    path: &'d str,
    given: Vec<Given<'d>>,
    others: Vec<OsString>,
    asks_help: bool,
}

/// A flag and what it was given.
struct Given<'d> {
    arg: &'d Arg,
    values: Vec<OsString>,
}

/// What a flag does with its value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// It is there or it is not.
    Switch,
    /// A truth value, true unless said otherwise.
    Choice,
    One,
    Many,
    /// It asks for help, or for the version.
    Question,
}

impl Kind {
    fn of(arg: &Arg) -> Self {
        match arg.get_action() {
            ArgAction::SetTrue | ArgAction::SetFalse => Self::Switch,
            ArgAction::Append => Self::Many,
            ArgAction::Set => match arg.get_num_args() {
                Some(range) if range.min_values() == 0 => Self::Choice,
                _ => Self::One,
            },
            _ => Self::Question,
        }
    }
}

impl<'d> Level<'d> {
    fn new(command: &'d Command, path: &'d str) -> Self {
        Self {
            command,
            path,
            given: Vec::new(),
            others: Vec::new(),
            asks_help: false,
        }
    }

    /// Takes words off the end of `words`, which are in reverse.
    fn read(&mut self, words: &mut Vec<OsString>) -> Result<(), Refusal> {
        let stops = self.command.has_subcommands() || takes_the_rest(self.command);
        while let Some(word) = words.pop() {
            match word.to_str() {
                Some("--") => {
                    self.others.extend(words.drain(..).rev());
                }
                Some(text) if text.starts_with("--") => self.long(&text[2..], words)?,
                Some(text) if text.len() > 1 && text.starts_with('-') => {
                    self.short(&text[1..], words)?;
                }
                _ => {
                    self.others.push(word);
                    if stops {
                        self.others.extend(words.drain(..).rev());
                    }
                }
            }
            if self.asks_help {
                return Ok(());
            }
        }
        Ok(())
    }

    fn long(&mut self, text: &str, words: &mut Vec<OsString>) -> Result<(), Refusal> {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (text, None),
        };
        let is_named = |arg: &&Arg| {
            arg.get_long() == Some(name)
                || arg.get_all_aliases().is_some_and(|all| all.contains(&name))
        };
        let Some(arg) = self.command.get_arguments().find(is_named) else {
            return Err(self.refuse(format_args!("unknown flag: --{name}")));
        };
        match (Kind::of(arg), value) {
            (Kind::Question, _) => self.ask(arg),
            (_, Some(value)) => self.give(arg, value.into())?,
            (Kind::Switch | Kind::Choice, None) => self.give(arg, "true".into())?,
            (_, None) => match words.pop() {
                Some(value) => self.give(arg, value)?,
                None => {
                    return Err(self.refuse(format_args!("flag needs an argument: --{name}")));
                }
            },
        }
        Ok(())
    }

    /// Letters behind one dash; what follows the first that takes a value is
    /// its value.
    fn short(&mut self, text: &str, words: &mut Vec<OsString>) -> Result<(), Refusal> {
        let mut rest = text.chars();
        while let Some(letter) = rest.next() {
            let is_named = |arg: &&Arg| {
                arg.get_short() == Some(letter)
                    || arg
                        .get_all_short_aliases()
                        .is_some_and(|all| all.contains(&letter))
            };
            let Some(arg) = self.command.get_arguments().find(is_named) else {
                let message = format_args!("unknown shorthand flag: '{letter}' in -{text}");
                return Err(self.refuse(message));
            };
            let behind = rest.as_str();
            match (Kind::of(arg), behind.strip_prefix('=')) {
                (Kind::Question, _) => {
                    self.ask(arg);
                    return Ok(());
                }
                // A lone `=` is a value.
                (_, Some(value)) if !value.is_empty() => {
                    self.give(arg, value.into())?;
                    return Ok(());
                }
                (Kind::Switch | Kind::Choice, _) => self.give(arg, "true".into())?,
                _ if !behind.is_empty() => {
                    self.give(arg, behind.into())?;
                    return Ok(());
                }
                _ => match words.pop() {
                    Some(value) => self.give(arg, value)?,
                    None => {
                        let message = format_args!("flag needs an argument: '{letter}' in -{text}");
                        return Err(self.refuse(message));
                    }
                },
            }
        }
        Ok(())
    }

    fn ask(&mut self, arg: &'d Arg) {
        self.asks_help = true;
        let values = Vec::new();
        self.given = vec![Given { arg, values }];
        self.others.clear();
    }

    fn give(&mut self, arg: &'d Arg, value: OsString) -> Result<(), Refusal> {
        let kind = Kind::of(arg);
        let value = match kind {
            Kind::Switch | Kind::Choice => match truth(&value) {
                Some(is_true) => is_true.to_string().into(),
                None => {
                    let shown = value.to_string_lossy();
                    let name = shown_name(arg);
                    return Err(self.refuse(format_args!(
                        "invalid argument {shown:?} for {name:?} flag: it is neither true nor false"
                    )));
                }
            },
            _ => value,
        };
        let at = match self
            .given
            .iter()
            .position(|one| one.arg.get_id() == arg.get_id())
        {
            Some(at) => at,
            None => {
                let values = Vec::new();
                self.given.push(Given { arg, values });
                self.given.len() - 1
            }
        };
        let values = &mut self.given[at].values;
        if kind != Kind::Many {
            values.clear();
        }
        values.push(value);
        Ok(())
    }

    /// The flags in clap's words.
    fn flags(&self) -> Vec<OsString> {
        let mut words = Vec::new();
        for Given { arg, values } in &self.given {
            let name = match (arg.get_long(), arg.get_short()) {
                (Some(long), _) => format!("--{long}"),
                (None, short) => format!("-{}", short.unwrap_or_default()),
            };
            match Kind::of(arg) {
                Kind::Question => words.push(name.into()),
                Kind::Switch if values.iter().all(|value| value == "true") => {
                    words.push(name.into());
                }
                Kind::Switch => {}
                Kind::Choice | Kind::One | Kind::Many => {
                    for value in values {
                        let mut word = OsString::from(format!("{name}="));
                        word.push(value);
                        words.push(word);
                    }
                }
            }
        }
        words
    }

    fn refuse(&self, message: impl std::fmt::Display) -> Refusal {
        Refusal::flag(self.command, self.path, message)
    }
}

/// Whether the first word that is no flag ends the flags.
fn takes_the_rest(command: &Command) -> bool {
    command.get_positionals().any(Arg::is_trailing_var_arg_set)
}

/// A truth value in Go's words.
pub(crate) fn truth(value: &OsStr) -> Option<bool> {
    match value.to_str()? {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn shown_name(arg: &Arg) -> String {
    let long = arg.get_long().unwrap_or_default();
    match arg.get_short() {
        Some(short) => format!("-{short}, --{long}"),
        None => format!("--{long}"),
    }
}

fn check_count(command: &Command, path: &str, n_words: usize) -> Result<(), Refusal> {
    let (mut fewest, mut most) = (0usize, 0usize);
    for positional in command.get_positionals() {
        let range = positional.get_num_args().unwrap_or_default();
        if positional.is_required_set() {
            fewest += range.min_values().max(1);
        }
        most = most.saturating_add(range.max_values());
    }
    if (fewest..=most).contains(&n_words) {
        return Ok(());
    }
    let arguments = |n: usize| format!("{n} argument{}", if n == 1 { "" } else { "s" });
    let message = match (fewest, most) {
        (_, 0) => "accepts no arguments".to_owned(),
        (n, m) if n == m => format!("requires {}", arguments(n)),
        (n, usize::MAX) => format!("requires at least {}", arguments(n)),
        (0, m) => format!("requires at most {}", arguments(m)),
        (n, m) => format!("requires at least {n} and at most {}", arguments(m)),
    };
    Err(Refusal::words(command, path, &message))
}

/// What clap found wrong, in Docker's words.
fn message_of(error: &clap::Error, command: &Command) -> String {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let wrong = matches!(
        error.kind(),
        ErrorKind::ValueValidation | ErrorKind::InvalidValue
    );
    if wrong && let Some(name) = text(ContextKind::InvalidArg) {
        let value = text(ContextKind::InvalidValue).unwrap_or_default();
        let long = name.split([' ', '=']).next().unwrap_or_default();
        let is_it = |arg: &&Arg| arg.get_long().is_some_and(|own| long == format!("--{own}"));
        let name = match command.get_arguments().find(is_it) {
            Some(arg) => format!("{:?} flag", shown_name(arg)),
            None => name.to_owned(),
        };
        let why = match (error.source(), error.get(ContextKind::ValidValue)) {
            (Some(source), _) => source.to_string(),
            (None, Some(ContextValue::Strings(valid))) => {
                format!("it is one of {}", valid.join(", "))
            }
            (None, _) => "it is none".to_owned(),
        };
        return format!("invalid argument {value:?} for {name}: {why}");
    }
    // What comes behind an empty line is the usage.
    let rendered = error.render().to_string();
    let what = rendered.split("\n\n").next().unwrap_or_default();
    what.trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[derive(Debug, Parser)]
    #[command(name = "dhow")]
    struct Line {
        #[arg(short = 'H', long)]
        host: Option<String>,
        #[command(subcommand)]
        verb: Verb,
    }

    #[derive(Debug, clap::Subcommand)]
    #[command(defer = true)]
    enum Verb {
        Run(Run),
        #[command(visible_alias = "remove")]
        Rm {
            #[arg(short, long)]
            force: bool,
            #[arg(required = true)]
            names: Vec<String>,
        },
        #[command(subcommand)]
        Net(Net),
    }

    #[derive(Debug, clap::Subcommand)]
    #[command(defer = true)]
    enum Net {
        Rename { from: String, to: String },
    }

    #[derive(Debug, clap::Args)]
    struct Run {
        #[arg(short, long)]
        detach: bool,
        #[arg(short, long)]
        interactive: bool,
        #[arg(short, long)]
        env: Vec<String>,
        #[arg(short, long, alias = "net")]
        network: Option<String>,
        #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
        init: Option<bool>,
        #[arg(required = true, trailing_var_arg = true)]
        words: Vec<String>,
    }

    fn words(line: &str) -> Vec<OsString> {
        ["dhow"]
            .into_iter()
            .chain(line.split(' '))
            .map(Into::into)
            .collect()
    }

    #[track_caller]
    fn run(line: &str) -> Run {
        let words = words(line);
        let definition = definition(Line::command(), &words);
        let read = read(&definition, words).expect(line);
        let line = Line::try_parse_from(read.words).expect(line);
        match line.verb {
            Verb::Run(run) => run,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn refused(line: &str) -> (u8, String) {
        let words = words(line);
        let definition = definition(Line::command(), &words);
        let refusal = read(&definition, words).err().expect("refused");
        let first = refusal.text.lines().next().unwrap_or_default().to_owned();
        (refusal.code, first)
    }

    #[test]
    fn behind_the_image_everything_is_the_program_s() {
        for rest in [
            "image -d -i",
            "image --help",
            "image -H x --host=y",
            "image -- -d",
        ] {
            let read = run(&format!("run {rest}"));
            assert_eq!(read.words.join(" "), rest);
            assert!(!read.detach && !read.interactive);
        }
        // Behind two dashes too, which are nobody's.
        assert_eq!(run("run -d -- -i x").words, ["-i", "x"]);
    }

    #[test]
    fn flags_have_go_s_forms() {
        for (line, detach, interactive) in [
            ("run -di x", true, true),
            ("run -d=false -i=1 x", false, true),
            ("run --detach=T --interactive=F x", true, false),
            ("run -d --detach=false x", false, false),
            ("run -id=false x", false, true),
        ] {
            let read = run(line);
            assert_eq!(
                (read.detach, read.interactive),
                (detach, interactive),
                "{line}"
            );
        }
        assert_eq!(run("run -n a --net=b -nc x").network.as_deref(), Some("c"));
        assert_eq!(run("run -n= x").network.as_deref(), Some("="));
        assert_eq!(run("run -ea=1 -e b -e -c x").env, ["a=1", "b", "-c"]);
        assert_eq!(run("run --env= x").env, [""]);
        assert_eq!(run("run --init x").init, Some(true));
        assert_eq!(run("run --init=0 x").init, Some(false));
        assert_eq!(run("run x").init, None);
    }

    #[test]
    fn what_is_wrong_is_told_as_docker_tells_it() {
        for (line, code, first) in [
            ("run --foo x", 125, "unknown flag: --foo"),
            ("run -dz x", 125, "unknown shorthand flag: 'z' in -dz"),
            ("run --env", 125, "flag needs an argument: --env"),
            ("run -de", 125, "flag needs an argument: 'e' in -de"),
            // Flags of the program stand before its verb.
            ("run -H x", 125, "unknown shorthand flag: 'H' in -H"),
            (
                "run -d=maybe x",
                125,
                "invalid argument \"maybe\" for \"-d, --detach\" flag: it is neither true nor false",
            ),
            ("run -d", 1, "dhow: 'dhow run' requires at least 1 argument"),
            ("remove", 1, "dhow: 'dhow rm' requires at least 1 argument"),
            (
                "net rename a",
                1,
                "dhow: 'dhow net rename' requires 2 arguments",
            ),
            ("other", 1, "dhow: unknown command: dhow other"),
            ("net other", 1, "dhow: unknown command: dhow net other"),
        ] {
            assert_eq!(refused(line), (code, first.to_owned()), "{line}");
        }
    }

    #[test]
    fn flags_may_stand_behind_names() {
        let words = words("-H y rm a -f b");
        let definition = definition(Line::command(), &words);
        let read = read(&definition, words).expect("good");
        let line = Line::try_parse_from(read.words).expect("good");
        assert_eq!(line.host.as_deref(), Some("y"));
        let Verb::Rm { force, names } = line.verb else {
            panic!("it was rm");
        };
        assert!(force);
        assert_eq!(names, ["a", "b"]);
    }
}
