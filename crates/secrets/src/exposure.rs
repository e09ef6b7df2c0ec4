//! The exposure ledger: which workload received which version of which secret, when and how.
//!
//! An entry is durable *before* the secret leaves. After an emergency the ledger says which secrets a workload could have
//! taken along; where it can't be read, or an entry can't be written, nothing is handed out.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use estop_durable::Kind;
use estop_durable::chain::{Chain, Options, Reader};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::cache::{Cached, SecretCache};
use crate::{SecretName, StoreError, Version};

const KIND: Kind = Kind(*b"ESTOPXPO");
const SCHEMA_VERSION: u32 = 1;

/// Deliveries are rare and an entry has about 200 bytes: a segment holds some thousand.
const SEGMENT_BYTES: u64 = 1 << 20;

/// How long an entry waits for another process's.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// How often the lock is tried meanwhile.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// A file that was written to within this time may be again without its time showing that: clocks of filesystems tick slowly.
const UNSETTLED: Duration = Duration::from_secs(1);

/// How the ledger's files were at a moment: cheap to look at, where reading them is not.
#[derive(Debug, Clone, Default)]
pub struct Stamp {
    files: Vec<(OsString, u64, Option<SystemTime>)>,
    settled: bool,
}

impl Stamp {
    /// Whether nothing was recorded between `earlier` and this one. False where that is not certain.
    pub fn is_still(&self, earlier: &Self) -> bool {
        earlier.settled && self.files == earlier.files
    }
}

/// How a secret reached a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Channel {
    /// In its environment.
    Env,
    /// In a file of its secrets directory.
    File,
    /// As an answer to its own request.
    Api,
}

/// One delivery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exposure {
    /// The version of this form.
    pub schema_version: u32,
    /// Who received it.
    pub workload: String,
    /// Which run of the workload, as its guardian names it.
    pub run_id: String,
    /// What was received.
    pub name: SecretName,
    /// Which version of it.
    pub version: Version,
    /// How.
    pub channel: Channel,
    /// When, by this host's clock.
    pub time: Timestamp,
}

impl Exposure {
    /// A delivery that is about to happen now.
    pub fn now(
        workload: impl Into<String>,
        run_id: impl Into<String>,
        name: SecretName,
        version: Version,
        channel: Channel,
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            workload: workload.into(),
            run_id: run_id.into(),
            name,
            version,
            channel,
            time: Timestamp::now(),
        }
    }
}

/// Why the ledger could not be read or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The files of the ledger refused.
    #[error("the exposure ledger cannot be used: {0}")]
    Durable(#[from] estop_durable::Error),
    /// An entry is whole, but not in a form that this version knows.
    #[error("entry {lsn} of the exposure ledger {path} cannot be understood: {detail}; use the estop that wrote it", path = path.display())]
    Entry {
        /// The ledger's directory.
        path: PathBuf,
        /// The entry's position.
        lsn: u64,
        /// What does not fit.
        detail: String,
    },
}

/// The ledger in a directory. Several processes may use the same one.
#[derive(Debug)]
pub struct ExposureLedger {
    dir: PathBuf,
    /// Keeps the threads of this process from waiting for each other by trying.
    turn: Mutex<()>,
}

