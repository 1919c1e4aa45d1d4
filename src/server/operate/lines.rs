//! Answers about the queue as lines: text for people, objects of JSON for programs.
//!
//! Names of JSON fields are kept from version to version; fields may be added. Times are RFC 3339,
//! sizes octets, durations seconds.

use std::time::Duration;

use super::request::SHAPE_MINUTES;
use crate::{
    control::json,
    events::rfc3339,
    model::Timestamp,
    protocol::smtp::{BodyKind, Notify},
    queue::{
        Action, AgeShape, Envelope, Listed, ListedPart, Matches, Problem, Recipient, ShapeBy,
        SiteFacts, destination_of, domain_of_destination,
    },
};

/// Recipients of a message that a list names for people.
const RECIPIENTS_NAMED: usize = 3;

/// The destination of mailboxes here, in output.
const LOCAL: &str = "local";

/// A line of output for each line of `text`.
pub(super) fn output(text: &str) -> Vec<String> {
    text.lines().map(|line| format!("={}", clean(line))).collect()
}

/// Without what could end a line or a field.
fn clean(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

/// `3d`, `2h05m`, `12m`, `9s`.
pub(super) fn short_time(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m"),
        (0 | 1, ..) => format!("{hours}h{:02}m", minutes % 60),
        _ => format!("{days}d{:02}h", hours % 24),
    }
}

/// `17B`, `4.1KiB`.
pub(super) fn short_size(octets: u64) -> String {
    let mut size = octets as f64;
    for unit in ["B", "KiB", "MiB", "GiB"] {
        if size < 1024.0 {
            return if unit == "B" { format!("{octets}B") } else { format!("{size:.1}{unit}") };
        }
        size /= 1024.0;
    }
    format!("{size:.1}TiB")
}

fn since(then: Timestamp, now: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(now.0.saturating_sub(then.0)).unwrap_or(0))
}

/// `in 5m`, or `now`.
fn until(then: Timestamp, now: Timestamp) -> String {
    match since(now, then) {
        Duration::ZERO => "now".to_owned(),
        time => format!("in {}", short_time(time)),
    }
}

fn path(address: &str) -> String {
    format!("<{address}>")
}

fn domain(destination: &str) -> &str {
    if destination.is_empty() { LOCAL } else { domain_of_destination(destination) }
}

pub(super) fn problem_json(problem: Option<&Problem>) -> String {
    problem.map_or("null".to_owned(), |problem| {
        let times = problem.times.iter();
        let times: Vec<(&str, String)> =
            times.map(|(step, took)| (step.name(), format!("{:.6}", took.as_secs_f64()))).collect();
        json::object(&[
            ("time", time_json((problem.at != Timestamp::default()).then_some(problem.at))),
            ("status", json::text(&problem.status)),
            ("reason", json::text(&problem.reason)),
            ("host", json::optional(problem.host.as_deref())),
            ("is_reply", problem.is_reply.to_string()),
            ("times", json::object(&times)),
        ])
    })
}

fn time_json(time: Option<Timestamp>) -> String {
    time.map_or("null".to_owned(), |time| json::text(&rfc3339(time)))
}

/// Without the times: for lists.
fn problem_brief(problem: &Problem) -> String {
    let Problem { status, reason, host, .. } = problem;
    let host = host.as_ref().map(|host| format!(" from {host}")).unwrap_or_default();
    format!("{status}{host}: {reason}")
}

fn problem_text(problem: &Problem) -> String {
    let times = &problem.times;
    let times: Vec<String> =
        times.iter().map(|(step, took)| format!("{} {took:.1?}", step.name())).collect();
    let times = match times.is_empty() {
        true => String::new(),
        false => format!(" [{}]", times.join(", ")),
    };
    format!("{}{times}", problem_brief(problem))
}

fn part_json(part: &ListedPart) -> String {
    json::object(&[
        ("domain", json::text(domain(&part.destination))),
        ("site", json::optional(part.site.as_deref())),
        ("recipients", part.recipients.to_string()),
        ("state", json::text(part.phase)),
        ("next_attempt", time_json((part.phase != "held").then_some(part.next_attempt))),
        ("status", json::optional(Some(&*part.status).filter(|it| !it.is_empty()))),
        ("problem", problem_json(part.problem.as_ref())),
    ])
}

