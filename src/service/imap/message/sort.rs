//! SORT (RFC 5256, RFC 5957), and its extended form (RFC 5267 3 and 4).

use super::{
    super::{
        folder,
        handler::Handler,
        progress::Progress,
        query::Order,
        reply::{Done, Reply},
        searching::{compile, scan_among, sort},
        selected::Selected,
        state::Session,
    },
    limit,
    results::{self, Results},
};
use crate::{model::Rights, protocol::imap::message::sort::Sort};

impl Handler for Sort<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        let answered = answer(self, session, tag).await;
        results::unsave_if_refused(session, self.returns.unwrap_or_default(), &answered);
        answered
    }
}

async fn answer(command: &Sort<'_>, session: &mut Session, tag: &str) -> Reply {
    session.check_charset(Some(&command.charset), true)?;
    if command.returns.is_some_and(|returns| returns.update) {
        session.check_tag(tag)?;
    }
    let folder = folder::selected(session, Rights::NONE).await?;
    let selected = session.selected()?;
    let executor = session.channel.shard.executor.clone();
    let (charset, comparator) = (Some(&*command.charset), session.comparator);
    let collation = comparator.collation;
    let query = compile(&command.key, charset, collation, selected, executor.now())?;
    if query.mod_seq {
        session.check_mod_seqs()?;
        session.enable_condstore();
    }
    if let (_, Some(limited)) = limit::start_of_search(session, &query).await? {
        return Err(limited.refuse_whole());
    }
    let (reading, progress) = (folder.reading(), Progress::beyond_messages());
    let order = Order { criteria: command.order.clone(), comparator };
    let find = async |selected: &Selected| {
        let all = progress.counted(0..selected.numbering().len());
        let mut hits = scan_among(all, &query, selected, &reading, &*executor).await?;
        sort(&mut hits, &order, selected, &reading, &*executor).await?;
        Ok(hits)
    };
    let hits = session.patiently(tag, &progress, find).await?;
    let results = Results { tag, uid: command.uid, with_mod_seq: query.mod_seq, hits: &hits };
    match command.returns {
        None => results.tell_sort(session),
        Some(returns) => {
            results.save(session, returns)?;
            results.tell(session, returns);
            if returns.update {
                let asked = (tag, command.uid, command.update_fetch);
                session.follow(asked, query, Some(order), &hits);
            }
        }
    }
    Done::ok("SORT completed")
}
