//! From pieces to a tree.

use super::functions;
use super::lex::{Piece, Token, pieces};

/// A part of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Node {
    /// Text as it is.
    Text(String),
    /// What a pipeline gives, printed.
    Print(Pipeline),
    /// The first branch whose pipeline is true, or the last part.
    If(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    /// The same, with the pipeline's value as `.`.
    With(Vec<(Pipeline, Vec<Node>)>, Vec<Node>),
    /// A part for each item, or the last part if there is none.
    Range(Pipeline, Vec<Node>, Vec<Node>),
    /// Ends a range.
    Break,
    /// Goes on with the next item.
    Continue,
}

/// Commands, each of which gets what the one before gave as its last argument.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pipeline {
    /// Variables that get the value.
    pub(super) variables: Vec<String>,
    /// Whether they are new.
    pub(super) declares: bool,
    pub(super) commands: Vec<Vec<Operand>>,
}

/// A part of a command: a value, or the function in front of its arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    /// `.A.B`.
    Field(Vec<String>),
    /// `$x.A.B`.
    Variable(String, Vec<String>),
    /// A function by name.
    Function(String),
    /// A constant; `nil` is none.
    Constant(Option<serde_json::Value>),
    /// `(…).A.B`.
    Group(Box<Pipeline>, Vec<String>),
}

type Result<T> = std::result::Result<T, String>;

/// Parses a template.
pub(super) fn parse(text: &str) -> Result<Vec<Node>> {
    let mut parser = Parser {
        pieces: pieces(text)?.into_iter(),
        // Each block has the variables of those around it.
        scopes: vec![vec!["$".to_owned()]],
        n_ranges: 0,
    };
    let (nodes, end) = parser.block()?;
    match end {
        Ended::WithText => Ok(nodes),
        Ended::Here => Err("unexpected {{end}}".into()),
        Ended::ForElse(_) => Err("unexpected {{else}}".into()),
    }
}

/// What ended a block.
enum Ended {
    WithText,
    Here,
    /// With the words behind `else`.
    ForElse(Vec<Token>),
}

/// Commands, and the fields asked of a closing parenthesis that ended them.
type Commands = (Vec<Vec<Operand>>, Option<Vec<String>>);

struct Parser {
    pieces: std::vec::IntoIter<Piece>,
    scopes: Vec<Vec<String>>,
    n_ranges: usize,
}

impl Parser {
    fn block(&mut self) -> Result<(Vec<Node>, Ended)> {
        let mut nodes = Vec::new();
        while let Some(piece) = self.pieces.next() {
            let tokens = match piece {
                Piece::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Piece::Action(tokens) => tokens,
            };
            let keyword = match tokens.first() {
                Some(Token::Word(word)) => word.as_str(),
                _ => "",
            };
            let rest = || tokens[1..].to_vec();
            nodes.push(match keyword {
                "end" => return Ok((nodes, Ended::Here)),
                "else" => return Ok((nodes, Ended::ForElse(rest()))),
                "if" | "with" => self.branches(keyword, rest())?,
                "range" => self.range(rest())?,
                "break" | "continue" if self.n_ranges == 0 => {
                    return Err(format!("{{{{{keyword}}}}} outside {{{{range}}}}"));
                }
                "break" => Node::Break,
                "continue" => Node::Continue,
                "define" | "template" | "block" => {
                    return Err(format!("{{{{{keyword}}}}} is not supported"));
                }
                _ => Node::Print(self.pipeline(tokens, "command")?),
            });
        }
        Ok((nodes, Ended::WithText))
    }

    /// A block with variables of its own.
    fn scoped<T>(&mut self, body: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.scopes.push(Vec::new());
        let parsed = body(self);
        self.scopes.pop();
        parsed
    }

    fn branches(&mut self, keyword: &str, tokens: Vec<Token>) -> Result<Node> {
        let mut branches = Vec::new();
        let mut otherwise = Vec::new();
        let mut condition = Some(tokens);
        while let Some(tokens) = condition.take() {
            let (pipeline, nodes, end) = self.scoped(|parser| {
                let pipeline = parser.pipeline(tokens, keyword)?;
                let (nodes, end) = parser.block()?;
                Ok((pipeline, nodes, end))
            })?;
            branches.push((pipeline, nodes));
            match end {
                Ended::WithText => return Err("unexpected EOF".into()),
                Ended::Here => {}
                Ended::ForElse(tokens) if tokens.is_empty() => otherwise = self.last_block()?,
                Ended::ForElse(tokens) => match tokens.first() {
                    Some(Token::Word(word)) if word == keyword => {
                        condition = Some(tokens[1..].to_vec());
                    }
                    _ => return Err("unexpected words behind {{else}}".into()),
                },
            }
        }
        Ok(if keyword == "if" {
            Node::If(branches, otherwise)
        } else {
            Node::With(branches, otherwise)
        })
    }

    /// A block that only an end ends.
    fn last_block(&mut self) -> Result<Vec<Node>> {
        let (nodes, end) = self.scoped(Self::block)?;
        match end {
            Ended::Here => Ok(nodes),
            Ended::WithText => Err("unexpected EOF".into()),
            Ended::ForElse(_) => Err("unexpected {{else}}".into()),
        }
    }

