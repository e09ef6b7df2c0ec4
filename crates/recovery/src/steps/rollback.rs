//! Rollback: one store is put back. Never under a living writer: without a proven stop it doesn't happen at all.

use super::{Conclusion, Gate, Stage};
use crate::actions::{Actions, Failure, Order};
use crate::incident::Incident;

pub(crate) struct Rollback;

impl Stage for Rollback {
    fn gate(&self, incident: &Incident, _index: usize) -> Gate {
        if incident.is_stop_proven() {
            Gate::Open
        } else {
            Gate::Closed("the stop is not proven: something that writes the store may be alive".into())
        }
    }

    fn act(&self, actions: &dyn Actions, order: &Order, targets: &[String]) -> Conclusion {
        match targets {
            [store] => actions.rollback(order, store).into(),
            _ => Conclusion::failed(Failure::new("the step does not name exactly one store; nothing was changed")),
        }
    }
}
