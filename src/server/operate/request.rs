//! Requests about the queue, and the lines of their answers: what `ringmail queue` sends over the
//! control socket and gets back.
//!
//! A request is one line: fields between tabs, `queue`, the verb, then `name=value`. An answer is
//! lines that begin with `=` (output), `#` (a note), `!` (what was not found or failed) or `.`
//! (still at work), and at the end `ok`, or `error: why`. [`Request`] is both ends of the first,
//! [`Line`] of the second.

use std::{str::FromStr, time::Duration};

use crate::queue::{Action, Filter, QueueId, ShapeBy};

/// Upper ends of the age classes of a shape, in minutes, as those of Postfix' qshape.
pub(super) const SHAPE_MINUTES: [u64; 9] = [5, 10, 20, 40, 80, 160, 320, 640, 1280];

/// Rows of a shape that one shard names: those with the most recipients.
pub(super) const SHAPE_ROWS_MAX: usize = 10_000;

/// Messages of a list that are kept at once, whatever is asked for.
pub(super) const LIST_STEP: usize = 1000;

/// Messages that one request may name.
pub const IDS_MAX: usize = 1000;

/// What is asked.
#[derive(Clone, PartialEq, Debug)]
pub enum Verb {
    /// The messages, at most so many; 0: all.
    List {
        most: u64,
    },
    Show,
    Shape {
        by: ShapeBy,
        rows: usize,
    },
    /// `dry`: only say what it would reach.
    Act {
        action: Action,
        dry: bool,
    },
}

/// One request.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    pub verb: Verb,
    pub filter: Filter,
    pub json: bool,
}

