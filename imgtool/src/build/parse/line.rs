//! Logical lines: directives, comments, continuations and heredocs, with the place of every character.

use super::super::env::Env;
use super::super::expand::Expander;
use super::super::source::{Fault, Pos, Result, Span};
use super::{Heredoc, words};

/// Longest logical line that is read, in bytes.
const LINE_MAX: usize = 1 << 20;

/// A line as it counts: continuations joined, comments gone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Logical {
    pub(crate) text: String,
    /// From which byte on the text comes from which place.
    segments: Vec<(usize, Pos)>,
    pub(crate) first: usize,
    pub(crate) last: usize,
    /// Comments directly above.
    pub(crate) comments: Vec<String>,
}

impl Logical {
    /// Where the byte `offset` of the text stands in the file.
    pub(crate) fn pos(&self, offset: usize) -> Pos {
        let at = self.segments.partition_point(|(start, _)| *start <= offset);
        let Some((start, pos)) = self.segments.get(at.saturating_sub(1)) else {
            return Pos { line: self.first, column: 1 };
        };
        let before = self.text.get(*start..offset.min(self.text.len())).map_or(0, |text| text.chars().count());
        Pos { line: pos.line, column: pos.column + before }
    }

    /// The whole, pointing at a byte.
    pub(crate) fn span(&self, offset: usize) -> Span {
        Span { at: self.pos(offset), last: self.last.max(self.first) }
    }

    /// A text that is not in the file: all of it stands at one place.
    pub(crate) fn standing_at(span: Span, text: &str) -> Self {
        Self { text: text.to_owned(), first: span.at.line, last: span.last, ..Self::default() }
    }

    fn push(&mut self, text: &str, pos: Pos) {
        self.segments.push((self.text.len(), pos));
        self.text.push_str(text);
    }
}

/// A parser directive: `# name=value` at the top.
#[derive(Clone, Debug)]
pub(crate) struct Directive {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) span: Span,
}

/// Reads logical lines.
pub(crate) struct Lines<'a> {
    physical: Vec<&'a str>,
    next: usize,
    pub(crate) escape: char,
    pub(crate) directives: Vec<Directive>,
    directives_done: bool,
    /// Lines with nothing on them in the middle of an instruction.
    pub(crate) empty_continuations: Vec<usize>,
}

impl<'a> Lines<'a> {
    pub(crate) fn new(text: &'a str) -> Self {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut lines: Vec<&str> = text.split('\n').collect();
        if lines.last() == Some(&"") {
            lines.pop();
        }
        Self {
            physical: lines,
            next: 0,
            escape: '\\',
            directives: Vec::new(),
            directives_done: false,
            empty_continuations: Vec::new(),
        }
    }

    /// The number of the line read last.
    pub(crate) fn number(&self) -> usize {
        self.next
    }

    fn line(&mut self) -> Option<&'a str> {
        let line = self.physical.get(self.next)?;
        self.next += 1;
        Some(line.trim_end_matches('\r'))
    }

    /// The next logical line with something on it.
    pub(crate) fn logical(&mut self) -> Result<Option<Logical>> {
        let mut comments = Vec::new();
        while let Some(raw) = self.line() {
            let line = raw.trim_start();
            if self.directive(line)? {
                continue;
            }
            if let Some(comment) = line.strip_prefix('#') {
                match comment.trim() {
                    "" => comments.clear(),
                    comment => comments.push(comment.to_owned()),
                }
                continue;
            }
            let mut logical =
                Logical { first: self.next, comments: std::mem::take(&mut comments), ..Logical::default() };
            let column = raw[..raw.len() - line.len()].chars().count() + 1;
            let (text, mut ended) = continued(line, self.escape);
            if ended && text.is_empty() {
                continue; // with it go the comments above: they describe nothing
            }
            logical.push(text, Pos { line: self.next, column });
            while !ended {
                let Some(raw) = self.line() else { break };
                let trimmed = raw.trim_start();
                if trimmed.starts_with('#') {
                    continue;
                }
                if trimmed.is_empty() {
                    self.empty_continuations.push(self.next);
                    continue;
                }
                let (text, last) = continued(raw, self.escape);
                ended = last;
                logical.push(text, Pos { line: self.next, column: 1 });
                if logical.text.len() > LINE_MAX {
                    return Err(Fault::at(logical.span(0), format!("an instruction of more than {LINE_MAX} bytes")));
                }
            }
            logical.last = self.next;
            return Ok(Some(logical));
        }
        Ok(None)
    }

    /// Takes a directive; they are over at the first line that is none.
    fn directive(&mut self, line: &str) -> Result<bool> {
        if self.directives_done {
            return Ok(false);
        }
        let known = line
            .strip_prefix('#')
            .and_then(|rest| rest.trim_start().split_once('='))
            .map(|(name, value)| (name.trim_end().to_ascii_lowercase(), value.trim()));
        let Some((name, value)) =
            known.filter(|(name, value)| matches!(name.as_str(), "syntax" | "escape" | "check") && !value.is_empty())
        else {
            // A shebang may stand above them.
            self.directives_done = !(self.next == 1 && line.starts_with("#!"));
            return Ok(false);
        };
        let span = Span { at: Pos { line: self.next, column: 1 }, last: self.next };
        if self.directives.iter().any(|have| have.name == name) {
            return Err(Fault::at(span, format!("the directive {name} stands here twice: only one can count")));
        }
        if name == "escape" {
            self.escape = match value {
                "\\" => '\\',
                "`" => '`',
                other => {
                    return Err(Fault::at(span, format!("escape={other}: the escape character is either \\ or `")));
                }
            };
        }
        self.directives.push(Directive { name, value: value.to_owned(), span });
        Ok(true)
    }

    /// The heredocs that `logical` begins, with their content from the lines that follow.
    pub(crate) fn heredocs(&mut self, logical: &mut Logical) -> Result<Vec<Heredoc>> {
        let raw = Expander { raw_quotes: true, raw_escapes: true, keep_unset: true, ..Expander::new('\\') };
        let found = raw.expand(&logical.text, &Env::default()).map(|expanded| expanded.words).unwrap_or_default();
        let mut heredocs = Vec::new();
        for word in found {
            let Some(mut heredoc) = words::heredoc(&word) else { continue };
            loop {
                let Some(line) = self.physical.get(self.next) else {
                    let at = logical.text.find(&word).unwrap_or(0);
                    let name = heredoc.name;
                    return Err(Fault::at(
                        logical.span(at),
                        format!("unterminated heredoc: no line is {name:?} and nothing else"),
                    ));
                };
                self.next += 1;
                let end = line.trim_end_matches('\r');
                if (if heredoc.chomp { end.trim_start_matches('\t') } else { end }) == heredoc.name {
                    break;
                }
                heredoc.content.push_str(line);
                heredoc.content.push('\n');
            }
            logical.last = self.next;
            heredocs.push(heredoc);
        }
        Ok(heredocs)
    }
}

/// The line without the escape character that continues it, and whether it is the instruction's last. An escaped escape
/// character continues nothing.
fn continued(line: &str, escape: char) -> (&str, bool) {
    let text = line.trim_end_matches([' ', '\t']);
    match text.strip_suffix(escape) {
        Some(rest) if !rest.ends_with(escape) => (rest, false),
        _ => (line, true),
    }
}
