//! What is said to a guardian, and what it answers: one datagram each way.
//!
//! An order (little endian): `"ESTO"`, version `u8` = 1, verb `u8`, category `u8`, flags `u8`, request `u64`, number `i64`,
//! incident (36 bytes, zero-padded), length of the reason `u16`, reason, body (JSON, verb-specific). It is read without
//! allocating. A reply: `"ESTR"`, version `u8` = 1, kind `u8`, request `u64`, body (JSON).

use serde::{Deserialize, Serialize};

use super::table::State;
use crate::job::{Enforced, Isolation, Limits, Process, ProcessId, Reach, Tier, Way};
use crate::ladder::{Breach, Thresholds};
use crate::monitor::Peak;
use crate::stop::Category;

const ORDER_MAGIC: &[u8; 4] = b"ESTO";
const REPLY_MAGIC: &[u8; 4] = b"ESTR";
const VERSION: u8 = 1;
const FIELDS: usize = 4 + 4 + 8 + 8 + INCIDENT + 2;
const REPLY_FIELDS: usize = 4 + 2 + 8;
/// Length of an incident's identifier.
pub const INCIDENT: usize = 36;
/// The longest reason in bytes; a longer one is cut.
pub const REASON_LIMIT: usize = 1024;
/// The largest datagram in either direction, in bytes.
pub const DATAGRAM_LIMIT: usize = 128 * 1024;

/// What is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Say how the job is: answered by [`Status`].
    Status,
    /// Stop it: answered by [`crate::stop::StopReport`] when it is over.
    Stop,
    /// `CRITICAL_STOP`: answered like [`Verb::Stop`].
    Now,
    /// Freeze it, for at most `number` milliseconds, after which it runs on; 0: until it is thawed, or its longest time
    /// is over and it is stopped.
    Freeze,
    /// Thaw it. With a `number` above 0: end a lease only.
    Thaw,
    /// Send the signal `number` to the main process.
    Signal,
    /// Change limits and thresholds to those in the body.
    SetLimits,
    /// The sender is the brain now.
    Adopt,
    /// List the processes.
    Inspect,
    /// Run the further command `number` inside the job: answered by [`crate::job::Exit`] when it has ended.
    Run,
}

/// The `number` of a [`Verb::Stop`] of what does not do its work any more.
pub const UNHEALTHY: i64 = 1;

impl Verb {
    const ALL: [Self; 10] = [
        Self::Status,
        Self::Stop,
        Self::Now,
        Self::Freeze,
        Self::Thaw,
        Self::Signal,
        Self::SetLimits,
        Self::Adopt,
        Self::Inspect,
        Self::Run,
    ];

    fn number(self) -> u8 {
        match self {
            Self::Status => 1,
            Self::Stop => 2,
            Self::Now => 3,
            Self::Freeze => 4,
            Self::Thaw => 5,
            Self::Signal => 6,
            Self::SetLimits => 7,
            Self::Adopt => 8,
            Self::Inspect => 9,
            Self::Run => 10,
        }
    }
}

/// An order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Order<'a> {
    /// What is ordered.
    pub verb: Verb,
    /// For a stop: how.
    pub category: Category,
    /// For [`Verb::Now`]: latch all workloads, not only this one.
    pub latch_all: bool,
    /// Chosen by the sender; stands in the replies.
    pub request: u64,
    /// Verb-specific.
    pub number: i64,
    /// The incident that it belongs to; empty if there is none.
    pub incident: &'a str,
    /// Why.
    pub reason: &'a str,
    /// Verb-specific, JSON.
    pub body: &'a [u8],
}

impl<'a> Order<'a> {
    /// An order without anything but its verb.
    pub fn new(verb: Verb, request: u64) -> Self {
        Self {
            verb,
            category: Category::Ask,
            latch_all: false,
            request,
            number: 0,
            incident: "",
            reason: "",
            body: b"",
        }
    }

