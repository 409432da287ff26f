//! Requests to one repository of one registry.

use std::io::Read;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body, SendBody};

use super::auth::{self, Challenge};
use super::credentials::{self, Credential};
use super::transport::{self, LONGEST_PAUSE, RETRIES, Stop, explain};
use super::url::{is_loopback, origin, resolve};
use crate::error::{Error, Kind, Result, Step};
use crate::oci;
use crate::reference::Reference;
use crate::trust::Key;

/// Most redirects that one request follows.
const HOPS: usize = 5;
/// Largest error body that is looked at.
const COMPLAINT_MAX: u64 = 64 << 10;

/// How registries are reached, as the user asked.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// `Some(true)`: HTTPS with verification, also to this machine. `Some(false)`: HTTPS unverified, then HTTP.
    /// `None`: HTTPS with verification, but HTTP to this machine.
    pub(crate) tls_verify: Option<bool>,
    pub(crate) plain_http: bool,
    pub(crate) credential: Option<Credential>,
    pub(crate) authfile: Option<PathBuf>,
    /// Images are taken only if one of these has signed them; with none, all are.
    pub(crate) keys: Vec<Key>,
}

/// One repository.
pub(crate) struct Registry {
    pub(super) reference: Reference,
    access: Access,
    host: String,
    plain: Agent,
    secure: OnceLock<Agent>,
    /// `http` or `https`, once it is known which the registry speaks.
    scheme: OnceLock<&'static str>,
    authorization: Mutex<Option<String>>,
    /// What is asked of the token server, as `repository:NAME:ACTIONS`.
    scopes: Vec<String>,
    pub(super) stop: Arc<Stop>,
}

impl Registry {
    pub(crate) fn new(reference: &Reference, access: &Access, stop: Arc<Stop>) -> Self {
        let host = match reference.domain() {
            "docker.io" => "registry-1.docker.io".to_owned(),
            domain => domain.to_owned(),
        };
        Self {
            reference: reference.clone(),
            access: access.clone(),
            host,
            plain: transport::agent(None),
            secure: OnceLock::new(),
            scheme: OnceLock::new(),
            authorization: Mutex::new(None),
            scopes: vec![format!("repository:{}:pull", reference.path())],
            stop,
        }
    }

    /// Asks for leave to do `actions` (`pull,push`) instead of to pull.
    #[must_use]
    pub(crate) fn to(mut self, actions: &str) -> Self {
        self.scopes = vec![format!("repository:{}:{actions}", self.reference.path())];
        self
    }

    /// Asks for leave to pull from another repository of the same registry too, to mount its blobs.
    #[must_use]
    pub(crate) fn and_from(mut self, other: Option<&Reference>) -> Self {
        self.scopes.extend(other.map(|other| format!("repository:{}:pull", other.path())));
        self
    }

    /// The same registry without a repository: for logins.
    #[must_use]
    pub(crate) fn without_repository(mut self) -> Self {
        self.scopes.clear();
        self
    }

