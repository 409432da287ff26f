//! A registry that does as it is told, for tests: a real server on a loopback port that can lie, break off and send on.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::digest::Digest;
use crate::oci;

/// One request as it came in.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) headers: HashMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Request {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }
}

/// What goes back.
#[derive(Clone, Debug, Default)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Close the connection after this many bytes of the body.
    pub(super) cut: Option<usize>,
}

impl Reply {
    pub(super) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(super) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }
}

type Fault = Box<dyn Fn(&Request, usize) -> Option<Reply> + Send>;

#[derive(Default)]
struct State {
    /// Blobs and manifests by `blobs/DIGEST` or `manifests/SELECTOR`.
    content: HashMap<String, (String, Vec<u8>)>,
    log: Vec<Request>,
    /// Asked before anything else; with how often the same method and path came before.
    fault: Option<Fault>,
    no_ranges: bool,
    /// Keeps lists of referrers by itself.
    referrers: bool,
    /// What came of an upload so far.
    upload: Vec<u8>,
}

/// Holds large answers back until so many of them are asked for at a time.
#[derive(Default)]
struct Gate {
    /// Wanted, waiting now, and the most that ever waited.
    counts: Mutex<(usize, usize, usize)>,
    changed: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut counts = self.counts.lock().unwrap();
        if counts.0 == 0 {
            return;
        }
        counts.1 += 1;
        counts.2 = counts.2.max(counts.1);
        self.changed.notify_all();
        // The last ones never are so many: they wait in vain.
        let enough = |counts: &mut (usize, usize, usize)| counts.1 < counts.0;
        counts = self.changed.wait_timeout_while(counts, Duration::from_millis(500), enough).unwrap().0;
        // One more than wanted has time to come.
        counts = self.changed.wait_timeout(counts, Duration::from_millis(50)).unwrap().0;
        counts.1 -= 1;
    }
}

/// The server. Its thread ends with the test process.
#[derive(Clone)]
pub(super) struct Fake {
    pub(super) host: String,
    state: Arc<Mutex<State>>,
    gate: Arc<Gate>,
}

