//! `exec`: a further process in a container.

use crate::{
    bundle,
    cli::{Exec, Global},
    log,
    terminal::{Console, Picture},
    wait,
};
use libcontainer::{
    At, Error, Kind, Result, Signals,
    birth::{self, Visit},
    inside::descriptors,
    life::{self, Status},
    outside::cgroup::Below,
    spec::{Process, Spec},
};
use rustix::fd::AsFd;
use std::path::Path;

pub(crate) fn run(global: &Global, args: &Exec) -> Result<u8> {
    exec(global, args).at("exec failed")
}

fn exec(global: &Global, args: &Exec) -> Result<u8> {
    let process = args.process.as_deref().map(process_in).transpose()?;
    descriptors::release(args.preserve_fds, log::descriptor())?;
    let slot = super::find(global, &args.id)?;
    let state = life::load(&slot)?;
    match Status::of(&slot, &state) {
        Status::Stopped => return Err(Error::new(Kind::NotRunning, "cannot exec in a stopped container")),
        Status::Paused if !args.ignore_paused => {
            return Err(Error::other("cannot exec in a paused container (use --ignore-paused to override)"));
        }
        _ => {}
    }
    let spec = Spec::parse(&slot.config()?).at("the container's config.json")?;
    let process = match process {
        Some(process) => inherit(process, &spec),
        None => process_of(&spec, args)?,
    };
    let (engine, own) = Console::of(args.console_socket.as_deref(), process.terminal, args.detach)?.split();
    let signals = if args.detach { None } else { Some(Signals::take_all().at("take signals")?) };
    let mut picture = None;
    let visit = Visit {
        process: &process,
        console: engine,
        preserve_fds: args.preserve_fds,
        no_new_keyring: false,
        cgroups: &cgroups_of(&args.cgroup)?,
        announce: &mut |pid, pidfd| {
            // The terminal is in order before the program writes to it.
            picture = own.as_ref().map(Picture::receive).transpose()?;
            super::announce(args.pid_file.as_deref(), args.pidfd_socket.as_deref(), pid, pidfd)
        },
    };
    let visitor = birth::exec(&state, &spec, visit).map_err(super::not_started)?;
    let Some(signals) = signals else { return Ok(0) };
    wait::foreground(visitor.pid, visitor.pidfd.as_fd(), &signals, picture, None)
}

fn process_in(path: &Path) -> Result<Process> {
    let json = bundle::read(path).at_with(|| format!("read {}", path.display()))?;
    libcontainer::spec::parse(&json).at_with(|| path.display().to_string())
}

/// What a file of its own does not say is as in the container's process (runc does it so).
fn inherit(mut process: Process, spec: &Spec) -> Process {
    let Some(own) = &spec.process else { return process };
    let or = |text: &mut String, own: &String| {
        if text.is_empty() {
            text.clone_from(own);
        }
    };
    or(&mut process.apparmor_profile, &own.apparmor_profile);
    or(&mut process.selinux_label, &own.selinux_label);
    process.capabilities = process.capabilities.or_else(|| own.capabilities.clone());
    process.io_priority = process.io_priority.or_else(|| own.io_priority.clone());
    process.scheduler = process.scheduler.or_else(|| own.scheduler.clone());
    process.exec_cpu_affinity = process.exec_cpu_affinity.or_else(|| own.exec_cpu_affinity.clone());
    process
}

/// The container's own process, with what the flags change.
fn process_of(spec: &Spec, args: &Exec) -> Result<Process> {
    if args.command.is_empty() {
        return Err(Error::new(Kind::Invalid, "exec args cannot be empty"));
    }
    let mut process = spec.process.clone().ok_or_else(|| Error::invalid("process", "must be set"))?;
    process.args.clone_from(&args.command);
    process.terminal = args.tty;
    process.env.extend(args.env.iter().cloned());
    process.user.additional_gids.extend(&args.additional_gids);
    process.no_new_privileges |= args.no_new_privs;
    if let Some(cwd) = &args.cwd {
        process.cwd.clone_from(cwd);
    }
    if let Some(profile) = &args.apparmor {
        process.apparmor_profile.clone_from(profile);
    }
    if let Some(label) = &args.process_label {
        process.selinux_label.clone_from(label);
    }
    if let Some(user) = &args.user {
        let (uid, gid) = user_of(user)?;
        process.user.uid = uid;
        process.user.gid = gid.unwrap_or(process.user.gid);
    }
    let capabilities = process.capabilities.get_or_insert_default();
    for cap in &args.cap {
        capabilities.bounding.push(cap.clone());
        capabilities.effective.push(cap.clone());
        capabilities.permitted.push(cap.clone());
        // Ambient ones must be inheritable too, which this flag does not make them.
        if !capabilities.inheritable.is_empty() {
            capabilities.ambient.push(cap.clone());
        }
    }
    Ok(process)
}

/// `PATH` for all hierarchies, or `CONTROLLER[,CONTROLLER…]:PATH`, repeatable.
fn cgroups_of(args: &[String]) -> Result<Below> {
    let mut cgroups = Below::new();
    for arg in args {
        let invalid = |rule: &str| Error::new(Kind::Invalid, format!("invalid --cgroup argument: {arg}: {rule}"));
        let Some((controllers, path)) = arg.split_once(':') else {
            if args.len() > 1 {
                return Err(invalid("missing CONTROLLER: prefix, which several need"));
            }
            cgroups.insert(String::new(), arg.clone());
            continue;
        };
        for controller in controllers.split(',') {
            if controller.is_empty() {
                return Err(invalid("empty CONTROLLER prefix"));
            }
            if cgroups.insert(controller.to_owned(), path.to_owned()).is_some() {
                return Err(invalid(&format!("controller {controller} specified multiple times")));
            }
        }
    }
    Ok(cgroups)
}

/// Numbers only: names are the image's business.
fn user_of(text: &str) -> Result<(u32, Option<u32>)> {
    let number = |what: &str, text: &str| {
        text.parse()
            .map_err(|_| Error::new(Kind::Invalid, format!("--user: bad {what} {text:?}: use numbers, UID[:GID]")))
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number("uid", uid)?, Some(number("gid", gid)?))),
        None => Ok((number("uid", text)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroups_are_one_path_or_named_ones() {
        let of = |args: &[&str]| cgroups_of(&args.iter().map(|it| (*it).to_owned()).collect::<Vec<_>>());
        assert!(of(&[]).unwrap().is_empty());
        assert_eq!(of(&["/a"]).unwrap()[""], "/a");
        let named = of(&["memory:m", "cpu,cpuacct:c"]).unwrap();
        assert_eq!((named.len(), &*named["cpuacct"], &*named["memory"]), (3, "c", "m"));
        for (args, expected) in [
            (&["a", "b"][..], "invalid --cgroup argument: a: missing"),
            (&[":a"], "invalid --cgroup argument: :a: empty"),
            (&["cpu:a", "cpu:b"], "invalid --cgroup argument: cpu:b: controller cpu specified multiple times"),
        ] {
            assert!(of(args).unwrap_err().to_string().starts_with(expected), "{args:?}");
        }
    }

    #[test]
    fn users_are_numbers() {
        assert_eq!(user_of("7").unwrap(), (7, None));
        assert_eq!(user_of("7:8").unwrap(), (7, Some(8)));
        for text in ["root", "7:", ":8", "-1", "4294967296"] {
            assert!(user_of(text).is_err(), "{text}");
        }
    }
}
