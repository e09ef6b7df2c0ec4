//! Jobs on Windows: a Job Object, which the system ends as a whole, with the last handle to it too.

mod asking;
mod command_line;
mod host;
pub(crate) mod object;
pub(crate) mod processes;
mod rates;
pub(crate) mod spawn;
mod stranded;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::io;
use std::os::windows::io::BorrowedHandle;
use std::path::Path;
use std::time::{Duration, Instant};

use super::{
    Bytes, Enforced, Exit, Isolation, Job, JobSpec, Limits, Process, ProcessId, Proof, Reach, TERMINATE, Tier,
    Together, User, Way, Woken,
};
use crate::error::Context as _;
use crate::ladder::{Metric, Thresholds};
use crate::monitor::{Host, Reading};
use crate::registry::Handle;
use crate::stop::Survivor;
use crate::{Error, Result};
use asking::Key;
pub use command_line::{find_program, is_batch_file};
use estop_durable::privileges::is_administrator;
use object::{JobObject, Messages};
use processes::{Held, Seen};
pub use processes::{Usage, usage};
pub use stranded::{Ending, Stranded, Unrecorded, is_own, unrecorded};
use windows_sys::Win32::System::Threading::GetExitCodeProcess;

/// POSIX's number of the signal that Ctrl-C is.
const INTERRUPT: i32 = 2;
/// How often the list of processes is looked at while it is waited for, beside the job's own messages.
const LOOK: Duration = Duration::from_millis(2);

/// What a hostile workload could reach that runs as `user`.
pub(super) fn isolation(user: Option<&User>) -> Isolation {
    if user.is_some() {
        return Isolation::SeparateUid;
    }
    if is_administrator() { Isolation::Root } else { Isolation::SameUid }
}

/// Whether this is Wine, which accepts limits and does not enforce them.
pub fn is_wine() -> bool {
    Path::new(r"Z:\proc\version").exists()
}

/// A job on Windows.
#[derive(Debug)]
pub struct WindowsJob {
    object: JobObject,
    main: Option<Held>,
    /// What the job was made from, without the program's variables, for the further commands.
    spec: Option<JobSpec>,
    /// Those that run, by their number.
    beside: Vec<(usize, Held)>,
    exit: Option<Exit>,
    limits: Limits,
    /// Who stands still, with the handle by which it goes on.
    suspended: HashMap<ProcessId, Held>,
    /// Who was seen in the job and is waited for before it is called empty.
    known: HashMap<ProcessId, Held>,
    /// What those that were seen have used.
    used: HashMap<ProcessId, Used>,
    refused: Messages,
}

/// What one process had used when it was last seen.
#[derive(Clone, Copy, Debug, Default)]
struct Used {
    cpu: Duration,
    io: u64,
}

impl WindowsJob {
    /// Makes the job for `spec`, empty.
    ///
    /// # Errors
    /// What the system answers.
    pub fn create(spec: &JobSpec) -> Result<Self> {
        if let Some(limit) = spec.together.as_ref().and_then(Together::first) {
            let reason = "on Windows each workload has limits of its own alone";
            return Err(Error::Unenforceable { limit, reason });
        }
        let mut object = JobObject::create().doing("create a job object")?;
        object.set_limits(&spec.limits).doing("limit the job")?;
        Ok(Self { limits: spec.limits, ..Self::of(object) })
    }

    /// A job as it is found, whoever made it.
    fn of(object: JobObject) -> Self {
        Self {
            object,
            main: None,
            exit: None,
            limits: Limits::default(),
            suspended: HashMap::new(),
            known: HashMap::new(),
            spec: None,
            beside: Vec::new(),
            used: HashMap::new(),
            refused: Messages::default(),
        }
    }

    /// The processes in the job, as they are now. Those that have ended and are still held by somebody are not in it.
    fn members(&self) -> io::Result<Vec<Seen>> {
        let inside = self.object.processes()?;
        let mut all = if inside.is_empty() { HashMap::new() } else { processes::all()? };
        Ok(inside.iter().filter_map(|pid| all.remove(pid)).collect())
    }

    /// Takes a handle of everyone in the job, to wait for its end by.
    fn hold_all(&mut self) {
        for pid in self.object.processes().unwrap_or_default() {
            let Ok(held) = Held::open(pid) else { continue };
            // The ID may have been given to another since the list was made.
            if self.object.holds(held.handle()).unwrap_or(false) {
                self.known.entry(held.id).or_insert(held);
            }
        }
        self.known.retain(|_, held| !held.has_ended());
    }

    /// Suspends those who are not suspended yet. Whether all stood still already: who stands still starts nobody.
    fn suspend_new(&mut self) -> bool {
        let Ok(inside) = self.object.processes() else { return false };
        let mut still = true;
        for pid in inside {
            // One that cannot be opened may just have ended: the next look tells.
            let Ok(held) = Held::open(pid) else {
                still = false;
                continue;
            };
            if self.suspended.contains_key(&held.id) || !self.object.holds(held.handle()).unwrap_or(false) {
                continue;
            }
            still = false;
            if held.suspend() {
                self.suspended.insert(held.id, held);
            }
        }
        still
    }

