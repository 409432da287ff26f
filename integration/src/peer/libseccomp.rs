//! libseccomp, which compiles profiles for runc and crun: what it makes of a profile, for any machine.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde::Deserialize;
use serde_json::Value;

use crate::programs;

/// A profile as libseccomp compiles it.
#[derive(Debug, Deserialize)]
pub struct Compiled {
    /// Of the library.
    pub version: String,
    program: String,
    /// The highest number that the profile names, by `SCMP_ARCH_*`; x32's with its bit.
    pub newest: BTreeMap<String, u32>,
    /// Names that the library does not know, and so left out.
    pub unknown: Vec<String>,
}

/// The libraries on this machine: the system's, and that of the newest crun if it was fetched.
pub fn libraries() -> Vec<PathBuf> {
    let newest = std::fs::read_dir(programs::cache().join("crun/files/usr/lib")).into_iter().flatten().flatten();
    let newest = newest.map(|it| it.path().join("libseccomp.so.2")).filter(|it| it.exists());
    std::iter::once("libseccomp.so.2".into()).chain(newest).collect()
}

/// Has `library` compile `linux.seccomp` for `machine` (`x86_64`, `aarch64`) as runc would there.
pub fn compile(library: &PathBuf, machine: &str, profile: &Value) -> Compiled {
    let mut python = Command::new("python3");
    python.args(["-c", include_str!("libseccomp.py")]).arg(library).arg(machine);
    let mut python = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3: run hack/setup");
    python.stdin.take().expect("its stdin").write_all(profile.to_string().as_bytes()).expect("give it the profile");
    let out = python.wait_with_output().expect("its output");
    assert!(out.status.success(), "{} on {machine} refused {profile}", library.display());
    serde_json::from_slice(&out.stdout).expect("what it compiled")
}

impl Compiled {
    /// The program, as (code, jt, jf, k): `struct sock_filter`.
    pub fn program(&self) -> Vec<(u16, u8, u8, u32)> {
        instructions(&bytes(&self.program))
    }
}

/// Instructions as they lie in memory.
pub fn instructions(bytes: &[u8]) -> Vec<(u16, u8, u8, u32)> {
    let one = |it: &[u8]| {
        let k = u32::from_ne_bytes([it[4], it[5], it[6], it[7]]);
        (u16::from_ne_bytes([it[0], it[1]]), it[2], it[3], k)
    };
    bytes.chunks_exact(8).map(one).collect()
}

/// Bytes from hexadecimal digits.
pub fn bytes(hex: &str) -> Vec<u8> {
    let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal");
    (0..hex.len()).step_by(2).map(byte).collect()
}
