//! What a hostile workload can do to its guard, in every tier and as every user: tried by a program inside the job, and looked at
//! from outside. The table below is the one of `docs/isolation.md`.

#![cfg(unix)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use scene::{Held, Running, Scene, Signal, is_root, process_state, runs, until};

/// One line for each tier and user. `-`: there is no cgroup to leave.
const TABLE: &str = "\
| tier | `isolation` | signal | ptrace | renice | oom-score | leave-cgroup | state |
| --- | --- | --- | --- | --- | --- | --- | --- |
| kernel | separate-uid | blocked | blocked | blocked | blocked | blocked | blocked |
| kernel | same-uid | blocked | blocked | blocked | blocked | blocked | blocked |
| kernel | root | blocked | blocked | blocked | blocked | blocked | blocked |
| kernel, no PID namespace | separate-uid | blocked | blocked | blocked | blocked | blocked | blocked |
| kernel, no PID namespace | same-uid | blocked | blocked | blocked | blocked | blocked | blocked |
| kernel, no PID namespace | root | blocked | blocked | blocked | possible | blocked | blocked |
| namespace | separate-uid | blocked | blocked | blocked | blocked | - | blocked |
| namespace | same-uid | blocked | blocked | blocked | blocked | - | blocked |
| namespace | root | blocked | blocked | blocked | blocked | - | blocked |
| tracked, no PID namespace | separate-uid | blocked | blocked | blocked | blocked | - | blocked |
| tracked, no PID namespace | same-uid | blocked | blocked | blocked | blocked | - | blocked |
| tracked, no PID namespace | root | blocked | blocked | blocked | possible | - | blocked |
| tracked, no namespaces, no Landlock | separate-uid | blocked | blocked | blocked | blocked | - | blocked |
| tracked, no namespaces, no Landlock | same-uid | possible | blocked | possible | blocked | - | possible |
| tracked, no namespaces, no Landlock | root | possible | possible | possible | possible | - | possible |
";

/// The options by which a run gets the tier of a line, and whether the host is to refuse mounts.
const TIERS: [(&str, &[&str], bool); 5] = [
    ("kernel", &["--require-tier", "kernel"], false),
    ("kernel, no PID namespace", &["--require-tier", "kernel", "--no-pid-namespace"], false),
    ("namespace", &["--require-tier", "namespace", "--no-cgroup"], false),
    ("tracked, no PID namespace", &["--no-cgroup", "--no-pid-namespace"], false),
    ("tracked, no namespaces, no Landlock", &["--no-cgroup", "--no-landlock"], true),
];

/// A program of many attacks, which does what it is told.
const INTRUDER: &str = include_str!("scene/intruder.py");
/// Runs a program on a host that lets nobody mount anything.
const WITHOUT_MOUNTS: &str = include_str!("scene/without-mounts.py");

/// Each attack: the column it belongs to, and what it is on.
const ATTACKS: &[(&str, &str, On)] = &[
    ("stop", "signal", On::Each),
    ("stop_by_descriptor", "signal", On::Each),
    ("stop_by_notification", "signal", On::Each),
    ("stop_the_group", "signal", On::Run),
    ("freeze", "signal", On::Group),
    ("seize", "ptrace", On::Each),
    ("attach", "ptrace", On::Each),
    ("write_memory", "ptrace", On::Each),
    ("write_memory_file", "ptrace", On::Each),
    ("nice", "renice", On::Guardian),
    ("nice_group", "renice", On::Guardian),
    #[cfg(target_arch = "x86_64")]
    ("nice_by_old_calls", "renice", On::Guardian),
    ("affinity", "renice", On::Guardian),
    ("policy", "renice", On::Guardian),
    ("io_priority", "renice", On::Guardian),
    ("limit", "renice", On::Guardian),
    ("oom_score", "oom-score", On::Each),
    ("leave", "leave-cgroup", On::Job),
    ("start_outside", "leave-cgroup", On::Job),
    ("plant_directly", "state", On::Files),
    ("uncover", "state", On::Files),
    ("plant_below_the_root_of", "ptrace", On::Files),
    ("plant_below_the_directory_of", "ptrace", On::Files),
    ("plant_by_descriptors_of", "ptrace", On::Files),
    ("plant_in_the_mounts_of", "ptrace", On::Files),
];

