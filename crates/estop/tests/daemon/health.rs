//! Whether a workload does its work, who waits for that, and what follows if it does not.

use std::io::{Read as _, Write as _};

use crate::scene::{Scene, until};

/// A workload's section.
fn workload(name: &str, body: &str, keys: &str) -> String {
    format!("[workload.{name}]\ncommand = [\"sh\", \"-c\", {body:?}]\n{keys}\n")
}

/// A check by a shell command.
fn exec(which: &str, body: &str, more: &str) -> String {
    format!("{which} = {{ exec = [\"sh\", \"-c\", {body:?}], every = \"50ms\"{more} }}")
}

#[test]
fn what_needs_another_is_started_after_it_is_ready_and_stopped_before_it() {
    let scene = Scene::new();
    // Told by a command, which works on every system.
    let says = |name: &str, begin: &str| {
        format!(
            "rm -f $CANARY/end-{name}; {begin}; while [ ! -e $CANARY/end-{name} ]; do sleep 0.05; done; echo {name} >> $CANARY/ended"
        )
    };
    let stop = |name: &str| format!("stop = [{{ exec = [\"sh\", \"-c\", \"echo > $CANARY/end-{name}\"] }}]\n");
    let db = says("db", "rm -f $CANARY/db; sleep 0.5; echo > $CANARY/db");
    let api = says("api", "[ -e $CANARY/db ] && echo > $CANARY/after");
    let config = workload("api", &api, &(stop("api") + "needs = [\"db\"]"))
        + &workload("db", &db, &(stop("db") + &exec("ready", "[ -e $CANARY/db ]", "")))
        + &workload("other", "sleep 1000", "");
    scene.house().config(&config);
    let brain = scene.up();
    scene.wait_state("db", "starting");
    scene.wait_state("api", "running");
    // It looks once, at its start: one that did not wait never makes the file.
    until("it was started after that", || scene.canary().join("after").exists());
    assert_eq!(scene.status("db")["ready"], true);

    scene.json(0, &["stop", "db"]);
    let ended = || std::fs::read_to_string(scene.canary().join("ended")).unwrap_or_default();
    assert_eq!(ended(), "api\ndb\n");
    assert_eq!(scene.status("other")["state"], "running");
    // To start one is to start what it needs.
    scene.json(0, &["start", "api"]);
    assert_eq!((&scene.status("api")["state"], &scene.status("db")["state"]), (&"running".into(), &"running".into()));
    scene.json(0, &["restart", "db"]);
    assert_eq!(ended(), "api\ndb\napi\ndb\n");
    assert_eq!(scene.status("api")["state"], "running");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    assert_eq!(ended(), "api\ndb\napi\ndb\napi\ndb\n");
    scene.expect_nothing_left();
}

#[test]
fn what_does_not_get_ready_in_time_is_stopped_and_whoever_waits_is_told() {
    let scene = Scene::new();
    let config =
        workload("a", "exec sleep 1000", &(exec("ready", "exit 3", ", within = \"300ms\"") + "\nautostart = false"))
            + &workload("b", "exec sleep 1000", "needs = [\"a\"]\nautostart = false");
    scene.house().config(&config);
    let brain = scene.up();
    let refused = scene.json(1, &["start", "b"]);
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(
        message.contains("b needs a") && message.contains("not ready within 300ms: the command ended with 3"),
        "{message}"
    );
    let status = scene.wait_state("a", "failed");
    assert!(status["failure"].as_str().unwrap().contains("not ready"), "{status:#}");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

#[test]
fn what_fails_its_checks_is_started_again_and_what_stands_still_fails_none() {
    let scene = Scene::new();
    let keys = exec("alive", "[ ! -e $CANARY/sick ]", ", failures = 2") + "\nrestart = \"on-failure\"";
    scene.house().config(&workload("a", "rm -f $CANARY/sick; echo > $CANARY/begun; exec sleep 1000", &keys));
    let brain = scene.up();
    scene.wait_state("a", "running");
    until("it has begun", || scene.canary().join("begun").exists());
    scene.json(0, &["freeze", "a"]);
    std::fs::write(scene.canary().join("sick"), "").unwrap();
    let pause = std::time::Instant::now();
    until("there were some checks", || pause.elapsed().as_millis() > 500);
    assert_eq!((&scene.status("a")["state"], &scene.status("a")["restarts"]), (&"frozen".into(), &0.into()));
    scene.json(0, &["thaw", "a"]);
    until("it was started again", || scene.status("a")["restarts"] == 1);
    until("it is well", || !scene.canary().join("sick").exists() && scene.status("a")["state"] == "running");
    scene.json(0, &["down"]);
    let log = brain.wait().expect(0).stderr;
    assert!(log.contains("it failed 2 checks in a row: the command ended with 1"), "{log}");
    scene.expect_nothing_left();
}

/// Answers with `statuses`, one after the other, the last for ever.
fn serve(statuses: &'static [&'static str]) -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for (number, caller) in listener.incoming().enumerate() {
            let Ok(mut caller) = caller else { continue };
            let _ = caller.read(&mut [0; 4096]);
            let status = statuses[number.min(statuses.len() - 1)];
            let _ = write!(caller, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
    });
    port
}

