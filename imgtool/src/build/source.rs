//! Places in a Dockerfile, and errors and warnings that know theirs.

use std::fmt::Write as _;

use crate::error::{Error, one_line};

/// A place: line and column, both from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Pos {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

/// Where an instruction begins, and its last line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) at: Pos,
    pub(crate) last: usize,
}

/// An error that may know where in the Dockerfile it comes from.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) span: Option<Span>,
    pub(crate) error: Error,
}

pub(crate) type Result<T> = std::result::Result<T, Fault>;

impl Fault {
    pub(crate) fn at(span: Span, text: impl Into<String>) -> Self {
        Self { span: Some(span), error: Error::malformed(text) }
    }
}

impl<E: Into<Error>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self { span: None, error: error.into() }
    }
}

/// Says where something failed, unless that is known already.
pub(crate) trait Locate<T> {
    fn locate(self, span: Span) -> Result<T>;
}

impl<T, E: Into<Fault>> Locate<T> for std::result::Result<T, E> {
    fn locate(self, span: Span) -> Result<T> {
        self.map_err(|e| {
            let fault = e.into();
            Fault { span: fault.span.or(Some(span)), ..fault }
        })
    }
}

/// The text of a Dockerfile, for excerpts.
#[derive(Debug, Default)]
pub(crate) struct Source {
    /// What people call the file.
    pub(crate) name: String,
    pub(crate) lines: Vec<String>,
    text: Vec<u8>,
}

impl Source {
    pub(crate) fn new(name: &str, text: &[u8]) -> Self {
        let shown = String::from_utf8_lossy(text);
        let lines = shown.split('\n').map(|line| line.trim_end_matches('\r').to_owned()).collect();
        Self { name: one_line(name.to_owned()), lines, text: text.to_owned() }
    }

    /// The whole text, as JSON can have it.
    pub(crate) fn base64(&self) -> String {
        use base64::Engine as _;
        base64::engine::general_purpose::STANDARD.encode(&self.text)
    }

    /// `FILE:LINE:COLUMN`.
    pub(crate) fn place(&self, span: Span) -> String {
        format!("{}:{}:{}", self.name, span.at.line, span.at.column)
    }

    /// The lines of `span` with two before and after, those meant marked, and a caret below the place.
    pub(crate) fn excerpt(&self, span: Span) -> String {
        const AROUND: usize = 2;
        const SHOWN: usize = 12;
        let rule = "--------------------";
        let mut text = format!("{}\n{rule}\n", self.place(span));
        let first = span.at.line.saturating_sub(AROUND).max(1);
        let end = span.last.min(span.at.line + SHOWN);
        for number in first..=(end + AROUND).min(self.lines.len()) {
            let line = one_line(self.lines[number - 1].replace('\t', " "));
            let mark = if (span.at.line..=end).contains(&number) { ">>>" } else { "   " };
            if number == self.lines.len() && line.is_empty() {
                continue; // behind the last line's end
            }
            let _ = writeln!(text, "{}", format!("{number:4} | {mark} {line}").trim_end());
            if number == span.at.line && span.at.column > 0 {
                let _ = writeln!(text, "     |     {}^", " ".repeat(span.at.column - 1));
            }
        }
        text.push_str(rule);
        text
    }
}

/// The word of `known` that somebody who wrote `word` may have meant: at most two letters away.
pub(crate) fn meant<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    let near = |candidate: &&str| distance(&word, &candidate.to_lowercase());
    let best = known.into_iter().min_by_key(near)?;
    let most = if word.chars().count() > 3 { 2 } else { 1 };
    (1..=most).contains(&near(&best)).then_some(best)
}

/// The same as a remark for an error.
pub(crate) fn did_you_mean<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    meant(word, known).map_or_else(String::new, |best| format!(" (did you mean {best}?)"))
}

/// How many letters must be added, removed, changed, or swapped with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let cost = usize::from(a[i - 1] != b[j - 1]);
            let mut best = (rows[i - 1][j] + 1).min(row[j - 1] + 1).min(rows[i - 1][j - 1] + cost);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                best = best.min(rows[i - 2][j - 2] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_points_at_the_place() {
        let source = Source::new("Dockerfile", b"FROM x\n\nRUN a \\\n  b\nCMD c\n");
        let span = Span { at: Pos { line: 3, column: 5 }, last: 4 };
        let want = "Dockerfile:3:5\n--------------------\n   1 |     FROM x\n   2 |\n   3 | >>> RUN a \\\n     |         ^\n   4 | >>>   b\n   5 |     CMD c\n--------------------";
        assert_eq!(source.excerpt(span), want);
    }

    #[test]
    fn near_words_are_offered() {
        assert_eq!(meant("RNU", ["RUN", "ENV"]), Some("RUN"));
        assert_eq!(meant("copyy", ["COPY", "CMD"]), Some("COPY"));
        assert_eq!(meant("nothing", ["COPY", "CMD"]), None);
        assert_eq!(meant("RUN", ["RUN"]), None);
    }
}
