//! The guardian's named pipe: who is speaking, and how to answer.
//!
//! It is found by the job's identifier, which the job's record names and nobody can guess beforehand. Only the same user, the
//! administrators and the system may open it, and nobody from another host. Whoever asks makes sure that its other end is the
//! guardian of the record.

use std::cell::RefCell;
use std::fs::OpenOptions;
use std::io;
use std::os::windows::fs::OpenOptionsExt as _;
use std::os::windows::io::{AsRawHandle as _, OwnedHandle, RawHandle};
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use estop_durable::access::Descriptor;
use windows_sys::Win32::Foundation::{ERROR_PIPE_BUSY, ERROR_PIPE_CONNECTED};
use windows_sys::Win32::Storage::FileSystem::{
    FILE_FLAG_FIRST_PIPE_INSTANCE, FILE_FLAG_OVERLAPPED, PIPE_ACCESS_DUPLEX, SECURITY_IDENTIFICATION,
};
use windows_sys::Win32::System::Pipes::{
    ConnectNamedPipe, CreateNamedPipeW, DisconnectNamedPipe, GetNamedPipeClientProcessId, GetNamedPipeServerProcessId,
    PIPE_READMODE_MESSAGE, PIPE_REJECT_REMOTE_CLIENTS, PIPE_TYPE_MESSAGE, PIPE_WAIT, SetNamedPipeHandleState,
    WaitNamedPipeW,
};

use super::overlapped::PipeEnd;
use crate::error::Context as _;
use crate::guardian::wire::DATAGRAM_LIMIT;
use crate::job::Job;
use crate::job::windows::object::{check, owned};
use crate::job::windows::processes::{Held, identity};
use crate::job::windows::spawn::wide;
use crate::registry::JobDir;
use crate::{Error, Result};

/// How many may speak to a guardian at the same time. Beyond that, whoever has been silent longest has to connect again.
const INSTANCES: usize = 16;
/// How long an answer is waited for that its caller does not take.
const ANSWER_WAIT: Duration = Duration::from_millis(50);
/// How long an order is waited for that its guardian does not take.
const ORDER_WAIT: Duration = Duration::from_millis(400);

/// Where an answer goes: to which caller, and which of those that have been connected there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guardian) struct Return {
    place: usize,
    turn: u64,
}

/// Who sent a message, by the system's word.
#[derive(Clone, Debug)]
pub(in crate::guardian) struct Peer {
    /// Its process ID.
    pub(in crate::guardian) pid: u32,
    /// The process, held since it connected: so the ID is nobody else's.
    process: Rc<Held>,
}

/// A message.
pub(in crate::guardian) struct Received {
    pub(in crate::guardian) length: usize,
    pub(in crate::guardian) peer: Option<Peer>,
    pub(in crate::guardian) from: Option<Return>,
}

/// What a guardian listens on.
#[derive(Debug)]
pub(in crate::guardian) struct Listener {
    instances: RefCell<Vec<Instance>>,
}

/// One of those who may speak at the same time.
#[derive(Debug)]
struct Instance {
    end: PipeEnd,
    connected: bool,
    /// How many have been connected here.
    turn: u64,
    heard: Instant,
    peer: Option<Peer>,
}

impl Listener {
    /// Listens for what concerns the job `id`.
    ///
    /// # Errors
    /// If the pipe cannot be made.
    pub(in crate::guardian) fn bind(_dir: &JobDir, id: &str) -> Result<Self> {
        let name = wide(name_of(id));
        let all = || {
            let rules = Descriptor::private("", "GA")?;
            (0..INSTANCES).map(|number| Instance::new(&name, &rules, number == 0)).collect::<io::Result<Vec<_>>>()
        };
        Ok(Self { instances: RefCell::new(all().doing("make the guardian's pipe")?) })
    }

    /// What is set when somebody has said something.
    pub(super) fn handles(&self) -> Vec<RawHandle> {
        self.instances.borrow().iter().map(|instance| instance.end.event()).collect()
    }

