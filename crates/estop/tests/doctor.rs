//! `estop doctor`, as its users see it.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod house;

#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;

use house::House;
use serde_json::Value;

fn check<'a>(report: &'a Value, name: &str) -> &'a Value {
    let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name);
    found.unwrap_or_else(|| panic!("no check {name}: {report:#}"))
}

#[test]
fn a_sound_host_is_told_so_and_nothing_is_left_behind() {
    let house = House::new();
    let report = house.json(0, &["doctor"]);
    assert_eq!(report["ok"], true);
    assert!(["kernel", "namespace", "tracked"].contains(&report["tier"].as_str().unwrap()));
    let own = if cfg!(unix) { ["kernel", "landlock"] } else { ["system", "tier"] };
    for name in own
        .into_iter()
        .chain(["tier", "memory-limit", "pids-limit", "cpu-limit", "process-memory-limit"])
        .chain(["cpu-weight-limit", "io-limit", "configuration", "latch", "clock"])
    {
        assert!(check(&report, name)["detail"].as_str().is_some_and(|detail| !detail.is_empty()), "{name}");
    }
    assert!(!house.state_dir().exists(), "a look made the state directory");
    let text = house.run(&["doctor"]).expect(0).stdout;
    assert!(text.contains("nothing that estop needs is broken"), "{text}");
}

#[cfg(unix)]
#[test]
fn a_state_directory_that_others_can_reach_is_broken() {
    let house = House::new();
    std::fs::create_dir(house.state_dir()).unwrap();
    std::fs::set_permissions(house.state_dir(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let report = house.json(1, &["doctor"]);
    let state = check(&report, "state-directory");
    assert_eq!((&state["ok"], &state["needed"]), (&false.into(), &true.into()));
    assert!(state["hint"].as_str().unwrap().contains("chmod 700"), "{state}");
}

#[test]
fn a_store_is_told_with_its_filesystem_and_one_without_its_directory_is_broken() {
    let house = House::new();
    house.file("notes/one", "1");
    house.config("[store.notes]\npath = \"notes\"\n");
    let report = house.json(0, &["doctor"]);
    assert!(check(&report, "store notes")["detail"].as_str().unwrap().contains("vault"));

    house.config("[store.notes]\npath = \"absent\"\n");
    let report = house.json(1, &["doctor"]);
    assert_eq!(check(&report, "store notes")["ok"], false);
    assert_eq!(check(&report, "configuration")["ok"], false);
}

#[test]
fn a_vault_that_does_not_answer_is_broken() {
    let house = House::new();
    let token = house.file("token", "s.example");
    #[cfg(unix)]
    std::fs::set_permissions(&token, std::fs::Permissions::from_mode(0o600)).unwrap();
    // A port that was free a moment ago: nothing answers there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    house.config(&format!(
        "[vault]\naddress = \"http://127.0.0.1:{port}\"\nallow_http_loopback = true\nauth = {{ token_file = {token:?} }}\n"
    ));
    let report = house.json(1, &["doctor"]);
    assert_eq!(check(&report, "secrets")["ok"], false);
}
