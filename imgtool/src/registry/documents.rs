//! Manifests of a repository: read, written, deleted; and its tags.

use std::io::Read as _;

use serde::Deserialize;
use ureq::Body;
use ureq::http::Response;

use super::client::{Ask, Payload, Registry};
use super::url::resolve;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Kind, Result, Step};
use crate::oci::{self, Descriptor, MANIFEST_MAX};

/// Pages of a list that are read at most, and bytes of all of them.
const PAGES_MAX: usize = if cfg!(test) { 100 } else { 10_000 }; // a test does not wait for so many
const PAGES_BYTES_MAX: usize = 64 << 20;

/// A document as the registry sent it, its digest proved.
#[derive(Clone, Debug)]
pub(crate) struct Delivered {
    pub(crate) bytes: Vec<u8>,
    pub(crate) digest: Digest,
    pub(crate) media_type: String,
}

impl Registry {
    /// Gets the manifest that the reference selects, or the one with `digest`.
    pub(crate) fn manifest(&self, descriptor: Option<&Descriptor>) -> Result<Delivered> {
        let selector = descriptor.map_or_else(|| self.reference.selector(), |d| d.digest.to_string());
        let wanted = descriptor.map(|d| &d.digest).or(self.reference.digest());
        self.fetch(&selector, wanted, descriptor.map(|d| d.size))
    }

    /// The manifest of another tag of the same repository.
    pub(crate) fn manifest_of_tag(&self, tag: &str) -> Result<Delivered> {
        self.fetch(tag, None, None)
    }

    fn fetch(&self, selector: &str, wanted: Option<&Digest>, size: Option<u64>) -> Result<Delivered> {
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
        if let Some(size) = size.filter(|&size| size != bytes.len() as u64) {
            return Err(Error::damaged(format!(
                "manifest {digest}: size mismatch: got {} of {size} bytes",
                bytes.len()
            )));
        }
        Ok(Delivered { bytes, digest, media_type })
    }

    /// The digest that the reference selects now, without the document; `None` where the registry does not say.
    pub(crate) fn current_digest(&self) -> Result<Option<Digest>> {
        self.digest_of(&self.reference.selector())
    }

    /// The digest of the manifest that a tag or digest selects.
    pub(crate) fn digest_of(&self, selector: &str) -> Result<Option<Digest>> {
        let accept = oci::ACCEPT_MANIFESTS.join(", ");
        let path = format!("manifests/{selector}");
        let response = self.send(&Ask { headers: &[("Accept", accept)], ..Ask::of("HEAD", &path) })?;
        let header = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        Ok(header.and_then(|text| text.parse().ok()))
    }

    /// Writes a manifest under a tag or its digest. Says whether the registry keeps track of its subject by itself.
    pub(crate) fn put_manifest(&self, selector: &str, media_type: &str, bytes: &[u8]) -> Result<bool> {
        let path = format!("manifests/{selector}");
        let headers = [("Content-Type", media_type.to_owned())];
        let ask =
            Ask { headers: &headers, payload: Payload::Bytes(bytes), good: &[200, 201, 202], ..Ask::of("PUT", &path) };
        let response = self.send(&ask)?;
        let header = |name: &str| response.headers().get(name).and_then(|v| v.to_str().ok()).map(str::to_owned);
        let got = header("docker-content-digest").and_then(|text| text.parse::<Digest>().ok());
        let want = Digest::of(bytes);
        if let Some(got) = got.filter(|got| got.algorithm() == want.algorithm() && *got != want) {
            return Err(Error::damaged(format!("manifest {selector}: the registry keeps it as {got}, not as {want}")));
        }
        Ok(header("oci-subject").is_some())
    }

    /// Deletes a manifest by its digest, and with it all its tags.
    pub(crate) fn delete_manifest(&self, digest: &Digest) -> Result<()> {
        let path = format!("manifests/{digest}");
        match self.send(&Ask { good: &[200, 202, 204], ..Ask::of("DELETE", &path) }) {
            Ok(_) => Ok(()),
            Err(e) if e.to_string().contains("status 405") => Err(Error::other("the registry does not allow deletion")),
            Err(e) => Err(e),
        }
    }

