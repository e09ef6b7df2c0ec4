//! `estop tx …`: transactions from a shell. What each is to do waits in the store's vault; which store that is stands in the state
//! directory, under the transaction's id.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use estop_durable::{Kind, replace, sealed};
use estop_integrity::transaction::{KEPT, OpenTransaction};
use estop_integrity::{CommitReport, SnapshotManager, Transaction, TransactionId};
use serde::Serialize;
use serde_json::json;

use super::snapshot::{Bars, Steadfast, inside, open};
use crate::cli::Output;
use crate::cli::args::TxCommand;
use crate::cli::output::{bytes, counted, moment, seconds, table};
use crate::engine::stores::{JobWriters, Place};
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

const KIND: Kind = Kind(*b"ESTOPTXS");
const VERSION: u32 = 1;

/// The answer of `list`.
#[derive(Serialize)]
struct List {
    schema_version: u32,
    store: String,
    transactions: Vec<OpenTransaction>,
}

/// Does what `command` says.
///
/// # Errors
/// As the contract's exit codes say; a conflict is a refusal, and changes nothing.
pub(super) fn tx(site: &Site, command: TxCommand, output: &Output) -> Result<Code> {
    match command {
        TxCommand::Begin { store } => begin(site, &store, output),
        TxCommand::Put { tx, path, from, mode } => put(site, &tx, &path, from.as_deref(), mode, output),
        TxCommand::Delete { tx, path } => edit(site, &tx, output, |place, transaction| {
            let path = inside(place, &path)?;
            transaction.delete(&path)?;
            Ok(json!({"operation": "delete", "path": path}))
        }),
        TxCommand::Rename { tx, path, to } => edit(site, &tx, output, |place, transaction| {
            let (path, to) = (inside(place, &path)?, inside(place, &to)?);
            transaction.rename(&path, &to)?;
            Ok(json!({"operation": "rename", "path": path, "to": to}))
        }),
        TxCommand::Commit { tx, freeze } => commit(site, &tx, freeze, output),
        TxCommand::Rollback { tx } => rollback(site, &tx, output),
        TxCommand::List { store } => list(site, &store, output),
    }
}

fn begin(site: &Site, store: &str, output: &Output) -> Result<Code> {
    // A new file takes over its directory's access rules there, where the transaction says others.
    if cfg!(windows) {
        let message = "there are no transactions on Windows yet";
        return Err(Failure::failed(message, "change the files, and make a snapshot"));
    }
    let (place, manager) = open(site, store, output)?;
    let transaction = manager.begin();
    transaction.keep()?;
    let dir = directory(site);
    replace::create_dir(&dir, 0o700)?;
    forget_old(&dir);
    sealed::write(&dir.join(transaction.id().as_str()), KIND, VERSION, place.name.as_bytes())?;
    let answer =
        json!({"schema_version": 1, "store": place.name, "transaction": transaction.id(), "lsn": manager.lsn()});
    output.result(&answer, |_| transaction.id().to_string());
    Ok(Code::Done)
}

fn put(site: &Site, tx: &str, path: &Path, from: Option<&Path>, mode: Option<u32>, output: &Output) -> Result<Code> {
    edit(site, tx, output, |place, transaction| {
        let path = inside(place, path)?;
        let mut content: Box<dyn Read> = match from {
            Some(file) => Box::new(File::open(file).map_err(|error| Failure::io("open", file, &error))?),
            None => Box::new(std::io::stdin().lock()),
        };
        transaction.put(&path, &mut content, mode)?;
        Ok(json!({"operation": "put", "path": path}))
    })
}

