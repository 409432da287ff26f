//! `.dockerignore`, and the patterns of `--exclude`: which paths do not count.
//!
//! One pattern a line; `#` begins a comment, `!` takes back; `**` crosses directories; a pattern that matches a directory
//! matches all below it; the last pattern that matches counts.

use super::glob::{Dialect, Glob};
use crate::error::{Error, Result, Step};

/// An ignore file is read up to this size.
pub(crate) const IGNORE_MAX: u64 = 1 << 20;

#[derive(Clone, Debug)]
struct Pattern {
    glob: Glob,
    text: String,
    takes_back: bool,
}

/// A list of patterns.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ignore {
    patterns: Vec<Pattern>,
}

impl Ignore {
    /// The text of an ignore file, called `name` in errors.
    pub(crate) fn parse(text: &str, name: &str) -> Result<Self> {
        let mut ignore = Self::default();
        for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
            if line.starts_with('#') {
                continue;
            }
            ignore.add(line).with(|| format!("{name}:{}:1", number + 1))?;
        }
        Ok(ignore)
    }

    /// Patterns as flags have them.
    pub(crate) fn of<S: AsRef<str>>(patterns: impl IntoIterator<Item = S>) -> Result<Self> {
        let mut ignore = Self::default();
        patterns.into_iter().try_for_each(|pattern| ignore.add(pattern.as_ref()))?;
        Ok(ignore)
    }

    fn add(&mut self, line: &str) -> Result<()> {
        let line = line.trim();
        if line.is_empty() {
            return Ok(());
        }
        let (takes_back, rest) = match line.strip_prefix('!') {
            Some(rest) => (true, rest.trim()),
            None => (false, line),
        };
        if rest.is_empty() {
            return Err(Error::malformed("a ! without a pattern"));
        }
        let text = clean(rest);
        // The context itself cannot be left out.
        if text.is_empty() || text == "." {
            return Ok(());
        }
        self.patterns.push(Pattern { glob: Glob::new(&text, Dialect::Path)?, text, takes_back });
        Ok(())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Some pattern takes back: what is in a directory that does not count may count.
    pub(crate) fn takes_back(&self) -> bool {
        self.patterns.iter().any(|pattern| pattern.takes_back)
    }

    /// Whether `path` (no slash before or behind it) does not count, by itself or by a directory above it.
    pub(crate) fn is_ignored(&self, path: &str) -> bool {
        if path.is_empty() {
            return false;
        }
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.takes_back != ignored {
                continue; // would change nothing
            }
            let above = path.match_indices('/').map(|(at, _)| &path[..at]);
            if above.chain([path]).any(|prefix| pattern.glob.matches(prefix)) {
                ignored = !pattern.takes_back;
            }
        }
        ignored
    }

    /// Whether something below the ignored directory `path` may count.
    pub(crate) fn may_hold(&self, path: &str) -> bool {
        self.patterns.iter().filter(|pattern| pattern.takes_back).any(|pattern| {
            let mut directories = path.split('/');
            for part in pattern.text.split('/') {
                if part.contains("**") {
                    return true;
                }
                let Some(directory) = directories.next() else { return true };
                if !Glob::new(part, Dialect::Path).is_ok_and(|glob| glob.matches(directory)) {
                    return false;
                }
            }
            true
        })
    }
}

/// A path without `.`, `..`, double slashes, or slashes at its ends; `..` stops at the top.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join("/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_pattern_that_matches_counts() {
        let text = "# comment\n\n*.md\n!README.md\n/build/\ndocs/**\n!docs/keep\n  spaces  \n**/*.o\n.\n./a/../b\n";
        let ignore = Ignore::parse(text, ".dockerignore").unwrap();
        for (path, want) in [
            ("x.md", true),
            ("README.md", false),
            ("sub/x.md", false),
            ("build", true),
            ("build/deep/file", true),
            ("docs", false),
            ("docs/a", true),
            ("docs/keep", false),
            ("docs/keep/me", false),
            ("spaces", true),
            ("a/b/c.o", true),
            ("b", true),
            ("a", false),
            ("# comment", false),
            ("", false),
        ] {
            assert_eq!(ignore.is_ignored(path), want, "{path}");
        }
        assert!(ignore.may_hold("docs") && !ignore.may_hold("build"));
        let all = Ignore::of(["*", "!src/*.rs", "src/no.rs"]).unwrap();
        assert!(all.is_ignored("x") && !all.is_ignored("src/a.rs") && all.is_ignored("src/no.rs"));
        assert!(all.may_hold("src") && !all.may_hold("target"));
    }

    #[test]
    fn a_bad_pattern_is_named_by_its_line() {
        let error = Ignore::parse("a\n[\n", "x/.dockerignore").unwrap_err().to_string();
        assert!(error.contains("x/.dockerignore:2:1"), "{error}");
        assert!(Ignore::parse("!", "f").is_err());
    }
}
