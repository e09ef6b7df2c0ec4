//! Faults at every operation, crashes at every await, racing hosts, and random courses of events.

use proptest::prelude::*;

use super::*;

/// The number of store operations of a whole rotation, so that a fault can be planted at each.
async fn operations_of(request: &Request) -> usize {
    let scene = scene().await;
    scene.store.heal();
    scene.rotator.rotate(&scene.plan, request).await;
    scene.store.operations()
}

/// At each operation the store fails once or for good, with the operation done or not. Whatever it is, one version that
/// works is in force all the time; and after the store is back, the next call ends it.
#[tokio::test]
async fn a_fault_at_any_operation_leaves_a_working_version_and_the_next_call_ends_it() {
    for request in [normal(), Request::emergency("leaked")] {
        for at in 0..operations_of(&request).await {
            for (fault, for_good) in
                [(Fault::Before, false), (Fault::After, false), (Fault::Before, true), (Fault::After, true)]
            {
                let scene = scene().await;
                scene.store.plan(move |operation| match operation {
                    _ if operation == at => fault,
                    _ if operation > at && for_good => Fault::Before,
                    _ => Fault::None,
                });
                let report = scene.rotator.rotate(&scene.plan, &request).await;
                scene.store.heal();
                scene.check_in_force().await;
                let document = scene.document().await;
                if report.promoted {
                    assert_eq!(Some(document.current_version()), report.to_version, "at {at} {fault:?}");
                }
                let resumed = scene.rotator.resume(&scene.plan, &request).await.unwrap();
                if let Some(resumed) = resumed {
                    assert!(resumed.is_complete() && resumed.old_revoked, "at {at} {fault:?}: {resumed:?}");
                }
                scene.check_settled().await;
                // And the secret can be rotated as ever, with nothing old left valid.
                let again = scene.rotator.rotate(&scene.plan, &Request::emergency("again")).await;
                assert!(again.is_complete() && again.old_revoked, "at {at} {fault:?}: {again:?}");
                scene.check_settled().await;
                assert_eq!(scene.service.accepted.lock().unwrap().len(), 1, "at {at} {fault:?} {for_good}");
            }
        }
    }
}

/// The rotating task is dropped at each of its awaits, as a crash would.
#[tokio::test]
async fn a_crash_at_any_await_is_ended_by_the_next_call() {
    let mut polls = 0;
    loop {
        let scene = scene().await;
        let (rotator, plan) = (scene.rotator.clone(), scene.plan.clone());
        let request = normal();
        let finished = {
            let mut rotation = std::pin::pin!(rotator.rotate(&plan, &request));
            let mut left = polls;
            std::future::poll_fn(|context| {
                if left == 0 {
                    return std::task::Poll::Ready(false);
                }
                left -= 1;
                rotation.as_mut().poll(context).map(|_| true)
            })
            .await
        };
        scene.check_in_force().await;
        scene.rotator.resume(&scene.plan, &request).await.unwrap();
        scene.check_settled().await;
        if finished {
            break;
        }
        polls += 1;
    }
    assert!(polls > 10, "only {polls} awaits were met");
}

/// Two hosts rotate the same secret at once, again and again: one winner each time, and no error that a person must repair.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_rotators_make_one_winner_and_no_error() {
    let scene = scene().await;
    for round in 0..150 {
        let rotators: Vec<_> = (0..3)
            .map(|_| {
                let rotator = Rotator::new(scene.store.clone(), notifier(Arc::new(NoWorkloads)));
                let (plan, request) = (scene.plan.clone(), normal());
                tokio::spawn(async move { rotator.rotate(&plan, &request).await })
            })
            .collect();
        let before = scene.document().await.current_version();
        for rotator in rotators {
            let report = rotator.await.unwrap();
            assert!(report.promoted && report.error.is_none(), "round {round}: {report:?}");
        }
        scene.check_settled().await;
        let document = scene.document().await;
        assert!(document.current_version() > before || before > Version(1));
        let ids: Vec<_> = document.versions().filter_map(|info| info.rotation_id).collect();
        let distinct: BTreeSet<_> = ids.iter().collect();
        assert_eq!(ids.len(), distinct.len(), "one rotation made two versions");
        assert_eq!(scene.service.accepted.lock().unwrap().len(), 1, "a withdrawn or old value still works");
    }
}

