//! From a tree and a value to text.

use std::borrow::Cow;

use serde_json::Value;

use super::functions;
use super::parse::{Node, Operand, Pipeline};

/// Fields that are lists, and those that are maps, where Docker's client knows
/// that of one that is not there.
const LISTS: [&str; 24] = [
    "Aliases",
    "Args",
    "Binds",
    "CapAdd",
    "CapDrop",
    "Cmd",
    "DeviceCgroupRules",
    "DeviceRequests",
    "Devices",
    "Dns",
    "DnsOptions",
    "DnsSearch",
    "Entrypoint",
    "Env",
    "ExecIDs",
    "ExtraHosts",
    "GroupAdd",
    "Links",
    "Mounts",
    "OnBuild",
    "SecurityOpt",
    "Shell",
    "Ulimits",
    "VolumesFrom",
];
const MAPS: [&str; 5] = ["DriverOpts", "ExposedPorts", "Labels", "Options", "Volumes"];

/// A value on its way through a template.
#[derive(Debug, Clone)]
pub(super) enum Data<'a> {
    /// One of JSON.
    Json(Cow<'a, Value>),
    /// Nothing: `nil`, or what is not there.
    Nothing,
    /// Nothing, where a list would be.
    NoList,
    /// Nothing, where a map would be.
    NoMap,
}

impl Data<'_> {
    pub(super) fn of(value: impl Into<Value>) -> Data<'static> {
        Data::Json(Cow::Owned(value.into()))
    }

    /// The value; null for nothing.
    pub(super) fn json(&self) -> &Value {
        match self {
            Data::Json(value) => value,
            Data::Nothing | Data::NoList | Data::NoMap => &Value::Null,
        }
    }

    /// Whether it counts as true: neither nothing nor empty.
    pub(super) fn is_true(&self) -> bool {
        match self.json() {
            Value::Null => false,
            Value::Bool(is) => *is,
            Value::Number(number) => number.as_f64() != Some(0.0),
            Value::String(text) => !text.is_empty(),
            Value::Array(items) => !items.is_empty(),
            Value::Object(fields) => !fields.is_empty(),
        }
    }
}

impl<'a> Data<'a> {
    /// A part of a value, by the name it has there.
    fn part(value: Cow<'a, Value>, name: &str) -> Result<Self, String> {
        let found = match &value {
            Cow::Borrowed(Value::Object(fields)) => fields.get(name).map(Cow::Borrowed),
            Cow::Owned(Value::Object(fields)) => fields.get(name).cloned().map(Cow::Owned),
            other => {
                return Err(format!(
                    "executing \"\" at <.{name}>: can't evaluate field {name} in type {}",
                    functions::kind(other)
                ));
            }
        };
        match found.as_deref() {
            None => Err(format!(
                "executing \"\" at <.{name}>: map has no entry for key {name:?}"
            )),
            Some(Value::Null) if LISTS.contains(&name) => Ok(Data::NoList),
            Some(Value::Null) if MAPS.contains(&name) => Ok(Data::NoMap),
            Some(Value::Null) => Ok(Data::Nothing),
            Some(_) => Ok(Data::Json(found.unwrap_or_default())),
        }
    }

    fn field(self, names: &[String]) -> Result<Self, String> {
        let mut found = self;
        for name in names {
            found = match found {
                Data::Json(value) => Self::part(value, name)?,
                _ => {
                    return Err(format!(
                        "executing \"\" at <.{name}>: nil data; no entry for key {name:?}"
                    ));
                }
            };
        }
        Ok(found)
    }
}

/// How a block ended.
#[derive(PartialEq)]
enum Flow {
    On,
    Break,
    Continue,
}

struct Run<'a> {
    root: &'a Value,
    labels: &'a [(String, String)],
    is_heading: bool,
    variables: Vec<(String, Data<'a>)>,
    out: String,
}

