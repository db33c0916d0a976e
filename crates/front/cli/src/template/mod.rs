//! Go templates, as `--format` has them: the language of Go's `text/template`
//! with Docker's functions, over the values of JSON.
//!
//! Text becomes a tree ([`parse`]), the tree with a value becomes text
//! ([`eval`]). Not understood are `define`, `template`, `block` and `call`, and
//! values are JSON's: what Docker's client knows of Go's types it prints
//! otherwise (whole structures, times).

mod eval;
mod functions;
mod lex;
mod parse;
mod printf;

use serde_json::Value;

use crate::error::Error;
use parse::Node;

/// A template, ready to be rendered.
#[derive(Debug)]
pub(crate) struct Template(Vec<Node>);

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] says what is wrong with it, in Go's words.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        parse::parse(text).map(Self).map_err(told)
    }

    /// Renders a value.
    ///
    /// # Errors
    ///
    /// [`Error::Usage`] when the value is not of the template's shape.
    pub(crate) fn render(&self, value: &Value) -> Result<String, Error> {
        self.run(value, &[], false)
    }

    /// Renders a row of a list, whose labels `{{.Label "name"}}` finds.
    ///
    /// # Errors
    ///
    /// As [`Self::render`].
    pub(crate) fn render_row(
        &self,
        row: &Value,
        labels: &[(String, String)],
    ) -> Result<String, Error> {
        self.run(row, labels, false)
    }

    /// Renders the heading of a table: a row whose values are the titles, which
    /// functions leave as they are.
    ///
    /// # Errors
    ///
    /// As [`Self::render`].
    pub(crate) fn render_heading(&self, titles: &Value) -> Result<String, Error> {
        self.run(titles, &[], true)
    }

    fn run(
        &self,
        value: &Value,
        labels: &[(String, String)],
        is_heading: bool,
    ) -> Result<String, Error> {
        eval::run(&self.0, value, labels, is_heading).map_err(told)
    }
}

