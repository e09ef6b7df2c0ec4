//! The brain's socket.

use std::io::{BufRead as _, BufReader, ErrorKind, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::{UnixListener as BlockingListener, UnixStream as BlockingStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_watchdog::registry::{RunDir, is_below_a_guardian, is_inside_a_job};
use rustix::net::sockopt::{socket_acceptconn, socket_domain, socket_peercred, socket_type};
use rustix::net::{AddressFamily, SocketType, listen};
use tokio::net::{UnixListener, UnixStream};

use crate::failure::{Failure, Result};
use crate::platform::Unanswered;
use crate::platform::linux::service;

/// The name of what shows the brain's place in the run directory.
pub(crate) const NAME: &str = "brain.sock";

/// How many may wait to be heard.
const BACKLOG: i32 = 1024;

/// Where the brain is asked.
#[derive(Debug)]
pub(crate) struct Listener {
    socket: UnixListener,
    kept: bool,
}

/// Somebody who asks.
pub(crate) type Caller = UnixStream;

impl Listener {
    /// Binds the brain's socket in `run_dir`, or takes up the one that the service manager has kept: who has asked since the last
    /// brain's end is answered then. To be called by whoever holds the brain's lock: any other socket that is there is a dead brain's.
    ///
    /// # Errors
    /// If it cannot be bound.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(NAME);
        if let Some(socket) = take_up(&path) {
            return Ok(Self { socket, kept: true });
        }
        let _ = std::fs::remove_file(&path);
        let fail = |error: std::io::Error| Failure::io("listen at", &path, &error);
        let directory = std::fs::File::open(run_dir).map_err(fail)?;
        let socket = UnixListener::bind(short(&directory, &path)).map_err(fail)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
        let kept = name_of(&path).is_some_and(|name| service::keep(&name, &socket));
        Ok(Self { socket, kept })
    }

    /// Whether the service manager keeps it for the next brain, for which its file is to stay.
    pub(crate) fn is_kept(&self) -> bool {
        self.kept
    }

    /// Waits for the next who asks.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) async fn accept(&mut self) -> std::io::Result<Caller> {
        Ok(self.socket.accept().await?.0)
    }
}

/// The socket at `path`, if the service manager has kept it. What else of estop's it has kept it is to let go.
fn take_up(path: &Path) -> Option<UnixListener> {
    let wanted = name_of(path);
    let mut taken = None;
    for (name, socket) in service::handed_over() {
        if wanted.as_ref() == Some(&name) && taken.is_none() {
            taken = listen_again(socket).ok();
        }
        if taken.is_none() || wanted.as_ref() != Some(&name) {
            service::forget(&name);
        }
    }
    taken
}

/// The name by which the socket at `path` is kept. It says which file it is bound to, whose number is nobody else's
/// while the socket lives: another in its place is another brain's.
fn name_of(path: &Path) -> Option<String> {
    let found = std::fs::symlink_metadata(path).ok().filter(|found| found.file_type().is_socket())?;
    Some(format!("brain-{}-{}", found.dev(), found.ino()))
}

fn listen_again(socket: OwnedFd) -> std::io::Result<UnixListener> {
    let listens = socket_domain(&socket)? == AddressFamily::UNIX
        && socket_type(&socket)? == SocketType::STREAM
        && socket_acceptconn(&socket)?;
    if !listens {
        return Err(std::io::Error::other("it is no listening socket"));
    }
    // Those who ask are told by the kernel who listens; from here on that is this process.
    listen(&socket, BACKLOG)?;
    let socket = BlockingListener::from(socket);
    socket.set_nonblocking(true)?;
    UnixListener::from_std(socket)
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