impl ExposureLedger {
    /// The ledger in `dir`, which is made with the first entry.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), turn: Mutex::new(()) }
    }

    /// Where it is.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Records deliveries, all or none; they are durable on return. Only then may the secrets leave.
    ///
    /// Blocks for one synchronisation of a file, and up to five seconds while another process writes.
    ///
    /// # Errors
    /// [`LedgerError::Durable`]: nothing may be delivered.
    pub fn record(&self, exposures: &[Exposure]) -> Result<(), LedgerError> {
        if exposures.is_empty() {
            return Ok(());
        }
        let encode = |exposure: &Exposure| {
            serde_json::to_vec(exposure).map_err(|error| LedgerError::Entry {
                path: self.dir.clone(),
                lsn: 0,
                detail: error.to_string(),
            })
        };
        let entries = exposures.iter().map(encode).collect::<Result<Vec<_>, _>>()?;
        let entries: Vec<&[u8]> = entries.iter().map(Vec::as_slice).collect();
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.open()?.append_all(&entries)?;
        Ok(())
    }

    /// How its files are now. Taken before a reading, it tells later whether that has to be done again.
    pub fn stamp(&self) -> Stamp {
        let now = SystemTime::now();
        let entries = std::fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let mut files: Vec<_> = entries
            .filter_map(|entry| {
                let found = entry.metadata().ok()?;
                Some((entry.file_name(), found.len(), found.modified().ok()))
            })
            .collect();
        files.sort_unstable();
        let age = |time: &Option<SystemTime>| time.and_then(|time| now.duration_since(time).ok());
        let settled = files.iter().all(|(_, _, time)| age(time).is_some_and(|age| age > UNSETTLED));
        Stamp { files, settled }
    }

    /// All deliveries in the order in which they were recorded. Reads without the lock: deliveries that are being recorded
    /// meanwhile may be among them or not.
    ///
    /// # Errors
    /// [`LedgerError`] if any entry can't be read: an incomplete answer would be a wrong one.
    pub fn all(&self) -> Result<Vec<Exposure>, LedgerError> {
        Reader::open(&self.dir, KIND)?
            .map(|record| {
                let record = record?;
                let entry = |detail| LedgerError::Entry { path: self.dir.clone(), lsn: record.lsn, detail };
                let exposure: Exposure =
                    serde_json::from_slice(&record.payload).map_err(|error| entry(error.to_string()))?;
                match exposure.schema_version {
                    SCHEMA_VERSION => Ok(exposure),
                    other => Err(entry(format!("its schema version is {other}"))),
                }
            })
            .collect()
    }

    /// The deliveries of one secret, oldest first.
    ///
    /// # Errors
    /// As for [`ExposureLedger::all`].
    pub fn exposure(&self, name: &SecretName) -> Result<Vec<Exposure>, LedgerError> {
        Ok(self.all()?.into_iter().filter(|exposure| exposure.name == *name).collect())
    }

    /// What a workload has ever received: each secret with the versions of it.
    ///
    /// # Errors
    /// As for [`ExposureLedger::all`].
    pub fn exposed_to(&self, workload: &str) -> Result<BTreeMap<SecretName, BTreeSet<Version>>, LedgerError> {
        let mut exposed = BTreeMap::<SecretName, BTreeSet<Version>>::new();
        for exposure in self.all()?.into_iter().filter(|exposure| exposure.workload == workload) {
            exposed.entry(exposure.name).or_default().insert(exposure.version);
        }
        Ok(exposed)
    }

    /// Opens the chain for one entry, waiting for another process that has it open.
    fn open(&self) -> Result<Chain, LedgerError> {
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match Chain::open(&self.dir, Options { kind: KIND, segment_bytes: SEGMENT_BYTES }) {
                Err(estop_durable::Error::Locked { .. }) if Instant::now() < deadline => {
                    std::thread::sleep(LOCK_RETRY);
                }
                opened => return Ok(opened?),
            }
        }
    }
}

/// Who is to receive secrets, and how.
#[derive(Debug, Clone)]
pub struct Recipient {
    /// The workload.
    pub workload: String,
    /// Its present run.
    pub run_id: String,
    /// The way.
    pub channel: Channel,
}

/// Why nothing was handed out.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOutError {
    /// A secret could not be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The delivery could not be recorded.
    #[error("no secret was handed out: {0}")]
    Ledger(#[from] LedgerError),
}

/// Reads the current versions of `names` and records the delivery, all or none; only then the values are given.
///
/// # Errors
/// [`HandOutError`]: nothing may be delivered.
pub async fn hand_out(
    cache: &SecretCache,
    ledger: &Arc<ExposureLedger>,
    recipient: &Recipient,
    names: &[SecretName],
) -> Result<Vec<Cached>, HandOutError> {
    let mut secrets = Vec::with_capacity(names.len());
    for name in names {
        secrets.push(cache.get(name).await?);
    }
    let Recipient { workload, run_id, channel } = recipient;
    let exposures: Vec<Exposure> = names
        .iter()
        .zip(&secrets)
        .map(|(name, secret)| Exposure::now(workload, run_id, name.clone(), secret.version(), *channel))
        .collect();
    record_async(ledger, exposures).await?;
    Ok(secrets)
}

