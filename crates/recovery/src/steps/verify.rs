//! Verify: what was put right is checked, whatever the steps before it claim.

use super::{Conclusion, Gate, Stage};
use crate::actions::{Actions, Order};
use crate::incident::{Incident, Step};

pub(crate) struct Verify;

impl Stage for Verify {
    fn gate(&self, incident: &Incident, index: usize) -> Gate {
        if incident.steps[..index].iter().all(Step::is_settled) { Gate::Open } else { Gate::Waiting }
    }

    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.verify(order).into()
    }
}
