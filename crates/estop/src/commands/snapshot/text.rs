//! What a person reads.

use std::fmt::Write as _;

use estop_integrity::quoted;
use estop_integrity::rollback::Recovered;
use estop_integrity::snapshot::{Consistency, Difference, PruneReport, RebuildReport, RestoreReport, SnapshotDiff};
use estop_integrity::state::ChangeKind;
use estop_integrity::transaction::RecoveredTransaction;
use estop_integrity::verify::{VerifyError, VerifyReport};
use estop_integrity::{KBSnapshot, RollbackReport};
use serde_json::{Value, json};

use crate::cli::output::{bytes, counted, fields, moment, printable, seconds, table};

/// So many lines of one kind are shown; all of them are in the JSON.
const SHOWN: usize = 50;

fn files(count: u64) -> String {
    counted(count, "file", "files")
}

/// What a word of another crate's is called in JSON.
fn word(value: &impl serde::Serialize) -> String {
    match json!(value) {
        Value::String(word) => word,
        other => other.to_string(),
    }
}

pub(super) fn recovered(store: &str, recovered: &Recovered) -> String {
    let how = match word(&json!(recovered)["outcome"]).as_str() {
        "abandoned" => "was given up: nothing of it had been done".to_owned(),
        "verified" => format!(
            "was finished and verified; `estop rollback {} --to {}` undoes it",
            quoted(store),
            recovered.safety_snapshot
        ),
        _ => format!("was finished, and {} do not match", counted(recovered.errors.len() as u64, "path", "paths")),
    };
    format!("a rollback of {store} to lsn:{} that had been interrupted {how}", recovered.to_lsn)
}

pub(super) fn completed(store: &str, recovered: &RecoveredTransaction) -> String {
    let RecoveredTransaction { transaction, lsn, .. } = recovered;
    let how = match word(&json!(recovered)["outcome"]).as_str() {
        "verified" => "was completed".to_owned(),
        "abandoned" => "could not be completed, and all that it had changed was put back".to_owned(),
        _ => format!(
            "could be completed only in part: `estop snapshot diff {} lsn:{lsn}` shows what differs",
            quoted(store)
        ),
    };
    format!("the commit of transaction {transaction} in {store} (lsn:{lsn}) that had been interrupted {how}")
}

pub(super) fn created(snapshot: &KBSnapshot) -> String {
    let mut text = format!(
        "snapshot {} of {}: {}, {}; {} changed ({}); took {}",
        snapshot.id,
        snapshot.store,
        files(snapshot.files),
        bytes(snapshot.bytes),
        files(snapshot.changed_files),
        bytes(snapshot.changed_bytes),
        seconds(snapshot.seconds),
    );
    if snapshot.consistency == Consistency::Frozen {
        let _ = write!(text, ", its writers stood still for {}", seconds(snapshot.frozen_seconds));
    }
    text + "\n" + &left_out(snapshot)
}

/// What the snapshot does not hold.
fn left_out(snapshot: &KBSnapshot) -> String {
    let skipped = &snapshot.skipped;
    let kinds = [
        (skipped.special, "special (FIFO, socket, device)"),
        (skipped.mounts, "a mount point"),
        (skipped.unreadable, "unreadable"),
        (skipped.too_long, "too long a path"),
        (snapshot.unstable.count, "written while it was read"),
    ];
    let mut text = String::new();
    for (count, kind) in kinds.into_iter().filter(|(count, _)| *count > 0) {
        let _ = writeln!(text, "  not whole: {count} {kind}");
    }
    text
}

pub(super) fn list(store: &str, snapshots: &[KBSnapshot]) -> String {
    if snapshots.is_empty() {
        return format!("{store} has no snapshot yet: `estop snapshot create {}` makes one", quoted(store));
    }
    let row = |snapshot: &KBSnapshot| {
        vec![
            snapshot.id.to_string(),
            snapshot.lsn.to_string(),
            moment(snapshot.created),
            snapshot.files.to_string(),
            bytes(snapshot.bytes),
            snapshot.changed_files.to_string(),
            word(&snapshot.origin),
            if snapshot.pinned { "yes" } else { "" }.to_owned(),
            printable(snapshot.label.as_deref().unwrap_or_default()),
        ]
    };
    let rows: Vec<_> = snapshots.iter().map(row).collect();
    table(&["SNAPSHOT", "LSN", "CREATED (UTC)", "FILES", "SIZE", "CHANGED", "MADE", "PINNED", "LABEL"], &rows)
}

pub(super) fn snapshot(snapshot: &KBSnapshot) -> String {
    let consistency = match snapshot.consistency {
        Consistency::Frozen => format!("one moment: its writers stood still for {}", seconds(snapshot.frozen_seconds)),
        Consistency::Live => "each file as it was when it was read".to_owned(),
    };
    let mut pairs = vec![
        ("snapshot", snapshot.id.to_string()),
        ("store", printable(&snapshot.store)),
        ("lsn", snapshot.lsn.to_string()),
        ("created", format!("{} UTC", moment(snapshot.created))),
        ("made", word(&snapshot.origin)),
        ("pinned", if snapshot.pinned { "yes" } else { "no" }.to_owned()),
        (
            "holds",
            format!(
                "{}, {}, {}",
                files(snapshot.files),
                counted(snapshot.directories, "directory", "directories"),
                bytes(snapshot.bytes)
            ),
        ),
        ("changed", format!("{}, {}", files(snapshot.changed_files), bytes(snapshot.changed_bytes))),
        ("consistency", consistency),
        ("took", seconds(snapshot.seconds)),
        ("checksum", snapshot.checksum.clone()),
    ];
    if let Some(label) = &snapshot.label {
        pairs.insert(1, ("label", printable(label)));
    }
    fields(&pairs) + &left_out(snapshot)
}