    /// As a datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FIELDS + self.reason.len() + self.body.len());
        bytes.extend_from_slice(ORDER_MAGIC);
        bytes.extend_from_slice(&[VERSION, self.verb.number(), self.category.into(), u8::from(self.latch_all)]);
        bytes.extend_from_slice(&self.request.to_le_bytes());
        bytes.extend_from_slice(&self.number.to_le_bytes());
        let mut incident = [0; INCIDENT];
        let length = self.incident.len().min(INCIDENT);
        incident[..length].copy_from_slice(&self.incident.as_bytes()[..length]);
        bytes.extend_from_slice(&incident);
        let reason = &self.reason[..self.reason.floor_char_boundary(REASON_LIMIT)];
        #[expect(clippy::cast_possible_truncation, reason = "at most REASON_LIMIT")]
        bytes.extend_from_slice(&(reason.len() as u16).to_le_bytes());
        bytes.extend_from_slice(reason.as_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Reads a datagram; `None` if it is not an order. Allocates nothing.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let fields = bytes.get(..FIELDS)?;
        if !fields.starts_with(ORDER_MAGIC) || fields[4] != VERSION {
            return None;
        }
        let verb = Verb::ALL.into_iter().find(|verb| verb.number() == fields[5])?;
        let incident = fields[24..24 + INCIDENT].split(|&byte| byte == 0).next()?;
        let length = usize::from(u16::from_le_bytes([fields[FIELDS - 2], fields[FIELDS - 1]]));
        let (reason, body) = bytes[FIELDS..].split_at_checked(length)?;
        Some(Self {
            verb,
            category: Category::try_from(fields[6]).ok()?,
            latch_all: fields[7] & 1 != 0,
            request: u64::from_le_bytes(*fields[8..].first_chunk()?),
            number: i64::from_le_bytes(*fields[16..].first_chunk()?),
            incident: std::str::from_utf8(incident).ok()?,
            reason: std::str::from_utf8(reason).ok()?,
            body,
        })
    }
}

/// The kinds of reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyKind {
    /// The order was understood; the answer follows.
    Accepted,
    /// The answer.
    Done,
    /// It will not be done; the body is the reason, a JSON string.
    Refused,
}

/// A reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply<'a> {
    /// What kind.
    pub kind: ReplyKind,
    /// The request that it answers.
    pub request: u64,
    /// JSON; empty for [`ReplyKind::Accepted`].
    pub body: &'a [u8],
}

impl<'a> Reply<'a> {
    /// As a datagram.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(REPLY_FIELDS + self.body.len());
        bytes.extend_from_slice(REPLY_MAGIC);
        let kind = match self.kind {
            ReplyKind::Accepted => 1,
            ReplyKind::Done => 2,
            ReplyKind::Refused => 3,
        };
        bytes.extend_from_slice(&[VERSION, kind]);
        bytes.extend_from_slice(&self.request.to_le_bytes());
        bytes.extend_from_slice(self.body);
        bytes
    }

    /// Reads a datagram; `None` if it is not a reply.
    pub fn decode(bytes: &'a [u8]) -> Option<Self> {
        let (fields, body) = bytes.split_at_checked(REPLY_FIELDS)?;
        if !fields.starts_with(REPLY_MAGIC) || fields[4] != VERSION {
            return None;
        }
        let kind = match fields[5] {
            1 => ReplyKind::Accepted,
            2 => ReplyKind::Done,
            3 => ReplyKind::Refused,
            _ => return None,
        };
        Some(Self { kind, request: u64::from_le_bytes(*fields[6..].first_chunk()?), body })
    }
}

/// How a job is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The job's name.
    pub name: String,
    /// The job's identifier.
    pub id: String,
    /// Where it is in its life.
    pub state: State,
    /// Its guardian.
    pub guardian: ProcessId,
    /// Its main process.
    pub main: Option<ProcessId>,
    /// How strong its containment is.
    pub tier: Tier,
    /// What a hostile workload could reach.
    pub isolation: Isolation,
    /// What a hostile workload could do to its guard.
    #[serde(default)]
    pub reachable: Vec<Reach>,
    /// Which limits the kernel enforces.
    pub enforced: Enforced,
    /// The limits in force.
    pub limits: Limits,
    /// The ladder in force; the limits stand above it.
    pub thresholds: Thresholds,
    /// Processes.
    pub processes: u64,
    /// Cores busy.
    pub cpu_cores: f64,
    /// Memory that cannot be dropped, in bytes.
    pub memory_bytes: u64,
    /// The highest values seen.
    pub peak: Peak,
    /// How long it runs, in seconds.
    pub uptime_seconds: f64,
    /// How long a stop that asks first waits at most before it kills, in seconds.
    #[serde(default)]
    pub stop_seconds: f64,
    /// The last breach.
    pub last_breach: Option<Breach>,
    /// In which ways it is slowed down because of a rung.
    #[serde(default)]
    pub throttled: Vec<Way>,
    /// Whether it has said that it is ready; `None` of one that does not say.
    #[serde(default)]
    pub ready: Option<bool>,
    /// What it says of itself.
    #[serde(default)]
    pub said: String,
    /// How often it was thawed. While that stays the same, a frozen job has not run.
    pub thaws: u64,
}

