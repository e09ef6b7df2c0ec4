//! What a guardian does for those who speak to it, and for whom it does nothing.

use std::time::Duration;

use estop_watchdog::guardian::table::State;
use estop_watchdog::job::Limits;
use estop_watchdog::ladder::Thresholds;
use estop_watchdog::stop::Category;

use crate::scene::{Scene, Test, outcome, until};
use crate::system;

pub(crate) const TESTS: &[Test] = &[
    ("it_says_how_its_job_is_and_who_is_in_it", status),
    ("it_freezes_and_thaws", freeze),
    ("it_takes_other_limits_while_the_job_runs", limits),
    ("nobody_inside_a_job_gives_orders", inside),
    ("many_speak_at_the_same_time", many),
];

const LONG: Duration = Duration::from_secs(30);

fn status() {
    let scene = Scene::new();
    let mut guardian = scene.running(&scene.spec("w", "tree"));
    until("all of it is there", || scene.alive().len() >= 3);
    let mut client = scene.client("w");
    let status = client.status().unwrap();
    assert_eq!((status.state, status.name.as_str()), (State::Running, "w"));
    assert_eq!(status.guardian.pid, guardian.process.id());
    // It may still grow.
    let alive = scene.alive().len();
    let listing = client.inspect().unwrap();
    let listed: Vec<u32> = listing.processes.iter().map(|process| process.id.pid).collect();
    // A list of the PID namespace's own names them by other numbers; there are as many.
    assert!(listed.len() >= alive, "{listing:#?}");
    let main = listing.processes.iter().find(|process| Some(process.id) == status.main).unwrap();
    // Wine does not tell them.
    assert!(
        system::is_wine() || main.arguments.contains(scene.path("").file_name().unwrap().to_str().unwrap()),
        "{main:?}"
    );
    until("it was counted", || scene.client("w").status().unwrap().processes >= 3);
    client.stop(Category::Kill, "enough", LONG).unwrap();
    outcome(&mut guardian).unwrap();
    scene.expect_nobody();
}

fn freeze() {
    let scene = Scene::new();
    let mut guardian = scene.running(&scene.spec("w", "beat"));
    let written = || std::fs::metadata(scene.path("beat")).unwrap().len();
    let mut client = scene.client("w");
    assert_eq!(client.freeze(None).unwrap().state, State::Frozen);
    let before = written();
    // As long as ten beats take.
    client.status().unwrap();
    std::thread::sleep(Duration::from_millis(50));
    assert_eq!(written(), before, "it is frozen and writes");
    assert_eq!(client.thaw().unwrap().state, State::Running);
    until("it writes again", || written() > before);
    client.freeze(Some(Duration::from_millis(50))).unwrap();
    until("its lease is over", || client.status().unwrap().state == State::Running);
    client.stop(Category::Kill, "enough", LONG).unwrap();
    outcome(&mut guardian).unwrap();
}

fn limits() {
    let scene = Scene::new();
    let mut guardian = scene.running(&scene.spec("w", "sleep"));
    let limits = Limits { time_max: Some(Duration::from_millis(10)), ..Limits::default() };
    scene.client("w").set_limits(&limits, &Thresholds::default()).unwrap();
    let outcome = outcome(&mut guardian).unwrap();
    assert!(outcome.reason.contains("time"), "{outcome:#?}");
    assert!(outcome.report.unwrap().proven_empty);
    scene.expect_nobody();
}

fn inside() {
    let scene = Scene::new();
    let mut other = scene.running(&scene.spec("other", "sleep"));
    std::fs::remove_file(scene.path("ready")).unwrap();
    let mut spec = scene.spec("w", "order");
    // That it cannot see the run directory is another matter.
    spec.job.containment.pid_namespace = false;
    let mut guardian = scene.running(&spec);
    let answers = std::fs::read_to_string(scene.path("ready")).unwrap();
    assert_eq!(answers.lines().filter(|answer| answer.contains("inside")).count(), 2, "{answers}");
    for name in ["w", "other"] {
        scene.client(name).stop(Category::Kill, "enough", LONG).unwrap();
    }
    outcome(&mut guardian).unwrap();
    outcome(&mut other).unwrap();
}

fn many() {
    let scene = Scene::new();
    let mut guardian = scene.running(&scene.spec("w", "sleep"));
    let mut silent: Vec<_> = (0..20).map(|_| scene.client("w")).collect();
    let answered = |client: &mut estop_watchdog::guardian::Client| client.status().is_ok();
    // The last ones are there; where there is no room, who was silent longest has gone.
    assert!(silent.iter_mut().rev().take(8).all(answered));
    assert!(scene.client("w").status().is_ok());
    drop(silent);
    scene.client("w").stop(Category::Kill, "enough", LONG).unwrap();
    outcome(&mut guardian).unwrap();
}
