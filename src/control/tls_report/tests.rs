//! Tests of counting, keeping and sending; no server is reached.

use std::cell::Cell;

use super::{state::DUE_MAX, *};
use crate::{
    control::{DnsOptions, Servers, dns},
    events::{self, Kinds},
    protocol::tls_report::{DOMAINS_MAX, Summary},
};

const DAY: Day = Day(20_000);

fn policy(domain: &str) -> Policy {
    Policy::none(domain)
}

fn state(domains: &[&str]) -> State {
    let mut state = State::default();
    for domain in domains {
        state.day(DAY).record(domain, &policy(domain), None);
    }
    state
}

fn due(state: &State) -> Vec<(&str, u64, u64, u64)> {
    state.due.iter().map(|it| (it.domain.as_str(), it.begin, it.end, it.at)).collect()
}

#[test]
fn a_day_becomes_reports_once_it_is_over() {
    let mut all = state(&["a.test", "b.test"]);
    let next = Day(DAY.0 + 1);
    all.day(next).record("a.test", &policy("a.test"), None);
    let now = DAY.end() + 100;
    let over = |day: Day| day.end() <= now;
    assert!(all.close(over, |_| true, now, |day| day.end() + 7));
    let (begin, end) = (DAY.begin(), DAY.end());
    assert_eq!(due(&all), [("a.test", begin, end, end + 7), ("b.test", begin, end, end + 7)]);
    assert_eq!(all.days.keys().copied().collect::<Vec<_>>(), [next.0]);
    assert!(!all.close(over, |_| true, now, |day| day.end() + 7), "only once");
    assert_ne!(all.due[0].id, all.due[1].id);
}

/// What is counted after an operator has sent reports is in further ones, which do not overlap.
#[test]
fn today_goes_on_after_its_reports_were_sent() {
    let mut all = state(&["a.test", "b.test"]);
    let noon = DAY.begin() + 43_200;
    assert!(all.close(|_| true, |name| name == "a.test", noon, |_| noon));
    assert_eq!(due(&all), [("a.test", DAY.begin(), noon, noon)]);
    // Those of other domains are still of the whole day.
    assert!(all.close(|_| true, |name| name == "b.test", noon + 5, |_| noon));
    all.day(DAY).record("a.test", &policy("a.test"), None);
    assert!(all.close(|day| day.end() <= DAY.end(), |_| true, DAY.end() + 1, |day| day.end()));
    assert_eq!(due(&all)[1], ("b.test", DAY.begin(), noon + 5, noon));
    assert_eq!(due(&all)[2], ("a.test", noon + 5, DAY.end(), DAY.end()));
    assert!(all.days.is_empty());
}

#[test]
fn reports_that_wait_are_bounded() {
    let mut all = State::default();
    for day in 0..3 {
        for at in 0..DOMAINS_MAX {
            let name = format!("{at}.test");
            all.day(Day(day)).record(&name, &policy(&name), None);
        }
    }
    assert!(all.close(|_| true, |_| true, u64::MAX, |_| 0));
    assert_eq!(all.due.len(), DUE_MAX);
    assert!(all.days.is_empty());
}

#[test]
fn pauses_grow() {
    let pauses: Vec<u64> = (1..=8).map(|it| pause(it).as_secs()).collect();
    assert_eq!(pauses, [300, 600, 1200, 2400, 4800, 9600, 14_400, 14_400]);
    assert_eq!(pause(u32::MAX), RETRY_LAST);
}

#[test]
fn requests_are_read_as_they_were_written() {
    for request in [
        TlsReportRequest::Show { json: true },
        TlsReportRequest::Show { json: false },
        TlsReportRequest::Send { domain: None, dry: true, json: false },
        TlsReportRequest::Send { domain: Some("a.test".to_owned()), dry: false, json: true },
    ] {
        assert_eq!(TlsReportRequest::parse(&request.line()), Some(request));
    }
    for line in ["tlsrpt", "tlsrpt\tshow", "tlsrpt\tdrop\tjson", "queue\tshow\tjson"] {
        assert_eq!(TlsReportRequest::parse(line), None, "{line}");
    }
}

struct NoMail;

impl Mailer for NoMail {
    fn submit(&self, _: ReportToSend) -> Submitted {
        Box::pin(std::future::ready(Err("full".to_owned())))
    }
}

fn reporter(folder: &Path) -> Arc<TlsReporter> {
    let nobody = DnsOptions { servers: Servers::These(Vec::new()), ..DnsOptions::default() };
    let (_, dns) = dns(&nobody).unwrap();
    let (events, _queue) = events::queue(Kinds::NONE);
    let options = TlsReportOptions {
        organization: "Us".to_owned(),
        contact: "postmaster@us.test".to_owned(),
        from: "tls@us.test".to_owned(),
        https: HttpsOptions::default(),
        delay: Duration::ZERO,
    };
    TlsReporter::new(options, folder.to_owned(), &dns, Box::new(NoMail), events)
}

fn run<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(work)
}

