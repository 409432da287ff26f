//! `ps`: the processes of a container, as ps(1) shows them.

use crate::cli::{Format, Global, Ps};
use libcontainer::{At, Error, Result, life, outside::cgroup::Cgroup};
use std::process::Command;

pub(crate) fn run(global: &Global, args: &Ps) -> Result<u8> {
    let slot = super::find(global, &args.id)?;
    let pids = life::load(&slot).and_then(|state| Cgroup::open(&state.cgroup)?.pids()).at_with(|| args.id.clone())?;
    if args.format == Format::Json {
        let json = serde_json::to_string(&pids).map_err(|error| Error::other(error.to_string()))?;
        super::print_line(&json)?;
        return Ok(0);
    }
    let options = if args.args.is_empty() { &["-ef".to_owned()] } else { args.args.as_slice() };
    let output = Command::new("ps").args(options).output().at("run ps")?;
    if !output.status.success() {
        return Err(Error::other(format!("ps: {}", String::from_utf8_lossy(&output.stderr).trim())));
    }
    for line in rows_of(&String::from_utf8_lossy(&output.stdout), &pids)? {
        super::print_line(line)?;
    }
    Ok(0)
}

/// The heading, and the rows whose PID column holds one of `pids`.
fn rows_of<'a>(table: &'a str, pids: &[u32]) -> Result<Vec<&'a str>> {
    let mut lines = table.lines();
    let heading = lines.next().unwrap_or_default();
    let Some(column) = heading.split_whitespace().position(|name| name == "PID") else {
        return Err(Error::other("couldn't find PID field in ps output"));
    };
    let ours = |line: &&str| {
        line.split_whitespace().nth(column).and_then(|pid| pid.parse().ok()).is_some_and(|pid| pids.contains(&pid))
    };
    Ok(std::iter::once(heading).chain(lines.filter(ours)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_containers_rows_are_kept() {
        let table = "UID   PID  PPID CMD\nroot    7     1 a\nroot   77     7 b\n";
        assert_eq!(rows_of(table, &[77]).unwrap(), ["UID   PID  PPID CMD", "root   77     7 b"]);
        assert!(rows_of("UID CMD\n", &[1]).is_err());
    }
}
