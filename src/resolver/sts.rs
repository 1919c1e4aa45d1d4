//! MTA-STS policies and the record that announces them, as text (RFC 8461 3). Pure; `control::sts`
//! fetches them.

use std::time::Duration;

use super::Name;

/// Octets of a policy file that are read; a larger one is none (RFC 8461 3.3).
pub const POLICY_MAX: usize = 64 * 1024;

/// Patterns of hosts in one policy.
pub const PATTERNS_MAX: usize = 256;

/// Longest `max_age` (RFC 8461 3.2): a year, about.
const AGE_MOST: u64 = 31_557_600;

/// Octets of a policy's id (RFC 8461 3.1).
const ID_MAX: usize = 32;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    Enforce,
    /// Failures are reported and otherwise ignored.
    Testing,
    /// There is no policy any more.
    None,
}

impl Mode {
    pub fn name(self) -> &'static str {
        match self {
            Mode::Enforce => "enforce",
            Mode::Testing => "testing",
            Mode::None => "none",
        }
    }
}

/// A policy file (RFC 8461 3.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StsPolicy {
    pub mode: Mode,
    /// How long it is in force from when it was fetched.
    pub age: Duration,
    /// Host names, or `*.` and a name.
    pub hosts: Vec<String>,
    /// Its lines, for reports (RFC 8460 4.2).
    pub lines: Vec<String>,
}

