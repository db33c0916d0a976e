//! From text to pieces: plain text, and the words of actions.

/// A piece of a template.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    /// Text between actions.
    Text(String),
    /// The words of an action.
    Action(Vec<Token>),
}

/// A word of an action.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Token {
    /// `.` or `.A.B`: the names of the fields.
    Field(Vec<String>),
    /// `$x` or `$x.A.B`: the variable's name and the fields.
    Variable(String, Vec<String>),
    /// A function or a keyword.
    Word(String),
    /// A string.
    Text(String),
    /// A number, or a character's.
    Integer(i64),
    /// A number with a fraction.
    Float(f64),
    /// `(`.
    Open,
    /// `)`, with the fields that are asked of what was in parentheses.
    Close(Vec<String>),
    /// `|`.
    Pipe,
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
    /// `,`.
    Comma,
}

/// Takes a template apart; trim marks have been obeyed.
pub(super) fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trims = false;
    loop {
        let (before, after) = match rest.split_once("{{") {
            Some((before, after)) => (before, Some(after)),
            None => (rest, None),
        };
        let mut before = if trims { before.trim_start() } else { before };
        let Some(mut action) = after else {
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            return Ok(pieces);
        };
        let marked = |text: &str| {
            let mut letters = text.chars();
            letters.next() == Some('-') && letters.next().is_some_and(char::is_whitespace)
        };
        if marked(action) {
            before = before.trim_end();
            action = action[1..].trim_start();
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        let comment = action.strip_prefix("/*");
        let (tokens, tail) = match comment {
            Some(comment) => {
                let (_, tail) = comment.split_once("*/").ok_or("unclosed comment")?;
                (None, tail)
            }
            None => {
                let (tokens, tail) = tokens(action)?;
                (Some(tokens), tail)
            }
        };
        let tail_trimmed = tail.trim_start();
        let (tail, trimmed) = match tail_trimmed.strip_prefix("-}}") {
            Some(tail) => (tail, true),
            None => (
                tail_trimmed.strip_prefix("}}").ok_or("unclosed action")?,
                false,
            ),
        };
        trims = trimmed;
        rest = tail;
        if let Some(tokens) = tokens {
            pieces.push(Piece::Action(tokens));
        }
    }
}

/// The words up to the end of an action, and what follows them.
fn tokens(text: &str) -> Result<(Vec<Token>, &str), String> {
    let mut tokens = Vec::new();
    let mut rest = text;
    loop {
        rest = rest.trim_start();
        if rest.starts_with("}}") || rest.starts_with("-}}") {
            return Ok((tokens, rest));
        }
        let first = rest.chars().next().ok_or("unclosed action")?;
        let is_name = |letter: char| letter.is_alphanumeric() || letter == '_';
        let (token, tail) = match first {
            '|' => (Token::Pipe, &rest[1..]),
            ',' => (Token::Comma, &rest[1..]),
            '=' => (Token::Assign, &rest[1..]),
            ':' if rest.starts_with(":=") => (Token::Declare, &rest[2..]),
            '(' => (Token::Open, &rest[1..]),
            ')' => {
                let (fields, tail) = fields(&rest[1..]);
                (Token::Close(fields), tail)
            }
            '"' => quoted(rest)?,
            '`' => {
                let (raw, tail) = rest[1..]
                    .split_once('`')
                    .ok_or("unterminated raw quoted string")?;
                (Token::Text(raw.to_owned()), tail)
            }
            '\'' => {
                let (token, tail) = character(&rest[1..])?;
                (token, tail)
            }
            '$' => {
                let end = rest[1..]
                    .find(|letter| !is_name(letter))
                    .map_or(rest.len(), |at| at + 1);
                let (fields, tail) = fields(&rest[end..]);
                (Token::Variable(rest[..end].to_owned(), fields), tail)
            }
            '.' if !rest[1..].starts_with(|letter: char| letter.is_ascii_digit()) => {
                let (fields, tail) = fields(rest);
                let tail = if fields.is_empty() { &rest[1..] } else { tail };
                (Token::Field(fields), tail)
            }
            '0'..='9' | '+' | '-' | '.' => number(rest)?,
            letter if is_name(letter) => {
                let end = rest.find(|letter| !is_name(letter)).unwrap_or(rest.len());
                (Token::Word(rest[..end].to_owned()), &rest[end..])
            }
            other => return Err(format!("unexpected {other:?} in command")),
        };
        tokens.push(token);
        rest = tail;
    }
}

