//! Taskstats: what each thread of the host has used by its end.

use std::io;
use std::time::Duration;

use rustix::net::netlink::GENERIC;

use super::super::lineage::Used;
use super::netlink::{Received, Socket, attribute, attributes, long, messages, verdict, word};

/// `GENL_ID_CTRL` with `CTRL_CMD_GETFAMILY`, and its attributes.
const CONTROL: u16 = 16;
const GET_FAMILY: u8 = 3;
const FAMILY_ID: u16 = 1;
const FAMILY_NAME: u16 = 2;
/// `TASKSTATS_CMD_GET` with `TASKSTATS_CMD_ATTR_REGISTER_CPUMASK`.
const GET: u8 = 1;
const REGISTER_CPUS: u16 = 3;
/// `TASKSTATS_TYPE_AGGR_PID` and in it `TASKSTATS_TYPE_STATS`.
const OF_A_THREAD: u16 = 4;
const STATS: u16 = 3;
/// `struct genlmsghdr`.
const GENERIC_HEAD: usize = 4;
const SEQUENCE: u32 = 1;
const ROOM: usize = 16 << 20;
/// The first version of `struct taskstats` that names the process of a thread.
const VERSION_WITH_PROCESS: u16 = 12;
/// Where the fields of `struct taskstats` are.
const COMMAND: std::ops::Range<usize> = 80..112;
const RUN_TIME: usize = 72;
const USER: usize = 120;
const THREAD: usize = 128;
const USER_TIME: usize = 152;
const SYSTEM_TIME: usize = 160;
const MEMORY_PEAK: usize = 200;
const PROCESS: usize = 368;

/// The subscription. It ends with its socket.
#[derive(Debug)]
pub(super) struct Taskstats {
    socket: Socket,
    family: u16,
}

impl Taskstats {
    /// Subscribes to all processors' ends.
    ///
    /// # Errors
    /// If the kernel keeps no such figures, or does not tell this process.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::open(GENERIC, 0, ROOM)?;
        let mut request = vec![GET_FAMILY, 1, 0, 0];
        request.extend(attribute(FAMILY_NAME, b"TASKSTATS\0"));
        socket.send(CONTROL, false, SEQUENCE, &request)?;
        let family = socket.answer(|kind, body| match verdict(kind, body) {
            Some(verdict) => Some(verdict.and(Err(io::ErrorKind::InvalidData.into()))),
            None => attributes(body.get(GENERIC_HEAD..)?)
                .find(|(kind, _)| *kind == FAMILY_ID)
                .and_then(|(_, value)| Some(Ok(u16::from_ne_bytes(value.get(..2)?.try_into().ok()?)))),
        })?;
        let cpus = std::fs::read_to_string("/sys/devices/system/cpu/possible")?;
        let mut request = vec![GET, 1, 0, 0];
        request.extend(attribute(REGISTER_CPUS, format!("{}\0", cpus.trim()).as_bytes()));
        socket.send(family, true, SEQUENCE, &request)?;
        socket.answer(verdict)?;
        Ok(Self { socket, family })
    }

    /// Takes what was told. What the kernel had no room for is missing from the figures of some processes, and nowhere else.
    pub(super) fn take(&mut self, mut each: impl FnMut(u32, Used)) {
        loop {
            match self.socket.receive() {
                Received::Messages(datagram) => {
                    let bodies = messages(datagram).filter(|(kind, _)| *kind == self.family);
                    let records = bodies.filter_map(|(_, body)| used(body.get(GENERIC_HEAD..)?));
                    records.for_each(|(process, used)| each(process, used));
                }
                Received::Lost => {}
                Received::Nothing | Received::Broken => return,
            }
        }
    }
}

/// What the attributes of a message say of a thread. A process's sums have no memory in them and come only for those with
/// threads: the sums are made of the threads here.
fn used(body: &[u8]) -> Option<(u32, Used)> {
    let (_, nested) = attributes(body).find(|(kind, _)| *kind == OF_A_THREAD)?;
    let (_, stats) = attributes(nested).find(|(kind, _)| *kind == STATS)?;
    let version = u16::from_ne_bytes(stats.get(..2)?.try_into().ok()?);
    let named = version >= VERSION_WITH_PROCESS;
    // Where the process is not named, those of its first thread are known.
    let process = word(stats, if named { PROCESS } else { THREAD })?;
    let command = stats.get(COMMAND)?;
    let command = &command[..command.iter().position(|&byte| byte == 0).unwrap_or(command.len())];
    let memory = long(stats, MEMORY_PEAK)?;
    // To the nanosecond where the kernel has that; else in ticks, of which a short life has none.
    let cpu = match long(stats, RUN_TIME)? {
        0 => Duration::from_micros(long(stats, USER_TIME)?.saturating_add(long(stats, SYSTEM_TIME)?)),
        exact => Duration::from_nanos(exact),
    };
    let used = Used {
        cpu,
        memory_peak: (memory > 0).then_some(memory.saturating_mul(1024)),
        user: word(stats, USER)?,
        leader: word(stats, THREAD)? == process,
        command: String::from_utf8_lossy(command).into_owned(),
    };
    Some((process, used))
}
