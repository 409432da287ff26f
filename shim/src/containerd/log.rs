//! The shim's own log: lines into the bundle's `log` fifo, which containerd copies into its log.

use std::path::Path;

use rustix::io::write;

use crate::io::fifo::open_writer;
use crate::io::time::Rfc3339;

/// Reports trouble that no caller can be told of. Nobody listening means that nobody wants to know.
pub(crate) fn warn(message: &str) {
    line("warning", message);
}

fn line(level: &str, message: &str) {
    // Opened for each line: a restarted containerd opens its end anew, and a shim has few descriptors to spare. The
    // working directory is the bundle.
    let Ok(fifo) = open_writer(Path::new("log")) else {
        return;
    };
    let time = Rfc3339(std::time::SystemTime::now());
    let text =
        format!("time=\"{time}\" level={level} msg={message:?} runtime=io.containerd.tare.v2\n");
    let _: rustix::io::Result<usize> = write(&fifo, text.as_bytes());
}
