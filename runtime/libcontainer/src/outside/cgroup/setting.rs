//! Limits as data: a list of files and values, and the one interpreter that writes it.

use super::file;
use crate::error::{At, Error, Result};
use rustix::io::Errno;
use std::{borrow::Cow, os::fd::BorrowedFd};

/// One value for one control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The controller that has the file.
    pub controller: Cow<'static, str>,
    /// The control file.
    pub file: Cow<'static, str>,
    /// What is written to it, in one call.
    pub value: String,
    /// The configuration's field, for errors.
    pub field: Cow<'static, str>,
    /// What to make of a refusal.
    pub otherwise: Otherwise,
}

/// What to make of a refusal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Otherwise {
    /// It is an error.
    Fail,
    /// A kernel without the file does what the value says anyhow.
    Absent,
    /// The kernel checks the value against another that is still to be written: try again after the controller's others.
    Later,
    /// Another scheduler has the file under another name, and with other units.
    Else(Cow<'static, str>, String),
    /// The user's own text: each line is a write, after everything else.
    Lines,
}

impl Setting {
    #[allow(clippy::needless_pass_by_value)] // tables of these read better without a reference on each value
    pub(super) fn new(
        controller: &'static str,
        file: impl Into<Cow<'static, str>>,
        value: impl ToString,
        field: impl Into<Cow<'static, str>>,
    ) -> Self {
        Self {
            controller: controller.into(),
            file: file.into(),
            value: value.to_string(),
            field: field.into(),
            otherwise: Otherwise::Fail,
        }
    }

    pub(super) fn or(self, otherwise: Otherwise) -> Self {
        Self { otherwise, ..self }
    }
}

/// Writes the settings in their order. `dir_of` finds the directory of a controller.
pub(super) fn apply<'fd>(settings: &[Setting], dir_of: impl Fn(&str) -> Option<BorrowedFd<'fd>>) -> Result<()> {
    let mut later: Vec<(&Setting, BorrowedFd<'fd>)> = Vec::new();
    for setting in settings {
        let theirs = |(waiting, _): &(&Setting, _)| {
            waiting.controller != setting.controller || setting.otherwise == Otherwise::Lines
        };
        if later.first().is_some_and(theirs) {
            flush(&mut later)?;
        }
        let Some(dir) = dir_of(&setting.controller) else {
            if setting.otherwise == Otherwise::Absent {
                continue;
            }
            return Err(no_hierarchy(setting));
        };
        match (write(dir, setting), &setting.otherwise) {
            (Err(Errno::INVAL), Otherwise::Later) => later.push((setting, dir)),
            (Err(Errno::NOENT), Otherwise::Absent) => {}
            (Err(Errno::NOENT), Otherwise::Else(file, value)) => {
                let other = Setting { file: file.clone(), value: value.clone(), ..setting.clone() };
                write(dir, &other).map_err(|errno| refusal(dir, &other, errno))?;
            }
            (result, _) => result.map_err(|errno| refusal(dir, setting, errno))?,
        }
    }
    flush(&mut later)
}

/// Settings that bring back what the files of `settings` hold now.
pub(super) fn read_back<'fd>(settings: &[Setting], dir_of: impl Fn(&str) -> Option<BorrowedFd<'fd>>) -> Vec<Setting> {
    let one_value = |text: &String| text.lines().count() == 1;
    let now = |setting: &Setting| {
        let dir = dir_of(&setting.controller)?;
        let file = match &setting.otherwise {
            Otherwise::Else(other, _) if file::read_short(dir, &*setting.file).is_err() => other,
            _ => &setting.file,
        };
        let value = file::read_short(dir, &**file).ok().filter(one_value)?;
        // `8:0 …`: a line of many, which may be new.
        let keyed = setting.value.split_whitespace().next().is_some_and(|word| word.contains(':'));
        let setting = Setting { file: file.clone(), value, otherwise: Otherwise::Fail, ..setting.clone() };
        (!keyed).then_some(setting)
    };
    settings.iter().filter_map(now).collect()
}