#[test]
fn what_is_kept_outlives_the_process() {
    let place = tempfile::tempdir().unwrap();
    let first = reporter(place.path());
    *first.state() = state(&["a.test", "b.test"]);
    let close = |state: &mut State| state.close(|_| true, |it| it == "a.test", u64::MAX, |_| 5);
    assert!(close(&mut first.state()));
    first.policy_failed(&Name::parse("c.test").unwrap(), ResultType::StsPolicyInvalid, "no mx");
    first.save();
    let second = reporter(place.path());
    assert_eq!(*second.state(), *first.state());
    let lines = tls_reports_at_rest(place.path(), true).unwrap();
    assert_eq!(lines.len(), 3, "{lines:?}");
    for line in &lines {
        let _: serde_json::Value = serde_json::from_str(line.strip_prefix('=').unwrap()).unwrap();
    }
    // Nothing changed: nothing is written.
    std::fs::remove_file(place.path().join(FILE)).unwrap();
    second.save();
    assert!(!place.path().join(FILE).exists());
}

#[test]
fn a_file_that_is_none_of_ours_is_begun_anew() {
    let place = tempfile::tempdir().unwrap();
    for text in ["", "{}", "rubbish", "{\"version\":9,\"days\":{},\"due\":[]}", "\u{0}"] {
        std::fs::write(place.path().join(FILE), text).unwrap();
        assert_eq!(*reporter(place.path()).state(), State::default(), "{text:?}");
        assert!(tls_reports_at_rest(place.path(), false).is_err());
    }
}

#[test]
fn a_report_that_cannot_be_sent_is_tried_for_a_day() {
    let place = tempfile::tempdir().unwrap();
    let reporter = reporter(place.path());
    for (left, reason) in [
        // The record cannot be looked up; the queue takes nothing; no server there.
        (None, "no DNS server is configured"),
        (Some(vec!["mailto:a@a.test".to_owned()]), "full"),
        (Some(vec!["https://a.test/x".to_owned()]), "a.test: no address"),
    ] {
        let attempts = Cell::new(0);
        *reporter.state() = state(&["a.test"]);
        assert!(reporter.close_days(now()));
        reporter.state().due[0].left = left;
        loop {
            // As if the time had passed.
            let Some(mut due) = reporter.state().begin(|_| true) else { break };
            let passed = (0..due.attempts).map(|it| pause(it + 1).as_secs()).sum::<u64>();
            due.first = due.first.map(|_| now() - passed);
            let results = run(reporter.attempt(due));
            attempts.set(attempts.get() + 1);
            assert_eq!(results.len(), 1);
            assert!(results[0].reason.as_ref().unwrap().contains(reason), "{results:?}");
            let is_left = !reporter.state().due.is_empty();
            assert_eq!(results[0].result, if is_left { "deferred" } else { "dropped" });
            assert!(attempts.get() < 20);
        }
        assert_eq!(attempts.get(), 11, "{reason}");
    }
    assert_eq!(reporter.counters.dropped.load(Ordering::Relaxed), 3);
}

#[test]
fn a_domain_without_endpoints_gets_nothing() {
    let place = tempfile::tempdir().unwrap();
    let reporter = reporter(place.path());
    *reporter.state() = state(&["a.test"]);
    assert!(reporter.close_days(now()));
    reporter.state().due[0].left = Some(Vec::new());
    let due = reporter.state().begin(|_| true).unwrap();
    let results = run(reporter.attempt(due));
    assert_eq!(results, [Sent { to: None, result: "unwanted", reason: None }]);
    assert!(reporter.state().due.is_empty());
}

#[test]
fn people_can_read_it() {
    let mut all = state(&["a.test"]);
    let failure = Failure {
        receiving_mx_hostname: Some("mx.a.test".to_owned()),
        failure_reason_code: Some("because".to_owned()),
        ..Failure::of(ResultType::CertificateNotTrusted)
    };
    all.day(DAY).record("a.test", &policy("a.test"), Some(failure));
    let sum = all.days[&DAY.0].counts.domains["a.test"].summary();
    assert_eq!(sum, Summary { successes: 1, failures: 1 });
    let lines = all.lines(0, false);
    assert_eq!(
        lines,
        [
            "=a.test  counting since 2024-10-04T00:00:00Z",
            "=  no policy of a.test: 1 succeeded, 1 failed",
            "=    1 certificate-not-trusted, mx.a.test, because",
        ]
    );
    assert_eq!(State::default().lines(0, false), ["=no sessions were counted"]);
}

/// Whatever numbers are in it.
#[test]
fn a_file_with_senseless_times_is_read_and_used() {
    for number in [0, 1, u64::MAX / 2, u64::MAX - 1, u64::MAX] {
        let mut all = state(&["a.test"]);
        all.close(|_| true, |_| true, number, |_| number);
        all.day(Day(u32::MAX)).record("b.test", &policy("b.test"), None);
        all.days.values_mut().for_each(|day| day.from = number);
        if let Some(due) = all.due.first_mut() {
            (due.begin, due.end, due.first) = (number, number, Some(number));
            (due.attempts, due.left) = (u32::MAX, Some(vec![String::new(), "x".repeat(5000)]));
        }
        let text = serde_json::to_string(&all).unwrap();
        let mut read: State = serde_json::from_str(&text).unwrap();
        for as_json in [false, true] {
            assert!(!read.lines(number, as_json).is_empty());
        }
        let first = read.due[0].first.unwrap();
        assert_eq!(is_over(first, number), number == u64::MAX);
        assert!(read.close(|_| true, |_| true, number, |day| day.end()));
        assert_eq!(read.due.len(), 2);
    }
}
