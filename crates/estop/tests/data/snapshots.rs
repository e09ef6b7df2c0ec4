//! Snapshots and rollbacks of a directory, and of a configured store.

use std::collections::BTreeMap;
use std::fs;
#[cfg(unix)]
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use serde_json::Value;
#[cfg(unix)]
use serde_json::json;

use crate::house::{House, until};

/// Every file below `dir` with its content.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![dir.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                waiting.push(path);
            } else {
                found.insert(path.strip_prefix(dir).unwrap().to_owned(), fs::read(&path).unwrap());
            }
        }
    }
    found
}

/// Bytes that no compression makes smaller.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}

/// A house with a knowledge base of a few files.
fn with_knowledge() -> (House, PathBuf) {
    let house = House::new();
    for number in 0..20 {
        house.file(format!("kb/notes/{number}.md"), format!("note {number}\n"));
    }
    house.file("kb/index.bin", noise(5000));
    let kb = house.path().join("kb");
    (house, kb)
}

fn ids(list: &Value) -> Vec<String> {
    list["snapshots"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_directory_is_snapshotted_damaged_put_back_and_the_rollback_undone() {
    let (house, kb) = with_knowledge();
    let made = house.json(0, &["snapshot", "create", "kb", "--label", "before"]);
    assert_eq!((made["files"].as_u64(), made["pinned"].as_bool()), (Some(21), Some(false)));
    for field in [
        "id",
        "store",
        "lsn",
        "created",
        "label",
        "bytes",
        "changed_files",
        "changed_bytes",
        "checksum",
        "seconds",
        "frozen_seconds",
    ] {
        assert!(made.get(field).is_some(), "{field} is missing: {made}");
    }
    let id = made["id"].as_str().unwrap();
    let before = tree(&kb);

    fs::write(kb.join("notes/3.md"), "shredded").unwrap();
    fs::remove_file(kb.join("notes/4.md")).unwrap();
    fs::write(kb.join("ransom.txt"), "pay").unwrap();
    let damaged = tree(&kb);

    let diff = house.json(0, &["snapshot", "diff", "kb", id]);
    assert_eq!([&diff["added"], &diff["removed"], &diff["changed"]], [1, 1, 1]);
    assert_eq!(house.json(3, &["snapshot", "verify", "kb", "--live"])["ok"], false);
    assert_eq!(house.json(0, &["snapshot", "verify", "kb"])["ok"], true);

    let rehearsed = house.json(0, &["rollback", "kb", "--to", id, "--dry-run"]);
    assert_eq!([&rehearsed["restored"], &rehearsed["removed"], &rehearsed["unchanged"]], [2, 1, 19]);
    assert_eq!(tree(&kb), damaged, "a dry run changed something");

    let done = house.json(0, &["rollback", "kb", "--to", id]);
    assert_eq!([&done["restored"], &done["removed"], &done["unchanged"]], [2, 1, 19]);
    assert_eq!(done["verified"], true);
    assert_eq!(tree(&kb), before);
    assert_eq!(house.json(0, &["snapshot", "verify", "kb", "--live", id])["ok"], true);

    let undo = done["undo_command"].as_str().unwrap();
    let words: Vec<&str> = undo.split(' ').skip(1).collect();
    house.run(&words).expect(0);
    assert_eq!(tree(&kb), damaged);
}

#[test]
fn a_configured_store_is_meant_by_its_name_and_by_its_path() {
    let (house, kb) = with_knowledge();
    house.config("[store.kb]\npath = \"kb\"\nkeep = { last = 1 }\n");
    let made = house.json(0, &["snapshot", "create", "kb"]);
    assert_eq!(made["store"], "kb");
    let by_path = house.json(0, &["snapshot", "list", kb.to_str().unwrap()]);
    assert_eq!((&by_path["store"], ids(&by_path)), (&Value::from("kb"), vec![made["id"].as_str().unwrap().to_owned()]));

    fs::write(kb.join("notes/1.md"), "one\n").unwrap();
    fs::write(kb.join("notes/2.md"), "two\n").unwrap();
    let only = kb.join("notes/1.md");
    let id = made["id"].as_str().unwrap();
    let done = house.json(0, &["rollback", "kb", "--to", id, "--path", only.to_str().unwrap()]);
    assert_eq!(done["restored"], 1);
    assert_eq!(fs::read_to_string(only).unwrap(), "note 1\n");
    assert_eq!(fs::read_to_string(kb.join("notes/2.md")).unwrap(), "two\n");
    house.run(&["rollback", "kb", "--to", id, "--path", if cfg!(unix) { "/etc" } else { r"C:\windows" }]).expect(2);
    house.run(&["rollback", "kb", "--to", id, "--path", "../state"]).expect(2);
}

#[test]
fn pruning_keeps_what_the_rules_and_pins_say() {
    let (house, kb) = with_knowledge();
    let make = |label: &str| {
        fs::write(kb.join("notes/0.md"), label).unwrap();
        house.json(0, &["snapshot", "create", "kb", "--label", label])["id"].as_str().unwrap().to_owned()
    };
    let (first, second, third) = (make("first"), make("second"), make("third"));
    let refused = house.run(&["snapshot", "prune", "kb"]).expect(2);
    assert!(refused.stderr.contains("--keep-last"), "{refused:?}");

    assert_eq!(house.json(0, &["snapshot", "pin", "kb", &first])["pinned"], true);
    house.config("[store.kb]\npath = \"kb\"\nvault = \"vault\"\n");
    house.run(&["snapshot", "prune", "kb"]).expect(2);
    house.config("");
    let rehearsed = house.json(0, &["snapshot", "prune", "kb", "--keep-last", "1", "--dry-run"]);
    assert_eq!(rehearsed["removed"], Value::from(vec![second.clone()]));
    assert_eq!(ids(&house.json(0, &["snapshot", "list", "kb"])).len(), 3);
    let pruned = house.json(0, &["snapshot", "prune", "kb", "--keep-last", "1"]);
    assert_eq!(pruned["removed"], rehearsed["removed"]);
    assert_eq!(ids(&house.json(0, &["snapshot", "list", "kb"])), [first.clone(), third.clone()]);

    assert_eq!(house.json(0, &["snapshot", "unpin", "kb", &first[..8]])["pinned"], false);
    house.json(0, &["snapshot", "prune", "kb", "--keep-daily", "1"]);
    assert_eq!(ids(&house.json(0, &["snapshot", "list", "kb"])), [third]);
    let gone = house.json(1, &["snapshot", "show", "kb", &second]);
    assert_eq!(gone["error"]["kind"], "no-such-point");
}

#[test]
fn configured_rules_prune_and_an_open_incident_forbids_it() {
    let (house, kb) = with_knowledge();
    house.config("[store.kb]\npath = \"kb\"\nkeep = { last = 1 }\n");
    house.json(0, &["snapshot", "create", "kb"]);
    fs::write(kb.join("notes/0.md"), "later").unwrap();
    house.json(0, &["snapshot", "create", "kb"]);
    let incident = crate::incidents::waiting(&house, &[]);
    assert_eq!(house.json(4, &["snapshot", "prune", "kb"])["error"]["kind"], "incident-open");
    house.json(0, &["incident", "abort", &incident]);
    assert_eq!(house.json(0, &["snapshot", "prune", "kb"])["removed"].as_array().unwrap().len(), 1);
}

#[test]
fn a_flipped_byte_in_a_pack_is_found_and_nothing_is_rolled_back_over_it() {
    let (house, kb) = with_knowledge();
    let id = house.json(0, &["snapshot", "create", "kb"])["id"].as_str().unwrap().to_owned();
    let wanted = &noise(5000)[1000..1064];
    let mut flipped = 0;
    for (path, mut bytes) in tree(&house.state_dir()) {
        let Some(at) = bytes.windows(64).position(|window| window == wanted) else { continue };
        bytes[at] ^= 1;
        fs::write(house.state_dir().join(path), bytes).unwrap();
        flipped += 1;
    }
    assert_eq!(flipped, 1, "the content is not in one pack");
    let report = house.json(3, &["snapshot", "verify", "kb"]);
    assert_eq!(report["errors"][0]["path"], "index.bin");
    assert_eq!(report["errors"][0]["kind"], "content");
    let told = house.run(&["snapshot", "verify", "kb"]).expect(3);
    assert!(told.stdout.contains("index.bin"), "{told:?}");

    fs::write(kb.join("index.bin"), "damaged").unwrap();
    house.run(&["rollback", "kb", "--to", &id]).expect(1);
    assert_eq!(fs::read(kb.join("index.bin")).unwrap(), b"damaged");
    let rest = house.json(0, &["rollback", "kb", "--to", &id, "--path", "notes"]);
    assert_eq!(rest["verified"], true);
}

#[test]
fn the_catalogue_is_made_anew_and_a_snapshot_restored_elsewhere() {
    let (house, kb) = with_knowledge();
    let id = house.json(0, &["snapshot", "create", "kb"])["id"].as_str().unwrap().to_owned();
    let catalogues: Vec<_> =
        tree(&house.state_dir()).into_keys().filter(|path| path.ends_with("catalogue.sqlite")).collect();
    fs::write(house.state_dir().join(&catalogues[0]), "no database").unwrap();
    assert_eq!(house.json(1, &["snapshot", "list", "kb"])["error"]["kind"], "catalogue-damaged");
    let rebuilt = house.json(0, &["snapshot", "rebuild", "kb"]);
    assert_eq!(rebuilt["faults"], Value::Array(Vec::new()));
    assert_eq!(house.json(0, &["snapshot", "show", "kb", &id])["files"], 21);

    let restored = house.json(0, &["snapshot", "restore", "kb", &id, "--into", "out"]);
    assert_eq!(restored["verified"], true);
    assert_eq!(tree(&house.path().join("out")), tree(&kb));
    let refused = house.json(2, &["snapshot", "restore", "kb", &id, "--into", "out"]);
    assert_eq!(refused["error"]["kind"], "target-not-empty");
}

#[test]
fn what_is_wrong_with_a_request_is_said_before_anything_is_made() {
    let (house, _) = with_knowledge();
    house.run(&["snapshot", "create", "nowhere"]).expect(2);
    house.run(&["rollback", "kb", "--to", "yesterday"]).expect(2);
    house.run(&["snapshot", "diff", "kb", "yesterday"]).expect(2);
    assert!(!house.state_dir().exists());
    house.run(&["snapshot", "verify", "kb"]).expect(1);
    let empty = house.run(&["snapshot", "list", "kb"]).expect(0);
    assert!(empty.stdout.contains("no snapshot yet"), "{empty:?}");
    assert_eq!(house.json(1, &["rollback", "kb", "--to", "0123"])["error"]["kind"], "no-such-point");
}

/// A program under guard that writes `kb`, until this is dropped.
struct Writing<'a> {
    house: &'a House,
    run: std::process::Child,
}

impl<'a> Writing<'a> {
    fn begin(house: &'a House) -> Self {
        let script =
            "i=0; while :; do i=$((i+1)); echo $i > notes/0.md; echo $i > notes/1.md; : > ../ready; sleep 0.01; done";
        let words = ["run", "--name", "writer", "--protect", "kb", "--", "sh", "-c"];
        let mut command = house.command(&words);
        command.arg(format!("cd kb; {script}")).stdin(std::process::Stdio::null());
        let run = command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        let mut writing = Self { house, run };
        until("the program writes", || {
            assert!(writing.run.try_wait().unwrap().is_none(), "the program under guard ended by itself");
            house.path().join("ready").exists()
        });
        writing
    }
}

impl Drop for Writing<'_> {
    fn drop(&mut self) {
        self.house.run(&["now", "writer"]);
        let _ = self.run.wait();
    }
}

