//! Variables: ENV, ARG, and what a process of a step has.

/// Names and values, in the order in which they were set first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Env {
    all: Vec<(String, String)>,
    bytes: usize,
}

impl Env {
    /// From `NAME=VALUE`; without a `=` the value is empty.
    pub(crate) fn of<S: AsRef<str>>(entries: impl IntoIterator<Item = S>) -> Self {
        let mut env = Self::default();
        for entry in entries {
            let (key, value) = entry.as_ref().split_once('=').unwrap_or((entry.as_ref(), ""));
            env.set(key, value);
        }
        env
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.all.iter().find(|(have, _)| have == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        self.bytes += value.len();
        match self.all.iter_mut().find(|(have, _)| have == key) {
            Some((_, have)) => {
                self.bytes -= have.len();
                value.clone_into(have);
            }
            None => self.all.push((key.to_owned(), value.to_owned())),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.all.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.all.iter().map(|(key, _)| key.as_str())
    }

    /// Of all values.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}
