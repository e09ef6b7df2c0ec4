//! `estop record …`.

use estop_recovery::CriticalFailureLog;
use estop_recovery::audit::AuditReport;

use crate::cli::Output;
use crate::cli::args::RecordCommand;
use crate::cli::output::{counted, printable, table};
use crate::failure::{Code, Result};
use crate::site::Site;

/// Does what `command` says.
///
/// # Errors
/// If the log can't be read at all. What is wrong with it is no error but in the answer (3).
pub(super) fn record(site: &Site, command: &RecordCommand, output: &Output) -> Result<Code> {
    match command {
        RecordCommand::Verify => {
            let report = CriticalFailureLog::verify(&site.critical_failures())?;
            output.result(&report, text);
            Ok(if report.ok { Code::Done } else { Code::NotProven })
        }
    }
}

fn text(report: &AuditReport) -> String {
    let (path, lines) = (report.path.display(), counted(report.lines, "line", "lines"));
    if report.ok && report.lines == 0 {
        return format!("{path}: nothing was ever recorded");
    }
    if report.ok {
        return format!("{path}: {lines}, each as it was written and in its place, none missing");
    }
    let rows: Vec<_> = report
        .faults
        .iter()
        .map(|fault| vec![fault.line.to_string(), fault.kind.clone(), printable(&fault.detail)])
        .collect();
    let faults = counted(report.faults.len() as u64, "fault", "faults");
    format!("{path}: {lines}, {faults}\n{}", table(&["LINE", "FAULT", "WHAT"], &rows))
}
