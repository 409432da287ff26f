//! Image references, by the grammar that Docker's tools share:
//!
//! ```text
//! reference      := name [ ":" tag ] [ "@" digest ]
//! name           := [ domain "/" ] path-component { "/" path-component }
//! domain         := (domain-component { "." domain-component } | "[" IPv6 "]") [ ":" port ]
//! path-component := [a-z0-9]+ { separator [a-z0-9]+ }     separator := "." | "_" | "__" | "-"+
//! tag            := [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```
//!
//! What stands before the first slash is a domain only if it has a dot or a colon, is `localhost`, or has an upper-case
//! letter; otherwise the image lives on `docker.io`, below `library/` when it has one component.

use std::fmt;
use std::str::FromStr;

use crate::digest::Digest;
use crate::error::{Error, Result};

const DEFAULT_DOMAIN: &str = "docker.io";
/// Longest repository path that registries accept.
const PATH_MAX: usize = 255;

/// A complete reference: nothing in it is implied any more.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
    /// The path as it was written, where no registry was.
    short: Option<String>,
}

impl Reference {
    /// The repository as it was written, where no registry was: what that means may be configured.
    pub(crate) fn short_name(&self) -> Option<&str> {
        self.short.as_deref()
    }

    /// The same tag and digest of another repository.
    pub(crate) fn relocated(&self, domain: &str, path: &str) -> Self {
        Self { domain: domain.to_owned(), path: path.to_owned(), short: None, ..self.clone() }
    }

    /// Host and port of the registry as the reference names it.
    pub(crate) fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Domain and path: the repository's full name.
    pub(crate) fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    pub(crate) fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub(crate) fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The same repository by another digest.
    pub(crate) fn with_digest(&self, digest: &Digest) -> Self {
        Self { tag: None, digest: Some(digest.clone()), short: None, ..self.clone() }
    }

    /// What the registry is asked for: the digest when there is one (a tag beside it is only a remark), else the tag.
    pub(crate) fn selector(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }
}

/// A short name is equal to the long one that it means by default.
impl PartialEq for Reference {
    fn eq(&self, other: &Self) -> bool {
        (&self.domain, &self.path, &self.tag, &self.digest) == (&other.domain, &other.path, &other.tag, &other.digest)
    }
}

impl Eq for Reference {}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.domain, self.path)?;
        match (&self.digest, &self.tag) {
            (Some(digest), _) => write!(f, "@{digest}"),
            (None, Some(tag)) => write!(f, ":{tag}"),
            (None, None) => Ok(()),
        }
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        parse(text).map_err(|why| Error::malformed(format!("image reference {text:?}: {why}")))
    }
}

fn parse(text: &str) -> std::result::Result<Reference, String> {
    if text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err("64 hex digits are an image ID, not a name".into());
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse::<Digest>().map_err(|e| e.to_string())?)),
        None => (text, None),
    };
    let (domain, remainder, is_short) = match rest.split_once('/') {
        Some((first, more)) if is_domain(first) => (first, more, false),
        _ => (DEFAULT_DOMAIN, rest, true),
    };
    let (path, tag) = match remainder.split_once(':') {
        Some((path, tag)) => (path, Some(tag)),
        None => (remainder, None),
    };
    check_domain(domain)?;
    let domain = if domain == "index.docker.io" { DEFAULT_DOMAIN } else { domain };
    check_path(path)?;
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let short = is_short.then(|| path.to_owned());
    let path =
        if domain == DEFAULT_DOMAIN && !path.contains('/') { format!("library/{path}") } else { path.to_owned() };
    let tag = match (tag, &digest) {
        (None, None) => Some("latest".to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { domain: domain.to_owned(), path, tag, digest, short })
}

fn is_domain(first: &str) -> bool {
    first.contains(['.', ':']) || first == "localhost" || first.bytes().any(|b| b.is_ascii_uppercase())
}

