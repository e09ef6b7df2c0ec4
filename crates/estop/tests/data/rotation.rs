//! Rotation: made, tested, told, revoked; and what is left when a part of it fails.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::thread::JoinHandle;

use serde_json::Value;

use crate::house::House;
#[cfg(unix)]
use crate::house::until;

/// Answers one request with 204 and gives its body.
fn webhook() -> (u16, JoinHandle<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = std::thread::spawn(move || {
        let mut reader = BufReader::new(listener.accept().unwrap().0);
        let mut length = 0;
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
            if line.trim().is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body).unwrap();
        reader.get_mut().write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").unwrap();
        String::from_utf8(body).unwrap()
    });
    (port, server)
}

fn value(house: &House, name: &str) -> String {
    house.run(&["secret", "get", name]).expect(0).stdout
}

#[test]
fn a_new_value_is_tested_put_in_force_and_told_and_the_old_one_revoked() {
    let house = House::new();
    house.feed(&["secret", "put", "db/password"], "the-old-one").expect(0);
    let tested = house.script("tested", "cat > tested.json");
    let told = house.script("told", "cat > told.json");
    let (port, hook) = webhook();
    house.config(&format!(
        "[secret.\"db/password\"]\ntest = [{tested:?}]\nnotify = [\n  {{ exec = [{told:?}] }},\n  {{ webhook = \"http://127.0.0.1:{port}/rotated\" }},\n]\n"
    ));
    let rehearsed = house.json(0, &["rotate", "db/password", "--dry-run"]);
    assert_eq!(rehearsed["rotations"][0]["promoted"], false);
    assert_eq!(rehearsed["rotations"][0]["to_version"], 2);
    assert_eq!(value(&house, "db/password"), "the-old-one");

    let answer = house.json(0, &["rotate", "db/password"]);
    let rotation = &answer["rotations"][0];
    assert_eq!(rotation["name"], "db/password");
    assert_eq!([&rotation["from_version"], &rotation["to_version"]], [1, 2]);
    assert_eq!([&rotation["promoted"], &rotation["old_revoked"], &rotation["still_exposed"]], [true, true, false]);
    assert_eq!(rotation["error"], Value::Null);
    assert!(rotation["notified"].as_array().unwrap().iter().all(|one| one["acknowledged"] == true), "{answer}");
    assert!(answer["seconds"].is_f64() && rotation["seconds"].is_f64());

    let new = value(&house, "db/password");
    assert!(new.len() >= 16 && new != "the-old-one");
    let read = |name: &str| std::fs::read_to_string(house.path().join(name)).unwrap();
    assert!(read("tested.json").contains(&new), "the value that was tested is not the one in force");
    let heard = hook.join().unwrap();
    for message in [read("told.json"), heard] {
        let message: Value = serde_json::from_str(&message).unwrap();
        assert_eq!((&message["name"], &message["version"]), (&"db/password".into(), &2.into()));
        assert!(!message.to_string().contains(&new), "the value left with the message");
    }
    house.run(&["secret", "get", "db/password", "--version", "1"]).expect(1);
}

#[test]
fn a_value_that_does_not_work_leaves_the_old_one_in_force() {
    let house = House::new();
    house.feed(&["secret", "put", "token"], "works").expect(0);
    house.feed(&["secret", "put", "other"], "old").expect(0);
    let refuse = house.script("refuse", "cat > /dev/null; exit 1");
    let told = house.script("tell", "touch told");
    house.config(&format!(
        "[secret.token]\ntest = [{refuse:?}]\nnotify = [{{ exec = [{told:?}] }}]\n\n[secret.other]\n"
    ));
    let answer = house.json(3, &["rotate", "--all"]);
    let of =
        |name: &str| answer["rotations"].as_array().unwrap().iter().find(|one| one["name"] == name).unwrap().clone();
    assert_eq!((&of("token")["promoted"], &of("other")["promoted"]), (&false.into(), &true.into()));
    assert!(of("token")["error"].as_str().unwrap().contains("does not work"), "{answer}");
    assert_eq!(value(&house, "token"), "works");
    assert_ne!(value(&house, "other"), "old");
    assert!(!house.path().join("told").exists(), "somebody was told of a version that is not in force");
    let shown = house.run(&["rotate", "token"]).expect(3);
    assert!(shown.stdout.contains("failed") && shown.stdout.contains("in force"), "{shown:?}");
}

