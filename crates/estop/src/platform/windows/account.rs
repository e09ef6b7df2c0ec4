//! Other users, whom Windows lets nobody become who does not know their password.

use crate::failure::{Code, Failure, Result};
use crate::platform::Account;

const HINT: &str = "leave `user` out, and let estop run as the user that the workload is to be";

/// Refuses to run anything as another user.
///
/// # Errors
/// Always.
pub(crate) fn look_up(user: &str) -> Result<Account> {
    Err(Failure::new(Code::Refused, "another-user", message(user), HINT))
}

/// What is wrong with `user` as one to run a workload as, and what to do.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere there are users to become")]
pub(crate) fn fault(user: &str) -> Option<(String, &'static str)> {
    Some((message(user), HINT))
}

fn message(user: &str) -> String {
    format!("on Windows estop cannot run a program as another user (\"{}\")", user.escape_debug())
}
