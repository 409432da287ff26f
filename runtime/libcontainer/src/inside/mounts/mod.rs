//! Mounts: from the specification's list to [`Step`]s (pure), and the steps carried out by descriptor.

mod act;
mod copy_up;
mod cover;
mod options;
mod step;

pub(crate) use act::{Surroundings, mount_all, open_bind_source, put_over};
pub(crate) use cover::{clone_of, mask, read_only};
pub(crate) use options::propagation;
pub(crate) use step::{Step, What, steps};
