//! What the program has from its platform. One folder for each, with the same names in both; `cfg` stands here and nowhere else.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(windows)]
#[allow(
    unsafe_code,
    reason = "the standard library knows no consoles, pipes with access rules, or other processes' figures"
)]
mod windows;

#[cfg(target_os = "linux")]
pub(crate) use linux::{
    account, bare, channel, commands, ending, events, files, foreground, host, places, pressure, processes, programs,
    service, terminal, words,
};
#[cfg(windows)]
pub(crate) use windows::{
    account, bare, channel, commands, ending, events, files, foreground, host, places, pressure, processes, programs,
    service, terminal, words,
};

/// Why a program can't be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum NoProgram {
    /// There is no such file.
    Missing,
    /// It is a directory or a device.
    NoFile,
    /// It is there, and is not executed.
    NotExecutable {
        /// The file.
        file: std::path::PathBuf,
        /// What to do.
        hint: String,
    },
}

/// Why the brain gives no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// Nobody listens; why.
    Away(String),
    /// Somebody listens, this process where it is known, and does not answer.
    Silent(Option<u32>),
}

/// A user of this host, with what a program expects in its environment.
#[derive(Clone, Debug)]
pub(crate) struct Account {
    /// Its numbers.
    pub(crate) ids: estop_watchdog::job::User,
    /// The variables that say who and where it is.
    pub(crate) variables: Vec<(&'static str, String)>,
}
