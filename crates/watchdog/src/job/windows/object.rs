//! A Job Object: limits, list, messages, end. See "Job Objects" in the Windows documentation.

use std::collections::HashSet;
use std::io;
use std::os::windows::io::{AsRawHandle as _, FromRawHandle as _, OwnedHandle, RawHandle};
use std::ptr::{null, null_mut};
use std::time::Duration;

use windows_sys::Win32::Foundation::{DUPLICATE_SAME_ACCESS, DuplicateHandle, ERROR_MORE_DATA, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::IO::{CreateIoCompletionPort, GetQueuedCompletionStatus};
use windows_sys::Win32::System::JobObjects::{
    AssignProcessToJobObject, CreateJobObjectW, IsProcessInJob, JOB_OBJECT_LIMIT_ACTIVE_PROCESS,
    JOB_OBJECT_LIMIT_JOB_MEMORY, JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, JOB_OBJECT_LIMIT_PROCESS_MEMORY,
    JOB_OBJECT_UILIMIT_DISPLAYSETTINGS, JOB_OBJECT_UILIMIT_EXITWINDOWS, JOB_OBJECT_UILIMIT_SYSTEMPARAMETERS,
    JOBOBJECT_ASSOCIATE_COMPLETION_PORT, JOBOBJECT_BASIC_ACCOUNTING_INFORMATION,
    JOBOBJECT_BASIC_AND_IO_ACCOUNTING_INFORMATION, JOBOBJECT_BASIC_PROCESS_ID_LIST, JOBOBJECT_BASIC_UI_RESTRICTIONS,
    JOBOBJECT_EXTENDED_LIMIT_INFORMATION, JOBOBJECTINFOCLASS, JobObjectAssociateCompletionPortInformation,
    JobObjectBasicAccountingInformation, JobObjectBasicAndIoAccountingInformation, JobObjectBasicProcessIdList,
    JobObjectBasicUIRestrictions, JobObjectExtendedLimitInformation, QueryInformationJobObject,
    SetInformationJobObject, TerminateJobObject,
};
use windows_sys::Win32::System::SystemServices::{
    JOB_OBJECT_MSG_ACTIVE_PROCESS_LIMIT, JOB_OBJECT_MSG_JOB_MEMORY_LIMIT, JOB_OBJECT_MSG_PROCESS_MEMORY_LIMIT,
};
use windows_sys::Win32::System::Threading::GetCurrentProcess;

use super::processes::Held;
use super::rates::Rates;
use crate::job::Limits;

/// The exit code of what the job's end has ended: that of `timeout(1)`.
const ENDED: u32 = 124;
/// What its processes may not do to the desktop.
const DESKTOP_RESTRICTIONS: u32 =
    JOB_OBJECT_UILIMIT_DISPLAYSETTINGS | JOB_OBJECT_UILIMIT_EXITWINDOWS | JOB_OBJECT_UILIMIT_SYSTEMPARAMETERS;

/// A job. All its processes end when the last handle to it is closed, and its guardian has the only one.
#[derive(Debug)]
pub(super) struct JobObject {
    job: OwnedHandle,
    /// Where its messages arrive; none for who looks in from outside.
    port: Option<OwnedHandle>,
    pub(super) rates: Rates,
}

/// What the job says of its processes since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Messages {
    /// How often it refused a new process because of the limit.
    pub(super) processes_refused: u64,
    /// How often it refused memory because of the limit of all.
    pub(super) memory_refused: u64,
    /// How often it refused memory because of the limit of each.
    pub(super) process_memory_refused: u64,
}

/// What the job counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counters {
    pub(super) active: u64,
    pub(super) cpu: Duration,
}

