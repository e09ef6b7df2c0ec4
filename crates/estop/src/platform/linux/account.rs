//! Looking up the user that a workload runs as.

use std::process::{Command, Stdio};

use estop_watchdog::job::User;

use crate::failure::{Code, Failure, Result};
use crate::platform::Account;

/// Looks up `user`, a name or a number, as the host knows it, directory services included.
///
/// # Errors
/// If there is no such user, or estop is not root and so cannot become one.
pub(crate) fn look_up(user: &str) -> Result<Account> {
    if !rustix::process::geteuid().is_root() {
        return Err(Failure::new(
            Code::Refused,
            "not-root",
            format!("only root can run a program as {user}"),
            "run estop as root",
        ));
    }
    let unknown = || Failure::usage(format!("there is no user {user}"), "see `getent passwd`");
    let entry = output("getent", &["passwd", "--", user]).ok_or_else(unknown)?;
    let fields: Vec<&str> = entry.trim().split(':').collect();
    let [name, _, uid, gid, _, home, shell] = fields[..] else { return Err(unknown()) };
    let groups = output("id", &["-G", "--", name]).ok_or_else(unknown)?;
    let number = |text: &str| text.parse::<u32>().map_err(|_| unknown());
    let ids = User {
        uid: number(uid)?,
        gid: number(gid)?,
        groups: groups.split_whitespace().map(number).collect::<Result<_>>()?,
    };
    let variables = [("HOME", home), ("SHELL", shell), ("USER", name), ("LOGNAME", name)];
    Ok(Account { ids, variables: variables.map(|(variable, value)| (variable, value.to_owned())).into() })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// What is wrong with `user` as one to run a workload as, and what to do. A number is a user whether it has a name or not.
pub(crate) fn fault(user: &str) -> Option<(String, &'static str)> {
    if user.parse::<u32>().is_ok() {
        return None;
    }
    let local = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let known = local.lines().any(|line| line.split(':').next() == Some(user))
        // Users of a directory service are in no file; `getent` asks whoever knows them.
        || output("getent", &["passwd", "--", user]).is_some();
    (!known).then(|| {
        let message = format!("there is no user \"{}\" on this host", user.escape_debug());
        (message, "create it, or name another; `getent passwd` lists them")
    })
}