    /// The schemes to try, in order.
    fn schemes(&self) -> &'static [&'static str] {
        let host = match self.host.strip_prefix('[') {
            Some(v6) => v6.split(']').next().unwrap_or(v6),
            None => self.host.split(':').next().unwrap_or(&self.host),
        };
        match (self.access.plain_http, self.access.tls_verify) {
            (true, _) => &["http"],
            (false, Some(false)) => &["https", "http"],
            (false, None) if is_loopback(host) => &["http"],
            (false, Some(true) | None) => &["https"],
        }
    }

    fn agent(&self, url: &str) -> Result<&Agent> {
        if url.starts_with("http://") {
            return Ok(&self.plain);
        }
        if let Some(agent) = self.secure.get() {
            return Ok(agent);
        }
        let tls = transport::tls(self.reference.domain(), self.access.tls_verify != Some(false))?;
        Ok(self.secure.get_or_init(|| transport::agent(Some(tls))))
    }

    /// Whose signature an image must have.
    pub(crate) fn keys(&self) -> &[Key] {
        &self.access.keys
    }

    pub(crate) fn reference(&self) -> &Reference {
        &self.reference
    }

    pub(super) fn get(&self, path: &str, headers: &[(&str, String)]) -> Result<Response<Body>> {
        self.send(&Ask { headers, ..Ask::of("GET", path) })
    }

    /// Sends a request until it succeeds: logs in when asked to, goes to the next scheme, waits when the server is busy.
    pub(super) fn send(&self, ask: &Ask<'_>) -> Result<Response<Body>> {
        let mut attempt = 0;
        loop {
            let error = match self.try_schemes(ask) {
                Ok(response) => match judge(ask, response)? {
                    Judgement::Good(response) => return Ok(response),
                    Judgement::Busy(error, asked) => {
                        if let Some(asked) = asked.filter(|&asked| asked > LONGEST_PAUSE) {
                            let seconds = asked.as_secs();
                            return Err(Error::other(format!("{error}: it asks to come back in {seconds} seconds")));
                        }
                        attempt += 1;
                        if attempt > RETRIES || !self.stop.backoff(attempt, asked) {
                            return Err(error);
                        }
                        continue;
                    }
                },
                Err(e) => e,
            };
            // Nobody there at all is final; what broke off half-way may pass.
            if error.kind() != Kind::Transient || self.scheme.get().is_none() || !ask.again {
                return Err(error);
            }
            attempt += 1;
            if attempt > RETRIES || !self.stop.backoff(attempt, None) {
                return Err(error);
            }
        }
    }

    fn try_schemes(&self, ask: &Ask<'_>) -> Result<Response<Body>> {
        if let Some(scheme) = self.scheme.get() {
            return self.follow(scheme, ask);
        }
        let mut last = Error::other("no scheme to try");
        for scheme in self.schemes() {
            match self.follow(scheme, ask) {
                Ok(response) => {
                    let _ = self.scheme.set(scheme);
                    return Ok(response);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// The address of something in this repository, or what is a whole address already.
    fn address(&self, scheme: &str, path: &str) -> Result<String> {
        let home = format!("{scheme}://{}", self.host);
        if is_whole(path) {
            // An upload's place, which the registry named.
            if scheme == "https" && !origin(path)?.secure && self.access.tls_verify != Some(false) {
                return Err(Error::other(format!("upload from HTTPS to plain HTTP refused: {path}")));
            }
            return Ok(path.to_owned());
        }
        if path.starts_with('/') {
            return resolve(&home, path);
        }
        Ok(format!("{home}/v2/{}/{path}", self.reference.path()))
    }

    /// One request with its redirects and, once, a login.
    fn follow(&self, scheme: &str, ask: &Ask<'_>) -> Result<Response<Body>> {
        let start = self.address(scheme, ask.path)?;
        let home = origin(&self.address(scheme, "/v2/")?)?;
        let mut url = start.clone();
        let mut logged_in = false;
        let mut hops = 0;
        loop {
            let at = origin(&url)?;
            let mut request = ureq::http::Request::builder().method(ask.method).uri(&url);
            for (name, value) in ask.headers {
                request = request.header(*name, value);
            }
            // Only the registry itself sees the credentials, not where it sends us (CVE-2020-15157).
            let shown = if at == home { self.authorization().clone() } else { None };
            if let Some(authorization) = &shown {
                request = request.header("Authorization", authorization);
            }
            let response =
                self.exchange(&url, request, ask).map_err(|e| e.at(format!("registry {}", at.host_and_port())))?;
            match response.status().as_u16() {
                401 if at == home && !logged_in => {
                    // Who comes second waits, and finds that it was done.
                    let mut authorization = self.authorization();
                    if *authorization == shown {
                        *authorization = Some(self.log_in(&start, response.headers())?);
                    }
                    logged_in = true;
                    url.clone_from(&start);
                }
                301 | 302 | 303 | 307 | 308 => {
                    hops += 1;
                    if hops > HOPS {
                        return Err(Error::other(format!("more than {HOPS} redirects")));
                    }
                    let location = response.headers().get("location").and_then(|v| v.to_str().ok());
                    let location = location.ok_or_else(|| Error::malformed("redirect without a location"))?;
                    let next = resolve(&url, location)?;
                    if at.secure && !origin(&next)?.secure && self.access.tls_verify != Some(false) {
                        return Err(Error::other(format!("redirect from HTTPS to plain HTTP refused: {next}")));
                    }
                    url = next;
                }
                _ => return Ok(response),
            }
        }
    }

    fn exchange(&self, url: &str, request: ureq::http::request::Builder, ask: &Ask<'_>) -> Result<Response<Body>> {
        let agent = self.agent(url)?;
        let bad = |e: ureq::http::Error| Error::malformed(format!("{url}: {e}"));
        match &ask.payload {
            Payload::None => agent.run(request.body(()).map_err(bad)?).map_err(explain),
            Payload::Bytes(bytes) => agent.run(request.body(*bytes).map_err(bad)?).map_err(explain),
            Payload::Stream { size, open } => {
                let mut failed = None;
                let mut source = Watched { inner: open()?, failed: &mut failed };
                let request = request.header("Content-Length", size.to_string());
                let result = agent.run(request.body(SendBody::from_reader(&mut source)).map_err(bad)?);
                // A source that could not be read is not the registry's fault, and no further attempt mends it.
                failed.map_or(Ok(()), Err)?;
                result.map_err(explain)
            }
        }
    }

    fn authorization(&self) -> MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the header that the registry asks for.
    fn log_in(&self, url: &str, headers: &HeaderMap) -> Result<String> {
        let challenges: Vec<Challenge> = headers
            .get_all("www-authenticate")
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(Challenge::parse)
            .collect();
        let (domain, path) = (self.reference.domain(), self.reference.path());
        let credential = match &self.access.credential {
            Some(credential) => Some(credential.clone()),
            None => credentials::find(domain, path, self.access.authfile.as_deref())?,
        };
        // The token server may speak HTTPS where the registry speaks HTTP.
        let realm_is_secure = challenges.iter().any(Challenge::is_secure);
        let agent = self.agent(if realm_is_secure { "https://" } else { url })?;
        auth::answer(agent, url, &self.scopes, &challenges, credential.as_ref()).with(|| format!("log in to {domain}"))
    }
}

/// Whether a path is a whole address. One in the query of a path is none.
pub(super) fn is_whole(path: &str) -> bool {
    path.starts_with("http://") || path.starts_with("https://")
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) method: &'static str,
    /// Below the repository; from the root of the registry with a slash in front; or a whole address.
    pub(super) path: &'a str,
    pub(super) headers: &'a [(&'a str, String)],
    pub(super) payload: Payload<'a>,
    /// The statuses that mean success.
    pub(super) good: &'a [u16],
    /// Whether the request may be sent again when the connection broke.
    pub(super) again: bool,
}

