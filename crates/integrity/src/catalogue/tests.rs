#![allow(clippy::unwrap_used)]

use jiff::Timestamp;

use super::*;
use crate::log::{Changes, Record};
use crate::path::StorePath;
use crate::state::{Change, FileTime, Meta, Node, Seen, Version};

const VAULT: [u8; 16] = [3; 16];

fn version(size: u64, inode: u64) -> Version {
    let time = FileTime { seconds: 5, nanoseconds: 6 };
    Version {
        node: Node::File { content: None, size, link: None },
        meta: Meta { mode: 0o644, uid: 0, gid: 0, mtime: time, attributes: Vec::new() },
        seen: Seen { inode, ctime: time, unsure: false },
    }
}

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

fn change(name: &str, before: Option<Version>, after: Option<Version>) -> Change {
    Change { path: path(name), before, after }
}

fn fold(catalogue: &mut Catalogue, lsn: Lsn, changes: Vec<Change>) {
    let time = Timestamp::from_second(i64::try_from(lsn).unwrap() * 100).unwrap();
    let record = Record::Changes(Changes { time, part: 0, last: true, changes });
    catalogue.fold(std::iter::once(Ok((lsn, record))), [], None).unwrap();
}

fn history(dir: &Path) -> Catalogue {
    let mut catalogue = Catalogue::open(&dir.join("c.sqlite"), "kb", VAULT).unwrap();
    fold(&mut catalogue, 1, vec![change("a", None, Some(version(1, 1))), change("b", None, Some(version(1, 2)))]);
    fold(&mut catalogue, 2, vec![change("a", Some(version(1, 1)), Some(version(2, 1)))]);
    fold(&mut catalogue, 3, vec![change("a", Some(version(2, 1)), Some(version(2, 9)))]);
    fold(&mut catalogue, 4, vec![change("a", Some(version(2, 9)), None), change("c", None, Some(version(4, 4)))]);
    catalogue
}

#[test]
fn the_state_at_any_lsn_is_a_query() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = history(dir.path());
    let sizes = |lsn: Lsn| -> Vec<(String, u64)> {
        let state = catalogue.state_at(lsn).unwrap();
        state.0.iter().map(|(path, version)| (path.to_string(), version.size())).collect()
    };
    let of = |list: &[(&str, u64)]| list.iter().map(|(path, size)| ((*path).to_owned(), *size)).collect::<Vec<_>>();
    assert_eq!(sizes(0), of(&[]));
    assert_eq!(sizes(1), of(&[("a", 1), ("b", 1)]));
    assert_eq!(sizes(2), of(&[("a", 2), ("b", 1)]));
    assert_eq!(sizes(4), of(&[("b", 1), ("c", 4)]));
    assert_eq!(catalogue.state_at(2).unwrap().0[&path("a")].seen.inode, 9, "recognised anew, the same version");
    assert_eq!(catalogue.current_state().unwrap(), catalogue.state_at(4).unwrap());
    let changed = |from, to| -> Vec<String> {
        catalogue.changes_between(from, to).unwrap().iter().map(|c| c.path.to_string()).collect()
    };
    assert_eq!(changed(1, 2), ["a"]);
    assert_eq!(changed(2, 3), [""; 0]);
    assert_eq!(changed(4, 1), ["a", "c"]);
    assert_eq!(changed(0, 4), ["b", "c"]);
    let at = |second| catalogue.lsn_at(Timestamp::from_second(second).unwrap()).unwrap();
    assert_eq!((at(99), at(100), at(250), at(9_999)), (None, Some(1), Some(2), Some(4)));
}

#[test]
fn an_opened_catalogue_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let facts = history(dir.path()).facts;
    let catalogue = Catalogue::open(&dir.path().join("c.sqlite"), "kb", VAULT).unwrap();
    assert_eq!(catalogue.facts, facts);
    assert_eq!(catalogue.facts.folded, 4);
    let refused = Catalogue::open(&dir.path().join("c.sqlite"), "kb", [4; 16]).unwrap_err();
    assert!(refused.to_string().contains("estop snapshot rebuild kb"), "{refused}");
}

#[test]
fn a_changed_row_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let catalogue = history(dir.path());
    catalogue.set_current_checksum(catalogue.current_state().unwrap().checksum()).unwrap();
    let damage = |sql: &str| {
        catalogue.connection.execute_batch("BEGIN").unwrap();
        catalogue.connection.execute_batch(sql).unwrap();
        let (past, present) = (catalogue.state_at(2), catalogue.current_state());
        catalogue.connection.execute_batch("ROLLBACK").unwrap();
        (past.is_err(), present.is_err())
    };
    assert_eq!(damage("SELECT 1"), (false, false));
    assert_eq!(damage("UPDATE version SET data = substr(data, 1, 3) || x'07' || substr(data, 5)"), (true, true));
    assert_eq!(damage("UPDATE version SET to_lsn = to_lsn - 1 WHERE path = x'61' AND from_lsn = 2"), (true, false));
    assert_eq!(damage("DELETE FROM version WHERE path = x'63'"), (false, true));
}

#[test]
fn a_failed_fold_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut catalogue = history(dir.path());
    let good = change("d", None, Some(version(1, 7)));
    let impossible = change("nowhere", Some(version(1, 1)), None);
    let changes = Changes { time: Timestamp::UNIX_EPOCH, part: 0, last: true, changes: vec![good, impossible] };
    assert!(catalogue.fold(std::iter::once(Ok((5, Record::Changes(changes)))), [], None).is_err());
    assert_eq!(catalogue.facts.folded, 4);
    assert_eq!(catalogue.state_at(5).unwrap(), catalogue.state_at(4).unwrap());
}
