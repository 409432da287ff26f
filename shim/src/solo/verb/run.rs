//! `shim run`: makes a container directory from a bundle, starts the container under a monitor, stays or leaves.

use std::fs;
use std::io;
use std::path::Path;

use rustix::rand::{GetRandomFlags, getrandom};
use rustix::termios::isatty;
use serde_json::json;

use crate::cli::{Global, Run};
use crate::error::{Context, Error, Kind, Result};
use crate::io::file;
use crate::runtime;
use crate::solo::derive::derive;
use crate::solo::directory::{Directory, Layout, check_name};
use crate::solo::health::Health;
use crate::solo::launch::launch;
use crate::solo::policy::{LogOptions, RestartPolicy};
use crate::solo::record::{Options, now};
use crate::solo::relay::{OUT_OF_PATIENCE, Signals};
use crate::solo::sdnotify::Mode;
use crate::solo::session::{Manner, Outcome, Session};
use crate::solo::{say, sdnotify, signal, terminal, warn};

/// Runs a container. Returns the exit code: the container's, or 0 once it runs detached.
pub(crate) fn run(layout: &Layout, global: &Global, run: &Run) -> Result<u8> {
    if run.tty && run.interactive && !run.detach && !isatty(io::stdin()) {
        return Err(Error::invalid("the input device is not a TTY: leave out -t, or -i, or use -d"));
    }
    // A signal that comes while the container is being made is for the container, as any later one.
    let signals = (!run.detach).then(|| Signals::take(true)).transpose()?;
    let directory = make(layout, global, run)?;
    let session = launch(layout, &directory, signals.as_ref()).inspect_err(|failed| {
        // Nothing of a container that never ran is kept, unless the runtime still has it: it must stay in sight.
        if failed.clean {
            let _: Result<()> = directory.remove();
        }
    })?;
    let Some(signals) = signals else {
        say(&directory.name);
        return Ok(0);
    };
    let manner = Manner { terminal: run.tty, stdin: run.interactive, keys: run.detach_keys.clone() };
    follow(&directory, session, &signals, manner)
}

/// Stays with a container in the foreground. Returns the exit code.
pub(crate) fn follow(directory: &Directory, session: Session, signals: &Signals, manner: Manner) -> Result<u8> {
    match session.attach(signals, manner) {
        Ok(Outcome::Exited(ended)) => Ok(u8::try_from(ended.code).unwrap_or(u8::MAX)),
        Ok(Outcome::Detached) => Ok(0),
        Ok(Outcome::Left) => {
            let name = &directory.name;
            warn(&format!("{OUT_OF_PATIENCE}: container {name} goes on (shim kill {name} ends it)"));
            Ok(1)
        }
        // The monitor may have been killed right after it had recorded the end.
        Err(error) => match directory.ended() {
            Ok(Some(ended)) => Ok(u8::try_from(ended.code).unwrap_or(u8::MAX)),
            _ => Err(error),
        },
    }
}

/// Checks everything, then makes the container's directory.
fn make(layout: &Layout, global: &Global, run: &Run) -> Result<Directory> {
    let name = run.name.clone().map_or_else(random_name, Ok)?;
    check_name(&name)?;
    if run.rm && run.restart != RestartPolicy::No {
        return Err(Error::invalid("--rm and --restart contradict each other: choose one"));
    }
    if run.bundle.as_os_str().is_empty() {
        return Err(Error::invalid("BUNDLE is empty: was the bundle not made?"));
    }
    let log = LogOptions::parse(run.log_driver, &run.log_opt)?;
    let bundle = std::path::absolute(&run.bundle).context(|| format!("find the bundle {}", run.bundle.display()))?;
    let path = bundle.join("config.json");
    let text = file::read(&path).map_err(|error| no_bundle(&run.bundle, &path, &error))?;
    let mut derived = derive(&text, &bundle, run.tty)?;
    check_root(&derived.config)?;
    signal::parse(&derived.stop_signal).context(|| format!("{}: stop signal", path.display()))?;
    if let Some(signal) = &run.stop_signal {
        signal::parse(signal).context(|| "--stop-signal")?;
        derived.stop_signal.clone_from(signal);
    }
    if let Some((rows, columns)) = terminal::size().filter(|_| run.tty && !run.detach) {
        derived.config["process"]["consoleSize"] = json!({"height": rows, "width": columns});
    }
    let health = Health::of(&derived.config, &run.health).context(|| path.display().to_string())?;
    if run.sdnotify == Mode::Healthy && health.is_none() {
        return Err(Error::invalid("--sdnotify healthy: there is no health check: give --health-cmd"));
    }
    if run.sdnotify == Mode::Container {
        sdnotify::prepare(&mut derived.config, &layout.run_root.join(&name))?;
    }
    let options = Options {
        name,
        bundle,
        image: derived.image,
        ports: derived.ports,
        created: now(),
        command: derived.command,
        terminal: run.tty,
        stdin: run.interactive,
        remove: run.rm,
        stop_signal: derived.stop_signal,
        owns_pids: derived.owns_pids,
        shares_bundle: derived.shares_bundle,
        runtime: runtime::locate(global.runtime.as_deref())?,
        runtime_root: global.runtime_root.as_ref().map(std::path::absolute).transpose()?,
        systemd_cgroup: global.systemd_cgroup,
        restart: run.restart,
        log,
        detach_keys: run.detach_keys.clone(),
        stop_timeout: run.stop_timeout,
        pidfile: run.pidfile.as_ref().map(std::path::absolute).transpose()?,
        health,
        sdnotify: run.sdnotify,
    };
    layout.create(&options, &derived.config)
}

/// What to say where there is no bundle, and how one is had: many a first try names an image.
fn no_bundle(named: &Path, path: &Path, error: &Error) -> Error {
    let there = path.parent().is_some_and(Path::is_dir);
    if error.kind != Kind::NotFound && there {
        return Error::new(error.kind, format!("read {}: {}", path.display(), error.text()));
    }
    let named = named.display();
    let text = if there {
        format!(
            "{named} is no bundle, it has no config.json: `imgtool bundle IMAGE` makes a bundle, `runtime spec` a config.json"
        )
    } else {
        format!(
            "{named} is no bundle, there is no such directory: if it is an image, `imgtool bundle {named}` makes a bundle of it"
        )
    };
    Error::new(Kind::NotFound, text)
}

fn check_root(config: &serde_json::Value) -> Result<()> {
    let path = config["root"]["path"].as_str().unwrap_or_default();
    let found = fs::metadata(Path::new(path)).context(|| format!("root file system {path}"))?;
    if found.is_dir() { Ok(()) } else { Err(Error::invalid(format!("root file system {path}: Not a directory"))) }
}

/// Twelve hexadecimal digits.
fn random_name() -> Result<String> {
    let mut bytes = [0_u8; 8];
    getrandom(&mut bytes, GetRandomFlags::empty()).context(|| "choose a name")?;
    Ok(format!("{:012x}", u64::from_ne_bytes(bytes) >> 16))
}
