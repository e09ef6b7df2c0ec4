//! The guardian's datagram socket: who is speaking, and how to answer.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, sendto, socket_with};

use crate::Result;
use crate::error::Context as _;
use crate::job::linux::ready;
use crate::job::{Job, Tier};
use crate::registry::JobDir;

/// Where an answer goes.
pub(in crate::guardian) type Return = SocketAddrUnix;

/// Who sent a datagram, by the kernel's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::guardian) struct Peer {
    /// Its process ID; 0 if it lives in a PID namespace outside this one.
    pub(in crate::guardian) pid: u32,
    /// Its user.
    uid: u32,
}

/// A datagram.
pub(in crate::guardian) struct Received {
    pub(in crate::guardian) length: usize,
    pub(in crate::guardian) peer: Option<Peer>,
    pub(in crate::guardian) from: Option<Return>,
}

/// What a guardian listens on.
#[derive(Debug)]
pub(in crate::guardian) struct Listener(OwnedFd);

impl Listener {
    /// Listens in the job's directory.
    ///
    /// # Errors
    /// If the socket cannot be bound.
    pub(in crate::guardian) fn bind(dir: &JobDir, _id: &str) -> Result<Self> {
        bound(&dir.socket()).map(Self)
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// The next datagram; `None` if there is none. Allocates nothing.
    pub(in crate::guardian) fn receive(&self, buffer: &mut [u8]) -> Option<Received> {
        receive(&self.0, buffer)
    }

    /// Answers without waiting.
    pub(in crate::guardian) fn send(&self, bytes: &[u8], to: &Return) -> io::Result<()> {
        sendto(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT, to)?;
        Ok(())
    }
}

/// The way to one guardian.
#[derive(Debug)]
pub(in crate::guardian) struct Connection(OwnedFd);

impl Connection {
    /// To the guardian of the job in `dir`. Connected, so that the kernel lets nobody answer but the guardian's own socket.
    ///
    /// # Errors
    /// If nobody listens there.
    pub(in crate::guardian) fn to(dir: &JobDir) -> Result<Self> {
        connected(&dir.socket()).map(Self)
    }

    /// Sends without waiting.
    pub(in crate::guardian) fn send(&self, bytes: &[u8]) -> io::Result<()> {
        rustix::net::send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
        Ok(())
    }

    /// The next answer's length; `None` if there is none yet.
    pub(in crate::guardian) fn receive(&self, buffer: &mut [u8]) -> Option<usize> {
        receive(&self.0, buffer).map(|received| received.length)
    }

    /// Waits at most `wait` for an answer.
    pub(in crate::guardian) fn wait(&self, wait: Duration) {
        ready::readable(&self.0, wait);
    }
}

/// A datagram socket bound at `path`.
///
/// # Errors
/// If it cannot be bound.
fn bound(path: &Path) -> Result<OwnedFd> {
    let socket = unbound()?;
    // The path of a socket is short; the one of a run directory may be long. The way over a descriptor is always short.
    let parent = path.parent().unwrap_or(Path::new("."));
    let directory = std::fs::File::open(parent).on("open", parent)?;
    bind(&socket, &address_in(&directory, path)?).on("bind the socket", path)?;
    Ok(socket)
}

/// A datagram socket connected to the one at `path`, with an address that the kernel chose, for answers. Nobody but the owner
/// of the socket at `path` can send to it (`unix_may_send` in the kernel's `net/unix/af_unix.c`), though its address can be
/// seen by all.
///
/// # Errors
/// If it cannot be made, or nobody listens there.
fn connected(path: &Path) -> Result<OwnedFd> {
    let socket = unbound()?;
    // By its descriptor, so that it is the one that was looked at: a link in its place would have the order done by another guardian.
    let listener = crate::registry::open_socket(path).on("open", path)?;
    let short = Path::new("/proc/self/fd").join(listener.as_raw_fd().to_string());
    let address = SocketAddrUnix::new(&short).on("name the socket", path)?;
    rustix::net::connect(&socket, &address).on("connect to", path)?;
    // Where asking for credentials has given it an address already, this one is refused and the other stays.
    let _ = bind(&socket, &SocketAddrUnix::new_unnamed());
    Ok(socket)
}

pub(super) fn unbound() -> Result<OwnedFd> {
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)
            .doing("create a socket")?;
    rustix::net::sockopt::set_socket_passcred(&socket, true).doing("ask for credentials on a socket")?;
    Ok(socket)
}

