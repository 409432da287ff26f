//! RUN: a step as a container of the runtime.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use super::builder::{Keyed, Work};
use super::cache::Key;
use super::display::StepId;
use super::held::{Held, bind};
use super::mounts::Resolved;
use super::parse::{Instruction, Run, Security, StepNetwork};
use super::source::{Fault, Locate as _, Result};
use crate::bundle::{Network, StepSpec, connect_step, step_spec};
use crate::cdi;
use crate::error::{Error, Step};
use crate::rights::user_namespace;

/// The name that a step has for itself.
const HOSTNAME: &str = "buildkitsandbox";

impl Work<'_> {
    pub(crate) fn run(&mut self, command: &Instruction, run: &Run) -> Result<()> {
        let (words, script) = self.command_line(run);
        let shown = shown(run);
        self.await_stages(command);
        let step = self.begin(&format!("RUN {shown}"), command.trigger);
        let result = self.run_step(command, run, &words, script.as_ref(), &shown, step);
        let made = match result {
            Ok(made) => made,
            Err(fault) => return self.told(step, Err(fault)),
        };
        let history = self.state.run_history(&words);
        let time = self.time.clone();
        self.state.commit(history, time.as_deref(), made);
        Ok(())
    }

    /// The arguments of the process; and a script that it is, where a heredoc begins with `#!`.
    fn command_line(&self, run: &Run) -> (Vec<String>, Option<(String, String)>) {
        let command = &run.command;
        if command.exec {
            return (command.words.clone(), None);
        }
        let text = command.words.join(" ");
        let mut script = None;
        let text = match command.heredocs.as_slice() {
            [] => text,
            [doc, ..] if super::parse::heredoc(&text).is_some() => {
                let data = doc.text();
                if data.starts_with("#!") {
                    // The name is a word of the Dockerfile's, and would lead anywhere on this machine.
                    let name = doc.file_name().unwrap_or("script");
                    let path = format!("/dev/pipes/{name}");
                    script = Some((name.to_owned(), data));
                    return (vec![path], script);
                }
                data
            }
            docs => {
                let mut text = text;
                for doc in docs {
                    text.extend(["\n", &doc.content, &doc.name]);
                }
                text
            }
        };
        let mut words = super::state::shell(&self.state.config.config);
        words.push(text);
        (words, script)
    }

    fn run_step(
        &mut self,
        command: &Instruction,
        run: &Run,
        words: &[String],
        script: Option<&(String, String)>,
        shown: &str,
        step: StepId,
    ) -> Result<bool> {
        let builder = self.builder;
        self.entitled(command, run)?;
        let devices = self.devices(command, run)?;
        let mounts = self.mounts(command, run)?;
        let mut key = Key::default();
        key.add("layers", &self.state.chain());
        key.add("command", &format!("{words:?}"));
        if let Some((_, text)) = script {
            key.add("script", text);
        }
        let hostname = builder.args.get("BUILDKIT_SANDBOX_HOSTNAME").map_or(HOSTNAME, String::as_str);
        if hostname != HOSTNAME {
            key.add("host name", hostname);
        }
        key.add("user", &self.state.config.config.user);
        key.add("working directory", self.state.workdir());
        // Proxies say nothing of the result.
        for (name, value) in self.state.env.iter() {
            key.add(format!("variable {name}"), value);
        }
        key.add("network", &format!("{:?} {:?}", run.network, builder.options.network));
        key.add("security", &format!("{:?}", run.security));
        for device in &devices {
            key.add(format!("device {}", device.name), "");
        }
        for resolved in &mounts {
            resolved.key(&mut key).locate(resolved.at)?;
        }
        let keyed: Keyed = self.keyed(key, &format!("RUN {shown}"));
        if let Some(made) = self.cached(step, &keyed)? {
            return Ok(made);
        }
        let layers = self.state.layers.clone();
        // Only what is missing of the places where something is mounted: the step's own layer has none of them then.
        let mut targets: Vec<(String, bool)> = self.targets(&mounts);
        targets.extend(cdi::mount_points(&devices, user_namespace()?.is_some()).locate(command.span())?);
        let top = self.stubs(&targets)?;
        let made = self.layer(&keyed, &layers, top.as_deref(), |work, target| {
            work.contain(command, run, words, script, &mounts, &devices, target, step)
        })?;
        builder.display.done(step);
        Ok(made)
    }

    /// Runs the command in the mounted root file system.
    #[allow(clippy::too_many_arguments, reason = "all of one step")]
    fn contain(
        &self,
        command: &Instruction,
        run: &Run,
        words: &[String],
        script: Option<&(String, String)>,
        mounts: &[Resolved],
        devices: &[cdi::Device],
        rootfs: &Path,
        step: StepId,
    ) -> Result<()> {
        let builder = self.builder;
        let bundle = builder.workspace.memory()?;
        let mut held = Held::default();
        for (number, resolved) in mounts.iter().enumerate() {
            self.hold(resolved, number, &bundle, &mut held).locate(resolved.at)?;
        }
        if let Some((name, text)) = script {
            let directory = bundle.join("pipes");
            fs::create_dir(&directory).map_err(Error::from)?;
            let mut options = fs::OpenOptions::new();
            let mut file =
                options.write(true).create_new(true).mode(0o755).open(directory.join(name)).map_err(Error::from)?;
            file.write_all(text.as_bytes()).map_err(Error::from)?;
            held.entries.push(bind(&directory, "/dev/pipes", true));
        }
        let env: BTreeMap<String, String> =
            self.process_env().iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        let mut env: Vec<String> = env.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        env.append(&mut held.env);
        let network = match run.network {
            StepNetwork::None => Network::None,
            StepNetwork::Host => Network::Host,
            StepNetwork::Default => builder.options.network.clone(),
        };
        let name = builder.workspace.container();
        let user = self.state.config.config.user.clone();
        let mut spec = StepSpec {
            rootfs,
            args: words,
            env,
            cwd: self.state.workdir(),
            user: &user,
            network,
            insecure: run.security == Security::Insecure,
            hostname: builder.args.get("BUILDKIT_SANDBOX_HOSTNAME").map_or(HOSTNAME, String::as_str),
            mounts: Vec::new(),
            devices,
            options: builder.options.clone(),
            hooks: None,
        };
        // On disk: should this build be killed, the guard deletes the container, and its hooks undo what they did.
        connect_step(&builder.store, &mut spec, &builder.workspace.directory()?)?;
        spec.mounts.append(&mut held.entries);
        let config = step_spec(&spec).locate(command.span())?;
        fs::write(bundle.join("config.json"), config.to_string()).map_err(Error::from)?;
        self.execute(&bundle, &name, step).map_err(|e| {
            let text = format!("process {:?} did not complete successfully: {e}", words.join(" "));
            Fault { span: Some(command.span()), error: Error::other(text) }
        })?;
        let _ = crate::layer::remove_all(&bundle);
        Ok(())
    }

    /// Calls the runtime and passes the output on, line by line.
    fn execute(&self, bundle: &Path, name: &str, step: StepId) -> crate::error::Result<()> {
        let builder = self.builder;
        let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
        let log = bundle.join("log");
        let mut command = Command::new(&builder.runtime);
        command.arg("--root").arg(builder.workspace.directory.join("state"));
        command.arg("--log").arg(&log).args(["--log-format", "json"]);
        command.args(["run", "--bundle"]).arg(bundle).arg(name);
        command.stdin(Stdio::null()).stdout(write.try_clone()?).stderr(write);
        let mut child = command.spawn().with(|| builder.runtime.display().to_string())?;
        drop(command); // its ends of the pipe
        let mut reader = BufReader::new(File::from(read));
        let mut line = Vec::new();
        loop {
            line.clear();
            // A line that never ends is passed on in pieces.
            let len = std::io::Read::take(&mut reader, 64 << 10).read_until(b'\n', &mut line)?;
            if len == 0 {
                break;
            }
            let text = String::from_utf8_lossy(&line);
            builder.display.log(step, text.trim_end_matches(['\n', '\r']));
        }
        let status = child.wait()?;
        if status.success() {
            return Ok(());
        }
        if let Some(why) = runtime_error(&log) {
            return Err(Error::other(why));
        }
        match status.code() {
            Some(code) => Err(Error::other(format!("exit code: {code}"))),
            None => Err(Error::other(format!("the runtime ended: {status}"))),
        }
    }
}

