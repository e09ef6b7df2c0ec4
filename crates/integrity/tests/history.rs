//! Random histories against a model in memory: whatever was snapshotted comes back, by whatever way and order.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use estop_integrity::progress::Silent;
use estop_integrity::rollback::RollbackRequest;
use estop_integrity::snapshot::Retention;
use estop_integrity::{KBSnapshot, NoWriters, SnapshotManager};
use proptest::prelude::*;
use support::{Place, redress, snapshot, to};

#[derive(Clone, Debug)]
enum Step {
    Write(u8, u8),
    Append(u8),
    Remove(u8),
    Link(u8, u8),
    #[cfg(unix)]
    Symlink(u8, u8),
    Mode(u8, u8),
    Rename(u8, u8),
    Snapshot,
    Rollback(u8),
    Undo,
    Prune(u8),
    Reopen,
    Rebuild,
}

/// Where there are no symbolic links, another file is made instead.
fn link_to_name((from, to): (u8, u8)) -> Step {
    #[cfg(unix)]
    return Step::Symlink(from, to);
    #[cfg(windows)]
    Step::Write(from, to)
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (any::<u8>(), any::<u8>()).prop_map(|(path, content)| Step::Write(path, content)),
        2 => any::<u8>().prop_map(Step::Append),
        2 => any::<u8>().prop_map(Step::Remove),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Step::Link(from, to)),
        1 => (any::<u8>(), any::<u8>()).prop_map(link_to_name),
        1 => (any::<u8>(), any::<u8>()).prop_map(|(path, mode)| Step::Mode(path, mode)),
        2 => (any::<u8>(), any::<u8>()).prop_map(|(from, to)| Step::Rename(from, to)),
        3 => Just(Step::Snapshot),
        2 => any::<u8>().prop_map(Step::Rollback),
        1 => Just(Step::Undo),
        1 => (1..4_u8).prop_map(Step::Prune),
        1 => Just(Step::Reopen),
        1 => Just(Step::Rebuild),
    ]
}

type Look = BTreeMap<PathBuf, String>;

struct History {
    /// Closed before its place goes: what is open can't be removed everywhere.
    manager: Option<SnapshotManager>,
    place: Place,
    model: Vec<(KBSnapshot, Look)>,
    undo: Option<(String, Look)>,
}

impl History {
    fn path(&self, number: u8) -> PathBuf {
        const NAMES: [&str; 8] = ["a", "b", "a-b", "d/a", "d/e/b", "d", "d/e", "d/e/f/g"];
        self.place.kb().join(NAMES[usize::from(number) % NAMES.len()])
    }

    fn manager(&self) -> &SnapshotManager {
        self.manager.as_ref().unwrap()
    }

    /// Steps that don't fit what is there do nothing.
    fn take(&mut self, step: &Step) {
        match *step {
            Step::Write(path, content) => {
                let path = self.path(path);
                let _ = fs::create_dir_all(path.parent().unwrap());
                let _ = fs::write(path, [content; 40]);
            }
            Step::Append(path) => {
                let path = self.path(path);
                if let Ok(mut content) = fs::read(&path) {
                    content.push(b'+');
                    fs::write(path, content).unwrap();
                }
            }
            Step::Remove(path) => {
                let path = self.path(path);
                let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path));
            }
            Step::Link(from, to) => drop(fs::hard_link(self.path(from), self.path(to))),
            #[cfg(unix)]
            Step::Symlink(from, to) => drop(std::os::unix::fs::symlink(self.path(from), self.path(to))),
            Step::Mode(path, mode) => {
                let path = self.path(path);
                if path.symlink_metadata().is_ok_and(|meta| meta.is_file()) {
                    redress(&path, mode);
                }
            }
            Step::Rename(from, to) => drop(fs::rename(self.path(from), self.path(to))),
            Step::Snapshot => {
                let made = snapshot(self.manager());
                self.model.push((made, self.place.look()));
            }
            Step::Rollback(number) if !self.model.is_empty() => {
                let (made, wanted) = self.model[usize::from(number) % self.model.len()].clone();
                self.rollback(to(&made), &wanted);
            }
            Step::Undo => {
                if let Some((id, wanted)) = self.undo.take() {
                    self.rollback(id.parse().unwrap(), &wanted);
                }
            }
            Step::Prune(last) => {
                let rules = Retention { last: last.into(), ..Retention::default() };
                let report = self.manager().prune(&rules, false).unwrap();
                self.model.retain(|(made, _)| !report.removed.contains(&made.id));
            }
            Step::Rollback(_) => {}
            Step::Rebuild => {
                let told = self.manager().list().unwrap();
                self.manager = None;
                let (manager, report) = SnapshotManager::rebuild(self.place.store()).unwrap();
                assert!(report.faults.is_empty(), "{:?}", report.faults);
                assert_eq!(manager.list().unwrap(), told);
                self.manager = Some(manager);
            }
            Step::Reopen => {
                self.manager = None;
                self.manager = Some(self.place.open());
            }
        }
    }

    fn rollback(&mut self, point: estop_integrity::RecoveryPoint, wanted: &Look) {
        let before = self.place.look();
        let report = self.manager().rollback(&RollbackRequest::new(point), &NoWriters, &Silent).unwrap();
        assert!(report.verified, "{:?}", report.errors);
        assert_eq!(&self.place.look(), wanted);
        self.undo = Some((report.safety_snapshot.unwrap().to_string(), before));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, max_shrink_iters: 200, ..ProptestConfig::default() })]

    #[test]
    fn whatever_was_snapshotted_comes_back(steps in prop::collection::vec(step(), 1..40)) {
        let place = Place::new();
        let manager = Some(place.open());
        let mut history = History { place, manager, model: Vec::new(), undo: None };
        for step in &steps {
            history.take(step);
        }
        for (made, wanted) in history.model.clone() {
            let report = history.manager().verify(&to(&made), &Silent).unwrap();
            prop_assert!(report.ok, "{:?}", report.errors);
            history.rollback(to(&made), &wanted);
        }
    }
}
