//! `estop doctor`: what this host offers, and what is in the way. It looks and tries; what it makes for that it removes.

mod job;
mod places;

use std::fmt::Write as _;

use serde::Serialize;

use estop_watchdog::job::Tier;

use crate::cli::Output;
use crate::cli::output::{printable, table};
use crate::failure::{Code, Result};
use crate::platform::host;
use crate::site::Site;

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Check {
    name: String,
    ok: bool,
    /// Whether estop does not do its work here while this is not `ok`.
    needed: bool,
    detail: String,
    /// What would make it `ok`; empty where it is.
    hint: String,
}

impl Check {
    pub(crate) fn ok(name: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { name: name.into(), ok: true, needed: false, detail: detail.into(), hint: String::new() }
    }

    /// Something that would be better to have.
    pub(crate) fn lacking(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { name: name.into(), ok: false, needed: false, detail: detail.into(), hint: hint.into() }
    }

    /// Something without which estop does not do its work.
    pub(crate) fn broken(name: impl Into<String>, detail: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { needed: true, ..Self::lacking(name, detail, hint) }
    }
}

/// All that was looked at.
#[derive(Debug, Serialize)]
struct Report {
    schema_version: u32,
    ok: bool,
    tier: Tier,
    checks: Vec<Check>,
}

/// Looks at the host and at this estop's places. 0 if nothing that is needed is broken, else 1.
#[expect(clippy::unnecessary_wraps, reason = "as every command answers; what is broken is in the report")]
pub(super) fn doctor(site: &Site, output: &Output) -> Result<Code> {
    let (tier, mut checks) = host::checks(site, job::limits(site));
    checks.extend(places::checks(site));
    let ok = checks.iter().all(|check| check.ok || !check.needed);
    let report = Report { schema_version: 1, ok, tier, checks };
    output.result(&report, text);
    Ok(if ok { Code::Done } else { Code::Failed })
}

fn text(report: &Report) -> String {
    let verdict = |check: &Check| match (check.ok, check.needed) {
        (true, _) => "ok",
        (false, false) => "-",
        (false, true) => "BROKEN",
    };
    let row = |check: &Check| vec![verdict(check).to_owned(), printable(&check.name), printable(&check.detail)];
    let mut text = table(&["", "CHECK", "FOUND"], &report.checks.iter().map(row).collect::<Vec<_>>());
    for check in report.checks.iter().filter(|check| !check.ok && !check.hint.is_empty()) {
        // Writing to a string cannot fail.
        let _ = write!(text, "\n{}: {}", printable(&check.name), printable(&check.hint));
    }
    let broken = report.checks.iter().filter(|check| !check.ok && check.needed).count();
    let verdict =
        if broken == 0 { "nothing that estop needs is broken".to_owned() } else { format!("{broken} broken") };
    let _ = write!(text, "\njobs here are of the tier {}; {verdict}", report.tier);
    text
}
