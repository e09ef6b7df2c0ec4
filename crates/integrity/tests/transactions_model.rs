//! Random transactions, edits, rollbacks, prunes and restarts against a model in memory.

#![cfg(not(windows))]
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;

use estop_integrity::log::Lsn;
use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::{Error, NoWriters, RecoveryPoint, SnapshotManager, StorePath};
use proptest::prelude::*;
use support::{Place, snapshot};

const NAMES: [&str; 6] = ["a", "b", "d/a", "d/e/b", "d/e/c", "z"];
const SLOTS: usize = 3;

#[derive(Clone, Debug)]
enum Step {
    Put(u8, u8),
    Delete(u8, u8),
    Rename(u8, u8, u8),
    Commit(u8),
    GiveUp(u8),
    Edit(u8),
    Remove(u8),
    Snapshot,
    Rollback(u8),
    Prune,
    Reopen,
    Rebuild,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<u8>(), any::<u8>()).prop_map(|(slot, path)| Step::Put(slot, path)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(slot, path)| Step::Delete(slot, path)),
        2 => (any::<u8>(), any::<u8>(), any::<u8>()).prop_map(|(slot, from, to)| Step::Rename(slot, from, to)),
        5 => any::<u8>().prop_map(Step::Commit),
        1 => any::<u8>().prop_map(Step::GiveUp),
        2 => any::<u8>().prop_map(Step::Edit),
        1 => any::<u8>().prop_map(Step::Remove),
        2 => Just(Step::Snapshot),
        1 => any::<u8>().prop_map(Step::Rollback),
        1 => Just(Step::Prune),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
    ]
}

/// Every file with its content. No two writes have the same, so a content is a version.
type Files = BTreeMap<&'static str, String>;

/// A transaction as it should be.
#[derive(Clone, Debug, Default)]
struct Draft {
    /// What each path that it touches held when it was first touched, and what it is to hold.
    touched: BTreeMap<&'static str, (Option<String>, Option<String>)>,
}

impl Draft {
    fn view(&self, files: &Files, name: &'static str) -> Option<String> {
        self.touched.get(name).map_or_else(|| files.get(name).cloned(), |(_, after)| after.clone())
    }

    fn touch(&mut self, files: &Files, name: &'static str, after: Option<String>) {
        let entry = self.touched.entry(name).or_insert_with(|| (files.get(name).cloned(), None));
        entry.1 = after;
    }

    fn fits(&self, files: &Files) -> bool {
        self.touched.iter().all(|(name, (base, _))| files.get(name) == base.as_ref())
    }
}

struct World {
    manager: Option<SnapshotManager>,
    place: Place,
    files: Files,
    slots: [Option<(String, Draft)>; SLOTS],
    /// States that can be gone back to.
    points: Vec<(Lsn, Files)>,
    /// Something was edited since the store was looked at as a whole.
    unseen: bool,
    written: u64,
}

fn name(number: u8) -> &'static str {
    NAMES[usize::from(number) % NAMES.len()]
}

