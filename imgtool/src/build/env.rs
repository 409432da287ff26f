//! Variables: ENV, ARG, and what a process of a step has.

/// Names and values, in the order in which they were set first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Env(Vec<(String, String)>);

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
        self.0.iter().find(|(have, _)| have == key).map(|(_, value)| value.as_str())
    }

    pub(crate) fn set(&mut self, key: &str, value: &str) {
        match self.0.iter_mut().find(|(have, _)| have == key) {
            Some((_, have)) => value.clone_into(have),
            None => self.0.push((key.to_owned(), value.to_owned())),
        }
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value.as_str()))
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(key, _)| key.as_str())
    }
}
