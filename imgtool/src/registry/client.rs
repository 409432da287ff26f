//! Requests to one repository of one registry.

use std::io::Read as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use ureq::http::{HeaderMap, Response};
use ureq::{Agent, Body};

use super::auth::{self, Challenge};
use super::credentials::{self, Credential};
use super::transport::{self, LONGEST_PAUSE, RETRIES, Stop, explain};
use super::url::{is_loopback, origin, resolve};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result, Step};
use crate::oci::{self, Descriptor, MANIFEST_MAX};
use crate::reference::Reference;

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
}

/// One repository.
pub(crate) struct Registry {
    reference: Reference,
    access: Access,
    host: String,
    plain: Agent,
    secure: OnceLock<Agent>,
    /// `http` or `https`, once it is known which the registry speaks.
    scheme: OnceLock<&'static str>,
    authorization: Mutex<Option<String>>,
    pub(super) stop: Arc<Stop>,
}

/// A document as the registry sent it, its digest proved.
pub(crate) struct Delivered {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
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
            stop,
        }
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

    /// Gets the manifest that the reference selects, or the one with `digest`.
    pub(crate) fn manifest(&self, descriptor: Option<&Descriptor>) -> Result<Delivered> {
        let selector = descriptor.map_or_else(|| self.reference.selector(), |d| d.digest.to_string());
        let accept = oci::ACCEPT_MANIFESTS.join(", ");
        let mut response = self.get(&format!("manifests/{selector}"), &[("Accept", accept)])?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let claimed = header("docker-content-digest").and_then(|d| d.parse::<Digest>().ok());
        let media_type = header("content-type").unwrap_or_default();
        let media_type = media_type.split(';').next().unwrap_or_default().trim().to_owned();
        let mut bytes = Vec::new();
        let body = response.body_mut().as_reader();
        body.take(MANIFEST_MAX + 1)
            .read_to_end(&mut bytes)
            .map_err(|e| Error::transient(Error::from(e).to_string()))
            .at("manifest")?;
        if bytes.len() as u64 > MANIFEST_MAX {
            return Err(Error::malformed(format!("manifest: larger than {MANIFEST_MAX} bytes")));
        }
        let wanted = descriptor.map(|d| &d.digest).or(self.reference.digest());
        // By a tag, the server's own word is the only check; by a digest, ours.
        let expected = wanted.or(claimed.as_ref());
        let digest = match expected {
            None => Digest::of(&bytes),
            Some(expected) => {
                let mut hasher = Hasher::new(expected.algorithm());
                hasher.update(&bytes);
                let got = hasher.finish();
                if got != *expected {
                    return Err(Error::damaged(format!("manifest {expected}: digest mismatch: got {got}")));
                }
                got
            }
        };
        if let Some(size) = descriptor.map(|d| d.size).filter(|&size| size != bytes.len() as u64) {
            return Err(Error::damaged(format!(
                "manifest {digest}: size mismatch: got {} of {size} bytes",
                bytes.len()
            )));
        }
        Ok(Delivered { bytes, digest, media_type })
    }

    /// The digest that the reference selects now, without the document; `None` where the registry does not say.
    pub(crate) fn current_digest(&self) -> Result<Option<Digest>> {
        let accept = oci::ACCEPT_MANIFESTS.join(", ");
        let path = format!("manifests/{}", self.reference.selector());
        let response = self.send("HEAD", &path, &[("Accept", accept)])?;
        let header = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()))
    }

    pub(super) fn get(&self, path: &str, headers: &[(&str, String)]) -> Result<Response<Body>> {
        self.send("GET", path, headers)
    }

    /// Sends a request until it succeeds: logs in when asked to, goes to the next scheme, waits when the server is busy.
    fn send(&self, method: &str, path: &str, headers: &[(&str, String)]) -> Result<Response<Body>> {
        let mut attempt = 0;
        loop {
            let error = match self.try_schemes(method, path, headers) {
                Ok(response) => match judge(path, response)? {
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
            if error.kind() != Kind::Transient || self.scheme.get().is_none() {
                return Err(error);
            }
            attempt += 1;
            if attempt > RETRIES || !self.stop.backoff(attempt, None) {
                return Err(error);
            }
        }
    }

    fn try_schemes(&self, method: &str, path: &str, headers: &[(&str, String)]) -> Result<Response<Body>> {
        if let Some(scheme) = self.scheme.get() {
            return self.follow(method, scheme, path, headers);
        }
        let mut last = Error::other("no scheme to try");
        for scheme in self.schemes() {
            match self.follow(method, scheme, path, headers) {
                Ok(response) => {
                    let _ = self.scheme.set(scheme);
                    return Ok(response);
                }
                Err(e) => last = e,
            }
        }
        Err(last)
    }

    /// One request with its redirects and, once, a login.
    fn follow(&self, method: &str, scheme: &str, path: &str, headers: &[(&str, String)]) -> Result<Response<Body>> {
        let start = format!("{scheme}://{}/v2/{}/{path}", self.host, self.reference.path());
        let home = origin(&start)?;
        let mut url = start.clone();
        let mut logged_in = false;
        let mut hops = 0;
        loop {
            let at = origin(&url)?;
            let mut request = ureq::http::Request::builder().method(method).uri(&url);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            // Only the registry itself sees the credentials, not where it sends us (CVE-2020-15157).
            if at == home
                && let Some(authorization) = &*self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
            {
                request = request.header("Authorization", authorization);
            }
            let request = request.body(()).map_err(|e| Error::malformed(format!("{url}: {e}")))?;
            let response =
                self.agent(&url)?.run(request).map_err(explain).with(|| format!("registry {}", at.host_and_port()))?;
            match response.status().as_u16() {
                401 if at == home && !logged_in => {
                    self.log_in(&start, response.headers())?;
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

    fn log_in(&self, url: &str, headers: &HeaderMap) -> Result<()> {
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
        let header =
            auth::answer(agent, url, path, &challenges, credential.as_ref()).with(|| format!("log in to {domain}"))?;
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(header);
        Ok(())
    }
}

enum Judgement {
    Good(Response<Body>),
    /// May pass, perhaps after the time that the server asked for.
    Busy(Error, Option<Duration>),
}

/// Whether a response is what was asked for, may be had later, or never.
fn judge(path: &str, mut response: Response<Body>) -> Result<Judgement> {
    let status = response.status().as_u16();
    if matches!(status, 200 | 206) {
        return Ok(Judgement::Good(response));
    }
    let complaint = complaint(&mut response);
    // "manifests/TAG" and "blobs/DIGEST" are what the protocol calls them.
    let what = path.replacen("s/", " ", 1);
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
        let asked = after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        return Ok(Judgement::Busy(Error::transient(text), asked));
    }
    Err(Error::other(text))
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