fn listed_fields(it: &Listed, now: Timestamp) -> Vec<(&'static str, String)> {
    let recipients: u64 = it.parts.iter().map(|part| u64::from(part.recipients)).sum();
    let addresses: Vec<String> = it.recipients.iter().map(|one| json::text(one)).collect();
    let all = addresses.len() as u64 == recipients;
    let parts: Vec<String> = it.parts.iter().map(part_json).collect();
    vec![
        ("id", json::text(&it.id.to_string())),
        ("arrived", time_json(Some(it.arrived))),
        ("age", since(it.arrived, now).as_secs().to_string()),
        ("expires", time_json(Some(it.expires))),
        ("octets", it.octets.to_string()),
        ("origin", json::text(it.origin.name())),
        ("priority", it.priority.to_string()),
        ("held", it.held.to_string()),
        ("sender", json::text(&it.sender)),
        ("recipient_count", recipients.to_string()),
        ("recipients", if all { json::list(&addresses) } else { "null".to_owned() }),
        ("destinations", json::list(&parts)),
    ]
}

fn part_text(part: &ListedPart, now: Timestamp) -> String {
    let at = part.site.as_ref().filter(|site| *site != &part.destination);
    let at = at.map(|site| format!(" at {site}")).unwrap_or_default();
    let state = match part.phase {
        "waiting" => format!("next attempt {}", until(part.next_attempt, now)),
        phase => phase.to_owned(),
    };
    let mut text = format!("{}{at}: {state}", domain(&part.destination));
    let shown = |problem: &&Problem| {
        !part.status.is_empty() || part.phase != "waiting" || !problem.reason.is_empty()
    };
    match part.problem.as_ref().filter(shown) {
        Some(problem) => text.push_str(&format!("; {}", problem_brief(problem))),
        None if !part.status.is_empty() => text.push_str(&format!("; {}", part.status)),
        None => {}
    }
    text
}

/// One message of a list.
pub(super) fn listed(it: &Listed, now: Timestamp, as_json: bool) -> Vec<String> {
    if as_json {
        return vec![format!("={}", json::object(&listed_fields(it, now)))];
    }
    let recipients: u64 = it.parts.iter().map(|part| u64::from(part.recipients)).sum();
    let to = match it.recipients.len() {
        0 => format!("{recipients} recipients"),
        1..=RECIPIENTS_NAMED => it.recipients.join(", "),
        all => {
            let named: Vec<&str> =
                it.recipients.iter().take(RECIPIENTS_NAMED).map(String::as_str).collect();
            format!("{} and {} more", named.join(", "), all - RECIPIENTS_NAMED)
        }
    };
    let mut text = format!(
        "{}  {}  {}  {}  {} -> {to}",
        it.id,
        short_time(since(it.arrived, now)),
        short_size(it.octets),
        it.origin.name(),
        path(&it.sender)
    );
    for part in &it.parts {
        text.push_str("\n    ");
        text.push_str(&clean(&part_text(part, now)));
    }
    output(&text)
}

/// A note: the conditions mean no message.
pub(super) const NO_MATCH: &str = "#no message matches";

/// The sums, behind a list of `shown` messages.
pub(super) fn rest(sums: &Matches, shown: u64, as_json: bool) -> Vec<String> {
    let Matches { messages, recipients, octets, .. } = sums;
    let all = format!(
        "{} with {}, {}",
        counted(*messages, "message"),
        counted(*recipients, "recipient"),
        short_size(*octets)
    );
    match messages.saturating_sub(shown) {
        0 if *messages == 0 => vec![NO_MATCH.to_owned()],
        0 if as_json => Vec::new(),
        0 => vec![format!("#{all}")],
        rest => vec![format!("#{rest} more are not shown (--limit 0 shows all); in all {all}")],
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

fn body_name(body: BodyKind) -> &'static str {
    match body {
        BodyKind::SevenBit => "7BIT",
        BodyKind::EightBitMime => "8BITMIME",
        BodyKind::BinaryMime => "BINARYMIME",
    }
}

fn notify_text(notify: Option<Notify>) -> Option<String> {
    Some(match notify? {
        Notify::Never => "NEVER".to_owned(),
        Notify::On { success, failure, delay } => {
            let names = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
            let on: Vec<&str> =
                names.iter().filter(|(is_on, _)| *is_on).map(|(_, name)| *name).collect();
            on.join(",")
        }
    })
}

/// The part of a list that a recipient belongs to.
fn part_of<'a>(listed: &'a Listed, recipient: &Recipient) -> Option<&'a ListedPart> {
    let destination = destination_of(recipient);
    listed.parts.iter().find(|part| part.destination == destination)
}

