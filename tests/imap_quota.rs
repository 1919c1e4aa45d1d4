//! Quotas (RFC 9208) on shared folders, for administrators, and over LMTP-like deliveries: who is
//! told what, and who is charged.

mod transcript;
mod world;

use ringmail::{model::QuotaLimits, service::imap::ImapOptions};
use world::{ALICE, Client, Kit, SimulatedWorld, serve_imap};

const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

/// Dave is the administrator.
fn world(kit: &Kit) -> SimulatedWorld<'_> {
    let mut options = world::options(true);
    options.imap =
        ImapOptions { administrators: vec!["dave@demo.test".to_owned()], ..options.imap };
    SimulatedWorld::with_options(kit, serve_imap, 0, options, 64 << 20)
}

fn append(client: &mut Client, mailbox: &str, octets: usize) -> String {
    let text = format!("{}\r\n", "x".repeat(octets - 2));
    client.answer(&format!("APPEND {mailbox} {{{octets}+}}\r\n{text}"))
}

#[track_caller]
fn check(told: &str, expected: &[&str]) {
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(told, expected);
}

const NO_ROOT: &str = "t NO [NONEXISTENT] No such quota root";
const NO_MAILBOX: &str = "t NO [NONEXISTENT] No such mailbox";

/// The example of RFC 9208 4.1.3, with this server's names.
#[test]
fn administrators_set_limits() {
    let kit = Kit::of(&USERS);
    let world = world(&kit);
    let (mut admin, mut alice) = (world.log_in("dave"), world.log_in("alice"));
    append(&mut alice, "INBOX", 1500);
    let root = "\"Other Users/alice@demo.test\"";
    check(
        &admin.answer(&format!("GETQUOTA {root}")),
        &[
            "* QUOTA \"Other Users/alice@demo.test\" (STORAGE 2 1073741824 MESSAGE 1 2000000)",
            "t OK GETQUOTA completed",
        ],
    );
    check(
        &admin.answer(&format!("SETQUOTA {root} (STORAGE 510)")),
        &[
            "* QUOTA \"Other Users/alice@demo.test\" (STORAGE 2 510 MESSAGE 1 2000000)",
            "t OK SETQUOTA completed",
        ],
    );
    // More than any account may have is rounded down.
    check(
        &admin.answer(&format!("SETQUOTA {root} (MESSAGE 1000 STORAGE 9223372036854775807)")),
        &[
            "* QUOTA \"Other Users/alice@demo.test\" (STORAGE 2 1073741824 MESSAGE 1 1000)",
            "t OK SETQUOTA completed",
        ],
    );
    let refused = admin.answer(&format!("SETQUOTA {root} (X-ANNOTATION 5)"));
    check(&refused, &["t NO [CANNOT] Only STORAGE and MESSAGE can be limited"]);
    check(&admin.answer("SETQUOTA nonsense (STORAGE 1)"), &[NO_ROOT]);
    check(&admin.answer("GETQUOTA \"Other Users/nobody@demo.test\""), &[NO_ROOT]);
    check(
        &admin.answer("SETQUOTA Shared (MESSAGE 0)"),
        &["* QUOTA Shared (STORAGE 0 1073741824 MESSAGE 0 0)", "t OK SETQUOTA completed"],
    );
    // Limits that are not named are taken away.
    check(
        &admin.answer(&format!("SETQUOTA {root} ()")),
        &[
            "* QUOTA \"Other Users/alice@demo.test\" (STORAGE 2 1073741824 MESSAGE 1 2000000)",
            "t OK SETQUOTA completed",
        ],
    );
    check(
        &alice.answer("GETQUOTAROOT INBOX"),
        &[
            "* QUOTAROOT INBOX \"\"",
            "* QUOTA \"\" (STORAGE 2 1073741824 MESSAGE 1 2000000)",
            "t OK GETQUOTAROOT completed",
        ],
    );
}

/// Neither own limits nor those of others are for users to set, and nothing tells them whether an
/// account or a mailbox exists.
#[test]
fn others_learn_and_change_nothing() {
    let kit = Kit::of(&USERS);
    for user in ["bob", "carol"] {
        let world = world(&kit);
        let (mut alice, mut guest) = (world.log_in("alice"), world.log_in(user));
        alice.done("CREATE hidden");
        alice.done("CREATE seen");
        alice.done(&format!("SETACL seen {user}@demo.test l"));
        alice.done("CREATE shared");
        alice.done(&format!("SETACL shared {user}@demo.test lri"));
        for root in ["\"\"", "\"Other Users/alice@demo.test\"", "\"Other Users/no@demo.test\""] {
            check(
                &guest.answer(&format!("SETQUOTA {root} (STORAGE 1)")),
                &["t NO [NOPERM] Only administrators set quotas"],
            );
        }
        for root in ["alice@demo.test", "dave@demo.test", "no@demo.test", ""] {
            check(&guest.answer(&format!("GETQUOTA \"Other Users/{root}\"")), &[NO_ROOT]);
        }
        check(&guest.answer("GETQUOTA Shared"), &[NO_ROOT]);
        check(&guest.answer("GETQUOTA \"Other Users\""), &[NO_ROOT]);
        for name in ["alice@demo.test/hidden", "alice@demo.test/none", "dave@demo.test/INBOX"] {
            let asked = format!("GETQUOTAROOT \"Other Users/{name}\"");
            check(&guest.answer(&asked), &[NO_MAILBOX]);
        }
        // Who may only look has no use for it.
        check(
            &guest.answer("GETQUOTAROOT \"Other Users/alice@demo.test/seen\""),
            &["* QUOTAROOT \"Other Users/alice@demo.test/seen\"", "t OK GETQUOTAROOT completed"],
        );
        check(
            &guest.answer("GETQUOTAROOT \"Other Users/alice@demo.test/shared\""),
            &[
                "* QUOTAROOT \"Other Users/alice@demo.test/shared\" \"Other Users/alice@demo.test\"",
                "* QUOTA \"Other Users/alice@demo.test\" (STORAGE 0 1073741824 MESSAGE 0 2000000)",
                "t OK GETQUOTAROOT completed",
            ],
        );
        alice.done(&format!("DELETEACL shared {user}@demo.test"));
        let asked = "GETQUOTAROOT \"Other Users/alice@demo.test/shared\"";
        check(&guest.answer(asked), &[NO_MAILBOX]);
    }
}

