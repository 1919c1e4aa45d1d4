//! Mail that the server itself writes to other domains: signed and put into the queue like mail of
//! a user, but nobody is told if it cannot be delivered.

use std::{collections::BTreeMap, rc::Rc};

use crate::{
    dkim::MessageDigest,
    model::{MailClass, Timestamp},
    protocol::smtp::Notify,
    queue::{Envelope, Origin, Recipient, domain_of},
    service::{
        Shard,
        delivery::{Delivery, Failure},
    },
};

/// A message, without trace fields and signature.
#[derive(Clone, Debug)]
pub struct OwnMail {
    pub sender: String,
    pub to: String,
    pub id: String,
    /// 7-bit, with CRLF at the ends of its lines.
    pub message: Vec<u8>,
    /// It is tried until then.
    pub expires: Timestamp,
}

/// Puts `mail` durably into the queue. It may go without TLS whatever the policies of its domain
/// say (RFC 8460 3), and no report about it is asked for.
///
/// # Errors
/// It is not in the queue, or that is not known.
pub async fn submit(shard: &Rc<Shard>, mail: OwnMail) -> Result<(), Failure> {
    let OwnMail { sender, to, id, message, expires } = mail;
    if !shard.relay().admits(MailClass::Local) {
        return Err(Failure::Full);
    }
    let now = shard.executor.now();
    let mut prologue = format!("Return-Path: <{sender}>\r\n").into_bytes();
    if let Some(signer) = shard.signing.signer(domain_of(&sender)) {
        let mut digest = MessageDigest::default();
        digest.push(&message);
        if let Some(unsigned) = digest.finish() {
            prologue.extend_from_slice(&shard.signing.sign(signer, unsigned, now).await);
        }
    }
    let mut delivery = Delivery::new(shard, [], MailClass::Local).with_queue();
    delivery.push(&message).await;
    delivery.prepend(prologue);
    let recipient = Recipient {
        address: to,
        notify: Some(Notify::Never),
        any_tls: true,
        ..Recipient::default()
    };
    delivery.send_on(Envelope {
        arrived: now,
        origin: Origin::Report,
        sender,
        id,
        expires: Some(expires),
        recipients: BTreeMap::from([(1, recipient)]),
        ..Envelope::default()
    });
    delivery.finish_together().await
}
