//! The configuration: every kind of mistake has an error of its own, before anything is made.

use std::fs;
use std::path::PathBuf;

use crate::house::House;

/// Everything that is in the house.
fn names(house: &House) -> Vec<PathBuf> {
    let (mut names, mut waiting) = (Vec::new(), vec![house.path()]);
    while let Some(dir) = waiting.pop() {
        let found = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
        for path in found {
            if path.is_dir() {
                waiting.push(path.clone());
            }
            names.push(path);
        }
    }
    names.sort();
    names
}

#[test]
fn each_mistake_is_shown_at_its_place_and_nothing_is_made() {
    let house = House::new();
    let state = house.state_dir();
    let (kb, inner) = (house.path().join("kb"), house.path().join("kb/inner"));
    fs::create_dir_all(&inner).unwrap();
    fs::create_dir_all(state.join("s")).unwrap();
    let cases = [
        ("wrong type", "[workload.a]\ncommand = \"true\"\n".to_owned(), "array"),
        ("wrong type", "[workload.a]\ncommand = [\"true\"]\npids_max = \"many\"\n".to_owned(), "pids_max"),
        ("negative limit", "[workload.a]\ncommand = [\"true\"]\nmemory_max = -1\n".to_owned(), "negative"),
        ("unknown key", "[workload.a]\ncommand = [\"true\"]\nmemory_mx = 1\n".to_owned(), "did you mean `memory_max`?"),
        ("unknown section", "[wrokload.a]\n".to_owned(), "did you mean `workload`?"),
        ("no TOML", "[workload\n".to_owned(), "-->"),
        ("a store inside the state directory", format!("[store.s]\npath = {:?}\n", state.join("s")), "state directory"),
        ("the state directory inside a store", format!("[store.s]\npath = {:?}\n", house.path()), "state directory"),
        (
            "stores that overlap",
            format!("[store.one]\npath = {kb:?}\n[store.two]\npath = {inner:?}\n"),
            "lies in the store one",
        ),
        ("a store that is not there", "[store.s]\npath = \"absent\"\n".to_owned(), "absent"),
        (
            "no such secret",
            "[workload.a]\ncommand = [\"true\"]\nsecrets = { KEY = \"db/absent\" }\n".to_owned(),
            "db/absent",
        ),
        ("no such command", "[workload.a]\ncommand = [\"no-such-program\"]\n".to_owned(), "no-such-program"),
        ("no command", "[workload.a]\n".to_owned(), "command"),
        ("no such store", "[workload.a]\ncommand = [\"true\"]\nprotect = [\"absent\"]\n".to_owned(), "absent"),
    ];
    for (what, text, word) in cases {
        house.config(&text);
        let before = names(&house);
        let refused = house.run(&["config", "check"]).expect(2);
        assert!(refused.stderr.contains(word), "{what}: {word:?} is not said: {}", refused.stderr);
        assert!(refused.stderr.contains("estop.toml:"), "{what}: no place is shown: {}", refused.stderr);
        assert!(refused.stderr.contains('^'), "{what}: no caret: {}", refused.stderr);
        assert_eq!(refused.stdout, "");
        let error = house.json(2, &["config", "check"]);
        assert_eq!(error["error"]["kind"], "config", "{what}: {error}");
        assert!(error["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        assert_eq!(names(&house), before, "{what}: something was made");
    }
}

#[test]
fn a_file_that_is_not_there_is_an_error_not_an_empty_configuration() {
    let house = House::new();
    let refused = house.run(&["--config", "absent.toml", "config", "check"]).expect(2);
    assert!(refused.stderr.contains("absent.toml"), "{refused:?}");
    house.run(&["--config", "absent.toml", "snapshot", "list", "."]).expect(2);
    // With no file in the usual place there is nothing to check, and that is no "ok".
    #[cfg(unix)]
    if !rustix::process::geteuid().is_root() {
        let mut command = house.command(&["config", "check"]);
        command.env_remove("ESTOP_CONFIG").env("XDG_CONFIG_HOME", house.path());
        assert_eq!(command.output().unwrap().status.code(), Some(2));
    }
    assert!(!house.state_dir().exists());
}

#[test]
fn a_good_file_is_counted_and_knows_the_secrets_that_were_put() {
    let house = House::new();
    fs::create_dir(house.path().join("kb")).unwrap();
    let text = "[workload.a]\ncommand = [\"true\"]\nstores = [\"kb\"]\nsecrets = { KEY = \"db/password\" }\n\n[store.kb]\npath = \"kb\"\n";
    house.config(text);
    house.run(&["config", "check"]).expect(2);
    house.feed(&["secret", "put", "db/password"], "x").expect(0);
    let checked = house.json(0, &["config", "check"]);
    assert_eq!([&checked["workloads"], &checked["stores"], &checked["secrets"]], [1, 1, 0]);
    assert_eq!(checked["ok"], true);
    let told = house.run(&["config", "check"]).expect(0);
    assert!(told.stdout.contains("ok; 1 workload, 1 store, 0 secrets"), "{told:?}");
}

#[test]
fn the_schema_is_printed() {
    let house = House::new();
    assert_eq!(house.json(0, &["config", "schema"])["schema"]["title"], "estop.toml");
    let bare: serde_json::Value = serde_json::from_str(&house.run(&["config", "schema"]).expect(0).stdout).unwrap();
    assert!(bare["properties"]["workload"].is_object());
}

#[test]
fn what_is_wrong_with_a_command_line_is_named_also_for_programs() {
    let house = House::new();
    let missing = house.json(2, &["rollback", "kb"]);
    assert!(missing["error"]["message"].as_str().unwrap().contains("--to <POINT>"), "{missing}");
    let unknown = house.json(2, &["sttus"]);
    assert!(unknown["error"]["message"].as_str().unwrap().contains("'sttus'"), "{unknown}");
    let theirs = house.run(&["run", "--no-such-option", "--", "true", "--json"]).expect(2);
    assert_eq!(theirs.stdout, "", "the command's own --json is not estop's");
}

#[test]
fn completions_and_the_manual_are_one_object_for_programs() {
    let house = House::new();
    let script = house.run(&["completions", "bash"]).expect(0).stdout;
    assert!(script.contains("_estop"), "{script}");
    assert_eq!(house.json(0, &["completions", "bash"])["script"], script);
    let page = house.run(&["man"]).expect(0).stdout;
    assert!(page.contains(".TH estop"), "{page}");
    assert_eq!(house.json(0, &["man"])["roff"], page);
}
