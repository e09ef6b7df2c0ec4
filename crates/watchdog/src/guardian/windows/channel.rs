//! How a guardian is started and told what to do, and how it finds its place among processes.

use std::fs::File;
use std::io::{self, BufRead as _, BufReader, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle};
use std::os::windows::process::CommandExt as _;
use std::process::{Child, Command};
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use windows_sys::Win32::Foundation::{
    CloseHandle, ERROR_ACCESS_DENIED, ERROR_FILE_NOT_FOUND, HANDLE_FLAG_INHERIT, SetHandleInformation,
};
use windows_sys::Win32::System::Console::{
    GetStdHandle, STD_ERROR_HANDLE, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetStdHandle,
};
use windows_sys::Win32::System::Threading::{CREATE_BREAKAWAY_FROM_JOB, CREATE_NEW_PROCESS_GROUP, CREATE_NO_WINDOW};

use crate::error::Context as _;
use crate::guardian::spec::GuardianSpec;
use crate::guardian::start::{ARGUMENT, OWN_VARIABLES, Streams};
use crate::job::windows::object::check;
use crate::{Error, Result};

/// What the system says of a command that does not exist.
pub(in crate::guardian) const NOT_FOUND: i32 = ERROR_FILE_NOT_FOUND.cast_signed();
/// What it says of one that cannot be executed.
pub(in crate::guardian) const NOT_EXECUTABLE: i32 = ERROR_ACCESS_DENIED.cast_signed();
/// What a report ends with, and does not hold: it is JSON without line breaks.
const END: u8 = b'\n';
/// How often a guardian that has not reported is looked at, whether it lives.
const LOOK: Duration = Duration::from_millis(20);

/// Held while a guardian's ends of the pipes can be inherited, so that no other guardian does.
static STARTING: Mutex<()> = Mutex::new(());

/// The starter's ends of the two pipes.
pub(in crate::guardian) struct Starter {
    orders: PipeWriter,
    reports: PipeReader,
}

/// Starts a guardian for `spec`, which waits to be told.
///
/// # Errors
/// If no process is to be had.
pub(in crate::guardian) fn launch(spec: &GuardianSpec, streams: Streams) -> Result<(Child, Starter)> {
    let (told, orders) = io::pipe().doing("create a pipe")?;
    let (reports, report) = io::pipe().doing("create a pipe")?;
    let executable = std::env::current_exe().doing("find this program's own file")?;
    let mut command = Command::new(executable);
    for own in OWN_VARIABLES {
        command.env_remove(own);
    }
    command.arg(ARGUMENT).arg(number(&told)).arg(number(&report));
    command.stdin(streams.input).stdout(streams.output).stderr(streams.error);
    // A panic elsewhere while it was held has left nothing half done.
    let starting = STARTING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
    keep_own_streams();
    let inherit = [told.as_raw_handle(), report.as_raw_handle()];
    for handle in inherit {
        // SAFETY: the handle is open.
        check(unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, HANDLE_FLAG_INHERIT) })
            .doing("hand a pipe down")?;
    }
    let process = if spec.job.program.process_group.is_some() { command.spawn() } else { apart(&mut command) };
    // The guardian has its own by now: their closing is the sign of its death.
    drop((told, report));
    drop(starting);
    Ok((process.doing("start a guardian")?, Starter { orders, reports }))
}

/// This process's own streams are for whom they are given to: a guardian outlives its starter, and whoever reads what that
/// writes waits for its end.
fn keep_own_streams() {
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: takes a number.
        let handle = unsafe { GetStdHandle(which) };
        // SAFETY: takes a handle, which may be none.
        unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
    }
}

/// Away from the starter's console and, where it may, from the job that the starter itself is in.
fn apart(command: &mut Command) -> io::Result<Child> {
    let flags = CREATE_NEW_PROCESS_GROUP | CREATE_NO_WINDOW;
    match command.creation_flags(flags | CREATE_BREAKAWAY_FROM_JOB).spawn() {
        Err(error) if error.raw_os_error() == Some(NOT_EXECUTABLE) => command.creation_flags(flags).spawn(),
        other => other,
    }
}