fn flush(later: &mut Vec<(&Setting, BorrowedFd<'_>)>) -> Result<()> {
    later.drain(..).try_for_each(|(setting, dir)| write(dir, setting).map_err(|errno| refusal(dir, setting, errno)))
}

fn write(dir: BorrowedFd<'_>, setting: &Setting) -> rustix::io::Result<()> {
    if setting.otherwise == Otherwise::Lines {
        return file::write_lines(dir, &setting.file, setting.value.lines());
    }
    file::write(dir, &setting.file, &setting.value)
}

fn no_hierarchy(setting: &Setting) -> Error {
    Error::other(format!(
        "the {0} controller is not available: cannot set {0} limit: container could not join or create cgroup; remove the \
         limit, or have the administrator provide the {0} hierarchy",
        setting.controller
    ))
    .at(setting.field.clone())
}

/// Says why a write was refused, as far as the cgroup itself can tell.
fn refusal(dir: BorrowedFd<'_>, setting: &Setting, errno: Errno) -> Error {
    let Setting { controller, file, value, field, .. } = setting;
    let value = value.trim_end();
    let error = match errno {
        Errno::NOENT | Errno::ACCESS | Errno::PERM if lacks(dir, controller) => {
            let what = if setting.otherwise == Otherwise::Lines {
                format!("unified resource {file:?} can't be set: controller {controller:?} not available")
            } else {
                format!("the {controller} controller is not available to the container's cgroup")
            };
            Error::other(format!(
                "{what}; remove the limit, or enable +{controller} in cgroup.subtree_control above it"
            ))
        }
        Errno::NOENT => Error::other(format!("this kernel has no {file}")),
        Errno::BUSY if file == "memory.limit_in_bytes" => {
            let read = |file| file::read_short(dir, file).map_or_else(|_| "unknown".into(), |it| it.trim().to_owned());
            Error::other(format!(
                "unable to set memory limit to {value} (current usage: {}, peak usage: {})",
                read("memory.usage_in_bytes"),
                read("memory.max_usage_in_bytes"),
            ))
        }
        errno => Error::from(errno).at(format!("write {file} {value:?}")),
    };
    error.at(field.clone())
}

/// Whether this is a v2 cgroup without that controller.
fn lacks(dir: BorrowedFd<'_>, controller: &str) -> bool {
    file::read_short(dir, "cgroup.controllers")
        .is_ok_and(|it| controller != "cgroup" && !it.split_whitespace().any(|have| have == controller))
}

/// Refuses a limit below what the cgroup uses, where the configuration asks for that check.
pub(super) fn check_usage(dir: BorrowedFd<'_>, memory: &crate::spec::Memory) -> Result<()> {
    if memory.check_before_update != Some(true) {
        return Ok(());
    }
    // A cgroup that has no such file has no limit to overstep either.
    let Ok(text) = file::read_short(dir, "memory.current") else { return Ok(()) };
    let usage: i64 =
        text.trim().parse().map_err(|_| Error::other(format!("{text:?} is no number"))).at("memory.current")?;
    for (name, limit) in [("memory+swap", memory.swap), ("memory", memory.limit)] {
        if let Some(limit) = limit.filter(|&limit| limit > 0 && limit <= usage) {
            return Err(Error::other(format!("rejecting {name} limit {limit} <= usage {usage}")));
        }
    }
    Ok(())
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::spec::Resources;
    use std::{fs, os::fd::AsFd};

    /// A directory of ordinary files stands for a cgroup.
    fn try_in(files: &[(&str, &str)], settings: &[Setting]) -> (Result<()>, Vec<String>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let fd = file::open_dir(dir.path()).unwrap();
        let result = apply(settings, |controller| (controller != "absent").then(|| fd.as_fd()));
        let after = files.iter().map(|(name, _)| fs::read_to_string(dir.path().join(name)).unwrap()).collect();
        (result, after)
    }

    /// Compares the settings of resources in JSON with `file=value` and what follows a refusal.
    pub(in super::super) fn table(settings: fn(&Resources) -> Result<Vec<Setting>>, rows: &[(&str, &str)]) {
        for (json, expected) in rows {
            let settings = crate::spec::parse(json.as_bytes()).and_then(|it| settings(&it)).unwrap();
            let texts: Vec<String> = settings
                .iter()
                .map(|it| {
                    let otherwise = match &it.otherwise {
                        Otherwise::Fail => String::new(),
                        Otherwise::Absent => " (absent)".into(),
                        Otherwise::Later => " (later)".into(),
                        Otherwise::Else(file, value) => format!(" (else {file}={value})"),
                        Otherwise::Lines => " (lines)".into(),
                    };
                    assert!(it.field.starts_with("linux.resources."), "{it:?}");
                    assert!(it.file.starts_with(&*it.controller), "{it:?}");
                    format!("{}={}{otherwise}", it.file, it.value)
                })
                .collect();
            assert_eq!(texts.join(" "), *expected, "{json}");
        }
    }

    #[test]
    fn a_missing_file_is_what_the_setting_says() {
        let fail = Setting::new("a", "a.max", 1, "field");
        let (result, _) = try_in(&[("cgroup.controllers", "b c\n")], std::slice::from_ref(&fail));
        assert!(result.unwrap_err().to_string().starts_with("field: the a controller is not available"));
        let (result, _) = try_in(&[("cgroup.controllers", "a\n")], std::slice::from_ref(&fail));
        assert_eq!(result.unwrap_err().to_string(), "field: this kernel has no a.max");

        let absent = fail.clone().or(Otherwise::Absent);
        assert!(try_in(&[], &[absent]).0.is_ok());

        let other = fail.or(Otherwise::Else("b".into(), "22".into()));
        let (result, after) = try_in(&[("b", "")], std::slice::from_ref(&other));
        assert!(result.is_ok());
        assert_eq!(after, ["22"]);
        let (result, after) = try_in(&[("a.max", ""), ("b", "")], &[other]);
        assert!(result.is_ok());
        assert_eq!(after, ["1", ""]);
    }

    #[test]
    fn old_values_can_be_brought_back() {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in
            [("a.max", "7\n"), ("b.max", "x 1\ny 2\n"), ("io.bfq.weight", "5\n"), ("io.max", "8:0 rbps=1\n")]
        {
            fs::write(dir.path().join(name), text).unwrap();
        }
        let fd = file::open_dir(dir.path()).unwrap();
        let settings = [
            Setting::new("a", "a.max", 1, "f"),
            Setting::new("b", "b.max", 1, "f"),
            Setting::new("io", "io.weight", 1, "f").or(Otherwise::Else("io.bfq.weight".into(), "2".into())),
            Setting::new("io", "io.max", "8:0 rbps=2", "f"),
            Setting::new("absent", "absent.max", 1, "f"),
        ];
        let back = read_back(&settings, |controller| (controller != "absent").then(|| fd.as_fd()));
        let back: Vec<_> = back.iter().map(|it| (&*it.file, &*it.value)).collect();
        assert_eq!(back, [("a.max", "7\n"), ("io.bfq.weight", "5\n")]);
    }

    #[test]
    fn a_missing_hierarchy_names_field_and_controller() {
        let setting = Setting::new("absent", "x", 1, "linux.resources.pids.limit");
        let text = try_in(&[], &[setting]).0.unwrap_err().to_string();
        assert!(text.starts_with("linux.resources.pids.limit: the absent controller is not available"), "{text}");
    }

    #[test]
    fn a_users_text_without_its_controller_says_so() {
        let setting =
            Setting::new("io", "io.max", "8:0 rbps=1\n8:1 rbps=2\n", "linux.resources.unified").or(Otherwise::Lines);
        let text = try_in(&[("cgroup.controllers", "cpu\n")], &[setting]).0.unwrap_err().to_string();
        assert!(text.contains(r#"unified resource "io.max" can't be set: controller "io" not available"#), "{text}");
    }
}