    fn note_messages(&mut self, wait: Duration) {
        if let Some(said) = self.object.wait(wait) {
            self.refused.memory_refused += said.memory_refused;
            self.refused.process_memory_refused += said.process_memory_refused;
            self.refused.processes_refused += said.processes_refused;
        }
    }
}

impl Job for WindowsJob {
    fn tier(&self) -> Tier {
        Tier::Kernel
    }

    fn reachable(&self) -> Vec<Reach> {
        // Nothing keeps apart what is of the same user.
        vec![Reach::Signal, Reach::Ptrace, Reach::Renice, Reach::State]
    }

    fn enforced(&self) -> Enforced {
        let basic = !is_wine();
        let rates = self.object.rates;
        Enforced {
            memory: basic,
            cpu: rates.cpu,
            pids: basic,
            process_memory: basic,
            cpu_weight: rates.cpu && self.limits.cpu_max.is_none(),
            io: rates.io,
        }
    }

    fn spawn(&mut self, spec: &JobSpec) -> Result<()> {
        let main = spawn::spawn(spec, &self.object)?;
        let mut own = spec.clone();
        own.program.environment.clear();
        self.spec = Some(own);
        // The call that made it has put it into the job; a system that did not must not get to run it.
        if !self.object.holds(main.handle()).unwrap_or(false) {
            self.object.assign(main.handle()).doing("put the program into its job")?;
        }
        main.resume();
        self.main = Some(main);
        Ok(())
    }

    fn main(&self) -> Option<ProcessId> {
        self.main.as_ref().map(|main| main.id)
    }

    fn reap(&mut self) -> Option<Exit> {
        if self.exit.is_none() {
            self.exit = self.main.as_ref().filter(|main| main.has_ended()).map(exit_of);
        }
        self.exit
    }

    fn signal(&self, signal: i32) -> io::Result<()> {
        let main = self.main.as_ref().filter(|main| !main.has_ended());
        let main = main.ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the program has ended"))?;
        match signal {
            TERMINATE => {
                let closed = asking::close_windows(&self.object.processes()?);
                let pressed = asking::press(Key::Break, main.id.pid).or_else(|_| asking::press(Key::C, main.id.pid));
                if closed > 0 { Ok(()) } else { pressed }
            }
            INTERRUPT => asking::press(Key::C, main.id.pid),
            _ => Err(io::Error::new(io::ErrorKind::Unsupported, "Windows has no such signal")),
        }
    }

    fn signal_all(&self, signal: i32) {
        if signal == TERMINATE {
            asking::close_windows(&self.object.processes().unwrap_or_default());
        }
        // Everyone at its console hears what is pressed there; who has none has closed its windows.
        let _ = self.signal(signal);
    }

    fn run(&mut self, command: usize) -> io::Result<()> {
        let none = || io::Error::new(io::ErrorKind::NotFound, "there is no such command");
        let spec = self.spec.as_ref().ok_or_else(none)?;
        let argv = spec.program.commands.get(command).ok_or_else(none)?;
        let argv: Vec<OsString> = argv.iter().map(Bytes::to_os_string).collect();
        let held = spawn::beside(&argv, spec, &self.object)?;
        held.resume();
        self.beside.push((command, held));
        Ok(())
    }

    fn take_result(&mut self) -> Option<(usize, Exit)> {
        let index = self.beside.iter().position(|(_, held)| held.has_ended())?;
        let (command, held) = self.beside.swap_remove(index);
        Some((command, exit_of(&held)))
    }

    fn freeze(&mut self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        self.suspended.retain(|_, held| !held.has_ended());
        loop {
            if self.suspend_new() {
                return true;
            }
            if Instant::now() >= deadline {
                return false;
            }
        }
    }

    fn thaw(&mut self) {
        for held in self.suspended.drain().map(|(_, held)| held) {
            held.resume();
        }
    }

    fn kill(&mut self) {
        self.hold_all();
        self.object.terminate();
    }

