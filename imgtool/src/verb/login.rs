//! `imgtool login`

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};

use rustix::termios::{LocalModes, OptionalActions, tcgetattr, tcsetattr};

use super::print;
use crate::cli::LoginArgs;
use crate::error::{Error, Result, Step};
use crate::registry::{Access, Credential, check_login, keep_login, server_name};

/// A password is read up to this length.
const PASSWORD_MAX: u64 = 64 << 10;

/// Checks the credentials with the registry, and keeps them if they are good.
pub(crate) fn run(args: &LoginArgs) -> Result<()> {
    let server = server_name(&args.server)?;
    let user = match &args.username {
        Some(user) => user.clone(),
        None => ask("Username: ", true)?,
    };
    if user.is_empty() || user.contains(':') {
        return Err(Error::malformed("--username: want a name without a colon"));
    }
    let password = match &args.password {
        Some(password) => password.clone(),
        None if args.password_stdin => {
            let mut text = String::new();
            io::stdin().take(PASSWORD_MAX).read_to_string(&mut text).at("read the password")?;
            text.trim_end_matches(['\r', '\n']).to_owned()
        }
        None => ask("Password: ", false)?,
    };
    let credential = Credential::Password { user, password };
    let access = Access {
        tls_verify: args.tls_verify,
        plain_http: args.plain_http,
        credential: Some(credential.clone()),
        authfile: None,
        ..Access::default()
    };
    check_login(&server, &access).with(|| server.clone())?;
    let place = keep_login(&server, &credential, args.authfile.as_deref())?;
    print(format!("Login succeeded, kept in {place}"))
}

/// Asks on the terminal, whatever standard input is.
fn ask(prompt: &str, echo: bool) -> Result<String> {
    let no_terminal = || Error::other("there is no terminal to ask on: give --username and --password-stdin");
    let mut terminal = File::options().read(true).write(true).open("/dev/tty").map_err(|_| no_terminal())?;
    let before = tcgetattr(&terminal).at("terminal")?;
    let mut quiet = before.clone();
    if !echo {
        quiet.local_modes.remove(LocalModes::ECHO);
        quiet.local_modes.insert(LocalModes::ECHONL);
    }
    terminal.write_all(prompt.as_bytes())?;
    tcsetattr(&terminal, OptionalActions::Flush, &quiet).at("terminal")?;
    let mut line = String::new();
    let read = BufReader::new((&terminal).take(PASSWORD_MAX)).read_line(&mut line);
    tcsetattr(&terminal, OptionalActions::Flush, &before).at("terminal")?;
    read.at("read from the terminal")?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}
