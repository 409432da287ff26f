//! `imgtool referrers`

use std::sync::Arc;

use super::{print_json, print_table};
use crate::cli::{ListFormat, ReferrersArgs};
use crate::digest::Digest;
use crate::error::{Error, Result, Step};
use crate::oci::Descriptor;
use crate::registry::Registry;

/// Lists what refers to an image.
pub(crate) fn run(args: &ReferrersArgs) -> Result<()> {
    let registry = Registry::new(&args.reference, &args.registry.access(), Arc::default());
    let found = list(&registry, args.reference.digest()).at(&args.reference)?;
    match args.format {
        ListFormat::Json => print_json(&found),
        ListFormat::Table => {
            let mut rows = vec![["DIGEST", "TYPE", "SIZE"].map(str::to_owned).to_vec()];
            for referrer in &found {
                let kind = referrer.rest.get("artifactType").and_then(|kind| kind.as_str());
                let kind = kind.unwrap_or(&referrer.media_type).to_owned();
                rows.push(vec![referrer.digest.to_string(), kind, referrer.size.to_string()]);
            }
            print_table(&rows)
        }
    }
}

fn list(registry: &Registry, digest: Option<&Digest>) -> Result<Vec<Descriptor>> {
    let subject = match digest {
        Some(digest) => digest.clone(),
        None => registry.current_digest()?.ok_or_else(|| Error::other("the registry does not tell the digest"))?,
    };
    registry.referrers(&subject)
}
