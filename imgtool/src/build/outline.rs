//! What a Dockerfile offers, without building it: its stages (`--call=targets`), and what one of them can be given
//! (`--call=outline`). Pure. The objects are those of BuildKit's requests of these names.

use serde_json::{Value, json};

use super::env::Env;
use super::expand::Expander;
use super::lint::Known;
use super::parse::{Dockerfile, Instruction, Kind, Logical, Mount, MountKind, Run};
use super::plan::{Base, Plan};
use super::source::Span;
use super::state::DEFAULT_PATH;
use crate::platform::Platform;

/// Something that a build can be given.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Item {
    name: String,
    value: String,
    description: String,
    required: bool,
    span: Span,
}

/// What one stage can be given, with what the stages that it needs can.
#[derive(Debug, Default)]
pub(crate) struct Outline {
    name: String,
    description: String,
    args: Vec<Item>,
    secrets: Vec<Item>,
    agents: Vec<Item>,
    caches: Vec<Item>,
}

/// The rest of the comment above an instruction that begins with the name of what is described.
fn description(line: &Logical, name: &str) -> String {
    let of = |comment: &String| comment.strip_prefix(name)?.strip_prefix(' ').map(|text| text.trim().to_owned());
    if name.is_empty() { String::new() } else { line.comments.iter().find_map(of).unwrap_or_default() }
}

pub(crate) fn location(span: Span) -> Value {
    json!({"ranges": [{"start": {"line": span.at.line}, "end": {"line": span.last.max(span.at.line)}}]})
}

/// All stages, as rows of a table and as an object.
pub(crate) fn targets(file: &Dockerfile) -> (Vec<Vec<String>>, Value) {
    let mut rows = vec![vec!["TARGET".to_owned(), "DESCRIPTION".to_owned()]];
    let mut all = Vec::new();
    for (number, stage) in file.stages.iter().enumerate() {
        let name = stage.from.name.clone().unwrap_or_default();
        let about = description(&stage.instruction.line, &name);
        let is_default = number + 1 == file.stages.len();
        let mut target = json!({"base": stage.from.image.text, "location": location(stage.instruction.span())});
        let platform = stage.from.platform.as_ref().map(|word| word.text.clone()).unwrap_or_default();
        for (key, text) in [("name", &name), ("description", &about), ("platform", &platform)] {
            if !text.is_empty() {
                target[key] = json!(text);
            }
        }
        if is_default {
            target["default"] = json!(true);
        }
        all.push(target);
        let shown = match (name.is_empty(), is_default) {
            (true, true) => "(default)".to_owned(),
            (false, true) => format!("{name} (default)"),
            (_, false) => name,
        };
        rows.push(vec![shown, about]);
    }
    (rows, json!({"targets": all}))
}

/// What is needed to know what the target can be given.
pub(crate) struct Subject<'a> {
    pub(crate) file: &'a Dockerfile,
    pub(crate) plan: &'a Plan,
    pub(crate) args: &'a super::args::BuildArgs,
    /// The config of an image, if the store has it.
    pub(crate) known: &'a dyn Fn(&str, Option<&Platform>) -> Option<Known>,
}

impl Outline {
    pub(crate) fn of(subject: &Subject<'_>) -> Self {
        let Subject { file, plan, .. } = subject;
        let stage = &file.stages[plan.target];
        let name = stage.from.name.clone().unwrap_or_default();
        let mut outline = Self { description: description(&stage.instruction.line, &name), name, ..Self::default() };
        let needed = plan.needed();
        let mut after: Vec<Env> = Vec::new();
        for number in 0..file.stages.len() {
            let env = if needed.contains(&number) { outline.stage(subject, number, &after) } else { Env::default() };
            after.push(env);
        }
        for list in [&mut outline.args, &mut outline.secrets, &mut outline.agents, &mut outline.caches] {
            list.sort_by_key(|item| item.span.at.line);
        }
        outline
    }

    /// Walks through a stage; gives the variables at its end.
    fn stage(&mut self, subject: &Subject<'_>, number: usize, after: &[Env]) -> Env {
        let Subject { file, plan, .. } = subject;
        let planned = &plan.stages[number];
        let from = &file.stages[number].from;
        let words = std::iter::once(&from.image.text).chain(from.platform.as_ref().map(|word| &word.text));
        for text in words {
            self.global(subject, text);
        }
        let mut env = match &planned.base {
            Base::Scratch => Env::default(),
            Base::Stage(base) => after.get(*base).cloned().unwrap_or_default(),
            Base::Image(name) => (subject.known)(name, planned.platform.as_ref()).unwrap_or_default().env,
        };
        if env.get("PATH").is_none() {
            env.set("PATH", DEFAULT_PATH);
        }
        let expander = Expander::new(file.escape);
        for command in &planned.commands {
            match &command.kind {
                Kind::Arg(list) => {
                    for arg in list {
                        let default = arg.default.as_ref().and_then(|text| expander.word(text, &env).ok());
                        let value = match (subject.args.get(&arg.key), default) {
                            (Some(value), _) => Some(value.clone()),
                            (None, Some(value)) => Some(value),
                            (None, None) => {
                                let value = plan.globals.get(&arg.key).map(str::to_owned);
                                if let Some(value) = &value {
                                    // It is told where it has its value from; of the platform nobody need tell.
                                    env.set(&arg.key, value);
                                    self.global_arg(subject, &arg.key);
                                    continue;
                                }
                                value
                            }
                        };
                        if let Some(value) = &value {
                            env.set(&arg.key, value);
                        }
                        self.arg(&arg.key, value.unwrap_or_default(), command);
                    }
                }
                Kind::Env(pairs) => {
                    let values: Vec<_> = pairs
                        .iter()
                        .filter_map(|pair| Some((&pair.key, expander.word(&pair.value, &env).ok()?)))
                        .collect();
                    for (key, value) in values {
                        env.set(key, &value);
                    }
                }
                Kind::Run(run) => self.run(expander, command, run, &env),
                _ => {}
            }
        }
        env
    }

