//! What holds for every text and every document.

use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use target::config::{
    AccessRule, Action, Authentication, Backing, ChapAccount, ChapAlgorithm, Config, Device, Lun,
    LunMapping, Portal, Provisioning, Target,
};

use super::disk::Disk;
use super::{BASE, anything, store_on};
use crate::*;

/// Any text that TOML can hold, with what needs escaping.
fn word() -> impl Strategy<Value = String> {
    prop_oneof![
        "[a-z0-9.:-]{1,12}",
        "\\PC{0,8}",
        Just("a\"b\\c\n\t\u{7f}".to_owned())
    ]
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<[u8; 4]>().prop_map(IpAddr::from),
        any::<[u8; 16]>().prop_map(IpAddr::from)
    ]
}

fn portal() -> impl Strategy<Value = Portal> {
    (
        word(),
        address(),
        any::<u16>(),
        option::of(word()),
        any::<u16>(),
        any::<bool>(),
    )
        .prop_map(|(name, address, port, interface, group, enabled)| Portal {
            name,
            address,
            port,
            interface,
            group,
            enabled,
        })
}

fn backing() -> impl Strategy<Value = Backing> {
    let size = 0..=i64::MAX.unsigned_abs();
    let path = || word().prop_map(PathBuf::from);
    prop_oneof![
        (
            path(),
            size.clone(),
            any::<bool>(),
            any::<u32>(),
            any::<bool>()
        )
            .prop_map(|(path, size, thin, block_size, read_only)| Backing::Image {
                path,
                size,
                provisioning: if thin {
                    Provisioning::Thin
                } else {
                    Provisioning::Preallocated
                },
                block_size,
                read_only,
            }),
        (path(), option::of(any::<u32>()), any::<bool>()).prop_map(
            |(path, block_size, read_only)| Backing::Block {
                path,
                block_size,
                read_only
            }
        ),
        (size, any::<u32>()).prop_map(|(size, block_size)| Backing::Ram { size, block_size }),
        path().prop_map(|path| Backing::Iso { path }),
    ]
}

fn device() -> impl Strategy<Value = Device> {
    (
        word(),
        backing(),
        0..3,
        any::<bool>(),
        any::<bool>(),
        any::<u16>(),
    )
        .prop_map(
            |(name, backing, cache, removable, asynchronous, queue_depth)| Device {
                name,
                backing,
                cache: match cache {
                    0 => target::config::CacheMode::None,
                    1 => target::config::CacheMode::WriteThrough,
                    _ => target::config::CacheMode::WriteBack,
                },
                removable,
                asynchronous,
                queue_depth,
                physical_blocks: queue_depth % 2 == 0,
            },
        )
}

fn authentication() -> impl Strategy<Value = Authentication> {
    let algorithms = [
        ChapAlgorithm::Md5,
        ChapAlgorithm::Sha1,
        ChapAlgorithm::Sha256,
        ChapAlgorithm::Sha3_256,
    ];
    let algorithms = vec(prop::sample::select(algorithms.to_vec()), 0..4);
    (
        vec(word(), 0..3),
        option::of(word()),
        any::<bool>(),
        algorithms,
    )
        .prop_map(
            |(accounts, mutual, mutual_required, algorithms)| Authentication {
                accounts,
                mutual,
                mutual_required,
                algorithms,
            },
        )
}

fn rule() -> impl Strategy<Value = AccessRule> {
    let network = (address(), 0_u8..=32).prop_map(|(address, prefix)| {
        ipnet::IpNet::new(address, prefix).expect("a prefix that fits both")
    });
    let action = prop::sample::select(vec![Action::Allow, Action::Deny, Action::ReadOnly]);
    let mapping = (any::<u16>(), any::<u16>()).prop_map(|(seen, lun)| LunMapping { seen, lun });
    let luns = option::of(vec(mapping, 0..3));
    let own = option::of(authentication());
    (
        word(),
        option::of(network),
        option::of(word()),
        action,
        luns,
        own,
    )
        .prop_map(
            |(initiator, network, portal, action, luns, authentication)| AccessRule {
                initiator,
                network,
                portal,
                action,
                luns,
                authentication,
            },
        )
}

fn target() -> impl Strategy<Value = Target> {
    let lun = (any::<u16>(), word(), any::<bool>()).prop_map(|(number, device, read_only)| Lun {
        number,
        device,
        read_only,
    });
    let names = vec(word(), 0..3);
    let head = (word(), option::of(word()), any::<bool>(), names);
    (head, authentication(), vec(lun, 0..3), vec(rule(), 0..3)).prop_map(
        |((name, alias, allow_multiple, portals), authentication, luns, access)| Target {
            name,
            alias,
            allow_multiple,
            portals,
            authentication,
            luns,
            access,
        },
    )
}

fn document() -> impl Strategy<Value = Document> {
    let account = (word(), word()).prop_map(|(user, secret)| ChapAccount { user, secret });
    let ring = prop::sample::select(vec![Ring::Auto, Ring::Uring, Ring::Epoll]);
    let service = (
        "[a-z0-9.-]{1,12}",
        0..=u16::try_from(target::limits::SHARDS_MAX).expect("few"),
        ring,
        0..=limits::SPIN_US,
    )
        .prop_map(|(name, shards, ring, spin_us)| ServiceSettings {
            role: Role::San,
            name,
            shards,
            ring,
            spin_us,
            api_group: None,
        });
    let iscsi = (
        vec(portal(), 0..3),
        vec(device(), 0..4),
        vec(account, 0..3),
        vec(target(), 0..3),
        option::of(authentication()),
    )
        .prop_map(|(portals, devices, accounts, targets, discovery)| Config {
            portals,
            devices,
            accounts,
            targets,
            discovery,
        });
    (service, iscsi).prop_map(|(service, iscsi)| Document {
        version: VERSION,
        service,
        iscsi,
        sealed_secrets: None,
    })
}

