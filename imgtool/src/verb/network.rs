//! `imgtool network`: what the hooks of bundles call.

use crate::bundle::{network_down, network_up};
use crate::cli::{NetworkArgs, NetworkVerb};
use crate::error::{Result, Step};

/// Connects or disconnects the container of a bundle.
pub(crate) fn run(args: &NetworkArgs) -> Result<()> {
    let directory = &args.directory;
    match args.verb {
        NetworkVerb::Up => network_up(directory),
        NetworkVerb::Down => network_down(directory),
    }
    .with(|| directory.display())
}
