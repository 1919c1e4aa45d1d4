//! The limits of what is counted, the document and the mail of RFC 8460, and the records.

use serde_json::{Value, json};

use super::*;
use crate::model::Timestamp;

fn sts() -> Policy {
    let lines =
        ["version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"];
    Policy {
        kind: PolicyKind::Sts,
        lines: lines.map(str::to_owned).to_vec(),
        domain: "company-y.example".to_owned(),
        hosts: vec!["*.mail.company-y.example".to_owned()],
    }
}

fn failure(result_type: ResultType, sender: &str, host: &str) -> Failure {
    Failure {
        sending_mta_ip: Some(sender.parse().unwrap()),
        receiving_mx_hostname: Some(host.to_owned()),
        ..Failure::of(result_type)
    }
}

/// The numbers of RFC 8460 appendix B.
fn example() -> Aggregate {
    let mut all = Aggregate::default();
    let expired = failure(
        ResultType::CertificateExpired,
        "2001:db8:abcd:12::1",
        "mx1.mail.company-y.example",
    );
    let plain = Failure {
        receiving_ip: Some("203.0.113.56".parse().unwrap()),
        ..failure(
            ResultType::StarttlsNotSupported,
            "2001:db8:abcd:13::1",
            "mx2.mail.company-y.example",
        )
    };
    let other = Failure {
        receiving_ip: Some("203.0.113.58".parse().unwrap()),
        failure_reason_code: Some("X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED".to_owned()),
        ..failure(
            ResultType::ValidationFailure,
            "198.51.100.62",
            "mx-backup.mail.company-y.example",
        )
    };
    for (count, failure) in
        [(5326, None), (100, Some(expired)), (200, Some(plain)), (3, Some(other))]
    {
        for _ in 0..count {
            all.record("company-y.example", &sts(), failure.clone());
        }
    }
    all
}

fn report(content: &Domain) -> TlsReport<'_> {
    TlsReport {
        organization: "Company-X",
        contact: "sts-reporting@company-x.example",
        submitter: "company-x.example",
        domain: "company-y.example",
        id: "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
        begin: 1_459_468_800,
        end: 1_459_468_800 + 24 * 3600,
        content,
    }
}

/// RFC 8460 appendix B; the additional information there is optional.
#[test]
fn the_document_is_that_of_the_rfc() {
    let all = example();
    let written: Value =
        serde_json::from_str(&report(&all.domains["company-y.example"]).json()).unwrap();
    let expected = json!({
        "organization-name": "Company-X",
        "date-range": {
            "start-datetime": "2016-04-01T00:00:00Z",
            "end-datetime": "2016-04-01T23:59:59Z"
        },
        "contact-info": "sts-reporting@company-x.example",
        "report-id": "5065427c-23d3-47ca-b6e0-946ea0e8c4be",
        "policies": [{
            "policy": {
                "policy-type": "sts",
                "policy-string": [
                    "version: STSv1", "mode: testing", "mx: *.mail.company-y.example",
                    "max_age: 86400"
                ],
                "policy-domain": "company-y.example",
                "mx-host": ["*.mail.company-y.example"]
            },
            "summary": {
                "total-successful-session-count": 5326,
                "total-failure-session-count": 303
            },
            "failure-details": [{
                "result-type": "certificate-expired",
                "sending-mta-ip": "2001:db8:abcd:12::1",
                "receiving-mx-hostname": "mx1.mail.company-y.example",
                "failed-session-count": 100
            }, {
                "result-type": "starttls-not-supported",
                "sending-mta-ip": "2001:db8:abcd:13::1",
                "receiving-mx-hostname": "mx2.mail.company-y.example",
                "receiving-ip": "203.0.113.56",
                "failed-session-count": 200
            }, {
                "result-type": "validation-failure",
                "sending-mta-ip": "198.51.100.62",
                "receiving-ip": "203.0.113.58",
                "receiving-mx-hostname": "mx-backup.mail.company-y.example",
                "failed-session-count": 3,
                "failure-reason-code": "X509_V_ERR_PROXY_PATH_LENGTH_EXCEEDED"
            }]
        }]
    });
    assert_eq!(written, expected);
}

