//! The container engine behind Tare's `runtime`: it turns an OCI configuration into an isolated process.
//!
//! Read [`birth`] first: it tells how a container is born, from both sides. [`life`] is what happens to it afterwards,
//! [`store`] what is kept of it in between.

pub mod birth;
pub mod checkpoint;
pub mod error;
#[cfg(test)]
mod fuzz;
pub mod inside;
pub mod life;
pub mod outside;
pub mod process;
#[cfg(test)]
mod random;
mod rubbish;
pub mod spec;
pub mod store;
mod sys;
pub mod update;

pub use error::{At, Error, Kind, Result, shortened};
pub use sys::{Signals, ignore_broken_pipes, send_signal};