    /// The arguments above the first FROM that a text refers to.
    fn global(&mut self, subject: &Subject<'_>, text: &str) {
        let used = Expander::new(subject.file.escape).expand(text, &subject.plan.globals);
        for name in used.map(|expanded| expanded.used).unwrap_or_default() {
            self.global_arg(subject, &name);
        }
    }

    fn global_arg(&mut self, subject: &Subject<'_>, name: &str) {
        let Some((arg, command)) = subject.file.args.iter().rev().find(|(arg, _)| arg.key == name) else { return };
        let value = subject.plan.globals.get(name).unwrap_or_default().to_owned();
        if !self.arg(name, value, command) {
            return;
        }
        // Its default may be made of others; what is given instead is not.
        if let (Some(default), None) = (&arg.default, subject.args.get(name)) {
            self.global(subject, &default.clone());
        }
    }

    /// Notes an argument; says whether it is new.
    fn arg(&mut self, name: &str, value: String, command: &Instruction) -> bool {
        let span = command.span();
        if self.args.iter().any(|have| have.name == name && have.span == span) {
            return false;
        }
        let description = description(&command.line, name);
        // Of several with one name the last counts: the stages come in the order of their needs.
        self.args.retain(|have| have.name != name);
        self.args.push(Item { name: name.to_owned(), value, description, required: false, span });
        true
    }

    fn run(&mut self, expander: Expander, command: &Instruction, run: &Run, env: &Env) {
        for word in &run.mounts {
            let Ok(mount) = Mount::parse(&word.text, &|text| expander.word(text, env)) else { continue };
            let (list, name) = match mount.kind {
                MountKind::Secret => (&mut self.secrets, mount.secret_id()),
                MountKind::Ssh => (&mut self.agents, Some(mount.id.clone().unwrap_or_else(|| "default".to_owned()))),
                MountKind::Cache => (&mut self.caches, mount.id.clone().or(mount.target.clone())),
                MountKind::Bind | MountKind::Tmpfs => continue,
            };
            let Some(name) = name else { continue };
            match list.iter_mut().find(|have| have.name == name) {
                Some(have) => have.required |= mount.required,
                None => list.push(Item {
                    name,
                    value: String::new(),
                    description: String::new(),
                    required: mount.required,
                    span: command.span(),
                }),
            }
        }
    }

    /// The tables that people see, and how far their columns are apart.
    pub(crate) fn tables(&self) -> Vec<(usize, Vec<Vec<String>>)> {
        let mut tables = Vec::new();
        if !self.name.is_empty() || !self.description.is_empty() {
            let mut head = vec![vec!["TARGET:".to_owned(), self.name.clone()]];
            if !self.description.is_empty() {
                head.push(vec!["DESCRIPTION:".to_owned(), self.description.clone()]);
            }
            tables.push((1, head));
        }
        let required = |item: &Item| if item.required { "true".to_owned() } else { String::new() };
        let args = self.args.iter().map(|a| vec![a.name.clone(), a.value.clone(), a.description.clone()]).collect();
        let secrets = self.secrets.iter().map(|item| vec![item.name.clone(), required(item)]).collect();
        let agents = self.agents.iter().map(|item| vec![item.name.clone(), required(item)]).collect();
        let caches = self.caches.iter().map(|item| vec![item.name.clone()]).collect();
        let parts: [(&[&str], Vec<Vec<String>>); 4] = [
            (&["BUILD ARG", "VALUE", "DESCRIPTION"], args),
            (&["SECRET", "REQUIRED"], secrets),
            (&["SSH", "REQUIRED"], agents),
            (&["CACHE"], caches),
        ];
        for (head, mut rows) in parts {
            if !rows.is_empty() {
                rows.insert(0, head.iter().map(|word| (*word).to_owned()).collect());
                tables.push((3, rows));
            }
        }
        tables
    }