pub(super) fn diff(diff: &SnapshotDiff) -> String {
    let line = |found: &Difference| {
        let sign = match found.change {
            ChangeKind::Added => '+',
            ChangeKind::Removed => '-',
            ChangeKind::Content => '~',
            ChangeKind::Metadata | ChangeKind::Touched => '.',
        };
        let size = match (found.before_bytes, found.after_bytes) {
            (Some(before), Some(after)) if found.change == ChangeKind::Content => {
                format!("  ({} to {})", bytes(before), bytes(after))
            }
            (_, Some(size)) if found.change == ChangeKind::Added => format!("  ({})", bytes(size)),
            (Some(size), None) => format!("  ({})", bytes(size)),
            _ => String::new(),
        };
        let slash = if found.kind == "directory" { "/" } else { "" };
        format!("{sign} {}{slash}{size}\n", printable(&found.path.to_string()))
    };
    let to = diff.to_lsn.map_or("the store as it is".to_owned(), |lsn| format!("lsn:{lsn}"));
    let mut text: String = diff.differences.iter().map(line).collect();
    if diff.differences.is_empty() {
        let _ = writeln!(text, "no difference from lsn:{} to {to}", diff.from_lsn);
    } else {
        let _ = writeln!(
            text,
            "from lsn:{} to {to}: {} added (+), {} removed (-), {} changed (~ content, . metadata)",
            diff.from_lsn, diff.added, diff.removed, diff.changed
        );
    }
    text
}

/// The first of what is wrong, one a line.
fn faults(errors: &[VerifyError]) -> String {
    let line = |error: &VerifyError| {
        let path = if error.path.is_empty() { String::new() } else { format!("{}: ", printable(&error.path)) };
        format!("  {}  {path}{}\n", word(&error.kind), printable(&error.detail))
    };
    let mut text: String = errors.iter().take(SHOWN).map(line).collect();
    if errors.len() > SHOWN {
        let _ = writeln!(text, "  and {} more; --json has them all", errors.len() - SHOWN);
    }
    text
}

pub(super) fn verified(store: &str, live: bool, report: &VerifyReport) -> String {
    let point = report.id.as_ref().map_or_else(|| format!("lsn:{}", report.lsn), |id| format!("snapshot {id}"));
    let read = format!("{}, {} read", files(report.files_checked), bytes(report.bytes_checked));
    match (report.ok, live) {
        (true, false) => format!("{point} of {store} can be restored: {read}, all whole"),
        (true, true) => format!("{store} is byte for byte as in {point}: {read}"),
        (false, false) => format!("{point} of {store} is damaged ({read}):\n{}", faults(&report.errors)),
        (false, true) => format!("{store} differs from {point} ({read}):\n{}", faults(&report.errors)),
    }
}

pub(super) fn pruned(report: &PruneReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let mut text = format!(
        "{}: {} {would}removed, {} kept",
        report.store,
        counted(report.removed.len() as u64, "snapshot", "snapshots"),
        report.kept.len()
    );
    if !report.dry_run {
        let _ = write!(text, "; {} freed", bytes(report.freed_bytes));
    }
    text.push('\n');
    for id in &report.removed {
        let _ = writeln!(text, "  {id}");
    }
    text
}

pub(super) fn rebuilt(report: &RebuildReport) -> String {
    let mut text = format!(
        "the catalogue of {} was made anew: {}, {} found whole\n",
        report.store,
        counted(report.records, "record", "records"),
        counted(report.contents, "content", "contents"),
    );
    for fault in &report.faults {
        let _ = writeln!(text, "  not usable: {}", printable(fault));
    }
    text
}

pub(super) fn restored(report: &RestoreReport) -> String {
    let target = report.target.display();
    let done = format!(
        "lsn:{} of {} restored into {target}: {}, {}, in {}",
        report.lsn,
        report.store,
        files(report.files),
        bytes(report.bytes),
        seconds(report.seconds)
    );
    if report.verified {
        format!("{done}; read back and verified")
    } else {
        format!("{done}; NOT as it should be:\n{}", faults(&report.errors))
    }
}

pub(super) fn rolled_back(report: &RollbackReport) -> String {
    let counts = format!(
        "{} restored ({}), {} removed, {} unchanged",
        files(report.restored),
        bytes(report.bytes),
        report.removed,
        report.unchanged
    );
    let mut text = match (report.dry_run, report.verified) {
        (true, _) => format!(
            "nothing was changed; a rollback of {} to lsn:{} would do this: {counts}\n",
            report.store, report.to_lsn
        ),
        (false, true) => format!(
            "{} is back at lsn:{}, verified, in {}: {counts}\n",
            report.store,
            report.to_lsn,
            seconds(report.seconds)
        ),
        (false, false) => format!(
            "{} was put back to lsn:{}, but NOT everything is as it should be: {counts}\n",
            report.store, report.to_lsn
        ),
    };
    text.push_str(&faults(&report.errors));
    if !report.withheld.is_empty() {
        let _ = writeln!(
            text,
            "{} came back without set-uid, set-gid and capabilities, which --privileges puts back too: {}",
            files(report.withheld.len() as u64),
            report.withheld.iter().take(SHOWN).map(|path| printable(path)).collect::<Vec<_>>().join(", ")
        );
    }
    if let Some(trash) = &report.trash {
        let _ = writeln!(text, "what was removed lies for a week in {trash}");
    }
    for process in report.open_by.iter().take(SHOWN) {
        let _ = writeln!(
            text,
            "still open for writing by {} (pid {}): {}",
            printable(&process.command),
            process.pid,
            printable(&process.path)
        );
    }
    if let Some(undo) = &report.undo_command {
        let _ = writeln!(text, "to undo it: {undo}");
    }
    text
}
