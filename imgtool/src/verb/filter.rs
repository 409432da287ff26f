//! `images --filter`, with Docker's words and meanings.

use std::str::FromStr;

use crate::build::{Dialect, Glob};
use crate::error::{Error, Result, Step};
use crate::layout::{Image, Store};
use crate::platform::Platform;
use crate::time;

/// One `--filter`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ImageFilter {
    /// A pattern of names, with a tag or without.
    Reference(String),
    /// Without a name.
    Dangling(bool),
    Label(String, Option<String>),
    /// Made before, or after, this image.
    Before(String),
    Since(String),
}

impl FromStr for ImageFilter {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let want = "want reference=PATTERN, dangling=true|false, label=KEY[=VALUE], before=IMAGE or since=IMAGE";
        let bad = || Error::malformed(format!("{text:?}: {want}"));
        match text.split_once('=').ok_or_else(bad)? {
            (_, "") => Err(bad()),
            ("reference", pattern) => {
                Glob::new(pattern, Dialect::Path)?;
                Ok(Self::Reference(pattern.to_owned()))
            }
            ("dangling", "true" | "1") => Ok(Self::Dangling(true)),
            ("dangling", "false" | "0") => Ok(Self::Dangling(false)),
            ("label", label) => Ok(match label.split_once('=') {
                Some((key, value)) => Self::Label(key.to_owned(), Some(value.to_owned())),
                None => Self::Label(label.to_owned(), None),
            }),
            ("before", image) => Ok(Self::Before(image.to_owned())),
            ("since", image) => Ok(Self::Since(image.to_owned())),
            _ => Err(bad()),
        }
    }
}

/// Filters, made ready for many images.
pub(super) struct Filters {
    references: Vec<Glob>,
    others: Vec<Test>,
}

enum Test {
    Dangling(bool),
    Label(String, Option<String>),
    Before(i64),
    Since(i64),
}

impl Filters {
    pub(super) fn of(store: &Store, filters: &[ImageFilter]) -> Result<Self> {
        let made = |name: &str| -> Result<i64> {
            Ok(created(&store.find(name, &Platform::host()).with(|| format!("--filter {name}"))?))
        };
        let mut all = Self { references: Vec::new(), others: Vec::new() };
        for filter in filters {
            match filter {
                ImageFilter::Reference(pattern) => all.references.push(Glob::new(pattern, Dialect::Path)?),
                ImageFilter::Dangling(wanted) => all.others.push(Test::Dangling(*wanted)),
                ImageFilter::Label(key, value) => all.others.push(Test::Label(key.clone(), value.clone())),
                ImageFilter::Before(name) => all.others.push(Test::Before(made(name)?)),
                ImageFilter::Since(name) => all.others.push(Test::Since(made(name)?)),
            }
        }
        Ok(all)
    }

    /// Whether one of the patterns and all other filters accept the image.
    pub(super) fn accept(&self, image: &Image) -> bool {
        let names = names(image);
        let named = |pattern: &Glob| names.iter().any(|name| pattern.matches(name));
        let labels = image.config.config.labels.as_ref();
        let passes = |test: &Test| match test {
            Test::Dangling(wanted) => image.name().is_none() == *wanted,
            Test::Label(key, value) => labels
                .and_then(|labels| labels.get(key))
                .is_some_and(|have| value.as_ref().is_none_or(|value| value == have)),
            Test::Before(moment) => created(image) < *moment,
            Test::Since(moment) => created(image) > *moment,
        };
        (self.references.is_empty() || self.references.iter().any(named)) && self.others.iter().all(passes)
    }
}

/// All that an image may be called: with its tag and without, and as short as people write it.
fn names(image: &Image) -> Vec<String> {
    let Some(reference) = image.reference() else { return image.name().map(str::to_owned).into_iter().collect() };
    let whole = reference.name();
    let hub = whole.strip_prefix("docker.io/");
    let short = hub.map(|name| name.strip_prefix("library/").unwrap_or(name));
    let mut all = Vec::new();
    for name in [Some(whole.as_str()), hub, short].into_iter().flatten() {
        all.push(name.to_owned());
        all.extend(reference.tag().map(|tag| format!("{name}:{tag}")));
    }
    all
}

/// Seconds since 1970.
pub(super) fn created(image: &Image) -> i64 {
    image.config.created.as_deref().and_then(time::parse).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_read_and_mistakes_named() {
        for (text, want) in [
            ("reference=de*:1", ImageFilter::Reference("de*:1".into())),
            ("dangling=true", ImageFilter::Dangling(true)),
            ("dangling=0", ImageFilter::Dangling(false)),
            ("label=a", ImageFilter::Label("a".into(), None)),
            ("label=a=b=c", ImageFilter::Label("a".into(), Some("b=c".into()))),
            ("before=x:1", ImageFilter::Before("x:1".into())),
            ("since=x", ImageFilter::Since("x".into())),
        ] {
            assert_eq!(text.parse::<ImageFilter>().unwrap(), want);
        }
        for bad in ["", "x", "dangling=maybe", "until=1h", "reference=", "reference=[a", "label="] {
            assert!(bad.parse::<ImageFilter>().is_err(), "{bad}");
        }
    }
}