fn prepared() -> (Arc<Disk>, Store) {
    let disk = Arc::new(Disk::new());
    let store = store_on(&disk);
    let plan = store
        .propose_text(BASE.as_bytes(), &anything)
        .expect("a plan");
    store.commit(plan, "root", "first").expect("committed");
    (disk, store)
}

/// A document with pieces of it changed, cut, doubled.
fn mangled() -> impl Strategy<Value = Vec<u8>> {
    let edit = (
        any::<prop::sample::Index>(),
        0_u8..4,
        vec(any::<u8>(), 0..6),
        0_usize..40,
    );
    vec(edit, 1..6).prop_map(|edits| {
        let mut bytes = BASE.as_bytes().to_vec();
        for (at, what, piece, length) in edits {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            match what {
                0 => drop(bytes.splice(at..end, piece)),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    drop(bytes.splice(at..at, copy));
                }
                _ => {
                    let from = b"[]{}=\"'\n.,#-0x1e_";
                    let c = from[length % from.len()];
                    drop(bytes.splice(at..at, [c]));
                }
            }
        }
        bytes
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_bytes_change_nothing(bytes in vec(any::<u8>(), 0..400)) {
        let (disk, store) = prepared();
        let before = disk.files();
        if let Ok(plan) = store.propose_text(&bytes, &anything) {
            prop_assert!(plan.document.check().is_ok() || !plan.is_accepted());
        }
        prop_assert!(import(&bytes, None).is_err() || parse(&bytes).is_ok());
        prop_assert_eq!(disk.files(), before);
    }

    #[test]
    fn a_mangled_document_is_refused_with_a_place_or_is_one(bytes in mangled()) {
        let (disk, store) = prepared();
        let before = disk.files();
        match store.propose_text(&bytes, &anything) {
            Ok(plan) => {
                let again = parse(plan.text.as_bytes());
                prop_assert_eq!(again.as_ref(), Ok(&plan.document));
            }
            Err(ProposeError::Invalid(problems)) => {
                let lines = bytes.split(|b| *b == b'\n').count();
                prop_assert!(!problems.list.is_empty());
                for problem in &problems.list {
                    prop_assert!((1..=lines).contains(&problem.line), "{}", problem);
                    prop_assert!(problem.column >= 1 && !problem.reason.is_empty());
                }
            }
            Err(other) => prop_assert!(false, "{}", other),
        }
        prop_assert_eq!(disk.files(), before);
    }

    /// Whatever is in place of the current settings: an error that leaves it there, or settings.
    #[test]
    fn a_mangled_file_is_never_taken_nor_replaced(at in any::<prop::sample::Index>(), byte: u8) {
        let (disk, store) = prepared();
        let path = PathBuf::from("/data/settings/current.toml");
        let mut bytes = disk.files()[&path].clone();
        let at = at.index(bytes.len());
        let same = bytes[at] == byte;
        bytes[at] = byte;
        disk.overwrite("/data/settings/current.toml", &bytes);
        prop_assert_eq!(store_on(&disk).load().is_ok(), same);
        prop_assert_eq!(&disk.files()[&path], &bytes);
        let plan = store.propose(Document::default(), &anything).expect("a plan");
        prop_assert_eq!(store.commit(plan, "", "").is_ok(), same);
    }

    #[test]
    fn a_document_reads_back(document in document()) {
        let text = document.to_text().expect("writable");
        prop_assert_eq!(parse(text.as_bytes()), Ok(document));
    }

    #[test]
    fn changes_are_empty_for_equal_documents_only(old in document(), new in document()) {
        let table = |document: &Document| -> toml::Table {
            document.to_text().expect("writable").parse().expect("TOML")
        };
        let (old_table, new_table) = (table(&old), table(&new));
        prop_assert!(crate::diff::changes(&old_table, &old_table).is_empty());
        let changes = crate::diff::changes(&old_table, &new_table);
        prop_assert_eq!(changes.is_empty(), old == new);
        // Backwards, the same places change, with old and new exchanged.
        let back = crate::diff::changes(&new_table, &old_table);
        let swap = |change: &Change| (change.path.clone(), change.new.clone(), change.old.clone());
        let mut there: Vec<_> = changes.iter().map(swap).collect();
        let mut back: Vec<_> = back.into_iter().map(|c| (c.path, c.old, c.new)).collect();
        there.sort();
        back.sort();
        prop_assert_eq!(there, back);
    }

    #[test]
    fn a_rollback_brings_back_any_generation(documents in vec(document(), 1..6), pick: prop::sample::Index) {
        let (disk, store) = prepared();
        for document in &documents {
            let plan = store.propose(document.clone(), &anything).expect("a plan");
            let accepted = plan.is_accepted();
            prop_assert!(accepted, "{:?}", plan.checks);
            store.commit(plan, "tester", "next").expect("committed");
        }
        let number = pick.index(documents.len()) + 2;
        let wanted = &documents[number - 2];
        let plan = store.propose_rollback(number as u64, &anything).expect("a plan");
        prop_assert_eq!(plan.is_empty(), documents.last() == Some(wanted));
        let generation = store.commit(plan, "tester", "back").expect("committed");
        prop_assert_eq!(generation.number, documents.len() as u64 + 2);
        prop_assert_eq!(&store_on(&disk).load().expect("loads").document, wanted);
    }
}
