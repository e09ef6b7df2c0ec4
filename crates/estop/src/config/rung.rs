//! A rung of a limit ladder: a value, or a share of the limit; at once, or when it has lasted.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use estop_watchdog::ladder::Step;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::units::{Percent, Period, Unit, UnitError, read};

/// A rung: `"1GiB"`, `"80% of max"`, `"150% for 30s"`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rung<T> {
    /// Where it is.
    pub at: At<T>,
    /// How long it must last without a pause.
    pub lasting: Option<Period>,
}

/// Where a rung is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum At<T> {
    /// At this value.
    Value(T),
    /// At this share of the limit beside it.
    OfMax(Percent),
}

/// What stands behind a share of the limit.
const OF_MAX: &str = " of max";
/// What stands before the time that it must last.
const FOR: &str = " for ";

impl<T> From<T> for Rung<T> {
    fn from(value: T) -> Self {
        Self { at: At::Value(value), lasting: None }
    }
}

impl<T: Copy> Rung<T> {
    /// As the guardian is told; `number` gives a value in the metric's unit.
    pub fn step(self, number: impl Fn(T) -> f64) -> Step {
        let (at, of_max) = match self.at {
            At::Value(value) => (number(value), false),
            At::OfMax(percent) => (percent.share(), true),
        };
        let for_seconds = self.lasting.map_or(0.0, |time| time.duration().as_secs_f64());
        Step { at, of_max, for_seconds }
    }
}

impl<T: FromStr<Err = UnitError>> FromStr for Rung<T> {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let (at, lasting) = match text.split_once(FOR) {
            Some((at, time)) => (at, Some(time.parse()?)),
            None => (text, None),
        };
        let at = match at.trim_end().strip_suffix(OF_MAX) {
            Some(share) => At::OfMax(share.parse()?),
            None => At::Value(at.parse()?),
        };
        Ok(Self { at, lasting })
    }
}

impl<T: fmt::Display> fmt::Display for Rung<T> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.at {
            At::Value(value) => value.fmt(out),
            At::OfMax(percent) => write!(out, "{percent}{OF_MAX}"),
        }?;
        self.lasting.map_or(Ok(()), |time| write!(out, "{FOR}{time}"))
    }
}

impl<T: Unit> Unit for Rung<T> {
    const EXPECTED: &'static str = T::EXPECTED;

    fn from_integer(number: i128) -> Result<Self, UnitError> {
        T::from_integer(number).map(Self::from)
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        T::from_float(number).map(Self::from)
    }
}

impl<'de, T: Unit> Deserialize<'de> for Rung<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        read(deserializer)
    }
}

impl<T: fmt::Display> Serialize for Rung<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<T: JsonSchema> JsonSchema for Rung<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("{}Rung", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<T>();
        json_schema!({
            "description": "A value, \"80% of max\" (of the limit beside it), or either of them with \" for 30s\" (without a pause).",
            "anyOf": [value, { "type": "string" }]
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::{CpuPercent, Size};

    #[test]
    fn rungs_read_back() {
        for text in ["1GiB", "80% of max", "1GiB for 30s", "12.5% of max for 1m 30s"] {
            assert_eq!(text.parse::<Rung<Size>>().unwrap().to_string(), text);
        }
        let rung: Rung<CpuPercent> = "90% for 30s".parse().unwrap();
        assert_eq!(rung.step(CpuPercent::cores), Step { at: 0.9, of_max: false, for_seconds: 30.0 });
        let rung: Rung<CpuPercent> = "90% of max".parse().unwrap();
        assert_eq!(rung.step(CpuPercent::cores), Step { at: 0.9, of_max: true, for_seconds: 0.0 });
        for wrong in ["80%", "101% of max", "1GiB for 30", "for 30s", "1GiB for"] {
            assert!(wrong.parse::<Rung<Size>>().is_err(), "{wrong}");
        }
    }
}
