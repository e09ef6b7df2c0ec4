//! Variables, signals and words, as the system has them.

use std::ffi::{OsStr, OsString};

use estop_watchdog::job::Bytes;

/// Whether a program is asked to end by a signal.
pub(crate) const HAS_SIGNALS: bool = false;

/// By what a variable is known: two names of the same, whatever their case, are one variable.
pub(crate) fn variable(name: &OsStr) -> OsString {
    name.to_ascii_uppercase()
}

/// `value` as a variable's.
///
/// # Errors
/// Why it cannot be one.
pub(crate) fn variable_value(value: &[u8]) -> Result<Bytes, &'static str> {
    let text = std::str::from_utf8(value).map_err(|_| "is no text, which a variable holds")?;
    if text.contains('\0') { Err("holds a zero byte, which no variable can") } else { Ok(text.to_owned().into()) }
}

/// The number of a signal by its name, with or without `SIG`: of those that a console has.
pub(crate) fn signal_number(name: &str) -> Option<i32> {
    match name.strip_prefix("SIG").unwrap_or(name) {
        "INT" => Some(2),
        "TERM" => Some(15),
        _ => None,
    }
}
