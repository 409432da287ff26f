//! The container engine behind Tare's `runtime`: it turns a validated OCI configuration into an isolated process.

pub mod error;
pub mod inside;
pub mod outside;
pub mod spec;
mod sys;

pub use error::{At, Error, Kind, Result};
