//! The user that a workload runs as.

use estop_watchdog::job::User;

pub(crate) use crate::platform::account::look_up;

/// A user of this host, with what a program expects in its environment.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its numbers.
    pub ids: User,
    /// The variables that say who and where it is.
    pub variables: Vec<(&'static str, String)>,
}
