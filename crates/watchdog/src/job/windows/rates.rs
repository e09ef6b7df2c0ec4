//! The rates of a job: of the processors, and of input and output. Not every system takes them. See
//! "JOBOBJECT_CPU_RATE_CONTROL_INFORMATION" and "SetIoRateControlInformationJobObject" in the Windows documentation.

use std::io;

use windows_sys::Wdk::System::SystemServices::RtlGetVersion;
use windows_sys::Win32::Foundation::{ERROR_PROC_NOT_FOUND, HANDLE};
use windows_sys::Win32::System::JobObjects::{
    JOB_OBJECT_CPU_RATE_CONTROL_ENABLE, JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP, JOB_OBJECT_CPU_RATE_CONTROL_WEIGHT_BASED,
    JOB_OBJECT_IO_RATE_CONTROL_ENABLE, JOBOBJECT_CPU_RATE_CONTROL_INFORMATION, JOBOBJECT_IO_RATE_CONTROL_INFORMATION,
    JobObjectCpuRateControlInformation,
};
use windows_sys::Win32::System::LibraryLoader::{GetModuleHandleW, GetProcAddress};
use windows_sys::Win32::System::SystemInformation::OSVERSIONINFOW;

use super::object::{JobObject, check};
use super::spawn::wide;
use crate::job::{CPU_WEIGHT_DEFAULT, Limits};

/// The full rate of all processors, in hundredths of a percent.
const FULL_RATE: f64 = 10_000.0;
/// The weight of a job that is given none, on the system's scale of 1 to 9.
const WEIGHT_DEFAULT: f64 = 5.0;
/// Windows 10 1607, from which on I/O rates are "no longer supported", whatever the call answers.
const BUILD_WITHOUT_IO_RATES: u32 = 14_393;

/// What the system has taken of a job's rates.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Rates {
    /// Whether it takes processor rates at all.
    pub(super) cpu: bool,
    /// Whether it took the I/O rate, and is one that keeps it.
    pub(super) io: bool,
    cpu_set: bool,
    io_set: bool,
}

impl JobObject {
    /// Tries whether the system takes processor rates, by one that limits nothing.
    pub(super) fn try_cpu_rate(&mut self) {
        let unlimited = Limits { cpu_max: Some(f64::INFINITY), ..Limits::default() };
        self.rates.cpu = self.set(JobObjectCpuRateControlInformation, &cpu_control(&unlimited)).is_ok();
        // One that stays limits nothing.
        let _ = self.set(JobObjectCpuRateControlInformation, &cpu_control(&Limits::default()));
    }

    /// Sets the rates of `limits`, as far as the system takes any, and lifts those from before.
    ///
    /// # Errors
    /// If it refuses one that it should take, or does not lift one.
    pub(super) fn set_rates(&mut self, limits: &Limits) -> io::Result<()> {
        let wanted = limits.cpu_max.is_some() || limits.cpu_weight.is_some();
        if self.rates.cpu && (wanted || self.rates.cpu_set) {
            self.set(JobObjectCpuRateControlInformation, &cpu_control(limits))?;
            self.rates.cpu_set = wanted;
        }
        match limits.io_max {
            Some(_) => {
                self.rates.io_set = self.set_io_rate(limits).is_ok();
                self.rates.io = self.rates.io_set && build() < BUILD_WITHOUT_IO_RATES;
            }
            None if self.rates.io_set => {
                self.set_io_rate(limits)?;
                (self.rates.io_set, self.rates.io) = (false, false);
            }
            None => {}
        }
        Ok(())
    }

    fn set_io_rate(&self, limits: &Limits) -> io::Result<()> {
        let set = io_rate_call().ok_or_else(|| io::Error::from_raw_os_error(ERROR_PROC_NOT_FOUND.cast_signed()))?;
        let control = io_control(limits);
        // SAFETY: the handle is open, and the structure lives until the call returns. It names no volume, which is all of them.
        check(unsafe { set(self.handle(), &raw const control) }.cast_signed())
    }
}

/// How the system is to give the processors. A job has either a cap or a weight: the cap, which is a limit, goes first.
fn cpu_control(limits: &Limits) -> JOBOBJECT_CPU_RATE_CONTROL_INFORMATION {
    let mut control = JOBOBJECT_CPU_RATE_CONTROL_INFORMATION::default();
    match (limits.cpu_max, limits.cpu_weight) {
        (Some(cores), _) => {
            control.ControlFlags = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP;
            control.Anonymous.CpuRate = rate_of(cores);
        }
        (None, Some(weight)) => {
            control.ControlFlags = JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_WEIGHT_BASED;
            control.Anonymous.Weight = weight_of(weight);
        }
        (None, None) => {}
    }
    control
}

/// Cores as the share of all processors that the system counts in.
fn rate_of(cores: f64) -> u32 {
    #[expect(clippy::cast_precision_loss, reason = "the number of processors")]
    let all = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as f64;
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and the full rate")]
    let rate = (cores / all * FULL_RATE).clamp(1.0, FULL_RATE) as u32;
    rate
}