#[test]
fn writers_are_frozen_for_a_snapshot_and_forbid_a_rollback() {
    let (house, kb) = with_knowledge();
    let writing = Writing::begin(&house);
    let made = house.json(0, &["snapshot", "create", "kb", "--label", "midway"]);
    assert_eq!(made["consistency"], "frozen", "{made}");
    assert!(made["frozen_seconds"].as_f64().unwrap() > 0.0);
    let id = made["id"].as_str().unwrap().to_owned();
    let refused = house.json(4, &["rollback", "kb", "--to", &id]);
    assert_eq!(refused["error"]["kind"], "writers-alive");
    assert!(refused["error"]["message"].as_str().unwrap().contains("writer"), "{refused}");
    drop(writing);
    house.run(&["rollback", "kb", "--to", &id]).expect(0);
    let content = |name: &str| fs::read_to_string(kb.join(name)).unwrap();
    let (first, second) = (content("notes/0.md"), content("notes/1.md"));
    let number = |text: &str| text.trim().parse::<u64>().ok();
    // The writer stood still between two of its writes, so both files are of one moment.
    let (first, second) = (number(&first), number(&second));
    let one_moment = first.is_none() || second.is_none() || first == second || first == second.map(|number| number + 1);
    assert!(one_moment, "{first:?} {second:?}");
}