fn recipient_json(listed: &Listed, recipient: &Recipient) -> String {
    let part = part_of(listed, recipient);
    let next = part.filter(|part| part.phase != "held").map(|part| part.next_attempt);
    json::object(&[
        ("address", json::text(&recipient.address)),
        ("account", recipient.account.map_or("null".to_owned(), |it| it.to_string())),
        ("sender", json::optional(recipient.sender.as_deref())),
        ("original", json::optional(recipient.original.as_deref())),
        ("notify", json::optional(notify_text(recipient.notify).as_deref())),
        ("attempts", recipient.attempts.to_string()),
        ("state", json::optional(part.map(|part| part.phase))),
        ("next_attempt", time_json(next)),
        ("sender_warned", recipient.warned.to_string()),
        ("last_problem", problem_json(recipient.problem.as_ref())),
    ])
}

pub(super) fn site_json(site: &SiteFacts) -> String {
    json::object(&[
        ("name", json::text(&site.name)),
        ("ready", site.ready.to_string()),
        ("connections", site.connections.to_string()),
        ("connections_allowed", site.connections_allowed.to_string()),
        ("connections_max", site.connections_max.to_string()),
        ("messages_per_connection", site.messages_per_connection.to_string()),
        ("recipients_per_transaction", site.recipients_per_transaction.to_string()),
        ("rate", site.rate.to_string()),
        ("pause", site.pause.as_secs().to_string()),
        ("delivered", site.delivered.to_string()),
        ("deferred", site.deferred.to_string()),
        ("problem", problem_json(site.problem.as_ref())),
    ])
}

pub(super) fn site_text(site: &SiteFacts) -> String {
    let SiteFacts { name, ready, connections, connections_allowed, connections_max, .. } = site;
    let mut text = format!(
        "site {name}: {ready} ready, {connections} of {connections_allowed} connections (at most \
         {connections_max}), {} on each",
        counted(u64::from(site.messages_per_connection), "message")
    );
    if site.rate > 0 {
        text.push_str(&format!(", {} a minute", site.rate));
    }
    text.push_str(&format!("; {} delivered, {} deferred", site.delivered, site.deferred));
    if !site.pause.is_zero() {
        text.push_str(&format!("; no new connection for {}", short_time(site.pause)));
    }
    if let Some(problem) = &site.problem {
        text.push_str(&format!("; {}", clean(&problem_text(problem))));
    }
    text
}

