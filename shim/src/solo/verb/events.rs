//! `shim events`: what happens to containers, as it happens. There is no daemon to ask: the container directories tell.

use std::collections::BTreeMap;

use rustix::event::{PollFd, PollFlags};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use serde_json::json;

use crate::cli::{Events, Format};
use crate::error::{Context, Result};
use crate::io::events::forget_changes;
use crate::solo::directory::{Layout, Status, private_dir};
use crate::solo::health::Word;
use crate::solo::record::now;
use crate::solo::{relay, say};

/// What a container was like when it was last looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Seen {
    Other,
    /// With the moment at which it was started, and how it feels.
    Running(String, Option<Word>),
    Paused(String),
    Exited(u32),
}

/// Prints events until it is ended.
pub(crate) fn events(layout: &Layout, events: &Events) -> Result<u8> {
    private_dir(&layout.root)?;
    let step = || format!("watch {}", layout.root.display());
    let changes = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).context(step)?;
    let kinds = WatchFlags::MOVED_TO | WatchFlags::MOVED_FROM | WatchFlags::CREATE | WatchFlags::DELETE;
    inotify::add_watch(&changes, &layout.root, kinds).context(step)?;
    let mut known = BTreeMap::new();
    let mut first = true;
    loop {
        let mut present = BTreeMap::new();
        for directory in layout.all()? {
            // Watched before it is looked at: nothing happens unnoticed in between. Watching again changes nothing.
            let _: rustix::io::Result<i32> = inotify::add_watch(&changes, &directory.path, kinds);
            let seen = match directory.status() {
                Ok(Status::Running { state, .. }) if directory.is_paused() => Seen::Paused(state.started),
                Ok(Status::Running { state, .. }) => {
                    let condition = directory.condition().ok().flatten();
                    Seen::Running(state.started, condition.map(|condition| condition.status))
                }
                Ok(Status::Exited(ended)) => Seen::Exited(ended.code),
                Ok(Status::Restarting(restarted)) => Seen::Exited(restarted.last.code),
                _ => Seen::Other,
            };
            present.insert(directory.name, seen);
        }
        if !first {
            for (name, action, code) in differences(&known, &present) {
                print(events.format, &name, action, code);
            }
        }
        (known, first) = (present, false);
        relay::wait(&mut [PollFd::new(&changes, PollFlags::IN)])?;
        forget_changes(&changes)?;
    }
}

/// What must have happened between two looks, in order.
fn differences(
    before: &BTreeMap<String, Seen>,
    after: &BTreeMap<String, Seen>,
) -> Vec<(String, &'static str, Option<u32>)> {
    let mut happened = Vec::new();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        if matches!(before[name], Seen::Running(..) | Seen::Paused(_)) {
            happened.push((name.clone(), "die", None));
        }
        happened.push((name.clone(), "destroy", None));
    }
    for (name, seen) in after {
        let past = before.get(name);
        if past.is_none() {
            happened.push((name.clone(), "create", None));
        }
        if past == Some(seen) {
            continue;
        }
        match (past, seen) {
            (Some(Seen::Running(then, _)), Seen::Paused(now)) if then == now => {
                happened.push((name.clone(), "pause", None));
            }
            (Some(Seen::Running(then, _)), Seen::Running(now, word)) if then == now => match word {
                Some(Word::Healthy) => happened.push((name.clone(), "health_status: healthy", None)),
                Some(Word::Unhealthy) => happened.push((name.clone(), "health_status: unhealthy", None)),
                _ => {}
            },
            (Some(Seen::Paused(then)), Seen::Running(now, _)) if then == now => {
                happened.push((name.clone(), "unpause", None));
            }
            (_, Seen::Running(..) | Seen::Paused(_)) => happened.push((name.clone(), "start", None)),
            (_, Seen::Exited(code)) => happened.push((name.clone(), "die", Some(*code))),
            (_, Seen::Other) => {}
        }
    }
    happened
}

fn print(format: Format, name: &str, action: &str, code: Option<u32>) {
    let time = now();
    match (format, code) {
        (Format::Json, _) => {
            say(&json!({"time": time, "name": name, "action": action, "exit_code": code}).to_string());
        }
        (Format::Table, Some(code)) => say(&format!("{time} container {action} {name} (exitCode={code})")),
        (Format::Table, None) => say(&format!("{time} container {action} {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happened_is_told_in_order() {
        let state = |pairs: &[(&str, Seen)]| {
            pairs.iter().map(|(name, seen)| ((*name).to_owned(), seen.clone())).collect::<BTreeMap<_, _>>()
        };
        let feeling = |at: &str, word| Seen::Running(at.to_owned(), word);
        let running = |at: &str| feeling(at, None);
        let words = |before, after| {
            differences(&before, &after)
                .into_iter()
                .map(|(name, action, _)| format!("{action} {name}"))
                .collect::<Vec<_>>()
        };
        assert_eq!(words(state(&[]), state(&[("a", running("1"))])), ["create a", "start a"]);
        assert_eq!(words(state(&[("a", running("1"))]), state(&[("a", Seen::Exited(0))])), ["die a"]);
        assert_eq!(words(state(&[("a", running("1"))]), state(&[("a", running("2"))])), ["start a"]);
        assert_eq!(words(state(&[("a", running("1"))]), state(&[("a", Seen::Paused("1".into()))])), ["pause a"]);
        assert_eq!(words(state(&[("a", Seen::Paused("1".into()))]), state(&[("a", running("1"))])), ["unpause a"]);
        assert_eq!(words(state(&[("a", running("1"))]), state(&[])), ["die a", "destroy a"]);
        assert_eq!(words(state(&[("a", Seen::Exited(0))]), state(&[])), ["destroy a"]);
        assert!(words(state(&[("a", running("1"))]), state(&[("a", running("1"))])).is_empty());
        let (starting, healthy) = (feeling("1", Some(Word::Starting)), feeling("1", Some(Word::Healthy)));
        assert_eq!(words(state(&[("a", starting)]), state(&[("a", healthy.clone())])), ["health_status: healthy a"]);
        assert_eq!(words(state(&[("a", healthy)]), state(&[("a", feeling("2", Some(Word::Starting)))])), ["start a"]);
    }
}