    /// The next message; `None` if there is none.
    pub(in crate::guardian) fn receive(&self, buffer: &mut [u8]) -> Option<Received> {
        let mut instances = self.instances.borrow_mut();
        let heard = instances.iter_mut().enumerate().find_map(|(place, instance)| {
            let length = instance.hear(buffer)?;
            let from = Some(Return { place, turn: instance.turn });
            Some(Received { length, peer: instance.peer.clone(), from })
        });
        make_room(&mut instances);
        heard
    }

    /// Answers, to a caller that takes it.
    pub(in crate::guardian) fn send(&self, bytes: &[u8], to: &Return) -> io::Result<()> {
        let mut instances = self.instances.borrow_mut();
        let there = instances.get_mut(to.place).filter(|instance| instance.connected && instance.turn == to.turn);
        let instance = there.ok_or(io::ErrorKind::NotConnected)?;
        instance.end.write(bytes, ANSWER_WAIT).inspect_err(|_| instance.listen())
    }
}

impl Instance {
    fn new(name: &[u16], rules: &Descriptor, first: bool) -> io::Result<Self> {
        let attributes = rules.attributes();
        let room = u32::try_from(DATAGRAM_LIMIT).unwrap_or(u32::MAX);
        let first = if first { FILE_FLAG_FIRST_PIPE_INSTANCE } else { 0 };
        // SAFETY: the name ends with a zero, and both it and the attributes live until the call returns.
        let handle = owned(unsafe {
            CreateNamedPipeW(
                name.as_ptr(),
                PIPE_ACCESS_DUPLEX | FILE_FLAG_OVERLAPPED | first,
                PIPE_TYPE_MESSAGE | PIPE_READMODE_MESSAGE | PIPE_WAIT | PIPE_REJECT_REMOTE_CLIENTS,
                u32::try_from(INSTANCES).unwrap_or(1),
                room,
                room,
                0,
                &raw const attributes,
            )
        })?;
        let end = PipeEnd::new(handle, DATAGRAM_LIMIT)?;
        let mut instance = Self { end, connected: false, turn: 0, heard: Instant::now(), peer: None };
        instance.listen();
        Ok(instance)
    }

    /// Lets go of whoever is there, and waits for the next.
    fn listen(&mut self) {
        let handle = self.end.handle();
        self.end.reading().cancel(handle);
        if self.connected {
            // SAFETY: the handle is open.
            unsafe { DisconnectNamedPipe(handle) };
        }
        self.connected = false;
        // SAFETY: the handle is open, and the place lives until the operation has ended, which the end of the pipe waits for.
        let begun = self.end.reading().begin(|overlapped| unsafe { ConnectNamedPipe(handle, overlapped) });
        // Somebody was faster; anything else is tried again by the next look.
        if begun.is_err_and(|error| error.raw_os_error() == Some(ERROR_PIPE_CONNECTED.cast_signed())) {
            self.welcome();
        }
    }

    fn welcome(&mut self) {
        (self.connected, self.heard) = (true, Instant::now());
        self.peer = self.who();
        self.turn += 1;
        if self.end.begin_read().is_err() {
            self.listen();
        }
    }

    /// What was said here, in `buffer`.
    fn hear(&mut self, buffer: &mut [u8]) -> Option<usize> {
        if !self.end.reading().is_pending() {
            self.listen();
        }
        if !self.connected {
            let handle = self.end.handle();
            match self.end.reading().result(handle)? {
                Ok(_) => self.welcome(),
                Err(_) => self.listen(),
            }
        }
        if !self.connected {
            return None;
        }
        let Ok(length) = self.end.message(buffer)? else {
            self.listen();
            return None;
        };
        self.heard = Instant::now();
        if self.end.begin_read().is_err() {
            // It has gone meanwhile, and what it said is obeyed all the same.
            self.listen();
        }
        Some(length)
    }

    /// Who is connected; `None` if it cannot be held, because it has ended for instance: then nobody knows who it was.
    fn who(&self) -> Option<Peer> {
        let mut pid = 0;
        // SAFETY: the handle is open, and the place lives until the call returns.
        check(unsafe { GetNamedPipeClientProcessId(self.end.handle(), &raw mut pid) }).ok()?;
        let process = Held::open_to_wait(identity(pid)?)?;
        Some(Peer { pid, process: Rc::new(process) })
    }
}