    /// The object that programs get.
    pub(crate) fn json(&self) -> Value {
        let of = |item: &Item, id: &str| {
            let mut value = json!({id: item.name, "location": location(item.span)});
            for (key, text) in [("value", &item.value), ("description", &item.description)] {
                if !text.is_empty() {
                    value[key] = json!(text);
                }
            }
            if item.required {
                value["required"] = json!(true);
            }
            value
        };
        let mut all = json!({});
        for (key, text) in [("name", &self.name), ("description", &self.description)] {
            if !text.is_empty() {
                all[key] = json!(text);
            }
        }
        for (key, id, list) in [
            ("args", "name", &self.args),
            ("secrets", "name", &self.secrets),
            ("ssh", "name", &self.agents),
            ("cache", "ID", &self.caches),
        ] {
            if !list.is_empty() {
                all[key] = list.iter().map(|item| of(item, id)).collect();
            }
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::super::args::BuildArgs;
    use super::super::parse::parse;
    use super::super::plan::Wanted;
    use super::*;

    fn outline(text: &str, target: Option<&str>, args: &[(&str, &str)]) -> Outline {
        let file = parse(text).unwrap();
        let args: BuildArgs = args.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        let host = Platform::of("linux", "amd64", None);
        let wanted = Wanted { target, args: &args, build: &host, platform: &host, contexts: &[] };
        let plan = Plan::of(&file, &wanted).unwrap();
        Outline::of(&Subject { file: &file, plan: &plan, args: &args, known: &|_, _| None })
    }

    fn args(outline: &Outline) -> Vec<(&str, &str, &str)> {
        outline.args.iter().map(|a| (a.name.as_str(), a.value.as_str(), a.description.as_str())).collect()
    }

    const FILE: &str = "\
# kind is of no use to anybody
ARG kind=slim
# release says which one
ARG release=9-${kind}
ARG unused=1

FROM os:${release} AS tools
# this one describes nothing
ARG JOBS=4
# LEVEL is how hard it tries
# and goes on
ARG LEVEL=${JOBS}2
ARG kind
ARG TARGETARCH
RUN --mount=type=secret,id=key-$JOBS --mount=type=cache,target=/var/$LEVEL make

FROM other AS aside
ARG ASIDE=1
RUN --mount=type=secret,id=aside true

FROM scratch AS base
ARG TOKEN_NAME
ENV DIR=/opt
ARG PLACE=${DIR}/x

# app is what people run
FROM base AS app
COPY --from=tools /out /
RUN --mount=type=ssh --mount=type=secret,id=key-4,required=true --mount=type=secret,target=/run/word x
";

    #[test]
    fn a_target_tells_what_it_and_the_stages_it_needs_can_be_given() {
        let all = outline(FILE, None, &[("LEVEL", "9")]);
        assert_eq!((all.name.as_str(), all.description.as_str()), ("app", "is what people run"));
        assert_eq!(
            args(&all),
            [
                ("kind", "slim", "is of no use to anybody"),
                ("release", "9-slim", "says which one"),
                ("JOBS", "4", ""),
                ("LEVEL", "9", "is how hard it tries"),
                ("TOKEN_NAME", "", ""),
                ("PLACE", "/opt/x", ""),
            ]
        );
        let names = |list: &[Item]| list.iter().map(|i| (i.name.clone(), i.required)).collect::<Vec<_>>();
        assert_eq!(names(&all.secrets), [("key-4".to_owned(), true), ("word".to_owned(), false)]);
        assert_eq!(names(&all.agents), [("default".to_owned(), false)]);
        assert_eq!(names(&all.caches), [("/var/9".to_owned(), false)]);
        // What is given instead of a default does not need what the default is made of.
        let aside = outline(FILE, Some("aside"), &[]);
        assert_eq!(
            (args(&aside), names(&aside.secrets)),
            (vec![("ASIDE", "1", "")], vec![("aside".to_owned(), false)])
        );
        let tools = outline(FILE, Some("tools"), &[("release", "8")]);
        assert_eq!(
            args(&tools)[..2],
            [("kind", "slim", "is of no use to anybody"), ("release", "8", "says which one")]
        );
    }

    #[test]
    fn objects_have_what_there_is_and_where() {
        let all = outline(FILE, None, &[]).json();
        assert_eq!(all["args"][1]["location"]["ranges"][0]["start"]["line"], 4);
        assert_eq!(all["secrets"][0]["required"], true);
        assert_eq!(all["cache"][0]["ID"], "/var/42");
        assert_eq!(outline("FROM scratch\n", None, &[]).json(), json!({}));
        assert!(outline("FROM scratch\n", None, &[]).tables().is_empty());
    }

    #[test]
    fn targets_have_their_base_and_one_is_the_default() {
        let (rows, all) =
            targets(&parse("FROM --platform=$BUILDPLATFORM a AS One\n# two is it\nFROM one AS two\n").unwrap());
        assert_eq!(rows[1..], [["one".to_owned(), String::new()], ["two (default)".to_owned(), "is it".to_owned()]]);
        assert_eq!(all["targets"][0]["platform"], "$BUILDPLATFORM");
        assert_eq!((&all["targets"][1]["base"], &all["targets"][1]["default"]), (&json!("one"), &json!(true)));
        assert_eq!(targets(&parse("FROM a\nFROM b\n").unwrap()).0[1..], [["", ""], ["(default)", ""]]);
    }
}
