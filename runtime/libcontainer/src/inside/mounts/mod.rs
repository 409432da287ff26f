//! Mounts: from the specification's list to [`Step`]s (pure), and the steps carried out by descriptor.

mod act;
mod bind;
mod copy_up;
mod cover;
mod flags;
mod new;
mod options;
mod step;

pub(crate) use act::{Surroundings, mount_all, put_over, seal};
pub(crate) use bind::{map_ids, open_source};
pub(crate) use cover::{clone_of, mask, read_only};
pub use options::KNOWN as MOUNT_OPTIONS;
pub(crate) use options::propagation;
pub(crate) use step::{Context, IdMap, Ids, Source, Step, What, steps};
