//! A blob of a registry as one reader, whatever happens to the connections under it.

use std::io::{self, Read};

use super::client::Registry;
use super::transport::RETRIES;
use crate::error::{Error, Kind, Result};
use crate::oci::Descriptor;

/// After this many bytes without trouble, the next trouble counts as the first.
const CALM: u64 = 1 << 20;

/// Reads a blob from `offset` on. A connection that breaks is made anew where it broke (Range).
pub(crate) struct RemoteBlob<'a> {
    registry: &'a Registry,
    descriptor: &'a Descriptor,
    offset: u64,
    body: Option<Box<dyn Read + Send + 'a>>,
    failures: u32,
    since_failure: u64,
    progress: Box<dyn Fn(u64) + Send + Sync + 'a>,
}

impl<'a> RemoteBlob<'a> {
    pub(crate) fn new(
        registry: &'a Registry,
        descriptor: &'a Descriptor,
        offset: u64,
        progress: Box<dyn Fn(u64) + Send + Sync + 'a>,
    ) -> Self {
        Self { registry, descriptor, offset, body: None, failures: 0, since_failure: 0, progress }
    }

    fn open(&self) -> Result<Box<dyn Read + Send + 'a>> {
        let headers: Vec<(&str, String)> = match self.offset {
            0 => Vec::new(),
            offset => vec![("Range", format!("bytes={offset}-"))],
        };
        let response = self.registry.get(&format!("blobs/{}", self.descriptor.digest), &headers)?;
        let partial = response.status().as_u16() == 206;
        let header = |name| response.headers().get(name).and_then(|v| v.to_str().ok());
        let range = header("content-range").unwrap_or_default();
        if partial && !range.starts_with(&format!("bytes {}-", self.offset)) {
            let offset = self.offset;
            return Err(Error::malformed(format!("asked for bytes from {offset}, got {range:?}")));
        }
        // A wrong size is known before a byte is read, and no further attempt mends it.
        let total = if partial { range.rsplit('/').next() } else { header("content-length") };
        if let Some(total) = total.and_then(|text| text.parse::<u64>().ok())
            && total != self.descriptor.size
        {
            let promised = self.descriptor.size;
            return Err(Error::damaged(format!(
                "size mismatch: the registry has {total} bytes, the manifest says {promised}"
            )));
        }
        let mut body = response.into_body().into_reader();
        if !partial && self.offset > 0 {
            // The server knows no ranges: pass over what we have.
            let skipped = io::copy(&mut (&mut body).take(self.offset), &mut io::sink())?;
            if skipped < self.offset {
                return Err(Error::transient(format!("the connection ended after {skipped} bytes")));
            }
        }
        Ok(Box::new(body))
    }

    fn attempt(&mut self, buffer: &mut [u8]) -> Result<usize> {
        if self.body.is_none() && self.offset == self.descriptor.size {
            return Ok(0); // all of it was there already; a range behind the end would be refused
        }
        if self.body.is_none() {
            self.body = Some(self.open()?);
        }
        let Some(body) = &mut self.body else {
            return Ok(0);
        };
        let len = body.read(buffer).map_err(|e| Error::transient(Error::from(e).to_string()))?;
        if len == 0 && self.offset < self.descriptor.size {
            let (offset, size) = (self.offset, self.descriptor.size);
            return Err(Error::transient(format!("truncated: the connection ended after {offset} of {size} bytes")));
        }
        Ok(len)
    }
}

impl Read for RemoteBlob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            if self.registry.stop.is_stopped() {
                return Err(Error::other("given up, another layer failed").into());
            }
            match self.attempt(buffer) {
                Ok(len) => {
                    self.offset += len as u64;
                    self.since_failure += len as u64;
                    if self.since_failure > CALM {
                        self.failures = 0;
                    }
                    (self.progress)(len as u64);
                    return Ok(len);
                }
                Err(e) if e.kind() == Kind::Transient && self.failures < RETRIES => {
                    self.body = None;
                    self.failures += 1;
                    self.since_failure = 0;
                    if !self.registry.stop.backoff(self.failures, None) {
                        return Err(e.into());
                    }
                }
                Err(e) => return Err(e.at("download").into()),
            }
        }
    }
}
