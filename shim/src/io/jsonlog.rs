//! The container's log as Docker's json-file driver writes it: one JSON object a line,
//! `{"log":"text\n","stream":"stdout","time":"2026-02-03T04:05:06.000000007Z"}`.
//!
//! A line of the container becomes one record, its newline kept. A longer line than [`MAX_LINE`] becomes several
//! records of which only the last has the newline. Bytes that are not UTF-8 become U+FFFD.
