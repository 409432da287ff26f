//! Streams of a container: fifos, pipes, terminals and the log.

pub(crate) mod console;
pub(crate) mod events;
pub(crate) mod fifo;
pub(crate) mod file;
pub(crate) mod intake;
pub(crate) mod log;
pub(crate) mod time;
