//! `estop rotate`.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use estop_secrets::rotate::{Context, KindError, Mode, Plan, Report, Reports, Request, RotationKind};
use estop_secrets::{Secret, SecretName, SecretValue, Version};

use crate::cli::Output;
use crate::cli::output::{printable, seconds, table};
use crate::engine::keys::{Keys, exposed_to};
use crate::engine::launch::block_on;
use crate::engine::response::is_complete;
use crate::failure::{Code, Failure, Result};
use crate::site::Site;

/// Which secrets are rotated. One of the three is given.
#[derive(Debug)]
pub(super) struct Which {
    /// These.
    pub(super) names: Vec<String>,
    /// All that this workload was ever given.
    pub(super) exposed_to: Option<String>,
    /// All that the configuration says how to make.
    pub(super) all: bool,
}

/// How they are rotated.
#[derive(Clone, Copy, Debug)]
pub(super) struct How {
    /// The old ones are revoked at once.
    pub(super) emergency: bool,
    /// Change nothing, say what would be done.
    pub(super) dry_run: bool,
    /// Revoke the old ones even where no new one can be made.
    pub(super) revoke_anyway: bool,
}

impl How {
    fn request(self) -> Request {
        Request {
            mode: if self.emergency { Mode::Emergency } else { Mode::Normal },
            reason: if self.emergency { "emergency rotation by an operator" } else { "rotation by an operator" }
                .to_owned(),
            dry_run: self.dry_run,
            revoke_anyway: self.revoke_anyway,
            ..Request::default()
        }
    }
}

/// Rotates secrets.
///
/// # Errors
/// If the store can't be reached (5), or nothing says which secrets are meant (2). What fails for one secret is in the answer (3).
pub(super) fn rotate(site: &Site, which: &Which, how: How, output: &Output) -> Result<Code> {
    let reports = block_on(async {
        let keys = Keys::open(site).await?;
        let names = names(site, &keys, which)?;
        let (mut plans, mut unplanned) = (Vec::new(), Vec::new());
        for name in names {
            plans.push(match keys.plan(&name).await {
                Ok(plan) => plan,
                Err(failure) => {
                    unplanned.push((name.clone(), failure.message.clone()));
                    without_maker(name, &failure)
                }
            });
        }
        let mut reports = keys.rotator().rotate_all(plans, &how.request()).await;
        if how.dry_run {
            foretell(&mut reports, &unplanned, how);
        }
        Ok(reports)
    })?;
    let well = |report: &Report| if how.dry_run { report.error.is_none() } else { is_complete(report) };
    let complete = reports.rotations.iter().all(well);
    output.result(&reports, |reports| text(reports, which, how));
    Ok(if complete { Code::Done } else { Code::NotProven })
}

fn names(site: &Site, keys: &Keys, which: &Which) -> Result<Vec<SecretName>> {
    let wanted: Vec<String> = match &which.exposed_to {
        Some(workload) => exposed_to(&keys.ledger, std::slice::from_ref(workload))?.into_iter().collect(),
        None if which.all => site.config.secrets.keys().cloned().collect(),
        None => which.names.clone(),
    };
    if which.all && wanted.is_empty() {
        let hint = "add a section [secret.\"NAME\"] for each secret that estop is to rotate";
        return Err(Failure::usage("the configuration has no section of a secret", hint));
    }
    let mut names = Vec::with_capacity(wanted.len());
    for name in wanted {
        let name = SecretName::new(name)?;
        if !names.contains(&name) {
            names.push(name);
        }
    }
    Ok(names)
}

/// The rotation of a secret of which nobody knows how to make a new value: it fails, and in an emergency says whether the old one is
/// still valid, or revokes it all the same if that was asked for.
fn without_maker(name: SecretName, why: &Failure) -> Plan {
    let hint = if why.hint.is_empty() { String::new() } else { format!(": {}", why.hint) };
    let kind = Unmade(format!("{}{hint}", why.message));
    Plan { name, kind: Arc::new(kind), subscribers: Vec::new(), overlap: Duration::ZERO }
}

struct Unmade(String);

#[async_trait]
impl RotationKind for Unmade {
    async fn create(&self, _context: &Context) -> std::result::Result<SecretValue, KindError> {
        Err(KindError(self.0.clone()))
    }

    async fn test(&self, _context: &Context, _new: &Secret) -> std::result::Result<(), KindError> {
        Err(KindError(self.0.clone()))
    }
}

/// A dry run makes no value, and so does not notice that none could be made.
fn foretell(reports: &mut Reports, unplanned: &[(SecretName, String)], how: How) {
    for report in &mut reports.rotations {
        if let Some((_, why)) = unplanned.iter().find(|(name, _)| *name == report.name) {
            report.to_version = None;
            report.error.get_or_insert_with(|| why.clone());
            report.still_exposed = how.emergency && !how.revoke_anyway;
        }
    }
}

fn text(reports: &Reports, which: &Which, how: How) -> String {
    if reports.rotations.is_empty() {
        let workload = which.exposed_to.as_deref().unwrap_or_default();
        return format!("{} was never given a secret: nothing to rotate", printable(workload));
    }
    let rows: Vec<_> = reports.rotations.iter().map(|report| row(report, how)).collect();
    let mut text = if how.dry_run { "nothing was changed; a rotation would do this:\n" } else { "" }.to_owned();
    text += &table(&["SECRET", "VERSION", "NEW ONE", "OLD ONE", "TOLD", "TIME"], &rows);
    for report in &reports.rotations {
        if let Some(error) = &report.error {
            let _ = writeln!(text, "{}: {}", report.name, printable(error));
        }
        for notified in report.notified.iter().filter(|notified| !notified.acknowledged && !how.dry_run) {
            let why = printable(notified.error.as_deref().unwrap_or("it did not acknowledge"));
            let subscriber = printable(&notified.subscriber);
            let _ = writeln!(text, "{}: {subscriber} does not know of the new version: {why}", report.name);
        }
    }
    text
}

fn row(report: &Report, how: How) -> Vec<String> {
    let version = |version: Option<Version>| version.map_or("none".to_owned(), |version| version.to_string());
    let new = match (how.dry_run, report.promoted) {
        (true, _) if report.error.is_some() => "can't be made",
        (true, _) => "would be made",
        (false, true) => "in force",
        (false, false) => "failed",
    };
    let old = match (how.dry_run, report.still_exposed, report.old_revoked) {
        (_, true, _) => "STILL VALID",
        (true, ..) => "",
        (_, _, true) => "revoked",
        (_, _, false) if report.promoted => "valid until its overlap ends",
        _ => "in force",
    };
    let told = report.notified.iter().filter(|notified| notified.acknowledged).count();
    vec![
        report.name.to_string(),
        format!("{} to {}", version(report.from_version), version(report.to_version)),
        new.to_owned(),
        old.to_owned(),
        if how.dry_run { report.notified.len().to_string() } else { format!("{told} of {}", report.notified.len()) },
        seconds(report.seconds),
    ]
}
