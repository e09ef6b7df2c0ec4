//! Guardians on every platform: started, spoken to, lost, and gone round. This one program is the test, the guardian and the
//! villain, so that it needs no test harness that would stand before `main`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod life;
mod orders;
mod scene;
mod stopping;
mod system;
mod villain;

use std::path::Path;
use std::process::ExitCode;

use estop_watchdog::guardian::{self, Evidence, Recorder};
use libtest_mimic::{Arguments, Trial};

/// Keeps evidence as a file of its own.
struct Files;

impl Recorder for Files {
    fn record(&self, state_dir: &Path, evidence: &Evidence) {
        let path = state_dir.join(format!("evidence-{}.json", evidence.event));
        let _ = std::fs::write(path, serde_json::to_vec(evidence).unwrap());
    }
}

fn main() -> ExitCode {
    guardian::enter(&Files);
    if std::env::var_os(scene::HABIT).is_some() {
        villain::live();
    }
    let fast = [life::TESTS, orders::TESTS, stopping::TESTS].concat().into_iter().map(trial);
    let slow = stopping::SLOW.iter().copied().map(|test| trial(test).with_ignored_flag(true));
    libtest_mimic::run(&Arguments::from_args(), fast.chain(slow).collect()).exit_code()
}

fn trial((name, test): scene::Test) -> Trial {
    Trial::test(name, move || {
        test();
        Ok(())
    })
}