/// What an attack is on, and where its success shows.
#[derive(Clone, Copy, PartialEq)]
enum On {
    /// The guardian, the `estop run` and the daemon: all of them can be had, or none.
    Each,
    /// The guardian.
    Guardian,
    /// The `estop run`, which shares its process group with the command.
    Run,
    /// The cgroup of estop itself.
    Group,
    /// The place of the job's processes.
    Job,
    /// The state and run directories.
    Files,
}

/// A scene with a job whose workload attacks its guard.
struct Cell {
    scene: Scene,
    brain: Running,
    run: Running,
    bystander: Running,
    guardian: u32,
    main: u32,
    orders: usize,
    said: Vec<String>,
}

fn with(scene: &Scene, command: &Command, mounts_refused: bool) -> Command {
    let mut wrapped = if mounts_refused {
        let mut wrapped = Command::new("python3");
        wrapped.args(["-c", WITHOUT_MOUNTS]).arg(command.get_program());
        wrapped
    } else {
        Command::new(command.get_program())
    };
    wrapped.args(command.get_args()).envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    // A process group of its own, as a shell gives it: the test's is not to be attacked.
    wrapped.current_dir(scene.path()).process_group(0);
    wrapped
}

impl Cell {
    fn begin(scene: Scene, options: &[&str], mounts_refused: bool) -> Self {
        scene.open_to_others();
        std::fs::set_permissions(scene.canary(), std::fs::Permissions::from_mode(0o777)).unwrap();
        let script = scene.house().file("intruder.py", INTRUDER).display().to_string();
        let program = scene.path().join("estop-copy").display().to_string();
        std::fs::copy(house::ESTOP, &program).unwrap();
        let brain = scene.up();
        let token = scene.house().state_dir().join("token");
        std::fs::write(&token, scene.instance()).unwrap();
        std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
        if scene.is_ordinary() {
            scene::give(&token);
        }
        let bystander = scene.guard(
            "bystander",
            &[],
            &["sh", "-c", "echo > $CANARY/bystander; exec sleep 1000"],
            "canary/bystander",
        );
        let (state, run_dir) = (scene.house().state_dir().display().to_string(), scene.run_dir().display().to_string());
        let group = scene.group().unwrap().display().to_string();
        let mut arguments = vec!["run", "--name", "w"];
        arguments.extend(options);
        arguments.extend(["--", "python3", &script, &program, &state, &run_dir, &group]);
        let mut run = scene.start(&mut with(&scene, &scene.command(&arguments), mounts_refused));
        until("the intruder has begun", || {
            assert!(run.is_alive(), "it ended: {}", run.errors());
            scene.canary().join("ready").exists()
        });
        let status = scene.status("w");
        let pid = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
        let (guardian, main) = (pid(&status["guardian"]["pid"]), pid(&status["pid"]));
        Self { scene, brain, run, bystander, guardian, main, orders: 0, said: Vec::new() }
    }

    /// Has the intruder do something, and waits until it did, or was caught in it itself.
    fn order(&mut self, words: &str) {
        let canary = self.scene.canary();
        let (path, done) =
            (canary.join(format!("order-{}", self.orders)), canary.join(format!("done-{}", self.orders)));
        std::fs::write(canary.join("order"), words).unwrap();
        std::fs::rename(canary.join("order"), path).unwrap();
        self.orders += 1;
        until(&format!("the intruder has tried {words}"), || {
            done.exists() || self.is_frozen() || process_state(self.main.into()).is_none_or(|state| state == 'Z')
        });
        self.said.push(format!("{words}: {}", std::fs::read_to_string(done).unwrap_or_default()));
    }

    fn is_frozen(&self) -> bool {
        let events = std::fs::read_to_string(self.scene.group().unwrap().join("cgroup.events")).unwrap();
        events.lines().any(|line| line == "frozen 1")
    }

    fn victims(&self, on: On) -> Vec<u32> {
        match on {
            On::Each => vec![self.guardian, self.run.pid(), self.brain.pid()],
            On::Run => vec![self.run.pid()],
            _ => vec![self.guardian],
        }
    }

