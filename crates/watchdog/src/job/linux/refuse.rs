//! What a workload is refused by seccomp, for the sake of its guard: what Landlock does not look at.
//!
//! - `clone3` starts a process in any cgroup whose files its caller may write, and needs no more of it than its directory: nothing
//!   is opened for writing. It is answered as by a kernel that does not have it; libraries then do with `clone`, which cannot.
//! - Whoever is of the same user may lower the priority of its guardian and the time that it may run, where its number can be named.

use std::io;

/// Which system calls are refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Refusals {
    /// Those that start a process in another cgroup.
    pub leaving: bool,
    /// Those that change the priority, the processors or the limits of this process.
    pub ranking: Option<u32>,
}

/// A call that ranks another process, by architecture: its number, which argument names the process, and, where the first argument
/// says what that is, its value for a user.
type Call = (u32, usize, Option<u32>);

const PRIO_USER: u32 = 2;
const IOPRIO_WHO_USER: u32 = 3;

/// `setpriority`, `sched_setparam`, `sched_setscheduler`, `sched_setaffinity`, `ioprio_set`, `prlimit64`, `sched_setattr` with these
/// numbers.
const fn calls(numbers: [u32; 7]) -> [Call; 7] {
    let [priority, parameter, scheduler, affinity, io, limit, attributes] = numbers;
    [
        (priority, 1, Some(PRIO_USER)),
        (parameter, 0, None),
        (scheduler, 0, None),
        (affinity, 0, None),
        (io, 1, Some(IOPRIO_WHO_USER)),
        (limit, 0, None),
        (attributes, 0, None),
    ]
}

/// The architectures whose programs can run here (`AUDIT_ARCH_*`), with their calls: an old one's numbers are a way round too.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: [(u32, [Call; 7]); 2] = [
    (0xC000_003E, calls([141, 142, 144, 203, 251, 302, 314])),
    (0x4000_0003, calls([97, 154, 156, 241, 289, 340, 351])),
];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: [(u32, [Call; 7]); 2] = [
    (0xC000_00B7, calls([140, 118, 119, 122, 30, 261, 274])),
    (0x4000_0028, calls([97, 154, 156, 241, 314, 369, 380])),
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: [(u32, [Call; 7]); 0] = [];

/// The number of `clone3`, on every architecture that Rust runs on.
const CLONE3: u32 = 435;
/// What marks the calls of x86-64 with short pointers, which are otherwise the same.
const X32: u32 = 0x4000_0000;

/// Whether the kernel refuses system calls, and whether it is known here which calls rank a process.
pub(super) fn offered() -> (bool, bool) {
    let refuse: u32 = libc::SECCOMP_RET_ERRNO;
    // SAFETY: asks about the action in the variable, which lives until the call returns.
    let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0, &raw const refuse) };
    (answer == 0, answer == 0 && !ARCHITECTURES.is_empty())
}

impl Refusals {
    /// Applies them to this process and its children, for ever. Wants `no_new_privs`, or root.
    ///
    /// # Errors
    /// The kernel's answer.
    pub(super) fn apply(self) -> io::Result<()> {
        if self == Self::default() {
            return Ok(());
        }
        let mut steps = self.filter();
        let length = u16::try_from(steps.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?;
        let program = libc::sock_fprog { len: length, filter: steps.as_mut_ptr() };
        // SAFETY: the program and its steps, as many as it says, live until the call returns.
        let answer = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
        if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    fn filter(self) -> Vec<libc::sock_filter> {
        let mut steps = Vec::new();
        if self.leaving {
            steps.extend(NUMBER);
            steps.extend([unless_equal(CLONE3, 1), refuse(libc::ENOSYS)]);
        }
        for (architecture, calls) in ARCHITECTURES.iter().filter(|_| self.ranking.is_some()) {
            let mut of_calls = Vec::new();
            for call in calls {
                of_calls.extend(NUMBER);
                let looks = look(*call, self.ranking.unwrap_or_default());
                of_calls.push(unless_equal(call.0, looks.len()));
                of_calls.extend(looks);
            }
            steps.extend([load(ARCHITECTURE), unless_equal(*architecture, of_calls.len())]);
            steps.extend(of_calls);
        }
        steps.push(ALLOW);
        steps
    }
}

/// Refuses the call if it is on the process `pid`, its group, or all of a user.
fn look((_, argument, user): Call, pid: u32) -> Vec<libc::sock_filter> {
    let mut steps = Vec::new();
    if let Some(user) = user {
        steps.extend([load(first_half_of(0)), unless_equal(user, 1), refuse(libc::EPERM)]);
    }
    steps.extend([load(first_half_of(argument)), unless_equal(pid, 1), refuse(libc::EPERM), ALLOW]);
    steps
}

/// Where `struct seccomp_data` has the architecture.
const ARCHITECTURE: u32 = 4;

/// Where it has the half of an argument that the kernel takes for an `int`.
const fn first_half_of(argument: usize) -> u32 {
    #[expect(clippy::cast_possible_truncation, reason = "there are six arguments")]
    let start = 16 + 8 * argument as u32;
    if cfg!(target_endian = "big") { start + 4 } else { start }
}

const fn step(code: u32, jump_else: u8, value: u32) -> libc::sock_filter {
    #[expect(clippy::cast_possible_truncation, reason = "codes have 16 bits")]
    let code = code as u16;
    libc::sock_filter { code, jt: 0, jf: jump_else, k: value }
}

const fn load(offset: u32) -> libc::sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, offset)
}

/// Loads the number of the call.
const NUMBER: [libc::sock_filter; 2] = [load(0), step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, 0, !X32)];

/// Skips the next `steps` unless what was loaded is `value`.
fn unless_equal(value: u32, steps: usize) -> libc::sock_filter {
    // The longest part, that of an architecture, has 55.
    step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, u8::try_from(steps).unwrap_or(u8::MAX), value)
}

const fn refuse(errno: i32) -> libc::sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ERRNO | errno.cast_unsigned())
}

const ALLOW: libc::sock_filter = step(libc::BPF_RET | libc::BPF_K, 0, libc::SECCOMP_RET_ALLOW);
