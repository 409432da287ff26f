//! create, start, state, kill, delete, run, list, and what they leave.

use integration::case::Case;

#[test]
fn a_container_lives_from_create_to_delete() {
    let case = Case::new();
    case.create().ok();
    let state = case.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["id"], case.id.as_str());
    assert_eq!(state["pid"], case.pid());
    assert_eq!(state["bundle"], case.bundle().to_str().unwrap());
    assert_eq!(case.output(), "", "nothing of the user's runs before start");

    case.start().ok();
    case.says("ready");
    assert_eq!(case.status(), "running");

    case.kill("TERM").ok();
    assert_eq!(case.wait(), 0);
    let state = case.state();
    assert_eq!(state["status"], "stopped");

    case.delete().ok();
    case.call(&["state", &case.id]).refused(&[&case.id]);
    case.nothing_left();
}
