//! Starting a program so that it never runs an instruction outside its job.
//!
//! The new process is cloned straight into its cgroup and namespaces and waits at a gate until the guardian has done what
//! can only be done from outside (ID maps, v1 groups, process group). With a PID namespace the cloned process becomes
//! its init, which never executes anything else and starts the program as its child; see [`super::init`].

use std::ffi::{CString, OsString, c_char};
use std::fs;
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, set_parent_process_death_signal, setpgid, waitid};

use super::confinement::Confinement;
use super::{cover, init};
use crate::error::Context as _;
use crate::job::spec::{Bytes, JobSpec, MARKER, User};
use crate::{Error, Result};

/// Which namespaces a job gets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Namespaces {
    /// Its own PIDs.
    pub pid: bool,
    /// Its own mounts.
    pub mount: bool,
    /// Its own user namespace: what an ordinary user needs for the others.
    pub user: bool,
}

impl Namespaces {
    fn flags(self) -> u64 {
        let flag = |wanted: bool, flag: i32| if wanted { u64::from(flag.cast_unsigned()) } else { 0 };
        flag(self.pid, libc::CLONE_NEWPID) | flag(self.mount, libc::CLONE_NEWNS) | flag(self.user, libc::CLONE_NEWUSER)
    }
}

/// A started program.
#[derive(Debug)]
pub(super) struct Started {
    /// The cloned process: the init of the PID namespace, or the program itself.
    pub child: Process,
    /// The program, where it is not the cloned process.
    pub main: Option<OwnedFd>,
    /// Where the init reports the program's end.
    pub reports: Option<OwnedFd>,
}

/// A process that this one is the parent of.
#[derive(Debug)]
pub struct Process {
    /// Its process ID.
    pub pid: u32,
    /// Its descriptor.
    pub fd: OwnedFd,
}

/// Everything that the new process needs, made before it is cloned: after that it allocates as little as it can.
pub(super) struct Plan {
    argv: Vec<CString>,
    environment: Vec<CString>,
    directory: Option<PathBuf>,
    user: Option<User>,
    own_session: bool,
    ignored_signals: Vec<i32>,
    new_privileges: bool,
    confinement: Confinement,
    cover: Vec<PathBuf>,
    keep: Option<PathBuf>,
    pub(super) namespaces: Namespaces,
    oom_score: Vec<u8>,
}

/// Starts the program of `spec` in `namespaces` and, if there is one, in `cgroup`. `adopt` does what is left to do from
/// outside for the new process before it goes on. `None` if the new process was killed before it began: the kernel does that since
/// Linux 6.14 to one that is cloned into `cgroup` by a process whose own group was killed before (`cgroup.kill`) and lives on.
///
/// # Errors
/// [`Error::Exec`] if it cannot be executed, [`Error::Containment`] or [`Error::System`] if it cannot be contained.
pub(super) fn spawn(
    spec: &JobSpec,
    namespaces: Namespaces,
    confinement: Confinement,
    cgroup: Option<BorrowedFd<'_>>,
    adopt: impl FnOnce(u32) -> io::Result<()>,
) -> Result<Option<Started>> {
    refuse_threads()?;
    let plan = Plan::new(spec, namespaces, confinement)?;
    let commands = commands(spec, namespaces, confinement)?;
    let (gate, inner_gate) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
        .doing("create a socket pair")?;
    let (failure, inner_failure) = pipe_with(PipeFlags::CLOEXEC).doing("create a pipe")?;
    let Some(child) = clone(namespaces.flags(), cgroup, libc::SIGCHLD).doing("start a process inside the job")? else {
        drop((gate, failure));
        start_inside(&plan, &commands, &inner_gate, inner_failure);
    };
    drop((inner_gate, inner_failure));
    if !init::is_there(&gate) {
        return if was_killed(&child) {
            Ok(None)
        } else {
            Err(Error::Containment("the new process ended at once".into()))
        };
    }
    let outside = prepare_outside(spec, namespaces, child.pid).and_then(|()| adopt(child.pid));
    if let Err(error) = outside {
        // The gate closes unopened, and the process ends.
        return Err(Error::Containment(format!("the new process could not be prepared: {error}")));
    }
    forbid_tracing();
    rustix::io::write(&gate, &[init::GO]).doing("open the gate")?;
    let main = if namespaces.pid { init::receive_main(&gate).map(Some) } else { Ok(None) };
    // Where the init ended early, it has said why.
    await_exec(failure, spec)?;
    let main = main?;
    let reports = namespaces.pid.then_some(gate);
    Ok(Some(Started { child, main, reports }))
}