/// Where all are taken, whoever was heard of longest ago makes room.
fn make_room(instances: &mut [Instance]) {
    if instances.iter().all(|instance| instance.connected)
        && let Some(silent) = instances.iter_mut().min_by_key(|instance| instance.heard)
    {
        silent.listen();
    }
}

/// The way to one guardian.
#[derive(Debug)]
pub(in crate::guardian) struct Connection {
    end: RefCell<PipeEnd>,
}

impl Connection {
    /// To the guardian of the job in `dir`, as its record names it.
    ///
    /// # Errors
    /// If there is no record, or nobody listens, or somebody else does.
    pub(in crate::guardian) fn to(dir: &JobDir) -> Result<Self> {
        let gone = || Error::System { action: "reach the guardian", source: io::ErrorKind::NotFound.into() };
        let entry = dir.entry()?.ok_or_else(gone)?;
        let handle = open(&name_of(&entry.id)).doing("reach the guardian")?;
        let mut server = 0;
        // SAFETY: the handle is open, and the place lives until the call returns.
        check(unsafe { GetNamedPipeServerProcessId(handle.as_raw_handle(), &raw mut server) })
            .doing("learn who listens")?;
        if super::identity(server) != Some(entry.guardian) {
            return Err(Error::Refused {
                name: entry.name,
                reason: format!("process {server} listens in its guardian's place"),
            });
        }
        let mut end = PipeEnd::new(handle, DATAGRAM_LIMIT).doing("reach the guardian")?;
        end.begin_read().doing("reach the guardian")?;
        Ok(Self { end: RefCell::new(end) })
    }

    /// Sends an order.
    pub(in crate::guardian) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.end.borrow_mut().write(bytes, ORDER_WAIT)
    }

    /// The next answer's length; `None` if there is none yet.
    pub(in crate::guardian) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut end = self.end.borrow_mut();
        if !end.reading().is_pending() {
            return None;
        }
        let length = end.message(buffer)?.ok()?;
        // One that has gone says nothing more.
        let _ = end.begin_read();
        Some(length)
    }

    /// Waits at most `wait` for an answer.
    pub(in crate::guardian) fn wait(&self, wait: Duration) {
        let mut end = self.end.borrow_mut();
        if end.reading().is_pending() {
            end.wait(wait);
        } else {
            // The guardian has gone: nothing will come.
            std::thread::sleep(wait);
        }
    }
}

/// Opens a pipe whose other end learns who this is, and no more.
fn open(name: &str) -> io::Result<OwnedHandle> {
    let begun = Instant::now();
    loop {
        let mut options = OpenOptions::new();
        options.read(true).write(true).share_mode(0);
        options.custom_flags(FILE_FLAG_OVERLAPPED).security_qos_flags(SECURITY_IDENTIFICATION);
        match options.open(name) {
            Err(error)
                if error.raw_os_error() == Some(ERROR_PIPE_BUSY.cast_signed()) && begun.elapsed() < ORDER_WAIT =>
            {
                let wide = wide(name);
                // SAFETY: the name ends with a zero and lives until the call returns.
                unsafe { WaitNamedPipeW(wide.as_ptr(), 20) };
            }
            other => {
                let handle = OwnedHandle::from(other?);
                let mode = PIPE_READMODE_MESSAGE;
                // SAFETY: the handle is open, and the mode lives until the call returns; the rest is not set.
                check(unsafe {
                    SetNamedPipeHandleState(handle.as_raw_handle(), &raw const mode, null(), null_mut::<u32>())
                })?;
                return Ok(handle);
            }
        }
    }
}

/// Whether `peer` may give orders: nobody inside a job may. Other users cannot open the pipe. `job` is the guardian's own.
///
/// # Errors
/// Why not.
pub(in crate::guardian) fn authorize<'peer>(
    peer: Option<&'peer Peer>,
    job: &dyn Job,
    _emergency: bool,
) -> std::result::Result<&'peer Peer, &'static str> {
    let peer = peer.ok_or("the caller is not known")?;
    if job.holds(peer.pid) {
        return Err("the caller is inside a job");
    }
    // After that look: one that has ended was in no list, wherever it was.
    if peer.process.has_ended() {
        return Err("the caller has ended");
    }
    Ok(peer)
}

fn name_of(id: &str) -> String {
    format!(r"\\.\pipe\estop-{id}")
}