impl JobObject {
    /// Makes an empty one, with no name by which others could open it, that nothing can break away from.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn create() -> io::Result<Self> {
        // SAFETY: neither attributes nor a name are given.
        let job = owned(unsafe { CreateJobObjectW(null(), null()) })?;
        // SAFETY: a new port without a file.
        let port = owned(unsafe { CreateIoCompletionPort(INVALID_HANDLE_VALUE, null_mut(), 0, 1) })?;
        let completion = port.as_raw_handle();
        let mut object = Self { job, port: Some(port), rates: Rates::default() };
        object.set(
            JobObjectAssociateCompletionPortInformation,
            &JOBOBJECT_ASSOCIATE_COMPLETION_PORT { CompletionKey: null_mut(), CompletionPort: completion },
        )?;
        object.set_basic(&Limits::default())?;
        // A system that does not take them offers one means less; what counts is the end.
        let _ = object.restrict_desktop();
        object.try_cpu_rate();
        Ok(object)
    }

    /// What no workload needs, and everybody at the desktop would notice: logging off, other display or system settings.
    fn restrict_desktop(&self) -> io::Result<()> {
        self.set(
            JobObjectBasicUIRestrictions,
            &JOBOBJECT_BASIC_UI_RESTRICTIONS { UIRestrictionsClass: DESKTOP_RESTRICTIONS },
        )
    }

    /// The job that another process, its guardian, has under `number`.
    ///
    /// # Errors
    /// The system's answer: the guardian is out of reach, or has no such job.
    pub(super) fn of_guardian(guardian: &Held, number: u64) -> io::Result<Self> {
        let number = usize::try_from(number).map_err(io::Error::other)?;
        // SAFETY: takes nothing.
        let own = unsafe { GetCurrentProcess() };
        let mut copy = null_mut();
        let there = std::ptr::without_provenance_mut(number);
        // SAFETY: the guardian's handle is open; the other one is looked up in that process, where it may be anything.
        check(unsafe { DuplicateHandle(guardian.handle(), there, own, &raw mut copy, 0, 0, DUPLICATE_SAME_ACCESS) })?;
        let object = Self { job: owned(copy)?, port: None, rates: Rates::default() };
        // Answered by a job alone.
        object.counters()?;
        Ok(object)
    }

    /// The handle, to start a process in it.
    pub(super) fn handle(&self) -> RawHandle {
        self.job.as_raw_handle()
    }

    /// Sets what the system may enforce of `limits`, and lifts what it enforced before.
    ///
    /// # Errors
    /// If it refuses what every Windows has, or what it took when it was tried.
    pub(super) fn set_limits(&mut self, limits: &Limits) -> io::Result<()> {
        self.set_basic(limits)?;
        self.set_rates(limits)
    }

    fn set_basic(&self, limits: &Limits) -> io::Result<()> {
        self.set(JobObjectExtendedLimitInformation, &basic(limits))
    }

    /// Puts a process into it.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn assign(&self, process: RawHandle) -> io::Result<()> {
        // SAFETY: both handles are open.
        check(unsafe { AssignProcessToJobObject(self.handle(), process) })
    }

    /// Whether a process is in it. The handle must have `PROCESS_QUERY_INFORMATION`.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn holds(&self, process: RawHandle) -> io::Result<bool> {
        let mut inside = 0;
        // SAFETY: both handles are open, and the place lives until the call returns.
        check(unsafe { IsProcessInJob(process, self.handle(), &raw mut inside) })?;
        Ok(inside != 0)
    }

    /// Ends every process in it, those of nested jobs too.
    pub(super) fn terminate(&self) {
        // It fails only for a handle without the right to, which this one has.
        // SAFETY: the handle is open.
        unsafe { TerminateJobObject(self.handle(), ENDED) };
    }

    /// What it counts.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn counters(&self) -> io::Result<Counters> {
        let mut accounting = JOBOBJECT_BASIC_ACCOUNTING_INFORMATION::default();
        self.query(JobObjectBasicAccountingInformation, &mut accounting)?;
        let ticks = accounting.TotalUserTime.saturating_add(accounting.TotalKernelTime);
        Ok(Counters { active: accounting.ActiveProcesses.into(), cpu: ticks_of(ticks) })
    }

    /// Bytes read and written by all that ever were in it; `None` where the system does not count them for jobs.
    pub(super) fn io_bytes(&self) -> Option<u64> {
        let mut accounting = JOBOBJECT_BASIC_AND_IO_ACCOUNTING_INFORMATION::default();
        self.query(JobObjectBasicAndIoAccountingInformation, &mut accounting).ok()?;
        Some(accounting.IoInfo.ReadTransferCount.saturating_add(accounting.IoInfo.WriteTransferCount))
    }

    /// The most memory that its processes ever were promised together, in bytes; 0 where the system does not tell.
    pub(super) fn memory_peak(&self) -> u64 {
        let mut extended = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
        let told = self.query(JobObjectExtendedLimitInformation, &mut extended).is_ok();
        if told { extended.PeakJobMemoryUsed as u64 } else { 0 }
    }

    /// The processes in it and in jobs nested in it, however many.
    ///
    /// # Errors
    /// The system's answer.
    pub(super) fn processes(&self) -> io::Result<HashSet<u32>> {
        /// The two counters in front of the list, in units of a process ID.
        const HEAD: usize = size_of::<JOBOBJECT_BASIC_PROCESS_ID_LIST>() / size_of::<usize>() - 1;
        let mut room = 64;
        loop {
            // Aligned as the structure is, whose last field is the list.
            let mut buffer = vec![0_usize; HEAD + room];
            let bytes = u32::try_from(buffer.len() * size_of::<usize>()).unwrap_or(u32::MAX);
            // SAFETY: the buffer has the length that is given, and lives until the call returns.
            let answered = check(unsafe {
                QueryInformationJobObject(
                    self.handle(),
                    JobObjectBasicProcessIdList,
                    buffer.as_mut_ptr().cast(),
                    bytes,
                    null_mut(),
                )
            });
            match answered {
                Err(error) if error.raw_os_error() == Some(ERROR_MORE_DATA.cast_signed()) => room *= 2,
                Err(error) => return Err(error),
                Ok(()) => {
                    // SAFETY: the buffer begins with the structure, is aligned for it, and the call has filled it.
                    let listed = unsafe {
                        (*buffer.as_ptr().cast::<JOBOBJECT_BASIC_PROCESS_ID_LIST>()).NumberOfProcessIdsInList
                    };
                    let list = buffer[HEAD..].iter().take(listed as usize);
                    return Ok(list.filter_map(|&pid| u32::try_from(pid).ok()).filter(|&pid| pid != 0).collect());
                }
            }
        }
    }

    /// Waits at most `wait` for the next message. What it said, together with all that was waiting; `None` if it said nothing.
    pub(super) fn wait(&self, wait: Duration) -> Option<Messages> {
        let Some(port) = &self.port else {
            std::thread::sleep(wait);
            return None;
        };
        let mut said = None;
        let mut wait = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX - 1);
        loop {
            let (mut message, mut key, mut overlapped) = (0, 0, null_mut());
            // SAFETY: the port is open, and the three places live until the call returns.
            let got = check(unsafe {
                GetQueuedCompletionStatus(
                    port.as_raw_handle(),
                    &raw mut message,
                    &raw mut key,
                    &raw mut overlapped,
                    wait,
                )
            });
            match got {
                // The time is over.
                Err(_) => return said,
                Ok(()) => {
                    let said = said.get_or_insert_with(Messages::default);
                    match message {
                        JOB_OBJECT_MSG_ACTIVE_PROCESS_LIMIT => said.processes_refused += 1,
                        JOB_OBJECT_MSG_JOB_MEMORY_LIMIT => said.memory_refused += 1,
                        JOB_OBJECT_MSG_PROCESS_MEMORY_LIMIT => said.process_memory_refused += 1,
                        _ => {}
                    }
                    wait = 0;
                }
            }
        }
    }

    pub(super) fn set<T>(&self, class: JOBOBJECTINFOCLASS, information: &T) -> io::Result<()> {
        let length = u32::try_from(size_of::<T>()).unwrap_or(0);
        // SAFETY: the structure is the class's own, has the length that is given, and lives until the call returns.
        check(unsafe { SetInformationJobObject(self.handle(), class, (&raw const *information).cast(), length) })
    }

    pub(super) fn query<T>(&self, class: JOBOBJECTINFOCLASS, information: &mut T) -> io::Result<()> {
        let length = u32::try_from(size_of::<T>()).unwrap_or(0);
        // SAFETY: the structure is the class's own, has the length that is given, and lives until the call returns.
        check(unsafe {
            QueryInformationJobObject(self.handle(), class, (&raw mut *information).cast(), length, null_mut())
        })
    }
}

