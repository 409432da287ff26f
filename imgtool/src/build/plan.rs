//! The stages as a graph: what each stands on, what it takes from others, and which of them the target needs. Pure.

use std::collections::BTreeSet;

use super::args::{self, BuildArgs};
use super::env::Env;
use super::expand::Expander;
use super::parse::{Dockerfile, Instruction, Kind, Mount, MountKind};
use super::source::{Fault, Locate as _, Result, Span, did_you_mean};
use crate::error::Error;
use crate::platform::Platform;

/// What a stage begins with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Scratch,
    /// An earlier stage, by its number.
    Stage(usize),
    /// An image or a named context.
    Image(String),
}

/// Where files come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Context,
    Stage(usize),
    Image(String),
}

/// A stage, with its FROM expanded.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    pub(crate) base: Base,
    /// In lower case, if it has one.
    pub(crate) name: Option<String>,
    /// `None`: the target's.
    pub(crate) platform: Option<Platform>,
    pub(crate) commands: Vec<Instruction>,
    pub(crate) span: Span,
    /// A context of this name stands in for the whole stage.
    pub(crate) replaced: bool,
    /// The stages that it needs.
    pub(crate) needs: BTreeSet<usize>,
}

/// The graph.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) stages: Vec<Planned>,
    pub(crate) target: usize,
    pub(crate) globals: Env,
    pub(crate) escape: char,
}

/// What the plan depends on besides the Dockerfile.
pub(crate) struct Wanted<'a> {
    pub(crate) target: Option<&'a str>,
    pub(crate) args: &'a BuildArgs,
    pub(crate) build: &'a Platform,
    pub(crate) platform: &'a Platform,
    /// Names of `--build-context`.
    pub(crate) contexts: &'a [String],
}

impl Plan {
    pub(crate) fn of(file: &Dockerfile, wanted: &Wanted<'_>) -> Result<Self> {
        let last = file.stages.last().and_then(|stage| stage.from.name.clone()).unwrap_or_default();
        let stage_name = wanted.target.map_or(last, str::to_owned);
        let globals = args::global(file, wanted.args, wanted.build, wanted.platform, &stage_name)?;
        let expander = Expander::new(file.escape);
        let mut plan = Self { stages: Vec::new(), target: 0, globals, escape: file.escape };
        for stage in &file.stages {
            let at = stage.instruction.at(&stage.from.image);
            let image = expander.word(&stage.from.image.text, &plan.globals).locate(at)?;
            if image.is_empty() {
                let text = format!("base name ({}) should not be blank: which image?", stage.from.image.text);
                return Err(Fault::at(at, text));
            }
            let platform = match &stage.from.platform {
                None => None,
                Some(word) => {
                    let at = stage.instruction.at(word);
                    let text = expander.word(&word.text, &plan.globals).locate(at)?;
                    if text.is_empty() {
                        return Err(Fault::at(at, format!("--platform={}: is empty", word.text)));
                    }
                    Some(platform_of(&text, wanted.platform).locate(at)?)
                }
            };
            let named = |name: &str| wanted.contexts.iter().any(|have| have.eq_ignore_ascii_case(name));
            let replaced = stage.from.name.as_deref().is_some_and(named);
            let base = match plan.find(&image) {
                _ if replaced => Base::Image(stage.from.name.clone().unwrap_or_default()),
                Some(number) => Base::Stage(number),
                None if image == "scratch" => Base::Scratch,
                None => Base::Image(image),
            };
            let mut planned = Planned {
                needs: match base {
                    Base::Stage(number) => BTreeSet::from([number]),
                    _ => BTreeSet::new(),
                },
                base,
                name: stage.from.name.clone(),
                platform,
                commands: if replaced { Vec::new() } else { stage.commands.clone() },
                span: at,
                replaced,
            };
            for command in &planned.commands {
                for (origin, _) in origins(command, |name| plan.origin(name, &file.stages_after(plan.stages.len())))? {
                    if let Origin::Stage(number) = origin {
                        planned.needs.insert(number);
                    }
                }
            }
            plan.stages.push(planned);
        }
        plan.target = plan.choose(wanted.target)?;
        Ok(plan)
    }

    fn choose(&self, target: Option<&str>) -> Result<usize> {
        let Some(target) = target else { return Ok(self.stages.len() - 1) };
        let number = self.find(target).or_else(|| target.parse().ok().filter(|n| *n < self.stages.len()));
        number.ok_or_else(|| {
            let hint = did_you_mean(target, self.stages.iter().filter_map(|stage| stage.name.as_deref()));
            Error::missing(format!("--target {target}: no stage has this name{hint}")).into()
        })
    }

    /// The stage of this name; of several the last one so far.
    pub(crate) fn find(&self, name: &str) -> Option<usize> {
        self.stages.iter().rposition(|stage| stage.name.as_deref().is_some_and(|have| have.eq_ignore_ascii_case(name)))
    }

    /// What `--from=NAME` means in a stage that has `later` ones behind it.
    fn origin(&self, name: &str, later: &[String]) -> Result<Origin> {
        self.origin_before(name, self.stages.len(), later)
    }

    /// The same in the stage of this number.
    pub(crate) fn origin_before(&self, name: &str, number: usize, later: &[String]) -> Result<Origin> {
        let too_early = || {
            Fault::from(Error::malformed(format!(
                "cannot copy from stage {name:?}: it must be defined before this one"
            )))
        };
        let earlier = &self.stages[..number.min(self.stages.len())];
        if let Ok(index) = name.parse::<usize>() {
            return if index < earlier.len() { Ok(Origin::Stage(index)) } else { Err(too_early()) };
        }
        let found = earlier.iter().rposition(|s| s.name.as_deref().is_some_and(|have| have.eq_ignore_ascii_case(name)));
        match found {
            Some(index) => Ok(Origin::Stage(index)),
            None if later.iter().any(|have| have.eq_ignore_ascii_case(name)) => Err(too_early()),
            None => Ok(Origin::Image(name.to_owned())),
        }
    }

