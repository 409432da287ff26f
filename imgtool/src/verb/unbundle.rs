//! `imgtool unbundle`

use crate::bundle::{check_unused, remove};
use crate::cli::UnbundleArgs;
use crate::error::{Result, Step, tell};
use crate::layout::Store;

/// Removes bundles. Of several, those that can be removed are.
pub(crate) fn run(store: &Store, args: &UnbundleArgs) -> Result<()> {
    // Before there is a user namespace: from inside of it the user's containers are not seen.
    let unused: Vec<Result<()>> = args.directories.iter().map(|directory| check_unused(directory)).collect();
    let store = &store.with_rights()?;
    let mut failed = None;
    for (directory, unused) in args.directories.iter().zip(unused) {
        match unused.and_then(|()| remove(store, directory)).at(directory.display()) {
            Ok(left) if left.is_empty() => {}
            Ok(left) => {
                let (count, first) = (left.len(), left[0].display());
                tell(format_args!(
                    "imgtool: unbundle: {}: stays, {count} files in it are not imgtool's ({first})",
                    directory.display()
                ));
            }
            Err(e) => {
                if let Some(earlier) = failed.replace(e) {
                    tell(format_args!("imgtool: unbundle: {earlier}"));
                }
            }
        }
    }
    failed.map_or(Ok(()), Err)
}
