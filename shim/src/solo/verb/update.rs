//! `shim update`: changes a container's limits and restart policy, now and for its next start.

use serde_json::{Map, Value, json};

use crate::cli::Update;
use crate::error::{Context, Error, Result};
use crate::solo::directory::{Directory, Layout, Status};
use crate::solo::policy::{RestartPolicy, bytes};
use crate::solo::record::{write_bytes, write_file};
use crate::solo::say;

/// The period in which processor time is counted, in microseconds.
const PERIOD: u64 = 100_000;

/// What is to be changed.
#[derive(Debug)]
pub(crate) struct Change {
    /// In the form of `linux.resources`.
    resources: Map<String, Value>,
    restart: Option<RestartPolicy>,
}

impl Change {
    /// Reads the flags.
    pub(crate) fn of(update: &Update) -> Result<Self> {
        let mut resources = Map::new();
        let mut put = |group: &str, field: &str, value: Value| {
            let group = resources.entry(group).or_insert_with(|| json!({}));
            if let Some(group) = group.as_object_mut() {
                group.insert(field.to_owned(), value);
            }
        };
        for (flag, field, text) in
            [("--memory", "limit", &update.memory), ("--memory-swap", "swap", &update.memory_swap)]
        {
            match text.as_deref() {
                None => {}
                Some("-1") => put("memory", field, json!(-1)),
                Some(text) => {
                    let number = bytes(text).ok_or_else(|| {
                        Error::invalid(format!("{flag} {text}: give a number of bytes, with k, m or g if you like"))
                    })?;
                    put("memory", field, json!(number));
                }
            }
        }
        if let Some(cpus) = update.cpus {
            if !(cpus.is_finite() && (0.01..=1e6).contains(&cpus)) {
                return Err(Error::invalid(format!("--cpus {cpus}: give a number from 0.01")));
            }
            put("cpu", "period", json!(PERIOD));
            #[expect(clippy::cast_precision_loss, reason = "the period is exact")]
            put("cpu", "quota", json!((cpus * PERIOD as f64).round() as i64));
        }
        if let Some(shares) = update.cpu_shares {
            put("cpu", "shares", json!(shares));
        }
        if let Some(cpus) = &update.cpuset_cpus {
            put("cpu", "cpus", json!(cpus));
        }
        if let Some(limit) = update.pids_limit {
            put("pids", "limit", json!(limit));
        }
        if resources.is_empty() && update.restart.is_none() {
            return Err(Error::invalid("nothing is to be changed: give a limit or --restart"));
        }
        Ok(Self { resources, restart: update.restart })
    }
}

/// Changes one container.
pub(crate) fn update(layout: &Layout, name: &str, change: &Change) -> Result<()> {
    let directory = layout.find(name)?;
    if !change.resources.is_empty() {
        if let Status::Running { .. } = directory.status()? {
            apply(&directory, &change.resources)?;
        }
        persist(&directory, &change.resources)?;
    }
    if let Some(restart) = change.restart {
        let mut options = directory.options()?;
        if options.remove && restart != RestartPolicy::No {
            return Err(Error::invalid(format!("container {name} was run with --rm: it cannot be run again")));
        }
        options.restart = restart;
        directory.record("options.json", &options)?;
    }
    say(name);
    Ok(())
}

/// Has the runtime change the limits of a running container.
fn apply(directory: &Directory, resources: &Map<String, Value>) -> Result<()> {
    let path = directory.path.join(format!(".resources-{}", std::process::id()));
    write_file(&path, resources)?;
    let runtime = directory.runtime(&directory.options()?);
    let updated = runtime.call("update").arg("--resources").arg(&path).arg(&directory.name).run();
    let _: std::io::Result<()> = std::fs::remove_file(&path);
    updated.map(drop)
}

/// Has the next run begin with the limits.
fn persist(directory: &Directory, resources: &Map<String, Value>) -> Result<()> {
    let path = directory.config_path();
    let mut config = directory.config()?;
    merge(&mut config["linux"]["resources"], &Value::Object(resources.clone()));
    let fresh = path.with_file_name(".config.json");
    write_bytes(&fresh, &serde_json::to_vec(&config)?)?;
    std::fs::rename(&fresh, &path).context(|| format!("change {}", path.display()))
}

/// Puts the fields of `change` over those of `base`, level by level.
fn merge(base: &mut Value, change: &Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Verb};
    use clap::Parser;

    fn change(flags: &[&str]) -> Result<Change> {
        let words = ["shim", "update"].iter().chain(flags).chain(&["web"]);
        let Verb::Update(update) = Cli::try_parse_from(words).unwrap().verb else { unreachable!() };
        Change::of(&update)
    }

    #[test]
    fn flags_become_resources() {
        let got = change(&["-m", "64m", "--cpus", "1.5", "--pids-limit", "-1"]).unwrap().resources;
        let expected = json!({"memory": {"limit": 67_108_864}, "cpu": {"period": 100_000, "quota": 150_000},
            "pids": {"limit": -1}});
        assert_eq!(Value::Object(got), expected);
        for flags in [&[][..], &["-m", "much"], &["--cpus", "0"], &["--cpus", "NaN"]] {
            assert!(change(flags).is_err(), "{flags:?}");
        }
    }

    #[test]
    fn what_is_not_changed_stays() {
        let mut base = json!({"memory": {"limit": 1, "swap": 2}, "cpu": null});
        merge(&mut base, &json!({"memory": {"limit": 3}, "cpu": {"quota": 4}, "pids": {"limit": 5}}));
        let expected = json!({"memory": {"limit": 3, "swap": 2}, "cpu": {"quota": 4}, "pids": {"limit": 5}});
        assert_eq!(base, expected);
    }
}