    /// All tags of the repository, sorted.
    pub(crate) fn tags(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Tags {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let mut all: Vec<String> = Vec::new();
        self.pages("tags/list?n=1000", &[], |bytes| {
            let page: Tags = oci::json(bytes)?;
            all.extend(page.tags.unwrap_or_default());
            Ok(())
        })
        .at("list of tags")?;
        all.sort();
        all.dedup();
        Ok(all)
    }

    /// What refers to the manifest `subject`: by the API, or where the registry has none, by the tag `sha256-...`.
    pub(crate) fn referrers(&self, subject: &Digest) -> Result<Vec<Descriptor>> {
        let accept = [("Accept", oci::OCI_INDEX.to_owned())];
        let mut all = Vec::new();
        let listed = self.pages(&format!("referrers/{subject}"), &accept, |bytes| {
            all.extend(oci::json::<oci::Index>(bytes)?.manifests);
            Ok(())
        });
        match listed {
            Err(e) if e.kind() == Kind::Missing => Ok(self.tagged_referrers(subject)?.1),
            listed => listed.at("list of referrers").map(|()| all),
        }
    }

    /// Reads a list to its last page.
    fn pages(&self, first: &str, headers: &[(&str, String)], mut take: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        let (mut path, mut seen) = (first.to_owned(), 0);
        for _ in 0..PAGES_MAX {
            let mut response = self.get(&path, headers)?;
            let bytes = body(&mut response, "page")?;
            seen += bytes.len();
            if seen > PAGES_BYTES_MAX {
                return Err(Error::malformed(format!("larger than {PAGES_BYTES_MAX} bytes")));
            }
            take(&bytes)?;
            match next_page(&response, &path)? {
                Some(next) if next != path => path = next,
                _ => return Ok(()),
            }
        }
        Err(Error::malformed(format!("more than {PAGES_MAX} pages")))
    }

    /// The referrers by the tag schema (distribution-spec, "Referrers Tag Schema"), with the index that lists them.
    fn tagged_referrers(&self, subject: &Digest) -> Result<(Option<oci::Index>, Vec<Descriptor>)> {
        let mut bytes = Vec::new();
        let accept = [("Accept", oci::OCI_INDEX.to_owned())];
        match self.get(&format!("manifests/{}", subject.file_name()), &accept) {
            Ok(mut response) => bytes.extend(body(&mut response, "list of referrers")?),
            Err(e) if e.kind() == Kind::Missing => return Ok((None, Vec::new())),
            Err(e) => return Err(e),
        }
        let index: oci::Index = oci::json(&bytes).at("list of referrers")?;
        let manifests = index.manifests.clone();
        Ok((Some(index), manifests))
    }

    /// Adds a referrer to the tag of its subject, for a registry that keeps no such lists by itself.
    pub(crate) fn add_tagged_referrer(&self, subject: &Digest, referrer: &Descriptor) -> Result<()> {
        let (index, _) = self.tagged_referrers(subject)?;
        let mut index = index.unwrap_or_else(oci::Index::empty);
        if index.manifests.iter().any(|have| have.digest == referrer.digest) {
            return Ok(());
        }
        index.manifests.push(referrer.clone());
        self.put_manifest(&subject.file_name(), oci::OCI_INDEX, &oci::to_json(&index)?).map(drop)
    }
}

/// The body of a list, of limited size.
fn body(response: &mut Response<Body>, what: &str) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let reader = response.body_mut().as_reader().take(MANIFEST_MAX + 1);
    { reader }.read_to_end(&mut bytes).map_err(|e| Error::transient(Error::from(e).to_string())).at(what)?;
    if bytes.len() as u64 > MANIFEST_MAX {
        return Err(Error::malformed(format!("{what}: larger than {MANIFEST_MAX} bytes")));
    }
    Ok(bytes)
}

/// Where `Link: <...>; rel="next"` leads, on the same registry (RFC 5988). The credentials go there.
fn next_page(response: &Response<Body>, path: &str) -> Result<Option<String>> {
    let Some(link) = response.headers().get("link").and_then(|v| v.to_str().ok()) else {
        return Ok(None);
    };
    let next = link.split(',').find(|link| link.contains("rel=\"next\"") || link.contains("rel=next"));
    let Some(target) = next.and_then(|link| link.split_once('<')?.1.split_once('>')).map(|(target, _)| target) else {
        return Ok(None);
    };
    if target.starts_with('?') {
        return Ok(Some(format!("{}{target}", path.split('?').next().unwrap_or(path))));
    }
    // Only the path counts: a list that went on elsewhere would be another registry's.
    let whole = resolve("http://registry/v2/name/x", target)?;
    Ok(Some(format!("/{}", whole.splitn(4, '/').nth(3).unwrap_or_default())))
}
