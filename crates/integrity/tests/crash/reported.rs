//! Killing at every step that is reported: the process ends itself there, at once, with nothing done any more.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

use estop_integrity::progress::{Phase, Progress};

use super::{ACTION, PLACE};
use crate::support::Place;

/// Which report is the last one.
const LAST: &str = "ESTOP_TEST_LAST_REPORT";
/// How a process that was killed ends.
const KILLED: i32 = 9;
/// A rollback is killed more often than that.
pub(crate) const FEWEST: usize = 15;

struct Fatal(AtomicUsize);

impl Progress for Fatal {
    fn report(&self, _phase: Phase, _done: u64, _total: u64) {
        if self.0.fetch_sub(1, Ordering::SeqCst) == 1 {
            // As a kill: nothing is dropped, nothing is flushed.
            std::process::exit(KILLED);
        }
    }
}

/// Ends this process at the report that its environment names.
pub(crate) fn fatal() -> impl Progress {
    let last = std::env::var(LAST).unwrap().parse().unwrap();
    Fatal(AtomicUsize::new(last))
}

/// Kills `action` at every report, each time in a place of its own, and lets `check` look at what is left.
pub(crate) fn kill_everywhere<T>(prepare: impl Fn(&Place) -> (String, T), check: impl Fn(&Place, &T, &str)) -> usize {
    for at in 1.. {
        let place = Place::new();
        let (action, memory) = prepare(&place);
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "--ignored", "--test-threads=1", "child"]);
        command.env(PLACE, place.dir.path()).env(ACTION, action).env(LAST, at.to_string());
        let output = command.stdin(Stdio::null()).output().unwrap();
        check(&place, &memory, &format!("killed at report {at}"));
        if output.status.success() {
            return at - 1;
        }
        assert_eq!(output.status.code(), Some(KILLED), "{}", String::from_utf8_lossy(&output.stderr));
    }
    unreachable!("an action has an end")
}
