//! `--call`: what can be told of a Dockerfile without building it, as docker buildx tells it.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::lint::Warning;
use super::outline::{Outline, Subject, targets};
use super::parse::{Dockerfile, csv};
use super::source::{Source, did_you_mean};
use super::{lint, metadata};
use crate::error::{Error, Result, Step as _, one_line};

/// What is wanted of the Dockerfile.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Method {
    #[default]
    Build,
    /// What is probably not meant.
    Check,
    /// What the target can be given.
    Outline,
    /// The stages.
    Targets,
    /// These methods.
    Describe,
}

/// `--call=METHOD[,format=json][,ignorestatus=true]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) json: bool,
    /// Warnings are no failure.
    pub(crate) ignore_status: bool,
}

impl Call {
    /// `--check`.
    pub(crate) const CHECK: Self = Self { method: Method::Check, json: false, ignore_status: false };
}

/// The names of the methods. `lint` is what `check` is called inside BuildKit.
const METHODS: [(&str, Method); 6] = [
    ("build", Method::Build),
    ("check", Method::Check),
    ("lint", Method::Check),
    ("outline", Method::Outline),
    ("targets", Method::Targets),
    ("subrequests.describe", Method::Describe),
];
/// All requests have this version.
const VERSION: &str = "1.0.0";

impl std::str::FromStr for Call {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = |why: String| {
            Error::malformed(format!(
                "{text}: {why}: want build, check, outline, targets or subrequests.describe, and format=json behind it"
            ))
        };
        let mut call = Self::default();
        let mut method = None;
        for field in csv(text)? {
            match field.split_once('=') {
                Some(("format", "json")) => call.json = true,
                Some(("format", "" | "text")) => call.json = false,
                Some(("ignorestatus", "true" | "1")) => call.ignore_status = true,
                Some(("ignorestatus", "false" | "0")) => call.ignore_status = false,
                Some(_) => return Err(bad(format!("unknown {field:?}"))),
                None if method.is_some() => return Err(bad("two methods".to_owned())),
                None => {
                    let found = METHODS.iter().find(|(name, _)| *name == field);
                    let hint = || did_you_mean(&field, METHODS.map(|(name, _)| name));
                    method = Some(found.ok_or_else(|| bad(format!("unknown method {field:?}{}", hint())))?.1);
                }
            }
        }
        call.method = method.unwrap_or_default();
        Ok(call)
    }
}

/// What goes to standard output, and why this is not a success.
#[derive(Debug, Default)]
pub(crate) struct Said {
    pub(crate) text: String,
    pub(crate) failed: Option<String>,
}

impl From<String> for Said {
    fn from(text: String) -> Self {
        Self { text, failed: None }
    }
}

/// An answer in both of its forms.
struct Answer {
    text: String,
    value: Value,
}

impl Call {
    /// The warnings of `--call=check`.
    pub(crate) fn check(self, found: &[Warning], source: &Source, record: Option<&Path>) -> Result<Said> {
        let mut text = match found.len() {
            0 => "Check complete, no warnings found.".to_owned(),
            1 => "Check complete, 1 warning has been found!".to_owned(),
            n => format!("Check complete, {n} warnings have been found!"),
        };
        for warning in found {
            text.extend(["\n\n", &warning.render(source)]);
        }
        let value = json!({
            "warnings": found.iter().map(lint::Warning::json).collect::<Vec<_>>(),
            "sources": [{"filename": source.name, "language": "Dockerfile", "data": source.base64()}],
        });
        let s = if found.len() == 1 { "" } else { "s" };
        let failed = (!found.is_empty() && !self.ignore_status).then(|| format!("{} warning{s}", found.len()));
        Ok(Said { failed, ..self.tell(Answer { text, value }, i32::from(!found.is_empty()), record)? })
    }

    /// The stages of a Dockerfile.
    pub(crate) fn targets(self, file: &Dockerfile, source: &Source, record: Option<&Path>) -> Result<Said> {
        let (rows, mut value) = targets(file);
        value["sources"] = json!([source.base64()]);
        self.tell(Answer { text: table(&rows, 1), value }, 0, record)
    }

