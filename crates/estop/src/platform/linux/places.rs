//! Where an estop lives that was told nothing, and who else lives here.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use estop_watchdog::emergency::{Groups, Instance};
use estop_watchdog::job::linux::{self, Places};

use crate::failure::{Failure, Result};

/// Whether estop runs as who owns this host, and so stops everybody's jobs.
pub(crate) fn is_privileged() -> bool {
    rustix::process::geteuid().is_root()
}

fn from_environment(variable: &str) -> Option<PathBuf> {
    std::env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute())
}

fn home() -> PathBuf {
    from_environment("HOME").unwrap_or_else(|| PathBuf::from("/"))
}

/// The configuration file.
pub(crate) fn default_config() -> PathBuf {
    if is_privileged() {
        return PathBuf::from("/etc/estop/estop.toml");
    }
    from_environment("XDG_CONFIG_HOME").unwrap_or_else(|| home().join(".config")).join("estop/estop.toml")
}

/// The state directory.
pub(crate) fn default_state_dir() -> PathBuf {
    if is_privileged() {
        return PathBuf::from("/var/lib/estop");
    }
    from_environment("XDG_STATE_HOME").unwrap_or_else(|| home().join(".local/state")).join("estop")
}

/// The run directory, where it is not in the state directory.
pub(crate) fn default_run_dir() -> Option<PathBuf> {
    if is_privileged() {
        return Some(PathBuf::from("/run/estop"));
    }
    from_environment("XDG_RUNTIME_DIR").map(|dir| dir.join("estop"))
}

/// The estops beside the one of `run_dir`: every other of root's that has jobs, and every user's.
pub(crate) fn others(run_dir: &Path) -> Vec<Instance> {
    let mut instances = Vec::new();
    for Places { run_dir, state_dir } in linux::instances().into_iter().filter(|other| other.run_dir != run_dir) {
        let state_dir = Some(state_dir);
        instances.push(Instance { run_dir, state_dir, groups: Groups::Nobodys, keeps_incident: false });
    }
    for user in std::fs::read_dir("/run/user").into_iter().flatten().flatten() {
        let run_dir = user.path().join("estop");
        if run_dir.is_dir() {
            // Its latch is set by its own guardians; root does not write where a user could have put a link.
            instances.push(Instance { run_dir, state_dir: None, groups: Groups::Nobodys, keeps_incident: false });
        }
    }
    instances
}

/// Refuses a directory of estop's own that others than its user can change.
///
/// # Errors
/// If they can.
pub(crate) fn refuse_strangers(path: &Path) -> Result<()> {
    let metadata = std::fs::metadata(path).map_err(|error| Failure::io("look at", path, &error))?;
    let own = rustix::process::geteuid().as_raw();
    if metadata.uid() == own && metadata.mode() & 0o022 == 0 {
        return Ok(());
    }
    let whose = format!("belongs to user {} with mode {:o}", metadata.uid(), metadata.mode() & 0o7777);
    Err(Failure::usage(
        format!("others could change the state in {}: it {whose}", path.display()),
        format!("chown {own} {0} && chmod 700 {0}", path.display()),
    ))
}

/// Whether nobody else can reach into the directory `path`, as its rules say in a few words.
///
/// # Errors
/// What its rules are, and what to do.
pub(crate) fn is_closed(path: &Path) -> std::result::Result<String, (String, String)> {
    let metadata = std::fs::symlink_metadata(path)
        .map_err(|error| (error.to_string(), "check the path and its permissions".to_owned()))?;
    let (owner, mode) = (metadata.uid(), metadata.mode() & 0o7777);
    if owner != rustix::process::geteuid().as_raw() || mode & 0o077 != 0 {
        let hint = format!("`chown` it to estop's user and `chmod 700 {}`", path.display());
        return Err((format!("belongs to user {owner} with mode {mode:o}: others could reach into it"), hint));
    }
    Ok(format!("mode {mode:o}"))
}