impl Fake {
    pub(super) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let fake = Self { host, state: Arc::default(), gate: Arc::default() };
        let server = fake.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let server = server.clone();
                std::thread::spawn(move || server.serve(stream));
            }
        });
        fake
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(request) = read_request(&mut reader) {
            let reply = self.answer(&request);
            if reply.body.len() > 10_000 {
                self.gate.pass();
            }
            let mut head = format!("HTTP/1.1 {} X\r\nContent-Length: {}\r\n", reply.status, reply.body.len());
            for (name, value) in &reply.headers {
                head.extend([name, ": ", value, "\r\n"]);
            }
            head.push_str("\r\n");
            let body = if request.method == "HEAD" { &[][..] } else { &reply.body };
            let end = reply.cut.unwrap_or(body.len()).min(body.len());
            if stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body[..end])).is_err() {
                return;
            }
            if reply.cut.is_some() {
                let _ = stream.shutdown(std::net::Shutdown::Both);
                return;
            }
        }
    }

    fn answer(&self, request: &Request) -> Reply {
        let mut state = self.state.lock().unwrap();
        let same = |have: &&Request| have.method == request.method && have.path == request.path;
        let before = state.log.iter().filter(same).count();
        state.log.push(request.clone());
        if let Some(reply) = state.fault.as_ref().and_then(|fault| fault(request, before)) {
            return reply;
        }
        Self::honest(&mut state, request)
    }

    fn honest(state: &mut State, request: &Request) -> Reply {
        let Some(name) = request.path.strip_prefix("/v2/app/") else {
            return Reply::status(404);
        };
        if !matches!(request.method.as_str(), "GET" | "HEAD") || name == "blobs/uploads/1" {
            return Self::written(state, request, name);
        }
        let Some((media_type, body)) = state.content.get(name) else {
            return Reply::status(404);
        };
        let reply = Reply::status(200)
            .with("Content-Type", media_type)
            .with("Docker-Content-Digest", &Digest::of(body).to_string());
        let from =
            request.header("range").and_then(|r| r.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        match from {
            Some(from) if !state.no_ranges => {
                let range = format!("bytes {from}-{}/{}", body.len() - 1, body.len());
                let mut reply = reply.with("Content-Range", &range);
                (reply.status, reply.body) = (206, body[from..].to_vec());
                reply
            }
            _ => Reply { body: body.clone(), ..reply },
        }
    }

    /// Uploads, of which there may be one at a time, and manifests.
    fn written(state: &mut State, request: &Request, name: &str) -> Reply {
        let kept = |state: &State| format!("0-{}", state.upload.len().saturating_sub(1));
        let on = |status, state: &State| {
            Reply::status(status).with("Location", "/v2/app/blobs/uploads/1").with("Range", &kept(state))
        };
        match (request.method.as_str(), name.split_once("digest=")) {
            ("POST", _) => {
                state.upload.clear();
                on(202, state)
            }
            ("GET", _) => on(204, state),
            ("PATCH", _) => {
                state.upload.extend(&request.body);
                on(202, state)
            }
            ("PUT", Some((_, digest))) => {
                let mut blob = std::mem::take(&mut state.upload);
                blob.extend(&request.body);
                if Digest::of(&blob).to_string() != digest {
                    return Reply::status(400);
                }
                state.content.insert(format!("blobs/{digest}"), (String::new(), blob));
                Reply::status(201)
            }
            ("PUT", None) => {
                let media_type = request.header("content-type").unwrap_or_default().to_owned();
                state.content.insert(name.to_owned(), (media_type.clone(), request.body.clone()));
                let digest = Digest::of(&request.body);
                state.content.insert(format!("manifests/{digest}"), (media_type, request.body.clone()));
                let reply = Reply::status(201).with("Docker-Content-Digest", &digest.to_string());
                if state.referrers { reply.with("OCI-Subject", "yes") } else { reply }
            }
            _ => Reply::status(405),
        }
    }

    /// The honest answer, for faults that only break it.
    pub(super) fn blob(&self, digest: &Digest) -> Vec<u8> {
        self.state.lock().unwrap().content[&format!("blobs/{digest}")].1.clone()
    }

    pub(super) fn fault(&self, fault: impl Fn(&Request, usize) -> Option<Reply> + Send + 'static) {
        self.state.lock().unwrap().fault = Some(Box::new(fault));
    }

    pub(super) fn honest_again(&self) {
        self.state.lock().unwrap().fault = None;
    }

    pub(super) fn with_referrers(&self) {
        self.state.lock().unwrap().referrers = true;
    }

    /// Answers with large bodies wait for each other until there are so many at a time.
    pub(super) fn gather(&self, count: usize) {
        self.gate.counts.lock().unwrap().0 = count;
    }

    /// How many large answers were asked for at a time, at the most.
    pub(super) fn gathered(&self) -> usize {
        self.gate.counts.lock().unwrap().2
    }

    pub(super) fn without_ranges(&self) {
        self.state.lock().unwrap().no_ranges = true;
    }

    /// The requests so far whose path has `part` in it.
    pub(super) fn requests(&self, part: &str) -> Vec<Request> {
        self.state.lock().unwrap().log.iter().filter(|r| r.path.contains(part)).cloned().collect()
    }

    pub(super) fn put(&self, name: &str, media_type: &str, body: &[u8]) {
        self.state.lock().unwrap().content.insert(name.to_owned(), (media_type.to_owned(), body.to_vec()));
    }

    pub(super) fn put_blob(&self, media_type: &str, body: &[u8]) -> Value {
        let digest = Digest::of(body);
        self.put(&format!("blobs/{digest}"), media_type, body);
        json!({"mediaType": media_type, "digest": digest, "size": body.len()})
    }

    /// An image of the given layers: each with its media type, its blob and its tar's digest.
    pub(super) fn put_image(&self, tag: &str, layers: &[(&str, Vec<u8>, Digest)]) -> Value {
        let config = json!({
            "architecture": crate::platform::Platform::host().architecture,
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|l| l.2.to_string()).collect::<Vec<_>>()},
        });
        let config = self.put_blob(oci::OCI_CONFIG, config.to_string().as_bytes());
        let layers: Vec<Value> = layers.iter().map(|(kind, blob, _)| self.put_blob(kind, blob)).collect();
        let manifest = json!({"schemaVersion": 2, "mediaType": oci::OCI_MANIFEST, "config": config, "layers": layers});
        self.put_manifest(tag, oci::OCI_MANIFEST, &manifest)
    }

    pub(super) fn put_manifest(&self, tag: &str, media_type: &str, manifest: &Value) -> Value {
        let bytes = manifest.to_string();
        let digest = Digest::of(bytes.as_bytes());
        self.put(&format!("manifests/{tag}"), media_type, bytes.as_bytes());
        self.put(&format!("manifests/{digest}"), media_type, bytes.as_bytes());
        json!({"mediaType": media_type, "digest": digest, "size": bytes.len()})
    }
}

fn read_request(reader: &mut BufReader<TcpStream>) -> Option<Request> {
    let mut line = String::new();
    reader.read_line(&mut line).ok()?;
    let mut words = line.split_whitespace();
    let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = HashMap::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
    let length = headers.get("content-length").and_then(|l| l.parse::<u64>().ok()).unwrap_or(0);
    let mut body = Vec::new();
    reader.take(length).read_to_end(&mut body).ok()?;
    Some(Request { method, path, headers, body })
}
