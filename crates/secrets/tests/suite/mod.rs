//! What every store must do, whichever it is.

use std::sync::Arc;

use estop_secrets::notify::{Limits, NoWorkloads, Notifier};
use estop_secrets::rotate::{Generate, Mode, Plan, Request, Rotator};
use estop_secrets::{SecretName, SecretStore, SecretValue, StoreError, Version, VersionState};

/// Names of their own, so that several suites can share one store.
fn name(of: &str) -> SecretName {
    SecretName::new(format!("suite-{}/{of}", uuid::Uuid::new_v4())).unwrap()
}

pub(crate) async fn run(store: Arc<dyn SecretStore>) {
    missing(&*store).await;
    versions_and_conflicts(&*store).await;
    any_bytes(&*store).await;
    bounds(&*store).await;
    revoking(&*store).await;
    listing_and_deleting(&*store).await;
    racing_writers(&store).await;
    rotating(&store).await;
    racing_rotators(&store).await;
}

async fn missing(store: &dyn SecretStore) {
    let nobody = name("nobody");
    assert!(store.load(&nobody).await.unwrap().is_none());
    for error in [
        store.read(&nobody, None).await.unwrap_err(),
        store.read(&nobody, Some(Version(1))).await.unwrap_err(),
        store.versions(&nobody).await.unwrap_err(),
        store.revoke(&nobody, Version(1)).await.unwrap_err(),
        store.delete(&nobody).await.unwrap_err(),
    ] {
        assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
    }
    let conflict = store.write(&nobody, &"x".into(), Version(3)).await.unwrap_err();
    assert!(matches!(conflict, StoreError::Conflict { found: Version(0), .. }), "{conflict:?}");
    assert!(store.load(&nobody).await.unwrap().is_none());
}

async fn versions_and_conflicts(store: &dyn SecretStore) {
    let secret = name("versions");
    assert_eq!(store.write(&secret, &"one".into(), Version::NONE).await.unwrap(), Version(1));
    assert_eq!(store.write(&secret, &"two".into(), Version(1)).await.unwrap(), Version(2));
    for expected in [Version::NONE, Version(1), Version(3)] {
        let conflict = store.write(&secret, &"three".into(), expected).await.unwrap_err();
        assert!(matches!(conflict, StoreError::Conflict { found: Version(2), .. }), "{conflict:?}");
    }
    assert_eq!(store.read(&secret, None).await.unwrap().value, SecretValue::from("two"));
    assert_eq!(store.read(&secret, Some(Version(1))).await.unwrap().value, SecretValue::from("one"));
    assert!(matches!(store.read(&secret, Some(Version(3))).await, Err(StoreError::NotFound { .. })));
    let states: Vec<_> = store.versions(&secret).await.unwrap().iter().map(|info| (info.version, info.state)).collect();
    assert_eq!(states, [(Version(1), VersionState::Previous), (Version(2), VersionState::Current)]);
    // A document that was loaded before another write is not stored over it.
    let old = store.load(&secret).await.unwrap().unwrap();
    store.write(&secret, &"three".into(), Version(2)).await.unwrap();
    assert!(matches!(store.store(&old).await, Err(StoreError::Moved { .. })));
    assert_eq!(store.read(&secret, None).await.unwrap().value, SecretValue::from("three"));
}

async fn any_bytes(store: &dyn SecretStore) {
    let secret = name("bytes");
    let every_byte: Vec<u8> = (0..=255).collect();
    let mut version = Version::NONE;
    for value in [
        every_byte,
        Vec::new(),
        b"line\nbreak\ttab \"quoted\" \\ {json}".to_vec(),
        "h\u{e9}\u{1F511}\u{0}".as_bytes().to_vec(),
        vec![0xff; 32 * 1024],
    ] {
        version = store.write(&secret, &value.clone().into(), version).await.unwrap();
        assert_eq!(store.read(&secret, None).await.unwrap().value.expose(), value);
    }
    assert_eq!(store.put(&secret, &"put".into()).await.unwrap(), version.next());
    let version = version.next();
    let too_long = vec![b'x'; 32 * 1024 + 1];
    let refused = store.write(&secret, &too_long.into(), version).await.unwrap_err();
    assert!(matches!(refused, StoreError::Invalid { .. }), "{refused:?}");
}

async fn bounds(store: &dyn SecretStore) {
    let secret = name("bounds");
    let kept = store.kept_versions();
    for version in 0..(kept as u64 + 3) {
        store.write(&secret, &format!("v{version}").into(), Version(version)).await.unwrap();
    }
    let versions = store.versions(&secret).await.unwrap();
    assert_eq!(versions.len(), kept);
    assert_eq!(versions[0].version, Version(4));
    assert_eq!(store.read(&secret, None).await.unwrap().info.version, Version(kept as u64 + 3));
}

