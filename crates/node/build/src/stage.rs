//! Stages: which there are, which of them the target needs.

use std::collections::BTreeMap;

use crate::diagnose::{Error, Result, nearest};
use crate::expand::Lookup;
use crate::instruction::{Instruction, Keyword};
use crate::parse::{Dockerfile, Statement};

/// A stage of a Dockerfile.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    /// The image or stage it begins with.
    pub(crate) image: String,
    pub(crate) platform: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) from: &'a Statement,
    pub(crate) statements: &'a [Statement],
    /// Stages it needs, by number.
    needs: Vec<usize>,
    /// The stage it begins with, if it is one.
    pub(crate) base: Option<usize>,
}

/// All stages, and what the first lines declare.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) stages: Vec<Stage<'a>>,
    /// Arguments declared before the first FROM.
    pub(crate) globals: BTreeMap<String, String>,
    pub(crate) target: usize,
}

impl<'a> Plan<'a> {
    /// Finds the stages, with variables of the first lines expanded.
    pub(crate) fn new(
        dockerfile: &'a Dockerfile,
        given: &BTreeMap<String, Option<String>>,
        predefined: Lookup<'_>,
        target: Option<&str>,
    ) -> Result<Plan<'a>> {
        let mut globals: BTreeMap<String, String> = BTreeMap::new();
        let mut stages: Vec<Stage<'a>> = Vec::new();
        let statements = &dockerfile.statements;
        for (n, statement) in statements.iter().enumerate() {
            let wrong = |message: String| Error::Dockerfile(dockerfile.about(statement, message));
            let lookup = |name: &str| globals.get(name).cloned().or_else(|| predefined(name));
            match statement.keyword {
                Keyword::From => {
                    let read = Instruction::read(statement, dockerfile.escape, &lookup);
                    let Instruction::From {
                        image,
                        platform,
                        name,
                    } = read.map_err(wrong)?
                    else {
                        unreachable!("FROM reads as FROM");
                    };
                    let rest = &statements[n + 1..];
                    let length = rest
                        .iter()
                        .position(|statement| statement.keyword == Keyword::From)
                        .unwrap_or(rest.len());
                    let base = number_of(&stages, &image);
                    let mut needs: Vec<usize> = base.into_iter().collect();
                    for inner in &rest[..length] {
                        if inner.keyword != Keyword::Copy {
                            continue;
                        }
                        let from = inner.flags.iter().find(|(name, _)| name == "from");
                        if let Some((_, Some(from))) = from {
                            needs.extend(number_of(&stages, from));
                        }
                    }
                    stages.push(Stage {
                        image,
                        platform,
                        name,
                        from: statement,
                        statements: &rest[..length],
                        needs,
                        base,
                    });
                }
                Keyword::Arg if stages.is_empty() => {
                    let read = Instruction::read(statement, dockerfile.escape, &lookup);
                    let Instruction::Arg(declared) = read.map_err(wrong)? else {
                        unreachable!("ARG reads as ARG");
                    };
                    for (name, default) in declared {
                        let value = given.get(&name).cloned().flatten().or(default);
                        if let Some(value) = value.or_else(|| predefined(&name)) {
                            globals.insert(name, value);
                        }
                    }
                }
                _ if stages.is_empty() => {
                    return Err(wrong(
                        "no build stage in current context: a Dockerfile begins with FROM (or ARG)"
                            .into(),
                    ));
                }
                _ => {}
            }
        }
        if stages.is_empty() {
            let message = format!("{}: no FROM: there is nothing to build", dockerfile.name);
            return Err(Error::Invalid(message));
        }
        let target = match target.filter(|target| !target.is_empty()) {
            None => stages.len() - 1,
            Some(target) => number_of(&stages, target).ok_or_else(|| {
                let known = stages.iter().filter_map(|stage| stage.name.as_deref());
                let hint = nearest(target, known);
                let hint = hint.map(|hint| format!(", did you mean {hint}?"));
                Error::Invalid(format!(
                    "target stage {target:?} could not be found{}",
                    hint.unwrap_or_default()
                ))
            })?,
        };
        Ok(Plan {
            stages,
            globals,
            target,
        })
    }

    /// The numbers of the stages that the target needs, itself included, in
    /// order.
    pub(crate) fn needed(&self) -> Vec<usize> {
        let mut needed = vec![false; self.stages.len()];
        needed[self.target] = true;
        // What a stage needs comes before it.
        for n in (0..self.stages.len()).rev() {
            if needed[n] {
                for need in &self.stages[n].needs {
                    needed[*need] = true;
                }
            }
        }
        (0..self.stages.len()).filter(|n| needed[*n]).collect()
    }

    /// The stage of this name or number, among those before `before`.
    pub(crate) fn find(&self, name: &str, before: usize) -> Option<usize> {
        number_of(&self.stages[..before], name)
    }
}

fn number_of(stages: &[Stage<'_>], name: &str) -> Option<usize> {
    let lower = name.to_lowercase();
    stages
        .iter()
        .rposition(|stage| stage.name.as_deref() == Some(&lower))
        .or_else(|| name.parse().ok().filter(|number| *number < stages.len()))
}