#[test]
fn a_store_that_another_estop_works_on_is_refused() {
    let (house, kb) = with_knowledge();
    house.json(0, &["snapshot", "create", "kb"]);
    let vault = fs::read_dir(house.state_dir().join("vaults")).unwrap().next().unwrap().unwrap().path();
    let held = estop_integrity::Store::open(estop_integrity::StoreConfig::new("kb", kb, vault)).unwrap();
    assert_eq!(house.json(4, &["snapshot", "list", "kb"])["error"]["kind"], "locked");
    drop(held);
    house.run(&["snapshot", "list", "kb"]).expect(0);
}

#[test]
fn a_path_that_never_was_is_a_slip_and_no_success() {
    let house = House::new();
    house.file("kb/note", "one");
    let made = house.json(0, &["snapshot", "create", "kb"]);
    house.file("kb/note", "two");
    let id = made["id"].as_str().unwrap();
    let refused = house.run(&["rollback", "kb", "--to", id, "--path", "nott"]).expect(2);
    assert!(refused.stderr.contains("nott"), "{refused:?}");
    house.json(0, &["rollback", "kb", "--to", id, "--path", "note"]);
    assert_eq!(std::fs::read_to_string(house.path().join("kb/note")).unwrap(), "one");
}

/// Whoever holds a file open would go on writing to what is no longer in the store.
#[test]
fn a_file_that_another_program_has_open_for_writing_keeps_the_store_as_it_is() {
    let house = House::new();
    let note = house.file("kb/note", "one");
    let made = house.json(0, &["snapshot", "create", "kb"]);
    house.file("kb/note", "two");
    let id = made["id"].as_str().unwrap();
    let open = std::fs::OpenOptions::new().append(true).open(&note).unwrap();
    let refused = house.run(&["rollback", "kb", "--to", id]).expect(4);
    assert!(refused.stderr.contains(&std::process::id().to_string()), "{refused:?}");
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "two");
    let forced = house.json(0, &["rollback", "kb", "--to", id, "--force"]);
    assert_eq!(forced["open_by"][0]["pid"], std::process::id(), "{forced:#}");
    drop(open);
    assert_eq!(std::fs::read_to_string(&note).unwrap(), "one");
}

