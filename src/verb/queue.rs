//! `ringmail queue …`, `ringmail explain` and `ringmail trace`: asks the running server, or reads
//! the disk where none runs.

use std::{
    io,
    path::{Path, PathBuf},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use ringmail::{
    config::Settings,
    control,
    queue::{Action, Filter, QueueOptions, ShapeBy},
    server::{
        data_dir,
        operate::{self, IDS_MAX, Line, Request, Subject, Verb},
    },
    store::StoreOptions,
};

use super::{
    Usage,
    output::{complain, print_line},
    printable,
};
use crate::cli::{ActArguments, ExplainArguments, Place, QueueVerb, TraceArguments, WhichMessages};

/// Octets of the text that `trace` looks for.
const TRACED_MAX: usize = 1024;

/// Messages that `list` shows to people, unless they say otherwise.
const LISTED: u64 = 100;

/// Lines read from disk that wait to be printed.
const LINES_MAX: usize = 1024;

pub fn queue(verb: QueueVerb) -> Result<()> {
    let (request, place) = match verb {
        QueueVerb::List { which, limit, json, place } => {
            let filter = filter(which);
            (Request { verb: Verb::List { most: most_listed(limit, json) }, filter, json }, place)
        }
        QueueVerb::Show { ids, json, place } => {
            let filter = Filter { ids, ..Filter::default() };
            (Request { verb: Verb::Show, filter, json }, place)
        }
        QueueVerb::Shape { which, by_sender, rows, json, place } => {
            let by = if by_sender { ShapeBy::Sender } else { ShapeBy::Destination };
            let filter = filter(which);
            (Request { verb: Verb::Shape { by, rows }, filter, json }, place)
        }
        QueueVerb::Flush(act) => action(act, Action::Flush, false)?,
        QueueVerb::Hold(act) => action(act, Action::Hold, false)?,
        QueueVerb::Release(act) => action(act, Action::Release, false)?,
        QueueVerb::Requeue(act) => action(act, Action::Requeue, false)?,
        QueueVerb::Cancel { act, yes, .. } => action(act, Action::Cancel, !yes)?,
        QueueVerb::Bounce { act, yes, reason, .. } => action(act, Action::Bounce(reason), !yes)?,
    };
    if request.filter.ids.len() > IDS_MAX {
        return Err(Usage(format!("at most {IDS_MAX} messages can be named at once")).into());
    }
    let line = request.line();
    if line.len() > control::REQUEST_MAX as usize - 1 {
        return Err(Usage("these conditions are too long".to_owned()).into());
    }
    let asked = Asked::of(&place)?;
    let mut answer = Answer::default();
    match asked.ask(&line, &mut answer)? {
        true => answer.end(),
        false => at_rest(&asked, request, answer),
    }
}

pub fn explain(arguments: ExplainArguments) -> Result<()> {
    let ExplainArguments { subject, json, place } = arguments;
    let Some(parsed) = Subject::parse(&subject) else {
        let what = "expected the name of a message, an address or a domain";
        return Err(Usage(format!("{}: {what}", printable(&subject))).into());
    };
    if matches!(&parsed, Subject::Domain(name) if !name.contains('.')) {
        complain(format_args!(
            "note: {} is taken for a domain; an account is named by its address, e.g. \
             alice@example.org",
            printable(&subject)
        ));
    }
    let asked = Asked::of(&place)?;
    let mut answer = Answer::default();
    if asked.ask(&parsed.line(json), &mut answer)? {
        return answer.end();
    }
    match parsed {
        Subject::Message(id) => {
            let filter = Filter { ids: vec![id], ..Filter::default() };
            at_rest(&asked, Request { verb: Verb::Show, filter, json }, answer)
        }
        _ => bail!(
            "{}: no server runs here; \"ringmail resolve\" shows what the DNS says",
            asked.data_dir.display()
        ),
    }
}

/// Until the server ends or the user has enough.
pub fn trace(arguments: TraceArguments) -> Result<()> {
    let TraceArguments { wanted, place } = arguments;
    let wanted = wanted.unwrap_or_default();
    if wanted.chars().any(char::is_control) || wanted.len() > TRACED_MAX {
        return Err(Usage("expected an address, a domain or an IP address".to_owned()).into());
    }
    let asked = Asked::of(&place)?;
    // The server's end is the end of the trace.
    let mut answer = Answer { ended: true, ..Answer::default() };
    match asked.ask(&format!("trace\t{wanted}"), &mut answer)? {
        true => answer.end(),
        false => bail!("{}: no server runs here", asked.data_dir.display()),
    }
}

/// Messages that `list` shows; 0: all. A program gets what it asked for, since it may not read the
/// note about the others; a person rarely wants more than some screens.
fn most_listed(limit: Option<u64>, json: bool) -> u64 {
    limit.unwrap_or(if json { 0 } else { LISTED })
}

fn filter(which: WhichMessages) -> Filter {
    let WhichMessages {
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
        not_held,
    } = which;
    Filter {
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
        held: (held || not_held).then_some(held),
    }
}

fn action(arguments: ActArguments, action: Action, dry: bool) -> Result<(Request, Place)> {
    let ActArguments { which, all, json, place } = arguments;
    let filter = filter(which);
    let action = action_on(&filter, action);
    if (filter == Filter::default()) != all {
        let what = match all {
            true => "--all means every message: give no other condition",
            false => "which messages? Name them, give conditions, or --all",
        };
        return Err(Usage(what.to_owned()).into());
    }
    Ok((Request { verb: Verb::Act { action, dry }, filter, json }, place))
}

/// Of a message that is named only that recipient goes that is named, too.
fn action_on(filter: &Filter, action: Action) -> Action {
    match (&filter.recipient, action) {
        (Some(recipient), Action::Cancel) if !filter.ids.is_empty() => {
            Action::Drop { recipient: recipient.clone(), reason: None }
        }
        (Some(recipient), Action::Bounce(reason)) if !filter.ids.is_empty() => {
            Action::Drop { recipient: recipient.clone(), reason: Some(reason) }
        }
        (_, action) => action,
    }
}

/// Whose queue, and the settings that matter for reading it.
pub(super) struct Asked {
    pub data_dir: PathBuf,
    pub store: StoreOptions,
    options: QueueOptions,
}

impl Asked {
    pub(super) fn of(place: &Place) -> Result<Asked> {
        match (&place.config, &place.dir) {
            (Some(config), _) => {
                let settings = Settings::load(config)?;
                Ok(Asked {
                    store: settings.store_options(),
                    options: settings.service_options(false).relay.queue,
                    data_dir: settings.data_dir,
                })
            }
            (None, Some(dir)) => Ok(Asked {
                data_dir: dir.clone(),
                store: StoreOptions::default(),
                options: QueueOptions::default(),
            }),
            (None, None) => Err(Usage("--config or --dir is needed".to_owned()).into()),
        }
    }

    /// Sends a request to the server; false if none runs.
    pub(super) fn ask(&self, line: &str, answer: &mut Answer) -> Result<bool> {
        let shown = self.data_dir.display();
        let folder = data_dir::open_folder(&self.data_dir)?;
        let asked = control::stream(&folder, line, control::TIMEOUT, &mut |line| answer.take(line));
        if let Some(failed) = answer.failed.take() {
            return Err(failed);
        }
        let runs = asked.with_context(|| format!("{shown}: the server does not answer"))?;
        if runs && !answer.ended {
            bail!("{shown}: the server's answer has no end: it was stopped, or is another version");
        }
        Ok(runs)
    }
}

/// What is done with the lines of an answer.
#[derive(Default)]
pub(super) struct Answer {
    /// Something was not found or failed; that was said.
    incomplete: bool,
    ended: bool,
    /// Why no more lines are taken.
    failed: Option<anyhow::Error>,
    /// Shown on a terminal while no line comes.
    waiting: Option<ProgressBar>,
}

impl Answer {
    pub(super) fn take(&mut self, line: &str) -> io::Result<()> {
        let stop = |answer: &mut Answer, error: anyhow::Error| {
            answer.failed = Some(error);
            Err(io::ErrorKind::Other.into())
        };
        let parsed = Line::parse(line);
        if parsed == Some(Line::AtWork) {
            // A trace has its end already, and waits for what happens.
            if !self.ended {
                self.waiting.get_or_insert_with(at_work);
            }
            return Ok(());
        }
        if let Some(bar) = self.waiting.take() {
            bar.finish_and_clear();
        }
        match parsed {
            Some(Line::Output(text)) => {
                if let Err(error) = print_line(printable(text)) {
                    return stop(self, error);
                }
            }
            Some(Line::Note(text)) => complain(format_args!("ringmail: {}", printable(text))),
            Some(Line::Failure(text)) => {
                self.incomplete = true;
                complain(format_args!("ringmail: {}", printable(text)));
            }
            // Seen above.
            Some(Line::AtWork) => {}
            Some(Line::End) => self.ended = true,
            Some(Line::Error(text)) => {
                return stop(self, anyhow::anyhow!("the server answered: {text}"));
            }
            None => return stop(self, anyhow::anyhow!("the server answered: {line}")),
        }
        Ok(())
    }

    /// The exit code follows from what was found.
    pub(super) fn end(self) -> Result<()> {
        match self.incomplete {
            true => Err(Incomplete.into()),
            false => Ok(()),
        }
    }
}

/// For a request of more than a second, on standard error, if that is a terminal.
fn at_work() -> ProgressBar {
    let style = ProgressStyle::with_template("{spinner} the server is at work, {elapsed} so far")
        .unwrap_or_else(|_| ProgressStyle::default_spinner());
    let bar = ProgressBar::new_spinner().with_style(style);
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

/// It was said what is missing: exit code 1, without a further word.
#[derive(Debug, thiserror::Error)]
#[error("not everything was done")]
pub struct Incomplete;

fn at_rest(asked: &Asked, request: Request, answer: Answer) -> Result<()> {
    let path: &Path = &asked.data_dir;
    read_at_rest(path, answer, |sender| {
        operate::answer_at_rest(path, &asked.store, &asked.options, &request, sender)
    })
}

/// Prints what `read`, as the owner of the data directory, sends.
pub(super) fn read_at_rest(
    path: &Path,
    mut answer: Answer,
    read: impl FnOnce(mpsc::SyncSender<String>) -> Result<()> + Send,
) -> Result<()> {
    let (sender, lines) = mpsc::sync_channel(LINES_MAX);
    thread::scope(|scope| {
        let reading = scope.spawn(|| data_dir::as_owner(path, || read(sender)));
        for line in lines {
            if answer.take(&line).is_err() {
                break;
            }
        }
        if let Some(failed) = answer.failed.take() {
            // The reader of the disk ends with the process.
            return Err(failed);
        }
        match reading.join() {
            Ok(read) => read,
            Err(_) => bail!("{}: reading failed", path.display()),
        }
    })?;
    answer.end()
}
