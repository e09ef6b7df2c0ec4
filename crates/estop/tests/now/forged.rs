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

/// A job of another estop, and the way to its directory.
#[cfg(unix)]
fn neighbour(name: &str) -> (Scene, crate::scene::Running, PathBuf) {
    let scene = Scene::new();
    let running = scene.guard(name, &[], &["sh", "-c", "echo > sign; exec sleep 1000"], "sign");
    let dir = scene.run_dir().join("jobs").join(name);
    (scene, running, dir)
}

/// Ends it, which nobody else has done.
#[cfg(unix)]
#[track_caller]
fn expect_running((scene, running, dir): (Scene, crate::scene::Running, PathBuf)) {
    let name = dir.file_name().unwrap().to_str().unwrap();
    let status = scene.status(name);
    assert_eq!((&status["state"], &status["guardian"]["alive"]), (&"running".into(), &true.into()), "{status:#}");
    scene.json(0, &["now", name]);
    running.wait().expect(124);
    scene.expect_nothing_left();
}

/// Takes the lock of the directory that `record` lies in, as a living guardian has it.
#[cfg(unix)]
fn hold(record: &Path) -> std::fs::File {
    let lock = std::fs::File::create(record.with_file_name("lock")).unwrap();
    lock.lock().unwrap();
    lock
}

#[cfg(unix)]
#[test]
fn a_link_leads_to_nobody_elses_job() {
    let scene = Scene::new();
    let other = neighbour("other");
    let jobs = scene.run_dir().join("jobs");
    std::fs::create_dir_all(&jobs).unwrap();
    std::fs::set_permissions(scene.run_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    std::fs::set_permissions(scene.house().state_dir(), std::fs::Permissions::from_mode(0o700)).unwrap();
    // The whole directory, under its own name and another one.
    for name in ["mine", "other"] {
        std::os::unix::fs::symlink(&other.2, jobs.join(name)).unwrap();
        let answer = scene.json(3, &["now", name]);
        assert_eq!(answer["jobs"], json!([]), "{answer:#}");
        std::fs::remove_file(jobs.join(name)).unwrap();
    }
    // A true record copied, with the socket of its guardian linked, as a living guardian's and as a dead one's.
    let record: Value = serde_json::from_slice(&std::fs::read(other.2.join("job.json")).unwrap()).unwrap();
    let path = jobs.join("mine/job.json");
    forge(&path, &record);
    std::os::unix::fs::symlink(other.2.join("guardian.sock"), path.with_file_name("guardian.sock")).unwrap();
    let held = hold(&path);
    scene.json(3, &["now"]);
    scene.json(3, &["now", "mine"]);
    assert_ne!(scene.run(&["stop", "mine"]).code, 0);
    drop(held);
    scene.json(3, &["now"]);
    expect_running(other);
}

#[cfg(unix)]
#[test]
fn a_record_of_another_boot_leads_to_no_job_of_this_one() {
    let scene = Scene::new();
    let other = neighbour("w");
    let (path, mut record) = record(&scene);
    let theirs: Value = serde_json::from_slice(&std::fs::read(other.2.join("job.json")).unwrap()).unwrap();
    record["handle"] = theirs["handle"].clone();
    record["guardian"] = theirs["guardian"].clone();
    record["id"] = theirs["id"].clone();
    record["boot_id"] = json!("00000000-0000-0000-0000-000000000000");
    forge(&path, &record);
    let held = hold(&path);
    scene.json(3, &["now"]);
    drop(held);
    scene.json(3, &["now"]);
    expect_running(other);
}

/// What a PID that was given away leads to: neither the process that has it now, nor what is below that.
#[cfg(unix)]
#[test]
fn a_guardian_whose_number_was_given_away_does_not_answer_for_others() {
    let scene = Scene::new();
    let bystander = Bystander::new();
    let (path, mut record) = record(&scene);
    let own = identity(std::process::id());
    // The parent of the bystander.
    let given_away = json!({"pid": own.pid, "start_time": own.start_time - 1});
    record["handle"] = json!({"cgroup": null, "controllers": [], "init": given_away, "main": given_away});
    record["guardian"] = given_away;
    forge(&path, &record);
    let held = hold(&path);
    scene.json(3, &["now"]);
    assert!(bystander.is_alive());
    drop(held);
    scene.json(3, &["now"]);
    assert!(bystander.is_alive());
}

/// What makes its reader wait for ever, in place of each file.
#[cfg(unix)]
#[test]
fn a_fifo_in_place_of_a_file_holds_no_emergency_up() {
    let scene = Scene::new();
    let (path, record) = record(&scene);
    let real = scene.guard("real", &[], &["sh", "-c", "echo > again; exec sleep 1000"], "again");
    for name in ["lock", "job.json", "outcome.json", "outcome", "guardian.sock"] {
        forge(&path, &record);
        let fifo = path.with_file_name(name);
        let _ = std::fs::remove_file(&fifo);
        let made = std::process::Command::new("mkfifo").arg(&fifo).status().unwrap();
        assert!(made.success());
        // To its end: it is another job that it is about.
        scene.run(&["status"]).expect(0);
        scene.json(3, &["now", "w"]);
        std::fs::remove_dir_all(path.parent().unwrap()).unwrap();
    }
    scene.json(0, &["now", "real"]);
    real.wait().expect(124);
    scene.expect_nothing_left();
}
