#![allow(clippy::unwrap_used)]

use super::*;
use crate::testing::{Fault, MemoryStore};

fn name() -> SecretName {
    SecretName::new("a").unwrap()
}

fn policy() -> CachePolicy {
    CachePolicy {
        max_age: Duration::from_mins(1),
        max_stale: Duration::from_mins(10),
        patience: Duration::from_secs(1),
        failure_pause: Duration::from_secs(1),
        max_lag: Duration::from_secs(2),
        capacity: 3,
    }
}

async fn scene() -> (Arc<MemoryStore>, SecretCache) {
    let store = Arc::new(MemoryStore::new());
    store.write(&name(), &"planted-secret".into(), Version::NONE).await.unwrap();
    let cache = SecretCache::new(store.clone(), policy());
    store.heal();
    (store, cache)
}

#[tokio::test(start_paused = true)]
async fn a_value_is_fetched_once_until_it_is_too_old() {
    let (store, cache) = scene().await;
    for _ in 0..10 {
        assert!(!cache.get(&name()).await.unwrap().stale);
    }
    assert_eq!(store.operations(), 1);
    tokio::time::advance(Duration::from_secs(61)).await;
    cache.get(&name()).await.unwrap();
    assert_eq!(store.operations(), 2);
    assert!(cache.age(&name()).unwrap() < Duration::from_secs(1));
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_of_a_cold_secret_make_one_request() {
    let (store, cache) = scene().await;
    let cache = Arc::new(cache);
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { cache.get(&name()).await.unwrap().version() })
        })
        .collect();
    for reader in readers {
        assert_eq!(reader.await.unwrap(), Version(1));
    }
    assert_eq!(store.operations(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_readers_of_a_missing_secret_make_few_requests() {
    let (store, cache) = scene().await;
    let cache = Arc::new(cache);
    let readers: Vec<_> = (0..1000)
        .map(|_| {
            let cache = Arc::clone(&cache);
            tokio::spawn(async move { cache.get(&SecretName::new("nobody").unwrap()).await })
        })
        .collect();
    for reader in readers {
        assert!(matches!(reader.await.unwrap(), Err(StoreError::NotFound { .. })));
    }
    assert!(store.operations() <= 2, "{}", store.operations());
}

#[tokio::test(start_paused = true)]
async fn the_last_good_value_is_served_for_a_bounded_time_and_flagged() {
    let (store, cache) = scene().await;
    cache.get(&name()).await.unwrap();
    store.plan(|_| Fault::Before);
    tokio::time::advance(Duration::from_secs(30)).await;
    assert!(!cache.get(&name()).await.unwrap().stale);
    tokio::time::advance(Duration::from_secs(31)).await;
    let stale = cache.get(&name()).await.unwrap();
    assert!(stale.stale && stale.age >= Duration::from_secs(61));
    // A store that is away is not asked by every reader.
    for _ in 0..100 {
        assert!(cache.get(&name()).await.unwrap().stale);
    }
    assert_eq!(store.operations(), 1);
    tokio::time::advance(Duration::from_mins(10)).await;
    assert!(cache.get(&name()).await.unwrap_err().is_away());
    // Once it was too old it does not come back.
    assert!(cache.age(&name()).is_none());
    store.heal();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(!cache.get(&name()).await.unwrap().stale);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_keeps_nobody_waiting_for_whom_there_is_a_last_good_value() {
    let (store, cache) = scene().await;
    cache.get(&name()).await.unwrap();
    store.plan(|_| Fault::Hang);
    tokio::time::advance(Duration::from_mins(2)).await;
    let began = Instant::now();
    assert!(cache.get(&name()).await.unwrap().stale);
    let waited = began.elapsed();
    assert!((1.0..1.1).contains(&waited.as_secs_f64()), "{waited:?}");
    for _ in 0..100 {
        assert!(cache.get(&name()).await.unwrap().stale);
    }
    assert_eq!(began.elapsed(), waited);
}

#[tokio::test(start_paused = true)]
async fn a_revoked_version_is_never_served_whatever_the_stores_state() {
    let (store, cache) = scene().await;
    cache.get(&name()).await.unwrap();
    cache.revoked(&name(), Version(1));
    store.plan(|_| Fault::Before);
    assert!(cache.get(&name()).await.unwrap_err().is_away());
    // Nor if a server that lags behind still gives it.
    store.heal();
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(matches!(cache.get(&name()).await, Err(StoreError::Revoked { .. })));
    assert!(matches!(cache.get_version(&name(), Version(1)).await, Err(StoreError::Revoked { .. })));
    store.write(&name(), &"two".into(), Version(1)).await.unwrap();
    assert_eq!(cache.get(&name()).await.unwrap().version(), Version(2));
}

#[tokio::test(start_paused = true)]
async fn an_invalidated_value_is_not_served_while_the_store_is_away() {
    let (store, cache) = scene().await;
    cache.get(&name()).await.unwrap();
    cache.invalidate(&name());
    store.plan(|_| Fault::Before);
    assert!(cache.get(&name()).await.unwrap_err().is_away());
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_demands_a_version_gets_it_or_an_error() {
    let (store, cache) = scene().await;
    cache.get(&name()).await.unwrap();
    let stale = cache.get_at_least(&name(), Version(2)).await.unwrap_err();
    assert!(matches!(stale, StoreError::Stale { wanted: Version(2), found: Version(1), .. }), "{stale:?}");
    let cache = Arc::new(cache);
    let waiting = {
        let cache = Arc::clone(&cache);
        tokio::spawn(async move { cache.get_at_least(&name(), Version(2)).await })
    };
    tokio::time::sleep(Duration::from_millis(100)).await;
    store.write(&name(), &"two".into(), Version(1)).await.unwrap();
    assert_eq!(waiting.await.unwrap().unwrap().version(), Version(2));
    // An older one is not served for it either while the store is away.
    store.plan(|_| Fault::Before);
    assert!(cache.get_at_least(&name(), Version(3)).await.unwrap_err().is_away());
}

#[tokio::test(start_paused = true)]
async fn no_more_secrets_are_kept_than_the_policy_says() {
    let (store, cache) = scene().await;
    for at in 0..10 {
        let name = SecretName::new(format!("s{at}")).unwrap();
        store.write(&name, &"x".into(), Version::NONE).await.unwrap();
        cache.get(&name).await.unwrap();
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(cache.slots.load().len(), 3);
    assert!(cache.age(&SecretName::new("s9").unwrap()).is_some());
    assert!(cache.age(&SecretName::new("s6").unwrap()).is_none());
}

#[tokio::test]
async fn debug_shows_no_value() {
    let (_, cache) = scene().await;
    let cached = cache.get(&name()).await.unwrap();
    assert!(!format!("{cache:?} {cached:?}").contains("planted"));
}
