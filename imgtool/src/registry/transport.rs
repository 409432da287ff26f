//! The HTTP agent: timeouts, trust anchors, how failures are worded; and the waits between attempts.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ureq::Agent;
use ureq::tls::{Certificate, ClientCert, PemItem, PrivateKey, RootCerts, TlsConfig, parse_pem};

use crate::error::{Error, Result, Step};

const CONNECT: Duration = Duration::from_secs(15);
/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_mins(1);
/// Attempts after the first that a request gets.
pub(super) const RETRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);
/// A registry that asks for a longer wait is not waited for: whoever called decides.
pub(super) const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// Ends waits and downloads of all threads of a pull when one of them has failed.
#[derive(Debug, Default)]
pub(crate) struct Stop {
    stopped: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(crate) fn stop(&self) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.changed.notify_all();
    }

    pub(crate) fn is_stopped(&self) -> bool {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for `pause`, or until stopped; says whether to go on.
    fn pause(&self, pause: Duration) -> bool {
        let end = Instant::now() + pause;
        let mut stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        while !*stopped {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return true;
            }
            stopped = self.changed.wait_timeout(stopped, left).unwrap_or_else(PoisonError::into_inner).0;
        }
        false
    }

    /// The wait before attempt number `attempt` (from 1): doubled each time, or what the server asked for.
    pub(super) fn backoff(&self, attempt: u32, asked: Option<Duration>) -> bool {
        let pause = asked.unwrap_or_else(|| FIRST_PAUSE * 2u32.saturating_pow(attempt.saturating_sub(1).min(10)));
        self.pause(pause.min(LONGEST_PAUSE))
    }
}

/// Makes the agent. `secure` is `None` when only plain HTTP will be spoken: the system's certificates are not read then.
pub(super) fn agent(secure: Option<TlsConfig>) -> Agent {
    let mut config = Agent::config_builder()
        // Redirects and statuses are judged by the client: credentials must not travel (CVE-2020-15157).
        .max_redirects(0)
        .max_redirects_will_error(false)
        .http_status_as_error(false)
        .timeout_connect(Some(CONNECT))
        .timeout_per_read(Some(SILENCE))
        .timeout_per_write(Some(SILENCE))
        .user_agent(concat!("tare-imgtool/", env!("CARGO_PKG_VERSION")))
        .input_buffer_size(128 << 10);
    if let Some(tls) = secure {
        config = config.tls_config(tls);
    }
    config.build().new_agent()
}

/// Trust anchors: the system's (or `SSL_CERT_FILE`'s), and those that certs.d has for this registry, with its client
/// certificate.
pub(super) fn tls(domain: &str, verify: bool) -> Result<TlsConfig> {
    let mut builder = TlsConfig::builder().disable_verification(!verify);
    let mut roots: Vec<Certificate<'static>> = Vec::new();
    if verify {
        let system = rustls_native_certs::load_native_certs();
        roots.extend(system.certs.iter().map(|der| Certificate::from_der(der).to_owned()));
    }
    for directory in certs_directories(domain) {
        let Ok(list) = std::fs::read_dir(&directory) else {
            continue;
        };
        let mut files: Vec<PathBuf> = list.filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.sort();
        for file in files {
            match file.extension().and_then(|e| e.to_str()) {
                Some("crt") => roots.extend(certificates(&file)?),
                Some("cert") => builder = builder.client_cert(Some(client_certificate(&file)?)),
                _ => {}
            }
        }
    }
    if verify {
        builder = builder.root_certs(RootCerts::Specific(Arc::new(roots)));
    }
    Ok(builder.build())
}

fn certs_directories(domain: &str) -> Vec<PathBuf> {
    let system = ["/etc/docker/certs.d", "/etc/containers/certs.d"].map(PathBuf::from);
    let user = std::env::var_os("HOME").map(|home| Path::new(&home).join(".config/containers/certs.d"));
    system.into_iter().chain(user).map(|directory| directory.join(domain)).collect()
}

fn certificates(file: &Path) -> Result<Vec<Certificate<'static>>> {
    let bytes = std::fs::read(file).with(|| format!("read {}", file.display()))?;
    let mut found = Vec::new();
    for item in parse_pem(&bytes) {
        let item = item.map_err(|e| Error::malformed(format!("{}: {e}", file.display())))?;
        if let PemItem::Certificate(certificate) = item {
            found.push(certificate);
        }
    }
    if found.is_empty() {
        return Err(Error::malformed(format!("{}: no PEM certificate in it", file.display())));
    }
    Ok(found)
}

/// `NAME.cert` with the key `NAME.key` beside it, as Docker and containers name them.
fn client_certificate(file: &Path) -> Result<ClientCert> {
    let chain = certificates(file)?;
    let key = file.with_extension("key");
    let bytes = std::fs::read(&key).with(|| format!("read {}", key.display()))?;
    let key = PrivateKey::from_pem(&bytes).map_err(|e| Error::malformed(format!("{}: {e}", key.display())))?;
    Ok(ClientCert::new_with_certs(&chain, key))
}

/// What a failed exchange means.
pub(super) fn explain(error: ureq::Error) -> Error {
    match error {
        ureq::Error::Io(e) => Error::transient(Error::from(e).to_string()),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            Error::transient("connecting timed out")
        }
        ureq::Error::Timeout(_) => Error::transient(format!("the server was silent for {} seconds", SILENCE.as_secs())),
        ureq::Error::HostNotFound => Error::transient("the host name cannot be resolved"),
        ureq::Error::Rustls(e) => Error::other(format!("TLS: {e}")),
        ureq::Error::Tls(e) => Error::other(format!("TLS: {e}")),
        other => Error::transient(other.to_string()),
    }
}
