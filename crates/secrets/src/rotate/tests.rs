#![allow(clippy::unwrap_used)]

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::*;
use crate::cache::CachePolicy;
use crate::document::Document;
use crate::notify::{Delivery, Limits, NoWorkloads};
use crate::testing::{Fault, MemoryStore};
use crate::{Secret, SecretValue, VersionState};

mod faults;

/// A service that accepts certain values, as a database does passwords.
#[derive(Default)]
struct Service {
    accepted: Mutex<BTreeSet<Vec<u8>>>,
    made: AtomicUsize,
    /// The step that fails, of those below.
    failing: Mutex<Option<&'static str>>,
}

impl Service {
    fn accepts(&self, value: &SecretValue) -> bool {
        self.accepted.lock().unwrap().contains(value.expose())
    }

    fn fail_at(&self, step: &'static str) {
        *self.failing.lock().unwrap() = Some(step);
    }

    fn step(&self, step: &'static str) -> Result<(), KindError> {
        match *self.failing.lock().unwrap() {
            Some(failing) if failing == step => Err(KindError(format!("planted fault at {step}"))),
            _ => Ok(()),
        }
    }
}

#[async_trait]
impl RotationKind for Service {
    async fn create(&self, _: &Context) -> Result<SecretValue, KindError> {
        self.step("create")?;
        Ok(format!("planted-secret-{}", self.made.fetch_add(1, Ordering::SeqCst)).into())
    }

    async fn set(&self, _: &Context, new: &Secret, _: Option<&Secret>) -> Result<(), KindError> {
        tokio::task::yield_now().await;
        self.step("set")?;
        self.accepted.lock().unwrap().insert(new.value.expose().to_vec());
        Ok(())
    }

    async fn test(&self, _: &Context, new: &Secret) -> Result<(), KindError> {
        tokio::task::yield_now().await;
        self.step("test")?;
        if self.accepts(&new.value) { Ok(()) } else { Err(KindError("refused".to_owned())) }
    }

    async fn finish(&self, _: &Context, _: &Secret) -> Result<(), KindError> {
        self.step("finish")
    }

    async fn revoke(&self, _: &Context, old: &Secret) -> Result<(), KindError> {
        self.step("revoke")?;
        self.accepted.lock().unwrap().remove(old.value.expose());
        Ok(())
    }

    async fn withdraw(&self, _: &Context, new: &Secret, _: Option<&Secret>) -> Result<(), KindError> {
        self.accepted.lock().unwrap().remove(new.value.expose());
        Ok(())
    }
}

/// A workload that takes every signal, or none.
struct Workload {
    takes: bool,
    signals: AtomicUsize,
}

#[async_trait]
impl Delivery for Workload {
    async fn run_id(&self, _: &str) -> Result<String, String> {
        Ok("run-1".to_owned())
    }

    async fn signal(&self, _: &str, _: &str) -> Result<(), String> {
        self.signals.fetch_add(1, Ordering::SeqCst);
        if self.takes { Ok(()) } else { Err("it did not take the signal".to_owned()) }
    }

    async fn replace_file(&self, _: &str, _: &str, _: &SecretValue) -> Result<(), String> {
        Ok(())
    }
}

struct Scene {
    store: Arc<MemoryStore>,
    service: Arc<Service>,
    rotator: Rotator,
    plan: Plan,
}

fn name() -> SecretName {
    SecretName::new("db/password").unwrap()
}

fn notifier(delivery: Arc<dyn Delivery>) -> Arc<Notifier> {
    Arc::new(Notifier::new(delivery, None, Limits::default()))
}

/// A secret with one version, which the service accepts.
async fn scene() -> Scene {
    let store = Arc::new(MemoryStore::new());
    let service = Arc::new(Service::default());
    store.write(&name(), &"planted-secret".into(), Version::NONE).await.unwrap();
    service.accepted.lock().unwrap().insert(b"planted-secret".to_vec());
    let plan = Plan { name: name(), kind: service.clone(), subscribers: Vec::new(), overlap: Duration::ZERO };
    let rotator = Rotator::new(store.clone(), notifier(Arc::new(NoWorkloads)));
    Scene { store, service, rotator, plan }
}

impl Scene {
    async fn document(&self) -> Document {
        self.store.load(&name()).await.unwrap().unwrap()
    }

    /// What must hold at every moment: one version is in force, and the service accepts it.
    async fn check_in_force(&self) {
        let current = self.store.read(&name(), None).await.unwrap();
        assert!(self.service.accepts(&current.value), "version {} is in force, but refused", current.info.version);
        let document = self.document().await;
        let in_force = document.versions().filter(|info| info.state == VersionState::Current).count();
        assert_eq!(in_force, 1);
    }