/// What the view calls a step.
fn shown(run: &Run) -> String {
    let mut text = String::new();
    for word in &run.mounts {
        text.extend(["--mount=", &word.text, " "]);
    }
    match run.network {
        StepNetwork::Default => {}
        StepNetwork::None => text.push_str("--network=none "),
        StepNetwork::Host => text.push_str("--network=host "),
    }
    if run.security == Security::Insecure {
        text.push_str("--security=insecure ");
    }
    for (word, _) in &run.devices {
        text.extend(["--device=", &word.text, " "]);
    }
    if run.command.exec {
        text.push_str(&serde_json::to_string(&run.command.words).unwrap_or_default());
    } else {
        text.push_str(&run.command.words.join(" "));
    }
    if let Some(doc) = run.command.heredocs.first() {
        let first = doc.content.trim().lines().next().unwrap_or_default();
        let more = if doc.content.trim().lines().count() > 1 { "..." } else { "" };
        text.extend([" (", first, more, ")"]);
    }
    text
}

/// The last error of the runtime's own log: the container was not even begun.
fn runtime_error(log: &Path) -> Option<String> {
    let text = fs::read_to_string(log).ok()?;
    let line = text.lines().rev().find(|line| line.contains("\"error\""))?;
    let entry: Value = serde_json::from_str(line).ok()?;
    (entry["level"] == "error").then(|| entry["msg"].as_str().map(str::to_owned)).flatten()
}