#[test]
fn names_are_those_of_the_registry() {
    for (result, name) in [
        (ResultType::StarttlsNotSupported, "starttls-not-supported"),
        (ResultType::CertificateHostMismatch, "certificate-host-mismatch"),
        (ResultType::CertificateExpired, "certificate-expired"),
        (ResultType::CertificateNotTrusted, "certificate-not-trusted"),
        (ResultType::ValidationFailure, "validation-failure"),
        (ResultType::TlsaInvalid, "tlsa-invalid"),
        (ResultType::DnssecInvalid, "dnssec-invalid"),
        (ResultType::StsPolicyFetchError, "sts-policy-fetch-error"),
        (ResultType::StsPolicyInvalid, "sts-policy-invalid"),
        (ResultType::StsWebpkiInvalid, "sts-webpki-invalid"),
    ] {
        assert_eq!(serde_json::to_value(result).unwrap(), name);
    }
    for (kind, name) in [
        (PolicyKind::Tlsa, "tlsa"),
        (PolicyKind::Sts, "sts"),
        (PolicyKind::NoPolicyFound, "no-policy-found"),
    ] {
        assert_eq!(serde_json::to_value(kind).unwrap(), name);
    }
    let none = serde_json::to_value(Policy::none("a.example")).unwrap();
    assert_eq!(none, json!({"policy-type": "no-policy-found", "policy-domain": "a.example"}));
}

#[test]
fn what_is_written_to_disk_is_read() {
    let mut all = example();
    all.record("other.example", &Policy::none("other.example"), None);
    let text = serde_json::to_string(&all).unwrap();
    let mut read: Aggregate = serde_json::from_str(&text).unwrap();
    read.measure();
    assert_eq!(read, all, "with the count of octets");
}

#[test]
fn shards_add_up() {
    let mut sum = example();
    sum.merge(example());
    sum.record("other.example", &Policy::none("other.example"), None);
    let domain = &sum.domains["company-y.example"];
    assert_eq!(domain.summary(), Summary { successes: 10_652, failures: 606 });
    assert_eq!(domain.policies.len(), 1);
    let counts: Vec<u64> =
        domain.policies[0].failure_details.iter().map(|it| it.sessions).collect();
    assert_eq!(counts, [200, 400, 6]);
    // The policy changed in the course of the day.
    let new = Policy { lines: vec!["version: STSv1".to_owned()], ..sts() };
    sum.record("company-y.example", &new, None);
    assert_eq!(sum.domains["company-y.example"].policies.len(), 2);
    assert_eq!(sum.not_counted, 0);
}

#[test]
fn memory_is_bounded_and_nothing_goes_uncounted() {
    let mut all = Aggregate::default();
    // Failures of one policy.
    let many = 3 * DETAILS_MAX as u64;
    for at in 0..many {
        let failure =
            failure(ResultType::ValidationFailure, "192.0.2.1", &format!("mx{at}.example"));
        all.record("a.example", &sts(), Some(failure));
    }
    let tally = &all.domains["a.example"].policies[0];
    assert_eq!(tally.summary.failures, many);
    assert_eq!(tally.failure_details.len(), DETAILS_MAX + 1);
    let rest = &tally.failure_details[DETAILS_MAX];
    assert_eq!(rest.failure, Failure::of(ResultType::ValidationFailure));
    assert_eq!(rest.sessions, many - DETAILS_MAX as u64);
    // Policies of one domain.
    for at in 0..100 {
        let policy = Policy { lines: vec![format!("version: {at}")], ..sts() };
        all.record("b.example", &policy, None);
    }
    let policies = &all.domains["b.example"].policies;
    assert_eq!(policies.len(), POLICIES_MAX + 1);
    assert_eq!(policies[POLICIES_MAX].policy, Policy::without_text(PolicyKind::Sts, "b.example"));
    assert_eq!(policies[POLICIES_MAX].summary.successes, 100 - POLICIES_MAX as u64);
    // Domains.
    for at in 0..DOMAINS_MAX + 5 {
        let name = format!("{at}.example");
        all.record(&name, &Policy::none(&name), None);
    }
    assert_eq!((all.domains.len(), all.not_counted), (DOMAINS_MAX, 7));
    // Text.
    let long = Policy { lines: vec!["x".repeat(3000); 3], ..sts() };
    all.record("b.example", &long.clone(), None);
    let mut one = Aggregate::default();
    one.record("a.example", &long, None);
    one.record("a.example", &long, None);
    assert_eq!(one.domains["a.example"].policies[0].policy.lines.len(), 1);
    assert_eq!(one.domains["a.example"].summary().successes, 2);
    let rude = Failure {
        failure_reason_code: Some("é\r\n".repeat(1000)),
        ..Failure::of(ResultType::ValidationFailure)
    };
    one.record("a.example", &long, Some(rude));
    let kept = one.domains["a.example"].policies[0].failure_details[0].failure.clone();
    let kept = kept.failure_reason_code.unwrap();
    assert!(kept.len() <= 256 && kept.chars().all(|it| it == 'é'), "{kept}");
}