/// The answer to [`Verb::Inspect`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Listing {
    /// The job's processes, as many as one datagram holds; the guardian leaves their arguments out.
    pub processes: Vec<Process>,
    /// How many more there are.
    pub omitted: u64,
}

impl Listing {
    /// As many of `processes` as fit.
    pub fn of(mut processes: Vec<Process>) -> Self {
        let all = processes.len();
        processes.truncate(fitting(&processes));
        let omitted = (all - processes.len()) as u64;
        Self { processes, omitted }
    }
}

/// How many of `items`, as JSON, leave room in a datagram for what stands around them.
pub(super) fn fitting(items: &[impl Serialize]) -> usize {
    const ROOM: usize = DATAGRAM_LIMIT - 8 * 1024;
    let mut sum = 0;
    let fits = |item: &&_| {
        sum += serde_json::to_vec(item).map_or(0, |json| json.len() + 1);
        sum <= ROOM
    };
    items.iter().take_while(fits).count()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_listing_of_any_length_fits_into_a_datagram() {
        let process = Process {
            id: ProcessId { pid: u32::MAX, start_time: u64::MAX },
            parent: u32::MAX,
            command: "\u{1}".repeat(15),
            arguments: String::new(),
            state: 'D',
            memory_bytes: u64::MAX,
            open: Vec::new(),
        };
        for count in [0, 1, 300, 5000] {
            let listing = Listing::of(vec![process.clone(); count]);
            let bytes = serde_json::to_vec(&listing).unwrap();
            let reply = Reply { kind: ReplyKind::Done, request: u64::MAX, body: &bytes }.encode();
            assert!(reply.len() <= DATAGRAM_LIMIT, "{count}: {}", reply.len());
            assert_eq!(listing.processes.len() + usize::try_from(listing.omitted).unwrap(), count);
            assert!(listing.omitted == 0 || listing.processes.len() > 400, "{count}");
        }
    }

    proptest! {
        #[test]
        fn an_order_comes_back_as_it_was_sent(
            verb in prop::sample::select(Verb::ALL.to_vec()), latch_all: bool, request: u64, number: i64,
            incident in "[0-9a-f-]{0,36}", reason in ".{0,300}", body: Vec<u8>,
        ) {
            let order = Order { verb, category: Category::Kill, latch_all, request, number, incident: &incident, reason: &reason, body: &body };
            let bytes = order.encode();
            prop_assert_eq!(Order::decode(&bytes).unwrap(), order);
        }

        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes: Vec<u8>, at in 0_usize..80, flip: u8) {
            let _ = Order::decode(&bytes);
            let _ = Reply::decode(&bytes);
            let mut order = Order { reason: "why", ..Order::new(Verb::Now, 7) }.encode();
            let at = at % order.len();
            order[at] ^= flip;
            let _ = Order::decode(&order);
            let _ = Order::decode(&order[..at]);
        }
    }

    #[test]
    fn a_reason_that_is_too_long_is_cut_between_characters() {
        let reason = "é".repeat(REASON_LIMIT);
        let bytes = Order { reason: &reason, ..Order::new(Verb::Now, 1) }.encode();
        assert_eq!(Order::decode(&bytes).unwrap().reason.len(), REASON_LIMIT);
    }

    #[test]
    fn a_reply_comes_back_as_it_was_sent() {
        for kind in [ReplyKind::Accepted, ReplyKind::Done, ReplyKind::Refused] {
            let reply = Reply { kind, request: 9, body: b"{}" };
            let bytes = reply.encode();
            assert_eq!(Reply::decode(&bytes).unwrap(), reply);
        }
    }
}