#[test]
fn a_webhook_whose_signing_key_is_missing_keeps_no_leaked_secret_in_force() {
    let house = House::new();
    house.feed(&["secret", "put", "leaked"], "exposed").expect(0);
    let hook = "{ webhook = \"http://127.0.0.1:9/rotated\", key = \"hook/signature\" }";
    house.config(&format!("[secret.leaked]\nnotify = [{hook}]\n"));
    let answer = house.json(3, &["rotate", "leaked", "--emergency"]);
    let rotation = &answer["rotations"][0];
    assert_eq!([&rotation["promoted"], &rotation["old_revoked"], &rotation["still_exposed"]], [true, true, false]);
    let told = &rotation["notified"][0];
    assert_eq!(told["acknowledged"], false, "{answer}");
    assert!(told["error"].as_str().unwrap().contains("hook/signature"), "{answer}");
    assert_ne!(value(&house, "leaked"), "exposed");
}

#[test]
fn no_older_version_stays_valid_without_an_end() {
    let house = House::new();
    for value in ["leaked", "put by hand"] {
        house.feed(&["secret", "put", "token"], value).expect(0);
    }
    house.config("[secret.token]\n[secret.told]\nnotify = [{ exec = [\"true\"] }]\n");
    house.json(0, &["rotate", "token"]);
    let versions = house.json(0, &["secret", "versions", "token"]);
    for version in versions["versions"].as_array().unwrap().iter().take(2) {
        assert!(version["valid_until"].is_string() || version["state"] == "current", "{versions:#}");
    }
    for value in ["leaked", "put by hand"] {
        house.feed(&["secret", "put", "told"], value).expect(0);
    }
    house.json(0, &["rotate", "told"]);
    for version in ["1", "2"] {
        house.run(&["secret", "get", "told", "--version", version]).expect(1);
    }
}

#[test]
fn what_nobody_can_make_is_reported_beside_what_was_done() {
    let house = House::new();
    for name in ["made", "unmade"] {
        house.feed(&["secret", "put", name], "exposed").expect(0);
    }
    house.config("[secret.made]\n");
    let answer = house.json(3, &["rotate", "unmade", "made", "--emergency"]);
    let (unmade, made) = (&answer["rotations"][0], &answer["rotations"][1]);
    assert_eq!([&unmade["promoted"], &unmade["still_exposed"]], [false, true]);
    assert!(unmade["error"].as_str().unwrap().contains("[secret.\"unmade\"]"), "{answer}");
    assert_eq!([&made["promoted"], &made["old_revoked"], &made["still_exposed"]], [true, true, false]);
    assert_eq!(value(&house, "unmade"), "exposed");
    let shown = house.run(&["rotate", "unmade", "--emergency", "--dry-run"]).expect(3);
    assert!(shown.stdout.contains("STILL VALID"), "{shown:?}");

    let answer = house.json(3, &["rotate", "unmade", "--emergency", "--revoke-anyway"]);
    assert_eq!([&answer["rotations"][0]["old_revoked"], &answer["rotations"][0]["still_exposed"]], [true, false]);
    assert_eq!(house.json(1, &["secret", "get", "unmade"])["error"]["kind"], "revoked");
}

