//! A guardian that has nothing left: no descriptor, no process, no memory, no disk, no processor.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Resource, Rlimit, prlimit};

use super::trace::{guardian, villains};
use crate::scene::{Running, Scene, is_root, until};

const TIERS: [&[&str]; 3] = [&[], &["--no-cgroup"], &["--no-cgroup", "--no-pid-namespace"]];

fn limit(pid: u32, resource: Resource, most: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    prlimit(pid, resource, Rlimit { current: Some(most), maximum: Some(most) }).unwrap();
}

/// The most descriptors that a process is allowed again after it was allowed few: who may not raise that limit can go up to it.
const MOST: u64 = 1024;

/// How many descriptors a process may have, if it is still there.
fn allow(pid: u32, descriptors: u64) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = prlimit(pid, Resource::Nofile, Rlimit { current: Some(descriptors), maximum: Some(MOST) });
}

/// Orders a stop and expects it proven, by estop and by a look of the test's own.
#[track_caller]
fn expect_stopped(scene: &Scene, run: Running, what: &str) {
    expect_proven(scene, what);
    expect_ended(scene, run, what);
}

#[track_caller]
fn expect_proven(scene: &Scene, what: &str) -> serde_json::Value {
    let outcome = scene.run(&["--json", "now"]);
    let left = scene.workload_alive();
    assert!(left.is_empty(), "{what}: alive: {left:#?} {outcome:?}");
    assert_eq!(outcome.code, 0, "{what}: {outcome:?}");
    let answer = outcome.json();
    assert_eq!((&answer["jobs"][0]["proven_empty"], &answer["latched"]), (&true.into(), &true.into()), "{answer:#}");
    answer
}

#[track_caller]
fn expect_ended(scene: &Scene, run: Running, what: &str) {
    let ended = run.wait();
    assert!([124, 125].contains(&ended.code), "{what}: {ended:?}");
    scene.expect_nothing_left();
}

/// The lowest number that no descriptor of `pid` has: with that as its limit it gets none that it does not give up first.
fn lowest_free(pid: u32) -> u64 {
    let dir = PathBuf::from(format!("/proc/{pid}/fd"));
    (0..1 << 20).find(|number| std::fs::symlink_metadata(dir.join(number.to_string())).is_err()).unwrap()
}

#[test]
fn without_descriptors() {
    for options in TIERS {
        // As it has used them up, and as its limit was lowered to fewer than it has.
        for harder in [false, true] {
            let scene = Scene::new();
            let run = villains(&scene, options);
            let guardian = guardian(&scene, "w");
            limit(guardian, Resource::Nofile, if harder { 9 } else { lowest_free(guardian) });
            let what = format!("{options:?} {harder}");
            let answer = expect_proven(&scene, &what);
            let proof = &answer["jobs"][0]["proof"];
            if options.len() == 2 {
                // What only the guardian can say.
                let by = "the reaper of all its orphans has no child left";
                assert!(proof.as_array().unwrap().contains(&by.into()), "{what}: {answer:#}");
            }
            expect_ended(&scene, run, &what);
        }
    }
}

/// As if it were not even given what it gives up: it kills all the same, and proves nothing that it has not seen.
#[test]
fn without_descriptors_at_all_what_is_tracked_is_killed() {
    let scene = Scene::new();
    let run = villains(&scene, TIERS[2]);
    let guardian = guardian(&scene, "w");
    allow(guardian, 3);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    until("it is killed", || scene.workload_alive().is_empty());
    allow(guardian, MOST);
    run.wait().expect(124);
    scene.expect_nothing_left();
}

/// The order that needs no process needs no descriptor either.
#[test]
fn without_descriptors_the_written_order_is_read() {
    let scene = Scene::new();
    let run = villains(&scene, &[]);
    limit(guardian(&scene, "w"), Resource::Nofile, 9);
    std::fs::write(scene.run_dir().join("now"), "now\n").unwrap();
    run.wait().expect(124);
    scene.expect_nothing_left();
}

#[test]
fn without_room_to_grow() {
    for options in &TIERS[..2] {
        let scene = Scene::new();
        let run = villains(&scene, options);
        let guardian = guardian(&scene, "w");
        let status = std::fs::read_to_string(format!("/proc/{guardian}/status")).unwrap();
        let size = status.lines().find_map(|line| line.strip_prefix("VmSize:")).unwrap();
        let kibibytes: u64 = size.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        limit(guardian, Resource::As, kibibytes * 1024);
        expect_stopped(&scene, run, &format!("{options:?}"));
    }
}

