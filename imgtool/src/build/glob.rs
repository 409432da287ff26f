//! Patterns: of files as Go's `filepath.Match` and Docker's ignore files have them, and of strings as a shell has them in
//! `${name#pattern}`. One matcher for all: it walks all possible states at once, so no pattern takes more than its length
//! times that of the text.

use crate::error::{Error, Result};

/// What the special characters mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// `*` and `?` stop at slashes, `[a-z]`, and `**` crosses slashes.
    Path,
    /// `*` and `?` match anything; no brackets.
    Shell,
}

#[derive(Clone, Debug, PartialEq)]
enum Token {
    Char(char),
    /// One character but a slash (paths), or any.
    One,
    /// Any number of them.
    Star,
    /// Any characters.
    Any,
    /// Nothing, or anything up to and with a slash.
    Directories,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

/// A compiled pattern.
#[derive(Clone, Debug)]
pub(crate) struct Glob {
    tokens: Vec<Token>,
    dialect: Dialect,
}

impl Glob {
    pub(crate) fn new(pattern: &str, dialect: Dialect) -> Result<Self> {
        let bad = |why: &str| Error::malformed(format!("pattern {pattern:?}: {why}"));
        let mut tokens = Vec::new();
        let mut chars = pattern.chars().peekable();
        while let Some(c) = chars.next() {
            match (c, dialect) {
                ('*', Dialect::Shell) => tokens.push(Token::Any),
                ('*', Dialect::Path) if chars.peek() == Some(&'*') => {
                    chars.next();
                    if chars.peek() == Some(&'/') {
                        chars.next();
                        tokens.push(Token::Directories);
                    } else {
                        tokens.push(Token::Any);
                    }
                }
                ('*', Dialect::Path) => tokens.push(Token::Star),
                ('?', _) => tokens.push(Token::One),
                ('[', Dialect::Path) => tokens.push(class(&mut chars).ok_or_else(|| bad("a [ without its ]"))?),
                ('\\', Dialect::Path) => match chars.next() {
                    Some(next) => tokens.push(Token::Char(next)),
                    None => return Err(bad("ends in a backslash")),
                },
                ('\\', Dialect::Shell) => match chars.next() {
                    Some(next @ ('*' | '?' | '\\' | '}' | '/')) => tokens.push(Token::Char(next)),
                    Some(next) => return Err(bad(&format!("invalid escape \\{next}"))),
                    None => return Err(bad("ends in a backslash")),
                },
                (c, _) => tokens.push(Token::Char(c)),
            }
        }
        Ok(Self { tokens, dialect })
    }

    /// Whether the pattern is the whole of `text`.
    pub(crate) fn matches(&self, text: &str) -> bool {
        let mut states = self.start();
        for c in text.chars() {
            self.step(&mut states, c);
        }
        states[self.tokens.len()]
    }

    /// Lengths in bytes of all beginnings of `text` that the pattern matches, the shortest first.
    pub(crate) fn prefixes(&self, text: &str) -> Vec<usize> {
        let mut found = Vec::new();
        let mut states = self.start();
        if states[self.tokens.len()] {
            found.push(0);
        }
        for (at, c) in text.char_indices() {
            self.step(&mut states, c);
            if states[self.tokens.len()] {
                found.push(at + c.len_utf8());
            }
            if !states.contains(&true) {
                break;
            }
        }
        found
    }

    fn start(&self) -> Vec<bool> {
        let mut states = vec![false; self.tokens.len() + 1];
        states[0] = true;
        self.skip(&mut states);
        states
    }

    /// What may be nothing is passed over.
    fn skip(&self, states: &mut [bool]) {
        for (at, token) in self.tokens.iter().enumerate() {
            if states[at] && matches!(token, Token::Star | Token::Any | Token::Directories) {
                states[at + 1] = true;
            }
        }
    }

    fn step(&self, states: &mut Vec<bool>, c: char) {
        let mut next = vec![false; states.len()];
        let mut arrived = vec![false; states.len()];
        let ordinary = c != '/' || self.dialect == Dialect::Shell;
        for (at, token) in self.tokens.iter().enumerate().filter(|(at, _)| states[*at]) {
            match token {
                Token::Char(want) => arrived[at + 1] |= *want == c,
                Token::One => arrived[at + 1] |= ordinary,
                Token::Star => next[at] |= ordinary,
                Token::Any | Token::Directories => next[at] = true,
                Token::Class { negated, ranges } => {
                    let inside = ranges.iter().any(|(low, high)| (*low..=*high).contains(&c));
                    arrived[at + 1] |= ordinary && inside != *negated;
                }
            }
        }
        for (at, token) in self.tokens.iter().enumerate() {
            let here = next[at] || arrived[at];
            arrived[at + 1] |= match token {
                Token::Star | Token::Any => here,
                // Who is inside leaves behind a slash only, not in the middle of a name.
                Token::Directories => arrived[at] || (here && c == '/'),
                _ => false,
            };
        }
        for (next, arrived) in next.iter_mut().zip(arrived) {
            *next |= arrived;
        }
        *states = next;
    }
}

/// What stands between brackets; `None` if they do not close or have nothing in them.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if(|c| matches!(c, '^' | '!')).is_some();
    let mut ranges = Vec::new();
    let one = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>| match chars.next()? {
        '\\' => chars.next(),
        c => Some(c),
    };
    loop {
        if chars.peek() == Some(&']') && !ranges.is_empty() {
            chars.next();
            return Some(Token::Class { negated, ranges });
        }
        let low = one(chars)?;
        let high = if chars.peek() == Some(&'-') {
            chars.next();
            one(chars)?
        } else {
            low
        };
        ranges.push((low, high));
    }
}

/// Whether a path has characters that make it a pattern.
pub(crate) fn is_pattern(path: &str) -> bool {
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match c {
            '*' | '?' | '[' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_as_in_ignore_files() {
        for (pattern, text, want) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*.go", "x.go", true),
            ("*.go", "d/x.go", false),
            ("**/*.go", "x.go", true),
            ("**/*.go", "d/e/x.go", true),
            ("**/x", "ax", false),
            ("**/x", "a/x", true),
            ("d/**", "d/e/f", true),
            ("d/**", "d", false),
            ("**", "a/b", true),
            ("a**b", "a/x/b", true),
            ("[a-c]?", "bz", true),
            ("[^a-c]?", "bz", false),
            ("[]", "]", false),
            (r"a\*b", "a*b", true),
            (r"a\*b", "axb", false),
            ("?", "/", false),
            ("f?o", "fóo", true),
        ] {
            let glob = Glob::new(pattern, Dialect::Path);
            assert_eq!(glob.is_ok_and(|g| g.matches(text)), want, "{pattern} {text}");
        }
        for bad in ["[", "[a", "a\\", "[]"] {
            assert!(Glob::new(bad, Dialect::Path).is_err(), "{bad}");
        }
    }

    #[test]
    fn many_stars_take_no_time() {
        let glob = Glob::new(&"*a".repeat(60), Dialect::Path).unwrap();
        assert!(!glob.matches(&"a".repeat(59)));
        assert!(glob.matches(&"a".repeat(2_000)));
    }

    #[test]
    fn beginnings_of_a_string() {
        let glob = Glob::new("a*", Dialect::Shell).unwrap();
        assert_eq!(glob.prefixes("a/b"), [1, 2, 3]);
        assert!(Glob::new("\\x", Dialect::Shell).is_err());
    }
}
