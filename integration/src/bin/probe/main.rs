//! A static program that the tests put into containers. It says what it sees, as JSON, and tries what it is told to try.
//!
//! ```text
//! probe report [--to FILE]      what this process sees (see `integration::report::Report`)
//! probe try ATTEMPT...          each attempt is one argument, see `attempt.rs`; prints a list of outcomes
//! probe hold                    says "ready", prints every signal it gets, ends with status 0 at TERM, 2 at INT
//! probe crowd N                 the same with N children that wait beside it
//! probe stubborn                says "ready", prints every signal it gets, ends at none of them
//! probe aloof                   says "ready", closes its standard streams and waits for ever
//! probe wait                    waits for ever, every signal keeps its default
//! probe exit N                  ends with status N
//! probe say TEXT...             prints the text
//! probe whisper TEXT...         prints the text without a newline
//! probe flood N [both]          prints N numbered lines (and as many on stderr)
//! probe flood-of N TEXT          prints the text N times, each on a line
//! probe complain TEXT...        prints the text on stderr
//! probe notify TEXT... [THEN]   sends the texts to NOTIFY_SOCKET, one message each; THEN is hold or cat
//! probe eat                     takes memory until it is stopped
//! probe cat                     copies stdin to stdout
//! probe tty                     what it sees of its terminal
//! probe hook FILE NAME [N]      as a hook: appends what it saw to FILE, ends with status N
//! probe ambush HOW FIFO         tries to overwrite the runtime that waits at FIFO (see `hostile.rs`)
//! probe lurk                    looks for ways to the host in whatever enters the container, until TERM
//! ```

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a probe that cannot look has to say so loudly"
)]

mod attempt;
mod hostile;
mod see;

use std::io::{Read, Write};
use std::process::{Command, ExitCode};

use integration::report::HookCall;
use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect();
    let rest: Vec<&str> = args.iter().skip(2).map(String::as_str).collect();
    match args.get(1).map(String::as_str) {
        Some("report") => {
            let text = serde_json::to_string(&see::report()).unwrap();
            match rest.as_slice() {
                ["--to", file] => std::fs::write(file, text).unwrap(),
                _ => println!("{text}"),
            }
        }
        Some("try") => {
            let outcomes: Vec<_> = rest.iter().map(|a| attempt::run(a)).collect();
            println!("{}", serde_json::to_string(&outcomes).unwrap());
        }
        Some("hold") => return hold(0),
        Some("crowd") => return hold(rest[0].parse().unwrap()),
        Some("stubborn") => stubborn(),
        Some("wait") => wait(),
        Some("aloof") => {
            println!("ready");
            (0..3).for_each(|stream| nix::unistd::close(stream).unwrap());
            wait()
        }
        Some("exit") => return ExitCode::from(rest[0].parse::<u8>().unwrap()),
        Some("ask") => ask(rest[0], rest[1]),
        Some("say") => println!("{}", rest.join(" ")),
        // No newline at its end.
        Some("whisper") => {
            print!("{}", rest.join(" "));
            std::io::stdout().flush().unwrap();
        }
        Some("flood") => flood(rest[0].parse().unwrap(), rest.get(1) == Some(&"both")),
        Some("flood-of") => flood_of(rest[0].parse().unwrap(), rest[1]),
        Some("complain") => eprintln!("{}", rest.join(" ")),
        Some("notify") => {
            let socket = std::env::var_os("NOTIFY_SOCKET").unwrap();
            let sender = std::os::unix::net::UnixDatagram::unbound().unwrap();
            for word in rest {
                match word {
                    "hold" => return hold(0),
                    "cat" => cat(),
                    message => drop(sender.send_to(message.as_bytes(), &socket).unwrap()),
                }
            }
        }
        Some("cat") => cat(),
        Some("eat") => eat(),
        Some("tty") => println!("{}", see::terminal()),
        Some("ambush") => hostile::ambush(rest[0], rest[1]),
        Some("lurk") => hostile::lurk(),
        Some("hook") => return hook(&rest),
        _ => {
            eprintln!("probe: unknown command {:?}", args.get(1));
            return ExitCode::from(64);
        }
    }
    ExitCode::SUCCESS
}

fn wait() -> ! {
    loop {
        nix::unistd::pause();
    }
}

fn cat() {
    std::io::copy(&mut std::io::stdin().lock(), &mut std::io::stdout().lock()).unwrap();
}

/// Says a word to whoever listens at a socket, and prints the answer.
fn ask(socket: &str, word: &str) {
    use std::io::{Read as _, Write as _};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
    stream.write_all(word.as_bytes()).unwrap();
    stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    println!("{answer}");
}

/// Signals to wait for. They are blocked before "ready" is said, so none that is sent afterwards can be lost.
fn signals() -> SigSet {
    let mut signals = SigSet::empty();
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGUSR1,
        Signal::SIGUSR2,
        Signal::SIGQUIT,
        Signal::SIGWINCH,
    ] {
        signals.add(signal);
    }
    signals.thread_block().unwrap();
    signals
}

fn stubborn() -> ! {
    let signals = signals();
    println!("ready");
    loop {
        println!("{}", signals.wait().unwrap().as_str());
    }
}

fn hold(children: usize) -> ExitCode {
    let signals = signals();
    // The executable by its own name may be hidden by then: the kernel's link to it never is.
    let crowd: Vec<_> = (0..children).map(|_| Command::new("/proc/self/exe").arg("wait").spawn().unwrap()).collect();
    println!("ready");
    loop {
        let signal = signals.wait().unwrap();
        println!("{}", signal.as_str());
        match signal {
            Signal::SIGTERM => {
                drop(crowd);
                return ExitCode::SUCCESS;
            }
            Signal::SIGINT => return ExitCode::from(2),
            _ => {}
        }
    }
}

fn flood(lines: u32, both: bool) {
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    for n in 0..lines {
        writeln!(out, "line {n}").unwrap();
        if both {
            eprintln!("error {n}");
        }
    }
}

fn flood_of(lines: usize, text: &str) {
    let block = format!("{text}\n").repeat(1000);
    let line = text.len() + 1;
    let mut out = std::io::stdout().lock();
    for _ in 0..lines / 1000 {
        out.write_all(block.as_bytes()).unwrap();
    }
    out.write_all(&block.as_bytes()[..lines % 1000 * line]).unwrap();
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        // Other than zero, so that each page is had.
        eaten.push(vec![1_u8; 1 << 20]);
    }
}

fn hook(rest: &[&str]) -> ExitCode {
    let mut stdin = String::new();
    std::io::stdin().read_to_string(&mut stdin).unwrap();
    let mut root: Vec<String> =
        std::fs::read_dir("/").unwrap().map(|e| e.unwrap().file_name().to_string_lossy().into_owned()).collect();
    root.sort();
    let call = HookCall { name: rest[1].to_owned(), stdin, report: see::report(), root };
    let mut line = serde_json::to_string(&call).unwrap();
    line.push('\n');
    std::fs::OpenOptions::new().append(true).create(true).open(rest[0]).unwrap().write_all(line.as_bytes()).unwrap();
    ExitCode::from(rest.get(2).map_or(0, |n| n.parse().unwrap()))
}
