//! `imgtool logout`

use super::print;
use crate::cli::LogoutArgs;
use crate::error::{Error, Result};
use crate::registry::{forget_login, server_name};

/// Forgets a registry's login.
pub(crate) fn run(args: &LogoutArgs) -> Result<()> {
    let server = server_name(&args.server)?;
    if forget_login(&server, args.authfile.as_deref())? {
        print(format!("Removed the login of {server}"))
    } else {
        Err(Error::missing(format!("{server}: there is no login of it")))
    }
}
