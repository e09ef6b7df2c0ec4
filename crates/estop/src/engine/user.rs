//! Looking up the user that a workload runs as.

use std::process::{Command, Stdio};

use estop_watchdog::job::User;

use crate::failure::{Code, Failure, Result};

/// A user of this host, with what a program expects in its environment.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its numbers.
    pub ids: User,
    /// Its name.
    pub name: String,
    /// Its home directory.
    pub home: String,
    /// Its shell.
    pub shell: String,
}

/// Looks up `user`, a name or a number, as the host knows it, directory services included.
///
/// # Errors
/// If there is no such user, or estop is not root and so cannot become one.
pub fn look_up(user: &str) -> Result<Account> {
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
    Ok(Account {
        ids: User {
            uid: number(uid)?,
            gid: number(gid)?,
            groups: groups.split_whitespace().map(number).collect::<Result<_>>()?,
        },
        name: name.to_owned(),
        home: home.to_owned(),
        shell: shell.to_owned(),
    })
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).stderr(Stdio::null()).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
