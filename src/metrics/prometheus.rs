//! Prometheus' text format, version 0.0.4, with one series per shard; the reader sums them.

use std::{collections::BTreeSet, fmt::Write};

use super::{CommandSummary, ConnectionSummary, MetricsSnapshot, Protocol};

/// The prefix of every name.
const PREFIX: &str = "ringmail_";

/// Upper bounds of the latency buckets: in microseconds, and in seconds as written for Prometheus.
const BUCKETS: [(u64, &str); 18] = [
    (50, "0.00005"),
    (100, "0.0001"),
    (250, "0.00025"),
    (500, "0.0005"),
    (1_000, "0.001"),
    (2_500, "0.0025"),
    (5_000, "0.005"),
    (10_000, "0.01"),
    (25_000, "0.025"),
    (50_000, "0.05"),
    (100_000, "0.1"),
    (250_000, "0.25"),
    (500_000, "0.5"),
    (1_000_000, "1"),
    (2_500_000, "2.5"),
    (10_000_000, "10"),
    (60_000_000, "60"),
    (600_000_000, "600"),
];

/// The whole page; `shards` are (shard number, its snapshot).
pub fn render_prometheus(shards: &[(u16, MetricsSnapshot)]) -> String {
    let mut page = String::new();
    connections(&mut page, shards, "connections_open", "gauge", "Connections now open.", |it| {
        it.open
    });
    let help = "Connections accepted, or taken over from another shard.";
    connections(&mut page, shards, "connections_total", "counter", help, |it| it.total);
    command_latencies(&mut page, shards);
    plain_family(&mut page, shards, "counter", |snapshot| &snapshot.counters);
    plain_family(&mut page, shards, "gauge", |snapshot| &snapshot.gauges);
    labelled(&mut page, shards);
    page
}

fn connections(
    page: &mut String,
    shards: &[(u16, MetricsSnapshot)],
    name: &str,
    kind: &str,
    help: &str,
    value: impl Fn(&ConnectionSummary) -> u64,
) {
    header(page, name, kind, help);
    for (shard, snapshot) in shards {
        for (protocol, summary) in Protocol::ALL.into_iter().zip(&snapshot.connections) {
            let labels = [("shard", &*shard.to_string()), ("protocol", protocol.label())];
            sample(page, name, &labels, value(summary));
        }
    }
}

fn command_latencies(page: &mut String, shards: &[(u16, MetricsSnapshot)]) {
    const NAME: &str = "command_duration_seconds";
    header(page, NAME, "histogram", "From a command's parsing to its reply, in seconds.");
    for (shard, snapshot) in shards {
        for ((protocol, command), summary) in &snapshot.commands {
            let shard = shard.to_string();
            let labels = [("shard", &*shard), ("protocol", protocol.label()), ("command", command)];
            histogram(page, NAME, labels, summary);
        }
    }
}

fn histogram(page: &mut String, name: &str, labels: [(&str, &str); 3], summary: &CommandSummary) {
    let latency_us = &summary.latency_us;
    let [shard, protocol, command] = labels;
    let bucket = format!("{name}_bucket");
    let mut recorded = latency_us.iter_recorded().peekable();
    let mut below = 0;
    for (bound_us, bound) in BUCKETS {
        // A recorded value represents a range of less than one per cent; its lower end decides.
        while let Some(value) =
            recorded.next_if(|it| latency_us.lowest_equivalent(it.value_iterated_to()) <= bound_us)
        {
            below += value.count_at_value();
        }
        sample(page, &bucket, &[shard, protocol, command, ("le", bound)], below);
    }
    let count = latency_us.len();
    sample(page, &bucket, &[shard, protocol, command, ("le", "+Inf")], count);
    let seconds = summary.sum_us as f64 / 1e6;
    sample(page, &format!("{name}_sum"), &labels, seconds);
    sample(page, &format!("{name}_count"), &labels, count);
}

/// Counters or gauges with no label but the shard.
fn plain_family(
    page: &mut String,
    shards: &[(u16, MetricsSnapshot)],
    kind: &str,
    family: impl Fn(&MetricsSnapshot) -> &std::collections::BTreeMap<&'static str, u64>,
) {
    let names: BTreeSet<_> =
        shards.iter().flat_map(|(_, snapshot)| family(snapshot).keys().copied()).collect();
    for name in names {
        let words = name.trim_end_matches("_total").replace('_', " ");
        header(page, name, kind, &format!("{words}."));
        for (shard, snapshot) in shards {
            if let Some(value) = family(snapshot).get(name) {
                sample(page, name, &[("shard", &*shard.to_string())], value);
            }
        }
    }
}

