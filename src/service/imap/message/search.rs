//! SEARCH (RFC 3501 6.4.4, RFC 4731, RFC 5182, RFC 5267 4, RFC 7162 3.1.5).

use super::{
    super::{
        folder,
        handler::Handler,
        progress::Progress,
        reply::{Done, Reply},
        searching::{compile, scan_among},
        state::Session,
    },
    limit,
    results::{self, Results},
};
use crate::{
    model::Rights,
    protocol::imap::message::{returns::SearchReturn, search::Search},
};

impl Handler for Search<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let answered = answer(self, session, tag).await;
        let returns = self.returns.unwrap_or_default();
        results::unsave_if_refused(session, returns, &answered);
        answered
    }
}

async fn answer(search: &Search<'_>, session: &mut Session, tag: &str) -> Reply {
    session.check_charset(search.charset.as_deref(), false)?;
    if search.returns.is_some_and(|returns| returns.update) {
        session.check_tag(tag)?;
    }
    let folder = folder::selected(session, Rights::NONE).await?;
    let selected = session.selected()?;
    let executor = session.channel.shard.executor.clone();
    let charset = search.charset.as_deref();
    let collation = session.comparator.collation;
    let query = compile(&search.key, charset, collation, selected, executor.now())?;
    if query.mod_seq {
        session.check_mod_seqs()?;
        session.enable_condstore();
    }
    let (start, limited) = limit::start_of_search(session, &query).await?;
    let reading = folder.reading();
    let looked_at = start..session.selected()?.numbering().len();
    let progress = Progress::to(looked_at.len());
    let looked_at = progress.counted(looked_at);
    let scan = |selected| scan_among(looked_at, &query, selected, &reading, &*executor);
    let hits = session.patiently(tag, &progress, scan).await?;
    let results = Results { tag, uid: search.uid, with_mod_seq: query.mod_seq, hits: &hits };
    // RFC 9051 6.4.4: the answer is always ESEARCH.
    let all = SearchReturn { all: true, ..SearchReturn::default() };
    match search.returns.or(session.rev2().then_some(all)) {
        None => results.tell_search(session, limited.is_some()),
        Some(returns) => {
            results.save(session, returns)?;
            results.tell(session, returns);
            if returns.update && limited.is_some() {
                session.refuse_updates(tag.to_owned(), "Not all messages were looked at");
            } else if returns.update {
                let asked = (tag, search.uid, search.update_fetch);
                session.follow(asked, query, None, &hits);
            }
        }
    }
    limit::answer(session, limited, Done::ok("SEARCH completed"))
}