impl<'a> Ask<'a> {
    pub(super) fn of(method: &'static str, path: &'a str) -> Self {
        Self { method, path, headers: &[], payload: Payload::None, good: &[200, 206], again: true }
    }
}

/// A request's body. A redirect or a login may want it twice.
pub(super) enum Payload<'a> {
    None,
    Bytes(&'a [u8]),
    Stream { size: u64, open: &'a (dyn Fn() -> Result<Box<dyn Read + 'a>> + 'a) },
}

/// Keeps the error of a body that is sent, which the HTTP client would turn into one of its own.
struct Watched<'a, R> {
    inner: R,
    failed: &'a mut Option<Error>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.inner.read(buffer).inspect_err(|e| *self.failed = Some(Error::other(e.to_string())))
    }
}

enum Judgement {
    Good(Response<Body>),
    /// May pass, perhaps after the time that the server asked for.
    Busy(Error, Option<Duration>),
}

/// Whether a response is what was asked for, may be had later, or never.
fn judge(ask: &Ask<'_>, mut response: Response<Body>) -> Result<Judgement> {
    let status = response.status().as_u16();
    if ask.good.contains(&status) {
        return Ok(Judgement::Good(response));
    }
    let complaint = complaint(&mut response);
    // "manifests/TAG" and "blobs/DIGEST" are what the protocol calls them.
    let what = match ask.path {
        path if path.contains("uploads/") || is_whole(path) => "upload".to_owned(),
        path => path.split('?').next().unwrap_or(path).trim_start_matches('/').replacen("s/", " ", 1),
    };
    let text = match status {
        401 => format!("{what}: not authorized{complaint}"),
        403 => format!("{what}: access denied{complaint}"),
        404 => {
            return Err(Error::missing(format!("{what}: not found in the registry{complaint}")));
        }
        429 => {
            format!("{what}: the registry limits the rate of requests (status 429){complaint}")
        }
        _ => format!("{what}: status {status}{complaint}"),
    };
    if matches!(status, 408 | 429 | 500 | 502 | 503 | 504) {
        let after = response.headers().get("retry-after").and_then(|v| v.to_str().ok());
        let asked = after.and_then(wait_of);
        return Ok(Judgement::Busy(Error::transient(text), asked));
    }
    Err(Error::other(text))
}

/// `Retry-After`: seconds, or the time itself.
fn wait_of(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let then = u64::try_from(crate::time::http_date(text.trim())?).unwrap_or(0);
    let then = UNIX_EPOCH.checked_add(Duration::from_secs(then))?;
    Some(then.duration_since(SystemTime::now()).unwrap_or_default())
}

/// What the registry says about its refusal, in the form of the distribution specification.
fn complaint(response: &mut Response<Body>) -> String {
    #[derive(serde::Deserialize)]
    struct Errors {
        errors: Vec<One>,
    }
    #[derive(serde::Deserialize)]
    struct One {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let mut bytes = Vec::new();
    let _ = response.body_mut().as_reader().take(COMPLAINT_MAX).read_to_end(&mut bytes);
    let first = oci::json::<Errors>(&bytes).ok().and_then(|all| all.errors.into_iter().next());
    match first {
        Some(One { code, message }) if message.is_empty() => format!(" ({code})"),
        Some(One { message, .. }) => {
            format!(" ({})", message.chars().take(200).collect::<String>())
        }
        None => String::new(),
    }
}
