//! The runtime's verbs for a [`Case`]'s container.

use std::fs;
use std::path::Path;

use serde_json::Value;

use super::{Case, become_subreaper};
use crate::command::{LIMIT, Out};
use crate::wait;

impl Case {
    /// Writes config.json and creates the container.
    #[track_caller]
    pub fn create(&self) -> Out {
        self.create_with(&[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn create_with(&self, flags: &[&str]) -> Out {
        self.launch("create", flags)
    }

    /// Creates and starts without waiting for the end (`run --detach`).
    #[track_caller]
    pub fn run_detached(&self, flags: &[&str]) -> Out {
        let mut all = vec!["--detach"];
        all.extend(flags);
        self.launch("run", &all)
    }

    /// What the runtime leaves behind becomes ours to reap, also where a test runs it by itself.
    pub fn subreaper(&self) {
        become_subreaper();
    }

    #[track_caller]
    fn launch(&self, verb: &str, flags: &[&str]) -> Out {
        become_subreaper();
        self.write();
        let pid_file = self.dir.join("pid");
        let _ = fs::remove_file(&pid_file);
        let files = self.files();
        let mut command = self.command();
        command.arg(verb).arg("--bundle").arg(self.bundle()).arg("--pid-file").arg(&pid_file).args(flags).arg(&self.id);
        let out = self.finish(&mut command, &files);
        if out.code == 0 {
            let text = fs::read_to_string(&pid_file).unwrap_or_else(|e| panic!("the pid file: {e}: {out}"));
            self.pid.set(Some(text.parse().unwrap_or_else(|e| panic!("the pid file has '{text}': {e}"))));
            *self.console.borrow_mut() = Some(files);
        }
        out
    }

    /// Runs in the foreground, to the end.
    #[track_caller]
    pub fn run(&self) -> Out {
        self.run_with(&[])
    }

    /// The same with more flags.
    #[track_caller]
    pub fn run_with(&self, flags: &[&str]) -> Out {
        self.write();
        let mut command = self.command();
        command.arg("run").arg("--bundle").arg(self.bundle()).args(flags).arg(&self.id);
        self.finish(&mut command, &self.files())
    }

    /// Starts the created container.
    #[track_caller]
    pub fn start(&self) -> Out {
        self.call(&["start", &self.id])
    }

    /// Creates and starts it, and waits until the probe in it holds.
    #[track_caller]
    pub fn hold(&self) {
        self.create().ok();
        self.start().ok();
        self.says("ready");
    }

    /// Its state as the runtime says it.
    #[track_caller]
    pub fn state(&self) -> Value {
        self.call(&["state", &self.id]).ok().json()
    }

    /// Its status alone.
    #[track_caller]
    pub fn status(&self) -> String {
        self.state()["status"].as_str().expect("a status").to_owned()
    }

    /// Sends a signal.
    #[track_caller]
    pub fn kill(&self, signal: &str) -> Out {
        self.call(&["kill", &self.id, signal])
    }

    /// Deletes it.
    #[track_caller]
    pub fn delete(&self) -> Out {
        self.call(&["delete", &self.id])
    }

    /// Runs a command in it, to its end.
    #[track_caller]
    pub fn exec(&self, args: &[&str]) -> Out {
        self.exec_with(&[], args)
    }

    /// The same with flags.
    #[track_caller]
    pub fn exec_with(&self, flags: &[&str], args: &[&str]) -> Out {
        let mut command = self.command();
        command.arg("exec").args(flags).arg(&self.id).args(args);
        self.finish(&mut command, &self.files())
    }

    /// Starts a command in it and lets it run; its process id on the host. It is reaped when it ends, as a shim does
    /// it: until then the kernel keeps the container's pid namespace, and its PID 1, waiting.
    #[track_caller]
    pub fn exec_detached(&self, args: &[&str]) -> i32 {
        let pid_file = self.files().stdout.with_extension("pid");
        self.exec_with(&["--detach", "--pid-file", pid_file.to_str().expect("a path")], args).ok();
        self.adopt(&pid_file)
    }

    /// Reaps the detached process of this pid file when it ends; its process id. A test that starts one by itself needs it
    /// as well: another test beside it may have made all of us their reaper.
    #[track_caller]
    pub fn adopt(&self, pid_file: &Path) -> i32 {
        let text = fs::read_to_string(pid_file).unwrap_or_else(|e| panic!("the pid file: {e}"));
        let pid: i32 = text.parse().unwrap_or_else(|e| panic!("the pid file has '{text}': {e}"));
        self.reapers.borrow_mut().push(std::thread::spawn(move || {
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
        }));
        pid
    }

    /// Process id of the container's first process, on the host.
    pub fn pid(&self) -> i32 {
        self.pid.get().expect("a created container")
    }

    /// Waits until the container's first process ended; says how, as a shell does.
    #[track_caller]
    pub fn wait(&self) -> i32 {
        use nix::sys::wait::{WaitStatus, waitpid};
        let pid = self.pid();
        assert!(wait::exited(pid, LIMIT), "the container did not end in {LIMIT:?}");
        match waitpid(nix::unistd::Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => code,
            Ok(WaitStatus::Signaled(_, signal, _)) => 128 + signal as i32,
            other => panic!("waitpid: {other:?}"),
        }
    }

    /// Waits until the created container has said these words on its stdout.
    #[track_caller]
    pub fn says(&self, words: &str) {
        let console = self.console.borrow();
        let file = &console.as_ref().expect("a created container").stdout;
        let said = wait::file(file, LIMIT, |text| text.contains(words));
        assert!(said, "the container did not say '{words}' but: {}", fs::read_to_string(file).unwrap_or_default());
    }

    /// What the created container wrote to stdout so far.
    pub fn output(&self) -> String {
        let console = self.console.borrow();
        fs::read_to_string(&console.as_ref().expect("a created container").stdout).unwrap_or_default()
    }
}
