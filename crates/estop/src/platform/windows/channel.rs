//! The brain's pipe. Its name cannot be guessed, and stands in a file of the run directory, which is nobody else's: so nobody is
//! there before the brain. Only the same user, the administrators and the system may open it, and nobody from another host.

use std::io;
use std::os::windows::io::AsRawHandle as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use estop_durable::access::Descriptor;
use estop_watchdog::registry::{RunDir, is_below_a_guardian};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::windows::named_pipe::{ClientOptions, NamedPipeClient, NamedPipeServer, ServerOptions};
use windows_sys::Win32::Foundation::{ERROR_PIPE_BUSY, HANDLE};
use windows_sys::Win32::System::Pipes::{GetNamedPipeClientProcessId, GetNamedPipeServerProcessId};

use crate::failure::{Failure, Result};
use crate::platform::Unanswered;

/// The name of what shows the brain's place in the run directory.
pub(crate) const NAME: &str = "brain.pipe";
/// How long who asks waits between two looks whether a place at the pipe is free.
const PAUSE: Duration = Duration::from_millis(10);

/// Where the brain is asked.
#[derive(Debug)]
pub(crate) struct Listener {
    name: String,
    next: NamedPipeServer,
}

/// Somebody who asks.
pub(crate) type Caller = NamedPipeServer;

impl Listener {
    /// Makes the brain's pipe, and names it in `run_dir`. To be called by whoever holds the brain's lock.
    ///
    /// # Errors
    /// If it cannot be made.
    pub(crate) fn bind(run_dir: &Path) -> Result<Self> {
        let path = run_dir.join(NAME);
        let fail = |error: io::Error| Failure::io("listen at", &path, &error);
        let name = format!(r"\\.\pipe\estop-brain-{}", uuid::Uuid::new_v4());
        let next = instance(&name, true).map_err(fail)?;
        estop_durable::replace::replace(&path, name.as_bytes(), 0o600)?;
        Ok(Self { name, next })
    }

    /// Whether it outlives this brain. A pipe does not.
    #[expect(clippy::unused_self, reason = "as on the other platforms")]
    pub(crate) fn is_kept(&self) -> bool {
        false
    }

    /// Waits for the next who asks.
    ///
    /// # Errors
    /// The system's answer.
    pub(crate) async fn accept(&mut self) -> io::Result<Caller> {
        self.next.connect().await?;
        Ok(std::mem::replace(&mut self.next, instance(&self.name, false)?))
    }
}

fn instance(name: &str, first: bool) -> io::Result<NamedPipeServer> {
    let rules = Descriptor::private("", "GA")?;
    let mut attributes = rules.attributes();
    let mut options = ServerOptions::new();
    options.first_pipe_instance(first).reject_remote_clients(true);
    // SAFETY: the attributes are what the call takes them for, and they and their rules live until it returns.
    unsafe { options.create_with_security_attributes_raw(name, (&raw mut attributes).cast()) }
}

/// Whether `caller` is heard: nobody inside a job. Other users could not open the pipe.
///
/// # Errors
/// Why not.
pub(crate) fn authorize(caller: &Caller, run_dir: &Path) -> std::result::Result<(), &'static str> {
    let mut pid = 0;
    // SAFETY: the handle is open, and the place lives until the call returns.
    if unsafe { GetNamedPipeClientProcessId(caller.as_raw_handle() as HANDLE, &raw mut pid) } == 0 {
        return Err("the caller is not known");
    }
    if is_below_a_guardian(&RunDir::at(run_dir), pid) { Err("the caller is inside a job") } else { Ok(()) }
}

/// Puts a `question`, one line, to the brain of `run_dir`. Its answer, one line.
///
/// # Errors
/// If nobody answers within `wait`.
pub(crate) fn ask(run_dir: &Path, question: &str, wait: Duration) -> std::result::Result<String, Unanswered> {
    let away = |error: io::Error| Unanswered::Away(error.to_string());
    let place = PathBuf::from(std::fs::read_to_string(run_dir.join(NAME)).map_err(away)?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(away)?;
    runtime.block_on(async {
        let mut brain = None;
        let answer = tokio::time::timeout(wait, async {
            let pipe = connect(&place).await?;
            brain = server(&pipe);
            let (read, mut write) = tokio::io::split(pipe);
            write.write_all(question.as_bytes()).await?;
            let mut line = String::new();
            BufReader::new(read).read_line(&mut line).await.map(|_| line)
        });
        match answer.await {
            Ok(answer) => answer.map_err(away),
            Err(_) => Err(Unanswered::Silent(brain)),
        }
    })
}

async fn connect(place: &Path) -> io::Result<NamedPipeClient> {
    loop {
        match ClientOptions::new().open(place) {
            // Between one who asks and the next there is none free for a moment.
            Err(error) if error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed()) => {
                tokio::time::sleep(PAUSE).await;
            }
            other => return other,
        }
    }
}

/// The process at the pipe's other end.
fn server(pipe: &NamedPipeClient) -> Option<u32> {
    let mut pid = 0;
    // SAFETY: the handle is open, and the place lives until the call returns.
    let told = unsafe { GetNamedPipeServerProcessId(pipe.as_raw_handle() as HANDLE, &raw mut pid) };
    (told != 0).then_some(pid)
}
