//! Root's `now` without a place of its own: every estop of the host.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

use crate::house::{ESTOP, House};
use crate::scene::is_root;

/// A cgroup that is the root of all in the test's own host; gone with all that is in it, whatever becomes of the test.
struct Apart(PathBuf);

impl Apart {
    fn new() -> Self {
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let mount = mounts.lines().find_map(|line| line.split(' ').nth(1).filter(|_| line.contains(" cgroup2 ")));
        let group = Path::new(mount.unwrap()).join(format!("everyone-{}", std::process::id()));
        std::fs::create_dir(&group).unwrap();
        Self(group)
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        fn remove(group: &Path) {
            for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
                if inner.path().is_dir() {
                    remove(&inner.path());
                }
            }
            for _ in 0..200 {
                match std::fs::remove_dir(group) {
                    Err(error) if error.kind() == std::io::ErrorKind::ResourceBusy => {
                        std::thread::sleep(std::time::Duration::from_millis(10));
                    }
                    _ => return,
                }
            }
        }
        let _ = std::fs::write(self.0.join("cgroup.kill"), "1");
        remove(&self.0);
    }
}

#[test]
fn roots_now_stops_latches_and_has_put_back_what_other_estops_guard() {
    if !is_root() || !Path::new("/sys/fs/cgroup").exists() {
        eprintln!("SKIPPED: only root can make a host of its own");
        return;
    }
    let house = House::new();
    let dir = house.path();
    std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o711)).unwrap();
    // The build's directory need not be readable for others.
    let estop = dir.join("estop");
    std::fs::copy(ESTOP, &estop).unwrap();
    let apart = Apart::new();
    let mut host = Command::new("sh");
    host.args(["-c", "echo $$ > \"$1/cgroup.procs\"; shift; exec unshare --cgroup --mount sh \"$@\"", "sh"]);
    host.arg(&apart.0).arg(house.script("everyone.sh", include_str!("everyone.sh"))).arg(&estop).arg(&dir);
    let output = host.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let read = |name: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.join(name)).unwrap()).unwrap() };
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
