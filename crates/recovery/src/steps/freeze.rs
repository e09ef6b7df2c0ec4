//! Freeze: what stands still can neither spread nor hide, and the evidence is of one moment.

use super::{Conclusion, Stage};
use crate::actions::{Actions, Order};

pub(crate) struct Freeze;

impl Stage for Freeze {
    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.freeze(order).into()
    }
}
