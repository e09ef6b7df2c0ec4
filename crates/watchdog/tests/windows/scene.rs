//! A folder, a job in it, and a look at what lives that asks nobody but the system.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use estop_watchdog::JobObjectManager;
use estop_watchdog::job::{Containment, JobSpec, Limits, Program};
use estop_watchdog::ladder::Thresholds;
use estop_watchdog::stop::{Category, StopReport};
use windows_sys::Win32::Foundation::{CloseHandle, INVALID_HANDLE_VALUE};
use windows_sys::Win32::System::Diagnostics::ToolHelp::{
    CreateToolhelp32Snapshot, PROCESSENTRY32W, Process32FirstW, Process32NextW, TH32CS_SNAPPROCESS,
};
use windows_sys::Win32::System::Threading::{OpenProcess, PROCESS_TERMINATE, TerminateProcess};

/// Which habit a villain has.
pub(super) const HABIT: &str = "SCENE_HABIT";
/// Where villains leave word.
pub(super) const CANARY: &str = "SCENE_CANARY";
/// How long anything may take on a busy machine. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// A folder of a test's own, and a program in it by whose name all that the test started is found.
pub(super) struct Scene {
    dir: tempfile::TempDir,
    program: PathBuf,
}

impl Scene {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join(format!("v{}.exe", uuid::Uuid::now_v7().simple()));
        std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
        Self { dir, program }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// A job, not yet started, for a villain with `habit`.
    pub(super) fn job(&self, habit: &str, limits: Limits) -> JobObjectManager {
        JobObjectManager::create(self.spec(habit, limits), Thresholds::default()).unwrap()
    }

    /// What a job for a villain with `habit` is made from.
    pub(super) fn spec(&self, habit: &str, limits: Limits) -> JobSpec {
        let mut environment: Vec<_> = std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect();
        environment.push((HABIT.to_owned().into(), habit.to_owned().into()));
        environment.push((CANARY.to_owned().into(), self.dir.path().into()));
        let words = ["--exact", "windows::villain::villain", "--nocapture"];
        JobSpec {
            name: "w".to_owned(),
            id: uuid::Uuid::now_v7().to_string(),
            instance: "test".to_owned(),
            program: Program {
                argv: std::iter::once(self.program.clone().into())
                    .chain(words.map(|word| word.to_owned().into()))
                    .collect(),
                environment,
                directory: Some(self.dir.path().to_owned()),
                ..Program::default()
            },
            limits,
            together: None,
            containment: Containment::default(),
            output_counted: false,
            secrets_dir: None,
        }
    }

    /// As [`Scene::job`], running, once the villain has said that it is ready.
    pub(super) fn running(&self, habit: &str) -> JobObjectManager {
        let mut job = self.job(habit, Limits::default());
        job.spawn().unwrap();
        until("it is ready", || self.path("ready").exists());
        job
    }

    /// All that this test started and that is alive, as the system lists it.
    pub(super) fn alive(&self) -> Vec<u32> {
        let name = self.program.file_name().unwrap().to_str().unwrap();
        processes().into_iter().filter(|(_, other)| other.eq_ignore_ascii_case(name)).map(|(pid, _)| pid).collect()
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            let alive = self.alive();
            if alive.is_empty() {
                return;
            }
            for pid in alive {
                // SAFETY: takes three numbers.
                let process = unsafe { OpenProcess(PROCESS_TERMINATE, 0, pid) };
                // SAFETY: a handle that could not be had is refused.
                unsafe { TerminateProcess(process, 1) };
                // SAFETY: as above.
                unsafe { CloseHandle(process) };
            }
        }
    }
}

/// The processes of the job, without those by which the system gives programs a console.
pub(super) fn own(job: &JobObjectManager) -> Vec<u32> {
    let listed = job.processes(1000).into_iter().filter(|process| !process.command.eq_ignore_ascii_case("conhost.exe"));
    let mut own: Vec<u32> = listed.map(|process| process.id.pid).collect();
    own.sort_unstable();
    own
}

/// Ends the job and expects the proof, and that nothing lives at the moment of the answer.
#[track_caller]
pub(super) fn expect_proven(scene: &Scene, job: &mut JobObjectManager) -> StopReport {
    let report = job.stop(Category::Kill, Duration::from_secs(5), Some(|_: &mut JobObjectManager| {}));
    let left = scene.alive();
    assert!(report.proven_empty && report.survivors.is_empty(), "{report:#?}");
    assert!(left.is_empty(), "it is called empty, and alive: {left:?}");
    assert!(!report.proof.is_empty());
    report
}

/// Waits until `condition` holds.
#[track_caller]
pub(super) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < PATIENCE, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn processes() -> Vec<(u32, String)> {
    // SAFETY: takes two numbers.
    let snapshot = unsafe { CreateToolhelp32Snapshot(TH32CS_SNAPPROCESS, 0) };
    assert!(snapshot != INVALID_HANDLE_VALUE);
    let mut entry = PROCESSENTRY32W { dwSize: size_of::<PROCESSENTRY32W>() as u32, ..Default::default() };
    let mut found = Vec::new();
    // SAFETY: the handle is open, and the place lives until the call returns.
    let mut more = unsafe { Process32FirstW(snapshot, &raw mut entry) };
    while more != 0 {
        let end = entry.szExeFile.iter().position(|&unit| unit == 0).unwrap_or(entry.szExeFile.len());
        found.push((entry.th32ProcessID, String::from_utf16_lossy(&entry.szExeFile[..end])));
        // SAFETY: as above.
        more = unsafe { Process32NextW(snapshot, &raw mut entry) };
    }
    // SAFETY: it is closed once.
    unsafe { CloseHandle(snapshot) };
    found
}
