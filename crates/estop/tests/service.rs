//! The daemon as a service, with the real service control manager. On a real Windows this needs an administrator.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use std::sync::atomic::{AtomicU32, Ordering};

use scene::{Scene, until};
use serde_json::Value;

/// What the names of tests' services begin with.
const PREFIX: &str = "estop-test-";
const SERVICES: &str = r"SYSTEM\CurrentControlSet\Services";

/// A service of a test's own, gone with it.
struct Service<'a> {
    scene: &'a Scene,
    name: String,
}

impl<'a> Service<'a> {
    fn install(scene: &'a Scene) -> Self {
        sweep(scene);
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{PREFIX}{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let service = Self { scene, name };
        let installed = service.json(0, "install", &["--manual"]);
        assert_eq!((&installed["state"], &installed["start"]), (&"stopped".into(), &"manual".into()), "{installed:#}");
        service
    }

    #[track_caller]
    fn json(&self, code: i32, what: &str, more: &[&str]) -> Value {
        self.scene.json(code, &[&["service", what, "--name", &self.name], more].concat())
    }

    fn state(&self) -> Value {
        self.json(0, "status", &[])["state"].clone()
    }
}

impl Drop for Service<'_> {
    fn drop(&mut self) {
        let outcome = self.scene.run(&["service", "uninstall", "--name", &self.name]);
        if !std::thread::panicking() {
            assert_eq!(outcome.code, 0, "{outcome:?}");
        }
    }
}

/// Removes what a run of the tests has left that was killed.
fn sweep(scene: &Scene) {
    let own = format!("{PREFIX}{}-", std::process::id());
    let services = windows_registry::LOCAL_MACHINE.open(SERVICES).unwrap();
    for name in services.keys().unwrap().filter(|name| name.starts_with(PREFIX) && !name.starts_with(&own)) {
        let alive = name[PREFIX.len()..].split('-').next().and_then(|pid| pid.parse().ok()).is_some_and(scene::runs);
        if !alive {
            scene.run(&["service", "uninstall", "--name", &name]);
        }
    }
}

fn is_registered(name: &str) -> bool {
    let source = format!(r"{SERVICES}\EventLog\Application\{name}");
    windows_registry::LOCAL_MACHINE.open(source).is_ok()
}

/// A service has the system's variables, and its programs are found by those.
fn sleeper(scene: &Scene) -> String {
    format!("[workload.a]\ncommand = [{:?}, \"1000\"]\n", scene.path().join(r"bin\sleep.exe"))
}

#[test]
fn a_service_comes_runs_its_workloads_leaves_them_running_and_goes() {
    let scene = Scene::new();
    scene.house().config(&sleeper(&scene));
    let service = Service::install(&scene);
    assert!(is_registered(&service.name), "it is no source of the Event Log");
    service.json(4, "install", &[]);
    assert_eq!(service.json(0, "start", &[])["state"], "running");
    service.json(4, "start", &[]);
    let before = scene.wait_state("a", "running");
    assert_eq!(scene.json(0, &["status"])["brain"]["pid"], service.json(0, "status", &[])["pid"]);
    // For the daemon alone; and the next one adopts it.
    assert_eq!(service.json(0, "stop", &[])["state"], "stopped");
    assert_eq!(scene.status("a")["pid"], before["pid"]);
    service.json(0, "stop", &[]);
    service.json(0, "start", &[]);
    assert_eq!(scene.status("a")["pid"], before["pid"]);
    scene.json(0, &["now"]);
    scene.json(0, &["down"]);
    until("the service has ended with its daemon", || service.state() == "stopped");
    let name = service.name.clone();
    drop(service);
    assert!(windows_registry::LOCAL_MACHINE.open(format!(r"{SERVICES}\{name}")).is_err());
    assert!(!is_registered(&name));
    scene.expect_nothing_left();
}

#[test]
fn a_service_whose_daemon_cannot_start_says_so() {
    let scene = Scene::new();
    scene.house().config(&sleeper(&scene));
    let service = Service::install(&scene);
    scene.house().config("[workload.a]\ncommand = [\"no-such-program\"]\n");
    let failed = service.json(1, "start", &[]);
    assert!(failed["error"]["message"].as_str().unwrap().contains("exit code 2"), "{failed:#}");
    scene.house().config("nonsense");
    service.json(1, "start", &[]);
    assert_eq!(service.json(0, "status", &[])["exit_code"], 2);
    scene.house().config("");
    service.json(0, "start", &[]);
    service.json(0, "stop", &[]);
}

#[test]
fn services_of_others_and_what_is_none_are_refused() {
    let scene = Scene::new();
    assert_eq!(scene.json(2, &["--config", "absent.toml", "service", "install"])["error"]["kind"], "config");
    scene.house().config(&sleeper(&scene));
    assert_eq!(scene.json(2, &["service", "install", "--name", "a b"])["error"]["kind"], "usage");
    assert_eq!(scene.json(1, &["service", "status", "--name", "no-such"])["error"]["kind"], "no-such-service");
    for what in ["start", "stop", "status", "uninstall"] {
        let refused = scene.json(4, &["service", what, "--name", "EventLog"]);
        assert_eq!(refused["error"]["kind"], "other-service", "{refused:#}");
    }
    let run = scene.run(&["service", "run", "--name", "x"]).expect(2);
    assert!(run.stderr.contains("service control manager alone"), "{run:?}");
}
