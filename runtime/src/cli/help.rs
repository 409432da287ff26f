//! Help, in the shape of runc's, under the name that the program was called by: it may stand in runc's place.

use super::Cli;
use clap::{
    CommandFactory,
    error::{ContextKind, ContextValue, ErrorKind},
};
use std::{
    ffi::{OsStr, OsString},
    io::{Write as _, stderr, stdout},
    path::Path,
};

/// Prints what `args` ask for, or why they cannot be understood. The definition is dressed up only now: most callers are
/// programs, and want neither.
pub(crate) fn answer(args: &[OsString]) -> u8 {
    let called = args.first().and_then(|path| Path::new(path).file_name()).and_then(OsStr::to_str).unwrap_or("runtime");
    let mut command = dressed(called);
    match command.try_get_matches_from_mut(args) {
        Ok(_) => 0,
        Err(mut error) => {
            // To pass an unknown flag on as a value is never what was meant here.
            error.remove(ContextKind::Suggested);
            let kind = error.kind();
            // Where something cannot be written there is nowhere to say so.
            if let (ErrorKind::InvalidSubcommand, Some(ContextValue::String(verb))) =
                (kind, error.get(ContextKind::InvalidSubcommand))
            {
                drop(writeln!(stderr(), "No help topic for '{}'", verb.escape_default()));
            }
            drop(match kind {
                ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand | ErrorKind::MissingSubcommand => {
                    write!(stdout(), "{}", command.render_help())
                }
                _ => error.print(),
            });
            status(kind)
        }
    }
}

/// runc's statuses (clap's own is 2): what is asked for is answered, and who asks for nothing is shown what there is.
fn status(kind: ErrorKind) -> u8 {
    match kind {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
        | ErrorKind::MissingSubcommand => 0,
        ErrorKind::InvalidSubcommand => 3,
        _ => 1,
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
            let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
            assert!(!about.is_empty(), "{name} says nothing of itself");
            assert!(help.starts_with(&format!("NAME:\n   runc {name} - {about}\n\nUSAGE:")), "{help}");
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
