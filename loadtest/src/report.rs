//! The result, for human readers and for programs.

use std::{fmt::Write, io, path::Path, time::Duration};

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::record::Recorder;

/// A finished run.
#[derive(Debug)]
pub struct Summary {
    pub title: String,
    /// "closed" or "open at N/s".
    pub loop_kind: String,
    pub connections: usize,
    pub elapsed: Duration,
    /// Due in an open loop, but never started because the server was too slow.
    pub missed: u64,
    pub recorder: Recorder,
}

impl Summary {
    pub fn errors_total(&self) -> u64 {
        self.recorder.errors().values().sum()
    }
}

const PERCENTILES: [(&str, f64); 5] =
    [("p50", 50.0), ("p90", 90.0), ("p99", 99.0), ("p99.9", 99.9), ("max", 100.0)];

/// Percentiles in milliseconds, one line per operation.
pub fn text(summary: &Summary) -> String {
    let mut out = String::new();
    let seconds = summary.elapsed.as_secs_f64();
    let _ = writeln!(
        out,
        "{}: {} loop, {} connections, {seconds:.2} s",
        summary.title, summary.loop_kind, summary.connections
    );
    let _ = write!(out, "{:<12} {:>10} {:>10}", "operation", "count", "per s");
    for (name, _) in PERCENTILES {
        let _ = write!(out, " {:>9}", format!("{name} ms"));
    }
    out.push('\n');
    for (operation, histogram) in summary.recorder.operations() {
        let count = histogram.len();
        let _ = write!(out, "{operation:<12} {count:>10} {:>10.0}", count as f64 / seconds);
        for (_, percentile) in PERCENTILES {
            let _ = write!(out, " {:>9.3}", milliseconds(histogram, percentile));
        }
        out.push('\n');
    }
    if summary.missed > 0 {
        let _ = writeln!(
            out,
            "{} operations were due but never started: the server cannot sustain this rate",
            summary.missed
        );
    }
    for (error, count) in summary.recorder.errors() {
        let _ = writeln!(out, "error x {count}: {error}");
    }
    out
}

fn milliseconds(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    histogram.value_at_percentile(percentile) as f64 / 1000.0
}

#[derive(Serialize)]
struct JsonSummary<'a> {
    title: &'a str,
    #[serde(rename = "loop")]
    loop_kind: &'a str,
    connections: usize,
    elapsed_seconds: f64,
    missed: u64,
    operations: Vec<JsonOperation<'a>>,
    errors: &'a std::collections::BTreeMap<String, u64>,
}

#[derive(Serialize)]
struct JsonOperation<'a> {
    name: &'a str,
    count: u64,
    per_second: f64,
    mean_us: f64,
    p50_us: u64,
    p90_us: u64,
    p99_us: u64,
    p999_us: u64,
    max_us: u64,
}

pub fn write_json(path: &Path, summary: &Summary) -> io::Result<()> {
    let seconds = summary.elapsed.as_secs_f64();
    let operations = summary.recorder.operations().iter().map(|(name, histogram)| JsonOperation {
        name,
        count: histogram.len(),
        per_second: histogram.len() as f64 / seconds,
        mean_us: histogram.mean(),
        p50_us: histogram.value_at_percentile(50.0),
        p90_us: histogram.value_at_percentile(90.0),
        p99_us: histogram.value_at_percentile(99.0),
        p999_us: histogram.value_at_percentile(99.9),
        max_us: histogram.max(),
    });
    let json = JsonSummary {
        title: &summary.title,
        loop_kind: &summary.loop_kind,
        connections: summary.connections,
        elapsed_seconds: seconds,
        missed: summary.missed,
        operations: operations.collect(),
        errors: summary.recorder.errors(),
    };
    let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
    serde_json::to_writer_pretty(&mut file, &json)?;
    io::Write::flush(&mut file)
}
