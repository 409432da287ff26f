//! Layers: from a compressed tar stream to a directory that overlayfs can stack.

mod apply;
mod changes;
mod copy;
mod decompress;
mod descent;
mod dirs;
mod lower;
mod merge;
mod meta;
mod pax;
mod pipe;
mod points;
mod resolve;
mod sparse;
mod tarball;
mod terms;
#[cfg(test)]
pub(crate) mod tests;
mod write;
mod xattr;

pub(crate) use changes::{Change, changes};
pub(crate) use copy::{copy_directory, copy_tree, copy_xattrs};
pub(crate) use decompress::Inflated;
pub(crate) use descent::{names, remove_all};
pub(crate) use dirs::open_root;
pub(crate) use lower::LowerStack;
pub(crate) use merge::merge;
pub(crate) use pipe::{Job, TarSink, unpack};
pub(crate) use points::mount_points;
pub(crate) use tarball::{Kind as EntryKind, Tarball};
pub(crate) use terms::{Limits, OverlayForm, Powers, Unpacked};
pub(crate) use write::{TreeForm, write_changes, write_tree};
pub(crate) use xattr::read_all as read_xattrs;
