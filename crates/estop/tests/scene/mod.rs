//! A house with programs at work in it, none of which outlives the test, whatever becomes of it.

#![allow(dead_code, reason = "each test file uses a part of it")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

pub(crate) use crate::house::until;
use crate::house::{ESTOP, House, Outcome, PATIENCE};

pub(crate) mod group;

use group::Group;

/// The ordinary user that tests become: not `nobody`, whom workloads of other tests become.
const ORDINARY: u32 = 61_234;
/// The variable by which a test finds everything that it started, without asking estop.
const MARK: &str = "SCENE_MARK";

/// A program of many habits: `villain.sh HABIT`. Everything it starts writes to `$CANARY` for as long as it lives.
const VILLAIN: &str = include_str!("villain.sh");

/// A house, the user whose it is, and what runs in it.
pub(crate) struct Scene {
    house: House,
    mark: String,
    program: PathBuf,
    ordinary: bool,
    delegated: Option<Group>,
    started: AtomicU32,
}

/// A started program.
pub(crate) struct Running {
    child: Child,
    out: PathBuf,
    err: PathBuf,
}

impl Scene {
    /// With estop as the user that runs the tests.
    pub(crate) fn new() -> Self {
        let house = House::new();
        let mark = format!("{}-{}", std::process::id(), house.path().display());
        let scene =
            Self { house, mark, program: ESTOP.into(), ordinary: false, delegated: None, started: AtomicU32::new(0) };
        scene.house.script("villain.sh", VILLAIN);
        std::fs::create_dir(scene.canary()).unwrap();
        scene
    }

    /// With estop as an ordinary user; `None` where the tests are not run by root, who alone can become another.
    pub(crate) fn ordinary() -> Option<Self> {
        if !is_root() {
            return None;
        }
        let mut scene = Self::new();
        scene.ordinary = true;
        // The build's directory need not be readable for others.
        scene.program = scene.path().join("bin-estop");
        std::fs::copy(ESTOP, &scene.program).unwrap();
        give(&scene.path());
        give(&scene.canary());
        Some(scene)
    }

    /// As [`Scene::ordinary`], in a cgroup that was delegated to that user.
    pub(crate) fn delegated() -> Option<Self> {
        let mut scene = Self::ordinary()?;
        let group = Group::new();
        group.delegate(ORDINARY);
        scene.delegated = Some(group);
        Some(scene)
    }

    /// Whether estop runs as the ordinary user.
    pub(crate) fn is_ordinary(&self) -> bool {
        self.ordinary
    }

    /// Lets other users look for what they know by name.
    pub(crate) fn open_to_others(&self) {
        std::fs::set_permissions(self.path(), std::fs::Permissions::from_mode(0o711)).unwrap();
    }

    pub(crate) fn house(&self) -> &House {
        &self.house
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.house.path()
    }

    pub(crate) fn run_dir(&self) -> PathBuf {
        self.house.state_dir().join("run")
    }

    pub(crate) fn canary(&self) -> PathBuf {
        self.path().join("canary")
    }

    pub(crate) fn villain(&self) -> String {
        self.path().join("villain.sh").display().to_string()
    }

