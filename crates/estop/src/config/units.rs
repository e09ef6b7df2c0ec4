//! How sizes, shares of a processor and lengths of time are written.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytesize::ByteSize;
use jiff::fmt::friendly::{SpanParser, SpanPrinter};
use jiff::{SignedDuration, SpanRelativeTo};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is no size, share or length of time. The first line says what is wrong, a second one what to write.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}\n{hint}")]
pub struct UnitError {
    message: String,
    hint: &'static str,
}

impl UnitError {
    fn new(message: String, hint: &'static str) -> Self {
        Self { message, hint }
    }
}

/// A number of bytes: `"2GiB"`, `"512 MB"`, or a plain integer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Size(u64);

const SIZE_HINT: &str = "write a number with a unit, such as \"512MiB\" or \"2GiB\", or a whole number of bytes";
/// Sizes above it are slips of the pen, and kernels count in signed numbers.
const LARGEST_SIZE: u64 = i64::MAX as u64;
const BINARY_UNITS: [(u64, &str); 6] =
    [(1 << 60, "EiB"), (1 << 50, "PiB"), (1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];

impl Size {
    /// This many bytes.
    pub const fn from_bytes(bytes: u64) -> Self {
        Self(bytes)
    }

    /// In bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    fn checked(bytes: u64, shown: &dyn fmt::Display) -> Result<Self, UnitError> {
        if bytes > LARGEST_SIZE {
            return Err(UnitError::new(format!("{shown} is more than the largest size, 8 EiB"), SIZE_HINT));
        }
        Ok(Self(bytes))
    }
}

impl FromStr for Size {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let trimmed = text.trim();
        if trimmed.starts_with('-') {
            return Err(UnitError::new(format!("a size can't be negative, as \"{text}\" is"), SIZE_HINT));
        }
        let size: ByteSize =
            trimmed.parse().map_err(|_| UnitError::new(format!("\"{text}\" is not a size"), SIZE_HINT))?;
        Self::checked(size.as_u64(), &format_args!("\"{text}\""))
    }
}

impl fmt::Display for Size {
    /// Exactly, in the largest unit that divides it: what is printed reads back as the same number.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let unit = BINARY_UNITS.iter().find(|(factor, _)| self.0 >= *factor && self.0.is_multiple_of(*factor));
        match unit {
            Some((factor, name)) => write!(out, "{}{name}", self.0 / factor),
            None => write!(out, "{}B", self.0),
        }
    }
}

/// The number of a text in percent, with its sign or without.
fn percent_of(text: &str) -> Option<f64> {
    let number = text.trim();
    number.strip_suffix('%').unwrap_or(number).trim_end().parse().ok()
}

/// A share of the processors in percent: 100 is one core busy. `"150%"`, or a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct CpuPercent(f64);

const CPU_HINT: &str = "100 is one core: write \"150%\" or 150 for one and a half";
/// More cores than any host has.
const LARGEST_CPU: f64 = 1e7;

impl CpuPercent {
    /// This many cores: 1.5 is 150 %.
    pub fn from_cores(cores: f64) -> Self {
        Self(cores * 100.0)
    }

    /// In percent of one core.
    pub const fn percent(self) -> f64 {
        self.0
    }

    /// In cores: 1.5 for 150 %.
    pub fn cores(self) -> f64 {
        self.0 / 100.0
    }

    fn checked(percent: f64) -> Result<Self, UnitError> {
        if percent.is_sign_negative() && percent != 0.0 {
            return Err(UnitError::new(
                format!("a share of the processors can't be negative, as {percent} is"),
                CPU_HINT,
            ));
        }
        if !(0.0..=LARGEST_CPU).contains(&percent) {
            return Err(UnitError::new(format!("{percent} is no share of the processors"), CPU_HINT));
        }
        Ok(Self(percent))
    }
}

