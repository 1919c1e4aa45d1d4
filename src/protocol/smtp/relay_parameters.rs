//! The parameters of MAIL and RCPT for the next hop: what a queued message demands, written by each
//! RFC's own rules for what the peer offers.
//!
//! The relay calls it once it knows the peer's capabilities. Values come from the queued envelope,
//! were checked when they were received, and are written as they were. A demand that this peer
//! cannot meet is a [`Hindrance`], so that nothing is silently left out that its RFC does not allow
//! to be left out.

use std::{fmt::Write, time::Duration};

use super::{
    parameter::{BodyKind, Notify, Return, escape_utf8},
    timing::{ByMode, DeliverBy},
};

/// What of the peer's capabilities matters here.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Offers {
    /// RFC 1870.
    pub size: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 3030: BINARYMIME, and CHUNKING, without which it is of no use.
    pub binary_mime: bool,
    /// RFC 6531.
    pub smtp_utf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 8689: announced under TLS that was verified as the RFC demands.
    pub require_tls: bool,
    /// RFC 2852: the peer's minimum, seconds; 0 if it named none.
    pub deliver_by: Option<u32>,
    /// RFC 6710.
    pub mt_priority: bool,
}

/// A queued message's demands for its next transaction.
#[derive(Clone, Copy, Debug)]
pub struct Demands<'a> {
    /// Octets of the message as it is kept.
    pub size: u64,
    pub body: BodyKind,
    /// Its header or one of the addresses of this transaction is not ASCII.
    pub utf8: bool,
    pub ret: Option<Return>,
    /// xtext, as received.
    pub envelope_id: Option<&'a str>,
    pub require_tls: bool,
    pub deliver_by: Option<DeliverBy>,
    /// Since MAIL was received.
    pub elapsed: Duration,
    pub priority: Option<i8>,
}

/// Why the message must not be given to this peer. Another peer of the same domain may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hindrance {
    /// RFC 6531 3.2: the peer lacks SMTPUTF8.
    Utf8,
    /// RFC 8689 4.2.1: the peer lacks REQUIRETLS.
    RequireTls,
    /// RFC 2852 4: return was demanded, and the peer cannot be told of it.
    DeliverBy,
    /// RFC 2852 4: return was demanded, and no time is left, or less than the peer takes.
    TimeOver,
}

impl Hindrance {
    /// The enhanced status for the recipients' report.
    pub fn status(self) -> &'static str {
        match self {
            Hindrance::Utf8 => "5.6.7",
            Hindrance::RequireTls => "5.7.30",
            Hindrance::DeliverBy | Hindrance::TimeOver => "5.4.7",
        }
    }

    pub fn reason(self) -> &'static str {
        match self {
            Hindrance::Utf8 => "the mail server does not support SMTPUTF8",
            Hindrance::RequireTls => "the mail server does not support REQUIRETLS",
            Hindrance::DeliverBy => "the mail server does not support DELIVERBY",
            Hindrance::TimeOver => "the time for the delivery is over",
        }
    }
}

impl Demands<'_> {
    /// Appends the parameters of MAIL, each behind a space. Returns the kind of body that the peer
    /// takes: with [`BodyKind::SevenBit`] a message of another kind must be converted first.
    pub fn append_mail_parameters(
        &self,
        offers: &Offers,
        out: &mut String,
    ) -> Result<BodyKind, Hindrance> {
        if self.utf8 && !offers.smtp_utf8 {
            return Err(Hindrance::Utf8);
        }
        if self.require_tls && !offers.require_tls {
            return Err(Hindrance::RequireTls);
        }
        let by = self.remaining(offers)?;
        let body = self.transferable(offers);
        if offers.size && body == self.body {
            append(out, format_args!(" SIZE={}", self.size));
        }
        match body {
            BodyKind::SevenBit => {}
            BodyKind::EightBitMime => out.push_str(" BODY=8BITMIME"),
            BodyKind::BinaryMime => out.push_str(" BODY=BINARYMIME"),
        }
        if self.utf8 {
            out.push_str(" SMTPUTF8");
        }
        if offers.dsn {
            match self.ret {
                Some(Return::Full) => out.push_str(" RET=FULL"),
                Some(Return::Headers) => out.push_str(" RET=HDRS"),
                None => {}
            }
            if let Some(envelope_id) = self.envelope_id {
                append(out, format_args!(" ENVID={envelope_id}"));
            }
        }
        if self.require_tls {
            out.push_str(" REQUIRETLS");
        }
        if let Some(by) = by {
            let mode = if by.mode == ByMode::Return { 'R' } else { 'N' };
            let trace = if by.trace { "T" } else { "" };
            append(out, format_args!(" BY={};{mode}{trace}", by.seconds));
        }
        if let Some(priority) = self.priority.filter(|_| offers.mt_priority) {
            append(out, format_args!(" MT-PRIORITY={priority}"));
        }
        Ok(body)
    }

    /// RFC 6152 3, RFC 3030 3: content that the peer does not take is converted to 7-bit.
    fn transferable(&self, offers: &Offers) -> BodyKind {
        match self.body {
            BodyKind::EightBitMime if offers.eight_bit_mime => BodyKind::EightBitMime,
            BodyKind::BinaryMime if offers.binary_mime => BodyKind::BinaryMime,
            _ => BodyKind::SevenBit,
        }
    }

    /// BY for the peer: what is left of the time (RFC 2852 4).
    fn remaining(&self, offers: &Offers) -> Result<Option<DeliverBy>, Hindrance> {
        const SECONDS_LEAST: i64 = -999_999_999;
        let Some(by) = self.deliver_by else { return Ok(None) };
        let elapsed = i64::try_from(self.elapsed.as_secs()).unwrap_or(i64::MAX);
        let left = i64::from(by.seconds).saturating_sub(elapsed).max(SECONDS_LEAST);
        match (by.mode, offers.deliver_by) {
            (ByMode::Return, _) if left <= 0 => Err(Hindrance::TimeOver),
            (ByMode::Return, None) => Err(Hindrance::DeliverBy),
            (ByMode::Return, Some(least)) if left < i64::from(least) => Err(Hindrance::TimeOver),
            (ByMode::Notify, None) => Ok(None),
            // `left` is between the least and `by.seconds`.
            (_, Some(_)) => Ok(Some(DeliverBy { seconds: left as i32, ..by })),
        }
    }

    /// Whether the sender is to be told, by a report with the action "relayed", that the peer
    /// accepted the message for a recipient with this NOTIFY: because the peer will not tell
    /// (RFC 3461 5.2.2, RFC 2852 4), or because each relay is to be told.
    pub fn relay_is_reported(&self, notify: Option<Notify>, offers: &Offers) -> bool {
        match notify {
            Some(Notify::Never) => return false,
            Some(Notify::On { success: true, .. }) if !offers.dsn => return true,
            _ => {}
        }
        self.deliver_by.is_some_and(|by| by.trace || offers.deliver_by.is_none())
    }
}

