//! Blobs into a repository: found there, mounted from another, or sent, in one piece or in chunks.

use std::io::{self, Read};

use ureq::Body;
use ureq::http::Response;

use super::client::{Ask, Payload, Registry, is_whole};
use super::transport::RETRIES;
use super::url::{escape, resolve};
use crate::error::{Error, Kind, Result, Step};
use crate::oci::Descriptor;
use crate::reference::Reference;

/// How a blob came to be in the repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sent {
    /// It was there.
    Exists,
    /// The registry had it in another repository.
    Mounted,
    Uploaded,
}

/// Opens a blob at an offset.
pub(crate) type Open<'a> = dyn Fn(u64) -> Result<Box<dyn Read + Send + 'a>> + Sync + 'a;

impl Registry {
    pub(crate) fn has_blob(&self, descriptor: &Descriptor) -> Result<bool> {
        match self.send(&Ask::of("HEAD", &format!("blobs/{}", descriptor.digest))) {
            Ok(_) => Ok(true),
            Err(e) if e.kind() == Kind::Missing => Ok(false),
            Err(e) => Err(e),
        }
    }

    /// Brings a blob there: nothing is read of it unless it must be sent. With `chunk` it is sent in pieces of that size,
    /// each of which is sent again from where the registry has it.
    pub(crate) fn send_blob(
        &self,
        descriptor: &Descriptor,
        from: Option<&Reference>,
        chunk: Option<u64>,
        open: &Open<'_>,
    ) -> Result<Sent> {
        if self.has_blob(descriptor)? {
            return Ok(Sent::Exists);
        }
        let mut location = match from {
            None => None,
            Some(from) => match self.mount(descriptor, from)? {
                None => return Ok(Sent::Mounted),
                location => location,
            },
        };
        let mut failures = 0;
        loop {
            let place = match location.take() {
                Some(place) => place,
                None => self.begin()?,
            };
            let result = match chunk {
                Some(chunk) => self.in_chunks(place, descriptor, chunk, open),
                None => self.whole(&place, descriptor, open),
            };
            match result {
                Ok(()) => return Ok(Sent::Uploaded),
                // A broken upload is begun anew: what the registry has of it cannot be known after one request.
                Err(e) if e.kind() == Kind::Transient && failures < RETRIES => {
                    failures += 1;
                    if !self.stop.backoff(failures, None) {
                        return Err(e);
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Asks to take a blob over from another repository; gives the place of an upload if that is refused.
    fn mount(&self, descriptor: &Descriptor, from: &Reference) -> Result<Option<String>> {
        let path = format!("blobs/uploads/?mount={}&from={}", descriptor.digest, escape(from.path()));
        let ask = Ask { payload: Payload::Bytes(b""), good: &[201, 202], ..Ask::of("POST", &path) };
        let response = match self.send(&ask) {
            Ok(response) => response,
            // Some registries refuse where they should offer an upload.
            Err(e) if e.kind() != Kind::Transient => return self.begin().map(Some),
            Err(e) => return Err(e),
        };
        if response.status().as_u16() == 201 {
            return Ok(None);
        }
        self.location(&response, &path).map(Some)
    }

    fn begin(&self) -> Result<String> {
        let path = "blobs/uploads/";
        let ask = Ask { payload: Payload::Bytes(b""), good: &[202], ..Ask::of("POST", path) };
        self.location(&self.send(&ask)?, path)
    }

    /// Where the upload goes on. A relative one is of this registry.
    fn location(&self, response: &Response<Body>, path: &str) -> Result<String> {
        let location = response.headers().get("location").and_then(|v| v.to_str().ok());
        let location = location.ok_or_else(|| Error::malformed("upload: the registry named no location"))?;
        if is_whole(location) || (location.starts_with('/') && !location.starts_with("//")) {
            return Ok(location.to_owned());
        }
        let base = format!("http://registry/v2/{}/{path}", self.reference.path());
        let whole = resolve(&base, location)?;
        Ok(format!("/{}", whole.splitn(4, '/').nth(3).unwrap_or_default()))
    }

    fn whole(&self, place: &str, descriptor: &Descriptor, open: &Open<'_>) -> Result<()> {
        let path = with_digest(place, descriptor);
        let headers = [("Content-Type", "application/octet-stream".to_owned())];
        let from_start = || -> Result<Box<dyn Read + '_>> { Ok(open(0)?) };
        let payload = Payload::Stream { size: descriptor.size, open: &from_start };
        let ask = Ask { headers: &headers, payload, good: &[201, 204], again: false, ..Ask::of("PUT", &path) };
        self.send(&ask).map(drop)
    }

    fn in_chunks(&self, mut place: String, descriptor: &Descriptor, chunk: u64, open: &Open<'_>) -> Result<()> {
        let mut offset = 0;
        let mut failures = 0;
        while offset < descriptor.size {
            let size = chunk.min(descriptor.size - offset);
            let headers = [
                ("Content-Type", "application/octet-stream".to_owned()),
                ("Content-Range", format!("{offset}-{}", offset + size - 1)),
            ];
            let piece = || -> Result<Box<dyn Read + '_>> { Ok(Box::new(open(offset)?.take(size))) };
            let payload = Payload::Stream { size, open: &piece };
            let ask = Ask { headers: &headers, payload, good: &[202], again: false, ..Ask::of("PATCH", &place) };
            match self.send(&ask) {
                Ok(response) => {
                    let kept = range_end(&response).map_or(offset + size, |end| end + 1);
                    if kept > offset + size || kept <= offset {
                        return Err(Error::malformed(format!(
                            "upload: the registry has {kept} bytes, {} were sent",
                            offset + size
                        )));
                    }
                    place = self.location(&response, &place)?;
                    offset = kept;
                    failures = 0;
                }
                Err(e) if e.kind() == Kind::Transient && failures < RETRIES => {
                    failures += 1;
                    if !self.stop.backoff(failures, None) {
                        return Err(e);
                    }
                    // The registry knows how far it got.
                    let response = self.send(&Ask { good: &[204, 200], ..Ask::of("GET", &place) })?;
                    offset = range_end(&response).map_or(0, |end| end + 1).min(descriptor.size);
                    place = self.location(&response, &place).unwrap_or(place);
                }
                Err(e) => return Err(e),
            }
        }
        let path = with_digest(&place, descriptor);
        let ask = Ask { payload: Payload::Bytes(b""), good: &[201, 204], ..Ask::of("PUT", &path) };
        self.send(&ask).map(drop).at("upload")
    }
}

fn with_digest(place: &str, descriptor: &Descriptor) -> String {
    let separator = if place.contains('?') { '&' } else { '?' };
    format!("{place}{separator}digest={}", descriptor.digest)
}

/// The last byte that the registry has, by `Range: 0-N`. "0-0" of an upload that has nothing yet is the same as of one byte,
/// so it counts as none.
fn range_end(response: &Response<Body>) -> Option<u64> {
    let range = response.headers().get("range")?.to_str().ok()?;
    let range = range.trim_start_matches("bytes=");
    range.split_once('-')?.1.trim().parse().ok().filter(|&end| end > 0)
}

/// Tells of what is read.
pub(crate) struct Told<R, F> {
    pub(crate) inner: R,
    pub(crate) tell: F,
}

impl<R: Read, F: Fn(u64)> Read for Told<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.inner.read(buffer)?;
        (self.tell)(len as u64);
        Ok(len)
    }
}
