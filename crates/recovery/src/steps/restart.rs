//! Restart: the workloads are started again, after a person said so, on data and keys that are known to be right.

use super::{Conclusion, Gate, Stage};
use crate::actions::{Actions, Order};
use crate::incident::{Incident, Step};

pub(crate) struct Restart;

impl Stage for Restart {
    fn gate(&self, incident: &Incident, index: usize) -> Gate {
        let before = &incident.steps[..index];
        if let Some(fault) = before.iter().find(|step| step.falls_short()) {
            let kind = fault.kind;
            return Gate::Closed(format!(
                "the step '{kind}' was {}: start the workloads by hand when it is put right",
                fault.state
            ));
        }
        if before.iter().all(Step::is_settled) { Gate::Open } else { Gate::Waiting }
    }

    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.restart(order).into()
    }
}
