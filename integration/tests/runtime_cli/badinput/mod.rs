//! What is wrong is refused: status 1, one line that names it, and nothing left behind.

mod caller;
mod configuration;

use integration::case::Case;

/// Creates a container whose configuration was changed so, and requires a refusal that has these words.
#[track_caller]
fn refused(change: impl FnOnce(&mut Case), words: &[&str]) {
    let mut case = Case::new();
    change(&mut case);
    case.create().refused(words);
    case.nothing_left();
    assert!(!case.dir.join("pid").exists(), "no pid file");
}
