//! The socket by which a workload says how it is. See `sd_notify(3)`.

use std::os::fd::OwnedFd;

use rustix::net::{SocketAddrUnix, bind};

use super::sockets::{receive, unbound};
use crate::Result;
use crate::error::Context as _;

/// The socket by which a workload says how it is.
#[derive(Debug)]
pub(in crate::guardian) struct Notify(OwnedFd);

impl Notify {
    /// Listens at the abstract `name`: the workload sees none of estop's directories.
    ///
    /// # Errors
    /// If somebody has it already, or no socket can be had.
    pub(in crate::guardian) fn bind(name: &str) -> Result<Self> {
        let socket = unbound()?;
        let address = SocketAddrUnix::new_abstract_name(name.as_bytes())
            .map_err(std::io::Error::from)
            .and_then(|address| Ok(bind(&socket, &address)?));
        address.doing("listen for what the workload says")?;
        Ok(Self(socket))
    }

    pub(super) fn descriptor(&self) -> &OwnedFd {
        &self.0
    }

    /// Who has said something, by the kernel's word, and how long it is; `None` if nobody has.
    pub(in crate::guardian) fn receive(&self, buffer: &mut [u8]) -> Option<(u32, usize)> {
        let received = receive(&self.0, buffer)?;
        Some((received.peer.map_or(0, |peer| peer.pid), received.length.min(buffer.len())))
    }
}