/// The text is no policy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no valid MTA-STS policy: {0}")]
pub struct NoPolicy(pub &'static str);

impl StsPolicy {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<StsPolicy, NoPolicy> {
        if text.len() > POLICY_MAX {
            return Err(NoPolicy("too long"));
        }
        let (mut version, mut mode, mut age, mut hosts) = (None, None, None, Vec::new());
        let mut lines = Vec::new();
        for line in text.split('\n') {
            let line = line.strip_suffix('\r').unwrap_or(line).trim_end_matches([' ', '\t']);
            if line.is_empty() {
                continue;
            }
            let (key, value) = line.split_once(':').ok_or(NoPolicy("a line without a colon"))?;
            let value = value.trim_matches([' ', '\t']);
            lines.push(format!("{key}: {value}"));
            match key {
                // The first of several counts (RFC 8461 3.2).
                "version" => drop(version.get_or_insert(value)),
                "mode" => drop(mode.get_or_insert(value)),
                "max_age" => drop(age.get_or_insert(value)),
                "mx" if hosts.len() < PATTERNS_MAX => hosts.push(pattern(value)?),
                // Extensions.
                _ => {}
            }
        }
        if version != Some("STSv1") {
            return Err(NoPolicy("another version"));
        }
        let mode = match mode {
            Some("enforce") => Mode::Enforce,
            Some("testing") => Mode::Testing,
            Some("none") => Mode::None,
            _ => return Err(NoPolicy("no mode")),
        };
        let is_number = |text: &&str| {
            (1..=10).contains(&text.len()) && text.bytes().all(|octet| octet.is_ascii_digit())
        };
        let age: u64 = age.filter(is_number).and_then(|it| it.parse().ok()).unwrap_or(u64::MAX);
        if age == u64::MAX {
            return Err(NoPolicy("no max_age"));
        }
        if hosts.is_empty() && mode != Mode::None {
            return Err(NoPolicy("no mx"));
        }
        let age = Duration::from_secs(age.min(AGE_MOST));
        Ok(StsPolicy { mode, age, hosts, lines })
    }

    /// Whether mail may go to `host` (RFC 8461 4.1).
    pub fn lists(&self, host: &Name) -> bool {
        self.hosts.iter().any(|pattern| match pattern.strip_prefix("*.") {
            // One label in place of the asterisk.
            Some(parent) => host.as_str().split_once('.').is_some_and(|(_, rest)| rest == parent),
            None => host.as_str() == pattern,
        })
    }
}

/// An `mx` value, in the form of a [`Name`].
fn pattern(text: &str) -> Result<String, NoPolicy> {
    let (prefix, name) = match text.strip_prefix("*.") {
        Some(rest) => ("*.", rest),
        None => ("", text),
    };
    let name = Name::parse(name).map_err(|_| NoPolicy("an mx that is no host name"))?;
    Ok(format!("{prefix}{name}"))
}

/// The id in the TXT records of `_mta-sts.` and the domain (RFC 8461 3.1); `None` unless exactly
/// one of them announces a policy.
pub fn announced(records: &[String]) -> Option<&str> {
    let mut ours = records.iter().filter(|text| {
        let version = text.split(';').next().unwrap_or_default().trim_end();
        version == "v=STSv1"
    });
    let text = ours.next().filter(|_| ours.next().is_none())?;
    let fields = text.split(';').filter_map(|field| field.trim().split_once('='));
    let mut ids = fields.filter(|(key, _)| key.trim() == "id").map(|(_, value)| value.trim());
    let id = ids.next()?;
    let is_valid = (1..=ID_MAX).contains(&id.len());
    (is_valid && id.bytes().all(|octet| octet.is_ascii_alphanumeric())).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<StsPolicy, NoPolicy> {
        StsPolicy::parse(&text.replace('|', "\r\n"))
    }

    /// (policy, mode and hosts, or the error)
    const POLICIES: &[(&str, &str)] = &[
        (
            "version: STSv1|mode: enforce|mx: mx.example|mx: *.Example.NET|max_age: 86400|",
            "enforce 86400 mx.example *.example.net",
        ),
        ("version:STSv1|mode:\ttesting  |mx:a.example|max_age:1", "testing 1 a.example"),
        ("version: STSv1\nmode: none\nmax_age: 60\n", "none 60"),
        // The first of several; other keys are extensions.
        ("version: STSv1|mode: none|mode: enforce|max_age: 5|max_age: 6|new: x:y|", "none 5"),
        ("version: STSv1|mode: none|max_age: 4294967295|", "none 31557600"),
        ("version: STSv1|mode: enforce|max_age: 60", "no mx"),
        ("version: STSv2|mode: none|max_age: 60", "another version"),
        ("mode: none|max_age: 60", "another version"),
        ("version: STSv1|mode: force|mx: a.example|max_age: 60", "no mode"),
        ("version: STSv1|mode: enforce|mx: a.example", "no max_age"),
        ("version: STSv1|mode: enforce|mx: a.example|max_age: -1", "no max_age"),
        ("version: STSv1|mode: enforce|mx: a.example|max_age: 99999999999", "no max_age"),
        ("version: STSv1|mode: enforce|mx: a b|max_age: 60", "an mx that is no host name"),
        ("version: STSv1|mode: enforce|mx: *.|max_age: 60", "an mx that is no host name"),
        ("version: STSv1|rubbish|", "a line without a colon"),
        ("", "another version"),
    ];

    #[test]
    fn policies() {
        for (text, expected) in POLICIES {
            let said = match policy(text) {
                Ok(policy) => {
                    let mut said = format!("{} {}", policy.mode.name(), policy.age.as_secs());
                    policy.hosts.iter().for_each(|host| said.push_str(&format!(" {host}")));
                    said
                }
                Err(NoPolicy(what)) => what.to_owned(),
            };
            assert_eq!(said, *expected, "{text}");
        }
        let long = format!("version: STSv1|mode: none|max_age: 1|x: {}", "a".repeat(POLICY_MAX));
        assert_eq!(policy(&long), Err(NoPolicy("too long")));
        let many = "mx: a.example|".repeat(PATTERNS_MAX + 10);
        let many = policy(&format!("version: STSv1|mode: enforce|max_age: 1|{many}")).unwrap();
        assert_eq!(many.hosts.len(), PATTERNS_MAX);
    }

    #[test]
    fn hosts_of_a_policy() {
        let text = "version: STSv1|mode: enforce|mx: mx.example|mx: *.example.net|max_age: 1";
        let policy = policy(text).unwrap();
        for (host, expected) in [
            ("mx.example", true),
            ("MX.Example", true),
            ("a.example.net", true),
            ("a.b.example.net", false),
            ("example.net", false),
            ("a.mx.example", false),
            ("xexample.net", false),
        ] {
            assert_eq!(policy.lists(&Name::parse(host).unwrap()), expected, "{host}");
        }
    }

    #[test]
    fn announcements() {
        for (records, expected) in [
            (&["v=STSv1; id=20160831085700Z;"][..], Some("20160831085700Z")),
            (&["v=STSv1;id=a"], Some("a")),
            (&["v=spf1 -all", "v=STSv1; id=1; x=y"], Some("1")),
            (&["v=STSv1; x=y; id=1"], Some("1")),
            (&["v=STSv1; id=1", "v=STSv1; id=2"], None),
            (&["v=STSv10; id=1"], None),
            (&["v=STSv1"], None),
            (&["v=STSv1; id="], None),
            (&["v=STSv1; id=a-b"], None),
            (&["v=STSv1; id=012345678901234567890123456789012"], None),
            (&["id=1; v=STSv1"], None),
            (&[], None),
        ] {
            let records: Vec<String> = records.iter().map(|&text| text.to_owned()).collect();
            assert_eq!(announced(&records), expected, "{records:?}");
        }
    }
}