fn check_domain(domain: &str) -> std::result::Result<(), String> {
    let bad = || format!("invalid registry name {domain:?}");
    let (host, port) = if let Some(v6) = domain.strip_prefix('[') {
        let (address, rest) = v6.split_once(']').ok_or_else(bad)?;
        if address.is_empty() || !address.bytes().all(|b| b.is_ascii_hexdigit() || b == b':') {
            return Err(bad());
        }
        let port = match rest.strip_prefix(':') {
            Some(port) => Some(port),
            None if rest.is_empty() => None,
            None => return Err(bad()),
        };
        (None, port)
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (Some(host), Some(port)),
            None => (Some(domain), None),
        }
    };
    if let Some(port) = port
        && (port.is_empty() || port.parse::<u16>().is_err() || !port.bytes().all(|b| b.is_ascii_digit()))
    {
        return Err(format!("invalid port in registry name {domain:?}"));
    }
    let good_label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    if host.is_some_and(|host| !host.split('.').all(good_label)) {
        return Err(bad());
    }
    Ok(())
}

fn check_path(path: &str) -> std::result::Result<(), String> {
    if path.is_empty() {
        return Err("the repository name is empty".into());
    }
    if path.len() > PATH_MAX {
        return Err(format!("the repository name is longer than {PATH_MAX} characters"));
    }
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err("the repository name must be lower case".into());
    }
    match path.split('/').find(|component| !good_component(component)) {
        Some(component) => Err(format!("invalid component {component:?} in the repository name")),
        None => Ok(()),
    }
}

/// Letters and digits, with single separators between them (one dot, one or two underscores, any number of dashes).
fn good_component(component: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    alnum(first)
        && alnum(last)
        && bytes
            .split(|&b| alnum(b))
            .all(|gap| matches!(gap, b"" | b"." | b"_" | b"__") || gap.iter().all(|&b| b == b'-'))
}

fn check_tag(tag: &str) -> std::result::Result<(), String> {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let good = tag.len() <= 128
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|b| word(b) || b == b'.' || b == b'-');
    if good { Ok(()) } else { Err(format!("invalid tag {tag:?}")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full(text: &str) -> String {
        text.parse::<Reference>().unwrap_or_else(|e| panic!("{e}")).to_string()
    }

    #[test]
    fn short_names_are_completed_as_docker_does() {
        for (text, want) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("user/app", "docker.io/user/app:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("index.docker.io/a/b:c", "docker.io/a/b:c"),
            ("localhost/x", "localhost/x:latest"),
            ("localhost:5000/x:1", "localhost:5000/x:1"),
            ("127.0.0.1:5000/a/b/c:v1.0-x_y", "127.0.0.1:5000/a/b/c:v1.0-x_y"),
            ("[::1]:5000/x", "[::1]:5000/x:latest"),
            ("[fe80::1]/x:2", "[fe80::1]/x:2"),
            ("quay.io/a__b/c-----d.e_f", "quay.io/a__b/c-----d.e_f:latest"),
            ("UPPER/x", "UPPER/x:latest"),
            ("a:5000/b", "a:5000/b:latest"),
            ("library/x", "docker.io/library/x:latest"),
        ] {
            assert_eq!(full(text), want, "{text}");
        }
    }

    #[test]
    fn a_digest_wins_over_a_tag() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let both: Reference = format!("x/y:tag@{digest}").parse().unwrap();
        assert_eq!(both.to_string(), format!("docker.io/x/y@{digest}"));
        assert_eq!(both.selector(), digest);
        assert_eq!(both.tag(), Some("tag"));
    }

    #[test]
    fn what_the_grammar_forbids_is_refused() {
        let long = "a/".repeat(128) + "b";
        let hex = "a".repeat(64);
        let tag = format!("x:{}", "t".repeat(129));
        for bad in [
            "",
            ":tag",
            "x:",
            "X",
            "a/B",
            "a//b",
            "/a",
            "a/",
            "a..b",
            "a___b",
            "-a",
            "a-",
            "_a",
            "a/../b",
            "x@sha256:12",
            "x:ta g",
            "x:.tag",
            "x:-tag",
            "[::1/x",
            "[]/x",
            "a:port/x",
            "a:99999/x",
            "a:/x",
            "-h.io/x",
            "h-.io/x",
            "h..io/x",
            "x@y@z",
            "a b",
            "x\n",
            "é",
            &long,
            &hex,
            &tag,
        ] {
            assert!(bad.parse::<Reference>().is_err(), "{bad:?}");
        }
    }
}
