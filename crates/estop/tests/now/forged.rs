//! A record that somebody else made up, or that has grown old, leads to nothing that is not a job of this estop.

#[cfg(unix)]
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::scene::{Scene, Signal, bystander, identity, runs, signal};

/// A bystander, that is ended with the test.
struct Bystander(std::process::Child);

impl Bystander {
    fn new() -> Self {
        Self(bystander())
    }

    fn id(&self) -> Value {
        let found = identity(self.0.id());
        json!({"pid": found.pid, "start_time": found.start_time})
    }

    fn is_alive(&self) -> bool {
        runs(u64::from(self.0.id()))
    }
}

impl Drop for Bystander {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A true record of a job whose guardian is gone, to be changed.
fn record(scene: &Scene) -> (PathBuf, Value) {
    let sign = scene.path().join("sign");
    let running = scene.guard("w", &[], &["sh", "-c", &format!("echo > {}; exec sleep 1000", sign.display())], "sign");
    let path = scene.run_dir().join("jobs/w/job.json");
    let record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    scene.json(0, &["now"]);
    running.wait().expect(124);
    scene.json(0, &["reset"]);
    (path, record)
}

fn forge(path: &Path, record: &Value) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path.with_file_name("lock"), "").unwrap();
    std::fs::write(path, record.to_string()).unwrap();
    #[cfg(unix)]
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
}

#[test]
fn a_process_that_is_not_the_one_recorded_is_left_alone() {
    let scene = Scene::new();
    let bystander = Bystander::new();
    let (path, mut record) = record(&scene);
    record["handle"]["cgroup"] = Value::Null;
    let mut wrong_start = bystander.id();
    wrong_start["start_time"] = json!(wrong_start["start_time"].as_u64().unwrap() + 1);
    let mut other_boot = record.clone();
    other_boot["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    other_boot["handle"]["init"] = bystander.id();
    let mut by_pid = record.clone();
    by_pid["handle"]["init"] = wrong_start.clone();
    by_pid["handle"]["main"] = wrong_start.clone();
    by_pid["guardian"] = wrong_start;
    let mut first = record.clone();
    first["handle"]["init"] = json!({"pid": 1, "start_time": 0});
    first["handle"]["main"] = json!({"pid": 0, "start_time": 0});
    first["guardian"] = json!({"pid": std::process::id(), "start_time": 1});
    for forged in [other_boot, by_pid, first] {
        forge(&path, &forged);
        scene.json(3, &["now"]);
        assert!(bystander.is_alive(), "{forged:#}");
        scene.json(0, &["reset"]);
    }
}

#[cfg(unix)]
#[test]
fn a_cgroup_that_is_not_a_job_of_estops_is_left_alone() {
    let scene = Scene::new();
    let (path, record) = record(&scene);
    let Some(group) = record["handle"]["cgroup"]["path"].as_str().map(PathBuf::from) else { return };
    let root = group.ancestors().nth(3).unwrap().to_owned();
    // A group of this test's own, beside estop's root.
    let stranger = Stranger::new(&root.join(format!("stranger-{}", std::process::id())));
    let inode = |path: &Path| std::fs::metadata(path).unwrap().ino();
    let dotted = group.parent().unwrap().parent().unwrap().join("..").join(stranger.path.file_name().unwrap());
    let cases = [
        json!({"path": stranger.path, "inode": inode(&stranger.path)}),
        json!({"path": dotted, "inode": inode(&stranger.path)}),
        json!({"path": root, "inode": inode(&root)}),
        json!({"path": "/", "inode": inode(Path::new("/"))}),
        json!({"path": scene.path(), "inode": inode(&scene.path())}),
    ];
    for cgroup in cases {
        let mut forged = record.clone();
        forged["handle"] = json!({"cgroup": cgroup, "controllers": [stranger.path], "init": null, "main": null});
        forge(&path, &forged);
        scene.json(3, &["now"]);
        assert!(stranger.bystander.is_alive() && stranger.path.exists(), "{forged:#}");
        scene.json(0, &["reset"]);
    }
}

/// A cgroup with a process in it that has nothing to do with estop.
#[cfg(unix)]
struct Stranger {
    path: PathBuf,
    bystander: Bystander,
}

#[cfg(unix)]
impl Stranger {
    fn new(path: &Path) -> Self {
        std::fs::create_dir(path).unwrap();
        let bystander = Bystander::new();
        std::fs::write(path.join("cgroup.procs"), bystander.0.id().to_string()).unwrap();
        Self { path: path.to_owned(), bystander }
    }
}

#[cfg(unix)]
impl Drop for Stranger {
    fn drop(&mut self) {
        let _ = self.bystander.0.kill();
        let _ = self.bystander.0.wait();
        crate::scene::until("the group is empty", || std::fs::remove_dir(&self.path).is_ok());
    }
}

/// Another job's group, at the right place but with another inode than recorded, stays another's.
#[cfg(unix)]
#[test]
fn another_job_at_the_same_place_is_left_alone() {
    let scene = Scene::new();
    let (path, record) = record(&scene);
    if record["handle"]["cgroup"].is_null() {
        return;
    }
    let other = Scene::new();
    let sign = other.path().join("sign");
    let running = other.guard("x", &[], &["sh", "-c", &format!("echo > {}; exec sleep 1000", sign.display())], "sign");
    let theirs: Value =
        serde_json::from_slice(&std::fs::read(other.run_dir().join("jobs/x/job.json")).unwrap()).unwrap();
    let mut forged = record.clone();
    forged["handle"] = theirs["handle"].clone();
    forged["handle"]["cgroup"]["inode"] = json!(theirs["handle"]["cgroup"]["inode"].as_u64().unwrap() + 1);
    forged["handle"]["init"] = Value::Null;
    forged["handle"]["main"] = Value::Null;
    forge(&path, &forged);
    scene.json(3, &["now"]);
    assert_eq!(other.status("x")["state"], "running");
    other.json(0, &["now"]);
    running.wait().expect(124);
    other.expect_nothing_left();
}

#[test]
fn a_record_that_others_could_have_written_is_not_followed() {
    let scene = Scene::new();
    let bystander = Bystander::new();
    let (path, mut record) = record(&scene);
    record["handle"] = json!({"cgroup": null, "controllers": [], "init": bystander.id(), "main": null});
    let expect_alive = |what: &str| {
        scene.json(3, &["now"]);
        assert!(bystander.is_alive(), "{what}");
        scene.json(0, &["reset"]);
    };
    forge(&path, &record);
    #[cfg(unix)]
    {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        expect_alive("writable by all");
        let elsewhere = scene.house().file("elsewhere.json", record.to_string());
        std::fs::remove_file(&path).unwrap();
        std::os::unix::fs::symlink(elsewhere, &path).unwrap();
        expect_alive("a symbolic link");
        std::fs::remove_file(&path).unwrap();
    }
    forge(&path, &json!({"schema_version": 99}));
    expect_alive("another version");
    std::fs::write(&path, "not json").unwrap();
    expect_alive("no record");
    std::fs::write(&path, vec![b'x'; 2 << 20]).unwrap();
    expect_alive("too large");
    #[cfg(unix)]
    if crate::scene::is_root() {
        // An ordinary user's record leads to that user's processes only, and the bystander is root's.
        forge(&path, &record);
        crate::scene::give(&path);
        expect_alive("another user's record");
    }
    signal(bystander.0.id(), Signal::KILL);
}
