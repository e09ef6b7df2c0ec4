//! How soon pressure is acted on, once the kernel has told of it. When it does that is measured beside it.

use std::time::{Duration, Instant, SystemTime};

use super::limits::{AIM, INTERVAL, PATIENCE, acted, delay_of, unexpected};
use super::tree::bounded;
use super::{Interrupt, Measurement, Tree, Unit, middle};
use crate::config::Percent;
use crate::failure::{Failure, Result};
use crate::platform::commands::crowd;
use crate::platform::pressure::{Heard, Question};
use crate::site::Site;

/// Of how much pressure the kernel is to tell. What is made here is a multiple.
const SHARE: &str = "5%";
/// How many processes more than processors there are.
const MORE: u64 = 2;
/// How long the kernel is waited for at a time.
const STEP: Duration = Duration::from_millis(100);
/// How a failure is called that a limit was given which nobody can keep here.
const UNENFORCEABLE: &str = "unenforceable";

/// One round: when the kernel told of the pressure, after it began, and when the guardian acted, after that.
struct Round {
    told: f64,
    acted: f64,
}

/// The guardian's delay, and the kernel's.
pub(super) fn measure(site: &Site, rounds: u32, interrupt: &Interrupt) -> Result<[Measurement; 2]> {
    let (mut told, mut delays) = (Vec::new(), Vec::new());
    let mut why = "there is no program for it here".to_owned();
    for number in 0..rounds {
        match round(site, number, interrupt)? {
            Ok(round) => {
                told.push(round.told);
                delays.push(round.acted);
            }
            Err(reason) => why = reason,
        }
    }
    let kernel = middle("kernel_pressure".to_owned(), Unit::Seconds, told, Some(&why)).with(
        "from the beginning of the pressure until the kernel tells of it, by a window of 4 s: none is acted on sooner",
    );
    let guardian = middle(delay_of("pressure"), Unit::Seconds, delays, Some(&why))
        .below(AIM)
        .with("after the kernel had told of it, as seen from outside by the same question");
    Ok([kernel, guardian])
}

/// One round; or why there was nothing to measure.
fn round(site: &Site, number: u32, interrupt: &Interrupt) -> Result<std::result::Result<Round, String>> {
    let name = format!("pressure-{number}");
    let file = |ending: &str| site.state_dir.with_file_name(format!("{name}.{ending}"));
    let (sign, go) = (file("ready"), file("go"));
    let share: Percent =
        SHARE.parse().map_err(|_| Failure::failed("a share is not understood", "this is an error in estop"))?;
    let processes = std::thread::available_parallelism().map_or(1, |number| number.get() as u64) + MORE;
    let Some(command) = crowd(processes, &sign, &go)? else {
        return Ok(Err("there is no program for it here".to_owned()));
    };
    let mut workload = bounded(command, processes);
    workload.limits.cpu_pressure.stop = Some(share.into());
    let tree = match Tree::start(site, name, &workload, INTERVAL, Some(&sign), interrupt) {
        Err(failure) if failure.kind == UNENFORCEABLE => return Ok(Err(failure.message)),
        started => started?,
    };
    let question = match tree.handle()?.map(|handle| Question::of_processors(&handle, share.share())) {
        Some(Ok(question)) => question,
        Some(Err(reason)) => return Ok(Err(reason)),
        None => return Ok(Err("its job had ended before it could be looked at".to_owned())),
    };
    let begun = SystemTime::now();
    std::fs::write(&go, "").map_err(|error| Failure::failed(format!("cannot write {}: {error}", go.display()), ""))?;
    let told = answer(&question, interrupt)?;
    let outcome = tree.end_of_itself(PATIENCE, interrupt)?;
    let acted = acted(&outcome).ok_or_else(|| unexpected("pressure", &outcome))?;
    let Some(told) = told else {
        return Ok(Err("its job had ended before the kernel's word was heard here".to_owned()));
    };
    let after = told.duration_since(begun).unwrap_or_default().as_secs_f64();
    let delay = jiff::Timestamp::try_from(told).map(|told| acted.duration_since(told).as_secs_f64());
    // The kernel wakes both at once, and the guardian may be the first.
    Ok(delay.map(|delay| Round { told: after, acted: delay.max(0.0) }).map_err(|error| error.to_string()))
}

/// When the kernel answered; `None` if there was no job any more of which it could.
fn answer(question: &Question, interrupt: &Interrupt) -> Result<Option<SystemTime>> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        interrupt.check()?;
        match question.wait(STEP) {
            Heard::Nothing => {}
            Heard::Reached(at) => return Ok(Some(at)),
            Heard::Gone => break,
        }
    }
    Ok(None)
}