/// A rotator that is slow finds its version promoted by a second one, and revoked by a third that has promoted a newer one.
#[tokio::test]
async fn a_rotator_that_was_outdone_twice_reports_what_is_in_force() {
    /// The others are faster than the step of this name, the first time.
    struct Slow(Arc<Service>, Arc<MemoryStore>, &'static str, AtomicUsize);
    impl Slow {
        async fn wait(&self, step: &str) {
            if step != self.2 || self.3.fetch_add(1, Ordering::SeqCst) > 0 {
                return;
            }
            let plan = Plan { name: name(), kind: self.0.clone(), subscribers: Vec::new(), overlap: Duration::ZERO };
            let others = Rotator::new(self.1.clone(), notifier(Arc::new(NoWorkloads)));
            for expected in [Version(2), Version(3)] {
                assert_eq!(others.rotate(&plan, &normal()).await.to_version, Some(expected));
            }
        }
    }
    #[async_trait]
    impl RotationKind for Slow {
        async fn create(&self, context: &Context) -> Result<SecretValue, KindError> {
            self.0.create(context).await
        }
        async fn set(&self, context: &Context, new: &Secret, old: Option<&Secret>) -> Result<(), KindError> {
            self.wait("set").await;
            self.0.set(context, new, old).await
        }
        async fn test(&self, context: &Context, new: &Secret) -> Result<(), KindError> {
            self.wait("test").await;
            self.0.test(context, new).await
        }
        async fn finish(&self, context: &Context, new: &Secret) -> Result<(), KindError> {
            self.0.finish(context, new).await
        }
        async fn revoke(&self, context: &Context, old: &Secret) -> Result<(), KindError> {
            self.0.revoke(context, old).await
        }
        async fn withdraw(&self, context: &Context, new: &Secret, old: Option<&Secret>) -> Result<(), KindError> {
            self.0.withdraw(context, new, old).await
        }
    }
    for step in ["set", "test"] {
        for request in [normal(), Request::emergency("leaked")] {
            let mut scene = scene().await;
            scene.plan.kind = Arc::new(Slow(scene.service.clone(), scene.store.clone(), step, AtomicUsize::new(0)));
            let report = scene.rotator.rotate(&scene.plan, &request).await;
            assert!(report.promoted && report.error.is_none(), "{step}: {report:?}");
            let told = (report.to_version, report.old_revoked, report.still_exposed);
            assert_eq!(told, (Some(Version(3)), true, false));
            scene.check_settled().await;
            assert_eq!(scene.service.accepted.lock().unwrap().len(), 1, "{step}: an old value still works");
        }
    }
}

/// As above with a service that refuses now and then: no rotator takes back what another has promoted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn racing_rotators_that_fail_now_and_then_keep_a_working_version() {
    struct Moody(Arc<Service>, AtomicUsize);
    #[async_trait]
    impl RotationKind for Moody {
        async fn create(&self, context: &Context) -> Result<SecretValue, KindError> {
            self.0.create(context).await
        }
        async fn set(&self, context: &Context, new: &Secret, old: Option<&Secret>) -> Result<(), KindError> {
            self.0.set(context, new, old).await
        }
        async fn test(&self, context: &Context, new: &Secret) -> Result<(), KindError> {
            if self.1.fetch_add(1, Ordering::SeqCst) % 3 == 1 {
                return Err(KindError("not in the mood".to_owned()));
            }
            self.0.test(context, new).await
        }
        async fn revoke(&self, context: &Context, old: &Secret) -> Result<(), KindError> {
            self.0.revoke(context, old).await
        }
        async fn withdraw(&self, context: &Context, new: &Secret, old: Option<&Secret>) -> Result<(), KindError> {
            tokio::task::yield_now().await;
            self.0.withdraw(context, new, old).await
        }
    }
    let mut scene = scene().await;
    scene.plan.kind = Arc::new(Moody(scene.service.clone(), AtomicUsize::new(0)));
    for _ in 0..100 {
        let rotators: Vec<_> = (0..3)
            .map(|_| {
                let (rotator, plan) = (scene.rotator.clone(), scene.plan.clone());
                tokio::spawn(async move { rotator.rotate(&plan, &normal()).await })
            })
            .collect();
        for rotator in rotators {
            let report = rotator.await.unwrap();
            assert!(report.promoted || report.error.is_some(), "{report:?}");
        }
        scene.check_settled().await;
        assert_eq!(scene.service.accepted.lock().unwrap().len(), 1, "a withdrawn or old value still works");
    }
}

