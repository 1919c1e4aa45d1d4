//! Internet message format and MIME (RFC 5322, RFC 2045 to 2049): what is derived from a message
//! while its bytes pass, and what IMAP needs of it later.
//!
//! The SMTP and LMTP sessions and IMAP APPEND feed a [`Summarizer`]; the store keeps the encoded
//! [`Summary`] beside the body, opaque to it; IMAP FETCH decodes it to answer ENVELOPE,
//! BODYSTRUCTURE and section addresses without reading the body; IMAP SEARCH uses it to know which
//! bytes are text. Everything here is pure: bytes in, values out.

pub mod address;
pub mod card;
mod charset;
mod codec;
mod collation;
pub mod date;
mod describe;
#[cfg(test)]
mod differential;
pub mod downgrade;
pub mod encoded_word;
pub mod header;
mod html;
mod message_id;
mod nul;
mod parameter;
mod preview;
mod rewrite;
pub mod search;
mod section;
mod shifted;
mod subject;
mod summarizer;
mod summary;
mod transfer;

pub use address::Address;
pub use card::{EnvelopeCard, EnvelopeField, split_card};
pub use charset::encoding_of;
pub use collation::{ActiveComparator, Collation};
pub use date::DateTime;
pub use header::{HeaderFilter, filter_header};
pub use nul::append_without_nul;
pub use preview::Preview;
pub use rewrite::HeaderRewriter;
pub use search::{MessageSearch, Needle, Scope};
pub use section::SectionText;
pub use summarizer::Summarizer;
pub use summary::{DecodeError, Envelope, Part, PartKind, PartTexts, Summary};
pub use transfer::{TransferDecoder, decode_transfer};