/// Appends the parameters of RCPT (RFC 3461 5.2.1: as they were received), each behind a space.
pub fn append_recipient_parameters(
    original_recipient: Option<&str>,
    notify: Option<Notify>,
    offers: &Offers,
    out: &mut String,
) {
    if !offers.dsn {
        return;
    }
    match notify {
        None => {}
        Some(Notify::Never) => out.push_str(" NOTIFY=NEVER"),
        Some(Notify::On { success, failure, delay }) => {
            out.push_str(" NOTIFY");
            let words = [(success, "SUCCESS"), (failure, "FAILURE"), (delay, "DELAY")];
            for (index, (_, word)) in words.iter().filter(|(wanted, _)| *wanted).enumerate() {
                out.push(if index == 0 { '=' } else { ',' });
                out.push_str(word);
            }
        }
    }
    match original_recipient {
        None => {}
        Some(orcpt) if offers.smtp_utf8 => append(out, format_args!(" ORCPT={orcpt}")),
        // RFC 6533 3: the form for servers without SMTPUTF8.
        Some(orcpt) => append(out, format_args!(" ORCPT={}", escape_utf8(orcpt))),
    }
}

fn append(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _ = out.write_fmt(text);
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Offers = Offers {
        size: true,
        eight_bit_mime: true,
        binary_mime: true,
        smtp_utf8: true,
        dsn: true,
        require_tls: true,
        deliver_by: Some(0),
        mt_priority: true,
    };
    const PLAIN: Demands<'_> = Demands {
        size: 100,
        body: BodyKind::SevenBit,
        utf8: false,
        ret: None,
        envelope_id: None,
        require_tls: false,
        deliver_by: None,
        elapsed: Duration::ZERO,
        priority: None,
    };

    fn mail(demands: Demands<'_>, offers: Offers) -> Result<(BodyKind, String), Hindrance> {
        let mut out = String::new();
        let body = demands.append_mail_parameters(&offers, &mut out)?;
        // What we write, we read ourselves.
        assert!(super::super::MailParameters::parse(&out).is_ok(), "{out}");
        Ok((body, out))
    }

    #[test]
    fn everything_and_nothing() {
        let by = DeliverBy { seconds: 60, mode: ByMode::Return, trace: true };
        let full = Demands {
            body: BodyKind::EightBitMime,
            utf8: true,
            ret: Some(Return::Full),
            envelope_id: Some("x+2By"),
            require_tls: true,
            deliver_by: Some(by),
            elapsed: Duration::from_secs(20),
            priority: Some(-3),
            ..PLAIN
        };
        let expected = " SIZE=100 BODY=8BITMIME SMTPUTF8 RET=FULL ENVID=x+2By REQUIRETLS BY=40;RT \
                        MT-PRIORITY=-3";
        assert_eq!(mail(full, ALL), Ok((BodyKind::EightBitMime, expected.into())));
        assert_eq!(mail(PLAIN, Offers::default()), Ok((BodyKind::SevenBit, String::new())));
        let optional = Demands {
            ret: Some(Return::Headers),
            envelope_id: Some("x"),
            priority: Some(1),
            ..PLAIN
        };
        assert_eq!(mail(optional, Offers::default()), Ok((BodyKind::SevenBit, String::new())));
    }

    #[test]
    fn bodies() {
        use BodyKind::*;
        let cases = [
            (SevenBit, ALL, SevenBit, " SIZE=100"),
            (EightBitMime, ALL, EightBitMime, " SIZE=100 BODY=8BITMIME"),
            (EightBitMime, Offers { eight_bit_mime: false, ..ALL }, SevenBit, ""),
            (BinaryMime, ALL, BinaryMime, " SIZE=100 BODY=BINARYMIME"),
            (BinaryMime, Offers { binary_mime: false, ..ALL }, SevenBit, ""),
        ];
        for (body, offers, expected, parameters) in cases {
            assert_eq!(mail(Demands { body, ..PLAIN }, offers), Ok((expected, parameters.into())));
        }
    }

    #[test]
    fn hindrances() {
        let by = |seconds, mode, elapsed| Demands {
            deliver_by: Some(DeliverBy { seconds, mode, trace: false }),
            elapsed: Duration::from_secs(elapsed),
            ..PLAIN
        };
        use ByMode::*;
        let cases = [
            (Demands { utf8: true, ..PLAIN }, ALL, Ok(" SMTPUTF8")),
            (
                Demands { utf8: true, ..PLAIN },
                Offers { smtp_utf8: false, ..ALL },
                Err(Hindrance::Utf8),
            ),
            (
                Demands { require_tls: true, ..PLAIN },
                Offers { require_tls: false, ..ALL },
                Err(Hindrance::RequireTls),
            ),
            (by(60, Return, 59), ALL, Ok(" BY=1;R")),
            (by(60, Return, 60), ALL, Err(Hindrance::TimeOver)),
            (by(60, Return, 31), Offers { deliver_by: Some(30), ..ALL }, Err(Hindrance::TimeOver)),
            (by(60, Return, 0), Offers { deliver_by: None, ..ALL }, Err(Hindrance::DeliverBy)),
            (by(60, Notify, 90), ALL, Ok(" BY=-30;N")),
            (by(60, Notify, u64::MAX), ALL, Ok(" BY=-999999999;N")),
            (by(60, Notify, 90), Offers { deliver_by: Some(30), ..ALL }, Ok(" BY=-30;N")),
            (by(60, Notify, 0), Offers { deliver_by: None, ..ALL }, Ok("")),
        ];
        for (demands, offers, expected) in cases {
            let found = mail(demands, Offers { size: false, ..offers });
            let expected = expected.map(|text| (BodyKind::SevenBit, text.to_owned()));
            assert_eq!(found, expected, "{demands:?}");
        }
        assert_eq!(Hindrance::RequireTls.status(), "5.7.30");
    }

    #[test]
    fn recipients() {
        let on = |success, failure, delay| Some(Notify::On { success, failure, delay });
        let none = Offers { dsn: false, ..ALL };
        let ascii = Offers { smtp_utf8: false, ..ALL };
        let cases = [
            (None, None, ALL, ""),
            (Some("rfc822;a+2Bb@c"), on(true, true, true), none, ""),
            (
                Some("rfc822;a+2Bb@c"),
                on(true, true, true),
                ALL,
                " NOTIFY=SUCCESS,FAILURE,DELAY ORCPT=rfc822;a+2Bb@c",
            ),
            (Some("utf-8;é@c"), on(false, false, true), ALL, " NOTIFY=DELAY ORCPT=utf-8;é@c"),
            (Some("utf-8;é@c"), Some(Notify::Never), ascii, r" NOTIFY=NEVER ORCPT=utf-8;\x{E9}@c"),
        ];
        for (orcpt, notify, offers, expected) in cases {
            let mut out = String::new();
            append_recipient_parameters(orcpt, notify, &offers, &mut out);
            assert_eq!(out, expected);
            assert!(super::super::RecipientParameters::parse(&out).is_ok(), "{out}");
        }
    }

    #[test]
    fn relays_that_are_reported() {
        let on = |success| Some(Notify::On { success, failure: true, delay: false });
        let no_dsn = Offers { dsn: false, ..ALL };
        let no_by = Offers { deliver_by: None, ..ALL };
        let by = |trace| Demands {
            deliver_by: Some(DeliverBy { seconds: 9, mode: ByMode::Notify, trace }),
            ..PLAIN
        };
        assert!(PLAIN.relay_is_reported(on(true), &no_dsn));
        assert!(!PLAIN.relay_is_reported(on(true), &ALL));
        assert!(!PLAIN.relay_is_reported(on(false), &no_dsn));
        assert!(!PLAIN.relay_is_reported(None, &no_dsn));
        assert!(by(false).relay_is_reported(None, &no_by));
        assert!(by(true).relay_is_reported(None, &ALL));
        assert!(!by(false).relay_is_reported(None, &ALL));
        assert!(!by(true).relay_is_reported(Some(Notify::Never), &no_by));
    }
}
