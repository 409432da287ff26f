//! Answers to `401 Unauthorized`: the challenge is read, and a basic or bearer header made for it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;

use super::credentials::Credential;
use super::transport::explain;
use super::url::{escape, is_loopback, origin};
use crate::error::{Error, Result, Step};
use crate::oci::json;

/// Largest answer of a token server.
const TOKEN_MAX: u64 = 1 << 20;

/// One challenge of a WWW-Authenticate header.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) scheme: String,
    params: Vec<(String, String)>,
}

impl Challenge {
    fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether the token server that the challenge names speaks HTTPS.
    pub(super) fn is_secure(&self) -> bool {
        self.param("realm").is_some_and(|realm| self.scheme == "bearer" && realm.starts_with("https://"))
    }

    /// Reads a header, which may have several challenges.
    pub(super) fn parse(header: &str) -> Vec<Self> {
        let mut challenges: Vec<Self> = Vec::new();
        let mut rest = header.trim_start();
        while !rest.is_empty() {
            let end = rest.find(|c: char| c == '=' || c == ',' || c.is_whitespace()).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            let after = after.trim_start();
            if let Some(value) = after.strip_prefix('=') {
                let (value, after) = value_of(value.trim_start());
                if let Some(challenge) = challenges.last_mut() {
                    challenge.params.push((word.to_ascii_lowercase(), value));
                }
                rest = after.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            } else {
                if !word.is_empty() {
                    challenges.push(Self { scheme: word.to_ascii_lowercase(), params: Vec::new() });
                }
                rest = after.trim_start_matches(|c: char| c == ',' || c.is_whitespace());
            }
        }
        challenges
    }
}

/// A token or quoted string, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c == ',' || c.is_whitespace()).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            c => value.push(c),
        }
    }
    (value, "")
}

/// Makes the Authorization header that a registry at `registry` (a URL) asks for, for `scopes`.
pub(super) fn answer(
    agent: &Agent,
    registry: &str,
    scopes: &[String],
    challenges: &[Challenge],
    credential: Option<&Credential>,
) -> Result<String> {
    let of = |scheme: &str| challenges.iter().find(|challenge| challenge.scheme == scheme);
    if let Some(bearer) = of("bearer") {
        return token(agent, registry, scopes, bearer, credential).map(|token| format!("Bearer {token}"));
    }
    if of("basic").is_none() {
        return Err(Error::other("the registry asks for a kind of login that is not known (neither Basic nor Bearer)"));
    }
    match credential {
        Some(Credential::Password { user, password }) => Ok(basic(user, password)),
        Some(Credential::Identity(_)) => {
            Err(Error::other("the registry asks for a password, there is only an identity token"))
        }
        None => Err(Error::other(
            "the registry asks for a login: give --creds USER:PASSWORD or log in with `imgtool login`",
        )),
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[derive(Deserialize)]
struct Token {
    token: Option<String>,
    access_token: Option<String>,
}

fn token(
    agent: &Agent,
    registry: &str,
    scopes: &[String],
    bearer: &Challenge,
    credential: Option<&Credential>,
) -> Result<String> {
    let realm = bearer.param("realm").ok_or_else(|| Error::malformed("the registry's challenge has no realm"))?;
    let realm_origin = origin(realm).at("realm")?;
    let registry_origin = origin(registry)?;
    // The registry names the server that gets the password. Over plain HTTP that may be the registry itself, or another
    // one of this machine.
    if !realm_origin.secure
        && (registry_origin.secure
            || (realm_origin.host != registry_origin.host
                && !(is_loopback(&realm_origin.host) && is_loopback(&registry_origin.host))))
    {
        return Err(Error::other(format!("the registry sends us to {realm} for a token: refused, it is plain HTTP")));
    }
    let scope = scopes.join(" ");
    let service = bearer.param("service").unwrap_or_default();
    let response = if let Some(Credential::Identity(refresh)) = credential {
        let form = [
            ("grant_type", "refresh_token"),
            ("service", service),
            ("scope", scope.as_str()),
            ("refresh_token", refresh.as_str()),
            ("client_id", "tare-imgtool"),
        ];
        agent.post(realm).send_form(form)
    } else {
        let separator = if realm.contains('?') { '&' } else { '?' };
        let mut query: Vec<String> = scopes.iter().map(|scope| format!("scope={}", escape(scope))).collect();
        if !service.is_empty() {
            query.push(format!("service={}", escape(service)));
        }
        let url = if query.is_empty() { realm.to_owned() } else { format!("{realm}{separator}{}", query.join("&")) };
        let mut request = agent.get(&url);
        if let Some(Credential::Password { user, password }) = credential {
            request = request.header("Authorization", basic(user, password));
        }
        request.call()
    };
    let step = || format!("token from {}", realm_origin.host);
    let mut response = response.map_err(explain).with(step)?;
    let status = response.status().as_u16();
    if status != 200 {
        let why = if matches!(status, 401 | 403) { "login refused" } else { "the token server failed" };
        return Err(Error::other(format!("{why} (status {status})"))).with(step);
    }
    let body = response.body_mut().with_config().limit(TOKEN_MAX).read_to_vec().map_err(explain).with(step)?;
    let token: Token = json(&body).with(step)?;
    let token = token.token.filter(|t| !t.is_empty()).or(token.access_token).unwrap_or_default();
    if token.is_empty() || token.bytes().any(|b| b.is_ascii_control() || !b.is_ascii()) {
        return Err(Error::malformed("the token server gave no usable token")).with(step);
    }
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_as_rfc_7235_writes_them() {
        let header = r#"Bearer realm="https://auth.example/token",service="registry.example", scope="repository:a/b:pull,push", Basic realm="x \"y\"""#;
        let parsed = Challenge::parse(header);
        assert_eq!(parsed.len(), 2);
        assert_eq!(parsed[0].scheme, "bearer");
        assert_eq!(parsed[0].param("realm"), Some("https://auth.example/token"));
        assert_eq!(parsed[0].param("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(parsed[1].param("realm"), Some("x \"y\""));
        assert_eq!(Challenge::parse("Basic").len(), 1);
        assert_eq!(Challenge::parse("BASIC realm=x")[0].scheme, "basic");
        for odd in ["", ",,,", "=", "\"", "Bearer realm=\"open", "a=b", "Bearer realm"] {
            drop(Challenge::parse(odd));
        }
    }

    #[test]
    fn a_realm_over_plain_http_elsewhere_gets_no_password() {
        let agent = super::super::transport::agent(None);
        let ask = |registry: &str, realm: &str| {
            let challenges = Challenge::parse(&format!("Bearer realm=\"{realm}\",service=s"));
            let credential = "user:password".parse().unwrap();
            answer(&agent, registry, &["repository:a:pull".to_owned()], &challenges, Some(&credential))
                .unwrap_err()
                .to_string()
        };
        assert!(ask("https://good.example", "http://evil.example/token").contains("refused"));
        assert!(ask("http://good.example", "http://evil.example/token").contains("refused"));
        assert!(ask("https://good.example", "file:///etc/passwd").contains("realm"));
        assert!(ask("https://good.example", "http://127.0.0.1:1/token").contains("refused"));
    }
}
