//! Lists by a format: `json`, a template for each row, or a table by a template
//! of its columns. Fields and titles are those of Docker's client.

use serde_json::{Map, Value};

use crate::error::Error;
use crate::show;
use crate::template::Template;

/// Narrowest column of a table, and what stands between two.
const NARROWEST: usize = 10;
const BETWEEN: usize = 3;

/// A row of a list.
#[derive(Debug, Default)]
pub(crate) struct Row {
    fields: Map<String, Value>,
    labels: Vec<(String, String)>,
}

impl Row {
    /// A row of fields and their values.
    pub(crate) fn new<const N: usize>(fields: [(&str, Value); N]) -> Self {
        Self {
            fields: fields
                .into_iter()
                .map(|(name, value)| (name.to_owned(), value))
                .collect(),
            labels: Vec::new(),
        }
    }

    /// The same with labels, as the API has them.
    pub(crate) fn with_labels(mut self, labels: &Value) -> Self {
        self.labels = pairs(labels);
        let text: Vec<String> = self
            .labels
            .iter()
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        self.fields.insert("Labels".into(), text.join(",").into());
        self
    }

    /// A field as text.
    pub(crate) fn text(&self, field: &str) -> &str {
        self.fields
            .get(field)
            .and_then(Value::as_str)
            .unwrap_or_default()
    }
}

/// Names and values of a map of texts, sorted.
fn pairs(map: &Value) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = map
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    pairs.sort();
    pairs
}

/// The fields of a list with their titles.
pub(crate) type Titles<'a> = &'a [(&'a str, &'a str)];

/// Prints rows by a format.
///
/// # Errors
///
/// [`Error::Usage`] for a template that is none, or asks for what is not there.
pub(crate) fn print(format: &str, titles: Titles<'_>, rows: &[Row]) -> Result<(), Error> {
    // As Docker has it, these two stand for what they are everywhere.
    let format = format
        .trim_matches(' ')
        .replace("\\t", "\t")
        .replace("\\n", "\n");
    if format == "json" {
        show::lines(rows.iter().map(|row| escaped(&sorted(&row.fields))));
        return Ok(());
    }
    let (template, is_table) = match format.strip_prefix("table") {
        Some(rest) => (rest.trim_start_matches(' '), true),
        None => (format.as_str(), false),
    };
    let template = Template::parse(template)?;
    let mut lines = Vec::with_capacity(rows.len() + 1);
    if is_table {
        let titles: Map<String, Value> = titles
            .iter()
            .map(|(field, title)| ((*field).to_owned(), (*title).into()))
            .collect();
        lines.push(template.render_heading(&titles.into())?);
    }
    for row in rows {
        // Maps come out in order of their names, as Go prints them.
        lines.push(template.render_row(&sorted(&row.fields), &row.labels)?);
    }
    if is_table {
        lines = aligned(&lines);
    }
    show::lines(lines);
    Ok(())
}

/// JSON as Go writes it unless told otherwise, safe within HTML.
fn escaped(value: &Value) -> String {
    let mut out = String::new();
    for letter in value.to_string().chars() {
        match letter {
            '<' => out.push_str("\\u003c"),
            '>' => out.push_str("\\u003e"),
            '&' => out.push_str("\\u0026"),
            other => out.push(other),
        }
    }
    out
}

fn sorted(fields: &Map<String, Value>) -> Value {
    let mut names: Vec<_> = fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    let sorted: Map<String, Value> = names
        .into_iter()
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    sorted.into()
}

/// Lines whose cells, which tabs part, stand below each other.
fn aligned(lines: &[String]) -> Vec<String> {
    let cells: Vec<Vec<&str>> = lines
        .iter()
        .map(|line| line.split('\t').collect())
        .collect();
    let mut widths: Vec<usize> = Vec::new();
    for line in &cells {
        // The last cell of a line ends nowhere.
        for (at, cell) in line[..line.len() - 1].iter().enumerate() {
            let width = (cell.chars().count() + BETWEEN).max(NARROWEST);
            match widths.get_mut(at) {
                Some(known) => *known = width.max(*known),
                None => widths.push(width),
            }
        }
    }
    cells
        .iter()
        .map(|line| {
            let mut text = String::new();
            for (at, cell) in line.iter().enumerate() {
                text.push_str(cell);
                if at + 1 < line.len() {
                    let missing = widths[at].saturating_sub(cell.chars().count());
                    text.extend(std::iter::repeat_n(' ', missing));
                }
            }
            text
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stand_below_each_other() {
        let lines = ["ID\tNAME".to_owned(), "0123456789ab\tx".to_owned()];
        assert_eq!(aligned(&lines), ["ID             NAME", "0123456789ab   x"]);
        let lines = ["A\tB".to_owned(), "1\t2".to_owned()];
        assert_eq!(aligned(&lines), ["A         B", "1         2"]);
    }

    #[test]
    fn rows_have_their_labels_in_order() {
        let labels = serde_json::json!({ "b": "2", "a": "1" });
        let row = Row::new([("ID", "x".into())]).with_labels(&labels);
        assert_eq!(row.text("Labels"), "a=1,b=2");
        assert_eq!(
            sorted(&row.fields).to_string(),
            r#"{"ID":"x","Labels":"a=1,b=2"}"#
        );
    }
}
