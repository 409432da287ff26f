//! Writes the man pages and the shell completion of `shim`, from the one definition of its flags: `man DIR`.
//! `hack/man` runs it.

#![forbid(unsafe_code)]

#[path = "../src/cli.rs"]
#[allow(dead_code, unused_imports, reason = "the definition counts here, not what is parsed by it")]
mod cli;

use clap::{CommandFactory, ValueEnum};
use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: man DIR")?;
    let (man, completions) = (Path::new(&dir).join("man8"), Path::new(&dir).join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    // Pages of subcommands are named after the whole: shim-run(8).
    let mut command = cli::Cli::command().disable_help_subcommand(true);
    command.build();
    page(&command, "shim", &man)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        page(verb, &format!("shim-{}", verb.get_name()), &man)?;
    }
    for shell in clap_complete::Shell::value_variants() {
        clap_complete::generate_to(*shell, &mut cli::Cli::command(), "shim", &completions)?;
    }
    Ok(())
}

fn page(command: &clap::Command, name: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = Vec::new();
    let command = command.clone().display_name(name.to_owned());
    // Section 8 is for tools that administer a system.
    clap_mangen::Man::new(command).section("8").title(name).render(&mut text)?;
    Ok(fs::write(dir.join(format!("{name}.8")), text)?)
}
