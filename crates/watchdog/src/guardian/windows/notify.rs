//! Windows has nothing by which a program would say how it is.

use crate::{Error, Result};

/// Never there.
#[derive(Debug)]
pub(in crate::guardian) enum Notify {}

impl Notify {
    /// Refuses.
    ///
    /// # Errors
    /// Always.
    pub(in crate::guardian) fn bind(_name: &str) -> Result<Self> {
        let source = std::io::Error::from(std::io::ErrorKind::Unsupported);
        Err(Error::System { action: "listen for what the workload says", source })
    }

    pub(in crate::guardian) fn receive(&self, _buffer: &mut [u8]) -> Option<(u32, usize)> {
        match *self {}
    }
}
