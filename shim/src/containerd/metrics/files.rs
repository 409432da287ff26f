//! The formats of cgroup files.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The text of `dir/name`; empty if there is no such file.
pub(super) fn text(dir: &Path, name: &str) -> String {
    fs::read_to_string(dir.join(name)).unwrap_or_default()
}

/// A single number; `max` is the largest one, a missing file is zero.
pub(super) fn number(dir: &Path, name: &str) -> u64 {
    parse(text(dir, name).trim())
}

/// A number or `max`.
pub(super) fn parse(word: &str) -> u64 {
    if word == "max" {
        u64::MAX
    } else {
        word.parse().unwrap_or(0)
    }
}

/// Lines of `key value`.
#[derive(Debug, Default)]
pub(super) struct Flat(HashMap<String, u64>);

impl Flat {
    pub(super) fn read(dir: &Path, name: &str) -> Self {
        Self::parse(&text(dir, name))
    }

    fn parse(text: &str) -> Self {
        let pairs = text.lines().filter_map(|line| line.split_once([' ', '\t']));
        Self(
            pairs
                .map(|(key, value)| (key.to_owned(), parse(value.trim())))
                .collect(),
        )
    }

    pub(super) fn get(&self, key: &str) -> u64 {
        self.0.get(key).copied().unwrap_or(0)
    }
}

/// The page sizes for which `dir` has a file `hugetlb.SIZE.suffix`, in order.
pub(super) fn huge_page_sizes(dir: &Path, suffix: &str) -> Vec<String> {
    let names = fs::read_dir(dir)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok());
    let size = |name: String| {
        Some(
            name.strip_prefix("hugetlb.")?
                .strip_suffix(suffix)?
                .trim_end_matches('.')
                .to_owned(),
        )
    };
    // `hugetlb.2MB.rsvd.current` counts reservations.
    let mut sizes: Vec<_> = names
        .filter_map(size)
        .filter(|size| !size.contains('.'))
        .collect();
    sizes.sort();
    sizes
}

/// Lines of `device hca_handle=1 hca_object=2` as (device, handles, objects).
pub(super) fn rdma(dir: &Path, name: &str) -> Vec<(String, u32, u32)> {
    let text = text(dir, name);
    let line = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let device = words.next()?.to_owned();
        let (mut handles, mut objects) = (0, 0);
        for word in words {
            let (key, value) = word.split_once('=')?;
            let value = u32::try_from(parse(value)).unwrap_or(u32::MAX);
            match key {
                "hca_handle" => handles = value,
                "hca_object" => objects = value,
                _ => {}
            }
        }
        Some((device, handles, objects))
    };
    text.lines().filter_map(line).collect()
}

/// `major:minor` as two numbers.
pub(super) fn device(word: &str) -> Option<(u64, u64)> {
    let (major, minor) = word.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path();
        fs::write(dir.join("pids.max"), "max\n").unwrap();
        fs::write(dir.join("pids.current"), "7\n").unwrap();
        fs::write(dir.join("hugetlb.2MB.current"), "0\n").unwrap();
        fs::write(dir.join("hugetlb.1GB.current"), "0\n").unwrap();
        fs::write(dir.join("hugetlb.2MB.rsvd.current"), "0\n").unwrap();
        fs::write(
            dir.join("rdma.current"),
            "mlx4_0 hca_handle=2 hca_object=max\n",
        )
        .unwrap();
        assert_eq!(
            (
                number(dir, "pids.max"),
                number(dir, "pids.current"),
                number(dir, "absent")
            ),
            (u64::MAX, 7, 0)
        );
        assert_eq!(huge_page_sizes(dir, "current"), ["1GB", "2MB"]);
        assert_eq!(
            rdma(dir, "rdma.current"),
            [("mlx4_0".to_owned(), 2, u32::MAX)]
        );
        let flat = Flat::parse("anon 4096\nfile 12\nbroken\n");
        assert_eq!(
            (flat.get("anon"), flat.get("file"), flat.get("broken")),
            (4096, 12, 0)
        );
        assert_eq!(device("8:16"), Some((8, 16)));
        assert_eq!(device("x"), None);
    }
}
