//! Capture: the evidence, while there is a tree to look at. The stop waits for it no longer than its limit.

use super::{Conclusion, Stage};
use crate::actions::{Actions, Order};

pub(crate) struct Capture;

impl Stage for Capture {
    fn act(&self, actions: &dyn Actions, order: &Order, _targets: &[String]) -> Conclusion {
        actions.capture(order).into()
    }
}
