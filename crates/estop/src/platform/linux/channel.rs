//! The brain's socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream as BlockingStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_watchdog::registry::{RunDir, is_below_a_guardian, is_inside_a_job};
use rustix::net::sockopt::socket_peercred;
use tokio::net::{UnixListener, UnixStream};

use crate::failure::{Failure, Result};
use crate::platform::Unanswered;

/// The name of what shows the brain's place in the run directory.
pub(crate) const NAME: &str = "brain.sock";

/// Where the brain is asked.
#[derive(Debug)]
pub(crate) struct Listener(UnixListener);

/// Somebody who asks.
pub(crate) type Caller = UnixStream;

impl Listener {
    /// Binds the brain's socket in `run_dir`. To be called by whoever holds the brain's lock: a socket that is there is a dead
    /// brain's.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(NAME);
        let _ = std::fs::remove_file(&path);
        let fail = |error: std::io::Error| Failure::io("listen at", &path, &error);
        let directory = std::fs::File::open(run_dir).map_err(fail)?;
        let listener = UnixListener::bind(short(&directory, &path)).map_err(fail)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        Ok(Self(listener))
    }

    /// Waits for the next who asks.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) async fn accept(&mut self) -> std::io::Result<Caller> {
        Ok(self.0.accept().await?.0)
    }
}

/// Whether `caller` is heard: the same user or root, and nobody inside a job.
///
/// # Errors
/// Why not.
pub(crate) fn authorize(caller: &Caller, run_dir: &Path) -> std::result::Result<(), &'static str> {
    let peer = caller.peer_cred().map_err(|_| "the caller is not known")?;
    if peer.uid() != rustix::process::geteuid().as_raw() && peer.uid() != 0 {
        return Err("the caller is another user");
    }
    match peer.pid().map(i32::cast_unsigned) {
        // A caller that this PID namespace cannot name is outside of it, and so outside of every job.
        None | Some(0) => Ok(()),
        Some(pid) if is_inside_a_job(pid, true).unwrap_or(true) || is_below_a_guardian(&RunDir::at(run_dir), pid) => {
            Err("the caller is inside a job")
        }
        Some(_) => Ok(()),
    }
}

/// Puts a `question`, one line, to the brain of `run_dir`. Its answer, one line.
///
/// # Errors
/// If nobody answers within `wait`.
pub(crate) fn ask(run_dir: &Path, question: &str, wait: Duration) -> std::result::Result<String, Unanswered> {
    let away = |error: std::io::Error| Unanswered::Away(error.to_string());
    let mut stream = connect(&run_dir.join(NAME)).map_err(away)?;
    let pid = socket_peercred(&stream).ok().map(|peer| peer.pid.as_raw_pid().cast_unsigned());
    stream.set_read_timeout(Some(wait)).map_err(away)?;
    stream.write_all(question.as_bytes()).map_err(away)?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).map_err(|error| match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => Unanswered::Silent(pid),
        _ => away(error),
    })?;
    Ok(line)
}

/// Connects by way of the opened directory, so that the path may be longer than a socket's.
fn connect(path: &Path) -> std::io::Result<BlockingStream> {
    let directory = std::fs::File::open(path.parent().unwrap_or(Path::new(".")))?;
    BlockingStream::connect(short(&directory, path))
}

/// The path of a socket by way of its opened directory.
fn short(directory: &std::fs::File, path: &Path) -> PathBuf {
    Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(path.file_name().unwrap_or_default())
}
