//! Sharing a console with the command.

use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, IntoRawHandle as _, OwnedHandle};
use std::process::Child;

use estop_watchdog::registry::JobDir;
use windows_sys::Win32::System::Console::{
    CTRL_BREAK_EVENT, CTRL_C_EVENT, GetStdHandle, STD_INPUT_HANDLE, STD_OUTPUT_HANDLE, SetConsoleCtrlHandler,
    SetStdHandle,
};

/// What the console was like at the start: nothing has to be known of it.
#[derive(Debug)]
pub(crate) struct Foreground(());

impl Foreground {
    /// Looks at the console.
    pub(crate) fn enter() -> Self {
        Self(())
    }

    /// That the command shares the console: there are no process groups to share.
    pub(crate) fn group(&self) -> u32 {
        std::process::id()
    }

    /// Whether a program ignores Ctrl-C is handed down by the system itself.
    pub(crate) fn ignored_signals(&self) -> Vec<i32> {
        Vec::new()
    }

    /// From here on Ctrl-C and Ctrl-Break are for the command, which hears them at the same console.
    pub(crate) fn keep_signals(&mut self) {
        // SAFETY: the handler is a function of the kind that is asked for, and stays. Without a console there is nothing to hear.
        unsafe { SetConsoleCtrlHandler(Some(leave_to_the_command), 1) };
    }

    /// Waits for the guardian to end.
    pub(crate) fn wait(&mut self, guardian: &mut Child, _dir: &JobDir) {
        release_standard_streams();
        // The guardian's status says nothing: the outcome does.
        let _ = guardian.wait();
    }
}

/// Called by the system in a thread of its own. Of the end of a console or session this process ends, and its guardian asks the
/// command to.
unsafe extern "system" fn leave_to_the_command(event: u32) -> i32 {
    i32::from(matches!(event, CTRL_C_EVENT | CTRL_BREAK_EVENT))
}

/// The command alone holds the pipes that were handed down: who reads from it must see it close them. Standard error stays,
/// for words about the end.
fn release_standard_streams() {
    for which in [STD_INPUT_HANDLE, STD_OUTPUT_HANDLE] {
        let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("NUL") else { return };
        // SAFETY: takes a number.
        let handle = unsafe { GetStdHandle(which) };
        if handle.is_null() || handle == io::stderr().as_raw_handle() {
            continue;
        }
        // SAFETY: takes a number and an open handle, which nobody closes from here on.
        unsafe { SetStdHandle(which, null.into_raw_handle()) };
        // SAFETY: it was this process's stream, and is none any more: nobody else closes it.
        drop(unsafe { OwnedHandle::from_raw_handle(handle) });
    }
}
