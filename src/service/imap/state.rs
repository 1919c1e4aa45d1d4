//! One client's session: its state, and what every command needs of it.
//!
//! Created by [`super::conversation`] and lent to each command's handler in turn. Owns the channel;
//! shard-local. A command's bytes are copied once, so that its values may outlive reads and writes
//! of the connection (commands are short; message literals are streamed and never copied here).

use std::rc::Rc;

use super::{
    accounts::User,
    handover::ImapHandover,
    options::ImapOptions,
    reply::{Done, Failure, Reply},
    seats::AccountSeat,
    selected::Selected,
    watched::{Own, SelectedWishes, Watched},
};
use crate::{
    directory::Identity,
    metrics::Protocol,
    model::{AccountId, MailboxId, Uid},
    protocol::{
        imap::{
            Announced, Capabilities, Capability, Code, Framer, Limits, Literal, NameForm, Naming,
            Quoted, SEPARATOR, State, Status, Writer, session::notify::Events,
        },
        mime::ActiveComparator,
        sasl::Mechanisms,
    },
    runtime::{LocalFuture, connection::Connection},
    service::{ServiceOptions, Shard, authentication, channel::Channel},
    store::{Account, Unsettled},
};

/// Messages of the view scanned, without I/O for them, before other sessions get their turn.
const MESSAGES_PER_TURN: usize = 4_096;

/// Before login the longest input is credentials and ID fields.
fn limits_before_login(options: &ImapOptions) -> Limits {
    let unasked = options.limits_told().unasked;
    Limits { line: 14 * 1024, command: 16 * 1024, message: 0, unasked }
}

/// The answer to a command whose change is decided and not yet durable.
pub(super) struct Later {
    pub unsettled: Unsettled,
    /// Called once it is durable: sends what precedes the tagged response, which it returns.
    pub finish: Finish,
}

/// Runs a command that the server gives itself, as the client would write it: for what NOTIFY wants
/// of new messages. Only the conversation knows the commands.
pub(super) type Runner = for<'s> fn(&'s mut Session, Vec<u8>) -> LocalFuture<'s, Reply>;

type Finish = Box<dyn for<'s> FnOnce(&'s mut Session) -> LocalFuture<'s, Reply>>;

/// One client's session on this shard.
pub(super) struct Session {
    pub channel: Channel,
    /// Set once logged in.
    pub user: Option<User>,
    /// The user's own account; mailboxes may be in another one.
    pub account: Option<Account>,
    /// Its seat among the account's sessions.
    pub seat: Option<AccountSeat>,
    pub selected: Option<Selected>,
    /// Extensions that change responses, enabled by ENABLE or by a command that implies it.
    enabled: Capabilities,
    /// By which strings are compared (RFC 5255 4.7).
    pub comparator: ActiveComparator,
    pub login_failures: u32,
    /// The literal whose octets are next in the input, until the handler of its command takes it.
    pub literal: Option<Literal>,
    pub framer: Framer,
    /// Set by a handler that returns [`Done::Later`](super::reply::Done::Later).
    pub later: Option<Later>,
    /// Set by NOTIFY, and by ENABLE for annotations.
    pub watched: Option<Box<Watched>>,
    pub runner: Runner,
}

impl Session {
    pub(super) fn new(connection: Connection, shard: Rc<Shard>, runner: Runner) -> Session {
        let patience = shard.options.imap.login_timeout;
        let framer = Framer::new(limits_before_login(&shard.options.imap));
        Session {
            channel: Channel::new(connection, shard, Protocol::Imap, patience),
            user: None,
            account: None,
            seat: None,
            selected: None,
            enabled: Capabilities::NONE,
            comparator: ActiveComparator::default(),
            login_failures: 0,
            literal: None,
            framer,
            later: None,
            watched: None,
            runner,
        }
    }

