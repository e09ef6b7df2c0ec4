//! `estop bench`: measures the success criteria on this host, in a temporary directory of its own.
//!
//! Every number is of the real thing: real guardians over real process trees, a real store, real secrets. What takes place is
//! bounded: trees are counted before they are started and limited by `pids_max`, jobs by `time_max`.

mod data;
mod interrupt;
mod jobs;
mod keys;
mod memory;
mod tree;

use serde::Serialize;

use crate::cli::Output;
use crate::cli::output::{bytes, seconds, table};
use crate::config::Config;
use crate::failure::{Code, Failure, Result};
use crate::platform::commands::NOTHING;
use crate::site::Site;
use interrupt::Interrupt;

/// The configuration of the sandbox.
fn sandbox() -> String {
    format!("[secret.\"bench/key\"]\ngenerate = {{ length = 40 }}\nnotify = [{{ exec = {NOTHING:?} }}]\n")
}

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Unit {
    Seconds,
    Bytes,
    Ratio,
}

/// One number, beside what the mission asks for.
#[derive(Debug, Serialize)]
struct Measurement {
    name: String,
    /// `None`: it could not be measured; the detail says why.
    value: Option<f64>,
    unit: Unit,
    criterion: Option<String>,
    /// `None` where there is no criterion, or too little was measured to tell.
    met: Option<bool>,
    detail: String,
}

impl Measurement {
    /// The middle one of `values`, without a criterion.
    fn middle(name: impl Into<String>, unit: Unit, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let value = values.get(values.len() / 2).copied();
        let shown = |number: Option<&f64>| number.map_or_else(String::new, |number| show(*number, unit));
        let detail = match values.len() {
            0 => "not measured".to_owned(),
            1 => "once".to_owned(),
            times => format!("p50 of {times}; {} to {}", shown(values.first()), shown(values.last())),
        };
        Self { name: name.into(), value, unit, criterion: None, met: None, detail }
    }

    /// What could not be measured.
    fn missing(name: impl Into<String>, unit: Unit, why: impl std::fmt::Display) -> Self {
        Self {
            name: name.into(),
            value: None,
            unit,
            criterion: None,
            met: None,
            detail: format!("not measured: {why}"),
        }
    }

    /// It is to be below `limit`.
    fn below(mut self, limit: f64) -> Self {
        self.criterion = Some(format!("< {}", show(limit, self.unit)));
        self.met = self.value.map(|value| value < limit);
        self
    }

    /// Says more.
    fn with(mut self, more: &str) -> Self {
        self.detail = format!("{}; {more}", self.detail);
        self
    }
}

/// All numbers.
#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    rounds: u32,
    measurements: Vec<Measurement>,
}

/// Measures, `rounds` times each. A criterion that is not met is in the answer and no failure: this host may be busy.
pub(super) fn bench(rounds: u32, output: &Output) -> Result<Code> {
    let interrupt = Interrupt::listen()?;
    let dir = tempfile::Builder::new().prefix("estop-bench-").tempdir().map_err(|error| {
        Failure::failed(format!("cannot make a temporary directory: {error}"), "set TMPDIR to where there is room")
    })?;
    let path = dunce::canonicalize(dir.path()).map_err(|error| Failure::io("look at", dir.path(), &error))?;
    let site = Site::below(&path, Config::parse(&sandbox(), &path.join("estop.toml"))?);
    let mut measurements = Vec::new();
    output.note("estop bench: watching and stopping process trees");
    measurements.extend(jobs::measure(&site, rounds, &interrupt)?);
    output.note("estop bench: snapshots and rollbacks of 10,000 files");
    measurements.extend(data::measure(&site, &path, rounds, &interrupt)?);
    output.note("estop bench: rotations");
    measurements.push(keys::measure(&site, rounds, &interrupt)?);
    output.note("estop bench: the daemon");
    measurements.push(memory::of_brain(&path, &interrupt)?);
    let report = Report { schema_version: 1, rounds, measurements };
    output.result(&report, text);
    Ok(Code::Done)
}

fn text(report: &Report) -> String {
    let met = |met: Option<bool>| match met {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    let rows: Vec<_> = report
        .measurements
        .iter()
        .map(|one| {
            vec![
                one.name.clone(),
                one.value.map_or_else(|| "-".to_owned(), |value| show(value, one.unit)),
                one.criterion.clone().unwrap_or_else(|| "-".to_owned()),
                met(one.met).to_owned(),
                one.detail.clone(),
            ]
        })
        .collect();
    table(&["MEASURED", "VALUE", "CRITERION", "MET", "DETAIL"], &rows)
}

fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, for a person")]
        Unit::Bytes => bytes(value as u64),
        Unit::Ratio => format!("{:.3} %", value * 100.0),
    }
}