/// Renders a tree.
pub(super) fn run<'a>(
    nodes: &'a [Node],
    value: &'a Value,
    labels: &'a [(String, String)],
    is_heading: bool,
) -> Result<String, String> {
    let dot = Data::Json(Cow::Borrowed(value));
    let mut run = Run {
        root: value,
        labels,
        is_heading,
        variables: vec![("$".to_owned(), dot.clone())],
        out: String::new(),
    };
    run.block(nodes, &dot)?;
    Ok(run.out)
}

impl<'a> Run<'a> {
    fn block(&mut self, nodes: &'a [Node], dot: &Data<'a>) -> Result<Flow, String> {
        let n_variables = self.variables.len();
        let mut flow = Flow::On;
        for node in nodes {
            flow = self.node(node, dot)?;
            if flow != Flow::On {
                break;
            }
        }
        self.variables.truncate(n_variables);
        Ok(flow)
    }

    fn node(&mut self, node: &'a Node, dot: &Data<'a>) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Print(pipeline) => {
                let value = self.pipeline(pipeline, dot)?;
                if pipeline.variables.is_empty() {
                    self.out.push_str(&functions::printed(&value));
                }
            }
            Node::If(branches, otherwise) => {
                return self.branches(branches, otherwise, dot, false);
            }
            Node::With(branches, otherwise) => {
                return self.branches(branches, otherwise, dot, true);
            }
            Node::Range(pipeline, nodes, otherwise) => {
                return self.range(pipeline, nodes, otherwise, dot);
            }
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::On)
    }

    fn branches(
        &mut self,
        branches: &'a [(Pipeline, Vec<Node>)],
        otherwise: &'a [Node],
        dot: &Data<'a>,
        moves_dot: bool,
    ) -> Result<Flow, String> {
        let n_variables = self.variables.len();
        for (pipeline, nodes) in branches {
            let value = self.pipeline(pipeline, dot)?;
            if value.is_true() {
                let flow = self.block(nodes, if moves_dot { &value } else { dot });
                self.variables.truncate(n_variables);
                return flow;
            }
        }
        self.variables.truncate(n_variables);
        self.block(otherwise, dot)
    }

    fn range(
        &mut self,
        pipeline: &'a Pipeline,
        nodes: &'a [Node],
        otherwise: &'a [Node],
        dot: &Data<'a>,
    ) -> Result<Flow, String> {
        let n_variables = self.variables.len();
        let value = self.evaluate(pipeline, dot)?;
        let items = items(value)?;
        if items.is_empty() {
            return self.block(otherwise, dot);
        }
        for (key, item) in items {
            match pipeline.variables.as_slice() {
                [] => {}
                [one] => self.set(one, item.clone(), pipeline.declares),
                [first, second, ..] => {
                    self.set(first, key, pipeline.declares);
                    self.set(second, item.clone(), pipeline.declares);
                }
            }
            let flow = self.block(nodes, &item)?;
            self.variables.truncate(n_variables);
            if flow == Flow::Break {
                break;
            }
        }
        Ok(Flow::On)
    }

    fn set(&mut self, name: &str, value: Data<'a>, declares: bool) {
        let known = self
            .variables
            .iter_mut()
            .rev()
            .find(|(known, _)| known == name);
        match known {
            Some((_, known)) if !declares => *known = value,
            _ => self.variables.push((name.to_owned(), value)),
        }
    }

    /// The value of a pipeline; its variables get it.
    fn pipeline(&mut self, pipeline: &'a Pipeline, dot: &Data<'a>) -> Result<Data<'a>, String> {
        let value = self.evaluate(pipeline, dot)?;
        for variable in &pipeline.variables {
            self.set(variable, value.clone(), pipeline.declares);
        }
        Ok(value)
    }

    fn evaluate(&mut self, pipeline: &'a Pipeline, dot: &Data<'a>) -> Result<Data<'a>, String> {
        let mut last = None;
        for command in &pipeline.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.unwrap_or(Data::Nothing))
    }

    fn command(
        &mut self,
        command: &'a [Operand],
        dot: &Data<'a>,
        last: Option<Data<'a>>,
    ) -> Result<Data<'a>, String> {
        let (first, rest) = command.split_first().ok_or("missing value for command")?;
        match first {
            Operand::Function(name) => self.function(name, rest, dot, last),
            Operand::Field(names)
                if names.len() == 1 && names[0] == "Label" && !rest.is_empty() =>
            {
                let name = self.operand(&rest[0], dot)?;
                Ok(self.label(name.json().as_str().unwrap_or_default()))
            }
            _ if rest.is_empty() && last.is_none() => self.operand(first, dot),
            _ => Err(format!(
                "can't give argument to non-function {}",
                functions::shown(first)
            )),
        }
    }

    /// A label of the row; in the heading its name.
    fn label(&self, name: &str) -> Data<'a> {
        if self.is_heading {
            // What is behind the last dot, in words.
            let short = name.rsplit('.').next().unwrap_or(name);
            return Data::of(short.replace(['-', '_'], " "));
        }
        let found = self.labels.iter().find(|(known, _)| known == name);
        Data::of(found.map_or("", |(_, value)| value))
    }

    fn function(
        &mut self,
        name: &str,
        rest: &'a [Operand],
        dot: &Data<'a>,
        last: Option<Data<'a>>,
    ) -> Result<Data<'a>, String> {
        // These two stop as soon as they know.
        if matches!(name, "and" | "or") {
            let mut value = None;
            for operand in rest {
                let next = self.operand(operand, dot)?;
                let is_known = next.is_true() == (name == "or");
                value = Some(next);
                if is_known {
                    return Ok(value.unwrap_or(Data::Nothing));
                }
            }
            return last
                .or(value)
                .ok_or_else(|| format!("wrong number of args for {name}: want at least 1 got 0"));
        }
        let mut arguments = Vec::with_capacity(rest.len() + 1);
        for operand in rest {
            arguments.push(self.operand(operand, dot)?);
        }
        arguments.extend(last);
        if self.is_heading && functions::leaves_headings(name) {
            return Ok(arguments.into_iter().next().unwrap_or(Data::Nothing));
        }
        functions::call(name, arguments)
    }

    fn operand(&mut self, operand: &'a Operand, dot: &Data<'a>) -> Result<Data<'a>, String> {
        match operand {
            Operand::Field(names) if names.is_empty() => Ok(dot.clone()),
            Operand::Field(names) => dot.clone().field(names),
            Operand::Variable(name, names) if name == "$" => {
                Data::Json(Cow::Borrowed(self.root)).field(names)
            }
            Operand::Variable(name, names) => {
                let known = self.variables.iter().rev().find(|(known, _)| known == name);
                let value = known.map(|(_, value)| value.clone());
                value
                    .ok_or_else(|| format!("undefined variable {name:?}"))?
                    .field(names)
            }
            Operand::Function(name) => self.function(name, &[], dot, None),
            Operand::Constant(None) => Ok(Data::Nothing),
            Operand::Constant(Some(value)) => Ok(Data::Json(Cow::Borrowed(value))),
            Operand::Group(pipeline, names) => self.evaluate(pipeline, dot)?.field(names),
        }
    }
}

/// The items of a range with their keys; maps are sorted by key.
fn items(value: Data<'_>) -> Result<Vec<(Data<'_>, Data<'_>)>, String> {
    let value = match value {
        Data::Json(value) => value,
        _ => return Ok(Vec::new()),
    };
    let item = |value: &Value| match value {
        Value::Null => Data::Nothing,
        value => Data::Json(Cow::Owned(value.clone())),
    };
    match value.as_ref() {
        Value::Array(items) => Ok(items
            .iter()
            .enumerate()
            .map(|(at, value)| (Data::of(at), item(value)))
            .collect()),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_by_key(|(name, _)| *name);
            Ok(fields
                .into_iter()
                .map(|(name, value)| (Data::of(name.as_str()), item(value)))
                .collect())
        }
        Value::Number(number) if number.is_i64() => Ok((0..number.as_i64().unwrap_or(0))
            .map(|n| (Data::of(n), Data::of(n)))
            .collect()),
        other => Err(format!("range can't iterate over {other}")),
    }
}