/// Whether the new process, which ends now, was killed.
fn was_killed(child: &Process) -> bool {
    let ended = waitid(WaitId::PidFd(child.fd.as_fd()), WaitIdOptions::EXITED);
    matches!(ended, Ok(Some(status)) if status.terminating_signal() == Some(libc::SIGKILL))
}

/// From here on no other program of the same user can trace this process, look into it by `/proc`, or have it dump its memory: what
/// belongs to a workload, secrets above all, must not come out that way.
pub fn forbid_tracing() {
    // Before Linux 6.4 they are read from a file of this process that it may not open once it is not to be traced.
    let _ = (rustix::param::page_size(), rustix::param::clock_ticks_per_second());
    // The kernel refuses this to nobody.
    let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable);
}

/// What the further commands of `spec` need.
///
/// # Errors
/// [`Error::Containment`] if an argument holds a zero byte.
pub(super) fn commands(spec: &JobSpec, namespaces: Namespaces, confinement: Confinement) -> Result<Vec<Plan>> {
    let own: Vec<(Bytes, Bytes)> = std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect();
    let plan = |argv: &Vec<Bytes>| {
        let mut spec = spec.clone();
        (spec.program.argv, spec.program.environment) = (argv.clone(), own.clone());
        (spec.program.process_group, spec.program.oom_score) = (None, None);
        Plan::new(&spec, namespaces, confinement.of_commands())
    };
    spec.program.commands.iter().map(plan).collect()
}

/// Starts a further command as a child of this process, in `cgroup` and in the mounts of the process `main`. `adopt` puts the copy
/// that becomes it, whose number it gets, where it belongs beside that.
///
/// # Errors
/// The kernel's answer.
pub(super) fn beside(
    plan: &Plan,
    cgroup: Option<BorrowedFd<'_>>,
    main: BorrowedFd<'_>,
    adopt: impl FnOnce(u32) -> io::Result<()>,
) -> io::Result<Process> {
    if let Some(child) = clone(0, cgroup, libc::SIGCHLD)? {
        return Ok(child);
    }
    let user = if plan.namespaces.user { libc::CLONE_NEWUSER } else { 0 };
    // SAFETY: takes a descriptor and flags; this copy has one thread.
    let inside = !plan.namespaces.mount || unsafe { libc::setns(main.as_raw_fd(), libc::CLONE_NEWNS | user) } == 0;
    if !inside || adopt(std::process::id()).is_err() || init::detach_standard_streams().is_err() {
        leave(126);
    }
    plan.execute_quietly()
}

/// A copy of a process with several threads has only one of them, and the locks of all: it could wait for ever.
fn refuse_threads() -> Result<()> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    match status.lines().find_map(|line| line.strip_prefix("Threads:")).map(str::trim) {
        Some("1") => Ok(()),
        _ => Err(Error::Containment(
            "a program is started by a process with one thread only: start a guardian".to_owned(),
        )),
    }
}

/// Whether a process can be started in `namespaces` and mount there what covers estop's directories: some hosts let
/// everybody make a user namespace, and nobody do anything in it.
///
/// # Errors
/// The kernel's answer.
pub(super) fn probe(namespaces: Namespaces) -> io::Result<()> {
    let (gate, inner_gate) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let Some(child) = clone(namespaces.flags(), None, libc::SIGCHLD)? else {
        drop(gate);
        let tried = if init::passed_gate(&inner_gate) { cover::probe() } else { Ok(()) };
        leave(tried.err().map_or(0, Errno::raw_os_error));
    };
    drop(inner_gate);
    let mapped = if namespaces.user { map_ids(child.pid) } else { Ok(()) };
    if mapped.is_ok() {
        rustix::io::write(&gate, &[init::GO])?;
    }
    drop(gate);
    let ended = waitid(WaitId::PidFd(child.fd.as_fd()), WaitIdOptions::EXITED)?;
    mapped?;
    match ended.and_then(|status| status.exit_status()) {
        Some(0) => Ok(()),
        Some(errno) => Err(io::Error::from_raw_os_error(errno)),
        None => Err(io::Error::other("the process in them was killed")),
    }
}

