//! What the user sees of long work: bars on a terminal, lines elsewhere, JSON for machines, nothing with `--quiet`. Always
//! on stderr.

use std::io::IsTerminal as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::error::{one_line, tell};
use indicatif::{HumanBytes, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How progress is shown.
#[derive(Debug)]
pub(crate) enum Progress {
    Quiet,
    Lines,
    Bars(MultiProgress),
    /// One object a line: `event` is start, progress, finish or note.
    Json,
}

/// The form that `--progress` asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Form {
    /// Bars on a terminal, lines elsewhere.
    #[default]
    Auto,
    #[value(alias = "tty")]
    Bar,
    Plain,
    #[value(alias = "rawjson")]
    Json,
    #[value(alias = "quiet")]
    None,
}

/// JSON tells of a task's progress no more often than this.
const JSON_PAUSE: Duration = Duration::from_millis(100);

/// One piece of work with a size.
pub(crate) struct Task<'a> {
    progress: &'a Progress,
    label: String,
    size: u64,
    bar: Option<ProgressBar>,
    done: AtomicU64,
    told: Mutex<Instant>,
}

impl Progress {
    pub(crate) fn new(form: Form) -> Self {
        let bars = || Self::Bars(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        match form {
            Form::None => Self::Quiet,
            Form::Json => Self::Json,
            Form::Bar => bars(),
            Form::Auto if std::io::stderr().is_terminal() => bars(),
            Form::Plain | Form::Auto => Self::Lines,
        }
    }

    /// One line of news.
    pub(crate) fn say(&self, line: &str) {
        let line = one_line(line.to_owned());
        match self {
            Self::Quiet => {}
            Self::Lines => tell(line),
            Self::Json => tell(json!({"event": "note", "text": line})),
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
        if matches!(self, Self::Json) {
            tell(json!({"event": "start", "task": label, "done": done, "total": size}));
        }
        let (done, told) = (AtomicU64::new(done), Mutex::new(Instant::now()));
        Task { progress: self, label: label.to_owned(), size, bar, done, told }
    }
}

impl Task<'_> {
    pub(crate) fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
        if !matches!(self.progress, Progress::Json) {
            return;
        }
        let done = self.done.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.elapsed() >= JSON_PAUSE {
            *told = Instant::now();
            tell(json!({"event": "progress", "task": self.label, "done": done, "total": self.size}));
        }
    }

    /// Ends the task with a word on how it went.
    pub(crate) fn finish(&self, how: &str) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        if matches!(self.progress, Progress::Json) {
            tell(json!({"event": "finish", "task": self.label, "result": how, "total": self.size}));
            return;
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