fn told(why: String) -> Error {
    Error::Usage(format!("template parsing error: template: :1: {why}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn rendered(template: &str) -> String {
        let value = json!({
            "Name": "/web",
            "N": 3, "Zero": 0, "Half": 0.5, "Yes": true, "No": false, "Gone": null,
            "Words": ["b", "a", "c"],
            "Labels": { "z": "26", "a.b": "dotted" },
            "Nets": { "bridge": { "IP": "10.0.0.2" }, "back": { "IP": "10.1.0.2" } },
            "Mounts": [{ "Source": "/a", "RW": true }, { "Source": "/b", "RW": false }],
            "Cmd": null,
        });
        Template::parse(template)
            .and_then(|template| template.render(&value))
            .unwrap_or_else(|error| format!("ERROR {error}"))
    }

    #[test]
    fn what_docker_s_documentation_shows() {
        for (template, expected) in [
            ("plain", "plain"),
            ("{{.Name}}-{{.N}}", "/web-3"),
            ("{{json .Labels}}", r#"{"z":"26","a.b":"dotted"}"#),
            ("{{.Words}} {{.Labels}}", "[b a c] map[a.b:dotted z:26]"),
            ("{{join .Words \", \"}}", "b, a, c"),
            ("{{json (split \"a/b/c\" \"/\")}}", r#"["a","b","c"]"#),
            (
                "{{lower \"ABC\"}}{{upper .Name}}{{title \"two words\"}}",
                "abc/WEBTwo Words",
            ),
            ("{{pad .N 1 2}}|{{pad \"x\" 2 0}}", "ERROR"),
            ("{{pad \"x\" 1 2}}|", " x  |"),
            ("{{truncate .Name 3}}", "/we"),
            ("{{println \"a\" 1}}", "a 1\n"),
            (
                "{{range .Mounts}}{{.Source}}:{{.RW}} {{end}}",
                "/a:true /b:false ",
            ),
            (
                "{{range $name, $net := .Nets}}{{$name}}={{$net.IP}};{{end}}",
                "back=10.1.0.2;bridge=10.0.0.2;",
            ),
            (
                "{{range $i, $w := .Words}}{{if $i}},{{end}}{{$w}}{{end}}",
                "b,a,c",
            ),
            ("{{range .Gone}}x{{else}}none{{end}}", "none"),
            (
                "{{range .Words}}{{if eq . \"a\"}}{{break}}{{end}}{{.}}{{end}}",
                "b",
            ),
            (
                "{{range .Words}}{{if eq . \"a\"}}{{continue}}{{end}}{{.}}{{end}}",
                "bc",
            ),
            ("{{range 3}}{{.}}{{end}}", "012"),
            ("{{index .Labels \"a.b\"}}{{index .Words 1}}", "dotteda"),
            ("{{index .Nets \"bridge\" \"IP\"}}", "10.0.0.2"),
            ("{{(index .Nets \"bridge\").IP}}", "10.0.0.2"),
            ("[{{index .Labels \"none\"}}]", "[]"),
            (
                "{{len .Words}} {{len .Name}} {{len .Labels}} {{len .Cmd}}",
                "3 4 2 0",
            ),
            ("{{slice .Name 1}} {{slice .Words 1 2}}", "web [a]"),
            (
                "{{if .Yes}}y{{else}}n{{end}}{{if .No}}y{{else if .N}}m{{end}}",
                "ym",
            ),
            (
                "{{if and .Yes .N}}{{or .Zero .Name}}{{end}}{{not .Yes}}",
                "/webfalse",
            ),
            ("{{if or .Gone .Zero}}y{{else}}n{{end}}", "n"),
            ("{{with .Nets.bridge}}{{.IP}}{{end}}", "10.0.0.2"),
            ("{{with .Gone}}x{{else}}{{.N}}{{end}}", "3"),
            ("{{with $x := .Name}}{{$x}}{{$.N}}{{end}}", "/web3"),
            ("{{$x := 1}}{{if .Yes}}{{$x = 2}}{{end}}{{$x}}", "2"),
            (
                "{{eq .N 3}} {{ne .N 3}} {{lt .N 4}} {{ge .N 4}} {{eq .Name \"a\" \"/web\"}}",
                "true false true false true",
            ),
            (
                "{{printf \"%s=%d %q %v %5.1f|%-4d|%04d|%x|%t|%%\" .Name .N .Name .Words .Half .N .N 255 .Yes}}",
                "/web=3 \"/web\" [b a c]   0.5|3   |0003|ff|true|%",
            ),
            (
                "{{printf \"%.3s|%6s|%-6s|\" \"abcdef\" \"ab\" \"ab\"}}",
                "abc|    ab|ab    |",
            ),
            ("{{.Name | printf \"%s:%s\" \"name\"}}", "name:/web"),
            ("{{.Words | json | len}}", "13"),
            ("{{print 1 2 \"a\" \"b\" 3}}", "1 2ab3"),
            ("a {{- .N -}} b", "a3b"),
            ("{{/* nothing */}}x{{- /* trimmed */ -}} y", "xy"),
            (
                "{{\"quoted\\t\\\"\"}}{{`raw\\t`}}{{'a'}}",
                "quoted\t\"raw\\t97",
            ),
            ("{{.Gone}} {{.Cmd}} {{json .Cmd}}", "<no value> [] null"),
            (
                "{{html \"<a>\"}} {{urlquery \"a b\"}} {{js \"it's\"}}",
                "&lt;a&gt; a+b it\\'s",
            ),
            (
                "{{.Half}} {{1e3}} {{-2}} {{0x10}} {{true}}",
                "0.5 1000 -2 16 true",
            ),
        ] {
            let found = rendered(template);
            if expected == "ERROR" {
                assert!(found.starts_with("ERROR"), "{template}: {found}");
            } else {
                assert_eq!(found, expected, "{template}");
            }
        }
    }

    #[test]
    fn mistakes_are_told() {
        for (template, part) in [
            ("{{.Name", "unclosed action"),
            ("{{range .Words}}", "unexpected EOF"),
            ("{{end}}", "unexpected {{end}}"),
            ("{{nothing .Name}}", "function \"nothing\" not defined"),
            ("{{.Nobody}}", "map has no entry for key \"Nobody\""),
            ("{{.Name.First}}", "can't evaluate field First"),
            ("{{$x}}", "undefined variable \"$x\""),
            ("{{index .Words 9}}", "index out of range"),
            ("{{if}}x{{end}}", "missing value for if"),
            ("{{\"open}}", "unterminated quoted string"),
            ("{{lt .N \"a\"}}", "incompatible types for comparison"),
            ("{{lower}}", "wrong number of args for lower"),
            ("{{break}}", "{{break}} outside {{range}}"),
            ("{{else}}", "unexpected {{else}}"),
            ("{{template \"x\"}}", "not supported"),
            ("{{.N | }}", "missing value for command"),
            ("{{range .Name}}{{end}}", "range can't iterate over"),
        ] {
            let found = rendered(template);
            assert!(
                found.starts_with("ERROR") && found.contains(part),
                "{template}: {found}"
            );
        }
    }

    #[test]
    fn rows_have_labels_and_headings_titles() {
        let template = Template::parse("{{.ID}}\t{{upper .Name}}\t{{.Label \"a\"}}").expect("good");
        let labels = [("a".to_owned(), "b".to_owned())];
        let row = template.render_row(&json!({ "ID": "1", "Name": "n" }), &labels);
        assert_eq!(row.expect("good"), "1\tN\tb");
        let row = template.render_row(&json!({ "ID": "1", "Name": "n" }), &[]);
        assert_eq!(row.expect("good"), "1\tN\t");
        let heading = template.render_heading(&json!({ "ID": "CONTAINER ID", "Name": "Names" }));
        assert_eq!(heading.expect("good"), "CONTAINER ID\tNames\ta");
    }
}
