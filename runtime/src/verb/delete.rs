//! `delete`: a container and all that belongs to it is gone.

use crate::cli::{Delete, Global};
use libcontainer::{At, Kind, Result, life};

pub(crate) fn run(global: &Global, args: &Delete) -> Result<u8> {
    let deleted = super::find(global, &args.id)
        .and_then(|slot| life::delete(&slot, args.force).at_with(|| format!("delete {}", args.id)));
    match deleted {
        Err(error) if args.force && error.kind() == Kind::NotFound => Ok(0),
        deleted => deleted.map(|()| 0),
    }
}
