//! What becomes of a job from its start to its end.

use std::process::{Command, Stdio};
use std::time::Duration;

use estop_watchdog::Error;
use estop_watchdog::guardian::{self, LogSpec, OnBrainLoss, Streams};
use estop_watchdog::job::{ProcessId, SecretFile};
use estop_watchdog::ladder::Metric;
use estop_watchdog::stop::{Category, StoppedBy};

use crate::scene::{CANARY, HABIT, Scene, Test, outcome, quiet, start, until};
use crate::system;

pub(crate) const TESTS: &[Test] = &[
    ("a_program_ends_by_itself_and_its_code_is_kept", ends_by_itself),
    ("a_program_has_the_streams_it_was_given", streams),
    ("what_cannot_be_started_is_told_apart", not_started),
    ("a_name_is_one_jobs_at_a_time", name_taken),
    ("what_it_leaves_behind_is_ended_with_it", leaves_behind),
    ("secret_files_are_there_for_it_alone_and_go_with_it", secret_files),
    ("its_output_is_kept_within_bounds", bounded_log),
    ("without_its_starter_it_is_stopped_where_that_was_asked_for", starter_lost),
    ("a_process_that_the_kernel_refuses_is_noticed_without_a_sample", refused),
];

/// This process, as a guardian's record names one.
pub(crate) fn own() -> Option<ProcessId> {
    guardian::process_id(std::process::id())
}

fn ends_by_itself() {
    let scene = Scene::new();
    let mut guardian = start(&scene.spec("w", "exit"));
    let outcome = outcome(&mut guardian).unwrap();
    assert_eq!((outcome.exit.unwrap().code, outcome.stopped_by), (Some(7), None));
    assert!(!guardian.dir.is_alive().unwrap());
    guardian.dir.remove(&outcome.id).unwrap();
    assert!(guardian.dir.outcome().unwrap().is_none());
    scene.expect_nobody();
}

fn streams() {
    let scene = Scene::new();
    let file = |name: &str| std::fs::File::create(scene.path(name)).unwrap();
    let streams = Streams { input: Stdio::null(), output: file("out").into(), error: file("err").into() };
    let mut guardian = guardian::start(&scene.spec("w", "say"), streams).unwrap();
    assert_eq!(outcome(&mut guardian).unwrap().exit.unwrap().code, Some(0));
    let read = |name: &str| std::fs::read_to_string(scene.path(name)).unwrap();
    assert_eq!((read("out").trim_end(), read("err").trim_end()), ("said", "complained"));
}

fn not_started() {
    let scene = Scene::new();
    let mut spec = scene.spec("w", "exit");
    spec.job.program.argv = vec![scene.path("absent.exe").into()];
    let absent = guardian::start(&spec, quiet()).unwrap_err();
    assert!(matches!(&absent, Error::Exec { source, .. } if source.kind() == std::io::ErrorKind::NotFound), "{absent}");
    assert!(!scene.dir("w").is_alive().unwrap());
    let mut spec = scene.spec("w", "exit");
    spec.job.program.directory = Some(scene.path("absent"));
    assert!(guardian::start(&spec, quiet()).is_err());
}

fn name_taken() {
    let scene = Scene::new();
    let mut first = scene.running(&scene.spec("w", "sleep"));
    let second = guardian::start(&scene.spec("w", "sleep"), quiet()).unwrap_err();
    assert!(matches!(second, Error::NameTaken { .. }), "{second}");
    let report = scene.client("w").stop(Category::Kill, "enough", Duration::from_secs(30)).unwrap();
    assert!(report.proven_empty, "{report:#?}");
    assert_eq!(outcome(&mut first).unwrap().stopped_by, Some(StoppedBy::Operator));
    let mut again = start(&scene.spec("w", "exit"));
    assert_eq!(outcome(&mut again).unwrap().exit.unwrap().code, Some(7));
}

fn leaves_behind() {
    let scene = Scene::new();
    let mut guardian = scene.running(&scene.spec("w", "tree"));
    until("all of it is there", || scene.alive().len() >= 3);
    let main = scene.client("w").status().unwrap().main.unwrap();
    system::kill(main.pid);
    let outcome = outcome(&mut guardian).unwrap();
    assert_eq!(outcome.stopped_by, None);
    scene.expect_nobody();
}

