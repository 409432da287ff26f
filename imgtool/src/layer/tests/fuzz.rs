//! Random archives, unpacked by us and by GNU tar: the trees must be the same. And mutated ones, which must be refused or unpacked,
//! within the root.
//!
//! `TARE_FUZZ_SECONDS` (default: a moment) and `TARE_FUZZ_SEED` say how long and from where.

use std::process::Command;
use std::time::{Duration, Instant};

use super::write::describe;
use super::*;

/// A generator of numbers (xorshift64*), so that a seed gives the same archives anywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.next() % most
    }

    fn pick<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        let at = usize::try_from(self.below(all.len() as u64)).unwrap();
        all[at]
    }
}

/// Runs `check` with seeds one after the other, as long as is asked for.
fn rounds(name: &str, mut check: impl FnMut(&mut Random)) {
    let number = |name: &str, default: u64| std::env::var(name).ok().and_then(|v| v.parse().ok()).unwrap_or(default);
    let (first, seconds) = (number("TARE_FUZZ_SEED", 1), number("TARE_FUZZ_SECONDS", 2));
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut seed = first;
    while seed < first + 3 || Instant::now() < end {
        // Shown when the check fails.
        println!("TARE_FUZZ_SEED={seed}");
        check(&mut Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1));
        seed += 1;
    }
    println!("{name}: {} rounds", seed - first);
}

/// A path of few names, so that entries meet: in each other's place, in each other's way.
fn path(random: &mut Random) -> String {
    let long = "l".repeat(120);
    let names = ["a", "b", "c", "d", "\u{fc}\u{4e2d}", "with space", "-dash", long.as_str()];
    let depth = 1 + random.below(3);
    let parts: Vec<&str> = (0..depth).map(|_| random.pick::<str>(&names)).collect();
    parts.join("/")
}

/// An archive that both readers understand. Where GNU tar has rules of its own, none is asked for: it removes no directory that is in
/// the way of a file, follows the links of the archive on the host's root, and keeps what stands in a directory's place.
fn archive(random: &mut Random) -> (Tar, u32) {
    let mut tar = Tar::default();
    let mut count = 0;
    // What there is by now, by path: 'd' a directory, 'f' all else.
    let mut have: std::collections::BTreeMap<String, char> = std::collections::BTreeMap::new();
    for _ in 0..5 + random.below(60) {
        let path = path(random);
        let ancestors: Vec<String> = path.match_indices('/').map(|(at, _)| path[..at].to_owned()).collect();
        let as_directory = random.below(4) == 0;
        if ancestors.iter().any(|above| have.get(above) == Some(&'f'))
            || have.get(&path).is_some_and(|&kind| (kind == 'd') != as_directory)
            || (as_directory && have.get(&path) == Some(&'f'))
        {
            continue;
        }
        for above in ancestors {
            // Both make missing ones with times and modes of their own: an entry says what they are.
            if let std::collections::btree_map::Entry::Vacant(place) = have.entry(above) {
                tar = entry(tar, random, b'5', place.key(), b"", b"");
                place.insert('d');
                count += 1;
            }
        }
        let data: Vec<u8> = (0..random.below(3) * random.below(700)).map(|_| (random.next() >> 33) as u8).collect();
        let files: Vec<&String> =
            have.iter().filter(|(other, kind)| **kind == 'f' && **other != path).map(|(p, _)| p).collect();
        let target = if files.is_empty() {
            String::new()
        } else {
            files[usize::try_from(random.below(files.len() as u64)).unwrap()].clone()
        };
        let kind = match random.below(10) {
            _ if as_directory => b'5',
            0 if !target.is_empty() => b'1',
            1 | 2 => b'2',
            3 => b'6',
            4 => b'3',
            _ => b'0',
        };
        tar = match kind {
            b'1' => entry(tar, random, kind, &path, target.as_bytes(), b""),
            b'2' => {
                let to = random.pick::<str>(&["a", "../a/b", "/etc/passwd", "nowhere", "."]);
                entry(tar, random, kind, &path, to.as_bytes(), b"")
            }
            b'0' => entry(tar, random, kind, &path, b"", &data),
            _ => entry(tar, random, kind, &path, b"", b""),
        };
        have.insert(path, if kind == b'5' { 'd' } else { 'f' });
        count += 1;
    }
    (tar, count)
}

