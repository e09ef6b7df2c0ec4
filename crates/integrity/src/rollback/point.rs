//! Naming a moment to go back to.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;

use crate::log::Lsn;
use crate::snapshot::SnapshotId;
use crate::{Error, Result};

/// A moment in a store's history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RecoveryPoint {
    /// The snapshot whose id begins so.
    Snapshot(String),
    /// A position of the transaction log.
    Lsn(Lsn),
    /// The last state known to hold at this time.
    Time(Timestamp),
}

impl From<&SnapshotId> for RecoveryPoint {
    fn from(id: &SnapshotId) -> Self {
        Self::Snapshot(id.as_str().to_owned())
    }
}

impl FromStr for RecoveryPoint {
    type Err = Error;

    /// `lsn:N`, the beginning of a snapshot's id, or a time in RFC 3339.
    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidPoint { text: text.to_owned() };
        if let Some(number) = text.strip_prefix("lsn:") {
            return number.parse().map(Self::Lsn).map_err(|_| invalid());
        }
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if (1..=16).contains(&text.len()) && text.bytes().all(is_digit) {
            return Ok(Self::Snapshot(text.to_owned()));
        }
        text.parse().map(Self::Time).map_err(|_| invalid())
    }
}

impl fmt::Display for RecoveryPoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(prefix) => f.write_str(prefix),
            Self::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Self::Time(time) => write!(f, "{time}"),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_three_ways_to_name_a_point() {
        let parse = |text: &str| text.parse::<RecoveryPoint>();
        assert_eq!(parse("lsn:42").unwrap(), RecoveryPoint::Lsn(42));
        assert_eq!(parse("0a1f").unwrap(), RecoveryPoint::Snapshot("0a1f".to_owned()));
        assert_eq!(parse("2026").unwrap(), RecoveryPoint::Snapshot("2026".to_owned()));
        let time = parse("2026-01-31T12:00:00Z").unwrap();
        assert_eq!(time, RecoveryPoint::Time("2026-01-31T12:00:00Z".parse().unwrap()));
        for text in ["2026-01-31T12:00:00Z", "lsn:7", "abc"] {
            assert_eq!(parse(text).unwrap().to_string(), text);
        }
        for bad in ["", "lsn:", "lsn:-1", "yesterday", "0123456789abcdef0", "2026-01-31"] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