#[test]
fn readiness_is_asked_over_http_and_tcp() {
    let scene = Scene::new();
    let port = serve(&["503 Not Yet", "302 Found", "200 OK"]);
    let web = format!("ready = {{ http = \"http://127.0.0.1:{port}/health\", every = \"20ms\" }}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let tcp = format!("ready = {{ tcp = \"{}\", every = \"20ms\" }}", taken.local_addr().unwrap());
    scene.house().config(&(workload("web", "exec sleep 1000", &web) + &workload("db", "exec sleep 1000", &tcp)));
    let brain = scene.up();
    scene.wait_state("web", "running");
    scene.wait_state("db", "running");
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// As services do under a service manager.
#[cfg(unix)]
#[test]
fn a_program_says_itself_that_it_is_ready_and_alive() {
    const SAYS: &str = "import os, socket, time\n\
        s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\n\
        say = lambda text: s.sendto(text.encode(), '\\0' + os.environ['NOTIFY_SOCKET'][1:])\n\
        time.sleep(0.3)\n\
        say('STATUS=half of it\\nREADY=1')\n\
        end = time.time() + 1.5\n\
        while time.time() < end:\n\
        \x20   time.sleep(int(os.environ['WATCHDOG_USEC']) / 4e6)\n\
        \x20   say('WATCHDOG=1')\n\
        open(os.environ['CANARY'] + '/silent', 'w').close()\n\
        time.sleep(1000)\n";
    for more in ["", "pid_namespace = false"] {
        let scene = Scene::new();
        let script = scene.house().file(scene.canary().join("says.py"), SAYS);
        let body = format!("exec python3 {}", script.display());
        let keys = format!(
            "ready = {{ notify = true }}\nalive = {{ notify = true, timeout = \"400ms\" }}\nrestart = \"always\"\n{more}"
        );
        scene.house().config(&workload("a", &body, &keys));
        let brain = scene.up();
        scene.wait_state("a", "starting");
        let status = scene.wait_state("a", "running");
        assert_eq!(status["said"], "half of it", "{status:#}");
        until("it has fallen silent", || scene.canary().join("silent").exists());
        until("it is started again", || scene.status("a")["restarts"] == 1);
        scene.json(0, &["down"]);
        let log = brain.wait().expect(0).stderr;
        assert!(log.contains("no sign of life (WATCHDOG=1) for 0.4 s"), "{log}");
        scene.expect_nothing_left();
    }
}

#[test]
fn what_is_started_again_too_often_is_latched() {
    let scene = Scene::new();
    let config =
        workload("a", "exit 3", "restart = \"on-failure\"\nrestart_max = 1") + &workload("b", "exec sleep 1000", "");
    scene.house().config(&config);
    let brain = scene.up();
    let status = scene.wait_state("a", "latched");
    assert_eq!(status["restarts"], 1, "{status:#}");
    let all = scene.json(0, &["status"]);
    assert_eq!(
        (&all["latch"]["by"], &all["latch"]["scope"]),
        (&"crash-loop".into(), &serde_json::json!(["a"])),
        "{all:#}"
    );
    assert!(all["latch"]["reason"].as_str().unwrap().contains("started again 1 times within 10m"), "{all:#}");
    assert_eq!(scene.status("b")["state"], "running");
    scene.json(4, &["start", "a"]);
    scene.json(0, &["reset", "a"]);
    scene.json(0, &["start", "a"]);
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}
