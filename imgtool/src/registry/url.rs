//! The few things that must be known of a URL: whose it is, and where a redirect from it leads.

use ureq::http::Uri;

use crate::error::{Error, Result};

/// Scheme, host and port: what credentials are bound to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) secure: bool,
    pub(super) host: String,
    pub(super) port: u16,
}

impl Origin {
    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }
}

pub(super) fn origin(url: &str) -> Result<Origin> {
    let bad = || Error::malformed(format!("invalid URL {url:?}"));
    let uri: Uri = url.parse().map_err(|_| bad())?;
    let secure = match uri.scheme_str() {
        Some("https") => true,
        Some("http") => false,
        _ => return Err(bad()),
    };
    let authority = uri.authority().ok_or_else(bad)?;
    if authority.as_str().contains('@') {
        return Err(Error::malformed("a URL with a user name in it"));
    }
    let host = authority.host().to_ascii_lowercase();
    Ok(Origin { secure, host, port: authority.port_u16().unwrap_or(if secure { 443 } else { 80 }) })
}

/// Where `location` leads from `base`.
pub(super) fn resolve(base: &str, location: &str) -> Result<String> {
    if location.starts_with("http://") || location.starts_with("https://") {
        return Ok(location.to_owned());
    }
    let scheme_end = base.find("://").ok_or_else(|| Error::malformed(format!("invalid URL {base:?}")))?;
    if location.starts_with("//") {
        return Ok(format!("{}:{location}", &base[..scheme_end]));
    }
    if location.split(['/', '?', '#']).next().is_some_and(|first| first.contains(':')) {
        return Err(Error::malformed(format!("redirect to {location:?}: neither http nor https")));
    }
    let path_start = base[scheme_end + 3..].find('/').map_or(base.len(), |at| scheme_end + 3 + at);
    if location.starts_with('/') {
        return Ok(format!("{}{location}", &base[..path_start]));
    }
    let path = base[path_start..].split(['?', '#']).next().unwrap_or("");
    let directory = path.rfind('/').map_or("/", |slash| &path[..=slash]);
    Ok(format!("{}{directory}{location}", &base[..path_start]))
}

/// Whether a host name means this machine, so that plain HTTP to it leaks nothing.
pub(super) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Escapes what may not stand in a query.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,".contains(&byte) {
            out.push(char::from(byte));
        } else {
            let digit = |n: u8| char::from(b"0123456789ABCDEF"[usize::from(n)]);
            out.extend(['%', digit(byte >> 4), digit(byte & 15)]);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_are_resolved_against_their_page() {
        let base = "http://h:5000/v2/a/blobs/x?y=1";
        assert_eq!(resolve(base, "https://cdn/z").unwrap(), "https://cdn/z");
        assert_eq!(resolve(base, "//cdn/z").unwrap(), "http://cdn/z");
        assert_eq!(resolve(base, "/z").unwrap(), "http://h:5000/z");
        assert_eq!(resolve(base, "z").unwrap(), "http://h:5000/v2/a/blobs/z");
        assert_eq!(resolve("http://h", "z").unwrap(), "http://h/z");
        for bad in ["file:///etc/passwd", "gopher://x/", "javascript:1"] {
            assert!(resolve(base, bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_origin_is_scheme_host_and_port() {
        assert_eq!(origin("https://h/x").unwrap(), origin("https://H:443").unwrap());
        assert_ne!(origin("https://h/x").unwrap(), origin("http://h:443/").unwrap());
        assert_ne!(origin("http://h:5000/").unwrap(), origin("http://h:5001/").unwrap());
        assert!(origin("http://user:pw@h/").is_err());
        assert!(origin("ftp://h/").is_err());
    }

    #[test]
    fn loopback_hosts() {
        for host in ["localhost", "127.0.0.1", "127.3.2.1", "[::1]", "::1"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "128.0.0.1", "127.0.0.1.example.org", "[::2]", "0.0.0.0", "example.org"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