#[test]
fn what_is_to_be_rotated_has_to_be_said() {
    let house = House::new();
    for words in [&["rotate"][..], &["rotate", "--all"], &["rotate", "a b"], &["rotate", "x", "--revoke-anyway"]] {
        house.run(words).expect(2);
    }
    let nothing = house.json(0, &["rotate", "--exposed-to", "agent"]);
    assert_eq!(nothing["rotations"], Value::Array(Vec::new()));
}

#[test]
fn what_a_workload_was_given_is_known_and_replaced() {
    let house = House::new();
    for name in ["token", "unrelated"] {
        house.feed(&["secret", "put", name], "given-away").expect(0);
    }
    house.config("[secret.token]\n[secret.unrelated]\n");
    let seen = house.run(&["run", "--name", "agent", "--secret", "KEY=token", "--", "sh", "-c", "echo $KEY"]).expect(0);
    assert_eq!(seen.stdout, "given-away\n");
    let given = house.json(0, &["secret", "exposure", "token"]);
    assert_eq!(
        (&given["exposures"][0]["workload"], &given["exposures"][0]["channel"]),
        (&"agent".into(), &"env".into())
    );

    let answer = house.json(0, &["rotate", "--exposed-to", "agent", "--emergency"]);
    assert_eq!(answer["rotations"].as_array().unwrap().len(), 1, "{answer}");
    assert_eq!([&answer["rotations"][0]["old_revoked"], &answer["rotations"][0]["still_exposed"]], [true, false]);
    assert_ne!(value(&house, "token"), "given-away");
    assert_eq!(value(&house, "unrelated"), "given-away");
}

/// A program under guard, until this is dropped.
#[cfg(unix)]
struct Guarded<'a> {
    house: &'a House,
    run: std::process::Child,
}

#[cfg(unix)]
impl Drop for Guarded<'_> {
    fn drop(&mut self) {
        self.house.run(&["now", "agent"]);
        let _ = self.run.wait();
    }
}

#[cfg(unix)]
#[test]
fn a_running_workload_gets_the_new_value_in_its_file_before_its_signal() {
    let house = House::new();
    house.feed(&["secret", "put", "token"], "the-old-one").expect(0);
    let body =
        "trap 'cat \"$ESTOP_SECRETS_DIR/token\" > part; mv part heard' HUP; : > ready; while :; do sleep 0.01; done";
    house.config(&format!(
        "[workload.agent]\ncommand = [\"sh\", \"-c\", {body:?}]\nsecret_files = {{ token = \"token\" }}\n\n\
         [secret.token]\nnotify = [{{ signal = \"HUP\", workload = \"agent\" }}]\n"
    ));
    let words = ["run", "--name", "agent", "--secret-file", "token=token", "--", "sh", "-c", body];
    let mut command = house.command(&words);
    let silent = std::process::Stdio::null;
    let run = command.stdin(silent()).stdout(silent()).stderr(silent()).spawn().unwrap();
    let mut guarded = Guarded { house: &house, run };
    let appears = |guarded: &mut Guarded<'_>, name: &str| {
        until("the program has said so", || {
            assert!(guarded.run.try_wait().unwrap().is_none(), "the program under guard ended by itself");
            house.path().join(name).exists()
        });
    };
    appears(&mut guarded, "ready");
    let answer = house.json(0, &["rotate", "token"]);
    let told = answer["rotations"][0]["notified"].as_array().unwrap();
    assert!(told.len() == 2 && told.iter().all(|one| one["acknowledged"] == true), "{answer}");
    assert_eq!(told.iter().filter(|one| one["subscriber"] == "signal HUP agent").count(), 1, "{answer}");
    appears(&mut guarded, "heard");
    assert_eq!(std::fs::read_to_string(house.path().join("heard")).unwrap(), value(&house, "token"));
    let given = house.json(0, &["secret", "exposure", "token"]);
    let versions: Vec<_> = given["exposures"].as_array().unwrap().iter().map(|one| one["version"].as_u64()).collect();
    assert_eq!(versions, [Some(1), Some(2)]);
}