/// A weight of 1 to 10000 as the system's 1 to 9. The default is the default and the ends are the ends: two steps for each
/// tenfold, so the order of jobs is kept and their proportion is not.
fn weight_of(weight: u32) -> u32 {
    let tenfolds = (f64::from(weight) / f64::from(CPU_WEIGHT_DEFAULT)).log10();
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 1 and 9")]
    let weight = (WEIGHT_DEFAULT + 2.0 * tenfolds).round().clamp(1.0, 9.0) as u32;
    weight
}

fn io_control(limits: &Limits) -> JOBOBJECT_IO_RATE_CONTROL_INFORMATION {
    JOBOBJECT_IO_RATE_CONTROL_INFORMATION {
        MaxBandwidth: limits.io_max.map_or(0, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
        ControlFlags: if limits.io_max.is_some() { JOB_OBJECT_IO_RATE_CONTROL_ENABLE.cast_unsigned() } else { 0 },
        ..Default::default()
    }
}

/// `SetIoRateControlInformationJobObject`.
type SetIoRate = unsafe extern "system" fn(HANDLE, *const JOBOBJECT_IO_RATE_CONTROL_INFORMATION) -> u32;

/// The call that limits I/O; `None` where the system has none: a program that is linked against it would not start there.
fn io_rate_call() -> Option<SetIoRate> {
    let library = wide("kernel32.dll");
    // SAFETY: the name ends with a zero and lives until the call returns.
    let library = unsafe { GetModuleHandleW(library.as_ptr()) };
    // SAFETY: the name ends with a zero. A library that is not there has no such call; this one every process has to its end.
    let found = unsafe { GetProcAddress(library, c"SetIoRateControlInformationJobObject".as_ptr().cast()) }?;
    // SAFETY: the call of that name is documented with these arguments and this answer.
    Some(unsafe { std::mem::transmute::<unsafe extern "system" fn() -> isize, SetIoRate>(found) })
}

/// The system's build.
fn build() -> u32 {
    let mut version = OSVERSIONINFOW {
        dwOSVersionInfoSize: u32::try_from(size_of::<OSVERSIONINFOW>()).unwrap_or(0),
        ..Default::default()
    };
    // SAFETY: the structure has the size that it says, and lives until the call returns.
    unsafe { RtlGetVersion(&raw mut version) };
    version.dwBuildNumber
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::job::windows::is_wine;

    #[test]
    fn weights_keep_their_order_on_the_narrower_scale() {
        assert_eq!([1, 10, 100, 1000, 10_000].map(weight_of), [1, 3, 5, 7, 9]);
        assert_eq!([50, 200, u32::MAX].map(weight_of), [4, 6, 9]);
        assert!((1..10_000).map(weight_of).is_sorted());
    }

    /// What the system is told: Wine refuses it unseen.
    #[test]
    fn a_processor_rate_is_a_cap_or_a_weight_not_enforced_under_wine() {
        let limits = |cpu_max, cpu_weight| Limits { cpu_max, cpu_weight, ..Limits::default() };
        let weighted = cpu_control(&limits(None, Some(1000)));
        assert_eq!(
            weighted.ControlFlags,
            JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_WEIGHT_BASED
        );
        // SAFETY: the flags say that it is the weight; both are numbers.
        assert_eq!(unsafe { weighted.Anonymous.Weight }, 7);
        let capped = cpu_control(&limits(Some(f64::INFINITY), Some(1000)));
        assert_eq!(capped.ControlFlags, JOB_OBJECT_CPU_RATE_CONTROL_ENABLE | JOB_OBJECT_CPU_RATE_CONTROL_HARD_CAP);
        // SAFETY: the flags say that it is the rate; both are numbers.
        assert_eq!(unsafe { capped.Anonymous.CpuRate }, 10_000);

        let mut object = JobObject::create().unwrap();
        assert_eq!(object.rates.cpu, !is_wine());
        for limits in [limits(None, Some(1000)), limits(Some(0.5), Some(1000)), limits(None, None), limits(None, None)]
        {
            object.set_limits(&limits).unwrap();
            let mut told = JOBOBJECT_CPU_RATE_CONTROL_INFORMATION::default();
            if !is_wine() {
                object.query(JobObjectCpuRateControlInformation, &mut told).unwrap();
                assert_eq!(told.ControlFlags, cpu_control(&limits).ControlFlags);
            }
        }
    }

    /// A program that is linked against the call would not come to this.
    #[test]
    fn an_io_rate_is_asked_for_where_the_system_has_one_not_enforced_under_wine() {
        let limited = Limits { io_max: Some(5 << 20), ..Limits::default() };
        let control = io_control(&limited);
        assert_eq!((control.MaxBandwidth, control.ControlFlags, control.VolumeName.is_null()), (5 << 20, 1, true));
        assert_eq!((control.MaxIops, control.ReservationIops), (0, 0));
        assert_eq!(io_control(&Limits::default()).ControlFlags, 0);
        assert_eq!(io_control(&Limits { io_max: Some(u64::MAX), ..limited }).MaxBandwidth, i64::MAX);

        let mut object = JobObject::create().unwrap();
        object.set_limits(&limited).unwrap();
        assert!(!object.rates.io || build() < BUILD_WITHOUT_IO_RATES, "more is claimed than Microsoft promises");
        assert!(io_rate_call().is_some() || !object.rates.io_set);
        object.set_limits(&Limits::default()).unwrap();
        assert!(!object.rates.io && !object.rates.io_set);
    }
}
