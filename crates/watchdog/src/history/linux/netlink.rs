//! Messages between this process and the kernel. Only what two services of fixed form need: the crates that know all of netlink
//! bring a dozen others, and take each message apart with allocations, for an event that comes thousands of times a second.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::netlink::SocketAddrNetlink;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};

use crate::job::linux::ready;

/// The length of a message's head, `struct nlmsghdr`.
pub(super) const HEAD: usize = 16;
/// The kernel's answer to a request: an error, or none.
const ERROR: u16 = 2;
const REQUEST: u16 = 1;
const ACKNOWLEDGE: u16 = 4;
/// No message of the two services is longer.
const BUFFER: usize = 16 * 1024;
/// How long the kernel may take to answer.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// A socket to the kernel.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    buffer: Vec<u8>,
}

/// What there was to receive.
pub(super) enum Received<'a> {
    /// One datagram of the kernel.
    Messages(&'a [u8]),
    Nothing,
    /// The kernel had no room for what came before.
    Lost,
    /// The socket serves no more.
    Broken,
}

impl Socket {
    /// Opens a socket of `protocol` that hears `groups`, with room for `room` bytes.
    pub(super) fn open(protocol: Protocol, groups: u32, room: usize) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(protocol))?;
        if sockopt::set_socket_recv_buffer_size_force(&fd, room).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, room)?;
        }
        rustix::net::bind(&fd, &SocketAddrNetlink::new(0, groups))?;
        Ok(Self { fd, buffer: vec![0; BUFFER] })
    }

    /// Sends a message of `kind`; with `acknowledged`, the kernel says what became of it.
    pub(super) fn send(&self, kind: u16, acknowledged: bool, sequence: u32, body: &[u8]) -> io::Result<()> {
        let mut message = Vec::with_capacity(HEAD + body.len());
        message.extend(u32::try_from(HEAD + body.len()).unwrap_or(0).to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend((REQUEST | if acknowledged { ACKNOWLEDGE } else { 0 }).to_ne_bytes());
        message.extend(sequence.to_ne_bytes());
        message.extend(0_u32.to_ne_bytes());
        message.extend(body);
        rustix::net::sendto(&self.fd, &message, SendFlags::empty(), &SocketAddrNetlink::new(0, 0))?;
        Ok(())
    }

    /// Waits for the message that is `understood`: the kernel's answer to a request.
    ///
    /// # Errors
    /// What the answer says, or that there was none in time.
    pub(super) fn answer<T>(&mut self, understood: impl Fn(u16, &[u8]) -> Option<io::Result<T>>) -> io::Result<T> {
        let started = Instant::now();
        while let Some(left) = ANSWER_WAIT.checked_sub(started.elapsed()) {
            match self.receive() {
                Received::Messages(datagram) => {
                    if let Some(answer) = messages(datagram).find_map(|(kind, body)| understood(kind, body)) {
                        return answer;
                    }
                }
                Received::Nothing => drop(ready::wait_for(&mut [PollFd::new(&self.fd, PollFlags::IN)], left)?),
                Received::Lost => {}
                Received::Broken => break,
            }
        }
        Err(io::ErrorKind::TimedOut.into())
    }

    /// Receives one datagram, if one is there. What others than the kernel sent is dropped.
    pub(super) fn receive(&mut self) -> Received<'_> {
        loop {
            match rustix::net::recvfrom(&self.fd, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT) {
                Ok((length, _, from)) => {
                    let from = from.and_then(|from| SocketAddrNetlink::try_from(from).ok());
                    if from.is_some_and(|from| from.pid() == 0) {
                        return Received::Messages(&self.buffer[..length]);
                    }
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Received::Nothing,
                Err(Errno::NOBUFS) => return Received::Lost,
                Err(_) => return Received::Broken,
            }
        }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The messages of a datagram: kind and body.
pub(super) fn messages(mut datagram: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::try_from(word(datagram, 0)?).ok().filter(|length| *length >= HEAD)?;
        let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
        let body = datagram.get(HEAD..length)?;
        datagram = datagram.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, body))
    })
}

/// The attributes in the body of a message: kind and value.
pub(super) fn attributes(mut body: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(body.get(..2)?.try_into().ok()?));
        let kind = u16::from_ne_bytes(body.get(2..4)?.try_into().ok()?) & 0x3fff;
        let value = body.get(4..length)?;
        body = body.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

/// An attribute, to be sent.
pub(super) fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let length = 4 + value.len();
    let mut bytes = Vec::with_capacity(length.next_multiple_of(4));
    bytes.extend(u16::try_from(length).unwrap_or(0).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(length.next_multiple_of(4), 0);
    bytes
}

/// What an answer says that acknowledges or refuses; `None` if it is another message.
pub(super) fn verdict(kind: u16, body: &[u8]) -> Option<io::Result<()>> {
    let code = word(body, 0).filter(|_| kind == ERROR)?.cast_signed();
    Some(if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) })
}

pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn long(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}
