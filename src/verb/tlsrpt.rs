//! `ringmail tlsrpt ...`: reports to other domains on TLS. Asks the running server; `show` reads
//! the disk where none runs.

use anyhow::{Context, Result, bail};
use ringmail::{
    control::{self, TlsReportRequest},
    resolver::Name,
    server::data_dir,
};

use super::{
    Usage, printable,
    queue::{Answer, Asked},
};
use crate::cli::TlsrptVerb;

pub fn tlsrpt(verb: TlsrptVerb) -> Result<()> {
    let (request, place) = match verb {
        TlsrptVerb::Show { json, place } => (TlsReportRequest::Show { json }, place),
        TlsrptVerb::Send { domain, dry_run, json, place } => {
            let domain = domain.map(|text| {
                let wrong = |_| Usage(format!("{}: not a domain", printable(&text)));
                Name::parse(&text).map(|name| name.to_string()).map_err(wrong)
            });
            let domain = domain.transpose()?;
            (TlsReportRequest::Send { domain, dry: dry_run, json }, place)
        }
    };
    let asked = Asked::of(&place)?;
    let mut answer = Answer::default();
    if asked.ask(&request.line(), &mut answer)? {
        return answer.end();
    }
    let path = &asked.data_dir;
    let TlsReportRequest::Show { json } = request else {
        bail!("{}: no server runs here", path.display());
    };
    let read = || control::tls_reports_at_rest(path, json).map_err(Into::into);
    let lines = data_dir::as_owner(path, read)
        .with_context(|| format!("{}: the counts of TLS cannot be read", path.display()))?;
    // If standard output is gone, it said so.
    lines.iter().try_for_each(|line| answer.take(line))?;
    answer.end()
}