/// Adds to an open transaction what `change` does, and keeps it.
fn edit(
    site: &Site,
    tx: &str,
    output: &Output,
    change: impl FnOnce(&Place, &mut Transaction<'_>) -> Result<serde_json::Value>,
) -> Result<Code> {
    let (place, manager) = at(site, tx, output)?;
    let mut transaction = manager.resume(tx)?;
    let mut answer = change(&place, &mut transaction)?;
    transaction.keep()?;
    answer["schema_version"] = 1.into();
    answer["store"] = place.name.into();
    answer["transaction"] = tx.into();
    output.result(&answer, |_| String::new());
    Ok(Code::Done)
}

fn commit(site: &Site, tx: &str, freeze: bool, output: &Output) -> Result<Code> {
    let (place, manager) = at(site, tx, output)?;
    let report = match manager.resume(tx) {
        Ok(transaction) => {
            let steadfast = Steadfast::begin();
            let progress = Bars::new(output).answering(&steadfast);
            if freeze {
                transaction.commit_frozen(&JobWriters::of(site, &place), &progress)?
            } else {
                transaction.commit(&progress)?
            }
        }
        // Its answer may have been lost: what is done is done.
        Err(unknown @ estop_integrity::Error::NoSuchTransaction { .. }) => manager.committed(tx)?.ok_or(unknown)?,
        Err(error) => return Err(error.into()),
    };
    forget(site, tx);
    if let Some(error) = &report.freeze_error {
        output.warn(&format!("a program that writes {} may have seen half of it: {error}", place.name));
    }
    output.result(&report, text);
    Ok(Code::Done)
}

fn text(report: &CommitReport) -> String {
    let CommitReport { transaction, store, lsn, .. } = report;
    let already = if report.already { " had been committed before" } else { " is committed" };
    format!(
        "transaction {transaction} in {store}{already} (lsn:{lsn}): {} put ({}), {} deleted; took {}",
        counted(report.put, "file", "files"),
        bytes(report.bytes),
        counted(report.deleted, "file", "files"),
        seconds(report.seconds),
    )
}

fn rollback(site: &Site, tx: &str, output: &Output) -> Result<Code> {
    let (place, manager) = at(site, tx, output)?;
    manager.give_up(tx)?;
    forget(site, tx);
    let answer = json!({"schema_version": 1, "store": place.name, "transaction": tx, "operation": "rollback"});
    output.result(&answer, |_| format!("transaction {tx} is given up; nothing in {} was changed by it", place.name));
    Ok(Code::Done)
}

fn list(site: &Site, store: &str, output: &Output) -> Result<Code> {
    let (place, manager) = open(site, store, output)?;
    let list = List { schema_version: 1, store: place.name, transactions: manager.open_transactions()? };
    output.result(&list, |list| {
        let row =
            |open: &OpenTransaction| vec![open.transaction.to_string(), moment(open.begun), open.paths.to_string()];
        let rows: Vec<_> = list.transactions.iter().map(row).collect();
        if rows.is_empty() {
            return format!("{} has no open transaction", list.store);
        }
        table(&["TRANSACTION", "BEGUN", "PATHS"], &rows)
    });
    Ok(Code::Done)
}

/// Opens the store of the transaction `tx`.
fn at(site: &Site, tx: &str, output: &Output) -> Result<(Place, SnapshotManager)> {
    let unknown = || {
        let hint =
            "it was committed or rolled back, or it waited for longer than a day; `estop tx begin STORE` begins one";
        Failure::new(Code::Failed, "no-such-transaction", format!("there is no open transaction {tx:?}"), hint)
    };
    let id = TransactionId::parse(tx).ok_or_else(unknown)?;
    let store = sealed::read(&directory(site).join(id.as_str()), KIND, VERSION)?.ok_or_else(unknown)?;
    open(site, &String::from_utf8_lossy(&store), output)
}

fn directory(site: &Site) -> PathBuf {
    site.state_dir.join("transactions")
}

fn forget(site: &Site, tx: &str) {
    // What is left goes with age.
    let _ = fs::remove_file(directory(site).join(tx));
}

/// Forgets where transactions belong that nobody waits for any more.
fn forget_old(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let written = entry.metadata().and_then(|found| found.modified());
        let age = written.map(|written| SystemTime::now().duration_since(written).unwrap_or_default());
        if age.is_ok_and(|age| age > 2 * KEPT) {
            // It is tried again the next time.
            let _ = fs::remove_file(entry.path());
        }
    }
}
