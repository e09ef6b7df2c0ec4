//! The system's own log, for a service whose standard error nobody sees.

use std::io;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::registry::LookupSpan;

use super::event_log::{Severity, Source};

/// What carries events to the Event Log; nothing if that is away, which ends no daemon.
pub(crate) fn layer<S: Subscriber + for<'a> LookupSpan<'a>>(service: &str) -> Option<impl Layer<S> + use<S>> {
    let source = Source::open(service).ok()?;
    // The Event Log has times and levels of its own.
    Some(tracing_subscriber::fmt::layer().with_ansi(false).without_time().with_level(false).with_writer(Events(source)))
}

struct Events(Source);

/// One event that is being written.
struct Event<'a>(&'a Source, Severity);

impl<'a> MakeWriter<'a> for Events {
    type Writer = Event<'a>;

    fn make_writer(&'a self) -> Event<'a> {
        Event(&self.0, Severity::Information)
    }

    fn make_writer_for(&'a self, event: &Metadata<'_>) -> Event<'a> {
        let severity = match *event.level() {
            Level::ERROR => Severity::Error,
            Level::WARN => Severity::Warning,
            _ => Severity::Information,
        };
        Event(&self.0, severity)
    }
}

/// An event is written in one piece.
impl io::Write for Event<'_> {
    fn write(&mut self, text: &[u8]) -> io::Result<usize> {
        self.0.report(self.1, String::from_utf8_lossy(text).trim_end())?;
        Ok(text.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