fn path(name: &str) -> StorePath {
    name.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let place = Place::new();
        // Directories stay, so that the model needs none.
        place.write("d/e/stays", "");
        let manager = Some(place.open());
        let (files, slots, points) = (Files::new(), [None, None, None], Vec::new());
        Self { manager, place, files, slots, points, unseen: true, written: 0 }
    }

    fn manager(&self) -> &SnapshotManager {
        self.manager.as_ref().unwrap()
    }

    fn content(&mut self) -> String {
        self.written += 1;
        format!("content {}", self.written)
    }

    /// Does something in an open transaction, beginning one where there is none.
    fn edit(&mut self, slot: u8, change: impl FnOnce(&mut estop_integrity::Transaction<'_>, &mut Draft, &Files)) {
        let slot = usize::from(slot) % SLOTS;
        let manager = self.manager.as_ref().unwrap();
        let (mut transaction, mut draft) = match self.slots[slot].take() {
            Some((id, draft)) => (manager.resume(&id).unwrap(), draft),
            None => (manager.begin(), Draft::default()),
        };
        change(&mut transaction, &mut draft, &self.files);
        transaction.keep().unwrap();
        self.slots[slot] = Some((transaction.id().to_string(), draft));
    }

    fn commit(&mut self, slot: u8) {
        let Some((id, draft)) = self.slots[usize::from(slot) % SLOTS].take() else { return };
        let committed = self.manager().resume(&id).unwrap().commit(&Silent);
        if !draft.fits(&self.files) {
            assert!(matches!(committed, Err(Error::Conflict { .. })), "{committed:?} {draft:?} {:?}", self.files);
            self.manager().give_up(&id).unwrap();
            return;
        }
        let report = committed.unwrap();
        for (name, (_, after)) in draft.touched {
            match after {
                Some(content) => drop(self.files.insert(name, content)),
                None => drop(self.files.remove(name)),
            }
        }
        if !self.unseen {
            self.points.push((report.lsn, self.files.clone()));
        }
    }

    fn snapshot(&mut self) {
        let made = snapshot(self.manager());
        self.unseen = false;
        self.points.push((made.lsn, self.files.clone()));
    }

    fn rollback(&mut self, number: usize) {
        let Some((lsn, files)) = self.points.get(number % self.points.len().max(1)).cloned() else { return };
        let request = RollbackRequest::new(RecoveryPoint::Lsn(lsn));
        let report = self.manager().rollback(&request, &NoWriters, &Silent).unwrap();
        assert!(report.verified, "{:?}", report.errors);
        self.files = files;
        self.unseen = false;
        self.check();
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Put(slot, number) => {
                let content = self.content();
                self.edit(slot, |transaction, draft, files| {
                    transaction.put(&path(name(number)), &mut content.as_bytes(), None).unwrap();
                    draft.touch(files, name(number), Some(content.clone()));
                });
            }
            Step::Delete(slot, number) => self.edit(slot, |transaction, draft, files| {
                let there = draft.view(files, name(number)).is_some();
                assert_eq!(transaction.delete(&path(name(number))).is_ok(), there);
                if there {
                    draft.touch(files, name(number), None);
                }
            }),
            Step::Rename(slot, from, to) => self.edit(slot, |transaction, draft, files| {
                let (from, to) = (name(from), name(to));
                let moved = draft.view(files, from).filter(|_| from != to);
                assert_eq!(transaction.rename(&path(from), &path(to)).is_ok(), moved.is_some());
                if let Some(content) = moved {
                    draft.touch(files, to, Some(content));
                    draft.touch(files, from, None);
                }
            }),
            Step::Commit(slot) => self.commit(slot),
            Step::GiveUp(slot) => {
                if let Some((id, _)) = self.slots[usize::from(slot) % SLOTS].take() {
                    self.manager().resume(&id).unwrap().rollback().unwrap();
                }
            }
            Step::Edit(number) => {
                let content = self.content();
                self.place.write(name(number), &content);
                self.files.insert(name(number), content);
                self.unseen = true;
            }
            Step::Remove(number) => {
                let _ = fs::remove_file(self.place.kb().join(name(number)));
                self.files.remove(name(number));
                self.unseen = true;
            }
            Step::Snapshot => self.snapshot(),
            Step::Rollback(number) => self.rollback(number.into()),
            Step::Prune => {
                self.manager().prune(&Retention { last: 1, ..Retention::default() }, false).unwrap();
                self.points.clear();
                self.snapshot();
            }
            Step::Reopen => {
                self.manager = None;
                self.manager = Some(self.place.open());
            }
            Step::Rebuild => {
                self.manager = None;
                let (manager, report) = SnapshotManager::rebuild(self.place.store()).unwrap();
                assert!(report.faults.is_empty(), "{:?}", report.faults);
                self.manager = Some(manager);
            }
        }
        self.check();
    }

    fn check(&self) {
        for name in NAMES {
            let found = fs::read_to_string(self.place.kb().join(name)).ok();
            assert_eq!(found.as_ref(), self.files.get(name), "{name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 30, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn transactions_do_what_a_model_does(steps in prop::collection::vec(step(), 1..50)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
        for number in 0..world.points.len() {
            world.rollback(number);
        }
    }
}