/// Anything that can happen to a secret, in any order.
#[derive(Debug, Clone)]
enum Happening {
    Rotate { emergency: bool, withdraw: bool },
    Put,
    Resume { withdraw: bool },
    Expire,
    Fails(&'static str),
}

fn happening() -> impl Strategy<Value = Happening> {
    let steps = prop::sample::select(vec!["nothing", "create", "set", "test", "finish", "revoke"]);
    prop_oneof![
        4 => (any::<bool>(), any::<bool>()).prop_map(|(emergency, withdraw)| Happening::Rotate { emergency, withdraw }),
        1 => Just(Happening::Put),
        2 => any::<bool>().prop_map(|withdraw| Happening::Resume { withdraw }),
        1 => Just(Happening::Expire),
        2 => steps.prop_map(Happening::Fails),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]
    #[test]
    fn any_course_of_events_keeps_one_working_version(
        course in prop::collection::vec((happening(), prop::option::of((0usize..25, any::<bool>(), any::<bool>()))), 1..12),
        overlap in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let mut scene = scene().await;
            scene.plan.overlap = if overlap { Duration::from_nanos(1) } else { Duration::ZERO };
            let mut highest = Version(1);
            for (what, fault) in course {
                match fault {
                    None => scene.store.heal(),
                    Some((at, done, for_good)) => scene.store.plan(move |operation| match operation {
                        _ if operation == at && done => Fault::After,
                        _ if operation == at || (operation > at && for_good) => Fault::Before,
                        _ => Fault::None,
                    }),
                }
                happen(&scene, what).await;
                scene.store.heal();
                scene.check_in_force().await;
                let document = scene.document().await;
                assert!(document.current_version() >= highest, "a version was taken back");
                highest = document.current_version();
                assert!(document.versions().count() <= 20);
            }
            scene.service.fail_at("nothing");
            let last = scene.rotator.rotate(&scene.plan, &Request::emergency("last")).await;
            assert!(last.is_complete() && last.old_revoked, "{last:?}");
            scene.check_settled().await;
            let document = scene.document().await;
            let valid = document.versions().filter(|info| info.state != VersionState::Revoked).count();
            assert_eq!(valid, 1);
            // What was made by a rotation and is not in force works nowhere any more.
            let made = |value: &&Vec<u8>| value.starts_with(b"planted-secret-");
            assert_eq!(scene.service.accepted.lock().unwrap().iter().filter(made).count(), 1);
        });
    }
}

async fn happen(scene: &Scene, what: Happening) {
    let pending = |withdraw| if withdraw { OnPending::Withdraw } else { OnPending::Resume };
    match what {
        Happening::Rotate { emergency, withdraw } => {
            let mode = if emergency { Mode::Emergency } else { Mode::Normal };
            let request = Request { mode, on_pending: pending(withdraw), ..normal() };
            scene.rotator.rotate(&scene.plan, &request).await;
        }
        Happening::Put => {
            let Ok(document) = scene.store.load(&name()).await else { return };
            // Sometimes the same value again.
            let value = SecretValue::from(format!("put by hand {}", scene.service.made.load(Ordering::SeqCst) / 2));
            // Whoever puts a password has set it at the service.
            scene.service.accepted.lock().unwrap().insert(value.expose().to_vec());
            let _ = scene.store.write(&name(), &value, document.unwrap().current_version()).await;
        }
        Happening::Resume { withdraw } => {
            let request = Request { on_pending: pending(withdraw), ..normal() };
            let _ = scene.rotator.resume(&scene.plan, &request).await;
        }
        Happening::Expire => {
            let _ = scene.rotator.expire(&scene.plan, &normal()).await;
        }
        Happening::Fails(step) => scene.service.fail_at(step),
    }
}
