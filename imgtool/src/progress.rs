//! What the user sees of long work: bars on a terminal, lines elsewhere, nothing with `--quiet`. Always on stderr.

use std::io::IsTerminal as _;

use crate::error::one_line;
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown.
#[derive(Debug)]
pub(crate) enum Progress {
    Quiet,
    Lines,
    Bars(MultiProgress),
}

/// One piece of work with a size.
pub(crate) struct Task<'a> {
    progress: &'a Progress,
    label: String,
    size: u64,
    bar: Option<ProgressBar>,
}

impl Progress {
    pub(crate) fn new(quiet: bool) -> Self {
        if quiet {
            Self::Quiet
        } else if std::io::stderr().is_terminal() {
            Self::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)))
        } else {
            Self::Lines
        }
    }

    /// One line of news.
    pub(crate) fn say(&self, line: &str) {
        let line = one_line(line.to_owned());
        match self {
            Self::Quiet => {}
            Self::Lines => eprintln!("{line}"),
            Self::Bars(bars) => {
                let _ = bars.println(&line);
            }
        }
    }

    /// Begins work of `size` bytes, of which `done` were done before.
    pub(crate) fn task(&self, label: &str, size: u64, done: u64) -> Task<'_> {
        let bar = match self {
            Self::Bars(bars) => {
                let bar = bars.add(ProgressBar::new(size).with_position(done).with_prefix(label.to_owned()));
                let template = "{prefix:<20} [{bar:30}] {bytes:>11} of {total_bytes:<11} {bytes_per_sec:>13} {eta:>4}";
                if let Ok(style) = ProgressStyle::with_template(template) {
                    bar.set_style(style.progress_chars("=> "));
                }
                bar.reset_eta();
                Some(bar)
            }
            _ => None,
        };
        Task { progress: self, label: label.to_owned(), size, bar }
    }
}

impl Task<'_> {
    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// Ends the task with a word on how it went.
    pub(crate) fn finish(&self, how: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.progress.say(&format!("{}: {how} ({})", self.label, HumanBytes(self.size)));
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        // A failed task's bar must not stay between the user and the error.
        if let Some(bar) = &self.bar
            && !bar.is_finished()
        {
            bar.finish_and_clear();
        }
    }
}