    /// What must hold when nothing is in course any more.
    async fn check_settled(&self) {
        self.check_in_force().await;
        let document = self.document().await;
        assert!(document.rotation().is_none());
        assert!(document.versions().all(|info| info.state != VersionState::Pending));
    }
}

fn normal() -> Request {
    Request { reason: "drill".to_owned(), ..Request::default() }
}

#[tokio::test]
async fn a_rotation_promotes_a_tested_version_and_revokes_the_old_one() {
    let scene = scene().await;
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.from_version, report.to_version), (Some(Version(1)), Some(Version(2))));
    assert!(report.promoted && report.old_revoked && !report.still_exposed);
    assert!(matches!(scene.store.read(&name(), Some(Version(1))).await, Err(StoreError::Revoked { .. })));
    assert!(!scene.service.accepts(&"planted-secret".into()));
    // Its value stood in the revisions 1 to 3: put, created, promoted.
    assert_eq!(*scene.store.forgotten.lock().unwrap(), [(name(), 1..=3)]);
    scene.check_settled().await;
}

#[tokio::test]
async fn the_report_is_the_contracts_json() {
    let scene = scene().await;
    let reports = scene.rotator.rotate_all(vec![scene.plan.clone()], &normal()).await;
    let mut json = serde_json::to_value(&reports).unwrap();
    json["seconds"] = 0.into();
    json["rotations"][0]["seconds"] = 0.into();
    let expected = serde_json::json!({
        "schema_version": 1, "seconds": 0,
        "rotations": [{"name": "db/password", "from_version": 1, "to_version": 2, "promoted": true, "old_revoked": true,
                       "still_exposed": false, "error": null, "notified": [], "seconds": 0}],
    });
    assert_eq!(json, expected);
}

#[tokio::test]
async fn a_failed_step_leaves_the_old_version_in_force_and_says_so() {
    for step in ["create", "set", "test"] {
        for request in [normal(), Request::emergency("leaked")] {
            let scene = scene().await;
            scene.service.fail_at(step);
            let report = scene.rotator.rotate(&scene.plan, &request).await;
            assert!(!report.promoted && !report.old_revoked, "{report:?}");
            assert_eq!(report.still_exposed, request.mode == Mode::Emergency);
            assert!(report.error.as_ref().unwrap().contains(step), "{report:?}");
            assert!(!format!("{report:?}").contains("planted-secret"));
            assert_eq!(scene.store.read(&name(), None).await.unwrap().info.version, Version(1));
            scene.check_settled().await;
        }
    }
}

#[tokio::test]
async fn a_failed_finish_or_revoke_is_reported_with_the_new_version_in_force() {
    for (step, request) in [("finish", normal()), ("revoke", normal()), ("revoke", Request::emergency("leaked"))] {
        let scene = scene().await;
        scene.service.fail_at(step);
        let report = scene.rotator.rotate(&scene.plan, &request).await;
        assert!(report.promoted && report.error.as_ref().unwrap().contains(step), "{report:?}");
        assert_eq!(report.old_revoked, step != "revoke");
        assert_eq!(report.still_exposed, request.mode == Mode::Emergency);
        scene.check_settled().await;
        // The value is kept, so that revoking it can be tried again.
        if step == "revoke" {
            scene.service.fail_at("nothing");
            let report = scene.rotator.rotate(&scene.plan, &Request::emergency("again")).await;
            assert!(report.is_complete() && report.old_revoked, "{report:?}");
            assert!(!scene.service.accepts(&"planted-secret".into()), "the first version still works");
        }
    }
}

#[tokio::test]
async fn revoke_anyway_ends_what_cannot_be_replaced() {
    let scene = scene().await;
    scene.service.fail_at("test");
    let request = Request { revoke_anyway: true, ..Request::emergency("leaked") };
    let report = scene.rotator.rotate(&scene.plan, &request).await;
    assert!(!report.promoted && report.old_revoked && !report.still_exposed, "{report:?}");
    assert!(matches!(scene.store.read(&name(), None).await, Err(StoreError::Revoked { .. })));
    assert!(!scene.service.accepts(&"planted-secret".into()));
    // And a later rotation makes the secret usable again.
    scene.service.fail_at("nothing");
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(report.is_complete(), "{report:?}");
    assert_eq!((report.from_version, report.to_version), (None, Some(Version(3))));
    scene.check_settled().await;
}

