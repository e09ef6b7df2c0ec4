//! `estop log`: the transaction log of a store, read without its lock.

use std::io::Write as _;
use std::time::Duration;

use estop_integrity::operations::{Held, Operation, OperationOrigin, Operations};
use serde::Serialize;
use serde_json::json;

use crate::cli::Output;
use crate::cli::output::{bytes, moment, printable};
use crate::engine::stores::Place;
use crate::failure::{Code, Result};
use crate::site::Site;

/// How often a growing log is looked at.
const FOLLOW_POLL: Duration = Duration::from_millis(200);

/// The answer, where it ends.
#[derive(Serialize)]
struct Log {
    schema_version: u32,
    store: String,
    operations: Vec<Operation>,
}

/// Shows every operation on every path of a store.
///
/// # Errors
/// If there is no such store, or its log is damaged.
pub(super) fn log(site: &Site, store: &str, follow: bool, output: &Output) -> Result<Code> {
    let place = Place::find(site, store)?;
    let mut log = Operations::of(&place.vault);
    if !follow {
        let log = Log { schema_version: 1, store: place.name, operations: log.more()? };
        output.result(&log, |log| log.operations.iter().map(|operation| line(operation) + "\n").collect());
        return Ok(Code::Done);
    }
    loop {
        let more = log.more()?;
        if show(&more, output).is_err() {
            // Whoever closed the pipe has read enough.
            return Ok(Code::Done);
        }
        std::thread::sleep(FOLLOW_POLL);
    }
}

fn show(operations: &[Operation], output: &Output) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for operation in operations {
        if output.json {
            writeln!(out, "{}", json!(operation))?;
        } else {
            writeln!(out, "{}", line(operation))?;
        }
    }
    out.flush()
}

fn line(operation: &Operation) -> String {
    let by = match (&operation.transaction, operation.origin) {
        (Some(transaction), _) => transaction.to_string(),
        (None, OperationOrigin::Rollback) => "rollback".to_owned(),
        (None, _) => "observed".to_owned(),
    };
    let held = |held: &Option<Held>| match held {
        None => "nothing".to_owned(),
        Some(Held { kind: "file", bytes: length, .. }) => bytes(*length),
        Some(held) => held.kind.to_owned(),
    };
    let kind = json!(operation.kind);
    format!(
        "{:>8}  {}  {by:<16}  {:<8}  {}  ({} -> {})",
        operation.lsn,
        moment(operation.time),
        kind.as_str().unwrap_or_default(),
        printable(&operation.path.to_string()),
        held(&operation.before),
        held(&operation.after),
    )
}