impl FromStr for CpuPercent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let percent = percent_of(text)
            .ok_or_else(|| UnitError::new(format!("\"{text}\" is not a share of the processors"), CPU_HINT))?;
        Self::checked(percent)
    }
}

impl fmt::Display for CpuPercent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

/// A length of time: `"10m"`, `"1h 30m"`, `"250ms"`, `"30d"` (a day is 24 hours).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period(Duration);

const PERIOD_HINT: &str = "write numbers with units, such as \"10s\", \"5m\", \"1h 30m\" or \"30d\"";
/// A hundred years: more is a slip of the pen.
const LONGEST_PERIOD: Duration = Duration::from_hours(100 * 366 * 24);

impl Period {
    /// This many seconds.
    pub const fn from_secs(seconds: u64) -> Self {
        Self(Duration::from_secs(seconds))
    }

    /// So many milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(Duration::from_millis(milliseconds))
    }

    /// As the standard library's type.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl From<Duration> for Period {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl FromStr for Period {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let wrong = |what: &str| UnitError::new(format!("\"{text}\" {what}"), PERIOD_HINT);
        let span = SpanParser::new().parse_span(text.trim()).map_err(|_| wrong("is not a length of time"))?;
        if span.get_years() != 0 || span.get_months() != 0 {
            return Err(wrong("is no certain length of time, since months and years differ"));
        }
        let duration: SignedDuration =
            span.to_duration(SpanRelativeTo::days_are_24_hours()).map_err(|_| wrong("is too long a time"))?;
        let duration = Duration::try_from(duration).map_err(|_| wrong("is negative, and time is not"))?;
        if duration > LONGEST_PERIOD {
            return Err(wrong("is too long a time"));
        }
        Ok(Self(duration))
    }
}

impl fmt::Display for Period {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&SpanPrinter::new().unsigned_duration_to_string(&self.0))
    }
}

/// A number of things: of processes, of descriptors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Count(u64);

const COUNT_HINT: &str = "write a whole number";

impl Count {
    /// The number.
    pub const fn number(self) -> u64 {
        self.0
    }
}

impl From<u64> for Count {
    fn from(number: u64) -> Self {
        Self(number)
    }
}

impl FromStr for Count {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        text.trim().parse().map(Self).map_err(|_| UnitError::new(format!("\"{text}\" is no number"), COUNT_HINT))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}

/// A share of the time in percent: `"20%"`, or a number up to 100.
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(f64);

const PERCENT_HINT: &str = "shares go from 0 to 100 percent: write \"20%\" or 20 for a fifth";

impl Percent {
    /// As a share of one.
    pub fn share(self) -> f64 {
        self.0 / 100.0
    }

    fn checked(percent: f64) -> Result<Self, UnitError> {
        if (0.0..=100.0).contains(&percent) {
            return Ok(Self(percent));
        }
        Err(UnitError::new(format!("{percent} is no share"), PERCENT_HINT))
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let percent =
            percent_of(text).ok_or_else(|| UnitError::new(format!("\"{text}\" is no share"), PERCENT_HINT))?;
        Self::checked(percent)
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}%", self.0)
    }
}

struct Written<T>(std::marker::PhantomData<T>);

/// What they have in common when they are read.
pub(super) trait Unit: Sized + FromStr<Err = UnitError> {
    const EXPECTED: &'static str;
    fn from_integer(number: i128) -> Result<Self, UnitError>;
    fn from_float(number: f64) -> Result<Self, UnitError>;
}

impl Unit for Size {
    const EXPECTED: &'static str = "a size, such as \"2GiB\" or a number of bytes";

    fn from_integer(number: i128) -> Result<Self, UnitError> {
        let bytes = u64::try_from(number)
            .map_err(|_| UnitError::new(format!("a size can't be negative or endless, as {number} is"), SIZE_HINT))?;
        Self::checked(bytes, &bytes)
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        Err(UnitError::new(format!("{number} is not a whole number of bytes"), SIZE_HINT))
    }
}