async fn revoking(store: &dyn SecretStore) {
    let secret = name("revoking");
    store.write(&secret, &"planted-secret-one".into(), Version::NONE).await.unwrap();
    store.write(&secret, &"planted-secret-two".into(), Version(1)).await.unwrap();
    store.revoke(&secret, Version(1)).await.unwrap();
    store.revoke(&secret, Version(1)).await.unwrap();
    let revoked = store.read(&secret, Some(Version(1))).await.unwrap_err();
    assert!(matches!(revoked, StoreError::Revoked { version: Version(1), .. }), "{revoked:?}");
    assert_eq!(store.read(&secret, None).await.unwrap().value, SecretValue::from("planted-secret-two"));
    let info = &store.versions(&secret).await.unwrap()[0];
    assert!(info.state == VersionState::Revoked && info.revoked.is_some(), "{info:?}");
    // With the current one revoked there is none, until one is put.
    store.revoke(&secret, Version(2)).await.unwrap();
    assert!(matches!(store.read(&secret, None).await, Err(StoreError::Revoked { version: Version(2), .. })));
    assert_eq!(store.write(&secret, &"three".into(), Version::NONE).await.unwrap(), Version(3));
    assert_eq!(store.read(&secret, None).await.unwrap().value, SecretValue::from("three"));
}

async fn listing_and_deleting(store: &dyn SecretStore) {
    let root = name("list");
    let names: Vec<SecretName> =
        ["a", "b/c", "b/d/e"].iter().map(|leaf| SecretName::new(format!("{root}/{leaf}")).unwrap()).collect();
    for secret in &names {
        store.write(secret, &"x".into(), Version::NONE).await.unwrap();
    }
    let below = |listed: Vec<SecretName>| -> Vec<SecretName> {
        listed.into_iter().filter(|listed| listed.as_str().starts_with(root.as_str())).collect()
    };
    assert_eq!(below(store.list().await.unwrap()), names);
    store.delete(&names[1]).await.unwrap();
    assert_eq!(below(store.list().await.unwrap()), [names[0].clone(), names[2].clone()]);
    assert!(matches!(store.read(&names[1], None).await, Err(StoreError::NotFound { .. })));
    assert!(matches!(store.delete(&names[1]).await, Err(StoreError::NotFound { .. })));
    store.write(&names[1], &"again".into(), Version::NONE).await.unwrap();
    assert_eq!(store.read(&names[1], None).await.unwrap().value, SecretValue::from("again"));
}

async fn racing_writers(store: &Arc<dyn SecretStore>) {
    let secret = name("racing");
    store.write(&secret, &"start".into(), Version::NONE).await.unwrap();
    let writers: Vec<_> = (0..6)
        .map(|writer| {
            let (store, secret) = (Arc::clone(store), secret.clone());
            tokio::spawn(async move { store.write(&secret, &format!("by {writer}").into(), Version(1)).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (writer, task) in writers.into_iter().enumerate() {
        match task.await.unwrap() {
            Ok(version) => winners.push((writer, version)),
            Err(error) => assert!(matches!(error, StoreError::Conflict { found: Version(2), .. }), "{error:?}"),
        }
    }
    assert_eq!(winners.len(), 1, "{winners:?}");
    let value = store.read(&secret, None).await.unwrap().value;
    assert_eq!(value, format!("by {}", winners[0].0).into());
}

fn rotator(store: &Arc<dyn SecretStore>) -> Rotator {
    let notifier = Notifier::new(Arc::new(NoWorkloads), None, Limits::default());
    Rotator::new(Arc::clone(store), Arc::new(notifier))
}

fn plan(secret: &SecretName) -> Plan {
    Plan {
        name: secret.clone(),
        kind: Arc::new(Generate::default()),
        subscribers: Vec::new(),
        overlap: std::time::Duration::ZERO,
    }
}

async fn rotating(store: &Arc<dyn SecretStore>) {
    let secret = name("rotating");
    store.write(&secret, &"planted-secret".into(), Version::NONE).await.unwrap();
    for (mode, version) in [(Mode::Normal, 2), (Mode::Emergency, 3)] {
        let request = Request { mode, ..Request::default() };
        let report = rotator(store).rotate(&plan(&secret), &request).await;
        assert!(report.is_complete() && report.old_revoked, "{report:?}");
        assert_eq!(report.to_version, Some(Version(version)));
        assert!(matches!(store.read(&secret, Some(Version(version - 1))).await, Err(StoreError::Revoked { .. })));
        assert_eq!(store.read(&secret, None).await.unwrap().value.len(), 32);
    }
}

async fn racing_rotators(store: &Arc<dyn SecretStore>) {
    let secret = name("racing-rotators");
    store.write(&secret, &"start".into(), Version::NONE).await.unwrap();
    for _ in 0..5 {
        let rotations: Vec<_> = (0..3)
            .map(|_| {
                let (rotator, plan) = (rotator(store), plan(&secret));
                tokio::spawn(async move { rotator.rotate(&plan, &Request::default()).await })
            })
            .collect();
        for rotation in rotations {
            let report = rotation.await.unwrap();
            assert!(report.promoted && report.error.is_none(), "{report:?}");
        }
        let document = store.load(&secret).await.unwrap().unwrap();
        assert!(document.rotation().is_none());
        let valid = document.versions().filter(|info| info.state != VersionState::Revoked).count();
        assert_eq!(valid, 1);
    }
}
