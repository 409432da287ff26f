//! What the user sees of a build: one entry a step, with its output. Always on stderr.
//!
//! | form | |
//! |---|---|
//! | plain | `#N NAME`, then its output as `#N SECONDS LINE`, then `#N DONE 0.3s`, `#N CACHED` or `#N ERROR: ...` |
//! | terminal | the running steps with their last lines, the others above them |
//! | json | one object a line: `event` is `start`, `log`, `key`, `finish` or `note`, `step` its number |

use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::{Value, json};

use crate::error::one_line;
use crate::progress::{Form, Progress};

/// How many of its last lines a failed step shows again.
const LAST_LINES: usize = 20;

enum Face {
    Quiet,
    Plain,
    Terminal(MultiProgress),
    Json,
}

/// The view of a build. Steps of several threads speak to it.
pub(crate) struct Display {
    face: Face,
    steps: Mutex<Vec<Entry>>,
    /// All has been said.
    closed: Mutex<bool>,
}

struct Entry {
    name: String,
    began: Instant,
    bar: Option<ProgressBar>,
    last: Vec<String>,
    /// The cache had it: its end is told with its beginning.
    told: bool,
}

/// A step under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StepId(usize);

impl Display {
    pub(crate) fn new(form: Form) -> Self {
        let terminal = || Face::Terminal(MultiProgress::with_draw_target(ProgressDrawTarget::stderr_with_hz(10)));
        let face = match form {
            Form::None => Face::Quiet,
            Form::Json => Face::Json,
            Form::Bar => terminal(),
            Form::Auto if std::io::stderr().is_terminal() => terminal(),
            Form::Plain | Form::Auto => Face::Plain,
        };
        Self { face, steps: Mutex::default(), closed: Mutex::default() }
    }

    /// For what pulls and pushes within a build.
    pub(crate) fn transfers(&self) -> Progress {
        Progress::new(match &self.face {
            Face::Quiet | Face::Terminal(_) => Form::None,
            Face::Plain => Form::Plain,
            Face::Json => Form::Json,
        })
    }

    fn write(&self, line: &str) {
        let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        if !*closed {
            self.put(line);
        }
    }

    fn put(&self, line: &str) {
        match &self.face {
            Face::Quiet => {}
            Face::Terminal(all) => drop(all.println(line)),
            // Nothing can be done about a closed stderr.
            Face::Plain | Face::Json => drop(writeln!(std::io::stderr().lock(), "{line}")),
        }
    }

    fn tell(&self, plain: impl FnOnce() -> String, machine: impl FnOnce() -> Value) {
        match &self.face {
            Face::Quiet => {}
            Face::Json => self.write(&machine().to_string()),
            Face::Plain | Face::Terminal(_) => self.write(&plain()),
        }
    }

