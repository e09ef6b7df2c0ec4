//! Variables, signals and words, as the system has them.

use std::ffi::{OsStr, OsString};

use estop_watchdog::job::Bytes;

/// What stands for signals: Ctrl-Break and `WM_CLOSE`, and Ctrl-C.
pub(crate) const SIGNALS: &[&str] = &["TERM", "INT"];

/// Whether a program can say of itself that it is ready, as `sd_notify` does.
pub(crate) const HAS_NOTIFY: bool = false;

/// What to do about a file that is no program.
pub(crate) const HOW_TO_EXECUTE: &str =
    "run a batch file by `cmd /c`, with arguments that are safe there, and a script by its interpreter";

/// Names that are devices in every directory, with whatever ending.
const DEVICES: [&str; 6] = ["con", "prn", "aux", "nul", "conin$", "conout$"];

/// What keeps a file from having `name`, beyond what keeps it everywhere. See "Naming Files, Paths, and Namespaces" in the Windows
/// documentation.
pub(crate) fn file_name_fault(name: &str) -> Option<&'static str> {
    if name.ends_with(['.', ' ']) {
        return Some("a name cannot end with a dot or a blank on Windows");
    }
    if name.contains(['<', '>', ':', '"', '|', '?', '*', '\\', '/']) || name.chars().any(char::is_control) {
        return Some("a name cannot have one of < > : \" | ? * \\ / in it on Windows");
    }
    let stem = name.split('.').next().unwrap_or_default().trim_end().to_ascii_lowercase();
    let port = |kind: &str| stem.strip_prefix(kind).is_some_and(|number| number.chars().count() == 1 && number != "0");
    (DEVICES.contains(&stem.as_str()) || port("com") || port("lpt"))
        .then_some("that is the name of a device on Windows")
}

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

#[cfg(test)]
mod tests {
    use super::file_name_fault;

    #[test]
    fn names_of_devices_and_what_the_system_changes_are_no_names() {
        for name in ["con", "NUL", "aux.txt", "com1", "LPT9.log", "a.", "a ", "C:leak", "x:y", "a\\b", "a?"] {
            assert!(file_name_fault(name).is_some(), "{name}");
        }
        for name in ["a", "console", "com", "com10", "nul2", "key.pem", "ümlaut"] {
            assert_eq!(file_name_fault(name), None, "{name}");
        }
    }
}