    /// The program with these arguments, as the scene's user, marked.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let plain = self.house.command(arguments);
        let mut command = if self.ordinary {
            let mut command = Command::new("sh");
            command.args(["-c", "test -z \"$0\" || echo $$ > \"$0/cgroup.procs\"; exec setpriv \"$@\""]);
            command.arg(self.delegated.as_ref().map_or(Path::new(""), Group::path));
            let id = ORDINARY.to_string();
            command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(&self.program);
            command.args(arguments).current_dir(self.path());
            for (name, value) in plain.get_envs() {
                match value {
                    Some(value) => command.env(name, value),
                    None => command.env_remove(name),
                };
            }
            command
        } else {
            plain
        };
        command.env(MARK, &self.mark).env("CANARY", self.canary());
        command
    }

    /// Runs the program to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Outcome {
        self.spawn(arguments).wait()
    }

    /// Runs the program with `--json`, expects this exit code, and gives its one object.
    #[track_caller]
    pub(crate) fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(arguments);
        self.run(&all).expect(code).json()
    }

    /// Starts the program; its output goes to files.
    pub(crate) fn spawn(&self, arguments: &[&str]) -> Running {
        self.start(&mut self.command(arguments))
    }

    /// Starts `command`; its output goes to files.
    pub(crate) fn start(&self, command: &mut Command) -> Running {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        let (out, err) = (self.path().join(format!("out-{number}")), self.path().join(format!("err-{number}")));
        command.stdin(Stdio::null());
        let child = command.stdout(File::create(&out).unwrap()).stderr(File::create(&err).unwrap()).spawn().unwrap();
        Running { child, out, err }
    }

    /// Starts the daemon and waits until it answers.
    pub(crate) fn up(&self) -> Running {
        let mut brain = self.spawn(&["up"]);
        until("the daemon is up", || {
            assert!(brain.child.try_wait().unwrap().is_none(), "{}", brain.errors());
            brain.errors().contains("estop: up")
        });
        brain
    }

    /// What `status` says of `name`; null if it says nothing.
    pub(crate) fn status(&self, name: &str) -> Value {
        let status = self.json(0, &["status"]);
        let found = status["workloads"].as_array().unwrap().iter().find(|workload| workload["name"] == name).cloned();
        found.unwrap_or(Value::Null)
    }

    /// Waits until `name` is in `state`, and gives its status.
    #[track_caller]
    pub(crate) fn wait_state(&self, name: &str, state: &str) -> Value {
        let mut last = Value::Null;
        until(&format!("{name} is {state}"), || {
            last = self.status(name);
            last["state"] == state
        });
        last
    }

    /// Starts `estop run` with these options as job `name` and waits until `sign` is there, a file that its command makes.
    pub(crate) fn guard(&self, name: &str, options: &[&str], command: &[&str], sign: &str) -> Running {
        let mut arguments = vec!["run", "--name", name];
        arguments.extend(options);
        arguments.push("--");
        arguments.extend(command);
        let mut running = self.spawn(&arguments);
        let sign = self.path().join(sign);
        until("the command has begun", || {
            assert!(running.child.try_wait().unwrap().is_none(), "it ended: {}", running.errors());
            sign.exists()
        });
        running
    }

    /// Everything that this test started and that is alive, found without asking estop: by its environment and its
    /// arguments.
    pub(crate) fn alive(&self) -> BTreeMap<u32, String> {
        let mut found = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
            let read = |file: &str| std::fs::read(entry.path().join(file)).unwrap_or_default();
            let wanted = format!("{MARK}={}", self.mark);
            let marked = read("environ").split(|&byte| byte == 0).any(|one| one == wanted.as_bytes());
            let arguments = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            if pid != std::process::id() && (marked || arguments.contains(self.path().to_str().unwrap())) {
                found.insert(pid, arguments);
            }
        }
        found
    }

    /// Of those, what is not estop itself.
    pub(crate) fn workload_alive(&self) -> BTreeMap<u32, String> {
        let mut found = self.alive();
        found.retain(|pid, _| {
            std::fs::read_link(format!("/proc/{pid}/exe"))
                .is_ok_and(|exe| exe != self.program && exe != Path::new(ESTOP))
        });
        found
    }

    /// Expects that nothing of the workload is alive now, nothing writes any more, and that what is left of estop ends.
    #[track_caller]
    pub(crate) fn expect_nothing_left(&self) {
        let left = self.workload_alive();
        assert!(left.is_empty(), "alive: {left:#?}");
        let before = self.written();
        until("estop itself has ended", || self.alive().is_empty());
        assert_eq!(before, self.written(), "something still writes");
        let groups = self.cgroups();
        assert!(groups.is_empty(), "left behind: {groups:?}");
    }

    /// What each writer has written so far.
    pub(crate) fn written(&self) -> BTreeMap<PathBuf, u64> {
        let entries = std::fs::read_dir(self.canary()).unwrap().flatten();
        entries.map(|entry| (entry.path(), entry.metadata().map_or(0, |metadata| metadata.len()))).collect()
    }

    /// The name of this estop's group of jobs.
    pub(crate) fn instance(&self) -> String {
        let path = self.house.state_dir();
        blake3::hash(path.as_os_str().as_encoded_bytes()).to_hex()[..16].to_owned()
    }

    /// The cgroups of this estop's jobs that exist, in every hierarchy.
    pub(crate) fn cgroups(&self) -> Vec<PathBuf> {
        let own = std::fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let mounts = mounts.lines().filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, mount, kind) = (fields.next()?, fields.next()?, fields.next()?);
            kind.starts_with("cgroup").then(|| PathBuf::from(mount))
        });
        let paths: Vec<&str> = own.lines().filter_map(|line| line.splitn(3, ':').nth(2)).collect();
        let delegated = self.delegated.iter().map(|group| group.path().join("estop").join(self.instance()));
        let mut found: Vec<PathBuf> = delegated.filter(|group| group.is_dir()).collect();
        for mount in mounts {
            for path in paths.iter().chain(&["/"]) {
                let group = mount.join(path.trim_start_matches('/')).join("estop").join(self.instance());
                if group.is_dir() && !found.contains(&group) {
                    found.push(group);
                }
            }
        }
        found
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let alive = self.alive();
            if alive.is_empty() {
                break;
            }
            for pid in alive.keys() {
                signal(*pid, Signal::KILL);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // A group is busy until the last of its processes was reaped.
        while !self.cgroups().is_empty() && begun.elapsed() < PATIENCE {
            for group in self.cgroups() {
                for job in std::fs::read_dir(&group).into_iter().flatten().flatten() {
                    let _ = std::fs::remove_dir(job.path());
                }
                let _ = std::fs::remove_dir(&group);
                let _ = std::fs::remove_dir(group.parent().unwrap());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Running {
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, which: Signal) {
        signal(self.pid(), which);
    }

    /// What it has said on standard error so far.
    pub(crate) fn errors(&self) -> String {
        std::fs::read_to_string(&self.err).unwrap_or_default()
    }

    /// What it has said on standard output so far.
    pub(crate) fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.out).unwrap_or_default()).into_owned()
    }

    /// Whether it runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(mut self) -> Outcome {
        use std::os::unix::process::ExitStatusExt as _;
        until("the program has ended", || self.child.try_wait().unwrap().is_some());
        let status = self.child.wait().unwrap();
        let code = status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or_default());
        Outcome { code, stdout: self.output(), stderr: self.errors() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Sends a signal to a process that this test started.
pub(crate) fn signal(pid: u32, which: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    // It may have ended meanwhile.
    let _ = kill_process(pid, which);
}

/// Makes `path` the ordinary user's.
pub(crate) fn give(path: &Path) {
    std::os::unix::fs::chown(path, Some(ORDINARY), Some(ORDINARY)).unwrap();
}

/// Whether the tests are run by root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The state letter of a process, as `/proc` names it; `None` once it is gone.
pub(crate) fn process_state(pid: u64) -> Option<char> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    text.rsplit_once(") ")?.1.chars().next()
}

/// Whether a process is there and not just waiting to be reaped.
pub(crate) fn runs(pid: u64) -> bool {
    process_state(pid).is_some_and(|state| state != 'Z' && state != 'X')
}
