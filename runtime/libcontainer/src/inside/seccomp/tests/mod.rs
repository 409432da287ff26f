//! Profiles as text, programs as answers; then the same at random against [`reference`], and in the kernel.

mod bpf;
mod kernel;
mod random;
mod reference;
mod table;

use crate::spec::Seccomp;

fn profile(json: &str) -> Seccomp {
    crate::spec::parse(json.as_bytes()).unwrap()
}