#[test]
fn octets_are_bounded() {
    let mut all = Aggregate::default();
    let mut sessions = 0;
    let policy = Policy { lines: vec!["x".repeat(4000)], ..sts() };
    for at in 0..2 * OCTETS_MAX / 4000 {
        all.record(&format!("{at}.example"), &policy, None);
        sessions += 1;
    }
    let kept: u64 = all.domains.values().map(|it| it.summary().successes).sum();
    assert!(all.not_counted > 0);
    assert_eq!(kept + all.not_counted, sessions);
    assert!(serde_json::to_string(&all).unwrap().len() < OCTETS_MAX + 10_000);
}

#[test]
fn days_are_kept_apart() {
    assert_eq!(Day::of(1_459_468_800), Day(16_892));
    assert_eq!((Day(16_892).begin(), Day(16_892).end()), (1_459_468_800, 1_459_555_200));
    let mut collected = Collected::default();
    for day in [5, 3, 4, 6, 7, 5] {
        collected.day(Day(day)).record("a.example", &Policy::none("a.example"), None);
    }
    let days: Vec<(u32, u64)> = collected
        .into_days()
        .map(|(day, all)| (day.0, all.domains["a.example"].summary().successes))
        .collect();
    assert_eq!(days, [(4, 1), (5, 2), (6, 1), (7, 1)], "the oldest had to go");
}

#[test]
fn records() {
    for (records, expected) in [
        (&["v=TLSRPTv1;rua=mailto:reports@example.com"][..], "mailto:reports@example.com"),
        (
            &["v=TLSRPTv1; rua=https://reporting.example.com/v1/tlsrpt"],
            "https://reporting.example.com/v1/tlsrpt",
        ),
        (
            &["v=TLSRPTv1 ; rua = mailto:a@b.example , https://c.example:8443?x=1 ; new=1;"],
            "mailto:a@b.example https://c.example:8443/?x=1",
        ),
        (&["v=spf1 -all", "v=TLSRPTv1;rua=mailto:a@b.example"], "mailto:a@b.example"),
        (&["v=TLSRPTv1;rua=mailto:a%2cb@b.example"], ""),
        (&["v=TLSRPTv1;rua=mailto:a%2Bb@b.example?subject=x"], "mailto:a+b@b.example"),
        (&["v=TLSRPTv1;rua=MAILTO:a@b.example,mailto:a@b.example"], "mailto:a@b.example"),
        (
            &["v=TLSRPTv1;rua=https://C.example,https://d.example#f"],
            "https://c.example/ https://d.example/",
        ),
        // Two records, none, another version, nothing that can be used.
        (&["v=TLSRPTv1;rua=mailto:a@b.example", "v=TLSRPTv1;rua=mailto:c@d.example"], ""),
        (&[], ""),
        (&["v=TLSRPTv10;rua=mailto:a@b.example"], ""),
        (&["v=TLSRPTv1"], ""),
        (&["v=TLSRPTv1;"], ""),
        (&["rua=mailto:a@b.example;v=TLSRPTv1;"], ""),
        (&["v=TLSRPTv1;rua=http://c.example/,ftp://c.example/,c.example"], ""),
        (&["v=TLSRPTv1;rua=https://192.0.2.1/,https://[2001:db8::1]/,https://u@c.example/"], ""),
        (
            &["v=TLSRPTv1;rua=https://c.example:0/,https://c.example:99999/,https://c.example:x/"],
            "",
        ),
        (
            &[
                "v=TLSRPTv1;rua=mailto:a,mailto:a@b.example>,mailto:<a@b.example,mailto:a@[192.0.2.1]",
            ],
            "",
        ),
        (&["v=TLSRPTv1;rua=mailto:a%0d%0aDATA@b.example,mailto:a%2@b.example"], ""),
        (&["v=TLSRPTv1;rua=https://c.example/a b,https://c.example/\u{e9}"], ""),
        (
            &["v=TLSRPTv1;rua=mailto:a@b,mailto:b@b,mailto:c@b,mailto:d@b,mailto:e@b"],
            "mailto:a@b mailto:b@b mailto:c@b mailto:d@b",
        ),
    ] {
        let records: Vec<String> = records.iter().map(|&text| text.to_owned()).collect();
        let found: Vec<String> = endpoints(&records).iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected, "{records:?}");
        for text in &found {
            assert_eq!(Endpoint::parse(text).unwrap().to_string(), *text);
        }
    }
    let long = format!("v=TLSRPTv1;rua=https://c.example/{}", "a".repeat(2000));
    assert_eq!(endpoints(&[long]), []);
}