/// The address of `path` by way of its opened directory.
fn address_in(directory: &std::fs::File, path: &Path) -> Result<SocketAddrUnix> {
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(directory.as_raw_fd().to_string()).join(name);
    SocketAddrUnix::new(&short).on("name the socket", path)
}

/// Receives without waiting; `None` if there is nothing. Allocates nothing.
pub(super) fn receive(socket: &OwnedFd, buffer: &mut [u8]) -> Option<Received> {
    // `rustix` takes the sender's PID for non-zero, which it is not for senders outside this PID namespace.
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let mut address = MaybeUninit::<libc::sockaddr_un>::zeroed();
    let mut control = [0_u64; 16];
    // SAFETY: all-zero is a valid value of this structure: null pointers with length zero.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_name = address.as_mut_ptr().cast();
    message.msg_namelen = u32::try_from(size_of::<libc::sockaddr_un>()).unwrap_or(0);
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control);
    // SAFETY: every pointer in the message leads to a live buffer of the length given beside it.
    let length =
        unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let length = usize::try_from(length).ok()?;
    // SAFETY: it was zeroed, and the kernel has written at most its size.
    let address = unsafe { address.assume_init() };
    Some(Received { length, peer: credentials(&message), from: sender(&address, message.msg_namelen) })
}

fn credentials(message: &libc::msghdr) -> Option<Peer> {
    // SAFETY: the message was filled by the kernel, and its control buffer is alive.
    let mut header = unsafe { libc::CMSG_FIRSTHDR(message) };
    while !header.is_null() {
        // SAFETY: not null, so it points to a header inside the control buffer.
        let kind = unsafe { &*header };
        if (kind.cmsg_level, kind.cmsg_type) == (libc::SOL_SOCKET, libc::SCM_CREDENTIALS) {
            // SAFETY: not null, so the data follows it inside the control buffer.
            let data = unsafe { libc::CMSG_DATA(header) };
            // SAFETY: the data of this kind of message is one `ucred`, which may stand unaligned.
            let credentials = unsafe { data.cast::<libc::ucred>().read_unaligned() };
            return Some(Peer { pid: credentials.pid.cast_unsigned(), uid: credentials.uid });
        }
        // SAFETY: both belong to the same live control buffer.
        header = unsafe { libc::CMSG_NXTHDR(message, header) };
    }
    None
}

/// The sender's address, if it can be answered: those that the kernel chooses are abstract names.
fn sender(address: &libc::sockaddr_un, length: u32) -> Option<SocketAddrUnix> {
    let length = (length as usize).checked_sub(std::mem::offset_of!(libc::sockaddr_un, sun_path))?;
    let name = address.sun_path.get(..length)?;
    let mut bytes = [0_u8; 108];
    for (to, from) in bytes.iter_mut().zip(name) {
        *to = from.cast_unsigned();
    }
    match bytes.get(..length)? {
        [0, name @ ..] if !name.is_empty() => SocketAddrUnix::new_abstract_name(name).ok(),
        _ => None,
    }
}

/// Whether `peer` may give orders: the same user or root, and nobody inside a job. `job` is the guardian's own.
///
/// Where the kernel does not let the guardian look whether it is inside one, for want of a descriptor or of memory, an `emergency` is
/// obeyed: in doubt the safe state is the stop.
///
/// # Errors
/// Why not.
pub(in crate::guardian) fn authorize<'peer>(
    peer: Option<&'peer Peer>,
    job: &dyn Job,
    emergency: bool,
) -> std::result::Result<&'peer Peer, &'static str> {
    let peer = peer.ok_or("the caller is not known")?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid != own && peer.uid != 0 {
        return Err("the caller is another user");
    }
    // A caller that this PID namespace cannot name lives outside of it, and so outside of every job below it.
    if peer.pid == 0 {
        return Ok(peer);
    }
    match crate::registry::is_inside_a_job(peer.pid, job.tier() == Tier::Tracked) {
        Ok(true) => Err("the caller is inside a job"),
        Err(_) if !emergency => Err("whether the caller is inside a job cannot be told now"),
        Ok(false) | Err(_) => Ok(peer),
    }
}
