//! What a guardian has from the system around it: signals as a descriptor, the watched file `now`, its priority.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, fstat, open, openat};
use rustix::io::Errno;

use crate::error::Context as _;
use crate::job::ProcessId;
use crate::job::linux::{END_OF_COPY, procfs, ready};
use crate::registry::RunDir;
use crate::{Error, Result};

/// This process.
pub(in crate::guardian) fn own_id() -> ProcessId {
    procfs::identity(std::process::id()).unwrap_or(ProcessId { pid: std::process::id(), start_time: 0 })
}

/// Signals as a descriptor: those that tell the guardian something. All others that could end or stop it are ignored.
#[derive(Debug)]
pub(in crate::guardian) struct Signals(OwnedFd);

impl Signals {
    /// Takes the signals of this process.
    ///
    /// # Errors
    /// If there is no descriptor to be had.
    pub(in crate::guardian) fn watch() -> Result<Self> {
        watch_signals().map(Self)
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Whether this process was told to end since the last look.
    pub(in crate::guardian) fn asked(&self) -> bool {
        let mut info = [0_u8; 128];
        let mut asked = false;
        while let Ok(128) = rustix::io::read(&self.0, &mut info) {
            let signal = u32::from_ne_bytes([info[0], info[1], info[2], info[3]]);
            asked |= signal == libc::SIGTERM.cast_unsigned();
        }
        asked
    }
}

fn watch_signals() -> Result<OwnedFd> {
    for signal in [
        libc::SIGHUP,
        libc::SIGINT,
        libc::SIGQUIT,
        libc::SIGPIPE,
        libc::SIGTSTP,
        libc::SIGTTIN,
        libc::SIGTTOU,
        libc::SIGUSR1,
        libc::SIGUSR2,
    ] {
        // SAFETY: no handler is installed.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }
    // SAFETY: no handler is installed. Where it were ignored, as a caller may have it, no child's end could be waited for.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_DFL) };
    ready::watch_signals(&[libc::SIGTERM, libc::SIGCHLD, END_OF_COPY])
        .map_err(|source| Error::System { action: "watch for signals", source })
}

/// The run directory's file `now`, whichever file stands there: a shell writes into it, an editor puts another in its place.
#[derive(Debug)]
pub(in crate::guardian) struct NowFile {
    run_dir: OwnedFd,
    watch: OwnedFd,
    /// The file that was there last: what a shell writes into it is read also when nothing more can be opened.
    file: RefCell<Option<OwnedFd>>,
    /// The writing of the word that was there last: what other files change in the directory is no order, and an old one is done.
    last: Cell<Option<Writing>>,
}

/// One writing of a file: inode, size, and when in seconds and nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Writing(u64, i64, i64, u64);

/// The writing of the run directory's file `now`, if it calls for an end. Another writing is another order.
pub fn order(run_dir: &RunDir) -> Option<Writing> {
    order_of(&open_now(&open_run_dir(run_dir).ok()?).ok()?)
}

fn open_run_dir(run_dir: &RunDir) -> std::io::Result<OwnedFd> {
    Ok(open(run_dir.path(), OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

fn open_now(run_dir: &OwnedFd) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    openat(run_dir, c"now", flags, Mode::empty())
}

fn order_of(file: &OwnedFd) -> Option<Writing> {
    let mut content = [0; 16];
    let length = rustix::io::pread(file, &mut content, 0).ok()?;
    let found = fstat(file).ok()?;
    let writing = Writing(found.st_ino, found.st_size, found.st_mtime, found.st_mtime_nsec);
    (content[..length].trim_ascii() == b"now").then_some(writing)
}

impl NowFile {
    pub(in crate::guardian) fn watch(run_dir: &RunDir) -> Result<Self> {
        use rustix::fs::inotify::{CreateFlags, WatchFlags, add_watch, init};
        let path = run_dir.path();
        let opened = open_run_dir(run_dir).on("open", path)?;
        let watch = init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).doing("watch files")?;
        let events = WatchFlags::MODIFY | WatchFlags::CLOSE_WRITE | WatchFlags::MOVED_TO;
        add_watch(&watch, path, events).on("watch", path)?;
        let file = open_now(&opened).ok();
        let last = Cell::new(file.as_ref().and_then(order_of));
        Ok(Self { run_dir: opened, watch, file: RefCell::new(file), last })
    }

    /// Readable when it may have changed.
    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.watch
    }

    /// Whether it has changed since the last look, and calls for an end.
    pub(in crate::guardian) fn calls(&self) -> bool {
        let mut events = [0_u8; 1024];
        let mut changed = false;
        while rustix::io::read(&self.watch, &mut events).is_ok_and(|length| length > 0) {
            changed = true;
        }
        if !changed {
            return false;
        }
        let mut file = self.file.borrow_mut();
        match open_now(&self.run_dir) {
            Ok(opened) => *file = Some(opened),
            // Whoever may not follow a link, or finds none, has no order; whoever cannot open anything looks at what it has.
            Err(Errno::NOENT | Errno::LOOP) => *file = None,
            Err(_) => {}
        }
        let order = file.as_ref().and_then(order_of);
        order.is_some() && self.last.replace(order) != order
    }
}

/// Descriptors that are kept for the moment in which there are no others. The kill needs none; what is done beside it does, and so
/// does every look at processes where there is no cgroup. To be kept before any other is made: the lower their numbers, the lower
/// the limit (`RLIMIT_NOFILE`) may have become by then.
#[derive(Debug, Default)]
pub(in crate::guardian) struct Spare(Vec<OwnedFd>);

impl Spare {
    /// As many as the latch, the evidence and a look at processes take.
    const COUNT: usize = 6;

    /// Takes them back, or as many as there are to be had. Copies of `of`.
    pub(in crate::guardian) fn keep(&mut self, of: &Signals) {
        while self.0.len() < Self::COUNT
            && let Ok(copy) = rustix::io::fcntl_dupfd_cloexec(of.descriptor(), 0)
        {
            self.0.push(copy);
        }
    }

    /// Gives them up.
    pub(in crate::guardian) fn give_up(&mut self) {
        self.0.clear();
    }
}

/// Real-time priority while it exists, where the host allows it: a busy tree must not keep its own end waiting.
pub(in crate::guardian) struct Raised;

impl Raised {
    pub(in crate::guardian) fn new() -> Self {
        schedule(libc::SCHED_FIFO | libc::SCHED_RESET_ON_FORK, 10);
        Self
    }
}

impl Drop for Raised {
    fn drop(&mut self) {
        schedule(libc::SCHED_OTHER, 0);
    }
}

fn schedule(policy: i32, priority: i32) {
    let parameter = libc::sched_param { sched_priority: priority };
    // SAFETY: 0 is this thread, and the parameter lives until the call returns. A refusal leaves all as it was.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameter) };
}

/// The end of a stream that a starter waits for.
pub(super) fn close_on_exec(fd: &impl AsFd) -> Result<()> {
    rustix::io::fcntl_setfd(fd, rustix::io::FdFlags::CLOEXEC).doing("keep a descriptor from the program")
}
