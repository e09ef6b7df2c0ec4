//! Variables, signals and words, as the system has them.

use std::ffi::{OsStr, OsString};

use estop_watchdog::job::Bytes;
use rustix::process::Signal;

/// The signals by which a program may be told something, and asked to end.
pub(crate) const SIGNALS: &[&str] = &["TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "WINCH", "CONT"];

/// Whether a program can say of itself that it is ready, as `sd_notify` does.
pub(crate) const HAS_NOTIFY: bool = true;

/// What to do about a file that is no program.
pub(crate) const HOW_TO_EXECUTE: &str = "check the file and its mode";

/// What keeps a file from having `name`, beyond what keeps it everywhere.
pub(crate) fn file_name_fault(_name: &str) -> Option<&'static str> {
    None
}

/// By what a variable is known: two names of the same are one variable.
pub(crate) fn variable(name: &OsStr) -> OsString {
    name.to_owned()
}

/// `value` as a variable's.
///
/// # Errors
/// Why it cannot be one.
pub(crate) fn variable_value(value: &[u8]) -> Result<Bytes, &'static str> {
    if value.contains(&0) {
        return Err("holds a zero byte, which no variable can");
    }
    Ok(Bytes(value.to_vec()))
}

/// The number of a signal by its name, with or without `SIG`.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    let signal = match name.strip_prefix("SIG").unwrap_or(name) {
        "HUP" => Signal::HUP,
        "INT" => Signal::INT,
        "QUIT" => Signal::QUIT,
        "TERM" => Signal::TERM,
        "USR1" => Signal::USR1,
        "USR2" => Signal::USR2,
        "WINCH" => Signal::WINCH,
        "CONT" => Signal::CONT,
        _ => return None,
    };
    Some(signal.as_raw())
}
