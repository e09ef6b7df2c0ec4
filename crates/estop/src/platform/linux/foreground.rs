//! Sharing a terminal with the command.

use std::io::IsTerminal as _;
use std::process::Child;

use estop_watchdog::guardian::Client;
use estop_watchdog::job::linux::{bring_to_front, own_process_group};
use estop_watchdog::registry::JobDir;
use rustix::process::Pid;
use signal_hook::consts::{SIGALRM, SIGCONT, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2};
use signal_hook::iterator::SignalsInfo;
use signal_hook::iterator::exfiltrator::WithOrigin;
use signal_hook::low_level::siginfo::Cause;

/// Signals that are passed on to the command when they were sent to this process.
const PASSED_ON: [i32; 8] = [SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1, SIGUSR2, SIGALRM, SIGCONT];

/// What the terminal was like at the start.
#[derive(Debug)]
pub(crate) struct Foreground {
    group: Pid,
    /// Whether this process group had the terminal.
    owned: bool,
    ignored: Vec<i32>,
    signals: Option<SignalsInfo<WithOrigin>>,
}

impl Foreground {
    /// Looks at the terminal and at the signals that the caller ignores.
    pub(crate) fn enter() -> Self {
        let group = own_process_group();
        let owned = terminal().is_some_and(|terminal| rustix::termios::tcgetpgrp(terminal) == Ok(group));
        Self { group, owned, ignored: ignored_signals(), signals: None }
    }

    /// The process group that the command shares.
    pub(crate) fn group(&self) -> u32 {
        self.group.as_raw_nonzero().get().cast_unsigned()
    }

    /// The signals that the command ignores from the start, as this process does.
    pub(crate) fn ignored_signals(&self) -> Vec<i32> {
        self.ignored.clone()
    }

    /// From here on signals no longer end this process: they are kept for the command, which is about to be started.
    pub(crate) fn keep_signals(&mut self) {
        // What the caller ignores stays ignored.
        let wanted = PASSED_ON.iter().filter(|signal| !self.ignored.contains(signal));
        self.signals = SignalsInfo::<WithOrigin>::new(wanted).ok();
    }

    /// Waits for the guardian to end, passing signals on meanwhile.
    pub(crate) fn wait(&mut self, guardian: &mut Child, dir: &JobDir) {
        release_standard_streams();
        self.pass_signals_on(dir);
        // The guardian's status says nothing: the outcome does.
        let _ = guardian.wait();
        self.take_terminal_back();
    }

    fn pass_signals_on(&mut self, dir: &JobDir) {
        let Some(mut signals) = self.signals.take() else { return };
        let dir = dir.clone();
        let pass_on = move |signal| {
            if let Ok(mut client) = Client::new(&dir) {
                // A command that has just ended needs no signal.
                let _ = client.signal(signal);
            }
        };
        // What came before the command was there has reached nobody yet, whoever sent it.
        signals.pending().for_each(|origin| pass_on(origin.signal));
        // The thread ends with the process.
        let _ = std::thread::Builder::new().name("signals".to_owned()).spawn(move || {
            for origin in signals.forever() {
                // What the terminal sends, it sends to the whole group: the command has it already.
                if matches!(origin.cause, Cause::Sent(_)) {
                    pass_on(origin.signal);
                }
            }
        });
    }

    /// A shell inside may have put its own group in front, and be gone now.
    fn take_terminal_back(&self) {
        if !self.owned {
            return;
        }
        if let Some(terminal) = terminal() {
            // A terminal that has gone needs no owner.
            let _ = bring_to_front(&terminal, self.group);
        }
    }
}

/// The command alone holds the pipes that were handed down: who reads from it must see it close them. Standard error stays,
/// for words about the end.
fn release_standard_streams() {
    let Ok(null) = std::fs::OpenOptions::new().read(true).write(true).open("/dev/null") else { return };
    let _ = rustix::stdio::dup2_stdin(&null);
    let _ = rustix::stdio::dup2_stdout(&null);
}

fn terminal() -> Option<std::fs::File> {
    if !std::io::stderr().is_terminal() && !std::io::stdin().is_terminal() && !std::io::stdout().is_terminal() {
        return None;
    }
    std::fs::OpenOptions::new().read(true).write(true).open("/dev/tty").ok()
}

/// The signals that this process was started with as ignored, as `nohup` does.
fn ignored_signals() -> Vec<i32> {
    const SIGPIPE: i32 = 13;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    let mask = mask.unwrap_or(0);
    // Rust's runtime ignores SIGPIPE in every program; that is not the caller's wish.
    (1..=64).filter(|signal| *signal != SIGPIPE && mask & (1 << (signal - 1)) != 0).collect()
}
