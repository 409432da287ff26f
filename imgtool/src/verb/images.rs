//! `imgtool images`

use serde_json::{Value, json};

use super::filter::{Filters, created};
use super::{print, print_json, print_table};
use crate::cli::{ImagesArgs, ListFormat};
use crate::error::{Result, tell};
use crate::layout::{Image, Store};
use crate::oci::Descriptor;
use crate::platform::Platform;
use crate::time;

const NONE: &str = "<none>";

/// Lists the store's images, the newest first.
pub(crate) fn run(store: &Store, args: &ImagesArgs) -> Result<()> {
    let mut images = Vec::new();
    for (entry, image) in store.images(&Platform::host())? {
        match image {
            Ok(image) => images.push(image),
            // The list is still of use without what is damaged; a pull mends it.
            Err(e) => tell(format_args!("imgtool: images: {}", e.at(name_of(&entry)))),
        }
    }
    let filters = Filters::of(store, &args.filter)?;
    images.retain(|image| filters.accept(image));
    images.retain(|image| args.name.as_deref().is_none_or(|name| matches(image, name)));
    images.sort_by(|a, b| created(b).cmp(&created(a)).then_with(|| a.name().cmp(&b.name())));
    if args.quiet {
        let mut shown: Vec<String> = Vec::new();
        for image in &images {
            let id = if args.no_trunc { image.id().to_string() } else { image.id().short().to_owned() };
            if !shown.contains(&id) {
                print(&id)?;
                shown.push(id);
            }
        }
        return Ok(());
    }
    match args.format {
        ListFormat::Json => print_json(&images.iter().map(as_json).collect::<Vec<_>>()),
        ListFormat::Table => table(&images, args),
    }
}

fn name_of(entry: &Descriptor) -> String {
    entry.annotation(crate::layout::NAME).map_or_else(|| entry.digest.to_string(), str::to_owned)
}

/// Whether an image answers to a repository or a whole name, long or short.
fn matches(image: &Image, name: &str) -> bool {
    let Some(reference) = image.reference() else {
        return image.name() == Some(name);
    };
    match name.parse::<crate::reference::Reference>() {
        Ok(wanted)
            if name.ends_with(&format!(":{}", wanted.tag().unwrap_or_default())) || wanted.digest().is_some() =>
        {
            wanted == reference
        }
        Ok(wanted) => wanted.name() == reference.name(),
        Err(_) => false,
    }
}

fn as_json(image: &Image) -> Value {
    let reference = image.reference();
    json!({
        "name": image.name(),
        "repository": reference.as_ref().map(crate::reference::Reference::name),
        "tag": reference.as_ref().and_then(|r| r.tag()),
        "digest": image.descriptor.digest,
        "id": image.id(),
        "created": image.config.created,
        "size": image.size(),
        "platform": image.config.platform().to_string(),
    })
}

fn table(images: &[Image], args: &ImagesArgs) -> Result<()> {
    let mut header = vec!["REPOSITORY", "TAG", "IMAGE ID", "CREATED", "SIZE"];
    if args.digests {
        header.insert(2, "DIGEST");
    }
    let mut rows: Vec<Vec<String>> = vec![header.into_iter().map(str::to_owned).collect()];
    for image in images {
        let reference = image.reference();
        let repository = reference.as_ref().map(crate::reference::Reference::name);
        let tag = reference.as_ref().and_then(|r| r.tag()).map(str::to_owned);
        let id = if args.no_trunc { image.id().to_string() } else { image.id().short().to_owned() };
        let mut row = vec![
            repository.unwrap_or_else(|| image.name().unwrap_or(NONE).to_owned()),
            tag.unwrap_or_else(|| NONE.to_owned()),
            id,
            image.config.created.as_deref().and_then(time::ago).unwrap_or_else(|| "N/A".to_owned()),
            human(image.size()),
        ];
        if args.digests {
            row.insert(2, image.descriptor.digest.to_string());
        }
        rows.push(row);
    }
    print_table(&rows)
}

/// A size in decimal units, three digits, as Docker shows it.
pub(super) fn human(bytes: u64) -> String {
    let units = ["B", "kB", "MB", "GB", "TB", "PB"];
    let mut unit = 0;
    let mut scaled = u128::from(bytes) * 1000;
    while scaled >= 1_000_000 && unit + 1 < units.len() {
        scaled /= 1000;
        unit += 1;
    }
    let (whole, thousandths) = (scaled / 1000, scaled % 1000);
    match (unit, whole) {
        (0, _) | (_, 100..) => format!("{whole}{}", units[unit]),
        (_, 10..) => format!("{whole}.{}{}", thousandths / 100, units[unit]),
        _ => format!("{whole}.{:02}{}", thousandths / 10, units[unit]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, want) in [
            (0, "0B"),
            (999, "999B"),
            (1_230, "1.23kB"),
            (45_600_000, "45.6MB"),
            (123_456_789, "123MB"),
            (7_890_000_000, "7.89GB"),
        ] {
            assert_eq!(human(bytes), want);
        }
    }
}