/// One message in detail.
pub(super) fn shown(
    listed: &Listed,
    envelope: &Envelope,
    sites: &[SiteFacts],
    now: Timestamp,
    as_json: bool,
) -> Vec<String> {
    if as_json {
        let mut fields = listed_fields(listed, now);
        let recipients: Vec<String> =
            envelope.recipients.values().map(|it| recipient_json(listed, it)).collect();
        let sites: Vec<String> = sites.iter().map(site_json).collect();
        let text = |text: &str| json::optional(Some(text).filter(|text| !text.is_empty()));
        fields.extend([
            ("message", text(&envelope.id)),
            ("trail", text(&envelope.trail)),
            ("envelope_id", json::optional(envelope.envelope_id.as_deref())),
            ("body", json::text(body_name(envelope.body))),
            ("smtp_utf8", envelope.smtp_utf8.to_string()),
            ("require_tls", envelope.require_tls.to_string()),
            ("hold_until", time_json(envelope.hold_until)),
            ("deliver_by", time_json(envelope.deliver_by.map(|by| by.deadline))),
            ("recipients_left", json::list(&recipients)),
            ("sites", json::list(&sites)),
        ]);
        return vec![format!("={}", json::object(&fields))];
    }
    let mut text = format!("{}\n", listed.id);
    let mut row = |name: &str, value: String| {
        text.push_str(&format!("  {name:<11} {}\n", clean(&value)));
    };
    row("sender", format!("{} ({})", path(&listed.sender), listed.origin.name()));
    let age = short_time(since(listed.arrived, now));
    row("arrived", format!("{}, {age} ago", rfc3339(listed.arrived)));
    row("expires", format!("{}, {}", rfc3339(listed.expires), until(listed.expires, now)));
    let mut facts = vec![short_size(listed.octets), body_name(envelope.body).to_owned()];
    facts.extend(envelope.smtp_utf8.then(|| "SMTPUTF8".to_owned()));
    facts.extend(envelope.require_tls.then(|| "REQUIRETLS".to_owned()));
    facts.extend((listed.priority != 0).then(|| format!("priority {}", listed.priority)));
    row("message", facts.join(", "));
    for (name, value) in [("id", &envelope.id), ("trail", &envelope.trail)] {
        if !value.is_empty() {
            row(name, value.clone());
        }
    }
    if listed.held {
        row("held", "until it is released".to_owned());
    }
    if let Some(time) = envelope.hold_until.filter(|time| *time > now) {
        row("held", format!("until {}, as its sender asked", rfc3339(time)));
    }
    for recipient in envelope.recipients.values() {
        let attempts = counted(u64::from(recipient.attempts), "attempt");
        row("recipient", format!("{}, {attempts}", path(&recipient.address)));
        if let Some(problem) = &recipient.problem {
            let ago = short_time(since(problem.at, now));
            row("", format!("{ago} ago {}", problem_text(problem)));
        }
        if let Some(part) = part_of(listed, recipient) {
            row("", part_text(part, now));
        }
    }
    sites.iter().for_each(|site| row("limits", site_text(site)));
    output(&text)
}

