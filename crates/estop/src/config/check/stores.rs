//! How stores are kept: how often a snapshot is made, and which remain.

use crate::config::{Config, KeyPath, Problem};

use super::interval;

pub(super) fn check(config: &Config, problems: &mut Vec<Problem>) {
    for (name, store) in &config.stores {
        let key = KeyPath::section("store").key(name);
        interval(store.snapshot_every, "snapshot_every", &key, problems);
        let keep = &store.keep;
        let counts = [
            ("last", keep.last),
            ("hourly", keep.hourly),
            ("daily", keep.daily),
            ("weekly", keep.weekly),
            ("monthly", keep.monthly),
        ];
        for (rule, _) in counts.into_iter().filter(|(_, count)| *count == Some(0)) {
            problems.push(Problem::at(
                key.clone().key("keep").key(rule),
                format!("keep.{rule} is 0: it would keep nothing"),
                "give it a number above zero, or remove it",
            ));
        }
    }
}
