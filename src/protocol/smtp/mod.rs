//! SMTP and LMTP without I/O: commands, addresses, replies, the text of a message, and the session,
//! which decides what is legal when (RFC 5321, RFC 2033 and the extensions named in each file).

pub mod address;
pub mod client;
pub mod command;
pub mod data;
pub mod opening;
pub mod original_client;
pub mod parameter;
pub mod relay_parameters;
pub mod reply;
pub mod session;
pub mod timing;
pub mod tls_required;
pub mod trace;

pub use address::{Mailbox, Path};
pub use command::{Node, NodeKind, Verb};
pub use data::BareNewline;
pub use opening::{Opening, Verdict};
pub use original_client::OriginalClient;
pub use parameter::{BodyKind, MailParameters, Notify, RecipientParameters, Return};
pub use reply::Reply;
pub use session::{
    Event, Extensions, ForwardPath, Greeting, Limits, Offer, Role, Security, Sender, Session, Vrfy,
};
pub use timing::{ByMode, DeliverBy, Hold};
pub use tls_required::TlsRequired;
pub use trace::{Trace, Transport};