#[test]
fn the_mail_is_that_of_the_rfc() {
    let all = example();
    let report = report(&all.domains["company-y.example"]);
    let attachment = compress(&report.json());
    let mail = ReportMail {
        report,
        from: "tls@company-x.example",
        to: "reports@company-y.example",
        now: Timestamp::from_unix_seconds(1_459_555_300),
        attachment: &attachment,
    };
    let mut octets = Vec::new();
    mail.append_to(&mut octets);
    let text = String::from_utf8(octets.clone()).unwrap();
    assert!(text.is_ascii() && text.lines().all(|line| line.len() <= 200), "{text}");
    assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    for field in [
        "From: <tls@company-x.example>\r\n",
        "To: <reports@company-y.example>\r\n",
        "TLS-Report-Domain: company-y.example\r\n",
        "TLS-Report-Submitter: company-x.example\r\n",
        "TLS-Required: No\r\n",
    ] {
        assert!(text.contains(field), "{field}: {text}");
    }
    let parsed = mail_parser::MessageParser::default().parse(&octets).unwrap();
    assert_eq!(
        parsed.subject(),
        Some(
            "Report Domain: company-y.example Submitter: company-x.example Report-ID: \
             <5065427c-23d3-47ca-b6e0-946ea0e8c4be@company-x.example>"
        )
    );
    let kind = |part: &mail_parser::MessagePart<'_>| {
        use mail_parser::MimeHeaders;
        let found = part.content_type().unwrap();
        (found.ctype().to_owned(), found.subtype().unwrap().to_owned())
    };
    let root = &parsed.parts[0];
    assert_eq!(kind(root), ("multipart".to_owned(), "report".to_owned()));
    let part = &parsed.parts[2];
    assert_eq!(kind(part), ("application".to_owned(), "tlsrpt+gzip".to_owned()));
    use mail_parser::MimeHeaders;
    assert_eq!(root.content_type().unwrap().attribute("report-type"), Some("tlsrpt"));
    assert_eq!(
        part.attachment_name(),
        Some(
            "company-x.example!company-y.example!1459468800!1459555199!\
             5065427c23d347cab6e0946ea0e8c4be.json.gz"
        )
    );
    assert_eq!(part.contents(), attachment);
    let mut document = String::new();
    let mut decoder = flate2::read::GzDecoder::new(attachment.as_slice());
    std::io::Read::read_to_string(&mut decoder, &mut document).unwrap();
    assert_eq!(document, report.json());
}
