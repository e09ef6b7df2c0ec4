//! Telling how far a long operation is.

/// What is being done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Phase {
    /// Files that changed are read and stored (or compared).
    Reading,
    /// New files are prepared in the vault.
    Staging,
    /// The store is changed.
    Applying,
    /// Stored content is checked.
    Checking,
}

/// Is told how far an operation is. Calls may come from several threads; they must not call the manager that makes them.
pub trait Progress: Sync {
    /// `done` of `total` items of `phase` are done.
    fn report(&self, phase: Phase, done: u64, total: u64);
}

/// Tells nobody.
#[derive(Clone, Copy, Debug, Default)]
pub struct Silent;

impl Progress for Silent {
    fn report(&self, _phase: Phase, _done: u64, _total: u64) {}
}