#[tokio::test]
async fn an_emergency_revokes_every_older_version_before_anyone_is_told() {
    let mut scene = scene().await;
    let workload = Arc::new(Workload { takes: false, signals: AtomicUsize::new(0) });
    scene.rotator = Rotator::new(scene.store.clone(), notifier(workload.clone()));
    scene.plan.subscribers = vec![Subscriber::Signal { signal: "HUP".into(), workload: "agent".into() }];
    scene.plan.overlap = Duration::from_hours(1);
    let held_back = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(held_back.promoted && !held_back.old_revoked, "{held_back:?}");
    assert_eq!(held_back.notified[0].subscriber, "signal HUP agent");
    assert!(!held_back.notified[0].acknowledged);
    scene.store.read(&name(), Some(Version(1))).await.unwrap();

    let report = scene.rotator.rotate(&scene.plan, &Request::emergency("leaked")).await;
    assert!(report.promoted && report.old_revoked && !report.still_exposed, "{report:?}");
    for version in [1, 2] {
        let read = scene.store.read(&name(), Some(Version(version))).await;
        assert!(matches!(read, Err(StoreError::Revoked { .. })), "{version}: {read:?}");
    }
    assert_eq!(workload.signals.load(Ordering::SeqCst), 2);
    scene.check_settled().await;
}

#[tokio::test]
async fn the_old_version_goes_when_all_subscribers_acknowledged_or_the_overlap_ended() {
    let mut scene = scene().await;
    scene.plan.subscribers = vec![Subscriber::Signal { signal: "HUP".into(), workload: "agent".into() }];
    scene.plan.overlap = Duration::from_hours(1);
    scene.rotator =
        Rotator::new(scene.store.clone(), notifier(Arc::new(Workload { takes: true, signals: AtomicUsize::new(0) })));
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(report.is_complete() && report.old_revoked, "{report:?}");

    scene.plan.subscribers.clear();
    scene.plan.overlap = Duration::from_nanos(1);
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(report.is_complete() && !report.old_revoked, "{report:?}");
    assert_eq!(scene.rotator.expire(&scene.plan, &normal()).await.unwrap(), [Version(2)]);
    assert!(scene.rotator.expire(&scene.plan, &normal()).await.unwrap().is_empty());
    assert!(matches!(scene.store.read(&name(), Some(Version(2))).await, Err(StoreError::Revoked { .. })));
    scene.check_settled().await;
}

#[tokio::test]
async fn a_dry_run_changes_nothing() {
    let scene = scene().await;
    let request = Request { dry_run: true, ..Request::emergency("what if") };
    let report = scene.rotator.rotate(&scene.plan, &request).await;
    assert_eq!((report.from_version, report.to_version), (Some(Version(1)), Some(Version(2))));
    assert!(!report.promoted && !report.old_revoked && report.error.is_none(), "{report:?}");
    assert_eq!(scene.document().await.revision(), 1);
}

#[tokio::test]
async fn a_secret_that_does_not_exist_is_an_error_and_not_exposed() {
    let mut scene = scene().await;
    scene.plan.name = SecretName::new("nobody").unwrap();
    let report = scene.rotator.rotate(&scene.plan, &Request::emergency("leaked")).await;
    assert!(report.error.unwrap().contains("does not exist"));
    assert!(!report.still_exposed);
}

