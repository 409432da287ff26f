//! The flags of one instruction, each of them taken once by name; what is left is unknown.

use super::super::source::{Fault, Result, did_you_mean};
use super::{Statement, Word};

/// Flags that were not asked for yet.
pub(super) struct Flags<'a> {
    statement: &'a Statement,
    known: Vec<&'static str>,
}

impl<'a> Flags<'a> {
    pub(super) fn of(statement: &'a Statement) -> Self {
        Self { statement, known: Vec::new() }
    }

    fn named(&self, name: &str) -> Vec<(&'a Word, Option<&'a str>)> {
        let flags = self.statement.flags.iter().filter_map(|word| {
            let text = word.text.strip_prefix("--")?;
            let (flag, value) = text.split_once('=').map_or((text, None), |(flag, value)| (flag, Some(value)));
            (flag == name).then_some((word, value))
        });
        flags.collect()
    }

    fn fault(&self, word: &Word, text: String) -> Fault {
        Fault::at(self.statement.line.span(word.at), text)
    }

    /// A flag that may stand there once, with its value.
    pub(super) fn value(&mut self, name: &'static str) -> Result<Option<Word>> {
        let mut all = self.values(name)?;
        if let Some(second) = all.get(1) {
            return Err(self.fault(second, format!("--{name} stands here twice")));
        }
        Ok(all.pop())
    }

    /// All values of a flag.
    pub(super) fn values(&mut self, name: &'static str) -> Result<Vec<Word>> {
        self.known.push(name);
        let of = |(word, value): (&Word, Option<&str>)| match value {
            Some(value) => Ok(Word { text: value.to_owned(), at: word.at }),
            None => Err(self.fault(word, format!("--{name} lacks its value: --{name}=VALUE"))),
        };
        self.named(name).into_iter().map(of).collect()
    }

    /// A switch: `--name`, `--name=true`, `--name=false`.
    pub(super) fn switch(&mut self, name: &'static str) -> Result<Option<bool>> {
        self.known.push(name);
        let named = self.named(name);
        if let [_, (second, _), ..] = named.as_slice() {
            return Err(self.fault(second, format!("--{name} stands here twice")));
        }
        let Some((word, value)) = named.first() else { return Ok(None) };
        match value.map(str::to_ascii_lowercase).as_deref() {
            None | Some("true") => Ok(Some(true)),
            Some("false") => Ok(Some(false)),
            Some(other) => Err(self.fault(word, format!("--{name}={other}: want true or false"))),
        }
    }

    /// Refuses every flag that nobody asked for.
    pub(super) fn finish(self) -> Result<()> {
        for word in &self.statement.flags {
            let name = word.text.trim_start_matches("--");
            let name = name.split('=').next().unwrap_or(name);
            if !self.known.contains(&name) {
                let hint = did_you_mean(name, self.known.iter().copied());
                let keyword = self.statement.keyword.to_uppercase();
                let known: Vec<String> = self.known.iter().map(|name| format!("--{name}")).collect();
                let takes = if known.is_empty() { "no flags".to_owned() } else { known.join(", ") };
                return Err(self.fault(word, format!("unknown flag --{name}{hint}: {keyword} takes {takes}")));
            }
        }
        Ok(())
    }
}
