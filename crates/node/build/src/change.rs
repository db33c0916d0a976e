//! Instructions that change how containers of an image run, and nothing else:
//! as statements of a Dockerfile, and as the changes of a commit or import.

use std::collections::BTreeMap;

use dhow_oci::{ContainerConfig, Empty};

use crate::execute::{join, set_env};
use crate::instruction::{Form, Instruction, Keyword};
use crate::parse::parse;

/// Statements that a commit or import may make.
const ALLOWED: [Keyword; 12] = [
    Keyword::Cmd,
    Keyword::Entrypoint,
    Keyword::Env,
    Keyword::Expose,
    Keyword::Healthcheck,
    Keyword::Label,
    Keyword::Onbuild,
    Keyword::Shell,
    Keyword::Stopsignal,
    Keyword::User,
    Keyword::Volume,
    Keyword::Workdir,
];

/// Makes changes that are written as statements of a Dockerfile, one or more
/// lines each.
///
/// # Errors
///
/// A text that names the statement that makes no sense here.
pub fn change(config: &mut ContainerConfig, changes: &[String]) -> Result<(), String> {
    for text in changes {
        // The parser knows whole files only.
        let file = parse("change", &format!("FROM scratch\n{text}\n"))
            .map_err(|error| error.to_string())?;
        let mut has_command = false;
        for statement in file.statements.iter().skip(1) {
            let keyword = statement.keyword;
            if !ALLOWED.contains(&keyword) {
                return Err(format!("{} is not a valid change command", keyword.name()));
            }
            let variables: BTreeMap<&str, &str> = config
                .env
                .iter()
                .filter_map(|pair| pair.split_once('='))
                .collect();
            let lookup = |name: &str| variables.get(name).map(|value| (*value).to_owned());
            let instruction = Instruction::read(statement, file.escape, &lookup)?;
            has_command |= keyword == Keyword::Cmd;
            apply(&instruction, config, !has_command);
        }
    }
    Ok(())
}

/// Makes the change of one instruction; `drops_command` says whether a new
/// entry point takes the command of before away. Others change nothing.
pub(crate) fn apply(instruction: &Instruction, config: &mut ContainerConfig, drops_command: bool) {
    match instruction {
        Instruction::Env(pairs) => {
            for (name, value) in pairs {
                set_env(&mut config.env, name, value);
            }
        }
        Instruction::Label(pairs) => config.labels.extend(pairs.iter().cloned()),
        Instruction::Expose(ports) => {
            for port in ports {
                config.exposed_ports.insert(port.clone(), Empty {});
            }
        }
        Instruction::Volume(paths) => {
            for path in paths {
                config.volumes.insert(path.clone(), Empty {});
            }
        }
        Instruction::User(user) => config.user.clone_from(user),
        Instruction::Stopsignal(signal) => config.stop_signal.clone_from(signal),
        Instruction::Onbuild(trigger) => config.on_build.push(trigger.clone()),
        Instruction::Shell(words) => config.shell = Some(words.clone()),
        Instruction::Healthcheck(check) => config.healthcheck = Some(check.clone()),
        Instruction::Cmd(form) => config.cmd = Some(command(form, config)),
        Instruction::Entrypoint(form) => {
            config.entrypoint = Some(command(form, config));
            if drops_command {
                config.cmd = None;
            }
        }
        Instruction::Workdir(path) => config.working_dir = join(&config.working_dir, path),
        Instruction::Add(_)
        | Instruction::Arg(_)
        | Instruction::Copy(_)
        | Instruction::From { .. }
        | Instruction::Maintainer(_)
        | Instruction::Run { .. } => {}
    }
}

/// A command with the shell in front, if it is for the shell.
pub(crate) fn command(form: &Form, config: &ContainerConfig) -> Vec<String> {
    match form {
        Form::Exec(words) => words.clone(),
        Form::Shell(text) if text.is_empty() => Vec::new(),
        Form::Shell(text) => {
            let shell = config.shell.clone();
            let mut words = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
            words.push(text.clone());
            words
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(changes: &[&str]) -> Result<ContainerConfig, String> {
        let mut config = ContainerConfig {
            env: vec!["A=1".into()],
            cmd: Some(vec!["old".into()]),
            ..ContainerConfig::default()
        };
        let changes: Vec<String> = changes.iter().map(|text| (*text).to_owned()).collect();
        change(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn changes_are_made_in_order() {
        let config = changed(&[
            "ENV A=2 B=$A",
            "WORKDIR /srv",
            "WORKDIR www\nEXPOSE 80",
            r#"ENTRYPOINT ["/bin/serve"]"#,
            "CMD go $B",
            "LABEL who=\"some one\"",
        ])
        .expect("good");
        assert_eq!(config.env, ["A=2", "B=1"]);
        assert_eq!(config.working_dir, "/srv/www");
        assert!(config.exposed_ports.contains_key("80/tcp"));
        assert_eq!(
            config.entrypoint.as_deref(),
            Some(&["/bin/serve".to_owned()][..])
        );
        assert_eq!(config.cmd.expect("new").last().expect("a word"), "go $B");
        assert_eq!(config.labels["who"], "some one");
    }

    #[test]
    fn what_is_no_change_is_refused() {
        for (text, part) in [
            ("RUN true", "RUN is not a valid change command"),
            ("COPY a b", "COPY is not a valid change command"),
            ("NONSENSE", "NONSENSE"),
            ("EXPOSE http", "http"),
        ] {
            let error = changed(&[text]).expect_err(text);
            assert!(error.contains(part), "{error}");
        }
    }
}
