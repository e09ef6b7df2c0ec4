//! Ctrl-C ends the measuring between two of its parts, so that everything it made is taken away.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::flag;

use crate::failure::{Failure, Result};
use crate::platform::ending::SIGNALS;

/// Whether somebody wants it to end.
#[derive(Clone, Debug)]
pub(super) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from now on. A second signal ends the process as ever.
    pub(super) fn listen() -> Result<Self> {
        let wanted = Arc::new(AtomicBool::new(false));
        for signal in SIGNALS {
            let listening = flag::register_conditional_default(signal, Arc::clone(&wanted))
                .and_then(|_| flag::register(signal, Arc::clone(&wanted)));
            listening.map_err(|error| Failure::failed(format!("cannot listen for signals: {error}"), ""))?;
        }
        Ok(Self(wanted))
    }

    /// Fails if it is to end.
    pub(super) fn check(&self) -> Result<()> {
        if self.0.load(Ordering::Relaxed) {
            return Err(Failure::failed("interrupted; what was made for the measurements is taken away", ""));
        }
        Ok(())
    }
}
