//! Records that are written together, and how much output each of them holds: what does not get into the log is told.

/// When a batch is written out.
const FULL: usize = 96 * 1024;

/// Records on their way to a file. Each ends with a newline, and has no other.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    records: Vec<u8>,
    sources: Vec<u32>,
}

impl Batch {
    /// Adds the record that `write` appends. It holds `source` bytes of output.
    pub(crate) fn record(&mut self, source: usize, write: impl FnOnce(&mut Vec<u8>)) {
        write(&mut self.records);
        self.sources.push(source as u32);
    }

    /// Whether it is time to write.
    pub(crate) fn is_full(&self) -> bool {
        self.records.len() >= FULL
    }

    pub(crate) fn records(&self) -> &[u8] {
        &self.records
    }

    /// How much output is in the records behind the first `kept` bytes, which are whole records.
    pub(crate) fn behind(&self, kept: usize) -> u64 {
        let kept = memchr::memchr_iter(b'\n', &self.records[..kept]).count();
        self.sources[kept..].iter().copied().map(u64::from).sum()
    }

    /// Empties it, but for its memory.
    pub(crate) fn clear(&mut self) {
        self.records.clear();
        self.sources.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_behind_is_counted_by_record() {
        let mut batch = Batch::default();
        for (source, record) in [(3, "one\n"), (0, "\n"), (7, "three\n")] {
            batch.record(source, |records| records.extend_from_slice(record.as_bytes()));
        }
        assert_eq!([0, 4, 5, 11].map(|kept| batch.behind(kept)), [10, 7, 7, 0]);
    }
}
