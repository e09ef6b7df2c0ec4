//! `estop bench`: measures the success criteria on this host, in a temporary directory of its own.
//!
//! Every number is of the real thing: real guardians over real process trees, a real store, real secrets. What takes place is
//! bounded: trees are counted before they are started and limited by `pids_max`, jobs by `time_max`.

mod data;
mod interrupt;
mod keys;
mod measurement;
mod memory;
mod watchdog;

use serde::Serialize;

use crate::cli::output::table;
use crate::cli::{BenchPart, Output};
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::platform::commands::NOTHING;
use crate::site::Site;
use interrupt::Interrupt;
use measurement::Measurement;

/// The configuration of the sandbox.
fn sandbox() -> String {
    format!("[secret.\"bench/key\"]\ngenerate = {{ length = 40 }}\nnotify = [{{ exec = {NOTHING:?} }}]\n")
}

/// What is measured, and how often.
#[derive(Debug)]
pub struct Wanted {
    /// The parts; all if there are none.
    pub parts: Vec<BenchPart>,
    /// How often each measurement is repeated.
    pub rounds: u32,
    /// The sizes of the process trees; the usual ones if there are none.
    pub processes: Vec<u64>,
}

/// All numbers.
#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    rounds: u32,
    measurements: Vec<Measurement>,
}

/// Measures. A criterion that is not met is in the answer and no failure: this host may be busy.
pub(super) fn bench(wanted: &Wanted, output: &Output) -> Result<Code> {
    let interrupt = Interrupt::listen()?;
    let dir = tempfile::Builder::new().prefix("estop-bench-").tempdir().map_err(|error| {
        Failure::failed(format!("cannot make a temporary directory: {error}"), "set TMPDIR to where there is room")
    })?;
    let path = dunce::canonicalize(dir.path()).map_err(|error| Failure::io("look at", dir.path(), &error))?;
    let site = Site::below(&path, Config::parse(&sandbox(), &path.join("estop.toml"))?);
    let is_wanted = |part| wanted.parts.is_empty() || wanted.parts.contains(&part);
    let rounds = wanted.rounds;
    let mut measurements = Vec::new();
    if is_wanted(BenchPart::Watchdog) {
        let progress = |what: &str| output.note(&format!("estop bench: {what}"));
        measurements.extend(watchdog::measure(&site, rounds, &wanted.processes, &interrupt, progress)?);
    }
    if is_wanted(BenchPart::Data) {
        output.note("estop bench: snapshots and rollbacks of 10,000 files");
        measurements.extend(data::measure(&site, &path, rounds, &interrupt)?);
    }
    if is_wanted(BenchPart::Keys) {
        output.note("estop bench: rotations");
        measurements.push(keys::measure(&site, rounds, &interrupt)?);
    }
    if is_wanted(BenchPart::Daemon) {
        output.note("estop bench: the daemon");
        measurements.push(memory::of_brain(&path, &interrupt)?);
    }
    let report = Report { schema_version: 1, rounds, measurements };
    output.result(&report, text);
    Ok(Code::Done)
}

fn text(report: &Report) -> String {
    let rows: Vec<_> = report.measurements.iter().map(Measurement::row).collect();
    table(&["MEASURED", "VALUE", "P99", "CRITERION", "MET", "DETAIL"], &rows)
}