/// `clone3(2)` used as `fork`: `None` in the new process. Its end is told by the signal `end`.
fn clone(flags: u64, cgroup: Option<BorrowedFd<'_>>, end: i32) -> io::Result<Option<Process>> {
    let mut pidfd: i32 = -1;
    // SAFETY: all-zero is a valid value of this structure of integers.
    let mut arguments: libc::clone_args = unsafe { std::mem::zeroed() };
    arguments.flags = flags | u64::from(libc::CLONE_PIDFD.cast_unsigned());
    arguments.pidfd = (&raw mut pidfd) as u64;
    arguments.exit_signal = u64::from(end.cast_unsigned());
    if let Some(cgroup) = cgroup {
        // CLONE_INTO_CGROUP, which does not fit the signed constant of libc.
        arguments.flags |= 0x2_0000_0000;
        arguments.cgroup = u64::from(cgroup.as_raw_fd().cast_unsigned());
    }
    // SAFETY: no stack and no shared memory is asked for, so this is a fork; this process has one thread, so the copy
    // may go on with any code. The structure and the place for the descriptor live until the call returns.
    let mut answer = unsafe { libc::syscall(libc::SYS_clone3, &raw mut arguments, size_of::<libc::clone_args>()) };
    if answer == -1 && cgroup.is_none() && io::Error::last_os_error().raw_os_error() == Some(libc::ENOSYS) {
        // An estop inside a job, which is refused it.
        let flags = arguments.flags | arguments.exit_signal;
        // SAFETY: as above; where the parent's number would go, the descriptor goes.
        answer = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, &raw mut pidfd, 0_usize, 0_usize) };
    }
    match answer {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        pid => {
            // SAFETY: the kernel has just put a new descriptor there, which nobody else owns.
            let fd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            Ok(Some(Process { pid: u32::try_from(pid).unwrap_or(0), fd }))
        }
    }
}

/// Starts a copy of this process that shares nothing with it. `None` in the copy.
///
/// # Errors
/// The kernel's answer.
pub(super) fn fork() -> io::Result<Option<Process>> {
    clone(0, None, libc::SIGCHLD)
}

/// The signal by which a copy of a guardian tells its end. The kernel gives any process of a workload `SIGCHLD` for that, at the
/// latest when it becomes a guardian's child, and shows it to everybody: so the one is never taken for the other.
pub(crate) const END_OF_COPY: i32 = libc::SIGURG;

/// The same, for a helper of a guardian: who waits for any child at all (`wait(-1)`) does not see it, but only who waits for it.
///
/// # Errors
/// The kernel's answer.
pub fn copy() -> io::Result<Option<Process>> {
    clone(0, None, END_OF_COPY)
}

/// Closes every descriptor of this copy but the standard ones, so that it holds nothing of the process it was copied from.
pub fn let_go_of_descriptors() {
    // SAFETY: the copy never returns to the code that owns them.
    unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, 0) };
}

/// Ends this process at once, without running anything that belongs to the process it was copied from.
pub fn leave(code: i32) -> ! {
    // SAFETY: ends the process; nothing is left to be unsound.
    unsafe { libc::_exit(code) }
}

/// What can only be done from outside the new user namespace, or by the parent.
fn prepare_outside(spec: &JobSpec, namespaces: Namespaces, pid: u32) -> io::Result<()> {
    if namespaces.user {
        map_ids(pid)?;
    }
    if let Some(group) = spec.program.process_group {
        let raw = |number: u32| i32::try_from(number).ok().and_then(Pid::from_raw);
        setpgid(raw(pid), raw(group))?;
    }
    Ok(())
}

/// Everybody in the user namespace of `pid` is who estop is.
fn map_ids(pid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    fs::write(format!("/proc/{pid}/uid_map"), format!("{uid} {uid} 1"))?;
    fs::write(format!("/proc/{pid}/gid_map"), format!("{gid} {gid} 1"))
}

