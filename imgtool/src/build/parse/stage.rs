//! A whole Dockerfile: the arguments before the first FROM, and the stages.

use super::super::source::{Fault, Result};
use super::flags::Flags;
use super::instruction::{Arg, Instruction, Kind, instruction};
use super::{Directive, Statement, Word, statements};

/// `FROM [--platform=P] IMAGE [AS NAME]`.
#[derive(Clone, Debug)]
pub(crate) struct From {
    pub(crate) image: Word,
    /// In lower case, as it is looked for.
    pub(crate) name: Option<String>,
    /// As it was written, with the word before it.
    pub(crate) written: Option<(Word, Word)>,
    pub(crate) platform: Option<Word>,
}

/// A stage, not yet expanded.
#[derive(Clone, Debug)]
pub(crate) struct Stage {
    pub(crate) from: From,
    pub(crate) instruction: Instruction,
    pub(crate) commands: Vec<Instruction>,
}

/// A Dockerfile.
#[derive(Clone, Debug)]
pub(crate) struct Dockerfile {
    /// `ARG` before the first `FROM`, each with its instruction.
    pub(crate) args: Vec<(Arg, Instruction)>,
    pub(crate) stages: Vec<Stage>,
    pub(crate) escape: char,
    pub(crate) directives: Vec<Directive>,
    pub(crate) empty_continuations: Vec<usize>,
}

impl Dockerfile {
    pub(crate) fn directive(&self, name: &str) -> Option<&Directive> {
        self.directives.iter().find(|directive| directive.name == name)
    }
}

/// Reads a Dockerfile.
pub(crate) fn parse(text: &str) -> Result<Dockerfile> {
    let statements = statements(text)?;
    let mut args = Vec::new();
    let mut stages: Vec<Stage> = Vec::new();
    for statement in &statements.all {
        let made = instruction(statement)?;
        match (&made.kind, stages.last_mut()) {
            (Kind::From(from), _) => {
                stages.push(Stage { from: from.clone(), instruction: made, commands: Vec::new() });
            }
            (Kind::Arg(list), None) => args.extend(list.iter().map(|arg| (arg.clone(), made.clone()))),
            (_, Some(stage)) => stage.commands.push(made),
            (_, None) => {
                let text = format!("no build stage yet: {} must come after FROM", made.keyword.to_uppercase());
                return Err(Fault::at(made.span(), text));
            }
        }
    }
    if stages.is_empty() {
        let end = statements.all.last().map(Statement::span).unwrap_or_default();
        return Err(Fault::at(end, "the Dockerfile has no stages to build: FROM is missing"));
    }
    Ok(Dockerfile {
        args,
        stages,
        escape: statements.escape,
        directives: statements.directives,
        empty_continuations: statements.empty_continuations,
    })
}

pub(super) fn from(statement: &Statement, flags: &mut Flags<'_>) -> Result<From> {
    let platform = flags.value("platform")?;
    let (image, written) = match statement.args.words.as_slice() {
        [image] => (image, None),
        [image, word, name] if word.text.eq_ignore_ascii_case("as") => (image, Some((word.clone(), name.clone()))),
        [_, word, ..] => {
            let text = "FROM requires either one or three arguments: FROM IMAGE [AS NAME]";
            return Err(Fault::at(statement.line.span(word.at), text));
        }
        [] => {
            return Err(Fault::at(
                statement.span(),
                "FROM requires either one or three arguments: FROM IMAGE [AS NAME]",
            ));
        }
    };
    let name = match &written {
        None => None,
        Some((_, word)) => {
            let name = word.text.to_lowercase();
            let good = name.starts_with(|c: char| c.is_ascii_lowercase())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_.".contains(&b));
            if !good {
                let text = format!(
                    "invalid name for a build stage: {:?} (a letter, then letters, digits, -, _ and .)",
                    word.text
                );
                return Err(Fault::at(statement.line.span(word.at), text));
            }
            Some(name)
        }
    };
    Ok(From { image: image.clone(), name, written, platform })
}