fn secret_files() {
    let scene = Scene::new();
    let mut spec = scene.spec("w", "secret");
    let secrets = scene.dir("w").secrets();
    spec.job.secrets_dir = Some(secrets.clone());
    spec.job.program.environment.push(("SECRETS".to_owned().into(), secrets.clone().into()));
    spec.secret_files =
        vec![SecretFile { file: "key".to_owned(), secret: "api/key".to_owned(), value: b"s3cret".to_vec() }];
    let mut guardian = scene.running(&spec);
    assert_eq!(std::fs::read_to_string(scene.path("secret")).unwrap(), "s3cret");
    scene.client("w").stop(Category::Kill, "enough", Duration::from_secs(30)).unwrap();
    outcome(&mut guardian).unwrap();
    assert!(!secrets.exists());
}

fn bounded_log() {
    let scene = Scene::new();
    std::fs::write(scene.path("log"), "").unwrap();
    let mut spec = scene.spec("w", "talk");
    spec.sample_interval = Duration::from_millis(10);
    spec.log = Some(LogSpec { path: scene.path("log"), max_bytes: 200_000, max_age: None });
    let mut guardian = scene.running(&spec);
    let text = std::fs::read(scene.path("log")).unwrap();
    // Under Wine there are no holes, and all of it goes.
    assert!(system::is_wine() || text.ends_with(b"round 59\n"), "the newest is there");
    let kept = text.iter().skip_while(|byte| **byte == 0).count();
    assert!(kept < 1_500_000, "{kept} of 3,000,000 bytes are kept");
    scene.client("w").stop(Category::Kill, "enough", Duration::from_secs(30)).unwrap();
    outcome(&mut guardian).unwrap();
}

fn starter_lost() {
    let scene = Scene::new();
    let mut spec = scene.spec("w", "sleep");
    (spec.on_brain_loss, spec.brain_loss_grace) = (OnBrainLoss::Stop, Duration::from_millis(50));
    std::fs::write(scene.path("spec"), serde_json::to_vec(&spec).unwrap()).unwrap();
    let mut starter = Command::new(std::env::current_exe().unwrap());
    starter.env(HABIT, "starter").env(CANARY, scene.path("")).stdin(Stdio::null()).stdout(Stdio::null());
    let mut starter = starter.spawn().unwrap();
    until("the program runs", || scene.path("ready").exists() && scene.path("started").exists());
    system::kill(starter.id());
    starter.wait().unwrap();
    until("it has ended", || scene.dir("w").outcome().unwrap().is_some());
    assert_eq!(scene.dir("w").outcome().unwrap().unwrap().stopped_by, Some(StoppedBy::Operator));
    scene.expect_nobody();
    until("the guardian has put things away", || {
        !estop_durable::lock::Lock::is_held(&scene.dir("w").path().join("lock")).unwrap()
    });
}

fn refused() {
    const MAX: u64 = 8;
    let scene = Scene::new();
    let mut spec = scene.spec("w", "multiply");
    // Not by a sample, in the time that a test has.
    (spec.sample_interval, spec.job.limits.pids_max) = (Duration::from_hours(1), Some(MAX));
    let mut guardian = scene.running(&spec);
    let told = scene.client("w").status().unwrap().enforced.pids && system::tells_of_refusals();
    if !told {
        eprintln!("NOT TESTED: the kernel does not keep a limit of processes here, or tells nobody of a refusal");
        scene.client("w").stop(Category::Kill, "enough", Duration::from_secs(30)).unwrap();
        return drop(outcome(&mut guardian));
    }
    std::fs::write(scene.path("go"), "").unwrap();
    // The program itself lives longer than this waits.
    until("it is noticed", || scene.dir("w").outcome().unwrap().is_some());
    let outcome = outcome(&mut guardian).unwrap();
    assert!(scene.path("refused").exists());
    assert_eq!(outcome.breach.map(|breach| breach.metric), Some(Metric::Pids), "{outcome:#?}");
    scene.expect_nobody();
}