/// Waits until the program was executed: then the pipe closes. Otherwise it carries the reason.
fn await_exec(failure: OwnedFd, spec: &JobSpec) -> Result<()> {
    let mut text = Vec::new();
    io::Read::read_to_end(&mut fs::File::from(failure), &mut text).doing("wait for the program to start")?;
    let Some((&kind, rest)) = text.split_first() else { return Ok(()) };
    let text = String::from_utf8_lossy(rest).into_owned();
    if kind == EXEC_FAILED {
        let errno = text.parse().unwrap_or(libc::ENOEXEC);
        let program = spec
            .program
            .argv
            .first()
            .map(|name| name.to_os_string().to_string_lossy().into_owned())
            .unwrap_or_default();
        return Err(Error::Exec { program, source: io::Error::from_raw_os_error(errno) });
    }
    Err(Error::Containment(text))
}

const EXEC_FAILED: u8 = b'X';
const SETUP_FAILED: u8 = b'S';

/// In the new process: waits at the gate, then goes on as the namespace's init or as the program.
fn start_inside(plan: &Plan, commands: &[Plan], gate: &OwnedFd, failure: OwnedFd) -> ! {
    // If the guardian dies before this takes effect, the gate closes; if it dies after, so does this process.
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    if bound.is_err() || !init::says_it_is_there(gate) || !init::passed_gate(gate) {
        leave(1);
    }
    if let Err(detail) = plan.enter_namespaces() {
        report(&failure, SETUP_FAILED, &detail);
        leave(1);
    }
    if plan.namespaces.pid {
        init::run(plan, commands, gate, failure);
    }
    plan.execute(&failure)
}

fn report(failure: &OwnedFd, kind: u8, text: &str) {
    let mut message = vec![kind];
    message.extend_from_slice(text.as_bytes());
    // Nobody is left to be told if this fails.
    let _ = rustix::io::write(failure, &message);
}

/// The environment may hold secrets.
impl std::fmt::Debug for Plan {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Plan").field("argv", &self.argv).finish_non_exhaustive()
    }
}

impl Plan {
    fn new(spec: &JobSpec, namespaces: Namespaces, confinement: Confinement) -> Result<Self> {
        let c_string = |bytes: &[u8]| {
            CString::new(bytes).map_err(|_| Error::Containment("an argument or variable holds a zero byte".to_owned()))
        };
        let marker = format!("{MARKER}={}", spec.id);
        let mut environment = vec![c_string(marker.as_bytes())?];
        for (name, value) in spec.program.environment.iter().filter(|(name, _)| name.0 != MARKER.as_bytes()) {
            environment.push(c_string(&[&name.0, b"=".as_slice(), &value.0].concat())?);
        }
        Ok(Self {
            argv: spec.program.argv.iter().map(|argument| c_string(&argument.0)).collect::<Result<_>>()?,
            environment,
            directory: spec.program.directory.clone(),
            user: spec.program.user.clone(),
            own_session: spec.program.process_group.is_none(),
            ignored_signals: spec.program.ignored_signals.clone(),
            new_privileges: spec.containment.new_privileges,
            confinement,
            cover: spec.containment.cover.clone(),
            keep: spec.secrets_dir.clone(),
            namespaces,
            oom_score: spec.program.oom_score.clone().unwrap_or_default().into_bytes(),
        })
    }

    fn enter_namespaces(&self) -> std::result::Result<(), String> {
        if !self.namespaces.mount {
            return Ok(());
        }
        cover::detach_mounts().map_err(|errno| format!("its mounts could not be detached: {errno}"))?;
        if self.namespaces.pid {
            // Refused in some containers; then the outer /proc stays, in which it sees more, and can signal no more.
            let _ = cover::mount_proc();
        }
        let place =
            rustix::process::getcwd(Vec::new()).map(|path| PathBuf::from(OsString::from_vec(path.into_bytes())));
        cover::cover(&self.cover, self.keep.as_deref())
            .map_err(|errno| format!("estop's own directories could not be covered: {errno}"))?;
        // Whoever stands in a directory while it is covered still stands below the cover.
        rustix::process::chdir("/").map_err(|errno| format!("its directory could not be left: {errno}"))?;
        let Some(place) = self.directory.as_ref().or(place.as_ref().ok()) else { return Ok(()) };
        if self.cover.iter().any(|covered| place.starts_with(covered)) {
            return Err(format!(
                "it was to start in {}, which is estop's own and out of its sight: start it elsewhere",
                place.display()
            ));
        }
        match rustix::process::chdir(place) {
            // As an ordinary program: the directory it is told to start in is looked at once it is its user's.
            Err(_) if self.directory.is_some() => Ok(()),
            other => other.map_err(|errno| format!("it could not start in {}: {errno}", place.display())),
        }
    }