fn number(end: &impl std::os::windows::io::AsRawHandle) -> String {
    end.as_raw_handle().addr().to_string()
}

impl Starter {
    /// Tells the guardian what to do. Answers what it reports, within `limit`; nothing, if it ends without a word.
    ///
    /// # Errors
    /// If it does not report in time.
    pub(in crate::guardian) fn converse(
        self,
        process: &mut Child,
        spec: &[u8],
        limit: Duration,
    ) -> io::Result<Vec<u8>> {
        let Self { mut orders, reports } = self;
        // If it died meanwhile, its last words are still to be read.
        let _ = orders.write_all(spec);
        drop(orders);
        let (done, answered) = channel();
        std::thread::Builder::new().spawn(move || {
            let mut answer = Vec::new();
            // Up to its mark: what serves the guardian's console may have the pipe too, and never closes it.
            let read = BufReader::new(reports).read_until(END, &mut answer);
            // Whoever waits may have given up.
            let _ = done.send(read.map(|_| answer));
        })?;
        let deadline = Instant::now() + limit;
        loop {
            match answered.recv_timeout(LOOK) {
                Ok(answer) => return answer,
                Err(RecvTimeoutError::Disconnected) => return Ok(Vec::new()),
                // Another process that was started in the same moment may hold the pipe of one that has ended.
                Err(RecvTimeoutError::Timeout) if process.try_wait()?.is_some() => {
                    return answered.recv_timeout(LOOK).unwrap_or_else(|_| Ok(Vec::new()));
                }
                Err(RecvTimeoutError::Timeout) if Instant::now() >= deadline => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }
}

/// The guardian's end of the channel.
pub(in crate::guardian) struct Told(File);

impl Told {
    /// Hears what to do.
    ///
    /// # Errors
    /// If nobody says it.
    pub(in crate::guardian) fn hear() -> Result<(Vec<u8>, Self)> {
        let numbers = std::env::args().skip(2).map_while(|number| number.parse::<usize>().ok());
        let mut ends = numbers.map(|number| {
            let handle = std::ptr::without_provenance_mut(number);
            // Not for the program.
            // SAFETY: takes a handle, which may be none.
            unsafe { SetHandleInformation(handle, HANDLE_FLAG_INHERIT, 0) };
            // SAFETY: the starter has handed it down for us alone; any other is refused when it is read or written.
            File::from(unsafe { OwnedHandle::from_raw_handle(handle) })
        });
        let (Some(mut orders), Some(reports)) = (ends.next(), ends.next()) else {
            return Err(Error::Containment("a guardian is started by estop only".to_owned()));
        };
        let mut bytes = Vec::new();
        orders.read_to_end(&mut bytes).doing("hear from the starter")?;
        Ok((bytes, Self(reports)))
    }

    /// Says how it went.
    pub(in crate::guardian) fn report(mut self, bytes: &[u8]) {
        // A starter that has gone is noticed as a brain that is lost.
        let _ = self.0.write_all(bytes).and_then(|()| self.0.write_all(&[END]));
    }
}

/// Nothing of a guardian has to be changed before it starts its program.
pub(in crate::guardian) fn settle_in(_spec: &mut GuardianSpec) {}

/// Nobody looks for a place here: there is no kernel object that would lead to it.
pub(in crate::guardian) fn note_place(_spec: &GuardianSpec) {}

/// Lets go of what is the program's once it runs: its streams, whose end others wait for.
///
/// # Errors
/// Never here.
#[expect(clippy::unnecessary_wraps, reason = "elsewhere it can fail")]
pub(in crate::guardian) fn step_aside() -> Result<()> {
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, STD_ERROR_HANDLE] {
        // SAFETY: takes a number.
        let handle = unsafe { GetStdHandle(which) };
        // SAFETY: takes a number and no handle.
        unsafe { SetStdHandle(which, std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: nobody in this process uses it any more.
            unsafe { CloseHandle(handle) };
        }
    }
    Ok(())
}
