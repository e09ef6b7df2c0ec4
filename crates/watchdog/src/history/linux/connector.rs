//! The proc connector: the kernel tells of each fork, exec and exit of the host.
//!
//! It tells only the privileged of the initial namespaces: elsewhere the process IDs would be others'.

use std::io;
use std::time::Duration;

use rustix::net::netlink::CONNECTOR;

use super::super::lineage::{Event, Taken};
use super::Clocks;
use super::netlink::{Received, Socket, long, messages, word};
use crate::job::ProcessId;

/// `CN_IDX_PROC` and `CN_VAL_PROC`: the connector of processes, and its group.
const PROC: u32 = 1;
/// `PROC_CN_MCAST_LISTEN`.
const LISTEN: u32 = 1;
/// `NLMSG_DONE`: what the connector calls its messages.
const DONE: u16 = 3;
/// `struct cn_msg` without its data.
const CN_HEAD: usize = 20;
/// `struct proc_event` up to what depends on its kind.
const EVENT_HEAD: usize = 16;
/// The kinds of event that matter here.
const ACKNOWLEDGED: u32 = 0;
const FORK: u32 = 1;
const EXEC: u32 = 2;
const EXIT: u32 = 0x8000_0000;
/// Room for what the kernel tells while this thread does not run: of some ten thousand processes. Taken only when needed.
const ROOM: usize = 32 << 20;
/// The initial namespaces of processes and users, by the inodes that they have on every Linux.
const INITIAL: [(&str, &str); 2] =
    [("/proc/self/ns/pid", "pid:[4026531836]"), ("/proc/self/ns/user", "user:[4026531837]")];

/// The subscription.
#[derive(Debug)]
pub(super) struct Connector {
    socket: Socket,
    clocks: Clocks,
}

impl Connector {
    /// Subscribes.
    ///
    /// # Errors
    /// If the kernel does not tell this process.
    pub(super) fn open() -> io::Result<Self> {
        let refused = || io::Error::from(io::ErrorKind::PermissionDenied);
        // The kernel would be silent, and a while would go by until that is known.
        if INITIAL.iter().any(|(link, name)| std::fs::read_link(link).is_ok_and(|found| found.as_os_str() != *name)) {
            return Err(refused());
        }
        let mut connector = Self { socket: Socket::open(CONNECTOR, PROC, ROOM)?, clocks: Clocks::read() };
        let mut request = Vec::with_capacity(CN_HEAD + 4);
        for number in [PROC, PROC, 0, 0] {
            request.extend(number.to_ne_bytes());
        }
        request.extend(4_u16.to_ne_bytes());
        request.extend(0_u16.to_ne_bytes());
        request.extend(LISTEN.to_ne_bytes());
        connector.socket.send(DONE, false, 0, &request)?;
        // What comes before the answer concerns nobody who is followed yet.
        connector.socket.answer(|_, body| {
            let event = body.get(CN_HEAD..).filter(|event| word(event, 0) == Some(ACKNOWLEDGED))?;
            Some(match word(event, EVENT_HEAD) {
                Some(0) => Ok(()),
                code => Err(io::Error::from_raw_os_error(code.unwrap_or(0).cast_signed())),
            })
        })?;
        Ok(connector)
    }

    pub(super) fn socket(&self) -> &Socket {
        &self.socket
    }

    pub(super) fn take(&mut self, most: usize, each: &mut impl FnMut(Event)) -> Taken {
        let mut taken = Taken::default();
        // Read anew each time: the wall clock may be set, and the host may sleep.
        self.clocks = Clocks::read();
        for _ in 0..most {
            match self.socket.receive() {
                Received::Messages(datagram) => {
                    messages(datagram)
                        .filter_map(|(_, body)| event(body.get(CN_HEAD..)?, &self.clocks))
                        .for_each(&mut *each);
                }
                Received::Nothing => return taken,
                Received::Lost => taken.lost = true,
                Received::Broken => {
                    taken.over = true;
                    return taken;
                }
            }
        }
        taken.more = true;
        taken
    }
}

/// What a `struct proc_event` says, if it matters.
fn event(event: &[u8], clocks: &Clocks) -> Option<Event> {
    let field = |index: usize| word(event, EVENT_HEAD + 4 * index);
    let stamp = Duration::from_nanos(long(event, 8)?);
    match word(event, 0)? {
        FORK => {
            let (parent, thread, process) = (field(1)?, field(2)?, field(3)?);
            Some(if thread == process {
                let child = ProcessId { pid: process, start_time: clocks.ticks(stamp) };
                Event::Fork { parent, child, at: clocks.at(stamp) }
            } else {
                Event::Thread { process }
            })
        }
        EXEC => Some(Event::Exec { process: field(1)? }),
        EXIT => {
            let (thread, process, status) = (field(0)?, field(1)?, field(2)?.cast_signed());
            Some(Event::Exit { process, leader: thread == process, status, at: clocks.at(stamp) })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn events_are_read_as_the_kernel_writes_them() {
        let clocks = Clocks::read();
        let made = |kind: u32, fields: &[u32]| {
            let mut bytes = [kind.to_ne_bytes(), 0_u32.to_ne_bytes()].concat();
            bytes.extend(u64::try_from(clocks.monotonic.as_nanos()).unwrap().to_ne_bytes());
            bytes.extend(fields.iter().flat_map(|field| field.to_ne_bytes()));
            bytes
        };
        let fork = event(&made(FORK, &[10, 11, 20, 20]), &clocks);
        assert!(
            matches!(fork, Some(Event::Fork { parent: 11, child, at }) if child.pid == 20 && at == clocks.now),
            "{fork:?}"
        );
        assert!(matches!(event(&made(FORK, &[10, 11, 21, 20]), &clocks), Some(Event::Thread { process: 20 })));
        assert!(matches!(event(&made(EXEC, &[5, 6]), &clocks), Some(Event::Exec { process: 6 })));
        let exit = event(&made(EXIT, &[8, 8, 9, 17]), &clocks);
        assert!(matches!(exit, Some(Event::Exit { process: 8, leader: true, status: 9, .. })), "{exit:?}");
        assert!(event(&made(EXIT, &[8]), &clocks).is_none() && event(&[], &clocks).is_none());
        assert!(event(&made(0x200, &[1, 2, 3]), &clocks).is_none());
    }
}