impl Unit for CpuPercent {
    const EXPECTED: &'static str = "a share of the processors in percent, such as \"150%\" or 150";

    #[expect(clippy::cast_precision_loss, reason = "what is large enough to lose precision is refused as too large")]
    fn from_integer(number: i128) -> Result<Self, UnitError> {
        Self::checked(number as f64)
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        Self::checked(number)
    }
}

impl Unit for Period {
    const EXPECTED: &'static str = "a length of time in quotes, such as \"10m\"";

    fn from_integer(number: i128) -> Result<Self, UnitError> {
        Err(UnitError::new(format!("the length of time {number} has no unit"), PERIOD_HINT))
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        Err(UnitError::new(format!("the length of time {number} has no unit"), PERIOD_HINT))
    }
}

impl Unit for Count {
    const EXPECTED: &'static str = "a whole number";

    fn from_integer(number: i128) -> Result<Self, UnitError> {
        let number = u64::try_from(number).map_err(|_| {
            UnitError::new(format!("a number of things can't be negative or endless, as {number} is"), COUNT_HINT)
        })?;
        Ok(Self(number))
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        Err(UnitError::new(format!("{number} is no whole number"), COUNT_HINT))
    }
}

impl Unit for Percent {
    const EXPECTED: &'static str = "a share of the time in percent, such as \"20%\" or 20";

    #[expect(clippy::cast_precision_loss, reason = "what is large enough to lose precision is refused as too large")]
    fn from_integer(number: i128) -> Result<Self, UnitError> {
        Self::checked(number as f64)
    }

    fn from_float(number: f64) -> Result<Self, UnitError> {
        Self::checked(number)
    }
}

impl<T: Unit> Visitor<'_> for Written<T> {
    type Value = T;

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
        T::from_integer(number.into()).map_err(E::custom)
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
        T::from_integer(number.into()).map_err(E::custom)
    }

    fn visit_i128<E: serde::de::Error>(self, number: i128) -> Result<T, E> {
        T::from_integer(number).map_err(E::custom)
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<T, E> {
        T::from_float(number).map_err(E::custom)
    }
}

/// Reads a text, or a number where the unit allows it.
pub(super) fn read<'de, T: Unit, D: Deserializer<'de>>(deserializer: D) -> Result<T, D::Error> {
    deserializer.deserialize_any(Written(std::marker::PhantomData))
}

macro_rules! written {
    ($type:ident, $schema:tt) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read(deserializer)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!($schema)
            }
        }
    };
}

written!(Size, {
    "description": "A number of bytes: \"2GiB\", \"512MB\", or a whole number.",
    "type": ["string", "integer"],
    "minimum": 0
});
written!(CpuPercent, {
    "description": "A share of the processors in percent, 100 being one core: \"150%\", or a number.",
    "type": ["string", "number"],
    "minimum": 0
});
written!(Count, {
    "description": "A whole number.",
    "type": ["string", "integer"],
    "minimum": 0
});
written!(Percent, {
    "description": "A share of the time in percent: \"20%\", or a number.",
    "type": ["string", "number"],
    "minimum": 0,
    "maximum": 100
});
written!(Period, {
    "description": "A length of time: \"250ms\", \"10s\", \"5m\", \"1h 30m\", \"30d\".",
    "type": "string"
});

/// A program and its arguments, as an array: no shell stands between, so nothing has to be quoted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Command(Vec<String>);

impl Command {
    /// The program, as it was written; none if the array is empty.
    pub fn program(&self) -> Option<&str> {
        self.0.first().map(String::as_str)
    }

    /// The program and its arguments.
    pub fn argv(&self) -> &[String] {
        &self.0
    }
}

impl From<Vec<String>> for Command {
    fn from(argv: Vec<String>) -> Self {
        Self(argv)
    }
}

impl<'de> Deserialize<'de> for Command {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Argv;