    fn wait_empty(&mut self, wait: Duration) -> bool {
        let deadline = Instant::now() + wait;
        loop {
            let unpopulated = self.object.counters().is_ok_and(|counters| counters.active == 0);
            if unpopulated && self.known.values().all(Held::has_ended) {
                self.note_messages(Duration::ZERO);
                self.suspended.clear();
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.note_messages(left.min(LOOK));
        }
    }

    fn prove(&mut self) -> Proof {
        let listed: HashSet<u32> = self.object.processes().unwrap_or_default();
        let empty = self.is_empty() && listed.is_empty();
        let mut by = Vec::new();
        if empty {
            by.push("job object: 0 active processes".to_owned());
            by.push(format!("{} process handles signalled", self.known.len()));
            by.push("leaving prevented: no breakaway".to_owned());
        }
        let survivors = self.members().unwrap_or_default().iter().map(survivor).collect();
        Proof { empty, by, survivors }
    }

    fn count(&mut self) -> u64 {
        self.object.counters().map_or(0, |counters| counters.active)
    }

    fn read(&mut self, thresholds: &Thresholds) -> Reading {
        self.note_messages(Duration::ZERO);
        let members = self.members().unwrap_or_default();
        for member in &members {
            let known = self.used.entry(member.id).or_default();
            *known = Used { cpu: member.cpu.max(known.cpu), io: member.io.max(known.io) };
        }
        // Where the job's own figures are missing, as under Wine: those that were seen, the ended ones as they were last.
        let cpu = self.used.values().map(|used| used.cpu).sum();
        let io = self.used.values().map(|used| used.io).fold(0, u64::saturating_add);
        Reading {
            cpu: self.object.counters().unwrap_or_default().cpu.max(cpu),
            memory_bytes: members.iter().map(|member| member.memory).sum(),
            memory_peak_bytes: self.object.memory_peak(),
            process_memory_bytes: members.iter().map(|member| member.memory).max().unwrap_or(0),
            pids: members.len() as u64,
            // A system that counts for nobody says zero for everybody.
            io_bytes: self.object.io_bytes().or(Some(io).filter(|&bytes| bytes > 0)),
            oom_kills: self.refused.memory_refused,
            process_memory_refused: self.refused.process_memory_refused,
            pids_refused: self.refused.processes_refused,
            open_files: Some(members.iter().map(|member| member.handles).sum()),
            host: Host {
                memory: (!thresholds.host_memory.is_empty()).then(host::memory_in_use).flatten(),
                ..Host::default()
            },
            ..Reading::default()
        }
    }

    fn processes(&self, limit: usize) -> Vec<Process> {
        let members = self.members().unwrap_or_default();
        members.iter().take(limit).map(|member| member.process(self.suspended.contains_key(&member.id))).collect()
    }

    fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        self.object.set_limits(limits)?;
        self.limits = *limits;
        Ok(())
    }

    fn slow(&mut self, way: Way, to: Option<f64>) -> io::Result<()> {
        if way != Way::Cpu {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let own = self.limits.cpu_max;
        let cpu_max = to.map_or(own, |to| Some(own.map_or(to, |cores| cores.min(to))));
        self.object.set_limits(&Limits { cpu_max, ..self.limits })
    }

    /// Its messages come with those of the job itself, at every look.
    fn listen(&mut self, _thresholds: &Thresholds) {}

    fn woken(&mut self, _by: Woken) -> bool {
        false
    }

    fn unenforceable(&self, limits: &Limits, thresholds: &Thresholds) -> Option<(&'static str, &'static str)> {
        if limits.cpu_weight.is_some() && !self.object.rates.cpu {
            let reason = "this system takes no processor rates, as Wine and some terminal servers do not";
            return Some(("cpu_weight", reason));
        }
        let watched = |metric: &Metric| !thresholds.of(*metric).is_empty();
        Metric::ALL.into_iter().filter(watched).find_map(|metric| match metric {
            // Those that end between two looks take theirs with them, so a sum over processes enforces nothing.
            Metric::Io if self.object.io_bytes().is_none() => {
                Some(("io_max", "this system does not count input and output for jobs, as Wine does not"))
            }
            Metric::Swap
            | Metric::CpuThrottled
            | Metric::CpuPressure
            | Metric::MemoryPressure
            | Metric::IoPressure
            | Metric::HostCpuPressure
            | Metric::HostMemoryPressure
            | Metric::HostIoPressure => Some((metric.key(), "Windows does not count it")),
            _ => None,
        })
    }

    /// The object goes with its handles.
    fn release(&mut self) {}

    fn main_handle(&self) -> Option<BorrowedHandle<'_>> {
        self.main.as_ref().filter(|_| self.exit.is_none()).map(Held::borrowed)
    }

    fn holds(&self, pid: u32) -> bool {
        // By the job's own list: a process can keep others from opening it. Where there is none, anybody may be in it.
        self.object.processes().map_or(true, |inside| inside.contains(&pid))
    }

    fn handle(&self) -> Handle {
        Handle { main: self.main(), object: Some(self.object.handle().addr() as u64), ..Handle::default() }
    }
}

/// How a process that has ended did.
fn exit_of(ended: &Held) -> Exit {
    let mut code = 0;
    // SAFETY: the handle is open, and the place lives until the call returns.
    let told = unsafe { GetExitCodeProcess(ended.handle(), &raw mut code) } != 0;
    Exit { code: told.then_some(code.cast_signed()), signal: None }
}

fn survivor(seen: &Seen) -> Survivor {
    let process = seen.process(false);
    Survivor {
        pid: process.id.pid,
        start_time: process.id.start_time,
        command: process.command,
        state: process.state.to_string(),
        wait_channel: String::new(),
        stack: Vec::new(),
    }
}
