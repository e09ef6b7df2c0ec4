//! Root's `now` without a place of its own: every estop of the host.

use std::process::Command;

use serde_json::Value;

use crate::house::{ESTOP, House};
use crate::scene::group::Group;
use crate::scene::is_root;

#[test]
fn roots_now_stops_latches_and_has_put_back_what_other_estops_guard() {
    if !is_root() {
        eprintln!("SKIPPED: only root can make a host of its own");
        return;
    }
    let house = House::new();
    let dir = house.path();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    // The build's directory need not be readable for others.
    let estop = dir.join("estop");
    std::fs::copy(ESTOP, &estop).unwrap();
    let apart = Group::new();
    let mut host = Command::new("sh");
    host.args(["-c", "echo $$ > \"$1/cgroup.procs\"; shift; exec unshare --cgroup --mount sh \"$@\"", "sh"]);
    host.arg(apart.path()).arg(house.script("everyone.sh", include_str!("everyone.sh"))).arg(&estop).arg(&dir);
    let output = host.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
    for planted in ["planted.json", "copied.json"] {
        assert_eq!(read(planted)["jobs"], serde_json::json!([]), "{:#}", read(planted));
    }
    let answer = read("now.json");
    let mut names: Vec<_> =
        answer["jobs"].as_array().unwrap().iter().map(|job| job["name"].as_str().unwrap()).collect();
    names.sort_unstable();
    assert_eq!(names, ["theirs", "users"], "{answer:#}");
    assert!(answer["jobs"].as_array().unwrap().iter().all(|job| job["proven_empty"] == true), "{answer:#}");
    assert_eq!((&answer["latched"], &answer["unreachable"]), (&true.into(), &serde_json::json!([])), "{answer:#}");
    for other in ["other.json", "user.json"] {
        assert_eq!(read(other)["latched"], true, "{other}: {:#}", read(other));
    }
}
