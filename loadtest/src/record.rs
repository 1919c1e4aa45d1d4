//! Results, recorded per thread and merged at the end.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use hdrhistogram::Histogram;

/// Latencies above this are recorded as this.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// Latencies and errors by operation name.
#[derive(Debug, Default)]
pub struct Recorder {
    operations: BTreeMap<&'static str, Histogram<u64>>,
    /// The start of each error text, and how often it occurred.
    errors: BTreeMap<String, u64>,
}

impl Recorder {
    pub fn success(&mut self, operation: &'static str, latency: Duration) {
        let histogram = self.operations.entry(operation).or_insert_with(new_histogram);
        histogram.saturating_record((latency.as_micros() as u64).max(1));
    }

    /// With the address concerned: a run may fill one server and read from another.
    pub fn error(&mut self, operation: &str, address: SocketAddr, error: &anyhow::Error) {
        // Kept short and few: a million different messages must not become a million keys.
        let mut text = format!("{operation}: {address}: {error:#}");
        if let Some((cut, _)) = text.char_indices().nth(120) {
            text.truncate(cut);
        }
        let key = if self.errors.len() < 50 || self.errors.contains_key(&text) {
            text
        } else {
            "further errors".to_owned()
        };
        *self.errors.entry(key).or_default() += 1;
    }

    pub fn merge(&mut self, other: Recorder) {
        for (operation, histogram) in other.operations {
            let own = self.operations.entry(operation).or_insert_with(new_histogram);
            own.add(histogram).expect("all histograms have the same bounds");
        }
        for (error, count) in other.errors {
            *self.errors.entry(error).or_default() += count;
        }
    }

    pub fn operations(&self) -> &BTreeMap<&'static str, Histogram<u64>> {
        &self.operations
    }

    pub fn errors(&self) -> &BTreeMap<String, u64> {
        &self.errors
    }
}

fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LATENCY_US_MAX, 3).expect("the bounds are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_address() {
        let mut recorder = Recorder::default();
        let address = SocketAddr::from(([127, 0, 0, 1], 2024));
        let error = anyhow::anyhow!("the server closed the connection");
        recorder.error("connect", address, &error);
        let expected = "connect: 127.0.0.1:2024: the server closed the connection";
        assert_eq!(recorder.errors().keys().collect::<Vec<_>>(), [expected]);
    }
}