/// Records deliveries from async code.
pub(crate) async fn record_async(ledger: &Arc<ExposureLedger>, exposures: Vec<Exposure>) -> Result<(), LedgerError> {
    let (ledger, dir) = (Arc::clone(ledger), ledger.dir.clone());
    let recorded = tokio::task::spawn_blocking(move || ledger.record(&exposures)).await;
    recorded.unwrap_or_else(|error| Err(LedgerError::Entry { path: dir, lsn: 0, detail: error.to_string() }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn name(text: &str) -> SecretName {
        SecretName::new(text).unwrap()
    }

    fn given(workload: &str, secret: &str, version: u64) -> Exposure {
        Exposure::now(workload, "run-1", name(secret), Version(version), Channel::Env)
    }

    #[test]
    fn answers_who_received_what_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("ledger");
        let ledger = ExposureLedger::new(&path);
        assert!(ledger.all().unwrap().is_empty());
        let first = [given("agent", "db/password", 1), given("agent", "token", 4)];
        ledger.record(&first).unwrap();
        ledger.record(&[given("other", "token", 4)]).unwrap();
        ledger.record(&[given("agent", "db/password", 2)]).unwrap();

        let ledger = ExposureLedger::new(&path);
        assert_eq!(ledger.all().unwrap()[..2], first);
        let token: Vec<String> = ledger.exposure(&name("token")).unwrap().into_iter().map(|e| e.workload).collect();
        assert_eq!(token, ["agent", "other"]);
        let exposed = ledger.exposed_to("agent").unwrap();
        assert_eq!(exposed[&name("db/password")], BTreeSet::from([Version(1), Version(2)]));
        assert_eq!(exposed.len(), 2);
        assert!(ledger.exposed_to("nobody").unwrap().is_empty());
    }

    #[test]
    fn a_stamp_is_the_same_only_while_nothing_is_recorded() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ExposureLedger::new(dir.path().join("ledger"));
        assert!(ledger.stamp().is_still(&ledger.stamp()), "there is nothing");
        ledger.record(&[given("agent", "token", 1)]).unwrap();
        let fresh = ledger.stamp();
        assert!(!ledger.stamp().is_still(&fresh), "another entry could have the same time");
        let long_ago = SystemTime::now() - Duration::from_mins(1);
        for entry in std::fs::read_dir(ledger.dir()).unwrap() {
            let file = std::fs::OpenOptions::new().write(true).open(entry.unwrap().path()).unwrap();
            file.set_modified(long_ago).unwrap();
        }
        let settled = ledger.stamp();
        assert!(ledger.stamp().is_still(&settled));
        ledger.record(&[given("agent", "token", 2)]).unwrap();
        assert!(!ledger.stamp().is_still(&settled));
    }

    #[tokio::test]
    async fn what_is_handed_out_was_recorded_before_and_what_cannot_be_is_kept() {
        use crate::{SecretStore as _, cache::CachePolicy, testing::MemoryStore};
        let dir = tempfile::tempdir().unwrap();
        let store = Arc::new(MemoryStore::new());
        store.write(&name("a"), &"x".into(), Version::NONE).await.unwrap();
        let cache = SecretCache::new(store, CachePolicy::default());
        let recipient = Recipient { workload: "agent".into(), run_id: "run-1".into(), channel: Channel::Env };
        let ledger = Arc::new(ExposureLedger::new(dir.path().join("ledger")));
        let given = hand_out(&cache, &ledger, &recipient, &[name("a")]).await.unwrap();
        assert_eq!(given[0].version(), Version(1));
        assert_eq!(ledger.exposed_to("agent").unwrap()[&name("a")], BTreeSet::from([Version(1)]));

        let missing = hand_out(&cache, &ledger, &recipient, &[name("a"), name("b")]).await;
        assert!(matches!(missing, Err(HandOutError::Store(StoreError::NotFound { .. }))));
        assert_eq!(ledger.all().unwrap().len(), 1);
        std::fs::write(dir.path().join("file"), "").unwrap();
        let broken = Arc::new(ExposureLedger::new(dir.path().join("file")));
        let refused = hand_out(&cache, &broken, &recipient, &[name("a")]).await;
        assert!(matches!(refused, Err(HandOutError::Ledger(_))));
    }

    #[test]
    fn several_writers_lose_no_entry() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                // A ledger of its own for each, as another process would have.
                let ledger = ExposureLedger::new(dir.path());
                scope.spawn(move || {
                    for version in 1..=10 {
                        ledger.record(&[given(&format!("w{writer}"), "s", version)]).unwrap();
                    }
                });
            }
        });
        let ledger = ExposureLedger::new(dir.path());
        for writer in 0..4 {
            assert_eq!(ledger.exposed_to(&format!("w{writer}")).unwrap()[&name("s")].len(), 10);
        }
    }

    #[test]
    fn a_changed_entry_is_an_error_not_a_shorter_answer() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ExposureLedger::new(dir.path());
        ledger.record(&[given("agent", "marker-secret", 1)]).unwrap();
        ledger.record(&[given("agent", "another", 1)]).unwrap();
        let mut changed = 0;
        for entry in std::fs::read_dir(dir.path()).unwrap() {
            let path = entry.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            if let Some(at) = bytes.windows(13).position(|window| window == b"marker-secret") {
                bytes[at] ^= 1;
                std::fs::write(&path, bytes).unwrap();
                changed += 1;
            }
        }
        assert_eq!(changed, 1);
        assert!(matches!(ledger.all(), Err(LedgerError::Durable(_))));
    }
}
