//! The suite of the trait against the embedded store.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use estop_secrets::local::{EmbeddedStore, KeySource, Options};

mod suite;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_does_what_every_store_must() {
    let dir = tempfile::tempdir().unwrap();
    let key = KeySource::File(dir.path().join("key"));
    let options = Options { dir: dir.path().join("data"), key, kept_versions: 20 };
    suite::run(Arc::new(EmbeddedStore::open(options).unwrap())).await;
}