/// As Postfix' qshape: a row for each domain, columns by age.
pub(super) fn shape(shape: &AgeShape, by: ShapeBy, as_json: bool) -> Vec<String> {
    let named = |name: &str| match (name, by) {
        ("", ShapeBy::Destination) => LOCAL.to_owned(),
        ("", ShapeBy::Sender) => "<>".to_owned(),
        (name, _) => name.to_owned(),
    };
    let rows = shape.rows.iter().map(|(name, counts)| (Some(named(name)), counts));
    let rows = std::iter::once((None, &shape.total)).chain(rows);
    let sum = |counts: &[u64]| counts.iter().sum::<u64>();
    let mut lines = Vec::new();
    if as_json {
        for (name, counts) in rows {
            let ages: Vec<String> = counts.iter().map(ToString::to_string).collect();
            let row = json::object(&[
                ("domain", json::optional(name.as_deref())),
                ("recipients", sum(counts).to_string()),
                ("by_age", json::list(&ages)),
            ]);
            lines.push(format!("={row}"));
        }
        return lines;
    }
    let edges: Vec<String> = SHAPE_MINUTES.iter().map(ToString::to_string).collect();
    let mut table = vec![[vec![String::new(), "T".to_owned()], edges].concat()];
    if let (Some(head), Some(last)) = (table.first_mut(), SHAPE_MINUTES.last()) {
        head.push(format!("{last}+"));
    }
    for (name, counts) in rows {
        let mut row = vec![name.unwrap_or_else(|| "TOTAL".to_owned()), sum(counts).to_string()];
        row.extend(counts.iter().map(ToString::to_string));
        table.push(row);
    }
    let widths: Vec<usize> = (0..SHAPE_MINUTES.len() + 3)
        .map(|at| {
            table
                .iter()
                .filter_map(|row| row.get(at))
                .map(|it| it.chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    for row in &table {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}")).collect();
        lines.push(format!("={}", clean(&cells.join(" "))));
    }
    let rest = shape.domains.saturating_sub(shape.rows.len() as u64);
    if rest > 0 {
        lines.push(format!("#{} not shown (--rows N shows more)", counted(rest, "more domain")));
    }
    lines
}

/// What an action did, or would do.
fn done_name(action: &Action) -> (&'static str, &'static str) {
    match action {
        Action::Flush => ("flush", "trying now"),
        Action::Hold => ("hold", "held"),
        Action::Release => ("release", "released"),
        Action::Requeue => ("requeue", "requeued"),
        Action::Cancel | Action::Drop { reason: None, .. } => ("cancel", "cancelled"),
        Action::Bounce(_) | Action::Drop { reason: Some(_), .. } => ("bounce", "returned"),
    }
}

/// The one recipient that an action concerns, as a field and in words.
fn only(action: &Action) -> (Option<(&'static str, String)>, String) {
    match action {
        Action::Drop { recipient, .. } => {
            (Some(("recipient", json::text(recipient))), format!(" <{recipient}> of"))
        }
        _ => (None, String::new()),
    }
}

/// What would be reached.
pub(super) fn would(action: &Action, sums: &Matches, now: Timestamp, as_json: bool) -> Vec<String> {
    let (name, _) = done_name(action);
    let (field, whom) = only(action);
    let Matches { listed, messages, recipients, octets } = sums;
    if as_json {
        let ids: Vec<String> = listed.iter().map(|it| json::text(&it.id.to_string())).collect();
        let mut fields = vec![
            ("verb", json::text(name)),
            ("dry_run", "true".to_owned()),
            ("messages", messages.to_string()),
            ("recipients", recipients.to_string()),
            ("octets", octets.to_string()),
            ("first", json::list(&ids)),
        ];
        fields.extend(field);
        let mut lines = vec![format!("={}", json::object(&fields))];
        lines.extend((*messages == 0).then(|| NO_MATCH.to_owned()));
        return lines;
    }
    if *messages == 0 {
        return vec![NO_MATCH.to_owned()];
    }
    let mut lines: Vec<String> =
        listed.iter().flat_map(|it| self::listed(it, now, false)).collect();
    let rest = messages.saturating_sub(listed.len() as u64);
    if rest > 0 {
        lines.push(format!("=and {rest} more"));
    }
    lines.push(format!(
        "=would {name}{whom} {} with {}, {}; nothing is done without --yes",
        counted(*messages, "message"),
        counted(*recipients, "recipient"),
        short_size(*octets)
    ));
    lines
}

/// How many messages an action reached.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub(super) struct Reached {
    pub done: u64,
    pub busy: u64,
    pub held: u64,
    pub gone: u64,
    pub failed: u64,
}

/// What was done.
pub(super) fn acted(action: &Action, reached: Reached, as_json: bool) -> Vec<String> {
    let (name, done) = done_name(action);
    let (field, whom) = only(action);
    let Reached { done: count, busy, held, gone, failed } = reached;
    let is_dropped = field.is_some();
    let mut lines = vec![match as_json {
        true => {
            let mut fields = vec![
                ("verb", json::text(name)),
                ("dry_run", "false".to_owned()),
                ("done", count.to_string()),
                ("busy", busy.to_string()),
                ("held", held.to_string()),
                ("gone", gone.to_string()),
                ("failed", failed.to_string()),
            ];
            fields.extend(field);
            format!("={}", json::object(&fields))
        }
        false => format!("={done}{whom} {}", counted(count, "message")),
    }];
    if gone > 0 && is_dropped {
        lines.push(format!("!{} had no such recipient (any more)", counted(gone, "message")));
    }
    if held > 0 {
        let those = counted(held, "message");
        lines.push(format!("#{those} on hold and not tried: \"queue release\" ends that"));
    }
    if busy > 0 {
        lines.push(format!("!{} being sent and left alone: try again", counted(busy, "message")));
    }
    if failed > 0 {
        let count = counted(failed, "message");
        lines.push(format!("!{count} could not be changed: the store refused it"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Origin, QueueId};

    fn message() -> Listed {
        let part = ListedPart {
            destination: "x.test".to_owned(),
            site: Some("mx.x.test".to_owned()),
            recipients: 1,
            next_attempt: Timestamp(400_000_000),
            phase: "waiting",
            status: "4.2.1".to_owned(),
            problem: None,
        };
        Listed {
            id: "0-9-41".parse::<QueueId>().unwrap(),
            arrived: Timestamp(0),
            octets: 4200,
            origin: Origin::Submission,
            priority: 0,
            held: false,
            expires: Timestamp(1_000_000_000),
            sender: "a@demo.test".to_owned(),
            recipients: vec!["b\n\"@x.test".to_owned()],
            parts: vec![part],
        }
    }

    #[test]
    fn a_message_is_an_object_or_two_lines() {
        let now = Timestamp(100_000_000);
        let object = concat!(
            r#"={"id":"0-9-41","arrived":"1970-01-01T00:00:00.000000Z","age":100,"#,
            r#""expires":"1970-01-01T00:16:40.000000Z","octets":4200,"origin":"submission","#,
            r#""priority":0,"held":false,"sender":"a@demo.test","recipient_count":1,"#,
            r#""recipients":["b\u000a\"@x.test"],"destinations":[{"domain":"x.test","#,
            r#""site":"mx.x.test","recipients":1,"state":"waiting","#,
            r#""next_attempt":"1970-01-01T00:06:40.000000Z","status":"4.2.1","problem":null}]}"#
        );
        assert_eq!(listed(&message(), now, true), [object]);
        let mut plain = message();
        plain.recipients = vec!["b@x.test".to_owned()];
        let text = [
            "=0-9-41  1m  4.1KiB  submission  <a@demo.test> -> b@x.test",
            "=    x.test at mx.x.test: next attempt in 5m; 4.2.1",
        ];
        assert_eq!(listed(&plain, now, false), text);
    }

    #[test]
    fn what_a_flush_does_not_try_is_told() {
        let reached = Reached { done: 2, held: 1, ..Reached::default() };
        let text = [
            "=trying now 2 messages",
            "#1 message on hold and not tried: \"queue release\" ends that",
        ];
        assert_eq!(acted(&Action::Flush, reached, false), text);
        let object =
            r#"={"verb":"flush","dry_run":false,"done":2,"busy":0,"held":1,"gone":0,"failed":0}"#;
        assert_eq!(acted(&Action::Flush, reached, true)[0], object);
    }

    #[test]
    fn a_shape_is_a_table() {
        let counts = |count: u64| [vec![count], vec![0; 9]].concat();
        let rows = vec![("x.test".to_owned(), counts(12)), (String::new(), counts(1))];
        let found = AgeShape { rows, total: counts(13), domains: 3 };
        let lines = shape(&found, ShapeBy::Destination, false);
        let expected = [
            "=        T  5 10 20 40 80 160 320 640 1280 1280+",
            "= TOTAL 13 13  0  0  0  0   0   0   0    0     0",
            "=x.test 12 12  0  0  0  0   0   0   0    0     0",
            "= local  1  1  0  0  0  0   0   0   0    0     0",
            "#1 more domain not shown (--rows N shows more)",
        ];
        assert_eq!(lines, expected);
        let lines = shape(&found, ShapeBy::Sender, true);
        assert_eq!(lines[0], r#"={"domain":null,"recipients":13,"by_age":[13,0,0,0,0,0,0,0,0,0]}"#);
        assert!(lines[2].starts_with(r#"={"domain":"<>","recipients":1,"#));
    }

    #[test]
    fn sizes_and_times_are_short() {
        for (seconds, text) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m"),
            (3599, "59m"),
            (7500, "2h05m"),
            (90_000, "25h00m"),
            (200_000, "2d07h"),
        ] {
            assert_eq!(short_time(Duration::from_secs(seconds)), text);
        }
        for (octets, text) in [(0, "0B"), (1023, "1023B"), (1536, "1.5KiB"), (1 << 50, "1024.0TiB")]
        {
            assert_eq!(short_size(octets), text);
        }
    }
}
