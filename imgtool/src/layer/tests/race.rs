//! Somebody else changes the tree while it is unpacked: directories become links to outside, and back.

use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};

use super::*;

#[test]
fn a_directory_that_becomes_a_link_meanwhile_leads_nowhere() {
    let place = Place::new();
    let stop = AtomicBool::new(false);
    let (aside, way) = (place.dir.path().join("aside"), place.at("way"));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut swaps = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                if fs::rename(&way, &aside).is_ok() {
                    let _ = symlink(place.outside(), &way);
                    std::thread::yield_now();
                    let _ = fs::remove_file(&way);
                    // What the unpacker made in the meantime is not empty: the swap is over then.
                    if fs::rename(&aside, &way).is_err() {
                        let _ = fs::remove_dir_all(&aside);
                    }
                    swaps += 1;
                }
            }
            assert!(swaps > 0, "nothing was swapped");
        });
        for round in 0..40 {
            // More directories than are held open: each is looked up by its path again and again.
            let mut tar = Tar::default().dir("way");
            for n in 0..200 {
                tar =
                    tar.file(&format!("way/{round}-{n}/secret"), "evil").file(&format!("way/{round}-{n}/new"), "evil");
                tar = tar.file(&format!("way/{n}"), "evil").hardlink(&format!("way/h{n}"), "way/secret");
            }
            // Whether it succeeds depends on the moment; where it writes does not.
            let _ = place.unpack(tar);
            let _ = place.unpack(Tar::default().file("way/secret", "evil").file("way/.wh.secret", ""));
        }
        stop.store(true, Ordering::Relaxed);
    });
    let _ = fs::remove_dir_all(&aside);
    place.check_outside();
}
