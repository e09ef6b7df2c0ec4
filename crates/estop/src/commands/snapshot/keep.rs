//! `estop snapshot prune`: which snapshots are kept.

use estop_integrity::snapshot::Retention;
use estop_recovery::IncidentStore;

use super::{open, text};
use crate::cli::Output;
use crate::config::Period;
use crate::engine::stores::retention;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// The rules given on the command line: last, hourly, daily, weekly, monthly, and all younger than `within`. `None` if none is given.
pub(super) fn rules(counts: [Option<usize>; 5], within: Option<Period>) -> Option<Retention> {
    let given = within.is_some() || counts.iter().any(Option::is_some);
    let [last, hourly, daily, weekly, monthly] = counts.map(Option::unwrap_or_default);
    given.then(|| Retention { last, hourly, daily, weekly, monthly, within: within.map(Period::duration) })
}

pub(super) fn prune(
    site: &Site,
    store: &str,
    given: Option<Retention>,
    dry_run: bool,
    output: &Output,
) -> Result<Code> {
    if !dry_run {
        refuse_during_incident(site)?;
    }
    let (place, manager) = open(site, store, output)?;
    let retention = given.or_else(|| retention(site, &place.name)).ok_or_else(|| {
        Failure::usage(
            format!("nothing says which snapshots of {} are to be kept", place.name),
            "say it here, as with --keep-last 10 --keep-daily 7, or with `keep` in [store.NAME] of the configuration",
        )
    })?;
    if retention == Retention::default() {
        return Err(Failure::usage("these rules keep no snapshot at all", "give one of them a number above zero"));
    }
    output.result(&manager.prune(&retention, dry_run)?, text::pruned);
    Ok(Code::Done)
}

/// While an emergency is open, what could be needed to undo it stays.
fn refuse_during_incident(site: &Site) -> Result<()> {
    if !site.incidents().is_dir() {
        return Ok(());
    }
    let listing = IncidentStore::open(&site.incidents())?.list()?;
    match listing.incidents.iter().find(|incident| incident.is_open()) {
        None => Ok(()),
        Some(open) => Err(Failure::new(
            Code::Refused,
            "incident-open",
            format!("nothing is pruned while the incident {} is open", open.id),
            format!("`estop incident show {0}` says what it waits for; `estop incident abort {0}` closes it", open.id),
        )),
    }
}