    fn range(&mut self, tokens: Vec<Token>) -> Result<Node> {
        let (pipeline, nodes, end) = self.scoped(|parser| {
            let pipeline = parser.pipeline(tokens, "range")?;
            parser.n_ranges += 1;
            let parsed = parser.block();
            parser.n_ranges -= 1;
            let (nodes, end) = parsed?;
            Ok((pipeline, nodes, end))
        })?;
        let otherwise = match end {
            Ended::WithText => return Err("unexpected EOF".into()),
            Ended::Here => Vec::new(),
            Ended::ForElse(tokens) if tokens.is_empty() => self.last_block()?,
            Ended::ForElse(_) => return Err("unexpected words behind {{else}}".into()),
        };
        Ok(Node::Range(pipeline, nodes, otherwise))
    }

    /// A pipeline with the variables that get its value.
    fn pipeline(&mut self, tokens: Vec<Token>, of: &str) -> Result<Pipeline> {
        let (variables, declares, n_taken) = declaration(&tokens, of)?;
        let mut rest = tokens
            .into_iter()
            .skip(n_taken)
            .collect::<Vec<_>>()
            .into_iter();
        let (commands, closing) = self.commands(&mut rest, of)?;
        if closing.is_some() {
            return Err("unexpected right paren".into());
        }
        for variable in &variables {
            if declares {
                let scope = self.scopes.last_mut().expect("there is the outermost");
                scope.push(variable.clone());
            } else {
                self.check_variable(variable)?;
            }
        }
        Ok(Pipeline {
            variables,
            declares,
            commands,
        })
    }

    fn check_variable(&self, name: &str) -> Result<()> {
        let known = self.scopes.iter().flatten().any(|known| known == name);
        known
            .then_some(())
            .ok_or_else(|| format!("undefined variable {name:?}"))
    }

    /// Commands up to the end or a closing parenthesis, whose fields are
    /// returned.
    fn commands(&mut self, tokens: &mut std::vec::IntoIter<Token>, of: &str) -> Result<Commands> {
        let mut commands = vec![Vec::new()];
        let mut closing = None;
        while let Some(token) = tokens.next() {
            let operand = match token {
                Token::Field(fields) => Operand::Field(fields),
                Token::Variable(name, fields) => {
                    self.check_variable(&name)?;
                    Operand::Variable(name, fields)
                }
                Token::Text(text) => Operand::Constant(Some(text.into())),
                Token::Integer(number) => Operand::Constant(Some(number.into())),
                Token::Float(number) => Operand::Constant(Some(number.into())),
                Token::Word(word) => match word.as_str() {
                    "true" | "false" => Operand::Constant(Some((word == "true").into())),
                    "nil" => Operand::Constant(None),
                    _ if functions::is_known(&word) => Operand::Function(word),
                    _ => return Err(format!("function {word:?} not defined")),
                },
                Token::Open => {
                    let (commands, closing) = self.commands(tokens, "parenthesized pipeline")?;
                    let fields = closing.ok_or("unclosed left paren")?;
                    let pipeline = Pipeline {
                        variables: Vec::new(),
                        declares: false,
                        commands,
                    };
                    Operand::Group(Box::new(pipeline), fields)
                }
                Token::Close(fields) => {
                    closing = Some(fields);
                    break;
                }
                Token::Pipe => {
                    if commands.last().is_some_and(Vec::is_empty) {
                        return Err("missing value for command".into());
                    }
                    commands.push(Vec::new());
                    continue;
                }
                Token::Declare | Token::Assign | Token::Comma => {
                    return Err("unexpected := , = or comma in operand".into());
                }
            };
            commands
                .last_mut()
                .expect("there is the first")
                .push(operand);
        }
        if commands.last().is_some_and(Vec::is_empty) {
            let of = if commands.len() > 1 { "command" } else { of };
            return Err(format!("missing value for {of}"));
        }
        Ok((commands, closing))
    }
}

/// The variables before `:=` or `=`, whether they are new, and how many words
/// that is.
fn declaration(tokens: &[Token], of: &str) -> Result<(Vec<String>, bool, usize)> {
    let name = |at: usize| match tokens.get(at) {
        Some(Token::Variable(name, fields)) if fields.is_empty() => Some(name.clone()),
        _ => None,
    };
    let Some(first) = name(0) else {
        return Ok((Vec::new(), false, 0));
    };
    match (tokens.get(1), tokens.get(3)) {
        (Some(sign @ (Token::Declare | Token::Assign)), _) => {
            Ok((vec![first], *sign == Token::Declare, 2))
        }
        (Some(Token::Comma), Some(sign @ (Token::Declare | Token::Assign))) if of == "range" => {
            let second = name(2).ok_or("range can only initialize variables")?;
            Ok((vec![first, second], *sign == Token::Declare, 4))
        }
        (Some(Token::Comma), _) => Err(format!("too many declarations in {of}")),
        _ => Ok((Vec::new(), false, 0)),
    }
}
