//! Random failures, crashes and full disks: what holds in all of them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

use estop_recovery::{Incident, IncidentStore, Outcome, StepState};
use proptest::prelude::*;
use support::{Fragile, Power, Scripted, Way, full_plan, open, saga};

const NAMES: [&str; 9] =
    ["latch", "freeze", "capture", "stop", "rollback kb", "rollback mail", "rotate", "verify", "restart"];

fn way() -> impl Strategy<Value = Way> {
    prop_oneof![4 => Just(Way::Well), 1 => Just(Way::Nothing), 1 => Just(Way::Badly), 1 => Just(Way::Unproven), 1 => Just(Way::Panics)]
}

fn ways() -> impl Strategy<Value = BTreeMap<String, Way>> {
    prop::collection::vec(way(), NAMES.len())
        .prop_map(|ways| NAMES.iter().map(|name| (*name).to_owned()).zip(ways).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_fails(ways in ways(), cuts in prop::collection::vec((0_usize..12, any::<bool>()), 0..5)) {
        let dir = tempfile::tempdir().unwrap();
        let store = IncidentStore::open(dir.path()).unwrap();
        let power = Power::default();
        let actions = Arc::new(Scripted { ways, power: power.clone(), ..Scripted::default() });
        let journal = |cut| Arc::new(Fragile { store: store.clone(), power: power.clone(), writes: AtomicUsize::new(0), cut });
        let mut settled: BTreeMap<String, StepState> = BTreeMap::new();

        // Lives that end by a power cut, then lives without one until all is over.
        let lives = cuts.into_iter().map(Some).chain([None; 4]);
        for cut in lives {
            power.on();
            let calls_before = actions.calls.lock().unwrap().len();
            match store.list().unwrap().incidents.into_iter().next() {
                None => drop(open(&saga(&journal(cut), &actions), &full_plan())),
                Some(incident) if incident.is_open() => {
                    let incident = if incident.awaits_approval() { store.approve(&incident.id.to_string(), None).unwrap() } else { incident };
                    drop(saga(&journal(cut), &actions).resume(incident).unwrap());
                }
                Some(_) => {}
            }
            let listing = store.list().unwrap();
            prop_assert!(listing.damaged.is_empty(), "the file can always be read");
            let Some(incident) = listing.incidents.into_iter().next() else { continue };
            for call in &actions.calls.lock().unwrap()[calls_before..] {
                prop_assert!(!settled.contains_key(&call.name), "{} was settled and was called again", call.name);
                prop_assert!(!call.name.starts_with("rollback") || call.stop_proven, "rollback without a proven stop");
            }
            for (name, state) in states_by_name(&incident) {
                if let Some(before) = settled.get(&name) {
                    prop_assert_eq!(*before, state, "{} changed after it was settled", name);
                }
                if state != StepState::Pending {
                    settled.insert(name, state);
                }
            }
        }

        let incident = store.list().unwrap().incidents.into_iter().next().unwrap();
        prop_assert!(incident.closed.is_some(), "finally closed: {:?}", incident);
        prop_assert!(incident.steps.iter().all(estop_recovery::Step::is_settled));
        let fell_short = incident.steps.iter().any(estop_recovery::Step::falls_short);
        prop_assert_eq!(incident.outcome == Some(Outcome::Partial), fell_short);
        let restarted = actions.names().contains(&"restart".to_owned());
        prop_assert!(!restarted || incident.steps[..8].iter().all(|step| !step.falls_short()), "restarted on something unsound");
    }
}

fn states_by_name(incident: &Incident) -> Vec<(String, StepState)> {
    NAMES.iter().map(|name| (*name).to_owned()).zip(incident.steps.iter().map(|step| step.state)).collect()
}