/// The owner of a mailbox is charged for what a guest puts into it, from any shard; the guest's own
/// limits do not matter.
#[test]
fn the_owner_is_charged() {
    let kit = Kit::of(&USERS);
    for user in ["bob", "carol"] {
        let world = world(&kit);
        let mut admin = world.log_in("dave");
        let (mut alice, mut guest) = (world.log_in("alice"), world.log_in(user));
        alice.done("CREATE shared");
        alice.done(&format!("SETACL shared {user}@demo.test lri"));
        let shared = "\"Other Users/alice@demo.test/shared\"";
        append(&mut guest, "INBOX", 100);
        append(&mut guest, "INBOX", 100);
        admin.done(&format!("SETQUOTA \"Other Users/{user}@demo.test\" (MESSAGE 0)"));
        admin.done("SETQUOTA \"Other Users/alice@demo.test\" (MESSAGE 4)");
        assert!(append(&mut guest, shared, 100).contains("t OK"));
        guest.done("SELECT INBOX");
        guest.done(&format!("COPY 1 {shared}"));
        // The warning is for the owner, of whose mail a guest learns nothing.
        assert!(append(&mut alice, "INBOX", 50).starts_with("t OK"));
        let told = append(&mut alice, "INBOX", 50);
        assert!(told.starts_with("* NO [OVERQUOTA] The account is 100% full\r\nt OK"), "{told}");
        const FULL: &str = "t NO [OVERQUOTA] The account is full";
        check(&append(&mut guest, shared, 100), &[FULL]);
        for command in ["COPY 1", "COPY 1:2", "MOVE 1"] {
            check(&guest.answer(&format!("{command} {shared}")), &[FULL]);
        }
        check(&append(&mut alice, "INBOX", 2), &[FULL]);
        check(&append(&mut guest, "INBOX", 2), &[FULL]);
        // Within the account something may move.
        alice.done("SELECT INBOX");
        alice.done("MOVE 1 shared");
        check(&alice.answer("COPY 1 shared"), &[FULL]);
        alice.done("STORE 1 +FLAGS (\\Deleted)");
        alice.done("EXPUNGE");
        assert!(append(&mut guest, shared, 100).starts_with("t OK"));
        let usage = world.with_account(async |account| account.usage());
        assert_eq!((usage.messages, usage.limits.messages), (4, 4));
    }
}

/// What an account has by storage, in octets; and the limits of a domain are a default.
#[test]
fn octets_are_limited_too() {
    let kit = Kit::of(&USERS);
    let world = world(&kit);
    let mut alice = world.log_in("alice");
    let partition = world.alices_partition();
    let limits = QuotaLimits { octets: Some(4096), messages: None };
    kit.simulation.run_until(partition.set_quota(ALICE, Some(limits))).expect("set");
    assert!(append(&mut alice, "INBOX", 3000).starts_with("t OK"));
    check(&append(&mut alice, "INBOX", 1097), &["t NO [OVERQUOTA] The account is full"]);
    let told = append(&mut alice, "INBOX", 1096);
    assert!(told.starts_with("* NO [OVERQUOTA] The account is 100% full\r\nt OK"), "{told}");
    check(
        &alice.answer("GETQUOTA \"\""),
        &["* QUOTA \"\" (STORAGE 4 4 MESSAGE 2 2000000)", "t OK GETQUOTA completed"],
    );
    check(
        &alice.answer("STATUS INBOX (DELETED DELETED-STORAGE)"),
        &["* STATUS INBOX (DELETED 0 DELETED-STORAGE 0)", "t OK STATUS completed"],
    );
    alice.done("SELECT INBOX");
    alice.done("STORE 2 +FLAGS.SILENT (\\Deleted)");
    check(
        &alice.answer("STATUS INBOX (MESSAGES DELETED DELETED-STORAGE)"),
        &["* STATUS INBOX (MESSAGES 2 DELETED 1 DELETED-STORAGE 1096)", "t OK STATUS completed"],
    );
}