/// A line of an answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line<'a> {
    Output(&'a str),
    Note(&'a str),
    Failure(&'a str),
    AtWork,
    End,
    Error(&'a str),
}

impl<'a> Line<'a> {
    pub fn parse(line: &'a str) -> Option<Line<'a>> {
        if let Some(error) = line.strip_prefix("error: ") {
            return Some(Line::Error(error));
        }
        Some(match line.split_at_checked(1)? {
            ("=", text) => Line::Output(text),
            ("#", text) => Line::Note(text),
            ("!", text) => Line::Failure(text),
            (".", "") => Line::AtWork,
            ("o", "k") => Line::End,
            _ => return None,
        })
    }
}

fn action_name(action: &Action) -> &'static str {
    match action {
        Action::Flush => "flush",
        Action::Hold => "hold",
        Action::Release => "release",
        Action::Requeue => "requeue",
        Action::Cancel | Action::Drop { reason: None, .. } => "cancel",
        Action::Bounce(_) | Action::Drop { reason: Some(_), .. } => "bounce",
    }
}

impl Request {
    /// The line that asks for it.
    pub fn line(&self) -> String {
        let Filter {
            ids,
            sender,
            recipient,
            domain,
            site,
            older,
            younger,
            error,
            larger,
            smaller,
            held,
        } = &self.filter;
        let mut line = "queue\t".to_owned();
        let mut fields: Vec<(&str, String)> = Vec::new();
        line.push_str(match &self.verb {
            Verb::List { most } => {
                fields.push(("most", most.to_string()));
                "list"
            }
            Verb::Show => "show",
            Verb::Shape { by, rows } => {
                fields.push(("rows", rows.to_string()));
                if *by == ShapeBy::Sender {
                    fields.push(("by", "sender".to_owned()));
                }
                "shape"
            }
            Verb::Act { action, dry } => {
                if *dry {
                    fields.push(("dry", "1".to_owned()));
                }
                if let Action::Bounce(reason) | Action::Drop { reason: Some(reason), .. } = action {
                    fields.push(("reason", reason.clone()));
                }
                // After the reason, which makes it a return.
                if let Action::Drop { recipient, .. } = action {
                    fields.push(("only", recipient.clone()));
                }
                action_name(action)
            }
        });
        let texts = [
            ("sender", sender),
            ("recipient", recipient),
            ("domain", domain),
            ("site", site),
            ("error", error),
        ];
        fields.extend(texts.into_iter().filter_map(|(name, it)| Some((name, it.clone()?))));
        let times = [("older", older), ("younger", younger)];
        fields.extend(
            times.into_iter().filter_map(|(name, it)| Some((name, (*it)?.as_micros().to_string()))),
        );
        let sizes = [("larger", larger), ("smaller", smaller)];
        fields.extend(sizes.into_iter().filter_map(|(name, it)| Some((name, (*it)?.to_string()))));
        fields.extend(held.map(|held| ("held", u8::from(held).to_string())));
        if !ids.is_empty() {
            let ids: Vec<String> = ids.iter().map(ToString::to_string).collect();
            fields.push(("ids", ids.join(",")));
        }
        if self.json {
            fields.push(("json", "1".to_owned()));
        }
        for (name, value) in fields {
            line.push_str(&format!("\t{name}={}", value.replace(char::is_control, " ")));
        }
        line
    }

    /// `None` for anything else.
    pub fn parse(line: &str) -> Option<Request> {
        let mut fields = line.split('\t');
        if fields.next()? != "queue" {
            return None;
        }
        let mut verb = match fields.next()? {
            "list" => Verb::List { most: 0 },
            "show" => Verb::Show,
            "shape" => Verb::Shape { by: ShapeBy::Destination, rows: 0 },
            other => {
                let action = match other {
                    "flush" => Action::Flush,
                    "hold" => Action::Hold,
                    "release" => Action::Release,
                    "requeue" => Action::Requeue,
                    "cancel" => Action::Cancel,
                    "bounce" => Action::Bounce(String::new()),
                    _ => return None,
                };
                Verb::Act { action, dry: false }
            }
        };
        let mut filter = Filter::default();
        let mut json = false;
        for field in fields {
            let (name, value) = field.split_once('=')?;
            let text = || Some(value.to_owned());
            let number = || value.parse::<u64>().ok();
            match (name, &mut verb) {
                ("most", Verb::List { most }) => *most = number()?,
                ("rows", Verb::Shape { rows, .. }) => *rows = value.parse().ok()?,
                ("by", Verb::Shape { by, .. }) => *by = ShapeBy::Sender,
                ("dry", Verb::Act { dry, .. }) => *dry = true,
                ("reason", Verb::Act { action: Action::Bounce(reason), .. }) => {
                    value.clone_into(reason);
                }
                ("only", Verb::Act { action, .. }) => {
                    let reason = match action {
                        Action::Cancel => None,
                        Action::Bounce(reason) => Some(std::mem::take(reason)),
                        _ => return None,
                    };
                    *action = Action::Drop { recipient: value.to_owned(), reason };
                }
                ("sender", _) => filter.sender = text(),
                ("recipient", _) => filter.recipient = text(),
                ("domain", _) => filter.domain = text(),
                ("site", _) => filter.site = text(),
                ("error", _) => filter.error = text(),
                ("older", _) => filter.older = Some(Duration::from_micros(number()?)),
                ("younger", _) => filter.younger = Some(Duration::from_micros(number()?)),
                ("larger", _) => filter.larger = Some(number()?),
                ("smaller", _) => filter.smaller = Some(number()?),
                ("held", _) => filter.held = Some(value == "1"),
                ("json", _) => json = value == "1",
                ("ids", _) => {
                    let ids = value.split(',').map(|id| QueueId::from_str(id).ok());
                    filter.ids = ids.collect::<Option<_>>()?;
                }
                _ => return None,
            }
        }
        Some(Request { verb, filter, json })
    }

    /// The ids that it names and that were not found.
    pub(super) fn missing(&self, found: impl Fn(QueueId) -> bool) -> Vec<String> {
        let mut ids = self.filter.ids.clone();
        ids.sort_unstable();
        ids.dedup();
        let missing = ids.into_iter().filter(|id| !found(*id));
        let alone = Filter { ids: self.filter.ids.clone(), ..Filter::default() } == self.filter;
        let what =
            if alone { "no such message in the queue" } else { "no such message that matches" };
        missing.map(|id| format!("!{id}: {what}")).collect()
    }
}

/// The edges of the age classes.
pub(super) fn shape_edges() -> [Duration; SHAPE_MINUTES.len()] {
    SHAPE_MINUTES.map(|minutes| Duration::from_secs(60 * minutes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_asked_is_understood() {
        let id = |uid: &str| QueueId::from_str(uid).unwrap();
        let filter = Filter {
            ids: vec![id("0-9-1"), id("3-9-4294967295")],
            sender: Some("<>".to_owned()),
            recipient: Some("a b=c@x".to_owned()),
            domain: Some("x.test".to_owned()),
            site: Some("mx:25".to_owned()),
            older: Some(Duration::from_millis(1500)),
            younger: Some(Duration::from_secs(1 << 30)),
            error: Some("450 4.2.1 später".to_owned()),
            larger: Some(u64::MAX),
            smaller: Some(0),
            held: Some(false),
        };
        let bounce = Action::Bounce("not wanted".to_owned());
        let dropped = |reason: Option<&str>| Action::Drop {
            recipient: "a@x.test".to_owned(),
            reason: reason.map(str::to_owned),
        };
        for verb in [
            Verb::List { most: 7 },
            Verb::Show,
            Verb::Shape { by: ShapeBy::Sender, rows: 20 },
            Verb::Act { action: bounce, dry: true },
            Verb::Act { action: dropped(None), dry: false },
            Verb::Act { action: dropped(Some("not wanted")), dry: true },
            Verb::Act { action: Action::Flush, dry: false },
        ] {
            for filter in [filter.clone(), Filter::default()] {
                let request = Request { verb: verb.clone(), filter, json: true };
                assert_eq!(Request::parse(&request.line()), Some(request));
            }
        }
    }

    #[test]
    fn nothing_else_is_understood() {
        for line in [
            "",
            "queue",
            "queue\tremove",
            "queue\tlist\tmost",
            "queue\tlist\tmost=x",
            "queue\tshow\tids=1-2",
            "queue\tshow\tmost=1",
            "queue\tlist\tcolour=red",
            "verify\tlist",
            "queue\tlist\tids=",
            "queue\thold\tonly=a@x.test",
            "queue\tcancel\tonly=a@x.test\tonly=b@x.test",
        ] {
            assert_eq!(Request::parse(line), None, "{line:?}");
        }
        // A line of a filter cannot become two.
        let filter = Filter { sender: Some("a\n\tjson=1".to_owned()), ..Filter::default() };
        let request = Request { verb: Verb::Show, filter, json: false };
        assert_eq!(request.line(), "queue\tshow\tsender=a  json=1");
    }

    #[test]
    fn answers_are_lines() {
        assert_eq!(Line::parse("=x=y"), Some(Line::Output("x=y")));
        assert_eq!(Line::parse("!"), Some(Line::Failure("")));
        assert_eq!(Line::parse("ok"), Some(Line::End));
        assert_eq!(Line::parse("error: x"), Some(Line::Error("x")));
        for other in ["", "okay", "..", "é", "x"] {
            assert_eq!(Line::parse(other), None, "{other}");
        }
    }
}
