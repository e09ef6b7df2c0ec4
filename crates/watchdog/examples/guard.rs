//! Guards one command with nothing but this library: `cargo run -p estop-watchdog --example guard -- sh -c 'sleep 100'`.
//!
//! It gives the command three seconds, then stops its whole process tree and shows the proof.

use std::path::Path;
use std::time::Duration;

use estop_watchdog::guardian::{self, Evidence, GuardianSpec, OnBrainLoss, Recorder, StopStep, Streams};
use estop_watchdog::job::{Bytes, Containment, JobSpec, Limits, Program};

/// Keeps no evidence.
struct Nowhere;

impl Recorder for Nowhere {
    fn record(&self, _state_dir: &Path, _evidence: &Evidence) {}
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The guardian is this same executable: when it is started as one, this call does not return.
    guardian::enter(&Nowhere);

    let dir = tempfile::tempdir()?;
    let argv: Vec<Bytes> = std::env::args_os().skip(1).map(Bytes::from).collect();
    let environment = std::env::vars_os().map(|(name, value)| (name.into(), value.into())).collect();
    let job = JobSpec {
        name: "example".to_owned(),
        id: uuid::Uuid::now_v7().to_string(),
        instance: format!("example-{}", std::process::id()),
        program: Program { argv, environment, process_group: Some(group()), ..Program::default() },
        limits: Limits { time_max: Some(Duration::from_secs(3)), ..Limits::default() },
        together: None,
        containment: Containment { cover: vec![dir.path().to_owned()], ..Containment::default() },
        output_counted: false,
        secrets_dir: None,
    };
    let incident = uuid::Uuid::now_v7().to_string();
    let spec = GuardianSpec {
        stop: vec![StopStep::plain(Duration::from_secs(1))],
        on_brain_loss: OnBrainLoss::Stop,
        ..GuardianSpec::new(job, dir.path().join("run"), dir.path().join("state"), incident)
    };
    let mut guardian = guardian::start(&spec, Streams::default())?;
    guardian.process.wait()?;
    println!("{:#?}", guardian.dir.outcome()?);
    Ok(())
}

/// The process group of this program, whose terminal the command is to share.
#[cfg(unix)]
fn group() -> u32 {
    estop_watchdog::job::linux::own_process_group().as_raw_nonzero().get().cast_unsigned()
}

/// On Windows any will do: the command then shares this program's console.
#[cfg(windows)]
fn group() -> u32 {
    0
}
