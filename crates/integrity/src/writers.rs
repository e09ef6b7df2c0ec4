//! Who writes to a store, seen from the store: what it needs of whoever runs programs.

use std::fmt;

use serde::Serialize;

/// A program that can write to a store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Writer {
    /// Its name, as its keeper calls it.
    pub name: String,
    /// It was stopped, but its stop is not proven: something of it may still run.
    pub stop_unproven: bool,
}

impl Writer {
    pub(crate) fn join(writers: &[Self]) -> String {
        let parts: Vec<_> = writers.iter().map(ToString::to_string).collect();
        parts.join(", ")
    }
}

impl fmt::Display for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let note = if self.stop_unproven { " (its stop is not proven)" } else { "" };
        write!(f, "{}{note}", self.name)
    }
}

/// What makes writers stand still, until it is dropped.
pub trait Hold: Send {
    /// Whether every one of them has stood still from the first moment until now.
    ///
    /// # Errors
    /// Who may have run meanwhile, for a person.
    fn has_held(&mut self) -> std::result::Result<(), String>;
}

/// Nobody is held; or somebody who has no way to run.
impl Hold for () {
    fn has_held(&mut self) -> std::result::Result<(), String> {
        Ok(())
    }
}

/// Writers that stand still until this is dropped.
pub struct Frozen {
    names: Vec<String>,
    hold: Box<dyn Hold>,
}

impl Frozen {
    /// `names` stand still until `hold` is dropped.
    pub fn new(names: Vec<String>, hold: impl Hold + 'static) -> Self {
        Self { names, hold: Box::new(hold) }
    }

    /// There was nobody to freeze.
    pub fn nobody() -> Self {
        Self::new(Vec::new(), ())
    }

    /// Whether they have stood still until now.
    ///
    /// # Errors
    /// As [`Hold::has_held`].
    pub fn has_held(&mut self) -> std::result::Result<(), String> {
        self.hold.has_held()
    }

    /// Who stands still.
    pub fn names(&self) -> &[String] {
        &self.names
    }
}

impl fmt::Debug for Frozen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Frozen").field("names", &self.names).finish_non_exhaustive()
    }
}

/// What a store must know about the programs that write to it. The program that runs them implements it.
pub trait Writers: Send + Sync {
    /// Makes every writer stand still until the result is dropped.
    ///
    /// # Errors
    /// Why they could not be frozen, for a person. All of them go on running then.
    fn freeze(&self) -> std::result::Result<Frozen, String>;

    /// Every writer that is alive, or whose stop is not proven. Frozen ones are alive.
    ///
    /// # Errors
    /// Why this can't be known, for a person.
    fn alive(&self) -> std::result::Result<Vec<Writer>, String>;
}

/// Nobody known writes to the store.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoWriters;

impl Writers for NoWriters {
    fn freeze(&self) -> std::result::Result<Frozen, String> {
        Ok(Frozen::nobody())
    }

    fn alive(&self) -> std::result::Result<Vec<Writer>, String> {
        Ok(Vec::new())
    }
}
