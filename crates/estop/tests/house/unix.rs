//! What a house has from Unix: shells and their scripts are there.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use super::{ESTOP, House};

pub(super) fn configuration(text: &str) -> String {
    text.to_owned()
}

pub(super) fn furnish(_house: &Path) {}

pub(super) fn clear(_house: &Path) {}

pub(super) fn program(_house: &Path) -> PathBuf {
    ESTOP.into()
}

pub(super) fn lead(_command: &mut Command, _house: &Path) {}

pub(super) fn script(house: &House, path: &Path, body: &str) -> PathBuf {
    let path = house.file(path, format!("#!/bin/sh\n{body}\n"));
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

pub(super) fn signal_code(status: ExitStatus) -> i32 {
    128 + status.signal().unwrap_or_default()
}
