//! NOTIFY (RFC 5465): of what the client wants to be told at any time.

use super::super::{
    arguments::Arguments,
    cursor::{Cursor, Parsed},
    message::fetch::fetch_items,
    name::MailboxName,
};

/// Event groups in one command.
const GROUPS_MAX: usize = 100;

/// `notify = "NOTIFY" SP (notify-set / notify-none)`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Notify<'a> {
    /// Nothing, neither of the selected mailbox.
    None,
    Set(NotifySet<'a>),
}

/// `notify-set = "SET" [status-indicator] SP event-groups`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotifySet<'a> {
    /// The state of the mailboxes is wanted before.
    pub status: bool,
    pub groups: Vec<EventGroup<'a>>,
    /// There is an event among them that this server does not have.
    pub unsupported: bool,
}

/// `event-group = "(" filter-mailboxes SP events ")"`
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EventGroup<'a> {
    pub mailboxes: NotifyMailboxes<'a>,
    pub events: Events,
    /// What is wanted of a new message: the list as the client wrote it, with its parentheses.
    pub fetch: Option<&'a [u8]>,
}

/// `filter-mailboxes`
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NotifyMailboxes<'a> {
    Selected,
    SelectedDelayed,
    Inboxes,
    Personal,
    Subscribed,
    Subtree(Vec<MailboxName<'a>>),
    Mailboxes(Vec<MailboxName<'a>>),
}

/// A set of events.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Events(u8);

impl Events {
    pub const NONE: Events = Events(0);
    pub const MESSAGE_NEW: Events = Events(1);
    pub const MESSAGE_EXPUNGE: Events = Events(1 << 1);
    pub const FLAG_CHANGE: Events = Events(1 << 2);
    pub const MAILBOX_NAME: Events = Events(1 << 3);
    pub const SUBSCRIPTION_CHANGE: Events = Events(1 << 4);
    pub const MAILBOX_METADATA_CHANGE: Events = Events(1 << 5);
    pub const SERVER_METADATA_CHANGE: Events = Events(1 << 6);
    /// Those about messages.
    pub const OF_MESSAGES: Events = Events(7);

    /// Those about annotations.
    pub const OF_METADATA: Events = Events(3 << 5);

    /// Every event that this server has. AnnotationChange is not among them: it is of RFC 5257.
    const NAMES: [(Events, &'static str); 7] = [
        (Events::MESSAGE_NEW, "MessageNew"),
        (Events::MESSAGE_EXPUNGE, "MessageExpunge"),
        (Events::FLAG_CHANGE, "FlagChange"),
        (Events::MAILBOX_NAME, "MailboxName"),
        (Events::SUBSCRIPTION_CHANGE, "SubscriptionChange"),
        (Events::MAILBOX_METADATA_CHANGE, "MailboxMetadataChange"),
        (Events::SERVER_METADATA_CHANGE, "ServerMetadataChange"),
    ];

    fn named(name: &str) -> Option<Events> {
        let found = Events::NAMES.iter().find(|(_, it)| it.eq_ignore_ascii_case(name));
        found.map(|(event, _)| *event)
    }

    /// The names of all events.
    pub fn names() -> impl Iterator<Item = &'static str> {
        Events::NAMES.iter().map(|(_, name)| *name)
    }

    pub fn contain(self, other: Events) -> bool {
        self.0 & other.0 == other.0
    }

    pub fn contain_any(self, others: Events) -> bool {
        self.0 & others.0 != 0
    }

    pub fn and(self, others: Events) -> Events {
        Events(self.0 & others.0)
    }

    pub fn or(self, others: Events) -> Events {
        Events(self.0 | others.0)
    }

    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

impl<'a> Arguments<'a> for Notify<'a> {
    fn parse(cursor: &mut Cursor<'a>, _: bool) -> Parsed<Notify<'a>> {
        cursor.arguments()?;
        match cursor.word()?.as_bytes() {
            b"NONE" => return Ok(Notify::None),
            b"SET" => {}
            _ => return Err("NOTIFY takes SET or NONE"),
        }
        cursor.space()?;
        let status = cursor.peek() != Some(b'(');
        if status {
            match cursor.word()?.as_bytes() {
                b"STATUS" => cursor.space()?,
                _ => return Err("STATUS or an event group is missing"),
            }
        }
        let mut set = NotifySet { status, groups: Vec::new(), unsupported: false };
        loop {
            if set.groups.len() == GROUPS_MAX {
                return Err("too many event groups");
            }
            let group = group(cursor, &mut set.unsupported)?;
            let is_selected = |group: &EventGroup<'_>| group.is_of_selected();
            if group.is_of_selected() && set.groups.iter().any(is_selected) {
                // RFC 5465 6.1
                return Err("SELECTED or SELECTED-DELAYED comes once");
            }
            set.groups.push(group);
            if !cursor.another() {
                return Ok(Notify::Set(set));
            }
        }
    }
}

impl EventGroup<'_> {
    /// Whether it is of the selected mailbox, whichever that is.
    pub fn is_of_selected(&self) -> bool {
        matches!(self.mailboxes, NotifyMailboxes::Selected | NotifyMailboxes::SelectedDelayed)
    }
}

fn group<'a>(cursor: &mut Cursor<'a>, unsupported: &mut bool) -> Parsed<EventGroup<'a>> {
    cursor.expect(b'(', "an event group is missing")?;
    cursor.spaces();
    let mailboxes = mailboxes(cursor)?;
    cursor.space()?;
    let mut group = EventGroup { mailboxes, events: Events::NONE, fetch: None };
    let mut all_known = true;
    if cursor.peek() == Some(b'(') {
        cursor.list(false, "events are missing", |cursor| {
            let event = Events::named(cursor.atom()?);
            all_known &= event.is_some();
            group.events = group.events.or(event.unwrap_or_default());
            let has_list = cursor.rest().trim_ascii_start().starts_with(b"(");
            if event == Some(Events::MESSAGE_NEW) && has_list && cursor.spaces() {
                let begin = cursor.rest();
                fetch_items(cursor)?;
                group.fetch = begin.get(..begin.len() - cursor.rest().len());
            }
            Ok(())
        })?;
    } else if !cursor.atom()?.eq_ignore_ascii_case("NONE") {
        return Err("events are in parentheses");
    }
    cursor.spaces();
    cursor.expect(b')', "an event group must end in )")?;
    *unsupported |= !all_known;
    check(&group, all_known)?;
    Ok(group)
}

