//! Writes the man pages and the shell completion of the three programs, from the definitions of their flags: `man DIR`.
//! `hack/man` runs it.
#![forbid(unsafe_code)]

use clap::{Command, ValueEnum};
use std::{error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args_os().nth(1).ok_or("usage: man DIR")?;
    let (man, completions) = (Path::new(&dir).join("man8"), Path::new(&dir).join("completions"));
    fs::create_dir_all(&man)?;
    fs::create_dir_all(&completions)?;
    for (name, command) in [("runtime", runtime::command()), ("shim", shim::command()), ("imgtool", imgtool::command())]
    {
        pages(command.clone().disable_help_subcommand(true), name, &man)?;
        for shell in clap_complete::Shell::value_variants() {
            clap_complete::generate_to(*shell, &mut command.clone(), name, &completions)?;
        }
    }
    Ok(())
}

/// One page for the program and one a verb, named after the whole: runtime-create(8).
fn pages(mut command: Command, name: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    command.build();
    page(&command, name, dir)?;
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        page(verb, &format!("{name}-{}", verb.get_name()), dir)?;
    }
    Ok(())
}

fn page(command: &Command, name: &str, dir: &Path) -> Result<(), Box<dyn Error>> {
    let mut text = Vec::new();
    let command = command.clone().display_name(name.to_owned());
    // Section 8 is for tools that administer a system.
    clap_mangen::Man::new(command).section("8").title(name).render(&mut text)?;
    Ok(fs::write(dir.join(format!("{name}.8")), text)?)
}