    /// What the target can be given.
    pub(crate) fn outline(self, subject: &Subject<'_>, source: &Source, record: Option<&Path>) -> Result<Said> {
        let outline = Outline::of(subject);
        let tables: Vec<String> = outline.tables().iter().map(|(gap, rows)| table(rows, *gap)).collect();
        let mut value = outline.json();
        value["sources"] = json!([source.base64()]);
        self.tell(Answer { text: tables.join("\n\n"), value }, 0, record)
    }

    /// The methods that there are.
    pub(crate) fn describe(self, record: Option<&Path>) -> Result<Said> {
        let methods = [
            ("lint", "What is probably not meant"),
            ("outline", "What the target can be given"),
            ("targets", "The stages"),
            ("subrequests.describe", "These methods"),
        ];
        let mut rows = vec![["NAME", "VERSION", "DESCRIPTION"].map(str::to_owned).to_vec()];
        rows.extend(
            methods.iter().map(|(name, about)| vec![(*name).to_owned(), VERSION.to_owned(), (*about).to_owned()]),
        );
        let of = |(name, about): &(&str, &str)| json!({"name": format!("frontend.{name}"), "version": VERSION, "type": "rpc", "description": about});
        let value = methods.iter().map(of).collect();
        self.tell(Answer { text: table(&rows, 1), value }, 0, record)
    }

    fn tell(self, answer: Answer, status: i32, record: Option<&Path>) -> Result<Said> {
        let pretty = serde_json::to_string_pretty(&answer.value).map_err(|e| Error::other(e.to_string()))?;
        if let Some(path) = record {
            let mut all = Map::new();
            all.insert("result.json".to_owned(), answer.value);
            all.insert("result.txt".to_owned(), json!(format!("{}\n", answer.text)));
            all.insert("version".to_owned(), json!(VERSION));
            if self.method == Method::Check {
                all.insert("result.statuscode".to_owned(), json!(status.to_string()));
            }
            metadata::write(path, &all).at("--metadata-file")?;
        }
        Ok(Said::from(if self.json { pretty } else { answer.text }))
    }
}

/// Rows in columns, `gap` blanks apart. What stands in them is a Dockerfile's, and may be anything.
fn table(rows: &[Vec<String>], gap: usize) -> String {
    let rows: Vec<Vec<String>> = rows.iter().map(|row| row.iter().cloned().map(one_line).collect()).collect();
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0) + gap).collect();
    let line = |row: &Vec<String>| -> String {
        let cells = row.iter().zip(&widths).map(|(cell, &width)| format!("{cell:<width$}"));
        cells.collect::<String>().trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn methods_as_buildx_takes_them() {
        let call = |text: &str| text.parse::<Call>();
        assert_eq!(call("build").unwrap(), Call::default());
        assert_eq!(call("check").unwrap(), Call::CHECK);
        assert_eq!(call("lint,format=json").unwrap(), Call { json: true, ..Call::CHECK });
        assert_eq!(call("check,ignorestatus=true").unwrap(), Call { ignore_status: true, ..Call::CHECK });
        assert_eq!(
            call("format=json,outline").unwrap(),
            Call { method: Method::Outline, json: true, ignore_status: false }
        );
        for (bad, why) in [
            ("outlin", "did you mean outline"),
            ("check,targets", "two methods"),
            ("check,format=xml", "unknown \"format=xml\""),
            ("check,ignorestatus=maybe", "unknown"),
            ("\"check", "not closed"),
        ] {
            let error = call(bad).unwrap_err().to_string();
            assert!(error.contains(why), "{bad}: {error}");
        }
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["a".to_owned(), "b".to_owned()],
            vec!["long\u{1b}".to_owned(), String::new()],
            vec![String::new(), "c".to_owned()],
        ];
        assert_eq!(table(&rows, 1), "a     b\nlong\n      c");
    }
}
