//! Latch: nothing starts again until a reset. It comes first, so that nothing is started behind the stop's back.

use super::{Conclusion, Stage};
use crate::actions::{Actions, Order};

pub(crate) struct Latch;

impl Stage for Latch {
    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.latch(order).into()
    }
}
