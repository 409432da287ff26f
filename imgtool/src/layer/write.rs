//! From a directory to a layer's tar. The same tree gives the same bytes: names in order, no names of users, times as they
//! are, or no later than `SOURCE_DATE_EPOCH` where that is set.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Stat, fstat, readlinkat, statat};
use tar::{EntryType, Header};

use super::descent::{Descent, names};
use super::dirs::push;
use super::lower::is_whiteout;
use super::xattr;
use crate::error::{Error, Result, Step};

/// What a tree is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TreeForm {
    /// As it is (`export`). Other file systems mounted in it are left out.
    Plain,
    /// The upper directory of an overlay as a layer: what hides the layers below becomes `.wh.` entries.
    Changes,
}

/// Writes the tree at `root` as a tar. With `Changes` the root itself is left out unless `with_root`.
pub(crate) fn write_tree(root: &OwnedFd, form: TreeForm, with_root: bool, output: impl Write) -> Result<()> {
    write(root, form, with_root, &[], output)
}

/// Writes the upper directory of an overlay as a layer, without some of its paths.
pub(crate) fn write_changes(upper: &OwnedFd, with_root: bool, without: &[Vec<u8>], output: impl Write) -> Result<()> {
    write(upper, TreeForm::Changes, with_root, without, output)
}

fn write(root: &OwnedFd, form: TreeForm, with_root: bool, without: &[Vec<u8>], output: impl Write) -> Result<()> {
    let mut writer = TreeWriter { output, form, links: HashMap::new(), device: fstat(root)?.st_dev, latest: latest() };
    if form == TreeForm::Plain || with_root {
        writer.directory(root, b"./")?;
    }
    let mut walk = Descent::at(root.try_clone()?);
    let mut path: Vec<u8> = Vec::new();
    let mut levels = vec![sorted(&walk)?];
    while let Some(pending) = levels.last_mut() {
        let Some(name) = pending.pop() else {
            levels.pop();
            if !levels.is_empty() {
                walk.leave()?;
                path.truncate(path.iter().rposition(|&b| b == b'/').unwrap_or(0));
            }
            continue;
        };
        let before = path.len();
        push(&mut path, &name);
        if without.contains(&path) {
            path.truncate(before);
            continue;
        }
        let step = || String::from_utf8_lossy(&path).into_owned();
        let stat = match statat(walk.fd(), name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => stat,
            // A running container may remove what was listed.
            Err(rustix::io::Errno::NOENT) => {
                path.truncate(before);
                continue;
            }
            Err(e) => return Err(e).with(step),
        };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            writer.file(walk.fd(), &name, &path, &stat).with(step)?;
            path.truncate(before);
            continue;
        }
        walk.enter(&name).with(step)?;
        let mut full = path.clone();
        full.push(b'/');
        writer.directory(walk.fd(), &full).with(step)?;
        let inside = if stat.st_dev == writer.device { sorted(&walk).with(step)? } else { Vec::new() };
        levels.push(inside);
    }
    // The end of a tar: two blocks of zeros.
    writer.output.write_all(&[0; 1024]).at("write")?;
    writer.output.flush().at("write")
}

/// The names of a directory, the first one last.
fn sorted(walk: &Descent) -> Result<Vec<Vec<u8>>> {
    let mut all = names(walk.fd())?;
    all.sort_by(|a, b| b.cmp(a));
    Ok(all)
}

/// No file is younger than this in a reproducible tar.
fn latest() -> Option<i64> {
    std::env::var("SOURCE_DATE_EPOCH").ok()?.parse().ok()
}

struct TreeWriter<W> {
    output: W,
    form: TreeForm,
    /// The first names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    device: u64,
    latest: Option<i64>,
}

