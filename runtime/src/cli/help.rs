//! Help, in the shape of runc's, under the name that the program was called by: it may stand in runc's place.

use super::Cli;
use clap::{
    CommandFactory,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{
    ffi::{OsStr, OsString},
    path::Path,
};

/// Prints what `args` ask for, or why they cannot be understood. The definition is dressed up only now: most callers are
/// programs, and want neither.
pub(crate) fn answer(args: &[OsString]) -> u8 {
    let called = args.first().and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str).unwrap_or("runtime");
    match dressed(called).try_get_matches_from(args) {
        Ok(_) => 0,
        Err(mut error) => {
            // To pass an unknown flag on as a value is never what was meant here.
            error.remove(ContextKind::Suggested);
            if error.kind() == ErrorKind::InvalidSubcommand
                && let Some(ContextValue::String(verb)) = error.get(ContextKind::InvalidSubcommand)
            {
                eprintln!("No help topic for '{}'", verb.escape_default());
            }
            // Nowhere to say that the terminal is gone.
            drop(error.print());
            // Help and version are answers; the rest is a failure as any other (clap would say 2, runc says 1).
            u8::from(error.use_stderr())
        }
    }
}

fn dressed(called: &str) -> clap::Command {
    let heading = |name: &str| format!("NAME:\n   {name} - {{about}}\n\nUSAGE:\n   {{usage}}\n\n{{all-args}}");
    let command = Cli::command().bin_name(called).display_name(called).help_template(heading(called));
    command.mut_subcommands(|verb| {
        let name = format!("{called} {}", verb.get_name());
        verb.help_template(heading(&name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(args: &[&str]) -> String {
        dressed("runc").try_get_matches_from(args).unwrap_err().to_string()
    }

    #[test]
    fn each_verb_has_its_name_and_usage() {
        assert!(
            text(&["x", "-h"]).starts_with("NAME:\n   runc - Open Container Initiative runtime\n\nUSAGE:\n   runc ")
        );
        for verb in Cli::command().get_subcommands() {
            let help = text(&["x", verb.get_name(), "--help"]);
            let name = verb.get_name();
            assert!(help.starts_with(&format!("NAME:\n   runc {name} - ")), "{help}");
            assert!(help.contains(&format!("USAGE:\n   runc {name}")), "{help}");
        }
    }

    #[test]
    fn the_version_is_what_engines_read() {
        for flag in ["-v", "--version"] {
            let version = text(&["x", flag]);
            let mut lines = version.lines();
            assert_eq!(lines.next(), Some(concat!("runc version ", env!("CARGO_PKG_VERSION"))));
            assert!(lines.next().is_some_and(|line| line.starts_with("commit: ")));
            assert_eq!(lines.next(), Some("spec: 1.3.0"));
        }
    }
}
