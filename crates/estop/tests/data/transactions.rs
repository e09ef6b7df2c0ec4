//! Transactions and the log of them, from a shell.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use serde_json::Value;

use crate::house::{House, until};

/// A house with a store of two files, and a transaction in it.
fn begun() -> (House, PathBuf, String) {
    let house = House::new();
    house.file("kb/a", "0");
    house.file("kb/d/b", "0");
    let begun = house.run(&["tx", "begin", "kb"]).expect(0);
    let kb = house.path().join("kb");
    (house, kb, begun.stdout.trim().to_owned())
}

fn read(kb: &std::path::Path, name: &str) -> String {
    fs::read_to_string(kb.join(name)).unwrap_or_default()
}

fn operations(log: &Value) -> Vec<(String, String, String)> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let one = |it: &Value| (text(&it["origin"]), text(&it["kind"]), text(&it["path"]));
    log["operations"].as_array().unwrap().iter().map(one).collect()
}

#[test]
fn several_files_change_together_across_processes_and_the_log_tells() {
    let (house, kb, tx) = begun();
    house.feed(&["tx", "put", &tx, "a"], "1").expect(0);
    house.file("elsewhere", "from a file");
    let put = house.json(0, &["tx", "put", &tx, "new/c", "--from", "elsewhere", "--mode", "600"]);
    assert_eq!((put["operation"].as_str(), put["path"].as_str()), (Some("put"), Some("new/c")), "{put}");
    house.run(&["tx", "rename", &tx, "d/b", "e/b"]).expect(0);
    house.run(&["tx", "delete", &tx, "d"]).expect(0);
    assert_eq!((read(&kb, "a"), read(&kb, "d/b")), ("0".to_owned(), "0".to_owned()));
    assert_eq!(house.json(0, &["tx", "list", "kb"])["transactions"][0]["transaction"], tx.as_str());
    let report = house.json(0, &["tx", "commit", &tx]);
    assert_eq!((report["put"].as_u64(), report["deleted"].as_u64()), (Some(3), Some(1)), "{report}");
    assert_eq!((read(&kb, "a"), read(&kb, "new/c"), read(&kb, "e/b")), ("1".into(), "from a file".into(), "0".into()));
    assert!(!kb.join("d").exists());
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt as _;
        assert_eq!(fs::metadata(kb.join("new/c")).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(house.json(1, &["tx", "commit", &tx])["error"]["kind"], "no-such-transaction");
    assert_eq!(house.json(0, &["tx", "list", "kb"])["transactions"], Value::Array(Vec::new()));

    let log = house.json(0, &["log", "kb"]);
    let told = operations(&log);
    for (kind, path) in [("content", "a"), ("added", "new/c"), ("removed", "d/b"), ("added", "e/b"), ("removed", "d")] {
        let wanted = ("transaction".to_owned(), kind.to_owned(), path.to_owned());
        assert!(told.contains(&wanted), "{wanted:?} is missing in {told:?}");
    }
    let own = log["operations"].as_array().unwrap().iter().filter(|it| it["transaction"] == tx.as_str());
    assert!(own.clone().all(|it| it["lsn"] == report["lsn"] && it["time"].is_string()));
    assert!(own.clone().any(|it| it["path"] == "a" && it["before"]["bytes"] == 1 && it["after"]["kind"] == "file"));
    let text = house.run(&["log", "kb"]).expect(0);
    assert!(text.stdout.lines().any(|line| line.contains(&tx) && line.contains("new/c")), "{text:?}");

    let point = format!("lsn:{}", report["lsn"]);
    fs::write(kb.join("a"), "by hand").unwrap();
    assert_eq!(house.json(0, &["rollback", "kb", "--to", &point])["verified"], true);
    assert_eq!((read(&kb, "a"), read(&kb, "e/b")), ("1".to_owned(), "0".to_owned()));
    let told = operations(&house.json(0, &["log", "kb"]));
    assert!(told.contains(&("rollback".into(), "content".into(), "a".into())), "{told:?}");
}

#[test]
fn what_was_changed_meanwhile_is_not_overwritten_and_it_is_said_by_whom() {
    let (house, kb, first) = begun();
    let second = house.json(0, &["tx", "begin", "kb"])["transaction"].as_str().unwrap().to_owned();
    for tx in [&first, &second] {
        house.feed(&["tx", "put", tx, "a"], tx).expect(0);
        house.feed(&["tx", "put", tx, &format!("{tx}.md")], "x").expect(0);
    }
    house.run(&["tx", "commit", &first]).expect(0);
    let refused = house.json(4, &["tx", "commit", &second]);
    assert_eq!(refused["error"]["kind"], "conflict", "{refused}");
    let message = refused["error"]["message"].as_str().unwrap();
    assert!(message.contains(&format!("a was changed by transaction {first}")), "{message}");
    assert_eq!(read(&kb, "a"), first);
    assert!(!kb.join(format!("{second}.md")).exists());
    house.run(&["tx", "rollback", &second]).expect(0);
    house.run(&["tx", "rollback", &second]).expect(1);

    let third = house.run(&["tx", "begin", "kb"]).expect(0).stdout.trim().to_owned();
    house.feed(&["tx", "put", &third, "a"], "3").expect(0);
    fs::write(kb.join("a"), "by hand").unwrap();
    let refused = house.json(4, &["tx", "commit", &third]);
    assert!(refused["error"]["message"].as_str().unwrap().contains("by a program"), "{refused}");
    assert_eq!(read(&kb, "a"), "by hand");
}

#[test]
fn what_is_wrong_with_a_transaction_is_said_and_changes_nothing() {
    let (house, kb, tx) = begun();
    house.run(&["tx", "begin", "nowhere"]).expect(2);
    house.run(&["tx", "put", "0123456789abcdef", "a"]).expect(1);
    house.run(&["tx", "put", &tx, "../outside"]).expect(2);
    house.run(&["tx", "put", &tx, "d"]).expect(2);
    house.run(&["tx", "put", &tx, "a", "--mode", "4755"]).expect(2);
    house.run(&["tx", "delete", &tx, "absent"]).expect(2);
    house.run(&["tx", "rename", &tx, "d", "d/e"]).expect(2);
    house.run(&["tx", "put", &tx, "a", "--from", "absent"]).expect(1);
    let report = house.json(0, &["tx", "commit", &tx]);
    assert_eq!((report["put"].as_u64(), report["deleted"].as_u64()), (Some(0), Some(0)));
    assert_eq!((read(&kb, "a"), read(&kb, "d/b")), ("0".to_owned(), "0".to_owned()));
}

#[test]
fn a_log_is_followed_while_others_write_it() {
    let (house, kb, tx) = begun();
    let mut command = house.command(&["log", "kb", "-f", "--json"]);
    let mut following = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(following.stdout.take().unwrap()).lines();
    house.feed(&["tx", "put", &tx, "a"], "1").expect(0);
    house.run(&["tx", "commit", &tx]).expect(0);
    let told = lines.find_map(|line| {
        let operation: Value = serde_json::from_str(&line.unwrap()).unwrap();
        (operation["transaction"] == tx.as_str()).then_some(operation)
    });
    following.kill().unwrap();
    following.wait().unwrap();
    assert_eq!(told.unwrap()["path"], "a");
    assert_eq!(read(&kb, "a"), "1");
}

#[test]
fn a_job_that_writes_the_store_stands_still_for_a_commit() {
    let (house, kb, tx) = begun();
    let script = "i=0; while :; do i=$((i+1)); echo $i > kb/seen; : > ready; sleep 0.01; done";
    let words = ["run", "--name", "writer", "--protect", "kb", "--", "sh", "-c", script];
    let mut run =
        house.command(&words).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    until("the program writes", || house.path().join("ready").exists());
    house.feed(&["tx", "put", &tx, "a"], "1").expect(0);
    let report = house.json(0, &["tx", "commit", &tx, "--freeze"]);
    assert!(report["frozen_seconds"].as_f64().unwrap() > 0.0, "{report}");
    assert_eq!(report["freeze_error"], Value::Null);
    let number = read(&kb, "seen");
    until("the program goes on", || read(&kb, "seen") != number);
    assert_eq!(read(&kb, "a"), "1");
    house.run(&["now", "writer"]).expect(0);
    run.wait().unwrap();
}