fn mailboxes<'a>(cursor: &mut Cursor<'a>) -> Parsed<NotifyMailboxes<'a>> {
    let word = cursor.atom()?;
    let is = |name| word.eq_ignore_ascii_case(name);
    Ok(if is("selected") {
        NotifyMailboxes::Selected
    } else if is("selected-delayed") {
        NotifyMailboxes::SelectedDelayed
    } else if is("inboxes") {
        NotifyMailboxes::Inboxes
    } else if is("personal") {
        NotifyMailboxes::Personal
    } else if is("subscribed") {
        NotifyMailboxes::Subscribed
    } else if is("subtree") {
        NotifyMailboxes::Subtree(names(cursor)?)
    } else if is("mailboxes") {
        NotifyMailboxes::Mailboxes(names(cursor)?)
    } else {
        return Err("unknown selection of mailboxes");
    })
}

/// `one-or-more-mailbox = mailbox / "(" mailbox *(SP mailbox) ")"`
fn names<'a>(cursor: &mut Cursor<'a>) -> Parsed<Vec<MailboxName<'a>>> {
    cursor.space()?;
    if cursor.peek() != Some(b'(') {
        return Ok(vec![cursor.mailbox()?]);
    }
    let mut names = Vec::new();
    cursor.list(false, "mailboxes are missing", |cursor| {
        names.push(cursor.mailbox()?);
        Ok(())
    })?;
    Ok(names)
}

