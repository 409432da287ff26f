//! What each instruction does to the image under construction.

use super::builder::Work;
use super::cache::Key;
use super::describe::Describe;
use super::env::Env;
use super::expand::{Expander, Room};
use super::parse::{Arg, Instruction, Kind, Word};
use super::source::{Locate as _, Result};
use super::state::State;
use crate::error::Error;

impl Work<'_> {
    pub(crate) fn expander(&self) -> Expander {
        Expander::new(self.builder.plan.escape)
    }

    /// Puts the variables into a text of an instruction.
    pub(crate) fn expand(&self, command: &Instruction, text: &str, at: usize) -> Result<String> {
        self.value(text).locate(command.line.span(at))
    }

    pub(crate) fn value(&self, text: &str) -> crate::error::Result<String> {
        self.expander().word(text, &self.state.env).and_then(|value| self.room.grown(text, value))
    }

    pub(crate) fn word(&self, command: &Instruction, word: &Word) -> Result<String> {
        self.expand(command, &word.text, word.at)
    }

    fn commit(&mut self, created_by: String, layer: bool) {
        let time = self.time.clone();
        self.state.commit(created_by, time.as_deref(), layer);
    }

    pub(crate) fn instruction(&mut self, command: &Instruction) -> Result<()> {
        self.room = Room::new();
        self.carry_out(command)?;
        Ok(self.state.check_size()?)
    }

    fn carry_out(&mut self, command: &Instruction) -> Result<()> {
        match &command.kind {
            Kind::Arg(list) => self.arg(command, list),
            Kind::Maintainer(word) => {
                self.state.config.author = Some(word.text.clone());
                self.commit(format!("MAINTAINER {}", word.text), false);
                Ok(())
            }
            Kind::Workdir(word) => self.workdir(command, word),
            Kind::Copy(copy) => self.copy(command, copy),
            Kind::Run(run) => self.run(command, run),
            Kind::From(_) => Err(Error::other("FROM within a stage").into()),
            _ => {
                let State { config, env, .. } = &mut self.state;
                let escape = self.builder.plan.escape;
                let (config, room, cmd_set) = (&mut config.config, &self.room, &mut self.cmd_set);
                let mut describe = Describe { config, env, escape, room, cmd_set };
                if let Some(line) = describe.instruction(command)? {
                    self.commit(line, false);
                }
                Ok(())
            }
        }
    }

    fn arg(&mut self, command: &Instruction, list: &[Arg]) -> Result<()> {
        let mut texts = Vec::new();
        for arg in list {
            let given = self.builder.args.get(&arg.key).cloned();
            let value = match (given, &arg.default) {
                (Some(value), _) => Some(value),
                (None, Some(default)) => Some(self.expand(command, default, 0)?),
                (None, None) => self.builder.plan.globals.get(&arg.key).map(str::to_owned),
            };
            if let Some(value) = &value {
                self.room.take(value.len()).locate(command.span())?;
                self.state.env.set(&arg.key, value);
            }
            texts.push(match &value {
                Some(value) => format!("{}={value}", arg.key),
                None => arg.key.clone(),
            });
            self.state.args.push((arg.key.clone(), value));
        }
        self.commit(format!("ARG {}", texts.join(" ")), false);
        Ok(())
    }

    /// The directory is made, and belongs to the user of the steps that follow.
    fn workdir(&mut self, command: &Instruction, word: &Word) -> Result<()> {
        let path = self.word(command, word)?;
        let dir = self.state.absolute(&path);
        self.state.config.config.working_dir.clone_from(&dir);
        let text = format!("WORKDIR {dir}");
        let step = self.begin(&text, command.trigger);
        if dir == "/" {
            self.builder.display.done(step);
            self.commit(text, false);
            return Ok(());
        }
        let mut key = Key::default();
        key.add("layers", &self.state.chain());
        key.add("directory", &dir);
        key.add("user", &self.state.config.config.user);
        let keyed = self.keyed(key, &text);
        if let Some(made) = self.cached(step, &keyed)? {
            self.commit(text, made);
            return Ok(());
        }
        let layers = self.state.layers.clone();
        let user = self.state.config.config.user.clone();
        let made_at = self.builder.epoch;
        let made = self.layer(&keyed, &layers, None, |_, target| {
            let owner = match user.as_str() {
                "" => None,
                user => Some(super::copy::owner(target, user)?),
            };
            let look = super::place::Look { owner, made_at, ..super::place::Look::default() };
            let root = super::root::Root::open(target)?;
            root.make(&dir, &mut |fd, _| look.dress_parent(fd))?;
            Ok(())
        });
        let made = self.told(step, made)?;
        self.commit(text, made);
        Ok(())
    }

    /// Tells how a step ended.
    pub(crate) fn told<T>(&self, step: super::display::StepId, result: Result<T>) -> Result<T> {
        match &result {
            Ok(_) => self.builder.display.done(step),
            Err(fault) => self.builder.display.failed(step, &fault.error.to_string()),
        }
        result
    }

    /// The text of a heredoc, with its variables if they count.
    pub(crate) fn inline(&self, command: &Instruction, doc: &super::parse::Heredoc) -> Result<String> {
        let text = doc.text();
        if !doc.expand {
            return Ok(text);
        }
        let how = Expander { no_quotes: true, ..self.expander() };
        let grown = how.word(&text, &self.state.env).and_then(|value| self.room.grown(&text, value));
        grown.locate(command.span())
    }

    /// The variables of a process of this stage.
    pub(crate) fn process_env(&self) -> Env {
        let mut env = self.state.env.clone();
        for (key, value) in super::args::proxies(&self.builder.args) {
            if env.get(key).is_none() {
                env.set(key, value);
            }
        }
        env
    }
}
