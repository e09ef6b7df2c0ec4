//! `estop snapshot …` and `estop rollback`.

mod keep;
mod progress;
mod rollback;
mod text;

use std::path::Path;

use estop_integrity::snapshot::SnapshotId;
use estop_integrity::{KBSnapshot, NewSnapshot, Origin, RecoveryPoint, SnapshotManager};
use serde::Serialize;

use crate::cli::Output;
use crate::cli::args::SnapshotCommand;
use crate::engine::stores::{JobWriters, Place};
use crate::failure::{Code, Failure, Result};
use crate::site::Site;
pub(super) use progress::{Bars, Steadfast};
pub(super) use rollback::{How, inside, rollback};

/// The answer of `list`.
#[derive(Serialize)]
struct List {
    schema_version: u32,
    store: String,
    snapshots: Vec<KBSnapshot>,
}

/// Does what `command` says.
///
/// # Errors
/// As the contract's exit codes say; what a check finds is no error but in the answer.
pub(super) fn snapshot(site: &Site, command: SnapshotCommand, output: &Output) -> Result<Code> {
    match command {
        SnapshotCommand::Create { store, label, pin } => create(site, &store, label, pin, output),
        SnapshotCommand::List { store } => list(site, &store, output),
        SnapshotCommand::Show { store, snapshot } => show(site, &store, &snapshot, output),
        SnapshotCommand::Diff { store, from, to } => diff(site, &store, &from, to.as_deref(), output),
        SnapshotCommand::Verify { store, snapshot, live } => verify(site, &store, snapshot.as_deref(), live, output),
        SnapshotCommand::Pin { store, snapshot } => pin(site, &store, &snapshot, true, output),
        SnapshotCommand::Unpin { store, snapshot } => pin(site, &store, &snapshot, false, output),
        SnapshotCommand::Prune {
            store,
            keep_last,
            keep_hourly,
            keep_daily,
            keep_weekly,
            keep_monthly,
            keep_within,
            dry_run,
        } => {
            let counts = [keep_last, keep_hourly, keep_daily, keep_weekly, keep_monthly];
            keep::prune(site, &store, keep::rules(counts, keep_within), dry_run, output)
        }
        SnapshotCommand::Rebuild { store } => rebuild(site, &store, output),
        SnapshotCommand::Restore { store, snapshot, into, privileges } => {
            restore(site, &store, &snapshot, &into, privileges, output)
        }
    }
}

/// Opens the store, saying so if something interrupted was ended by that.
pub(super) fn open(site: &Site, store: &str, output: &Output) -> Result<(Place, SnapshotManager)> {
    let place = Place::find(site, store)?;
    let manager = place.open()?;
    if let Some(recovered) = manager.recovered() {
        output.warn(&text::recovered(&place.name, recovered));
    }
    for recovered in manager.recovered_transactions() {
        output.warn(&text::completed(&place.name, recovered));
    }
    Ok((place, manager))
}

fn create(site: &Site, store: &str, label: Option<String>, pinned: bool, output: &Output) -> Result<Code> {
    let (place, manager) = open(site, store, output)?;
    let wanted = NewSnapshot { label, origin: Origin::Manual, pinned };
    let writers = JobWriters::of(site, &place);
    let snapshot = manager.create(&wanted, &writers, &Bars::new(output))?;
    if let Some(error) = &snapshot.freeze_error {
        output.warn(&format!(
            "the programs that write {} could not be frozen, so it may not be one moment: {error}",
            place.name
        ));
    }
    output.result(&snapshot, text::created);
    Ok(Code::Done)
}

fn list(site: &Site, store: &str, output: &Output) -> Result<Code> {
    let (place, manager) = open(site, store, output)?;
    let list = List { schema_version: 1, store: place.name, snapshots: manager.list()? };
    output.result(&list, |list| text::list(&list.store, &list.snapshots));
    Ok(Code::Done)
}

fn show(site: &Site, store: &str, snapshot: &str, output: &Output) -> Result<Code> {
    let (_, manager) = open(site, store, output)?;
    output.result(&manager.show(snapshot)?, text::snapshot);
    Ok(Code::Done)
}

fn diff(site: &Site, store: &str, from: &str, to: Option<&str>, output: &Output) -> Result<Code> {
    let from: RecoveryPoint = from.parse()?;
    let to: Option<RecoveryPoint> = to.map(str::parse).transpose()?;
    let (_, manager) = open(site, store, output)?;
    output.result(&manager.diff(&from, to.as_ref(), &Bars::new(output))?, text::diff);
    Ok(Code::Done)
}

fn verify(site: &Site, store: &str, snapshot: Option<&str>, live: bool, output: &Output) -> Result<Code> {
    let named: Option<RecoveryPoint> = snapshot.map(str::parse).transpose()?;
    let (place, manager) = open(site, store, output)?;
    let point = match named {
        Some(point) => point,
        None => RecoveryPoint::from(&latest(&place, &manager)?),
    };
    let progress = Bars::new(output);
    let report = if live { manager.verify_live(&point, &progress) } else { manager.verify(&point, &progress) }?;
    drop(progress);
    output.result(&report, |report| text::verified(&place.name, live, report));
    Ok(if report.ok { Code::Done } else { Code::NotProven })
}

fn latest(place: &Place, manager: &SnapshotManager) -> Result<SnapshotId> {
    let latest = manager.list()?.pop().map(|snapshot| snapshot.id);
    latest.ok_or_else(|| {
        let hint = format!("make one with `estop snapshot create {}`", estop_integrity::quoted(&place.name));
        Failure::new(Code::Failed, "no-such-point", format!("{} has no snapshot yet", place.name), hint)
    })
}

fn pin(site: &Site, store: &str, snapshot: &str, pinned: bool, output: &Output) -> Result<Code> {
    let (_, manager) = open(site, store, output)?;
    output.result(&manager.pin(snapshot, pinned)?, |snapshot| {
        let how = if pinned { "is pinned: rotation never removes it" } else { "is no longer pinned" };
        format!("snapshot {} of {} {how}", snapshot.id, snapshot.store)
    });
    Ok(Code::Done)
}

fn rebuild(site: &Site, store: &str, output: &Output) -> Result<Code> {
    let place = Place::find(site, store)?;
    let (_, report) = SnapshotManager::rebuild(place.open_store()?)?;
    output.result(&report, text::rebuilt);
    Ok(if report.faults.is_empty() { Code::Done } else { Code::NotProven })
}

fn restore(site: &Site, store: &str, snapshot: &str, into: &Path, privileges: bool, output: &Output) -> Result<Code> {
    let point: RecoveryPoint = snapshot.parse()?;
    let (_, manager) = open(site, store, output)?;
    let report = manager.restore(&point, into, privileges, &Bars::new(output))?;
    output.result(&report, text::restored);
    Ok(if report.verified { Code::Done } else { Code::NotProven })
}