/// `.A.B`, and what follows.
fn fields(text: &str) -> (Vec<String>, &str) {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some(after) = rest.strip_prefix('.') {
        let end = after
            .find(|letter: char| !(letter.is_alphanumeric() || letter == '_'))
            .unwrap_or(after.len());
        if end == 0 {
            break;
        }
        found.push(after[..end].to_owned());
        rest = &after[end..];
    }
    (found, rest)
}

/// A string in quotes, and what follows.
fn quoted(text: &str) -> Result<(Token, &str), String> {
    let mut out = String::new();
    let mut rest = &text[1..];
    loop {
        let letter = rest.chars().next();
        match letter {
            None | Some('\n') => return Err("unterminated quoted string".into()),
            Some('"') => return Ok((Token::Text(out), &rest[1..])),
            Some('\\') => {
                let (letter, tail) = escape(&rest[1..])?;
                out.push(letter);
                rest = tail;
            }
            Some(letter) => {
                out.push(letter);
                rest = &rest[letter.len_utf8()..];
            }
        }
    }
}

/// A character in single quotes: its number.
fn character(text: &str) -> Result<(Token, &str), String> {
    let unterminated = "unterminated character constant";
    let (letter, tail) = match text.strip_prefix('\\') {
        Some(rest) => escape(rest)?,
        None => {
            let letter = text.chars().next().ok_or(unterminated)?;
            (letter, &text[letter.len_utf8()..])
        }
    };
    let tail = tail.strip_prefix('\'').ok_or(unterminated)?;
    Ok((Token::Integer(i64::from(u32::from(letter))), tail))
}

/// What follows a backslash.
fn escape(text: &str) -> Result<(char, &str), String> {
    let letter = text.chars().next().ok_or("unterminated quoted string")?;
    let tail = &text[letter.len_utf8()..];
    let by_digits = |n_digits: usize| {
        let digits = tail.get(..n_digits).ok_or("invalid syntax")?;
        let number = u32::from_str_radix(digits, 16).map_err(|_| "invalid syntax")?;
        let letter = char::from_u32(number).ok_or("invalid syntax")?;
        Ok::<_, String>((letter, &tail[n_digits..]))
    };
    let plain = match letter {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        'a' => '\u{7}',
        'b' => '\u{8}',
        'f' => '\u{c}',
        'v' => '\u{b}',
        '\\' | '"' | '\'' => letter,
        'x' => return by_digits(2),
        'u' => return by_digits(4),
        'U' => return by_digits(8),
        _ => return Err("invalid syntax".into()),
    };
    Ok((plain, tail))
}

fn number(text: &str) -> Result<(Token, &str), String> {
    let mut end = 0;
    let bytes = text.as_bytes();
    while end < bytes.len() {
        let is_sign = matches!(bytes[end], b'+' | b'-')
            && (end == 0 || matches!(bytes[end - 1], b'e' | b'E'));
        if !(is_sign || bytes[end].is_ascii_alphanumeric() || matches!(bytes[end], b'.' | b'_')) {
            break;
        }
        end += 1;
    }
    let (word, tail) = text.split_at(end);
    let plain = word.replace('_', "");
    let (sign, digits) = match plain.strip_prefix('-') {
        Some(digits) => (-1, digits),
        None => (1, plain.strip_prefix('+').unwrap_or(&plain)),
    };
    let radix = |prefix: &str, radix| {
        let digits = digits.strip_prefix(prefix)?;
        i64::from_str_radix(digits, radix).ok()
    };
    let integer = radix("0x", 16)
        .or_else(|| radix("0o", 8))
        .or_else(|| radix("0b", 2))
        .or_else(|| digits.parse().ok());
    if let Some(integer) = integer {
        return Ok((Token::Integer(sign * integer), tail));
    }
    match digits.parse::<f64>() {
        Ok(number) => Ok((Token::Float(sign as f64 * number), tail)),
        Err(_) => Err(format!("bad number syntax: {word:?}")),
    }
}
