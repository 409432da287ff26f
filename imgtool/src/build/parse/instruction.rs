//! Instructions with their arguments checked, as far as that goes without the variables' values.

use std::sync::Arc;

use serde_json::{Value, json};

use super::super::source::{Fault, Locate as _, Result, Span, did_you_mean};
use super::flags::Flags;
use super::mount::{Mount, csv};
use super::stage::{From, from};
use super::words::heredoc;
use super::{Heredoc, KEYWORDS, Logical, Pair, Statement, Word};
use crate::error::Error;
use crate::time::go_duration;

/// A line that several instructions may stand on (ONBUILD), shared.
pub(crate) type Line = Arc<Logical>;

/// One instruction.
#[derive(Clone, Debug)]
pub(crate) struct Instruction {
    /// As it was written.
    pub(crate) keyword: String,
    pub(crate) kind: Kind,
    pub(crate) line: Line,
    /// Comes from the base image's ONBUILD: its text is not in the Dockerfile.
    pub(crate) trigger: bool,
}

impl Instruction {
    pub(crate) fn span(&self) -> Span {
        self.line.span(0)
    }

    /// The instruction's span, pointing at a word of it.
    pub(crate) fn at(&self, word: &Word) -> Span {
        self.line.span(word.at)
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// COPY and ADD.
    Copy(Box<Copy>),
    Arg(Vec<Arg>),
    Cmd(Command),
    Entrypoint(Command),
    Env(Vec<Pair>),
    Expose(Vec<Word>),
    From(From),
    Healthcheck(Health),
    Label(Vec<Pair>),
    Maintainer(Word),
    /// The instruction that images built on this one begin with.
    Onbuild(String),
    Run(Box<Run>),
    Shell(Vec<String>),
    Stopsignal(Word),
    User(Word),
    Volume(Vec<Word>),
    Workdir(Word),
}

/// `ARG NAME[=DEFAULT]`.
#[derive(Clone, Debug)]
pub(crate) struct Arg {
    pub(crate) key: String,
    pub(crate) default: Option<String>,
}

/// The command of RUN, CMD, ENTRYPOINT.
#[derive(Clone, Debug, Default)]
pub(crate) struct Command {
    pub(crate) words: Vec<String>,
    /// The exec form: no shell.
    pub(crate) exec: bool,
    pub(crate) heredocs: Vec<Heredoc>,
}

/// The object that Docker keeps in the image's config.
#[derive(Clone, Debug)]
pub(crate) struct Health {
    pub(crate) check: Value,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum StepNetwork {
    #[default]
    Default,
    None,
    Host,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Security {
    #[default]
    Sandbox,
    Insecure,
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Run {
    pub(crate) command: Command,
    /// Values of `--mount`, whose variables are not put in yet.
    pub(crate) mounts: Vec<Word>,
    pub(crate) network: StepNetwork,
    pub(crate) security: Security,
    pub(crate) devices: Vec<(Word, Device)>,
}

/// `RUN --device=NAME[,required]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Device {
    pub(crate) name: String,
    pub(crate) required: bool,
}

impl Device {
    /// A name has a `=` of its own where it says which of a kind.
    fn parse(text: &str) -> crate::error::Result<Self> {
        let bad = |why: String| Error::malformed(format!("--device={text}: {why}: want NAME[,required]"));
        let (mut name, mut required) = (None, false);
        for field in csv(text)? {
            let (key, value) = field.split_once('=').map_or((field.as_str(), None), |(key, value)| (key, Some(value)));
            match (key.to_ascii_lowercase().as_str(), value) {
                ("required", None | Some("1" | "t" | "T" | "true" | "TRUE" | "True")) => required = true,
                ("required", Some("0" | "f" | "F" | "false" | "FALSE" | "False")) => required = false,
                ("required", Some(other)) => return Err(bad(format!("required={other}"))),
                ("name", Some(value)) if name.is_none() => name = Some(value.to_owned()),
                _ if name.is_none() => name = Some(field),
                ("name", _) => return Err(bad("two names".to_owned())),
                _ => return Err(bad(format!("unknown {field:?}"))),
            }
        }
        let name = name.filter(|name| !name.is_empty()).ok_or_else(|| bad("no name".to_owned()))?;
        Ok(Self { name, required })
    }
}

/// COPY or ADD.
#[derive(Clone, Debug, Default)]
pub(crate) struct Copy {
    pub(crate) add: bool,
    pub(crate) sources: Vec<Word>,
    /// Heredocs among the sources.
    pub(crate) inline: Vec<Heredoc>,
    pub(crate) target: Option<Word>,
    pub(crate) from: Option<Word>,
    pub(crate) chown: Option<Word>,
    pub(crate) chmod: Option<Word>,
    pub(crate) link: bool,
    pub(crate) parents: bool,
    pub(crate) excludes: Vec<Word>,
    pub(crate) checksum: Option<Word>,
    pub(crate) keep_git_dir: Option<bool>,
    pub(crate) unpack: Option<bool>,
}

/// Makes an instruction of a statement.
pub(crate) fn instruction(statement: &Statement) -> Result<Instruction> {
    let mut flags = Flags::of(statement);
    let upper = statement.keyword.to_ascii_uppercase();
    let none = || Fault::at(statement.span(), format!("{upper} requires at least one argument"));
    let one = || match statement.args.words.as_slice() {
        [word] => Ok(word.clone()),
        _ => Err(Fault::at(statement.span(), format!("{upper} requires exactly one argument"))),
    };
    let some = || if statement.args.words.is_empty() { Err(none()) } else { Ok(statement.args.words.clone()) };
    let pairs = || {
        if let Some(blank) = statement.args.pairs.iter().find(|pair| pair.key.is_empty()) {
            return Err(Fault::at(statement.line.span(blank.at), format!("{upper}: a name is missing before the =")));
        }
        if statement.args.pairs.is_empty() { Err(none()) } else { Ok(statement.args.pairs.clone()) }
    };
    let command = || Command {
        words: statement.args.words.iter().map(|word| word.text.clone()).collect(),
        exec: statement.args.json,
        heredocs: statement.heredocs.clone(),
    };
    let kind = match upper.as_str() {
        "ADD" | "COPY" => Kind::Copy(Box::new(copy(statement, &mut flags)?)),
        "ARG" => Kind::Arg(args(statement, &some()?)?),
        "CMD" => Kind::Cmd(command()),
        "ENTRYPOINT" => Kind::Entrypoint(command()),
        "ENV" => Kind::Env(pairs()?),
        "EXPOSE" => Kind::Expose(some()?),
        "FROM" => Kind::From(from(statement, &mut flags)?),
        "HEALTHCHECK" => Kind::Healthcheck(health(statement, &mut flags)?),
        "LABEL" => Kind::Label(pairs()?),
        "MAINTAINER" => Kind::Maintainer(one()?),
        "ONBUILD" => Kind::Onbuild(onbuild(statement)?),
        "RUN" => Kind::Run(Box::new(run(statement, &mut flags, command())?)),
        "SHELL" => {
            let words: Vec<String> = some()?.into_iter().map(|word| word.text).collect();
            if !statement.args.json {
                return Err(Fault::at(statement.span(), "SHELL takes the JSON form only: SHELL [\"program\", \"-c\"]"));
            }
            Kind::Shell(words)
        }
        "STOPSIGNAL" => Kind::Stopsignal(one()?),
        "USER" => Kind::User(one()?),
        "VOLUME" => {
            let mut volumes = some()?;
            for word in &mut volumes {
                word.text = word.text.trim().to_owned();
            }
            if let Some(empty) = volumes.iter().find(|word| word.text.is_empty()) {
                return Err(Fault::at(statement.line.span(empty.at), "VOLUME: an empty path"));
            }
            Kind::Volume(volumes)
        }
        "WORKDIR" => Kind::Workdir(one()?),
        _ => {
            let word = &statement.keyword;
            let hint = did_you_mean(word, KEYWORDS);
            return Err(Fault::at(statement.span(), format!("unknown instruction: {word}{hint}")));
        }
    };
    flags.finish()?;
    Ok(Instruction { keyword: statement.keyword.clone(), kind, line: Arc::new(statement.line.clone()), trigger: false })
}

fn args(statement: &Statement, words: &[Word]) -> Result<Vec<Arg>> {
    let of = |word: &Word| match word.text.split_once('=') {
        Some(("", _)) => Err(Fault::at(statement.line.span(word.at), "ARG: a name is missing before the =")),
        Some((key, value)) => Ok(Arg { key: key.to_owned(), default: Some(value.to_owned()) }),
        None => Ok(Arg { key: word.text.clone(), default: None }),
    };
    words.iter().map(of).collect()
}

fn copy(statement: &Statement, flags: &mut Flags<'_>) -> Result<Copy> {
    let add = statement.name() == "add";
    let upper = statement.keyword.to_ascii_uppercase();
    let mut copy = Copy {
        add,
        chown: flags.value("chown")?,
        chmod: flags.value("chmod")?,
        link: flags.switch("link")?.unwrap_or(false),
        excludes: flags.values("exclude")?,
        ..Copy::default()
    };
    if add {
        copy.keep_git_dir = flags.switch("keep-git-dir")?;
        copy.checksum = flags.value("checksum")?;
        copy.unpack = flags.switch("unpack")?;
    } else {
        copy.from = flags.value("from")?;
        copy.parents = flags.switch("parents")?.unwrap_or(false);
    }
    let [sources @ .., target] = statement.args.words.as_slice() else {
        return Err(Fault::at(
            statement.span(),
            format!("{upper} requires at least two arguments: {upper} SOURCE... TARGET"),
        ));
    };
    if sources.is_empty() {
        let text = format!("{upper} requires at least two arguments, a source and a target: there is only one");
        return Err(Fault::at(statement.line.span(target.at), text));
    }
    if heredoc(&target.text).is_some() {
        return Err(Fault::at(statement.line.span(target.at), format!("{upper}: a heredoc cannot be the target")));
    }
    copy.target = Some(target.clone());
    for source in sources {
        match heredoc(&source.text) {
            Some(named) if !statement.args.json => {
                let found = statement.heredocs.iter().find(|doc| doc.name == named.name);
                let doc = found.cloned().unwrap_or(named);
                if doc.file_name().is_none() {
                    let text = format!("{upper}: no file can have the name {:?} of this heredoc", doc.name);
                    return Err(Fault::at(statement.line.span(source.at), text));
                }
                copy.inline.push(doc);
            }
            _ => copy.sources.push(source.clone()),
        }
    }
    Ok(copy)
}

fn run(statement: &Statement, flags: &mut Flags<'_>, command: Command) -> Result<Run> {
    let mounts = flags.values("mount")?;
    for word in &mounts {
        let at = statement.line.span(word.at);
        // Values with variables are judged when these are known; the keys can be judged now.
        if !word.text.contains('$') {
            Mount::parse(&word.text, &|value| Ok(value.to_owned())).locate(at)?;
        }
    }
    let choice = |word: Option<Word>, name: &str, known: &[&str]| match word {
        None => Ok(None),
        Some(word) => {
            if let Some(found) = known.iter().position(|known| *known == word.text) {
                Ok(Some(found))
            } else {
                let hint = did_you_mean(&word.text, known.iter().copied());
                let text = format!("--{name}={}{hint}: want {}", word.text, known.join(", "));
                Err(Fault::at(statement.line.span(word.at), text))
            }
        }
    };
    let network = match choice(flags.value("network")?, "network", &["default", "none", "host"])? {
        Some(1) => StepNetwork::None,
        Some(2) => StepNetwork::Host,
        _ => StepNetwork::Default,
    };
    let security = match choice(flags.value("security")?, "security", &["sandbox", "insecure"])? {
        Some(1) => Security::Insecure,
        _ => Security::Sandbox,
    };
    if command.words.iter().all(|word| word.trim().is_empty()) {
        return Err(Fault::at(statement.span(), "RUN requires at least one argument: the command"));
    }
    let mut devices = Vec::new();
    for word in flags.values("device")? {
        let device = Device::parse(&word.text).locate(statement.line.span(word.at))?;
        devices.push((word, device));
    }
    Ok(Run { command, mounts, network, security, devices })
}

fn onbuild(statement: &Statement) -> Result<String> {
    let Some(inner) = &statement.inner else {
        return Err(Fault::at(statement.span(), "ONBUILD requires at least one argument: an instruction"));
    };
    let upper = inner.keyword.to_ascii_uppercase();
    let text = &statement.line.text;
    let start = text.len() - text.trim_start().len() + statement.keyword.len();
    let trigger = text[start..].trim();
    let at = statement.line.span(text.len() - text[start..].trim_start().len());
    match upper.as_str() {
        "ONBUILD" => return Err(Fault::at(at, "ONBUILD ONBUILD: a trigger cannot have a trigger")),
        "MAINTAINER" | "FROM" => return Err(Fault::at(at, format!("ONBUILD {upper}: this one cannot be a trigger"))),
        _ => {}
    }
    // What will be wrong in the images built on this one is wrong already.
    instruction(inner)?;
    let mut trigger = trigger.to_owned();
    for doc in &statement.heredocs {
        trigger.extend(["\n", &doc.content, &doc.name]);
    }
    Ok(trigger)
}

fn health(statement: &Statement, flags: &mut Flags<'_>) -> Result<Health> {
    let fault = |text: &str| Err(Fault::at(statement.span(), text));
    let mut times = Vec::new();
    for (flag, key) in [
        ("interval", "Interval"),
        ("timeout", "Timeout"),
        ("start-period", "StartPeriod"),
        ("start-interval", "StartInterval"),
    ] {
        if let Some(word) = flags.value(flag)? {
            let at = statement.line.span(word.at);
            let nanos = go_duration(&word.text)
                .ok_or_else(|| Fault::at(at, format!("--{flag}={}: want a time, as 30s or 1m30s", word.text)))?;
            if nanos != 0 && nanos < 1_000_000 {
                return Err(Fault::at(at, format!("--{flag}={}: less than a millisecond", word.text)));
            }
            times.push((key, nanos));
        }
    }
    let retries =
        match flags.value("retries")? {
            None => None,
            Some(word) => Some(word.text.parse::<u32>().map_err(|_| {
                Fault::at(statement.line.span(word.at), format!("--retries={}: want a number", word.text))
            })?),
        };
    let Some((kind, words)) = statement.args.words.split_first() else {
        return fault("HEALTHCHECK requires at least one argument: CMD and a command, or NONE");
    };
    let words: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    let test = match (kind.text.to_ascii_uppercase().as_str(), words.as_slice()) {
        ("NONE", []) => vec!["NONE"],
        ("NONE", _) => return fault("HEALTHCHECK NONE takes no arguments"),
        ("CMD", []) => return fault("HEALTHCHECK CMD: the command is missing"),
        ("CMD", words) if statement.args.json => [&["CMD"], words].concat(),
        ("CMD", words) => vec!["CMD-SHELL", words[0]],
        _ => {
            let hint = did_you_mean(&kind.text, ["CMD", "NONE"]);
            let text = format!("HEALTHCHECK {}{hint}: want CMD or NONE", kind.text);
            return Err(Fault::at(statement.line.span(kind.at), text));
        }
    };
    let mut check = json!({"Test": test});
    for (key, nanos) in times.into_iter().filter(|(_, nanos)| *nanos > 0) {
        check[key] = json!(nanos);
    }
    if let Some(retries) = retries.filter(|retries| *retries > 0) {
        check["Retries"] = json!(retries);
    }
    Ok(Health { check })
}
