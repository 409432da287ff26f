//! The question before much is removed.

use std::io::{IsTerminal as _, Write as _};

use crate::error::{Result, Step};

/// Says what is about to happen and asks whether it should, where somebody sits who can answer; elsewhere that is meant.
pub(super) fn confirmed(warning: &[&str]) -> Result<bool> {
    let mut err = std::io::stderr();
    if !std::io::stdin().is_terminal() || !err.is_terminal() {
        return Ok(true);
    }
    writeln!(err, "WARNING! This will remove:").at("ask")?;
    for line in warning {
        writeln!(err, "  - {line}").at("ask")?;
    }
    write!(err, "\nAre you sure you want to continue? [y/N] ").at("ask")?;
    err.flush().at("ask")?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).at("read the answer")?;
    Ok(matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes"))
}
