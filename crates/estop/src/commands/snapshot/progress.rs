//! How far a long operation is, for a person at a terminal.

use std::io::IsTerminal as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use estop_integrity::progress::{Phase, Progress};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::SigId;
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::cli::Output;

/// What is over sooner needs no bar.
const PATIENCE: Duration = Duration::from_secs(1);

/// A bar on standard error, if somebody sits there and it takes long.
pub(in crate::commands) struct Bars<'a> {
    shown: bool,
    started: Instant,
    bar: Mutex<Option<(Phase, ProgressBar)>>,
    steadfast: Option<&'a Steadfast>,
}

impl<'a> Bars<'a> {
    pub(in crate::commands) fn new(output: &Output) -> Self {
        let shown = !output.json && !output.quiet && std::io::stderr().is_terminal();
        Self { shown, started: Instant::now(), bar: Mutex::new(None), steadfast: None }
    }

    /// Answers a Ctrl-C that `steadfast` held back.
    pub(in crate::commands) fn answering(mut self, steadfast: &'a Steadfast) -> Self {
        self.steadfast = Some(steadfast);
        self
    }
}

impl Progress for Bars<'_> {
    fn report(&self, phase: Phase, done: u64, total: u64) {
        if !self.shown || self.started.elapsed() < PATIENCE {
            return;
        }
        let mut bar = self.bar.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = &*bar
            && self.steadfast.is_some_and(Steadfast::to_answer)
        {
            bar.println(
                "this is finished first; a second Ctrl-C breaks it off, and the next opening of the store ends it",
            );
        }
        match &*bar {
            Some((known, bar)) if *known == phase => {
                bar.set_length(total);
                bar.set_position(done);
            }
            _ => {
                if let Some((_, old)) = bar.replace((phase, new_bar(phase, total))) {
                    old.finish_and_clear();
                }
            }
        }
    }
}

impl Drop for Bars<'_> {
    fn drop(&mut self) {
        let bar = self.bar.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, bar)) = bar.take() {
            bar.finish_and_clear();
        }
    }
}

fn new_bar(phase: Phase, total: u64) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
    if let Ok(style) = ProgressStyle::with_template("{msg:9} [{bar:40}] {pos}/{len} {eta}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.with_message(match phase {
        Phase::Reading => "reading",
        Phase::Staging => "preparing",
        Phase::Applying => "applying",
        Phase::Checking => "checking",
        _ => "working",
    })
}

/// While this lives, a first Ctrl-C (or SIGTERM) does not end the process; a second one does. For work that is better finished than
/// broken off, although breaking it off harms nothing: the next opening of the store ends it.
pub(in crate::commands) struct Steadfast {
    pressed: Arc<AtomicBool>,
    answered: AtomicBool,
    registered: Vec<SigId>,
}

impl Steadfast {
    pub(in crate::commands) fn begin() -> Self {
        let pressed = Arc::new(AtomicBool::new(false));
        let mut registered = Vec::new();
        for signal in [SIGINT, SIGTERM] {
            // In this order: the first signal finds the flag unset and sets it.
            let shutdown = signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&pressed));
            registered.extend(shutdown);
            registered.extend(signal_hook::flag::register(signal, Arc::clone(&pressed)));
        }
        Self { pressed, answered: AtomicBool::new(false), registered }
    }

    /// Whether somebody wanted to end it and was not told yet why it goes on. True once.
    fn to_answer(&self) -> bool {
        self.pressed.load(Ordering::Relaxed) && !self.answered.swap(true, Ordering::Relaxed)
    }
}

impl Drop for Steadfast {
    fn drop(&mut self) {
        for id in self.registered.drain(..) {
            signal_hook::low_level::unregister(id);
        }
    }
}