#[tokio::test]
async fn a_store_that_is_away_in_an_emergency_means_still_exposed() {
    let scene = scene().await;
    scene.store.plan(|_| Fault::Before);
    let report = scene.rotator.rotate(&scene.plan, &Request::emergency("leaked")).await;
    assert!(report.still_exposed && report.error.is_some(), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_step_that_hangs_is_given_up_and_taken_back() {
    struct Hanging;
    #[async_trait]
    impl RotationKind for Hanging {
        async fn create(&self, _: &Context) -> Result<SecretValue, KindError> {
            Ok("new".into())
        }
        async fn test(&self, _: &Context, _: &Secret) -> Result<(), KindError> {
            std::future::pending().await
        }
    }
    let mut scene = scene().await;
    scene.plan.kind = Arc::new(Hanging);
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(report.error.unwrap().contains("longer than"), "{:?}", report.seconds);
    scene.check_settled().await;
}

#[tokio::test]
async fn a_put_during_a_rotation_wins_and_the_rotation_reports_it() {
    struct PutMeanwhile(Arc<MemoryStore>);
    #[async_trait]
    impl RotationKind for PutMeanwhile {
        async fn create(&self, _: &Context) -> Result<SecretValue, KindError> {
            Ok("rotated".into())
        }
        async fn test(&self, _: &Context, _: &Secret) -> Result<(), KindError> {
            let put = self.0.write(&name(), &"put by hand".into(), Version(1)).await;
            put.map(drop).map_err(|error| KindError(error.to_string()))
        }
    }
    let mut scene = scene().await;
    scene.plan.kind = Arc::new(PutMeanwhile(scene.store.clone()));
    let report = scene.rotator.rotate(&scene.plan, &normal()).await;
    assert!(!report.promoted && report.error.unwrap().contains("overtaken"));
    let current = scene.store.read(&name(), None).await.unwrap();
    assert_eq!((current.info.version, current.value), (Version(3), "put by hand".into()));
    assert!(scene.document().await.rotation().is_none());
}

#[tokio::test]
async fn the_cache_serves_the_new_version_at_once_and_never_a_revoked_one() {
    let mut scene = scene().await;
    let cache = Arc::new(SecretCache::new(scene.store.clone(), CachePolicy::default()));
    scene.rotator = scene.rotator.clone().with_cache(cache.clone());
    assert_eq!(cache.get(&name()).await.unwrap().version(), Version(1));
    scene.rotator.rotate(&scene.plan, &Request::emergency("leaked")).await;
    assert_eq!(cache.get(&name()).await.unwrap().version(), Version(2));
    assert!(matches!(cache.get_version(&name(), Version(1)).await, Err(StoreError::Revoked { .. })));
}

#[tokio::test]
async fn many_secrets_are_rotated_at_once_within_the_bound_and_reported_in_order() {
    struct Counting(AtomicUsize, AtomicUsize);
    #[async_trait]
    impl RotationKind for Counting {
        async fn create(&self, _: &Context) -> Result<SecretValue, KindError> {
            let now = self.0.fetch_add(1, Ordering::SeqCst) + 1;
            self.1.fetch_max(now, Ordering::SeqCst);
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
            self.0.fetch_sub(1, Ordering::SeqCst);
            Ok("new".into())
        }
        async fn test(&self, _: &Context, _: &Secret) -> Result<(), KindError> {
            Ok(())
        }
    }
    let scene = scene().await;
    let kind = Arc::new(Counting(AtomicUsize::new(0), AtomicUsize::new(0)));
    let mut plans = Vec::new();
    for at in 0..20 {
        let name = SecretName::new(format!("s/{at}")).unwrap();
        scene.store.write(&name, &"old".into(), Version::NONE).await.unwrap();
        plans.push(Plan { name, kind: kind.clone(), subscribers: Vec::new(), overlap: Duration::ZERO });
    }
    let names: Vec<SecretName> = plans.iter().map(|plan| plan.name.clone()).collect();
    let reports = scene.rotator.rotate_all(plans, &Request { parallel: 4, ..normal() }).await;
    assert_eq!(reports.rotations.iter().map(|report| report.name.clone()).collect::<Vec<_>>(), names);
    assert!(reports.rotations.iter().all(Report::is_complete));
    assert_eq!(kind.1.load(Ordering::SeqCst), 4);
}

/// In an emergency a subscriber that is slow to answer doesn't hold back the other secrets.
#[tokio::test(start_paused = true)]
async fn slow_subscribers_of_one_secret_do_not_hold_back_the_next() {
    /// Answers only after all secrets have a new version.
    struct Patient(Arc<MemoryStore>);
    #[async_trait]
    impl Delivery for Patient {
        async fn run_id(&self, _: &str) -> Result<String, String> {
            Ok("run-1".to_owned())
        }
        async fn signal(&self, _: &str, _: &str) -> Result<(), String> {
            for name in self.0.list().await.unwrap() {
                while self.0.read(&name, None).await.unwrap().info.version < Version(2) {
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
            }
            Ok(())
        }
        async fn replace_file(&self, _: &str, _: &str, _: &SecretValue) -> Result<(), String> {
            Ok(())
        }
    }
    let scene = scene().await;
    let rotator = Rotator::new(scene.store.clone(), notifier(Arc::new(Patient(scene.store.clone()))));
    let mut plans = vec![scene.plan.clone()];
    for other in ["a", "b"] {
        let name = SecretName::new(other).unwrap();
        scene.store.write(&name, &"old".into(), Version::NONE).await.unwrap();
        plans.push(Plan { name, kind: Arc::new(Generate::default()), ..scene.plan.clone() });
    }
    for plan in &mut plans {
        plan.subscribers = vec![Subscriber::Signal { signal: "HUP".into(), workload: "agent".into() }];
    }
    let request = Request { parallel: 1, ..Request::emergency("leaked") };
    let reports = rotator.rotate_all(plans, &request).await;
    assert!(
        reports.rotations.iter().all(|report| report.is_complete() && report.notified[0].acknowledged),
        "{reports:?}"
    );
}