/// Kill on close, always; memory and processes where they are limited. No flag lets a process break away.
fn basic(limits: &Limits) -> JOBOBJECT_EXTENDED_LIMIT_INFORMATION {
    let mut extended = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
    let basic = &mut extended.BasicLimitInformation;
    basic.LimitFlags = JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE;
    if let Some(most) = limits.pids_max {
        basic.LimitFlags |= JOB_OBJECT_LIMIT_ACTIVE_PROCESS;
        basic.ActiveProcessLimit = u32::try_from(most).unwrap_or(u32::MAX);
    }
    if let Some(bytes) = limits.memory_max {
        basic.LimitFlags |= JOB_OBJECT_LIMIT_JOB_MEMORY;
        extended.JobMemoryLimit = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    if let Some(bytes) = limits.process_memory_max {
        basic.LimitFlags |= JOB_OBJECT_LIMIT_PROCESS_MEMORY;
        extended.ProcessMemoryLimit = usize::try_from(bytes).unwrap_or(usize::MAX);
    }
    extended
}

/// A time in the system's unit of 100 nanoseconds.
pub(super) fn ticks_of(ticks: i64) -> Duration {
    Duration::from_nanos(u64::try_from(ticks).unwrap_or(0).saturating_mul(100))
}

/// Takes a handle that a call has just made.
pub(crate) fn owned(handle: RawHandle) -> io::Result<OwnedHandle> {
    if handle.is_null() || handle == INVALID_HANDLE_VALUE {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the call has just made it for us alone.
    Ok(unsafe { OwnedHandle::from_raw_handle(handle) })
}

/// What a call answered that returns zero if it failed.
pub(crate) fn check(answer: i32) -> io::Result<()> {
    if answer == 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::windows::is_wine;

    /// Wine takes them, and does not tell them back.
    #[test]
    fn the_desktop_is_restricted_not_enforced_under_wine() {
        let object = JobObject::create().unwrap();
        object.restrict_desktop().unwrap();
        let mut told = JOBOBJECT_BASIC_UI_RESTRICTIONS::default();
        if !is_wine() {
            object.query(JobObjectBasicUIRestrictions, &mut told).unwrap();
            assert_eq!(told.UIRestrictionsClass, DESKTOP_RESTRICTIONS);
        }
    }

    /// Wine takes them, and tells back that there are none.
    #[test]
    fn each_limit_has_its_flag_and_its_place_not_enforced_under_wine() {
        let limits = Limits {
            memory_max: Some(256 << 20),
            pids_max: Some(8),
            process_memory_max: Some(64 << 20),
            ..Limits::default()
        };
        let mut object = JobObject::create().unwrap();
        for limits in [limits, Limits { memory_max: None, ..limits }, Limits::default()] {
            let given = basic(&limits);
            let flags = [
                (JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE, true),
                (JOB_OBJECT_LIMIT_JOB_MEMORY, limits.memory_max.is_some()),
                (JOB_OBJECT_LIMIT_ACTIVE_PROCESS, limits.pids_max.is_some()),
                (JOB_OBJECT_LIMIT_PROCESS_MEMORY, limits.process_memory_max.is_some()),
            ];
            let wanted = flags.into_iter().filter(|(_, set)| *set).fold(0, |all, (flag, _)| all | flag);
            assert_eq!(given.BasicLimitInformation.LimitFlags, wanted);
            object.set_limits(&limits).unwrap();
            let mut told = JOBOBJECT_EXTENDED_LIMIT_INFORMATION::default();
            object.query(JobObjectExtendedLimitInformation, &mut told).unwrap();
            let places =
                |it: &JOBOBJECT_EXTENDED_LIMIT_INFORMATION| (it.JobMemoryLimit as u64, it.ProcessMemoryLimit as u64);
            assert_eq!(places(&given), (limits.memory_max.unwrap_or(0), limits.process_memory_max.unwrap_or(0)));
            if !is_wine() {
                assert_eq!((told.BasicLimitInformation.LimitFlags, places(&told)), (wanted, places(&given)));
            }
        }
    }

    /// Wine counts no input and output for jobs, and no peak.
    #[test]
    fn what_a_job_has_used_is_told_not_by_wine() {
        let object = JobObject::create().unwrap();
        assert_eq!(object.io_bytes(), if is_wine() { None } else { Some(0) });
        assert_eq!(object.memory_peak(), 0, "nobody was in it");
    }
}
