//! `estop secret …`.

mod value;

use std::io::{IsTerminal as _, Write as _};

use data_encoding::BASE64;
use estop_secrets::exposure::Exposure;
use estop_secrets::{Secret, SecretName, StoreError, Version, VersionInfo, VersionState};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::Output;
use crate::cli::args::SecretCommand;
use crate::cli::output::{moment, printable, table};
use crate::engine::keys::{Keys, ledger};
use crate::engine::launch::block_on;
use crate::failure::Code;
use crate::failure::{Failure, Result};
use crate::site::Site;

/// One of the secrets, without its value.
#[derive(Serialize)]
struct Known {
    name: SecretName,
    /// The version in force; null if there is none.
    version: Option<Version>,
    /// When that was made.
    created: Option<Timestamp>,
    /// How many versions are kept.
    versions: usize,
}

/// The answer of `list`.
#[derive(Serialize)]
struct List {
    schema_version: u32,
    secrets: Vec<Known>,
}

/// The answer of `versions`.
#[derive(Serialize)]
struct History {
    schema_version: u32,
    name: SecretName,
    versions: Vec<VersionInfo>,
}

/// The answer of `exposure`.
#[derive(Serialize)]
struct Deliveries {
    schema_version: u32,
    name: SecretName,
    exposures: Vec<Exposure>,
}

/// Does what `command` says.
///
/// # Errors
/// If the store can't be reached (5), there is no such secret, or another version is in force than was expected (1).
pub(super) fn secret(site: &Site, command: SecretCommand, output: &Output) -> Result<Code> {
    match command {
        SecretCommand::Put { name, expect } => put(site, &SecretName::new(name)?, expect.map(Version), output),
        SecretCommand::Get { name, version } => get(site, &SecretName::new(name)?, version.map(Version), output),
        SecretCommand::List => list(site, output),
        SecretCommand::Versions { name } => versions(site, SecretName::new(name)?, output),
        SecretCommand::Exposure { name } => exposure(site, SecretName::new(name)?, output),
    }
}

fn put(site: &Site, name: &SecretName, expect: Option<Version>, output: &Output) -> Result<Code> {
    let value = value::from_stdin(name)?;
    let version = block_on(async {
        let store = Keys::open(site).await?.store;
        Ok(match expect {
            Some(expected) => store.write(name, &value, expected).await?,
            None => store.put(name, &value).await?,
        })
    })?;
    let answer = json!({"schema_version": 1, "name": name, "version": version});
    output.result(&answer, |_| format!("{name} is at version {version}"));
    Ok(Code::Done)
}

fn get(site: &Site, name: &SecretName, version: Option<Version>, output: &Output) -> Result<Code> {
    let secret = block_on(async { Ok(Keys::open(site).await?.store.read(name, version).await?) })?;
    let mut answer =
        if output.json { in_json(&secret).to_string().into_bytes() } else { secret.value.expose().to_vec() };
    // What a program reads is the value and nothing else; a person's prompt should not hang on it.
    if output.json || std::io::stdout().is_terminal() {
        answer.push(b'\n');
    }
    let mut stdout = std::io::stdout().lock();
    match stdout.write_all(&answer).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(Failure::failed(
            format!("the value of {name} could not be written out whole: {error}"),
            "check where it goes",
        )),
        _ => Ok(Code::Done),
    }
}

fn in_json(secret: &Secret) -> Value {
    let mut answer = json!({"schema_version": 1, "name": secret.name, "version": secret.info.version});
    match std::str::from_utf8(secret.value.expose()) {
        Ok(text) => answer["value"] = text.into(),
        Err(_) => answer["value_base64"] = BASE64.encode(secret.value.expose()).into(),
    }
    answer
}

fn list(site: &Site, output: &Output) -> Result<Code> {
    let secrets = block_on(async {
        let store = Keys::open(site).await?.store;
        let mut secrets = Vec::new();
        for name in store.list().await? {
            match store.versions(&name).await {
                Ok(versions) => secrets.push(Known::new(name, &versions)),
                // It was removed since the listing.
                Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(secrets)
    })?;
    output.result(&List { schema_version: 1, secrets }, |list| {
        if list.secrets.is_empty() {
            return "there is no secret yet: `estop secret put NAME` reads one from standard input".to_owned();
        }
        let rows: Vec<_> = list.secrets.iter().map(Known::row).collect();
        table(&["SECRET", "VERSION", "SINCE (UTC)", "KEPT"], &rows)
    });
    Ok(Code::Done)
}

impl Known {
    fn new(name: SecretName, versions: &[VersionInfo]) -> Self {
        let current = versions.iter().find(|info| info.state == VersionState::Current);
        Self {
            name,
            version: current.map(|info| info.version),
            created: current.map(|info| info.created),
            versions: versions.len(),
        }
    }

    fn row(&self) -> Vec<String> {
        vec![
            self.name.to_string(),
            self.version.map_or("none".to_owned(), |version| version.to_string()),
            self.created.map(moment).unwrap_or_default(),
            self.versions.to_string(),
        ]
    }
}

fn versions(site: &Site, name: SecretName, output: &Output) -> Result<Code> {
    let versions = block_on(async { Ok(Keys::open(site).await?.store.versions(&name).await?) })?;
    output.result(&History { schema_version: 1, name, versions }, |answer| {
        let rows: Vec<_> = answer.versions.iter().map(version_row).collect();
        table(&["VERSION", "STATE", "MADE (UTC)", "BY", "VALID UNTIL (UTC)"], &rows)
    });
    Ok(Code::Done)
}

fn version_row(info: &VersionInfo) -> Vec<String> {
    let state = match info.state {
        VersionState::Pending => "pending",
        VersionState::Current => "current",
        VersionState::Previous => "previous",
        VersionState::Revoked => "revoked",
    };
    let until = match (info.state, info.revoked, info.valid_until) {
        (VersionState::Revoked, Some(revoked), _) => moment(revoked),
        (VersionState::Previous, _, Some(until)) => moment(until),
        (VersionState::Previous, _, None) => "revoked by hand or a rotation".to_owned(),
        _ => String::new(),
    };
    let by = if info.rotation_id.is_some() { "rotation" } else { "put" };
    vec![info.version.to_string(), state.to_owned(), moment(info.created), by.to_owned(), until]
}

/// Reads the ledger alone: who received what can be told while the store is away.
fn exposure(site: &Site, name: SecretName, output: &Output) -> Result<Code> {
    let exposures = ledger(site).exposure(&name)?;
    output.result(&Deliveries { schema_version: 1, name, exposures }, |answer| {
        if answer.exposures.is_empty() {
            return format!("no workload was ever given {}", answer.name);
        }
        let row = |exposure: &Exposure| {
            let channel = match json!(exposure.channel) {
                Value::String(word) => word,
                other => other.to_string(),
            };
            vec![
                printable(&exposure.workload),
                printable(&exposure.run_id),
                exposure.version.to_string(),
                channel,
                moment(exposure.time),
            ]
        };
        let rows: Vec<_> = answer.exposures.iter().map(row).collect();
        table(&["WORKLOAD", "RUN", "VERSION", "BY", "GIVEN (UTC)"], &rows)
    });
    Ok(Code::Done)
}
