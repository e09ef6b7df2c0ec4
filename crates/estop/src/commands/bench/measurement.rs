//! One number of a bench, and how it is shown.

use serde::Serialize;

use crate::cli::output::{bytes, seconds};

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    Seconds,
    Bytes,
    Ratio,
    /// How many times as much.
    Times,
}

/// One number, beside what is aimed at.
#[derive(Debug, Serialize)]
pub(super) struct Measurement {
    pub(super) name: String,
    /// The middle one. `None`: it could not be measured; the detail says why.
    pub(super) value: Option<f64>,
    /// What 99 of 100 are not above; of fewer than 100, the highest.
    pub(super) p99: Option<f64>,
    pub(super) unit: Unit,
    pub(super) criterion: Option<String>,
    /// `None` where there is no criterion, or too little was measured to tell.
    pub(super) met: Option<bool>,
    pub(super) detail: String,
}

impl Measurement {
    /// The middle one of `values`, without a criterion.
    pub(super) fn middle(name: impl Into<String>, unit: Unit, mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let value = values.get(values.len().saturating_sub(1) / 2).copied();
        let p99 = values.get((values.len() * 99).div_ceil(100).saturating_sub(1)).copied().filter(|_| values.len() > 1);
        let shown = |number: Option<&f64>| number.map_or_else(String::new, |number| show(*number, unit));
        let detail = match values.len() {
            0 => "not measured".to_owned(),
            1 => "once".to_owned(),
            times => format!("p50 of {times}; {} to {}", shown(values.first()), shown(values.last())),
        };
        Self { name: name.into(), value, p99, unit, criterion: None, met: None, detail }
    }

    /// What could not be measured.
    pub(super) fn missing(name: impl Into<String>, unit: Unit, why: impl std::fmt::Display) -> Self {
        let detail = format!("not measured: {why}");
        Self { name: name.into(), value: None, p99: None, unit, criterion: None, met: None, detail }
    }

    /// It is to be below `limit`.
    pub(super) fn below(mut self, limit: f64) -> Self {
        self.criterion = Some(format!("< {}", show(limit, self.unit)));
        self.met = self.value.map(|value| value < limit);
        self
    }

    /// Says more of what was measured.
    pub(super) fn with(mut self, more: &str) -> Self {
        if self.value.is_some() && !more.is_empty() {
            self.detail = format!("{}; {more}", self.detail);
        }
        self
    }

    /// As a line of the table for people.
    pub(super) fn row(&self) -> Vec<String> {
        let number = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| show(value, self.unit));
        let met = match self.met {
            Some(true) => "yes",
            Some(false) => "NO",
            None => "-",
        };
        let criterion = self.criterion.clone().unwrap_or_else(|| "-".to_owned());
        vec![self.name.clone(), number(self.value), number(self.p99), criterion, met.to_owned(), self.detail.clone()]
    }
}

/// A number for a person.
pub(super) fn show(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Seconds => seconds(value),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a size, for a person")]
        Unit::Bytes => bytes(value as u64),
        Unit::Ratio => format!("{:.3} %", value * 100.0),
        Unit::Times => format!("{value:.2}×"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_and_the_highest_of_a_hundred_are_told() {
        let of = |count: u32| Measurement::middle("x", Unit::Seconds, (1..=count).rev().map(f64::from).collect());
        assert_eq!((of(1).value, of(1).p99), (Some(1.0), None), "of one there is no share");
        assert_eq!((of(5).value, of(5).p99), (Some(3.0), Some(5.0)));
        assert_eq!((of(200).value, of(200).p99), (Some(100.0), Some(198.0)));
        assert_eq!(of(0).value, None);
        assert_eq!(of(0).below(1.0).met, None, "what was not measured meets nothing");
    }
}
