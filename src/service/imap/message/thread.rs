//! THREAD (RFC 5256, draft-ietf-morg-inthread-01).

use super::{
    super::{
        folder,
        handler::Handler,
        progress::Progress,
        reply::{Done, Reply},
        searching::{compile, scan_among, thread},
        selected::Selected,
        state::Session,
    },
    limit,
};
use crate::{model::Rights, protocol::imap::message::thread::Thread};

/// Pieces written before other sessions get their turn.
const PIECES_PER_TURN: usize = 2_048;

impl Handler for Thread<'_> {
    async fn run(&self, session: &mut Session, tag: &str) -> Reply {
        session.check_charset(Some(&self.charset), true)?;
        let folder = folder::selected(session, Rights::NONE).await?;
        let selected = session.selected()?;
        let executor = session.channel.shard.executor.clone();
        let (charset, collation) = (Some(&*self.charset), session.comparator.collation);
        let query = compile(&self.key, charset, collation, selected, executor.now())?;
        if query.mod_seq {
            session.check_mod_seqs()?;
            session.enable_condstore();
        }
        if let (_, Some(limited)) = limit::start_of_search(session, &query).await? {
            return Err(limited.refuse_whole());
        }
        let (reading, progress) = (folder.reading(), Progress::beyond_messages());
        let find = async |selected: &Selected| {
            let all = progress.counted(0..selected.numbering().len());
            let hits = scan_among(all, &query, selected, &reading, &*executor).await?;
            let by = (self.algorithm, collation);
            let forest = thread(&hits, by, selected, &reading, &*executor).await?;
            Ok((hits, forest))
        };
        let (hits, forest) = session.patiently(tag, &progress, find).await?;
        let number = |at: u32| hits.get(at as usize).map_or(0, |hit| hit.number(self.uid));
        session.writer().begin_thread();
        if !forest.roots.is_empty() {
            session.channel.connection.output().push(b' ');
        }
        let mut pieces = 0;
        for root in &forest.roots {
            let mut writing = forest.writing(*root);
            while writing.step(session.channel.connection.output(), number) {
                pieces += 1;
                if pieces % PIECES_PER_TURN == 0 {
                    session.channel.flush_if_full().await?;
                    executor.yield_now().await;
                }
            }
        }
        session.channel.connection.output().extend_from_slice(b"\r\n");
        Done::ok("THREAD completed")
    }
}