    /// Leaves the answer to a command until its change is durable.
    pub(super) fn answer_later(
        &mut self,
        unsettled: Unsettled,
        finish: impl for<'s> FnOnce(&'s mut Session) -> LocalFuture<'s, Reply> + 'static,
    ) -> Reply {
        self.later = Some(Later { unsettled, finish: Box::new(finish) });
        Ok(Done::Later)
    }

    pub(super) fn options(&self) -> &ServiceOptions {
        &self.channel.shard.options
    }

    pub(super) fn imap(&self) -> &ImapOptions {
        &self.channel.shard.options.imap
    }

    pub(super) fn writer(&mut self) -> Writer<'_> {
        let names = self.name_form();
        Writer::new(self.channel.connection.output()).with_names(names)
    }

    /// How mailbox names are written, in both directions (RFC 6855 3, RFC 9051 5.1, appendix A).
    pub(super) fn name_form(&self) -> NameForm {
        if self.utf8() { NameForm::Utf8 } else { NameForm::ModifiedUtf7 }
    }

    /// What the client's quoted strings contain.
    pub(super) fn quoted(&self) -> Quoted {
        if self.utf8() { Quoted::Utf8 } else { Quoted::Octets }
    }

    pub(super) fn state(&self) -> State {
        match (&self.account, &self.selected) {
            (None, _) => State::NotAuthenticated,
            (Some(_), None) => State::Authenticated,
            (Some(_), Some(_)) => State::Selected,
        }
    }

    /// The account of a logged-in session; the command table refuses commands that need one
    /// earlier.
    pub(super) fn account(&self) -> Result<Account, Failure> {
        self.account.clone().ok_or_else(|| Failure::bad("Log in first"))
    }

    /// Who logged in; as for [`Session::account`].
    pub(super) fn user(&self) -> Result<&User, Failure> {
        self.user.as_ref().ok_or_else(|| Failure::bad("Log in first"))
    }

    /// The session of an account that was removed ends.
    pub(super) fn check_account(&self) -> Result<(), Failure> {
        let is_gone = |user: &User| !self.channel.shard.directory.may_exist(user.account);
        match self.user.as_ref().is_some_and(is_gone) {
            true => Err(Failure::bye("The account was removed")),
            false => Ok(()),
        }
    }

    pub(super) fn selected(&self) -> Result<&Selected, Failure> {
        self.selected.as_ref().ok_or_else(|| Failure::bad("Select a mailbox first"))
    }

    /// For commands that change the selected mailbox (RFC 3501 6.3.2). Whether the user may is
    /// another question.
    pub(super) fn writable(&self) -> Result<&Selected, Failure> {
        let selected = self.selected()?;
        if selected.read_only {
            return Err(Failure::no(Code::ReadOnly, "The mailbox is selected read-only"));
        }
        Ok(selected)
    }

    /// Whether passwords may be sent on this connection now (RFC 3501 6.2.3).
    pub(super) fn can_login(&self) -> bool {
        authentication::may_send_passwords(&self.channel.shard, &self.channel.connection)
    }

    /// What AUTHENTICATE takes now.
    pub(super) fn mechanisms(&self) -> Mechanisms {
        authentication::mechanisms(&self.channel.shard, &self.channel.connection)
    }

    pub(super) fn capabilities(&self) -> Announced {
        let (can_start_tls, can_login) =
            (self.channel.connection.can_start_tls(), self.can_login());
        let offered =
            Capabilities::offered(self.imap().capabilities, self.state(), can_start_tls, can_login);
        let capabilities = match self.state() {
            State::NotAuthenticated => offered.with_mechanisms(self.mechanisms()),
            _ => offered,
        };
        let message_limit = self.imap().message_limit;
        let save_limit = if message_limit == 0 { self.imap().save_limit } else { 0 };
        let append_limit = self.imap().limits.message;
        Announced { capabilities, append_limit, message_limit, save_limit }
    }

    /// To be awaited at each index of a loop over messages that may otherwise never wait.
    pub(super) async fn turn_of_scan(&self, index: usize) {
        if index % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1 {
            self.channel.shard.executor.yield_now().await;
        }
    }

    /// The client is active. Before login this extends nothing: NOOPs without a login must not keep
    /// a connection open.
    pub(super) fn restart_deadline(&mut self) {
        if self.state() != State::NotAuthenticated {
            let patience = self.imap().idle_timeout;
            self.channel.restart_deadline(patience);
        }
    }

    /// After STARTTLS: discards partly read input and restarts the time to log in.
    pub(super) fn restart_under_tls(&mut self) {
        self.framer = Framer::new(limits_before_login(self.imap()));
        let patience = self.imap().login_timeout;
        self.channel.restart_deadline(patience);
    }

    /// A CONDSTORE-enabling command was given: FETCH responses include MODSEQ (RFC 7162 3.1), if
    /// the mailbox has them.
    pub(super) fn condstore(&self) -> bool {
        self.enabled.contains(Capability::CondStore)
            && self.selected.as_ref().is_none_or(Selected::has_mod_seqs)
    }

    /// For commands with mod-sequences: RFC 7162 3.1.2.2.
    pub(super) fn check_mod_seqs(&self) -> Result<(), Failure> {
        match self.selected()?.has_mod_seqs() {
            true => Ok(()),
            false => Err(Failure::bad("This mailbox has no mod-sequences")),
        }
    }

    /// RFC 7162 3.1: from the first CONDSTORE-enabling command on, FETCH responses include MODSEQ,
    /// and the client must know the HIGHESTMODSEQ of the selected mailbox.
    pub(super) fn enable_condstore(&mut self) {
        if self.enabled.contains(Capability::CondStore) {
            return;
        }
        self.enabled.insert(Capability::CondStore);
        if let Some(code) = self.highest_mod_seq() {
            self.writer().untagged(Status::Ok, Some(code), "Highest");
        }
    }

    /// The client knows of mod-sequences, whether or not the selected mailbox has them.
    pub(super) fn knows_mod_seqs(&self) -> bool {
        self.enabled.contains(Capability::CondStore)
    }

    /// The client has used NOTIFY: it is told of what it wants at any time.
    pub(super) fn has_notify(&self) -> bool {
        self.selected_wishes().is_some()
    }

    /// Of which events in the selected mailbox the client is told: all until it says so by NOTIFY
    /// (RFC 5465 3.1).
    pub(super) fn told_events(&self) -> Events {
        self.selected_wishes().map_or(Events::OF_MESSAGES, |wishes| wishes.events)
    }

    /// Whether new messages may have to be fetched for the client.
    pub(super) fn has_arrived(&self) -> bool {
        let fetches = self.selected_wishes().is_some_and(|wishes| wishes.fetch.is_some());
        let selected = self.selected.as_ref().filter(|selected| selected.has_arrived());
        selected.is_some_and(|selected| fetches || !selected.wanted.is_empty())
    }

    /// What NOTIFY asks for of the selected mailbox.
    pub(super) fn selected_wishes(&self) -> Option<&SelectedWishes> {
        self.watched.as_ref()?.selected.as_ref()
    }

    /// The session's client has added a message itself: it is not fetched for it (RFC 5465 5.2).
    pub(super) fn note_added(&mut self, place: (AccountId, MailboxId), uid: Uid) {
        let fetches = self.selected_wishes().is_some_and(|wishes| wishes.fetch.is_some());
        if let Some(selected) = &mut self.selected
            && (fetches || selected.contexts.fetch())
            && selected.place() == place
        {
            selected.note_own(uid);
        }
    }

    /// The session's client has changed something itself, and need not be told of it (RFC 5465 5).
    pub(super) fn note_own(&mut self, own: Own) {
        if let Some(watched) = &mut self.watched {
            watched.note_own(own);
        }
    }

    /// The same of a name, whose mailbox `exists` now or does not any more. Levels above it that
    /// were created with it the client is told of: it cannot know which are mailboxes.
    pub(super) fn note_own_name(&mut self, name: &str, exists: bool) {
        if self.watched.is_none() {
            return;
        }
        self.note_own(Own::Name(name.to_owned(), exists));
        for (end, _) in name.match_indices(SEPARATOR) {
            let level = name.get(..end).unwrap_or_default();
            self.note_own(Own::Below(level.to_owned()));
        }
    }

    /// ENABLE QRESYNC (RFC 7162 3.2.3), which enables CONDSTORE too.
    pub(super) fn enable_qresync(&mut self) {
        self.enable_condstore();
        self.enabled.insert(Capability::QResync);
    }

    /// ENABLE IMAP4rev2 (RFC 9051 6.3.1).
    pub(super) fn enable_rev2(&mut self) {
        self.enabled.insert(Capability::Imap4Rev2);
        if let Some(selected) = &mut self.selected {
            selected.forget_recent();
        }
    }

    /// The client speaks IMAP4rev2 and not IMAP4rev1.
    pub(super) fn rev2(&self) -> bool {
        self.enabled.contains(Capability::Imap4Rev2)
    }

    /// Notes which key the user has for URLs of the selected mailbox. Returns whether it took the
    /// place of another one.
    pub(super) fn note_url_key(&mut self) -> bool {
        let (Some(account), Some(selected)) = (&self.account, &mut self.selected) else {
            return false;
        };
        let place = (selected.home.account(), selected.mailbox());
        selected.note_url_key(account.url_key(place))
    }

    /// ENABLE UTF8=ACCEPT (RFC 6855 3).
    pub(super) fn enable_utf8(&mut self) {
        self.enabled.insert(Capability::Utf8Accept);
    }

    /// The client speaks UTF-8: IMAP4rev2 includes UTF8=ACCEPT.
    pub(super) fn utf8(&self) -> bool {
        self.enabled.contains(Capability::Utf8Accept) || self.rev2()
    }

    /// RFC 9755 3: a client that said UTF8=ACCEPT names no charset in SEARCH, and UTF-8 in SORT and
    /// THREAD, which must name one.
    pub(super) fn check_charset(&self, charset: Option<&[u8]>, must: bool) -> Result<(), Failure> {
        let is_named = charset.is_some_and(|it| !must || !it.eq_ignore_ascii_case(b"UTF-8"));
        match is_named && self.enabled.contains(Capability::Utf8Accept) {
            true => Err(Failure::bad("UTF8=ACCEPT is enabled: the charset is UTF-8")),
            false => Ok(()),
        }
    }

    /// ENABLE UIDONLY (RFC 9586 3.1).
    pub(super) fn enable_uid_only(&mut self) {
        self.enabled.insert(Capability::UidOnly);
    }

    /// The client resynchronizes by UIDs (RFC 7162 3.2).
    pub(super) fn qresync(&self) -> bool {
        self.enabled.contains(Capability::QResync)
    }

    /// The client knows no message numbers.
    pub(super) fn uid_only(&self) -> bool {
        self.enabled.contains(Capability::UidOnly)
    }

    /// Expunges are told by VANISHED and not by EXPUNGE: RFC 7162 3.2.10, but not of a mailbox that
    /// has no mod-sequences; RFC 9586 3.4.
    pub(super) fn tells_vanished(&self) -> bool {
        let has_mod_seqs = self.selected.as_ref().is_none_or(Selected::has_mod_seqs);
        self.uid_only() || self.qresync() && has_mod_seqs
    }

    /// Whether each FETCH response about a change has the UID: RFC 7162 3.2.4, also in mailboxes
    /// without mod-sequences.
    pub(super) fn changes_have_uids(&self) -> bool {
        self.enabled.contains(Capability::CondStore)
    }

    /// How FETCH responses name messages, if `uid` is not asked for by the client: RFC 7162 3.2.4
    /// and RFC 9051 7.5.2 want the UID in each one.
    pub(super) fn naming(&self, uid: bool) -> Naming {
        match self.uid_only() {
            true => Naming::Uid,
            false if uid || self.changes_have_uids() || self.rev2() => Naming::Both,
            false => Naming::Number,
        }
    }

    /// The HIGHESTMODSEQ up to which the client knows every change, if it is told mod-sequences.
    pub(super) fn highest_mod_seq(&self) -> Option<Code> {
        let selected = self.selected.as_ref().filter(|_| self.condstore())?;
        Some(Code::HighestModSeq(selected.known_mod_seq()))
    }

    /// Continues the session from its state on another shard.
    pub(super) fn take_over(&mut self, handover: &ImapHandover) {
        self.channel.set_deadline(handover.deadline);
        self.login_failures = handover.login_failures;
    }

    /// What the account's owner shard has to know.
    pub(super) fn handover(&self, identity: Identity, tag: &str) -> ImapHandover {
        let (deadline, login_failures) = (self.channel.deadline(), self.login_failures);
        ImapHandover { identity, tag: tag.to_owned(), deadline, login_failures }
    }

    /// Called once the session knows its account.
    pub(super) fn lift_limits(&mut self) {
        let limits = self.imap().limits_told();
        self.framer.set_limits(limits);
    }

    /// Back to the state before log-in (RFC 8437 3).
    pub(super) fn log_out(&mut self) {
        self.let_go();
        self.enabled = Capabilities::NONE;
        self.comparator = ActiveComparator::default();
        self.channel.connection.set_logged_in(false);
        let limits = limits_before_login(self.imap());
        self.framer.set_limits(limits);
        let patience = self.imap().login_timeout;
        self.channel.restart_deadline(patience);
    }

    /// Releases the account, its seat, and the snapshot that keeps bodies readable.
    pub(super) fn let_go(&mut self) {
        (self.selected, self.account, self.seat, self.user) = (None, None, None, None);
        self.watched = None;
    }

    pub(super) fn take_input(&mut self, size: usize) -> Vec<u8> {
        let bytes = self.channel.connection.input().get(..size).unwrap_or_default().to_vec();
        self.channel.connection.consume(size);
        bytes
    }
}
