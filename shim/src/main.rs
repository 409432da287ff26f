//! The program `shim`: all of it is the library beside this file, so that others can read its command line's definition.
#![forbid(unsafe_code)]

fn main() -> std::process::ExitCode {
    shim::main()
}
