//! From the text of a Dockerfile to instructions, every part of which knows its place.

mod flags;
mod instruction;
mod line;
mod mount;
mod stage;
#[cfg(test)]
mod tests;
mod words;

pub(crate) use instruction::{Arg, Command, Copy, Device, Instruction, Kind, Run, Security, StepNetwork, instruction};
pub(crate) use line::{Directive, Lines, Logical};
pub(crate) use mount::{Mount, MountKind, Sharing, csv};
pub(crate) use stage::{Dockerfile, Stage, parse};
pub(crate) use words::heredoc;

use super::source::{Fault, Locate as _, Result, Span};

/// All instructions, as the reference has them.
pub(crate) const KEYWORDS: [&str; 18] = [
    "ADD",
    "ARG",
    "CMD",
    "COPY",
    "ENTRYPOINT",
    "ENV",
    "EXPOSE",
    "FROM",
    "HEALTHCHECK",
    "LABEL",
    "MAINTAINER",
    "ONBUILD",
    "RUN",
    "SHELL",
    "STOPSIGNAL",
    "USER",
    "VOLUME",
    "WORKDIR",
];

/// A word and the byte of its logical line that it begins at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) at: usize,
}

/// One `NAME=VALUE`, not expanded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pair {
    pub(crate) key: String,
    pub(crate) value: String,
    /// Written `NAME VALUE`.
    pub(crate) legacy: bool,
    pub(crate) at: usize,
}

/// The arguments of an instruction.
#[derive(Clone, Debug, Default)]
pub(crate) struct Args {
    pub(crate) words: Vec<Word>,
    /// The words were a JSON list.
    pub(crate) json: bool,
    pub(crate) pairs: Vec<Pair>,
}

/// A file in the Dockerfile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Heredoc {
    pub(crate) name: String,
    /// Variables in it count: its name was not quoted.
    pub(crate) expand: bool,
    /// Tabs at the start of lines do not count.
    pub(crate) chomp: bool,
    pub(crate) content: String,
}

impl Heredoc {
    /// The content, without its leading tabs where it was written with `<<-`.
    pub(crate) fn text(&self) -> String {
        if self.chomp {
            return self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect();
        }
        self.content.clone()
    }

    /// Its name, if a file can have it: it may be any word.
    pub(crate) fn file_name(&self) -> Option<&str> {
        let name = self.name.as_str();
        (!matches!(name, "" | "." | "..") && !name.contains(['/', '\0'])).then_some(name)
    }
}

/// An instruction in its parts.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    /// As it was written.
    pub(crate) keyword: String,
    pub(crate) flags: Vec<Word>,
    pub(crate) args: Args,
    /// What ONBUILD keeps.
    pub(crate) inner: Option<Box<Statement>>,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) line: Logical,
}

impl Statement {
    pub(crate) fn name(&self) -> String {
        self.keyword.to_ascii_lowercase()
    }

    pub(crate) fn span(&self) -> Span {
        self.line.span(0)
    }

    fn takes_heredocs(&self) -> bool {
        match (self.name().as_str(), &self.inner) {
            ("onbuild", Some(inner)) => inner.takes_heredocs(),
            ("add" | "copy" | "run", _) => !self.args.json,
            _ => false,
        }
    }
}

/// The statements of a Dockerfile.
pub(crate) struct Statements {
    pub(crate) all: Vec<Statement>,
    pub(crate) escape: char,
    pub(crate) directives: Vec<Directive>,
    pub(crate) empty_continuations: Vec<usize>,
}

/// Splits a Dockerfile into statements.
pub(crate) fn statements(text: &str) -> Result<Statements> {
    let mut lines = Lines::new(text);
    let mut all = Vec::new();
    while let Some(mut logical) = lines.logical()? {
        let mut statement = statement(&logical, 0, lines.escape)?;
        if statement.takes_heredocs() && logical.text.contains("<<") {
            statement.heredocs = lines.heredocs(&mut logical)?;
            statement.line = logical.clone();
            if let Some(inner) = &mut statement.inner {
                inner.heredocs.clone_from(&statement.heredocs);
                inner.line = logical;
            }
        }
        all.push(statement);
    }
    if all.is_empty() {
        let end = Span { at: super::source::Pos { line: lines.number().max(1), column: 1 }, last: lines.number() };
        return Err(Fault::at(end, "the file has no instructions: it must begin with FROM"));
    }
    Ok(Statements {
        all,
        escape: lines.escape,
        directives: lines.directives,
        empty_continuations: lines.empty_continuations,
    })
}

/// The statement that begins at byte `start` of a line.
fn statement(line: &Logical, start: usize, escape: char) -> Result<Statement> {
    let text = &line.text;
    let start = start + text[start..].len() - text[start..].trim_start().len();
    let end = text[start..].find(char::is_whitespace).map_or(text.len(), |length| start + length);
    let keyword = text[start..end].to_owned();
    let name = keyword.to_ascii_lowercase();
    let (flags, rest) = words::flags(text, end, escape);
    let rest_text = text[rest..].trim_end();
    let mut made =
        Statement { keyword, flags, args: Args::default(), inner: None, heredocs: Vec::new(), line: line.clone() };
    if name == "onbuild" {
        if !rest_text.is_empty() {
            made.inner = Some(Box::new(statement(line, rest, escape)?));
        }
        return Ok(made);
    }
    made.args = words::args(&name, rest_text, rest, escape).locate(line.span(rest))?;
    Ok(made)
}
