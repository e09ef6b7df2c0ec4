//! On Windows a workload of estop's own user sees estop's state; its orders are refused all the same, by guardians and daemon.
#![cfg(windows)]
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;
mod scene;

use scene::{Scene, until};

#[test]
fn orders_from_inside_a_job_are_refused() {
    let scene = Scene::new();
    let orders = ["freeze b", "stop b", "limit set a time_max=1s", "start c", "restart b", "down"];
    let said: String =
        orders.map(|order| format!("estop --json {order} >> $CANARY/answers; echo $? >> $CANARY/codes; ")).concat();
    let body = format!("{said} echo > $CANARY/ready; sleep 1000");
    scene.house().config(&format!(
        "[workload.a]\ncommand = [\"sh\", \"-c\", {body:?}]\n[workload.b]\ncommand = [\"sleep\", \"1000\"]\n\
         [workload.c]\ncommand = [\"sleep\", \"1000\"]\nautostart = false\n"
    ));
    let brain = scene.up();
    let before = scene.wait_state("b", "running");
    until("it has tried everything", || scene.canary().join("ready").exists());
    let read = |name: &str| std::fs::read_to_string(scene.canary().join(name)).unwrap();
    assert_eq!(read("codes"), "4\n".repeat(orders.len()), "{}", read("answers"));
    assert_eq!(read("answers").matches("the caller is inside").count(), orders.len(), "{}", read("answers"));
    let b = scene.status("b");
    assert_eq!((&b["pid"], &b["state"]), (&before["pid"], &"running".into()));
    assert_eq!((&scene.status("c")["state"], &scene.status("a")["state"]), (&"stopped".into(), &"running".into()));
    scene.json(0, &["down"]);
    brain.wait().expect(0);
    scene.expect_nothing_left();
}

/// A program of the same user can end its guardian, and so itself and all that it has started.
#[test]
fn who_kills_its_guardian_ends_with_it() {
    let scene = Scene::new();
    let villain = scene.villain();
    let body = format!(
        "{villain} session; {villain} daemon; {villain} nameless; while [ ! -s $CANARY/nameless ]; do sleep 0.02; done; \
         echo > sign; while [ ! -s guardian ]; do sleep 0.02; done; kill -9 $(cat guardian); sleep 1000"
    );
    let run = scene.guard("w", &[], &["sh", "-c", &body], "sign");
    let guardian = scene.status("w")["guardian"]["pid"].as_u64().unwrap();
    scene.house().file("guardian", guardian.to_string());
    run.wait().expect(125);
    scene.expect_nothing_left();
}