    /// Has an attack tried, and says whether it came off.
    fn try_attack(&mut self, attack: &str, on: On, victim: u32) -> bool {
        let before = self.seen(attack, on, victim);
        let memory = attack.starts_with("write_memory");
        let address = if memory { format!(" {}", field(victim, 45)) } else { String::new() };
        self.order(&format!("{attack} {victim}{address}"));
        if let On::Each | On::Run = on
            && attack.starts_with("stop")
        {
            let stopped = is_stopped(victim);
            signal(victim, Signal::CONT);
            until("it runs again", || !is_stopped(victim));
            return stopped;
        }
        let told = on == On::Files && self.said.last().unwrap().contains(&self.scene.instance());
        let came_off = told || before != self.seen(attack, on, victim);
        if came_off && matches!(attack, "seize" | "attach") {
            self.order(&format!("let_go {victim}"));
        }
        if on == On::Group {
            // It may have caught itself, and go on with another way when it is let go.
            let done = self.scene.canary().join(format!("done-{}", self.orders - 1));
            let thaw = self.scene.group().unwrap().join("cgroup.freeze");
            until("all run again", || {
                std::fs::write(&thaw, "0").unwrap();
                done.exists() && !self.is_frozen()
            });
        }
        came_off
    }

    /// What an attack would change.
    fn seen(&self, attack: &str, on: On, victim: u32) -> String {
        let read = |file: &str| std::fs::read_to_string(format!("/proc/{victim}/{file}")).unwrap();
        let line = |file: &str, key: &str| read(file).lines().find(|line| line.starts_with(key)).unwrap().to_owned();
        match (attack, on) {
            ("seize" | "attach", _) => line("status", "TracerPid:"),
            ("write_memory" | "write_memory_file", _) => read("cmdline"),
            ("nice" | "nice_group" | "nice_by_old_calls", _) => field(victim, 16),
            ("affinity", _) => line("status", "Cpus_allowed_list:"),
            ("policy", _) => field(victim, 38),
            ("io_priority", _) => {
                let shown = Command::new("ionice").args(["-p", &victim.to_string()]).output().unwrap();
                String::from_utf8(shown.stdout).unwrap()
            }
            ("limit", _) => line("limits", "Max msgqueue size"),
            ("oom_score", _) => read("oom_score_adj"),
            (_, On::Group) => self.is_frozen().to_string(),
            (_, On::Job) => format!("{:?}", self.places()),
            (_, On::Files) => format!("{:?}", self.reached()),
            (_, On::Each | On::Guardian | On::Run) => String::new(),
        }
    }

    /// The cgroups that the job's processes are in.
    fn places(&self) -> BTreeSet<String> {
        let children = |pid: &u32| {
            let path = format!("/proc/{pid}/task/{pid}/children");
            let text = std::fs::read_to_string(path).unwrap_or_default();
            text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
        };
        let mut waiting = vec![self.main];
        let mut found = BTreeSet::new();
        while let Some(pid) = waiting.pop() {
            waiting.extend(children(&pid));
            found.extend(std::fs::read_to_string(format!("/proc/{pid}/cgroup")));
        }
        found
    }

    /// What was planted in estop's directories.
    fn reached(&self) -> BTreeSet<String> {
        let planted = [self.scene.house().state_dir(), self.scene.run_dir()].into_iter().flat_map(|dir| {
            let names = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name.starts_with("planted")).collect::<Vec<_>>()
        });
        planted.collect()
    }
}

/// One field of `/proc/PID/stat`, counted from the state.
fn field(pid: u32, number: usize) -> String {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit_once(") ").unwrap().1.split(' ').nth(number).unwrap().to_owned()
}

/// Whether a process is stopped, or about to be. One that has taken the signal and has not stopped yet would be taken for one
/// that runs on, so it is looked at for a while.
fn is_stopped(pid: u32) -> bool {
    const STOP: u64 = 1 << 18;
    (0..10).any(|_| {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let pending = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
        let stopping = u64::from_str_radix(pending.trim(), 16).unwrap() & STOP != 0;
        std::thread::sleep(std::time::Duration::from_millis(2));
        stopping || process_state(pid.into()) == Some('T')
    })
}

fn signal(pid: u32, which: Signal) {
    Held::new(pid).signal(which);
}

