//! The main job, end to end: what a newcomer sees first.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod house;

use house::House;

#[test]
fn a_runaway_is_stopped_and_everything_put_right() {
    let house = House::new();
    let room = house.path().join("room");
    std::fs::create_dir(&room).unwrap();
    let output = house
        .command(&["drill", "runaway", "--json"])
        .env(if cfg!(windows) { "TMP" } else { "TMPDIR" }, &room)
        .output()
        .unwrap();
    let outcome = house::Outcome::from(output).expect(0);
    let incident = outcome.json();
    assert_eq!(incident["outcome"], "recovered");
    assert_eq!(incident["trigger"], "limit");
    let steps: Vec<&str> =
        incident["steps"].as_array().unwrap().iter().map(|step| step["step"].as_str().unwrap()).collect();
    assert_eq!(steps, ["latch", "freeze", "capture", "stop", "rollback", "rotate", "verify"]);
    assert!(incident["steps"].as_array().unwrap().iter().all(|step| step["state"] == "done"), "{incident}");
    assert_eq!(incident["drill"]["held"], true, "{incident}");
    // A person sees each step while it happens, and nothing is left of it all.
    for word in [
        "snapshot",
        "goes wrong",
        "CRITICAL_STOP",
        "latch",
        "freeze",
        "capture",
        "stop",
        "rollback",
        "rotate",
        "verify",
    ] {
        assert!(outcome.stderr.contains(word), "{word}: {}", outcome.stderr);
    }
    assert_eq!(std::fs::read_dir(&room).unwrap().count(), 0, "the drill leaves nothing behind");
    assert!(!house.state_dir().exists(), "the drill touches no state but its own");
}