/// One entry in one of the forms in which its fields can be written.
fn entry(tar: Tar, random: &mut Random, kind: u8, path: &str, link: &[u8], data: &[u8]) -> Tar {
    let mode = [0o644, 0o4755, 0o2711, 0o1777, 0o600, 0o755][usize::try_from(random.below(6)).unwrap()];
    let owner = (random.below(3) * 1000, random.below(3) * 70_000);
    let mtime = 1_000_000_000 + random.below(1_000_000);
    let xattr = format!("value {mtime}");
    let mut records: Vec<(&str, &[u8])> = Vec::new();
    let fraction = format!("{mtime}.{:09}", random.below(1_000_000_000));
    let (size, uid) = (data.len().to_string(), owner.0.to_string());
    if random.below(3) == 0 {
        records.push(("mtime", fraction.as_bytes()));
    }
    if random.below(4) == 0 && matches!(kind, b'0' | b'5') {
        records.push(("SCHILY.xattr.user.note", xattr.as_bytes()));
    }
    if random.below(5) == 0 && kind == b'0' {
        records.push(("size", size.as_bytes()));
    }
    if random.below(5) == 0 {
        records.push(("uid", uid.as_bytes()));
    }
    let mut tar = tar;
    let mut name = path.as_bytes();
    if name.len() > 100 || link.len() > 100 || random.below(6) == 0 {
        if random.below(2) == 0 {
            records.push(("path", path.as_bytes()));
            if !link.is_empty() {
                records.push(("linkpath", link));
            }
        } else {
            let long = |tar: Tar, kind, text: &[u8]| {
                let data = [text, b"\0"].concat();
                tar.add(Spec { kind, name: b"././@LongLink", data: &data, ..Spec::default() })
            };
            tar = long(tar, b'L', path.as_bytes());
            if !link.is_empty() {
                tar = long(tar, b'K', link);
            }
        }
        name = &name[..name.len().min(100)];
    }
    if !records.is_empty() {
        tar = tar.pax(&records);
    }
    let (link, device) = (&link[..link.len().min(100)], if kind == b'3' { (1, 3) } else { (0, 0) });
    tar.add(Spec { kind, name, link, mode, owner, mtime, device, data })
}

#[test]
fn layers() {
    rounds("layers", |random| {
        let (tar, count) = archive(random);
        let bytes = tar.bytes();
        let (ours, theirs) = (Place::new(), Place::new());
        let unpacked = ours.apply(&bytes, Limits::default(), Some(&LowerStack::default())).unwrap();
        assert_eq!(unpacked.entries, u64::from(count));
        let file = theirs.dir.path().join("tar");
        fs::write(&file, &bytes).unwrap();
        let mut command = Command::new("tar");
        command.args(["--xattrs", "--xattrs-include=*", "--same-owner", "--numeric-owner", "--absolute-names"]);
        command.arg("--delay-directory-restore");
        command.args(["-xpf"]).arg(&file).arg("-C").arg(theirs.root());
        let out = command.output().unwrap();
        assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
        let (ours, theirs) = (describe(&ours.root()), describe(&theirs.root()));
        for (one, other) in ours.iter().zip(&theirs) {
            assert_eq!(one, other, "ours, theirs");
        }
        assert_eq!(ours.len(), theirs.len());
    });
}

#[test]
fn broken_layers() {
    rounds("broken_layers", |random| {
        let mut bytes = archive(random).0.bytes();
        for _ in 0..=random.below(8) {
            let at = usize::try_from(random.below(bytes.len() as u64)).unwrap();
            match random.below(4) {
                0 => bytes[at] ^= 1 << random.below(8),
                1 => bytes[at] = random.pick::<[u8]>(&[b"/", b".", b"0", b"7", b"\xff"])[0],
                // Whole blocks change their place.
                2 if at / 512 < bytes.len() / 512 => {
                    let block = at / 512 * 512;
                    let copied = bytes[block..block + 512].to_vec();
                    let to = usize::try_from(random.below(bytes.len() as u64 / 512)).unwrap() * 512;
                    bytes[to..to + 512].copy_from_slice(&copied);
                }
                _ => bytes.truncate(at.max(512)),
            }
        }
        if random.below(3) > 0 {
            mend_checksums(&mut bytes);
        }
        let place = Place::new();
        let limits = Limits { bytes: 64 << 20, ..Limits::default() };
        // Both with layers below and without.
        let nothing = LowerStack::default();
        let lower = (random.below(2) == 0).then_some(&nothing);
        if let Err(e) = place.apply(&bytes, limits, lower) {
            assert!(!e.to_string().is_empty());
        }
        place.check_outside();
    });
}

/// Makes the checksum of every block right that may be a header, so that the rest of it is read.
fn mend_checksums(bytes: &mut [u8]) {
    for block in bytes.chunks_exact_mut(512).filter(|block| block[257..262] == *b"ustar") {
        let mut header = Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
    }
}
