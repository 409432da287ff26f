//! Variables and quotes in the words of a Dockerfile, by the rules of the Dockerfile reference ("Environment
//! replacement"): `$name`, `${name}`, `${name:-word}`, `:+`, `:?`, the same without the colon, `#`, `##`, `%`, `%%`, `/`, `//`.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use super::env::Env;
use super::glob::{Dialect, Glob};
use crate::error::{Error, Result};

/// How text is expanded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Expander {
    /// Backslash, or what the `escape` directive says.
    pub(crate) escape: char,
    /// Quotes stay in the result.
    pub(crate) raw_quotes: bool,
    /// Escape characters stay in the result.
    pub(crate) raw_escapes: bool,
    /// Quotes are characters like any other: the content of a heredoc.
    pub(crate) no_quotes: bool,
    /// References to variables that are not set stay as they are.
    pub(crate) keep_unset: bool,
}

/// What became of a text.
#[derive(Debug, Default)]
pub(crate) struct Expanded {
    pub(crate) text: String,
    /// The same, split at blanks that are not quoted.
    pub(crate) words: Vec<String>,
    /// Variables that were asked for and are not set.
    pub(crate) unset: BTreeSet<String>,
    /// Variables that were asked for and are set.
    pub(crate) used: BTreeSet<String>,
}

impl Expander {
    pub(crate) fn new(escape: char) -> Self {
        Self { escape, raw_quotes: false, raw_escapes: false, no_quotes: false, keep_unset: false }
    }

    /// Expands `text` with the variables of `env`.
    pub(crate) fn expand(self, text: &str, env: &Env) -> Result<Expanded> {
        if env.bytes() > VALUES_MAX {
            return Err(Error::malformed(format!("all variables together have more than {VALUES_MAX} bytes")));
        }
        let mut run =
            Run { how: self, chars: text.chars().peekable(), env, done: Expanded::default(), depth: 0, bytes: 0 };
        let (text, words) = run.until(None, self.raw_escapes)?;
        Ok(Expanded { text, words, ..run.done })
    }

    /// Only the text.
    pub(crate) fn word(self, text: &str, env: &Env) -> Result<String> {
        self.expand(text, env).map(|expanded| expanded.text)
    }
}

/// Collects words: blanks from variables split, quoted ones do not.
#[derive(Default)]
struct Words {
    all: Vec<String>,
    current: String,
}

impl Words {
    fn soft(&mut self, c: char) {
        if !c.is_whitespace() {
            self.current.push(c);
        } else if !self.current.is_empty() {
            self.all.push(std::mem::take(&mut self.current));
        }
    }

    fn finish(mut self) -> Vec<String> {
        if !self.current.is_empty() {
            self.all.push(self.current);
        }
        self.all
    }
}

/// Bytes that the variables of one text may become, and all together: one that has itself twice, and so on, would soon fill
/// the memory.
const VALUES_MAX: usize = 16 << 20;

/// Bytes that may still come of one instruction beyond what is written: each of its words may have a large variable.
#[derive(Debug)]
pub(crate) struct Room(Cell<usize>);

impl Room {
    pub(crate) fn new() -> Self {
        Self(Cell::new(VALUES_MAX))
    }

    pub(crate) fn take(&self, bytes: usize) -> Result<()> {
        self.0.set(self.0.get().checked_sub(bytes).ok_or_else(too_much)?);
        Ok(())
    }

    /// A text that became another.
    pub(crate) fn grown(&self, from: &str, to: String) -> Result<String> {
        self.take(to.len().saturating_sub(from.len()))?;
        Ok(to)
    }
}

/// How deep variables may stand in the words of others.
const DEPTH_MAX: usize = 100;

struct Run<'a> {
    how: Expander,
    chars: Peekable<Chars<'a>>,
    env: &'a Env,
    done: Expanded,
    depth: usize,
    bytes: usize,
}

fn syntax(why: impl std::fmt::Display) -> Error {
    Error::malformed(format!("syntax error: {why}"))
}

fn too_much() -> Error {
    Error::malformed(format!("what is in it makes more than {VALUES_MAX} bytes"))
}