    /// The stages that the target needs, itself among them, in the order of the file.
    pub(crate) fn needed(&self) -> BTreeSet<usize> {
        let mut needed = BTreeSet::new();
        let mut pending = vec![self.target];
        while let Some(number) = pending.pop() {
            if needed.insert(number) {
                pending.extend(&self.stages[number].needs);
            }
        }
        needed
    }

    /// The target and the stages that it stands on.
    pub(crate) fn lineage(&self) -> Vec<usize> {
        let mut line = vec![self.target];
        while let Some(Base::Stage(below)) = line.last().map(|number| &self.stages[*number].base) {
            line.push(*below);
        }
        line
    }

    /// What people call a stage.
    pub(crate) fn title(&self, number: usize) -> String {
        match &self.stages[number].name {
            Some(name) => name.clone(),
            None if self.stages.len() == 1 => String::new(),
            None => format!("stage-{number}"),
        }
    }
}

impl Dockerfile {
    /// Names of the stages from `number` on.
    fn stages_after(&self, number: usize) -> Vec<String> {
        self.stages.iter().skip(number).filter_map(|stage| stage.from.name.clone()).collect()
    }
}

/// `linux/arm64`, or only `arm64` or `linux`.
pub(crate) fn platform_of(text: &str, default: &Platform) -> crate::error::Result<Platform> {
    match text {
        "linux" | "windows" | "freebsd" | "darwin" => {
            Ok(Platform::of(text, &default.architecture, default.variant.as_deref()))
        }
        text if !text.contains('/') => format!("{}/{text}", default.os).parse(),
        text => text.parse(),
    }
}

/// Where an instruction takes files from, each with its place.
pub(crate) fn origins(command: &Instruction, find: impl Fn(&str) -> Result<Origin>) -> Result<Vec<(Origin, Span)>> {
    let mut all = Vec::new();
    match &command.kind {
        Kind::Copy(copy) => {
            if let Some(word) = &copy.from {
                let at = command.at(word);
                if word.text.contains('$') {
                    let text = "--from takes no variables: give the image a name by FROM ... AS NAME";
                    return Err(Fault::at(at, text));
                }
                all.push((find(&word.text).locate(at)?, at));
            }
        }
        Kind::Run(run) => {
            for word in &run.mounts {
                let at = command.at(word);
                // Variables do not matter here: `from` takes none.
                let mount = Mount::parse(&word.text, &|value| Ok(value.replace('$', "")));
                let Ok(mount) = mount else { continue };
                if let (Some(from), MountKind::Bind | MountKind::Cache) = (&mount.from, mount.kind) {
                    all.push((find(from).locate(at)?, at));
                }
            }
        }
        _ => {}
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::super::parse::parse;
    use super::*;

    fn plan(text: &str, target: Option<&str>) -> Result<Plan> {
        let host = Platform::of("linux", "amd64", None);
        let args = BuildArgs::new();
        let contexts = ["other".to_owned()];
        let wanted = Wanted { target, args: &args, build: &host, platform: &host, contexts: &contexts };
        Plan::of(&parse(text)?, &wanted)
    }

    #[test]
    fn only_what_the_target_needs() {
        let text = "ARG V=1\nFROM a:$V AS one\nFROM scratch AS two\nCOPY --from=one /x /y\nFROM one AS three\nRUN x\nFROM two\nRUN --mount=from=0,target=/m ls\nCOPY --from=img /a /b\n";
        let whole = plan(text, None).unwrap();
        assert_eq!(whole.stages[0].base, Base::Image("a:1".to_owned()));
        assert_eq!(whole.needed(), BTreeSet::from([0, 1, 3]));
        assert_eq!(plan(text, Some("Three")).unwrap().needed(), BTreeSet::from([0, 2]));
        assert_eq!(plan(text, Some("1")).unwrap().target, 1);
        assert_eq!((whole.title(0), whole.title(3)), ("one".to_owned(), "stage-3".to_owned()));
    }

    #[test]
    fn what_cannot_be_is_said_with_its_place() {
        for (text, target, why, column) in [
            ("FROM a AS one\nCOPY --from=two / /\nFROM b AS two\n", None, "defined before", 6),
            ("FROM a\nCOPY --from=0 / /\n", None, "defined before", 6),
            ("FROM a\nCOPY --from=$X / /\n", None, "no variables", 6),
            ("FROM $NONE\n", None, "should not be blank", 6),
            ("FROM --platform=$NONE a\n", None, "is empty", 6),
            ("FROM --platform=a/b/c/d a\n", None, "want OS/ARCHITECTURE", 6),
            ("FROM a AS build\n", Some("biuld"), "did you mean build", 0),
        ] {
            let fault = plan(text, target).expect_err(text);
            let error = fault.error.to_string();
            assert!(error.contains(why), "{text}: {error}");
            assert_eq!(fault.span.map_or(0, |span| span.at.column), column, "{text}");
        }
    }

    #[test]
    fn a_context_stands_in_for_a_stage() {
        let plan = plan("FROM a AS other\nRUN x\nFROM other\n", None).unwrap();
        assert!(plan.stages[0].replaced && plan.stages[0].commands.is_empty());
        assert_eq!(plan.stages[1].base, Base::Stage(0));
    }
}