/// What must be together, and what must not (RFC 5465 5, 6.1, 8). With an event that is not known
/// the command is refused for that, as `NO`.
fn check(group: &EventGroup<'_>, all_known: bool) -> Parsed<()> {
    let events = group.events;
    if group.is_of_selected() && events.and(Events::OF_MESSAGES) != events {
        return Err("of the selected mailbox there are events of messages only");
    }
    if group.fetch.is_some() && !group.is_of_selected() {
        return Err("messages are fetched from the selected mailbox only");
    }
    let of_messages = events.and(Events::OF_MESSAGES);
    let both = Events::MESSAGE_NEW.or(Events::MESSAGE_EXPUNGE);
    if all_known && !of_messages.is_empty() && !of_messages.contain(both) {
        return Err("MessageNew and MessageExpunge come together, and with FlagChange both");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{
        super::super::{
            CommandBody, parse,
            tests::{check, mailbox},
        },
        *,
    };

    const NEW_AND_EXPUNGE: Events = Events(3);

    fn set(status: bool, groups: Vec<EventGroup<'static>>) -> CommandBody<'static> {
        CommandBody::Notify(Notify::Set(NotifySet { status, groups, unsupported: false }))
    }

    fn group(
        mailboxes: NotifyMailboxes<'static>,
        events: Events,
        fetch: Option<&'static str>,
    ) -> EventGroup<'static> {
        EventGroup { mailboxes, events, fetch: fetch.map(str::as_bytes) }
    }

    /// Those of RFC 5465 3.1 and 6; where those of 3.1 depart from its grammar (a list of events
    /// without parentheses, MessageNew alone), as the grammar has it.
    #[test]
    fn examples() {
        use NotifyMailboxes::{Mailboxes, Personal, Selected, Subtree};
        check("NOTIFY NONE", CommandBody::Notify(Notify::None));
        let items = "(uid body.peek[header.fields (from to subject)])";
        check(
            &format!(
                "notify set status (selected (MessageNew {items} MessageExpunge)) \
                 (subtree Lists (MessageNew MessageExpunge))"
            ),
            set(
                true,
                vec![
                    group(
                        Selected,
                        NEW_AND_EXPUNGE,
                        Some("(uid body.peek[header.fields (from to subject)])"),
                    ),
                    group(Subtree(vec![mailbox("Lists")]), NEW_AND_EXPUNGE, None),
                ],
            ),
        );
        check(
            "notify set (mailboxes INBOX (Messagenew messageExpunge)) \
             (personal (SubscriptionChange))",
            set(
                false,
                vec![
                    group(Mailboxes(vec![mailbox("INBOX")]), NEW_AND_EXPUNGE, None),
                    group(Personal, Events::SUBSCRIPTION_CHANGE, None),
                ],
            ),
        );
        check(
            "notify set (selected (Messagenew (uid flags) messageExpunge)) \
             (personal (MessageNew FlagChange MessageExpunge))",
            set(
                false,
                vec![
                    group(Selected, NEW_AND_EXPUNGE, Some("(uid flags)")),
                    group(Personal, Events::OF_MESSAGES, None),
                ],
            ),
        );
    }

    #[test]
    fn every_selection() {
        use NotifyMailboxes::*;
        let name = |names: &[&'static str]| names.iter().map(|it| mailbox(it)).collect();
        for (text, expected) in [
            ("SELECTED", Selected),
            ("Selected-Delayed", SelectedDelayed),
            ("inboxes", Inboxes),
            ("Personal", Personal),
            ("subscribed", Subscribed),
            ("SUBTREE (a \"b c\")", Subtree(name(&["a", "b c"]))),
            ("mailboxes {1}\r\nx", Mailboxes(name(&["x"]))),
        ] {
            let line = format!("NOTIFY SET ({text} NONE)");
            check(&line, set(false, vec![group(expected, Events::NONE, None)]));
        }
    }

    #[test]
    fn an_unknown_event_is_no_error_of_the_grammar() {
        for events in ["AnnotationChange", "MessageNew X-Other", "FlagChange AnnotationChange"] {
            let line = format!("a NOTIFY SET (personal ({events}))\r\n");
            match parse(line.as_bytes()).expect(&line).body {
                CommandBody::Notify(Notify::Set(set)) => assert!(set.unsupported, "{line}"),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(Events::names().count(), 7);
    }

    #[test]
    fn refused() {
        for arguments in [
            "",
            "SET",
            "SET STATUS",
            "SET X (personal NONE)",
            "SET (personal)",
            "SET (personal ())",
            "SET (personal MailboxName)",
            "SET (personal (MailboxName)",
            "SET (other NONE)",
            "SET (subtree () NONE)",
            "SET (mailboxes NONE)",
            "SET (personal (MessageNew))",
            "SET (personal (MessageExpunge))",
            "SET (personal (FlagChange))",
            "SET (personal (FlagChange MessageNew))",
            "SET (personal (MessageNew (UID) MessageExpunge))",
            "SET (selected (MessageNew (NOTHING) MessageExpunge))",
            "SET (selected (MessageNew () MessageExpunge))",
            "SET (selected (MessageExpunge (UID) MessageNew))",
            "SET (selected (MailboxName))",
            "SET (selected-delayed (SubscriptionChange))",
            "SET (selected NONE) (selected-delayed NONE)",
            "SET (selected NONE) (selected NONE)",
            "NONE (personal NONE)",
        ] {
            let line = format!("a NOTIFY {arguments}\r\n");
            assert!(parse(line.as_bytes()).is_err(), "{line}");
        }
        let groups = |count| format!("a NOTIFY SET{}\r\n", " (personal NONE)".repeat(count));
        assert!(parse(groups(GROUPS_MAX).as_bytes()).is_ok());
        assert!(parse(groups(GROUPS_MAX + 1).as_bytes()).is_err());
    }
}
