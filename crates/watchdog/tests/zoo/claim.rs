//! As many stops as a claim needs: 30,000 without a survivor show with 95 % confidence that fewer than one in 10,000 fails.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::animals::NAMES;
use crate::keeper::{Housing, Keeper, judge};

static RUNNING: AtomicBool = AtomicBool::new(false);

/// Whether this is the count, and not the fast test.
pub(crate) fn is_running() -> bool {
    RUNNING.load(Ordering::Relaxed)
}

/// Goes on with the count of one housing, all animals in turn, for `ESTOP_ZOO_SECONDS` (60).
pub(crate) fn count(housing: Housing) {
    RUNNING.store(true, Ordering::Relaxed);
    let seconds = std::env::var("ESTOP_ZOO_SECONDS").map_or(60, |seconds| seconds.parse().unwrap());
    let path = std::env::var_os("ESTOP_ZOO_COUNTS").map(PathBuf::from);
    let mut counts = path.as_ref().map(|path| Counts::read(path, housing)).unwrap_or_default();
    let (begun, mut keeper) = (Instant::now(), Keeper::new());
    let first = usize::try_from(counts.stops).unwrap() % NAMES.len();
    for animal in NAMES.iter().cycle().skip(first) {
        if begun.elapsed() >= Duration::from_secs(seconds) {
            break;
        }
        let stopped = keeper.stop_once(housing, animal);
        let how = match (stopped.report.proven_empty, stopped.has_survivors()) {
            (true, _) => "proven",
            (false, true) => "survivor",
            (false, false) => "unproven",
        };
        counts.add(how);
        if let Some(path) = &path {
            let mut file = std::fs::OpenOptions::new().append(true).create(true).open(path).unwrap();
            writeln!(file, "{} {animal} {how}", housing.name()).unwrap();
        }
        // Counted before, whatever it was.
        judge(housing, animal, &stopped);
    }
    let failures = counts.of("survivor") + counts.of("unproven");
    println!(
        "{}: {} stops of {} animals, {} survivors, {} not proven and nobody found; fewer than {:.4} % of stops fail (95 % confidence)",
        housing.name(),
        counts.stops,
        NAMES.len(),
        counts.of("survivor"),
        counts.of("unproven"),
        upper_bound(counts.stops, failures) * 100.0
    );
}

/// What was counted.
#[derive(Default)]
struct Counts {
    stops: u64,
    by_end: BTreeMap<String, u64>,
}

impl Counts {
    /// What stands in the file: a line for each stop.
    fn read(path: &std::path::Path, housing: Housing) -> Self {
        let text = std::fs::read_to_string(path).unwrap_or_default();
        let mut counts = Self::default();
        let lines = text.lines().filter_map(|line| line.strip_prefix(housing.name())?.strip_prefix(' '));
        lines.filter_map(|line| line.split(' ').nth(1)).for_each(|how| counts.add(how));
        counts
    }

    fn add(&mut self, how: &str) {
        self.stops += 1;
        *self.by_end.entry(how.to_owned()).or_default() += 1;
    }

    fn of(&self, how: &str) -> u64 {
        self.by_end.get(how).copied().unwrap_or(0)
    }
}

/// The share of failures that is exceeded with a probability of 5 % at most, after `failures` of `trials` (Clopper and Pearson 1934).
#[expect(clippy::cast_precision_loss, reason = "numbers of trials are small")]
fn upper_bound(trials: u64, failures: u64) -> f64 {
    if trials == 0 || failures >= trials {
        return 1.0;
    }
    let at_most = |share: f64| {
        let mut term = (1.0 - share).ln() * trials as f64;
        let mut sum = term.exp();
        for k in 1..=failures {
            term += ((trials - k + 1) as f64 / k as f64 * share / (1.0 - share)).ln();
            sum += term.exp();
        }
        sum
    };
    let (mut low, mut high) = (0.0, 1.0);
    for _ in 0..60 {
        let middle = f64::midpoint(low, high);
        if at_most(middle) > 0.05 { low = middle } else { high = middle }
    }
    high
}
