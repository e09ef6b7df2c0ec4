//! Sockets by their inodes: their addresses, and how they are.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::guardian::evidence::Socket;
use crate::job::linux::Pinned;

/// How many lines of a table are read: a host may have very many sockets.
const LINES: usize = 20_000;
/// The flag of a Unix socket that listens (`__SO_ACCEPTCON`).
const LISTENS: u32 = 1 << 16;

/// The tables of the network namespaces that were met so far, by their inodes.
#[derive(Debug, Default)]
pub(super) struct Sockets(HashMap<u64, HashMap<u64, Socket>>);

impl Sockets {
    /// Those of a process that have these inodes. One of another kind, such as netlink, is named by its inode.
    pub(super) fn of(&mut self, process: &Pinned, inodes: &[u64]) -> Vec<Socket> {
        if inodes.is_empty() {
            return Vec::new();
        }
        let namespace = process.namespace("ns/net").unwrap_or(0);
        let table = self.0.entry(namespace).or_insert_with(|| tables(process));
        let unknown = |inode: &u64| Socket {
            protocol: "other".to_owned(),
            local: format!("socket:[{inode}]"),
            remote: None,
            state: String::new(),
        };
        inodes.iter().map(|inode| table.get(inode).cloned().unwrap_or_else(|| unknown(inode))).collect()
    }
}

/// All sockets of the network namespace of a process.
fn tables(process: &Pinned) -> HashMap<u64, Socket> {
    let mut found = HashMap::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6", "unix"] {
        let Ok(file) = process.file(&format!("net/{protocol}")).map(File::from) else { continue };
        // A path may be any bytes.
        let lines = BufReader::new(file).split(b'\n').map_while(std::result::Result::ok).skip(1).take(LINES);
        found.extend(lines.filter_map(|line| {
            let line = String::from_utf8_lossy(&line);
            if protocol == "unix" { unix(&line) } else { internet(&line, protocol) }
        }));
    }
    found
}

/// `0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0 0 12345 …`
fn internet(line: &str, protocol: &str) -> Option<(u64, Socket)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, remote) = (address(fields.get(1)?)?, address(fields.get(2)?)?);
    let state = u8::from_str_radix(fields.get(3)?, 16).ok()?;
    let socket = Socket {
        protocol: protocol.to_owned(),
        local: local.to_string(),
        remote: (remote.port() != 0).then(|| remote.to_string()),
        state: state_of(state, protocol.starts_with("udp")).to_owned(),
    };
    Some((fields.get(9)?.parse().ok()?, socket))
}

/// See `include/net/tcp_states.h` of the Linux sources.
fn state_of(state: u8, without_connection: bool) -> &'static str {
    match state {
        1 => "established",
        2 => "syn-sent",
        3 => "syn-received",
        4 => "fin-wait-1",
        5 => "fin-wait-2",
        6 => "time-wait",
        7 if without_connection => "unconnected",
        7 => "closed",
        8 => "close-wait",
        9 => "last-ack",
        10 => "listen",
        11 => "closing",
        _ => "unknown",
    }
}

/// Each 32 bits of an address are written as the number that they are in memory.
fn address(text: &str) -> Option<SocketAddr> {
    let (host, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(host.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = if host.len() == 8 {
        IpAddr::V4(Ipv4Addr::from(word(0)?))
    } else {
        let mut octets = [0; 16];
        for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
            chunk.copy_from_slice(&word(index * 8)?);
        }
        IpAddr::V6(Ipv6Addr::from(octets))
    };
    Some(SocketAddr::new(ip, port))
}

/// `0000000000000000: 00000002 00000000 00010000 0001 01 12345 /run/a.sock`
fn unix(line: &str) -> Option<(u64, Socket)> {
    let mut fields = line.splitn(8, ' ').map(str::trim);
    let mut field = |index| fields.nth(index);
    let flags = u32::from_str_radix(field(3)?, 16).ok()?;
    let (_, state, rest) = (field(0)?, field(0)?, line.splitn(7, ' ').nth(6)?);
    let (inode, path) = rest.trim_start().split_once(' ').unwrap_or((rest.trim(), ""));
    let state = match state {
        _ if flags & LISTENS != 0 => "listen",
        "01" => "unconnected",
        "02" => "connecting",
        "03" => "connected",
        "04" => "disconnecting",
        _ => "unknown",
    };
    let socket = Socket { protocol: "unix".to_owned(), local: path.to_owned(), remote: None, state: state.to_owned() };
    Some((inode.parse().ok()?, socket))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lines_of_the_tables_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 12345 1 0 100 0 0 10 0";
        let (inode, socket) = internet(line, "tcp").unwrap();
        assert_eq!((inode, socket.local.as_str(), socket.state.as_str()), (12345, "127.0.0.1:8080", "listen"));
        assert_eq!(socket.remote, None);
        let line =
            "   1: 00000000000000000000000001000000:0016 0000000000000000FFFF00000100007F:D431 01 0:0 00:0 0 0 0 7 1";
        let (_, socket) = internet(line, "tcp6").unwrap();
        assert_eq!((socket.local.as_str(), socket.state.as_str()), ("[::1]:22", "established"));
        assert_eq!(socket.remote.as_deref(), Some("[::ffff:127.0.0.1]:54321"));
        let (inode, socket) =
            unix("0000000000000000: 00000002 00000000 00010000 0001 01 26318 /run/with blank").unwrap();
        assert_eq!((inode, socket.local.as_str(), socket.state.as_str()), (26318, "/run/with blank", "listen"));
        let (inode, socket) = unix("0000000000000000: 00000003 00000000 00000000 0001 03   318").unwrap();
        assert_eq!((inode, socket.local.as_str(), socket.state.as_str()), (318, "", "connected"));
        assert!(internet("nonsense", "tcp").is_none() && unix("nonsense").is_none());
    }
}