/// One entry, before it is known which of its parts need PAX.
struct Record<'a> {
    kind: EntryType,
    path: &'a [u8],
    link: &'a [u8],
    size: u64,
    stat: &'a Stat,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<W: Write> TreeWriter<W> {
    fn directory(&mut self, dir: &OwnedFd, path: &[u8]) -> Result<()> {
        let stat = fstat(dir)?;
        let xattrs = xattr::read_all(dir)?;
        self.header(&Record { kind: EntryType::Directory, path, link: b"", size: 0, stat: &stat, xattrs })?;
        if self.form == TreeForm::Changes && xattr::is_opaque(dir)? {
            let mut marker = if path == b"./" { Vec::new() } else { path.to_vec() };
            marker.extend_from_slice(b".wh..wh..opq");
            self.marker(&marker, &stat)?;
        }
        Ok(())
    }

    /// An empty file whose name says it all.
    fn marker(&mut self, path: &[u8], stat: &Stat) -> Result<()> {
        let mut stat = *stat;
        stat.st_mode = 0o644;
        (stat.st_uid, stat.st_gid) = (0, 0);
        // When something was removed is nobody's business, and would make each tar another one.
        (stat.st_mtime, stat.st_mtime_nsec) = (0, 0);
        self.header(&Record { kind: EntryType::Regular, path, link: b"", size: 0, stat: &stat, xattrs: Vec::new() })
    }

    fn file(&mut self, dir: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat) -> Result<()> {
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.form == TreeForm::Changes && is_whiteout(stat) {
            let mut marker = path[..path.len() - name.len()].to_vec();
            marker.extend_from_slice(b".wh.");
            marker.extend_from_slice(name);
            return self.marker(&marker, stat);
        }
        if self.form == TreeForm::Changes && name.starts_with(b".wh.") {
            return Err(Error::malformed("a file of this name would mean a removal in a layer"));
        }
        if stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key).cloned() {
                let kind = EntryType::Link;
                return self.header(&Record { kind, path, link: &first, size: 0, stat, xattrs: Vec::new() });
            }
            self.links.insert(key, path.to_vec());
        }
        let of = |kind| {
            Ok::<_, Error>(Record { kind, path, link: b"", size: 0, stat, xattrs: xattr::read_all_at(dir, name)? })
        };
        match kind {
            FileType::RegularFile => {
                // A running container may put a device there meanwhile, which here is one of the machine's.
                let file = crate::regular::open_at(dir, name)?;
                let stat = fstat(&file)?;
                let size = stat.st_size.cast_unsigned();
                let xattrs = xattr::read_all(file.as_fd())?;
                self.header(&Record { kind: EntryType::Regular, path, link: b"", size, stat: &stat, xattrs })?;
                self.data(file, size)
            }
            FileType::Symlink => {
                let target = readlinkat(dir, name, Vec::new())?.into_bytes();
                self.header(&Record { link: &target, ..of(EntryType::Symlink)? })
            }
            FileType::CharacterDevice => self.header(&of(EntryType::Char)?),
            FileType::BlockDevice => self.header(&of(EntryType::Block)?),
            FileType::Fifo => self.header(&of(EntryType::Fifo)?),
            // A socket means nothing without the process that listens: tar has none.
            _ => Ok(()),
        }
    }

    /// Exactly `size` bytes: a file that shrinks meanwhile is filled with zeros, as tar(1) does.
    fn data(&mut self, file: File, size: u64) -> Result<()> {
        let copied = io::copy(&mut file.take(size), &mut self.output).at("copy")?;
        let missing = size - copied + size.wrapping_neg() % 512;
        io::copy(&mut io::repeat(0).take(missing), &mut self.output).at("copy")?;
        Ok(())
    }

    fn header(&mut self, record: &Record<'_>) -> Result<()> {
        let stat = record.stat;
        let mut header = Header::new_ustar();
        header.set_entry_type(record.kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_size(record.size);
        let mut pax: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
        let mut number = |key: &str, value: u64, most: u64| {
            if value > most {
                pax.push((key.into(), value.to_string().into_bytes()));
            }
            value.min(most)
        };
        header.set_uid(number("uid", stat.st_uid.into(), 0o7_777_777));
        header.set_gid(number("gid", stat.st_gid.into(), 0o7_777_777));
        header.set_size(number("size", record.size, 0o77_777_777_777));
        let (seconds, nanos) = match self.latest {
            Some(latest) if stat.st_mtime >= latest => (latest, 0),
            _ => (stat.st_mtime, stat.st_mtime_nsec),
        };
        if nanos != 0 || !(0..=0o77_777_777_777).contains(&seconds) {
            pax.push((b"mtime".to_vec(), decimal(seconds, i64::try_from(nanos).unwrap_or(0)).into_bytes()));
        }
        header.set_mtime(u64::try_from(seconds).unwrap_or(0));
        if matches!(record.kind, EntryType::Char | EntryType::Block) {
            header.set_device_major(rustix::fs::major(stat.st_rdev))?;
            header.set_device_minor(rustix::fs::minor(stat.st_rdev))?;
        }
        // The bytes themselves: a path is no text, and must not be changed on its way.
        let fields = header.as_old_mut();
        put(&mut fields.name, record.path, "path", &mut pax);
        put(&mut fields.linkname, record.link, "linkpath", &mut pax);
        for (name, value) in &record.xattrs {
            pax.push(([b"SCHILY.xattr.", name.as_slice()].concat(), value.clone()));
        }
        if !pax.is_empty() {
            self.extension(&pax)?;
        }
        header.set_cksum();
        self.output.write_all(header.as_bytes()).at("write")
    }

    fn extension(&mut self, records: &[(Vec<u8>, Vec<u8>)]) -> Result<()> {
        let mut data = Vec::new();
        for (key, value) in records {
            let rest = key.len() + value.len() + 3;
            // The length counts its own digits.
            let mut length = rest;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            data.extend_from_slice(format!("{length} ").as_bytes());
            data.extend_from_slice(key);
            data.push(b'=');
            data.extend_from_slice(value);
            data.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_path("PaxHeaders.0/entry")?;
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.output.write_all(header.as_bytes()).at("write")?;
        data.resize(data.len().next_multiple_of(512), 0);
        self.output.write_all(&data).at("write")
    }
}

fn put(field: &mut [u8; 100], value: &[u8], key: &str, pax: &mut Vec<(Vec<u8>, Vec<u8>)>) {
    let len = value.len().min(field.len());
    field[..len].copy_from_slice(&value[..len]);
    // A PAX record is text: bytes that are none stay in the header if they fit.
    if value.len() > field.len() || (!value.is_ascii() && std::str::from_utf8(value).is_ok()) {
        pax.push((key.into(), value.to_vec()));
    }
}

/// Seconds with a fraction, also before 1970.
fn decimal(seconds: i64, nanos: i64) -> String {
    let total = i128::from(seconds) * 1_000_000_000 + i128::from(nanos);
    let (sign, total) = if total < 0 { ("-", -total) } else { ("", total) };
    let text = format!("{sign}{}.{:09}", total / 1_000_000_000, total % 1_000_000_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_decimal_fractions() {
        assert_eq!(decimal(5, 0), "5");
        assert_eq!(decimal(5, 120_000_000), "5.12");
        assert_eq!(decimal(-2, 500_000_000), "-1.5");
    }
}
