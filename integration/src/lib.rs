//! Support for Tare's end-to-end tests and benchmarks: bundles, drivers for the programs under test, real peers
//! (a registry, containerd, dockerd), and a check that every test leaves the machine as it found it.
//!
//! | variable | meaning |
//! |---|---|
//! | `TARE_TEST_RUNTIME` | the runtime under test; default: the `runtime` that was built beside the tests |
//! | `TARE_TEST_SHIM` | what containerd is asked for; default `io.containerd.tare.v2`, `io.containerd.runc.v2` proves the tests |
//! | `TARE_TEST_CGROUPS` | `v1` or `v2`: run in a private mount namespace with only that version; default: the host as it is |
//! | `TARE_TEST_DRIVER` | `systemd`: with `--systemd-cgroup`; default: the runtime makes its cgroups itself |
//! | `TARE_TEST_RUN` | a word in the name of everything that the tests make |
//! | `TARE_TEST_SKIPS` | file to which skipped tests append their name and reason |
//! | `TARE_TEST_BIN` | directory of `runtime`, `shim` and `imgtool`; default: release, else debug, of this build |
//! | `TARE_TEST_ROUNDS` | how many rounds of start, exec and kill the shim's tests of many at once go, in all; default: a few |
//! | `TARE_CACHE` | where downloaded peers and images are kept; default `/var/cache/tare` |

#![forbid(unsafe_code)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::missing_panics_doc,
    clippy::return_self_not_must_use,
    reason = "support for tests: what cannot be done fails the test, loudly"
)]

pub mod agent;
pub mod case;
pub mod cgroups;
pub mod command;
pub mod console;
pub mod criu;
pub mod leak;
pub mod peer;
pub mod place;
pub mod processor;
pub mod programs;
pub mod report;
pub mod spec;
pub mod tree;
pub mod user;
pub mod wait;

/// Ends the test as skipped, with the reason, which is printed and counted by `hack/test`.
#[macro_export]
macro_rules! skip {
    ($($reason:tt)*) => {{
        $crate::programs::note_skip(module_path!(), &format!($($reason)*));
        return;
    }};
}

/// Skips the test on a peer that is known to behave otherwise. The peer is given by how its `--version` begins (a name,
/// or a name and a version), the reason says how it behaves.
#[macro_export]
macro_rules! not_on {
    ($case:expr, $peer:expr, $($reason:tt)*) => {
        if $case.runtime.is($peer) {
            $crate::skip!("{}: {}", $case.runtime.name, format!($($reason)*));
        }
    };
}
