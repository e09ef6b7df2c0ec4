//! A store in memory that fails where a test wants it to.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use jiff::Timestamp;
use uuid::Uuid;

use crate::document::{DEFAULT_FIELD, Document, Written, decode, encode};
use crate::store::not_found;
use crate::{SecretName, SecretStore, StoreError};

/// What happens to one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// It works.
    None,
    /// It is not done.
    Before,
    /// It is done, and the answer is lost.
    After,
    /// It never ends.
    Hang,
}

type Plan = Box<dyn FnMut(usize) -> Fault + Send>;

pub(crate) struct MemoryStore {
    documents: Mutex<BTreeMap<SecretName, (u64, Vec<u8>)>>,
    plan: Mutex<Plan>,
    operations: AtomicUsize,
    pub(crate) forgotten: Mutex<Vec<(SecretName, RangeInclusive<u64>)>>,
}

impl MemoryStore {
    pub(crate) fn new() -> Self {
        Self {
            documents: Mutex::default(),
            plan: Mutex::new(Box::new(|_| Fault::None)),
            operations: AtomicUsize::new(0),
            forgotten: Mutex::default(),
        }
    }

    /// Asks `plan` at every operation from now on, which are counted from 0.
    pub(crate) fn plan(&self, plan: impl FnMut(usize) -> Fault + Send + 'static) {
        self.operations.store(0, Ordering::SeqCst);
        *self.plan.lock().unwrap() = Box::new(plan);
    }

    pub(crate) fn heal(&self) {
        self.plan(|_| Fault::None);
    }

    pub(crate) fn operations(&self) -> usize {
        self.operations.load(Ordering::SeqCst)
    }

    fn fault(&self) -> Fault {
        let operation = self.operations.fetch_add(1, Ordering::SeqCst);
        (self.plan.lock().unwrap())(operation)
    }

    fn away(&self) -> StoreError {
        StoreError::Unreachable { store: self.describe(), detail: "a planted fault".to_owned() }
    }

    async fn run<T: Send>(
        &self,
        name: &SecretName,
        work: impl FnOnce() -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        tokio::task::yield_now().await;
        match self.fault() {
            Fault::Hang => std::future::pending().await,
            Fault::None => {
                let outcome = work();
                // A place where the caller may be dropped between the deed and its answer.
                tokio::task::yield_now().await;
                outcome
            }
            Fault::Before => Err(self.away()),
            Fault::After => {
                let _ = work();
                let detail = "a planted fault".to_owned();
                Err(StoreError::Unsettled { store: self.describe(), name: name.clone(), detail })
            }
        }
    }
}

#[async_trait]
impl SecretStore for MemoryStore {
    fn describe(&self) -> String {
        "the store in memory".to_owned()
    }

    async fn load(&self, name: &SecretName) -> Result<Option<Document>, StoreError> {
        self.run(name, || {
            let documents = self.documents.lock().unwrap();
            let Some((revision, bytes)) = documents.get(name) else { return Ok(None) };
            let written = Written { revision: *revision, at: Timestamp::UNIX_EPOCH };
            decode(name, written, DEFAULT_FIELD, bytes).map(Some)
        })
        .await
    }

    async fn store(&self, document: &Document) -> Result<u64, StoreError> {
        self.run(document.name(), || {
            let mut documents = self.documents.lock().unwrap();
            let found = documents.get(document.name()).map_or(0, |(revision, _)| *revision);
            if found != document.revision() {
                return Err(StoreError::Moved { name: document.name().clone() });
            }
            let bytes = encode(document, DEFAULT_FIELD, Uuid::new_v4())?.to_vec();
            documents.insert(document.name().clone(), (found + 1, bytes));
            Ok(found + 1)
        })
        .await
    }

    async fn forget(&self, name: &SecretName, revisions: RangeInclusive<u64>) -> Result<(), StoreError> {
        self.run(name, || {
            self.forgotten.lock().unwrap().push((name.clone(), revisions));
            Ok(())
        })
        .await
    }

    async fn list(&self) -> Result<Vec<SecretName>, StoreError> {
        Ok(self.documents.lock().unwrap().keys().cloned().collect())
    }

    async fn delete(&self, name: &SecretName) -> Result<(), StoreError> {
        self.documents.lock().unwrap().remove(name).map(drop).ok_or_else(|| not_found(name, None))
    }
}