/// An ordinary user at its limit of processes.
#[test]
fn without_processes_of_its_user() {
    let Some(scene) = Scene::ordinary() else { return eprintln!("NOT TESTED: only root can become another user") };
    let run = villains(&scene, &[]);
    // Nobody but its user may, without the right to every resource.
    let user = scene.user().to_string();
    let mut prlimit = Command::new("setpriv");
    prlimit.args(["--reuid", &user, "--regid", &user, "--clear-groups", "prlimit", "--nproc=1:1", "--pid"]);
    assert!(prlimit.arg(guardian(&scene, "w").to_string()).status().unwrap().success());
    expect_stopped(&scene, run, "RLIMIT_NPROC");
}

/// A v1 group of the test's own for processes that it started.
struct Group(PathBuf);

impl Group {
    /// `None` where there is no such hierarchy, or it is not this user's.
    fn new(controller: &str) -> Option<Self> {
        let own = std::fs::read_to_string("/proc/self/cgroup").ok()?;
        let path = own.lines().find_map(|line| line.split_once(&format!(":{controller}:")))?.1;
        let group = Path::new("/sys/fs/cgroup").join(controller).join(path.trim_start_matches('/'));
        let group = group.join(format!("test-{}-{controller}", std::process::id()));
        std::fs::create_dir(&group).ok()?;
        Some(Self(group))
    }

    fn set(&self, file: &str, value: u32) {
        std::fs::write(self.0.join(file), value.to_string()).unwrap();
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        until("the group is empty", || std::fs::remove_dir(&self.0).is_ok() || !self.0.exists());
    }
}

/// The guardian can start nothing, and its job starts as much as it may.
#[test]
fn without_processes_while_a_bomb_is_at_its_limit() {
    let Some(group) = Group::new("pids") else { return eprintln!("NOT TESTED: no v1 group of `pids` to be had") };
    let scene = Scene::new();
    let (go, villain) = (scene.path().join("go").display().to_string(), scene.villain());
    let body = format!(
        "echo > {}; until [ -e {go} ]; do sleep 0.02; done; exec {villain} bomb",
        scene.path().join("sign").display()
    );
    let options = ["--pids-max", "60", "--require-tier", "kernel"];
    let run = scene.guard("w", &options, &["sh", "-c", &body], "sign");
    group.set("pids.max", 0);
    group.set("cgroup.procs", guardian(&scene, "w"));
    std::fs::write(go, "").unwrap();
    // It is stopped by its guardian as soon as that sees it at its limit; or by this, whichever comes first.
    scene.run(&["--json", "now"]);
    let left = scene.workload_alive();
    assert!(left.is_empty(), "alive: {left:#?}");
    run.wait().expect(124);
    scene.expect_nothing_left();
}

#[test]
fn without_memory() {
    let Some(group) = Group::new("memory") else { return eprintln!("NOT TESTED: no v1 group of `memory` to be had") };
    for options in &TIERS[..2] {
        let scene = Scene::new();
        let run = villains(&scene, options);
        group.set("memory.limit_in_bytes", 64 << 10);
        group.set("cgroup.procs", guardian(&scene, "w"));
        expect_stopped(&scene, run, &format!("{options:?}"));
    }
}

/// A disk that is soon full.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount(path: &Path) -> Option<Self> {
        std::fs::create_dir(path).unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=12m,mode=700", "tmpfs"]).arg(path);
        mount.output().is_ok_and(|output| output.status.success()).then(|| Self(path.to_owned()))
    }

    fn fill(&self) {
        use std::io::Write as _;
        let mut file = std::fs::File::create(self.0.join("filler")).unwrap();
        while file.write_all(&[7; 4096]).is_ok() {}
        while file.write_all(&[7]).is_ok() {}
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
    }
}

#[test]
fn without_room_on_the_disk() {
    let scene = Scene::new();
    let Some(disk) = SmallDisk::mount(&scene.house().state_dir()) else {
        return eprintln!("NOT TESTED: this user may not mount");
    };
    let run = villains(&scene, &[]);
    disk.fill();
    expect_stopped(&scene, run, "full disk");
    assert_eq!(scene.json(0, &["status"])["latched"], true);
    drop(disk);
}

/// Programs that take every processor, as far as this user may.
struct Busy(Vec<Child>);

impl Busy {
    fn new() -> Self {
        let processors = std::thread::available_parallelism().unwrap().get();
        let spin = || {
            let mut nice = Command::new("nice");
            nice.args(["-n", if is_root() { "-20" } else { "0" }, "timeout", "60", "sh", "-c", "while :; do :; done"]);
            nice.stdin(Stdio::null()).spawn().unwrap()
        };
        Self((0..processors * 3).map(|_| spin()).collect())
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // `timeout` takes along what it has started, if it is asked to end.
            crate::scene::signal(child.id(), crate::scene::Signal::TERM);
            let _ = child.wait();
        }
    }
}

#[test]
fn without_a_processor_that_is_idle() {
    let scene = Scene::new();
    let run = villains(&scene, &[]);
    let busy = Busy::new();
    expect_stopped(&scene, run, "busy");
    drop(busy);
}