    /// Becomes the program. Whoever waits for it sees its exit code: 127 if it cannot be executed.
    pub(super) fn execute_quietly(&self) -> ! {
        let _ = self.try_execute();
        leave(127)
    }

    /// Becomes the program.
    pub(super) fn execute(&self, failure: &OwnedFd) -> ! {
        match self.try_execute() {
            Err(Stage::Setup(detail)) => report(failure, SETUP_FAILED, &detail),
            Err(Stage::Exec(errno)) => report(failure, EXEC_FAILED, &errno.to_string()),
        }
        leave(127)
    }

    fn try_execute(&self) -> std::result::Result<std::convert::Infallible, Stage> {
        let setup = |what: &'static str| move |errno: Errno| Stage::Setup(format!("{what}: {errno}"));
        // Init made itself unreadable; the program decides for itself.
        let _ = rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::Dumpable);
        if !self.oom_score.is_empty() {
            let _ = fs::write("/proc/self/oom_score_adj", &self.oom_score);
        }
        restore_signals(&self.ignored_signals);
        if self.own_session {
            // Fails only for the leader of a session, which already has one of its own.
            let _ = rustix::process::setsid();
        }
        if let Some(user) = &self.user {
            become_user(user).map_err(setup("it could not become its user"))?;
        }
        if !self.namespaces.pid {
            // A change of user takes this away, so it is asked for again.
            set_parent_process_death_signal(Some(Signal::KILL))
                .map_err(setup("it could not be bound to its guardian"))?;
        }
        if !self.new_privileges {
            rustix::thread::set_no_new_privs(true).map_err(setup("its privileges could not be fixed"))?;
        }
        self.confinement.apply().map_err(Stage::Setup)?;
        if let Some(directory) = &self.directory {
            rustix::process::chdir(directory)
                .map_err(|errno| Stage::Setup(format!("it could not start in {}: {errno}", directory.display())))?;
        }
        Err(Stage::Exec(execvpe(&self.argv, &self.environment)))
    }
}

enum Stage {
    Setup(String),
    Exec(i32),
}

/// Executes `argv` with `environment`, looking the command up in `PATH`. Returns only the error number.
fn execvpe(argv: &[CString], environment: &[CString]) -> i32 {
    let pointers = |strings: &[CString]| -> Vec<*const c_char> {
        strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, variables) = (pointers(argv), pointers(environment));
    let Some(program) = argv.first() else { return libc::ENOENT };
    // SAFETY: both arrays end with a null pointer, and they and the strings live until the call returns.
    unsafe { libc::execvpe(program.as_ptr(), arguments.as_ptr(), variables.as_ptr()) };
    io::Error::last_os_error().raw_os_error().unwrap_or(libc::ENOEXEC)
}

/// Gives the program the signal handling that estop's caller had.
fn restore_signals(ignored: &[i32]) {
    const LAST: i32 = 64;
    for signal in 1..=LAST {
        let action = if ignored.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler of ours is installed by this. SIGKILL, SIGSTOP and glibc's own two are refused, which is right.
        unsafe { libc::signal(signal, action) };
    }
    // SAFETY: all-zero is a valid signal set on Linux, the empty one.
    let none: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set lives until the call returns; the old set is not asked for.
    unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut()) };
}

fn become_user(user: &User) -> std::result::Result<(), Errno> {
    let check = |answer: i32| {
        if answer == 0 { Ok(()) } else { Err(Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::PERM)) }
    };
    // SAFETY: the pointer and the length are those of one slice.
    check(unsafe { libc::setgroups(user.groups.len(), user.groups.as_ptr()) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresgid(user.gid, user.gid, user.gid) })?;
    // SAFETY: takes three numbers.
    check(unsafe { libc::setresuid(user.uid, user.uid, user.uid) })
}