#[cfg(unix)]
#[test]
fn rights_come_back_only_on_request_and_what_is_held_back_is_said() {
    let (house, kb) = with_knowledge();
    let tool = kb.join("tool");
    fs::write(&tool, "#!/bin/sh\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4755)).unwrap();
    let id = house.json(0, &["snapshot", "create", "kb"])["id"].as_str().unwrap().to_owned();
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for (options, expected) in [(&[][..], 0o755), (&["--privileges"], 0o4755)] {
        fs::write(&tool, "shredded").unwrap();
        let rollback = [&["rollback", "kb", "--to", &id], options].concat();
        let dry = house.json(0, &[&rollback[..], &["--dry-run"]].concat());
        let done = house.json(0, &rollback);
        let withheld = if options.is_empty() { json!(["tool"]) } else { json!([]) };
        assert_eq!((&dry["withheld"], &done["withheld"]), (&withheld, &withheld));
        assert_eq!((mode(&tool), &done["verified"]), (expected, &Value::Bool(true)));
        let target = format!("elsewhere{}", options.len());
        house.json(0, &[&["snapshot", "restore", "kb", &id, "--into", &target], options].concat());
        assert_eq!(mode(&house.path().join(target).join("tool")), expected);
    }
    fs::write(&tool, "shredded").unwrap();
    let said = house.run(&["rollback", "kb", "--to", &id]).expect(0).stdout;
    assert!(said.contains("1 file came back without set-uid") && said.contains(": tool\n"), "{said}");
}

#[cfg(unix)]
#[test]
fn a_directory_that_was_closed_to_everybody_is_opened_as_it_was() {
    let (house, kb) = with_knowledge();
    fs::set_permissions(&kb, fs::Permissions::from_mode(0o750)).unwrap();
    let id = house.json(0, &["snapshot", "create", "kb"])["id"].as_str().unwrap().to_owned();
    fs::write(kb.join("notes/3.md"), "shredded").unwrap();
    fs::set_permissions(&kb, fs::Permissions::from_mode(0o000)).unwrap();
    let done = house.json(0, &["rollback", "kb", "--to", &id]);
    assert_eq!((&done["verified"], &done["restored"]), (&Value::Bool(true), &1.into()));
    assert_eq!(fs::metadata(&kb).unwrap().permissions().mode() & 0o7777, 0o750);
}

#[test]
fn nothing_is_restored_into_estops_own_places() {
    let (house, kb) = with_knowledge();
    let id = house.json(0, &["snapshot", "create", "kb"])["id"].as_str().unwrap().to_owned();
    let inside = [house.state_dir().join("restored"), kb.join("restored"), house.path()];
    for target in inside {
        let before = target.exists();
        let refused = house.run(&["snapshot", "restore", "kb", &id, "--into", target.to_str().unwrap()]).expect(2);
        assert!(refused.stderr.contains("lie"), "{}", refused.stderr);
        assert_eq!(target.exists(), before);
    }
}
