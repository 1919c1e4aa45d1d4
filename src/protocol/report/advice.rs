//! What a report says to people: what happened, and what the sender can do.
//!
//! `protocol::report` wraps it and encodes it. The advice follows the status (RFC 3463), whose
//! subject and detail mean the same whoever gave them.

use super::{Action, RecipientReport, Returned, quotation, status, value};
use crate::protocol::mime::date::write_rfc5322;

/// The subject of a report: the worst of its news.
pub(super) fn subject(recipients: &[RecipientReport<'_>]) -> &'static str {
    let any = |action| recipients.iter().any(|recipient| recipient.action == action);
    if any(Action::Failed) {
        "Your message could not be delivered"
    } else if any(Action::Delayed) {
        "Your message is delayed"
    } else if any(Action::Relayed) {
        "Your message was passed on"
    } else {
        "Your message was delivered"
    }
}

/// The first paragraph.
pub(super) fn opening(hostname: &str, recipients: &[RecipientReport<'_>]) -> String {
    let all_failed = recipients.iter().all(|recipient| recipient.action == Action::Failed);
    let any = |action| recipients.iter().any(|recipient| recipient.action == action);
    let news = if all_failed && recipients.len() == 1 {
        "Your message could not be delivered, and no further attempt will be made."
    } else if all_failed {
        "Your message could not be delivered to the recipients below, and no further attempt will \
         be made for them."
    } else if any(Action::Failed) {
        "Your message could not be delivered to every recipient. Below is what became of each."
    } else if any(Action::Delayed) {
        "Your message has not been delivered yet. This is only a warning: attempts go on, and you \
         do not need to send the message again."
    } else {
        "You asked to be told what becomes of your message."
    };
    format!("This is the mail system at {hostname}. {news}")
}

/// The last paragraph.
pub(super) fn closing(returned: Returned) -> &'static str {
    match returned {
        Returned::Message => {
            "A technical report for mail programs and administrators and a copy of your message \
             are attached."
        }
        Returned::Header => {
            "A technical report for mail programs and administrators and the header of your \
             message are attached."
        }
        Returned::Nothing => "A technical report for mail programs and administrators is attached.",
    }
}

/// One paragraph for each recipient: what happened, in whose words, and what to do.
pub(super) fn paragraph(recipient: &RecipientReport<'_>) -> String {
    let address = value(recipient.final_recipient);
    let remote = recipient.remote_mta.map(value);
    let mut text = match recipient.action {
        Action::Failed => format!("<{address}>: not delivered."),
        Action::Delayed => format!("<{address}>: not delivered yet."),
        Action::Delivered => format!("<{address}>: delivered."),
        Action::Relayed => match &remote {
            Some(remote) => format!("<{address}>: accepted by {remote}."),
            None => format!("<{address}>: accepted by the recipient's mail server."),
        },
        Action::Expanded => format!("<{address}>: sent on to the addresses behind this one."),
    };
    if matches!(recipient.action, Action::Failed | Action::Delayed) {
        if let Some(diagnostic) = recipient.diagnostic {
            let reason = quotation(diagnostic.text());
            match (diagnostic, remote) {
                (super::Diagnostic::Reply(_), Some(remote)) => {
                    text.push_str(&format!(" The mail server {remote} answered: \"{reason}\"."));
                }
                (super::Diagnostic::Reply(_), None) => {
                    text.push_str(&format!(" The mail server answered: \"{reason}\"."));
                }
                (super::Diagnostic::Finding(_), _) => {
                    let reason = reason.trim_end_matches('.');
                    text.push_str(&format!(" The reason: {reason}."));
                }
            }
        }
        text.push(' ');
        text.push_str(advice(recipient));
    }
    match (recipient.action, recipient.retry_until) {
        (Action::Delayed, Some(until)) => {
            let mut date = Vec::new();
            write_rfc5322(until, &mut date);
            let date = String::from_utf8_lossy(&date).into_owned();
            text.push_str(&format!(
                " Attempts go on until {date}; if none succeeds, you will be told."
            ));
        }
        (Action::Relayed, _) => text.push_str(
            " That server does not confirm deliveries, so you may hear nothing more about this \
             recipient.",
        ),
        (Action::Expanded, _) => text.push_str(
            " You will hear no more about this recipient: the addresses are not disclosed.",
        ),
        _ => {}
    }
    text
}

/// What the sender can do about a failure or a delay, by its status.
fn advice(recipient: &RecipientReport<'_>) -> &'static str {
    let status = status(recipient);
    // Class is left out: "4.1.1" and "5.1.1" mean the same address.
    let detail = &status[2..];
    if recipient.action == Action::Delayed {
        return match detail {
            "2.2" => "The mailbox is full at the moment.",
            "7.1" | "7.0" => "The other side asks to try again later.",
            _ if detail.starts_with("4.") => "The other side could not be reached so far.",
            _ => "The other side asks to try again later, or could not be reached so far.",
        };
    }
    match detail {
        "1.1" | "1.6" => {
            "The mailbox does not exist there. Check the address for a mistake, correct it and \
             send the message again."
        }
        "1.2" => {
            "The part of the address behind the @ is not known. Check it for a mistake, correct it \
             and send the message again."
        }
        "1.3" => "The address is not written as an address can be. Correct it and send again.",
        "1.7" | "1.8" => {
            "Your own sender address was refused. Check it in the settings of your mail program."
        }
        "1.10" => {
            "The recipient's domain does not take mail at all. Ask the recipient for another \
             address."
        }
        "2.0" | "2.1" => "The mailbox does not take messages. Reach the recipient in another way.",
        "2.2" => {
            "The mailbox is full. Tell the recipient in another way, and send the message again \
             later."
        }
        "2.3" | "3.4" => {
            "The message is too large for the other side. Send a smaller one, or share large files \
             in another way."
        }
        "4.6" => {
            "The message went round in a circle between mail servers. Tell the recipient's \
             administrator, with this report."
        }
        "4.7" | "4.1" | "4.2" => {
            "All attempts have failed, and the time for them is over. Check the address; if it is \
             right, send the message again later or reach the recipient in another way."
        }
        "4.4" => {
            "The DNS names no server that takes mail for that domain. Check the part of the address \
             behind the @ for a mistake, or tell the recipient in another way."
        }
        "6.7" => {
            "The other side does not support addresses or headers beyond plain ASCII letters. Ask \
             the recipient for an address in ASCII, and send the message again from one."
        }
        "6.1" | "6.3" => {
            "The other side cannot take this kind of content, and it could not be converted."
        }
        "7.30" | "7.10" => {
            "You or the recipient's domain demand an encrypted way for this message, and there is \
             none now. Send it without the demand, or later."
        }
        _ if detail.starts_with("7.")
            && matches!(recipient.diagnostic, Some(super::Diagnostic::Finding(_))) =>
        {
            "That was decided on this side, by a rule or by the operators of this server. If the \
             reason does not tell you what to do, ask your administrator, with this report."
        }
        _ if detail.starts_with("7.") => {
            "The other side refused the message by its rules. If you think that this is a mistake, \
             tell the recipient or the administrator there, with this report."
        }
        _ if detail.starts_with("4.") => {
            "The other side could not be reached. Send the message again later, or reach the \
             recipient in another way."
        }
        _ => {
            "If the reason does not tell you what to do, ask your administrator, with this report."
        }
    }
}
