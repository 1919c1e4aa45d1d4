//! Header blocks: fields, unfolding, and the filter of `HEADER.FIELDS` (RFC 3501 6.4.5).

/// Which fields pass.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HeaderFilter {
    /// `HEADER.FIELDS`
    Only,
    /// `HEADER.FIELDS.NOT`
    Except,
}

/// The fields of `header` (a whole header block) that `filter` lets pass, original bytes and
/// order, then a blank line. `names` compare without case.
pub fn filter_header<N: AsRef<[u8]>>(
    _header: &[u8],
    _filter: HeaderFilter,
    _names: &[N],
) -> Vec<u8> {
    todo!()
}
