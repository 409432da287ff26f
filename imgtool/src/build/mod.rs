//! `imgtool build`: images from Dockerfiles.
//!
//! ```text
//! process.rs   two processes, so that nothing is left whatever happens
//! parse/       text -> instructions, each with its place       expand.rs   variables (env.rs)
//! plan.rs      stages -> graph                                 lint/       what is probably not meant
//! builder.rs   the stages side by side; a step is cached or done, and becomes a layer
//!   instructions.rs   run.rs (entitled.rs, mounts.rs, held.rs)   copy.rs (files.rs what is copied, root.rs where from, place.rs where to)
//! cache.rs     keys and records                                exchange.rs the cache in other places
//! finish.rs    what becomes of it (output.rs where it goes)     display.rs  what the user sees
//! metadata.rs  what programs are told of it
//! call.rs      what can be told without building (outline.rs)
//! ```

mod agent;
mod archives;
mod args;
mod attest;
mod builder;
mod cache;
mod call;
mod chmod;
mod contexts;
mod copy;
mod describe;
mod display;
mod entitled;
mod env;
mod exchange;
mod expand;
mod fetch;
mod files;
mod finish;
mod glob;
mod held;
mod ignore;
mod images;
mod instructions;
mod lint;
mod metadata;
mod mounts;
mod outline;
mod output;
mod parse;
mod pieces;
mod place;
mod plan;
mod process;
mod root;
mod run;
mod secrets;
mod source;
mod state;
mod whole;
mod workspace;

pub(crate) use attest::{Attest, Detail, SbomForm, detail, sbom_form};
pub(crate) use cache::{cached_layers, clear_cache};
pub(crate) use call::Call;
pub(crate) use contexts::Named;
pub(crate) use describe::change;
pub(crate) use entitled::Allow;
pub(crate) use exchange::Place as CachePlace;
pub(crate) use glob::{Dialect, Glob};
pub(crate) use output::Output;
pub(crate) use process::guard;
pub(crate) use secrets::{Secret, Ssh};
pub(crate) use whole::{run, runtime};
pub(crate) use workspace::clear_left;