/// Tries everything in one cell of the table, and compares it with what stands there and with what `status` says.
fn check(tier: &str, options: &[&str], mounts_refused: bool, isolation: &str, scene: Scene) {
    let mut cell = Cell::begin(scene, options, mounts_refused);
    let status = cell.scene.status("w");
    assert_eq!(status["isolation"], isolation, "{status:#}");
    assert_eq!(status["tier"], tier.split(',').next().unwrap(), "{status:#}");
    let expected = expected(tier, isolation);
    let mut wrong = Vec::new();
    for &(attack, column, on) in ATTACKS {
        let Some(possible) = expected.get(column) else { continue };
        for victim in cell.victims(on) {
            let came_off = cell.try_attack(attack, on, victim);
            let said = cell.said.last().unwrap();
            eprintln!("{tier} / {isolation}: {column}: {}: {said}", if came_off { "CAME OFF" } else { "held" });
            // Some kernels run no 32-bit programs.
            let must = !attack.ends_with("old_calls");
            if came_off != *possible && (came_off || must) {
                wrong.push(format!("{column}: came off: {came_off}: {said}"));
            }
        }
    }
    // Whatever it can reach, it gets no orders through.
    cell.order("order 0");
    assert_eq!(cell.scene.status("bystander")["state"], "running", "{:?}", cell.said.last());
    let possible: BTreeSet<&str> =
        expected.iter().filter(|(_, possible)| **possible).map(|(name, _)| &**name).collect();
    let reachable = status["reachable"].as_array().into_iter().flatten().filter_map(|reach| reach.as_str());
    if status["reachable"].is_null() || reachable.collect::<BTreeSet<_>>() != possible {
        wrong.push(format!("status says {}, the table says {possible:?}", status["reachable"]));
    }
    assert!(wrong.is_empty(), "{tier} / {isolation}: {wrong:#?}");
    let killable = possible.contains("signal");
    end(cell, killable);
}

/// A guardian that can be killed takes its job with it; any other lives on, and ends the job when it is told to.
fn end(mut cell: Cell, killable: bool) {
    let guardian = cell.guardian;
    cell.order(&format!("kill {guardian}"));
    if killable {
        cell.run.wait().expect(125);
    } else {
        assert_eq!(cell.scene.status("w")["guardian"]["alive"], true, "{:?}", cell.said.last());
        assert!(runs(guardian.into()) && runs(cell.brain.pid().into()) && cell.run.is_alive());
        let answer = cell.scene.json(0, &["now", "w"]);
        assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
        cell.run.wait().expect(124);
    }
    cell.scene.json(0, &["now", "bystander"]);
    cell.bystander.wait().expect(124);
    cell.brain.leave();
    cell.scene.expect_nothing_left();
}

/// The columns of a line of the table, without those that do not apply, and whether they are possible.
fn expected(tier: &str, isolation: &str) -> BTreeMap<String, bool> {
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let names = cells(TABLE.lines().next().unwrap());
    let line = TABLE.lines().map(cells).find(|line| line[0] == tier && line[1] == isolation).unwrap();
    let columns = names.into_iter().zip(line).skip(2).filter(|(_, cell)| cell != "-");
    columns.map(|(name, cell)| (name, cell == "possible")).collect()
}

/// All users in one tier.
fn in_tier(number: usize) {
    let (tier, options, mounts_refused) = TIERS[number];
    if !is_root() {
        eprintln!("SKIPPED: only root can become every user");
        return;
    }
    check(tier, options, mounts_refused, "root", Scene::new().grouped());
    let another = [options, &["--user", "nobody"]].concat();
    check(tier, &another, mounts_refused, "separate-uid", Scene::new().grouped());
    let delegated = Scene::delegated().unwrap();
    // As a service manager of that user makes it.
    scene::give(&delegated.group().unwrap().join("cgroup.freeze"));
    check(tier, options, mounts_refused, "same-uid", delegated);
    if !options.contains(&"kernel") && !mounts_refused {
        // Where nothing was delegated, less has to be taken from it.
        check(tier, options, mounts_refused, "same-uid", Scene::ordinary().unwrap().grouped());
    }
}

#[test]
fn a_hostile_workload_in_a_cgroup_and_a_namespace() {
    in_tier(0);
}

#[test]
fn a_hostile_workload_in_a_cgroup_alone() {
    in_tier(1);
}

#[test]
fn a_hostile_workload_in_a_namespace_alone() {
    in_tier(2);
}

#[test]
fn a_hostile_workload_that_is_tracked() {
    in_tier(3);
}

#[test]
fn a_hostile_workload_where_the_host_has_nothing() {
    in_tier(4);
}

#[test]
fn the_documented_table_is_the_one_that_is_tested() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/isolation.md");
    let documented = std::fs::read_to_string(path).unwrap();
    assert!(documented.contains(TABLE), "put this into docs/isolation.md:\n{TABLE}");
    assert_eq!(TABLE.lines().count(), 2 + 3 * TIERS.len());
}