    fn entry<T>(&self, id: StepId, act: impl FnOnce(&mut Entry) -> T) -> Option<T> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).get_mut(id.0).map(act)
    }

    /// A step begins.
    pub(crate) fn begin(&self, name: &str) -> StepId {
        let name = one_line(name.to_owned());
        let bar = match &self.face {
            Face::Terminal(all) => {
                let bar = all.add(ProgressBar::new_spinner().with_message(name.clone()));
                if let Ok(style) = ProgressStyle::with_template(" {spinner} {wide_msg} {elapsed:>5}") {
                    bar.set_style(style);
                }
                bar.enable_steady_tick(Duration::from_millis(200));
                Some(bar)
            }
            _ => None,
        };
        let mut steps = self.steps.lock().unwrap_or_else(PoisonError::into_inner);
        let id = StepId(steps.len());
        steps.push(Entry { name: name.clone(), began: Instant::now(), bar, last: Vec::new(), told: false });
        drop(steps);
        if !matches!(self.face, Face::Terminal(_)) {
            self.tell(|| format!("#{} {name}", id.0 + 1), || json!({"event": "start", "step": id.0 + 1, "name": name}));
        }
        id
    }

    /// The step's key in the cache, and why there is nothing for it.
    pub(crate) fn key(&self, id: StepId, key: &str, miss: Option<&str>) {
        if matches!(self.face, Face::Terminal(_)) {
            return;
        }
        self.tell(
            || match miss {
                None => format!("#{} key {key}", id.0 + 1),
                Some(why) => format!("#{} key {key}: {}", id.0 + 1, one_line(why.to_owned())),
            },
            || json!({"event": "key", "step": id.0 + 1, "key": key, "hit": miss.is_none(), "miss": miss}),
        );
    }

    /// A line of a step's output.
    pub(crate) fn log(&self, id: StepId, line: &str) {
        let line = printable(line);
        let since = self.entry(id, |entry| {
            entry.last.push(line.clone());
            if entry.last.len() > LAST_LINES {
                entry.last.remove(0);
            }
            if let Some(bar) = &entry.bar {
                bar.set_message(format!("{}  {line}", entry.name));
            }
            entry.began.elapsed().as_secs_f64()
        });
        if !matches!(self.face, Face::Terminal(_)) {
            let since = since.unwrap_or_default();
            self.tell(
                || format!("#{} {since:.3} {line}", id.0 + 1),
                || json!({"event": "log", "step": id.0 + 1, "seconds": since, "text": line}),
            );
        }
    }

    /// The cache had the step.
    pub(crate) fn cached(&self, id: StepId) {
        self.entry(id, |entry| entry.told = true);
        self.end(id, "CACHED", true);
    }

    pub(crate) fn done(&self, id: StepId) {
        self.end(id, "DONE", false);
    }

    fn end(&self, id: StepId, how: &str, cached: bool) {
        let Some((name, seconds, bar)) =
            self.entry(id, |entry| (entry.name.clone(), entry.began.elapsed().as_secs_f64(), entry.bar.take()))
        else {
            return;
        };
        if let Some(bar) = bar {
            bar.finish_and_clear();
            let how = if cached { "CACHED".to_owned() } else { format!("{seconds:.1}s") };
            self.write(&cut(&format!(" => {how:>7}  {name}")));
            return;
        }
        let number = id.0 + 1;
        self.tell(
            || if cached { format!("#{number} {how}") } else { format!("#{number} {how} {seconds:.1}s") },
            || json!({"event": "finish", "step": number, "result": how.to_lowercase(), "seconds": seconds}),
        );
    }

    pub(crate) fn failed(&self, id: StepId, error: &str) {
        let error = one_line(error.to_owned());
        let Some((name, last, bar)) =
            self.entry(id, |entry| (entry.name.clone(), std::mem::take(&mut entry.last), entry.bar.take()))
        else {
            return;
        };
        if let Some(bar) = bar {
            bar.finish_and_clear();
            self.write(&cut(&format!(" =>   ERROR  {name}")));
            // Its output went by above the view, or not at all: the end of it says what was wrong.
            for line in last {
                self.write(&format!("     | {line}"));
            }
            return;
        }
        if matches!(self.face, Face::Quiet) {
            // Without it nobody would know what was wrong.
            let closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
            if !*closed {
                for line in &last {
                    let _ = writeln!(std::io::stderr().lock(), "{line}");
                }
            }
            return;
        }
        let number = id.0 + 1;
        self.tell(
            || format!("#{number} ERROR: {error}"),
            || json!({"event": "finish", "step": number, "result": "error", "error": error}),
        );
    }

    /// A line that belongs to no step.
    pub(crate) fn note(&self, line: &str) {
        let line = one_line(line.to_owned());
        self.tell(|| line.clone(), || json!({"event": "note", "text": line}));
    }

    /// The same of what is only worth a thought.
    pub(crate) fn warning(&self, text: &str) {
        if !matches!(self.face, Face::Quiet) {
            self.write(&self.excerpt(text));
        }
    }

    /// Several lines, as they are and in one piece.
    fn excerpt(&self, text: &str) -> String {
        match &self.face {
            Face::Json => json!({"event": "note", "text": text}).to_string(),
            _ => text.trim_end_matches('\n').to_owned(),
        }
    }

    /// The build is at its end, for which `last` may show the place. Of steps that still run nothing is said behind it.
    pub(crate) fn close(&self, last: Option<&str>) {
        let mut closed = self.closed.lock().unwrap_or_else(PoisonError::into_inner);
        match (last, &self.face) {
            (None, _) => {}
            // Without it nobody would know what was wrong.
            (Some(text), Face::Quiet) => drop(writeln!(std::io::stderr().lock(), "{text}")),
            (Some(text), _) => self.put(&self.excerpt(text)),
        }
        *closed = true;
        if let Face::Terminal(all) = &self.face {
            let _ = all.clear();
        }
    }
}

/// As much of a line as the terminal is wide.
fn cut(line: &str) -> String {
    let width = rustix::termios::tcgetwinsize(std::io::stderr()).map_or(0, |size| usize::from(size.ws_col));
    if width == 0 { line.to_owned() } else { line.chars().take(width).collect() }
}

/// Output of a step is anybody's: nothing in it may move the cursor. Of a line that was written over, the last state counts.
fn printable(line: &str) -> String {
    let line = line.rsplit('\r').find(|part| !part.is_empty()).unwrap_or_default();
    one_line(line.replace('\t', "    "))
}
