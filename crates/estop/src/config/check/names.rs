//! The names of workloads, stores and secrets.

use estop_secrets::SecretName;

use crate::config::{Config, KeyPath, Problem};
use crate::platform::words::file_name_fault;

/// A name's longest length: with an ending it still fits into a file's name and a cgroup's.
const LONGEST: usize = 63;

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    let named = [("workload", config.workloads.keys().collect::<Vec<_>>()), ("store", config.stores.keys().collect())];
    for (kind, names) in named {
        for name in names {
            let hint = match file_name_fault(name) {
                Some(fault) => fault.to_owned(),
                None if is_name(name) => continue,
                None => {
                    format!("use up to {LONGEST} of a-z, 0-9, '.', '_' and '-', beginning with a letter or a digit")
                }
            };
            let message = format!("\"{}\" is no name for a {kind}", name.escape_debug());
            problems.push(Problem::at(KeyPath::section(kind).key(name), message, hint));
        }
    }
    for name in config.secrets.keys() {
        if let Some(problem) = secret_name_fault(KeyPath::section("secret").key(name), name) {
            problems.push(problem);
        }
    }
}

/// Whether `name` can be a workload's or a store's: `[a-z0-9][a-z0-9._-]{0,62}`.
pub fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let mut bytes = name.bytes();
    bytes.next().is_some_and(plain)
        && name.len() <= LONGEST
        && bytes.all(|byte| plain(byte) || matches!(byte, b'.' | b'_' | b'-'))
}

/// What is wrong with a secret's name.
pub(super) fn secret_name_fault(key: KeyPath, name: &str) -> Option<Problem> {
    SecretName::new(name).err().map(|_| {
        Problem::at(
            key,
            format!("\"{}\" is no name for a secret", name.escape_debug()),
            "use letters, digits, '.', '_' and '-', with '/' between segments, such as db/password",
        )
    })
}