        impl<'de> Visitor<'de> for Argv {
            type Value = Command;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a command as an array, such as [\"python3\", \"agent.py\"]")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Command, E> {
                let words: Vec<String> = text.split_whitespace().map(|word| format!("{word:?}")).collect();
                Err(E::custom(format_args!(
                    "a command is an array, not one string\nwrite [{}], or [\"sh\", \"-c\", \"…\"] if it needs a shell",
                    words.join(", ")
                )))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut words: A) -> Result<Command, A::Error> {
                let mut argv = Vec::new();
                while let Some(word) = words.next_element::<String>()? {
                    if word.contains('\0') {
                        return Err(A::Error::custom("a command can't hold a NUL character\nremove the \\u0000"));
                    }
                    argv.push(word);
                }
                Ok(Command(argv))
            }
        }

        deserializer.deserialize_any(Argv)
    }
}

impl JsonSchema for Command {
    fn schema_name() -> Cow<'static, str> {
        "Command".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A program and its arguments. No shell stands between.",
            "type": "array",
            "items": { "type": "string" },
            "minItems": 1
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_as_people_write_them() {
        for (text, bytes) in
            [("2GiB", 2 << 30), ("512 MB", 512_000_000), ("1.5KiB", 1536), ("17", 17), ("3b", 3), ("4g", 4_000_000_000)]
        {
            assert_eq!(text.parse::<Size>().map(Size::bytes), Ok(bytes), "{text}");
        }
        for text in ["", "-1", "-2GiB", "GiB", "2 apples", "99999999 EiB", "1e3"] {
            let error = text.parse::<Size>().unwrap_err();
            assert!(error.to_string().contains('\n'), "{text}: {error}");
        }
    }

    #[test]
    fn shares_of_the_processors() {
        for (text, percent) in [("150%", 150.0), ("12.5 %", 12.5), ("80", 80.0), ("0", 0.0)] {
            assert_eq!(text.parse::<CpuPercent>().map(CpuPercent::percent), Ok(percent), "{text}");
        }
        for text in ["", "-1%", "much", "NaN", "inf", "1e300"] {
            assert!(text.parse::<CpuPercent>().is_err(), "{text}");
        }
        assert!((CpuPercent::from_cores(1.5).cores() - 1.5).abs() < f64::EPSILON);
    }

    #[test]
    fn lengths_of_time() {
        for (text, seconds) in
            [("10s", 10.0), ("1h 30m", 5400.0), ("250ms", 0.25), ("30d", 2_592_000.0), ("1w", 604_800.0), ("0s", 0.0)]
        {
            let period: Period = text.parse().unwrap();
            assert!((period.duration().as_secs_f64() - seconds).abs() < 1e-9, "{text}");
        }
        for text in ["", "10", "-5s", "5s ago", "1 month", "2 years", "999999999h", "soon"] {
            assert!(text.parse::<Period>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn sizes_read_back(bytes in 0..=LARGEST_SIZE) {
            prop_assert_eq!(Size(bytes).to_string().parse::<Size>(), Ok(Size(bytes)));
        }

        #[test]
        fn round_sizes_read_back(number in 1_u64..8, unit in 0_usize..6) {
            let size = Size(number * BINARY_UNITS[unit].0);
            prop_assume!(size.0 <= LARGEST_SIZE);
            prop_assert_eq!(size.to_string().parse::<Size>(), Ok(size));
        }

        #[test]
        fn shares_read_back(percent in 0.0..LARGEST_CPU) {
            prop_assert_eq!(CpuPercent(percent).to_string().parse::<CpuPercent>(), Ok(CpuPercent(percent)));
        }

        #[test]
        fn lengths_read_back(seconds in 0..3_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
            let period = Period(Duration::new(seconds, nanos));
            prop_assert_eq!(period.to_string().parse::<Period>(), Ok(period));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = text.parse::<Size>();
            let _ = text.parse::<CpuPercent>();
            let _ = text.parse::<Period>();
        }
    }
}