/// Series with a label beside the shard.
fn labelled(page: &mut String, shards: &[(u16, MetricsSnapshot)]) {
    let names: BTreeSet<_> =
        shards.iter().flat_map(|(_, snapshot)| snapshot.labelled.keys().copied()).collect();
    for name in names {
        let found = |(shard, snapshot): &'_ (u16, MetricsSnapshot)| {
            Some((shard.to_string(), snapshot.labelled.get(name)?.clone()))
        };
        let series: Vec<(String, super::Labelled)> = shards.iter().filter_map(found).collect();
        let is_counter = series.iter().any(|(_, it)| it.is_counter);
        let words = name.trim_end_matches("_total").replace('_', " ");
        let kind = if is_counter { "counter" } else { "gauge" };
        header(page, name, kind, &format!("{words}."));
        for (shard, family) in &series {
            for (text, value) in &family.samples {
                sample(page, name, &[("shard", shard), (family.label, text)], value);
            }
        }
    }
}

fn header(page: &mut String, name: &str, kind: &str, help: &str) {
    let help = help.replace('\\', "\\\\").replace('\n', "\\n");
    page.push_str("# HELP ");
    metric_name(page, name);
    let _ = write!(page, " {help}\n# TYPE ");
    metric_name(page, name);
    let _ = writeln!(page, " {kind}");
}

fn sample(page: &mut String, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
    metric_name(page, name);
    for (index, (label, text)) in labels.iter().enumerate() {
        page.push(if index == 0 { '{' } else { ',' });
        let _ = write!(page, "{label}=\"");
        for c in text.chars() {
            match c {
                '\\' => page.push_str("\\\\"),
                '"' => page.push_str("\\\""),
                '\n' => page.push_str("\\n"),
                c => page.push(c),
            }
        }
        page.push('"');
    }
    let _ = writeln!(page, "}} {value}");
}

/// `[a-zA-Z_][a-zA-Z0-9_]*` with our prefix, whatever the counter's name is.
fn metric_name(page: &mut String, name: &str) {
    page.push_str(PREFIX);
    page.extend(name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{super::ShardMetrics, *};

    fn page() -> String {
        let shards = [ShardMetrics::new(), ShardMetrics::new()];
        shards[0].connection_opened(Protocol::Imap);
        for micros in [40, 100, 1_000, 1_001, 700_000_000] {
            shards[0].command(Protocol::Pop3, "RETR", Duration::from_micros(micros));
        }
        shards[0].count("smtp_messages_accepted_total", 3);
        shards[1].count("smtp_messages_accepted_total", 4);
        shards[1].gauge("store accounts\"", 9);
        let mut first = shards[0].snapshot();
        let samples = vec![("mx.\"a\"".to_owned(), 5), ("b".to_owned(), 0)];
        let family = super::super::Labelled { is_counter: true, label: "site", samples };
        first.labelled.insert("relay_site_delivered_total", family);
        render_prometheus(&[(0, first), (1, shards[1].snapshot())])
    }

    #[test]
    fn lines() {
        let page = page();
        const LINES: &[&str] = &[
            "# TYPE ringmail_connections_open gauge",
            "ringmail_connections_open{shard=\"0\",protocol=\"imap\"} 1",
            "ringmail_connections_total{shard=\"1\",protocol=\"smtp\"} 0",
            "# TYPE ringmail_command_duration_seconds histogram",
            "# HELP ringmail_smtp_messages_accepted_total smtp messages accepted.",
            "# TYPE ringmail_smtp_messages_accepted_total counter",
            "ringmail_smtp_messages_accepted_total{shard=\"0\"} 3",
            "ringmail_smtp_messages_accepted_total{shard=\"1\"} 4",
            "ringmail_store_accounts_{shard=\"1\"} 9",
            "# TYPE ringmail_relay_site_delivered_total counter",
            "ringmail_relay_site_delivered_total{shard=\"0\",site=\"mx.\\\"a\\\"\"} 5",
        ];
        for line in LINES {
            assert_eq!(page.lines().filter(|it| it == line).count(), 1, "{line} in\n{page}");
        }
    }

    #[test]
    fn buckets_are_cumulative() {
        let page = page();
        let value = |le: &str| {
            let start = format!(
                "ringmail_command_duration_seconds_bucket{{shard=\"0\",protocol=\"pop3\",\
                 command=\"RETR\",le=\"{le}\"}} "
            );
            page.lines().find_map(|line| line.strip_prefix(&start)).map(str::to_owned)
        };
        for (le, expected) in [
            ("0.00005", "1"),
            ("0.0001", "2"),
            ("0.0005", "2"),
            ("0.001", "4"),
            ("60", "4"),
            ("600", "5"),
            ("+Inf", "5"),
        ] {
            assert_eq!(value(le).as_deref(), Some(expected), "le {le}");
        }
        let labels = "{shard=\"0\",protocol=\"pop3\",command=\"RETR\"}";
        let name = "ringmail_command_duration_seconds";
        assert!(page.contains(&format!("{name}_sum{labels} 600.002141\n")), "{page}");
        assert!(page.contains(&format!("{name}_count{labels} 5\n")), "{page}");
    }

    #[test]
    fn labels_are_escaped() {
        let mut page = String::new();
        sample(&mut page, "x", &[("command", "a\"b\\c\nd")], 1);
        assert_eq!(page, "ringmail_x{command=\"a\\\"b\\\\c\\nd\"} 1\n");
    }
}
