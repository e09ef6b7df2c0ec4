//! How a workload is asked to end: step by step, each with its own time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use std::io::{Read as _, Write as _};

use scene::{Scene, until};

/// A program that ends when it is pleased to, with code 7, and says what it has heard.
const WAITS: &str =
    "echo > $CANARY/ready; while [ ! -e $CANARY/please ]; do sleep 0.02; done; echo > $CANARY/heard; exit 7";

fn configure(scene: &Scene, body: &str, stop: &str, more: &str) {
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\nstop = [{stop}]\ngrace = \"60s\"\nenvironment = {{ KEY = \"secret\" }}\n{more}"
    ));
}

#[test]
fn a_command_is_run_in_the_job_and_what_it_asks_for_is_waited_for() {
    is_run_in_the_job("");
}

/// Without an init that would start it.
#[test]
fn a_command_is_run_in_a_job_without_a_pid_namespace() {
    is_run_in_the_job("pid_namespace = false\n");
}

fn is_run_in_the_job(more: &str) {
    let scene = Scene::new();
    // It stays after it has asked: with the job it ends too.
    let stop = "echo ${KEY}x > $CANARY/key; echo > $CANARY/please; sleep 1000";
    configure(&scene, WAITS, &format!("{{ exec = [\"sh\", \"-c\", {stop:?}] }}"), more);
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    let answer = scene.json(0, &["stop", "a"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    assert!(scene.canary().join("heard").exists(), "it was not waited for");
    until("its end is known", || scene.status("a")["last_exit"]["code"] == 7);
    let key = std::fs::read_to_string(scene.canary().join("key")).unwrap();
    assert_eq!(key.trim(), "x", "it got the program's variables");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn a_step_that_fails_or_takes_too_long_is_followed_by_the_next() {
    let scene = Scene::new();
    let (fails, last) = ("exit 3", "echo > $CANARY/please");
    // Waiting out the first would take a minute, and the second never ends.
    let stop = format!(
        "{{ exec = [\"sh\", \"-c\", {fails:?}] }}, {{ exec = [\"sleep\", \"1000\"], wait = \"100ms\" }}, {{ exec = [\"sh\", \"-c\", {last:?}] }}"
    );
    configure(&scene, WAITS, &stop, "");
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    let answer = scene.json(0, &["stop", "a"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    assert!(scene.canary().join("heard").exists(), "the last step was not taken");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// One that cares for nothing is killed after the last step, and the answer says that it was (category 0).
#[test]
fn after_the_last_step_it_is_killed() {
    let scene = Scene::new();
    let body = "trap '' TERM INT; echo > $CANARY/ready; while :; do sleep 0.1; done";
    configure(&scene, body, "{ signal = \"INT\", wait = \"50ms\" }, { signal = \"SIGTERM\", wait = \"50ms\" }", "");
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    let answer = scene.json(0, &["stop", "a"]);
    assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[cfg(unix)]
#[test]
fn each_signal_of_the_steps_arrives_in_its_turn() {
    let scene = Scene::new();
    let body = "trap 'echo int >> $CANARY/heard' INT; trap 'echo usr1 >> $CANARY/heard; exit 0' USR1; \
                echo > $CANARY/ready; while :; do sleep 0.02; done";
    configure(&scene, body, "{ signal = \"INT\", wait = \"300ms\" }, { signal = \"USR1\" }", "");
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    scene.json(0, &["stop", "a"]);
    assert_eq!(std::fs::read_to_string(scene.canary().join("heard")).unwrap(), "int\nusr1\n");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// As `pg_ctl stop` and `nginx -s quit` do.
#[cfg(unix)]
#[test]
fn a_command_of_the_steps_can_signal_the_workload() {
    let scene = Scene::new();
    let body = "trap 'echo > $CANARY/heard; exit 0' USR1; echo $$ > $CANARY/pid; echo > $CANARY/ready; \
                while :; do sleep 0.02; done";
    configure(&scene, body, "{ exec = [\"sh\", \"-c\", \"kill -USR1 $(cat $CANARY/pid)\"] }", "");
    let brain = scene.up();
    until("it runs", || scene.canary().join("ready").exists());
    scene.json(0, &["stop", "a"]);
    assert!(scene.canary().join("heard").exists());
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// Answers one request with `status`, and gives its first line.
fn serve(status: &'static str) -> (u16, std::thread::JoinHandle<String>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let served = std::thread::spawn(move || {
        let (mut caller, _) = listener.accept().unwrap();
        let mut request = [0; 4096];
        let length = caller.read(&mut request).unwrap();
        write!(caller, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        String::from_utf8_lossy(&request[..length]).lines().next().unwrap_or_default().to_owned()
    });
    (port, served)
}

#[test]
fn a_program_is_asked_over_http() {
    for (status, waits) in [("204 No Content", true), ("500 Internal Server Error", false)] {
        let scene = Scene::new();
        let (port, served) = serve(status);
        // Whoever is asked ends by itself a moment later, if it has said yes; else the next step is taken at once.
        let body = if waits { "echo > $CANARY/ready; sleep 2; exit 7" } else { WAITS };
        let last = "echo > $CANARY/please";
        let stop =
            format!("{{ http = \"http://127.0.0.1:{port}/bye?now=1\" }}, {{ exec = [\"sh\", \"-c\", {last:?}] }}");
        configure(&scene, body, &stop, "");
        let brain = scene.up();
        until("it runs", || scene.canary().join("ready").exists());
        let answer = scene.json(0, &["stop", "a"]);
        assert_eq!(answer["jobs"][0]["proven_empty"], true, "{answer:#}");
        assert_eq!(served.join().unwrap(), "POST /bye?now=1 HTTP/1.1");
        assert_eq!(scene.canary().join("please").exists(), !waits, "{status}");
        until("its end is known", || scene.status("a")["last_exit"]["code"] == 7);
        scene.json(0, &["down"]);
        brain.wait().expect(0);
        scene.expect_nothing_left();
    }
}
