//! How a container is born.
//!
//! [`plan`] decides everything from the configuration, [`story`] acts it out: both sides, top to bottom; [`link`] is what
//! they say to each other, [`namespaces`], [`network`] and [`root`] are chapters of it. [`visit`] is the shorter story of a
//! further process (`exec`).
//!
//! One `clone3`, with all namespaces and into the cgroup, wherever the kernel allows it:
//!
//! | user namespace | others joined by path | pid namespace | processes | how |
//! |---|---|---|---|---|
//! | the caller's | any | the caller's or new | 1 | clone3; init does setns for the joins |
//! | new | none | the caller's or new | 1 | clone3(USER, PID); maps; become 0; unshare the rest |
//! | any | any | joined | 1 | setns(pid) around the one clone3, restored at once |
//! | new | yes | the caller's | 1 | init: setns the others, unshare(USER), maps, unshare the rest |
//! | joined | any | the caller's | 1 | init: setns the others, then user, unshare the rest |
//! | joined | any | new | 2 | waypoint: setns the others, setns user, become 0, clone3(PID, PARENT) |
//! | new | yes | new | 2 | waypoint: setns the others, clone3(USER, PID, PARENT); maps |
//!
//! The process is single-threaded up to the clone.

mod door;
mod entry;
mod link;
mod namespaces;
mod network;
mod plan;
mod root;
mod story;
mod trees;
mod undo;
mod user_namespaces;
mod visit;

pub(crate) use door::is_watched;
pub use door::open as start;
pub(crate) use plan::Plan;
#[cfg(test)]
pub(crate) use plan::plan_of;
pub use story::{Created, Request, create};
pub(crate) use story::{check_root, first_state, oci_state};
pub(crate) use undo::Undo;
pub use visit::{Visit, Visitor, exec};