impl Run<'_> {
    /// Up to the end, or to the character `stop`, which is taken too.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<(String, Vec<String>)> {
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.chars.next() {
            if Some(c) == stop {
                return Ok((text, words.finish()));
            }
            match c {
                '$' => {
                    let value = self.dollar()?;
                    text.push_str(&value);
                    value.chars().for_each(|c| words.soft(c));
                }
                '\'' | '"' if !self.how.no_quotes => {
                    let quoted = if c == '"' { self.double_quoted()? } else { self.single_quoted()? };
                    text.push_str(&quoted);
                    words.current.push_str(&quoted);
                }
                // A heredoc's name may stand behind blanks, and still is one word with its <<.
                '<' if self.chars.next_if_eq(&'<').is_some() => {
                    let mut start = "<<".to_owned();
                    while let Some(blank) = self.chars.next_if(|c| matches!(c, ' ' | '\t' | '\r')) {
                        start.push(blank);
                    }
                    text.push_str(&start);
                    words.current.push_str(&start);
                }
                c if c == self.how.escape => {
                    if raw_escapes {
                        text.push(c);
                        words.current.push(c);
                    }
                    if let Some(next) = self.chars.next() {
                        text.push(next);
                        words.current.push(next);
                    }
                }
                c => {
                    text.push(c);
                    words.soft(c);
                }
            }
        }
        match stop {
            None => Ok((text, words.finish())),
            Some(stop) => Err(syntax(format!("the end comes before a {stop:?} that is missing"))),
        }
    }

    fn single_quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        if self.how.raw_quotes {
            text.push('\'');
        }
        loop {
            match self.chars.next() {
                None => return Err(syntax("a single quote is not closed")),
                Some('\'') => break,
                Some(c) => text.push(c),
            }
        }
        if self.how.raw_quotes {
            text.push('\'');
        }
        Ok(text)
    }

    fn double_quoted(&mut self) -> Result<String> {
        let mut text = String::new();
        if self.how.raw_quotes {
            text.push('"');
        }
        loop {
            match self.chars.next() {
                None => return Err(syntax("a double quote is not closed")),
                Some('"') => break,
                Some('$') => text.push_str(&self.dollar()?),
                Some(c) if c == self.how.escape => {
                    if self.how.raw_escapes {
                        text.push(c);
                    }
                    // Only these can be escaped in double quotes; before others it is a character as well.
                    let escape = self.how.escape;
                    match self.chars.next_if(|&next| matches!(next, '"' | '$') || next == escape) {
                        Some(next) => text.push(next),
                        None if self.chars.peek().is_none() => {}
                        None => text.push(c),
                    }
                }
                Some(c) => text.push(c),
            }
        }
        if self.how.raw_quotes {
            text.push('"');
        }
        Ok(text)
    }

    /// What follows a dollar.
    fn dollar(&mut self) -> Result<String> {
        if self.depth == DEPTH_MAX {
            return Err(syntax(format!("more than {DEPTH_MAX} variables, one in the other")));
        }
        self.depth += 1;
        let value = self.reference()?;
        self.depth -= 1;
        self.bytes += value.len();
        if self.bytes > VALUES_MAX {
            return Err(too_much());
        }
        Ok(value)
    }

    fn reference(&mut self) -> Result<String> {
        if self.chars.next_if_eq(&'{').is_none() {
            let name = self.name();
            return Ok(match self.get(&name) {
                _ if name.is_empty() => "$".to_owned(),
                None if self.how.keep_unset => format!("${name}"),
                value => value.unwrap_or_default(),
            });
        }
        match self.chars.peek() {
            None => return Err(syntax("missing '}'")),
            Some('{' | '}' | ':') => return Err(syntax("bad substitution")),
            Some(_) => {}
        }
        let name = self.name();
        let missing = || syntax("missing '}'");
        let operator = self.chars.next().ok_or_else(missing)?;
        match operator {
            '}' => Ok(match self.get(&name) {
                None if self.how.keep_unset => format!("${{{name}}}"),
                value => value.unwrap_or_default(),
            }),
            ':' => {
                let operator = self.chars.next().ok_or_else(missing)?;
                if !matches!(operator, '+' | '-' | '?') {
                    return Err(Error::malformed(format!("unsupported modifier (:{operator}) in substitution")));
                }
                self.conditional(&name, operator, true)
            }
            '+' | '-' | '?' => self.conditional(&name, operator, false),
            '#' | '%' => self.trimmed(&name, operator),
            '/' => self.replaced(&name),
            other => Err(Error::malformed(format!("unsupported modifier ({other}) in substitution"))),
        }
    }

    fn conditional(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String> {
        let word = self.until(Some('}'), false)?.0;
        let value = self.get(name);
        if self.how.keep_unset && value.is_none() {
            let colon = if empty_is_unset { ":" } else { "" };
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let counts = value.clone().filter(|value| !(empty_is_unset && value.is_empty()));
        match (operator, counts) {
            ('-', None) | ('+', Some(_)) => Ok(word),
            ('+', None) => Ok(String::new()),
            (_, None) => {
                let why = match (word.as_str(), value) {
                    ("", None) => "is not allowed to be unset",
                    ("", Some(_)) => "is not allowed to be empty",
                    (message, _) => message,
                };
                Err(Error::malformed(format!("{name}: {why}")))
            }
            (_, Some(value)) => Ok(value),
        }
    }

    /// `#` takes the shortest match off the start, `##` the longest; `%` and `%%` off the end.
    fn trimmed(&mut self, name: &str, operator: char) -> Result<String> {
        let word = self.until(Some('}'), true)?.0;
        let Some(value) = self.get(name) else {
            return Ok(if self.how.keep_unset { format!("${{{name}{operator}{word}}}") } else { String::new() });
        };
        let (pattern, longest) = match word.strip_prefix(operator) {
            Some(rest) => (rest, true),
            None => (word.as_str(), false),
        };
        let glob = Glob::new(pattern, Dialect::Shell)?;
        if operator == '#' {
            let found = glob.prefixes(&value);
            let length = if longest { found.last() } else { found.first() };
            return Ok(value[length.copied().unwrap_or(0)..].to_owned());
        }
        let starts: Vec<usize> = value.char_indices().map(|(at, _)| at).chain([value.len()]).collect();
        let mut starts = starts.into_iter();
        let fits = |at: &usize| glob.matches(&value[*at..]);
        let start = if longest { starts.find(fits) } else { starts.rfind(fits) };
        Ok(value[..start.unwrap_or(value.len())].to_owned())
    }

    /// `/` replaces the first match, `//` all of them.
    fn replaced(&mut self, name: &str) -> Result<String> {
        let all = self.chars.next_if_eq(&'/').is_some();
        let pattern = self.until(Some('/'), true)?.0;
        let replacement = self.until(Some('}'), true)?.0;
        let Some(value) = self.get(name) else {
            let slashes = if all { "//" } else { "/" };
            let kept = format!("${{{name}{slashes}{pattern}/{replacement}}}");
            return Ok(if self.how.keep_unset { kept } else { String::new() });
        };
        let glob = Glob::new(&pattern, Dialect::Shell)?;
        let mut text = String::new();
        let mut at = 0;
        let mut replaced = false;
        while at < value.len() {
            let length = if all || !replaced { glob.prefixes(&value[at..]).last().copied() } else { None };
            if let Some(length) = length.filter(|&length| length > 0) {
                text.push_str(&replacement);
                if text.len() > VALUES_MAX {
                    return Err(too_much());
                }
                at += length;
                replaced = true;
            } else {
                let c = value[at..].chars().next().unwrap_or_default();
                text.push(c);
                at += c.len_utf8();
            }
        }
        Ok(text)
    }

    fn name(&mut self) -> String {
        match self.chars.peek() {
            Some(c) if c.is_numeric() => {
                let mut name = String::new();
                while let Some(c) = self.chars.next_if(|c| c.is_numeric()) {
                    name.push(c);
                }
                name
            }
            // The shell's special parameters, which a Dockerfile never sets.
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => self.chars.next().map(String::from).unwrap_or_default(),
            _ => {
                let mut name = String::new();
                while let Some(c) = self.chars.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                }
                name
            }
        }
    }

    fn get(&mut self, name: &str) -> Option<String> {
        if name.is_empty() {
            return None;
        }
        let value = self.env.get(name).map(str::to_owned);
        if value.is_some() { &mut self.done.used } else { &mut self.done.unset }.insert(name.to_owned());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env() -> Env {
        Env::of(["HOME=/root", "EMPTY=", "FILE=archive.tar.gz", "WORDS=a  b"])
    }

    #[test]
    fn every_form_of_a_variable() {
        for (text, want) in [
            ("$HOME", "/root"),
            ("${HOME}s", "/roots"),
            ("a$HOME.b", "a/root.b"),
            (r"\$HOME", "$HOME"),
            ("'$HOME'", "$HOME"),
            ("\"$HOME's\"", "/root's"),
            ("$NONE", ""),
            ("${NONE:-x}", "x"),
            ("${EMPTY:-x}", "x"),
            ("${EMPTY-x}", ""),
            ("${NONE-${EMPTY:-deep}}", "deep"),
            ("${HOME:+set}", "set"),
            ("${EMPTY:+set}", ""),
            ("${EMPTY+set}", "set"),
            ("${HOME:?}", "/root"),
            ("${FILE#*.}", "tar.gz"),
            ("${FILE##*.}", "gz"),
            ("${FILE%.*}", "archive.tar"),
            ("${FILE%%.*}", "archive"),
            ("${FILE/ar/AR}", "ARchive.tar.gz"),
            ("${FILE//ar/}", "chive.t.gz"),
            (r"${HOME/\//_}", "_root"),
            ("${FILE%nothing}", "archive.tar.gz"),
            ("100%", "100%"),
            ("$", "$"),
        ] {
            assert_eq!(Expander::new('\\').word(text, &env()).unwrap(), want, "{text}");
        }
    }

    #[test]
    fn what_cannot_be_expanded_says_why() {
        for (text, why) in [
            ("${HOME", "missing '}'"),
            ("${}", "bad substitution"),
            ("${HOME:=x}", "unsupported modifier (:=)"),
            ("${HOME^}", "unsupported modifier (^)"),
            ("${NONE:?wanted for the build}", "NONE: wanted for the build"),
            ("${NONE?}", "not allowed to be unset"),
            ("${EMPTY:?}", "not allowed to be empty"),
            ("\"open", "double quote"),
            ("'open", "single quote"),
        ] {
            let error = Expander::new('\\').word(text, &env()).unwrap_err().to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }

    #[test]
    fn what_would_fill_the_memory_or_the_stack_is_refused() {
        let how = Expander::new('\\');
        let mut env = Env::of(["A=aaaaaaaa"]);
        let mut grow = |text: &str| {
            for _ in 0..40 {
                match how.word(text, &env) {
                    Ok(value) => env.set("A", &value),
                    Err(e) => return e.to_string(),
                }
            }
            panic!("{text} goes on and on")
        };
        assert!(grow("$A$A").contains("more than"));
        assert!(grow("${A//a/aaaaaaaa}").contains("more than"));
        let deep = |n: usize| format!("{}x{}", "${N:-".repeat(n), "}".repeat(n));
        assert_eq!(how.word(&deep(50), &Env::default()).unwrap(), "x");
        assert!(how.word(&deep(100_000), &Env::default()).is_err());
    }

    #[test]
    fn blanks_of_variables_split_words_and_quoted_ones_do_not() {
        let words = |text: &str| Expander::new('\\').expand(text, &env()).unwrap().words;
        assert_eq!(words("x$WORDS y"), ["xa", "b", "y"]);
        assert_eq!(words("x\"$WORDS\" y"), ["xa  b", "y"]);
        assert_eq!(words(r"a\ b c"), ["a b", "c"]);
    }

    #[test]
    fn the_escape_character_may_be_another() {
        assert_eq!(Expander::new('`').word(r"c:\x`$HOME", &env()).unwrap(), r"c:\x$HOME");
        let unset = Expander { keep_unset: true, raw_quotes: true, ..Expander::new('\\') };
        assert_eq!(unset.word("\"${NONE:-x}\" $NONE $HOME", &env()).unwrap(), "\"${NONE:-x}\" $NONE /root");
    }
}
