//! Which commands run in spite of whose reservation: the tables of SPC-4 and SBC-3, written out.

use scsi::Status;

use crate::harness::{Host, a, b, nexus, reserve_in, reserve_out, sixteen, ten, twelve};

/// What a command does against a reservation it does not hold.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Row {
    /// Allowed throughout.
    Allowed,
    /// Allowed under the write exclusive types.
    Reading,
    /// Conflicts throughout.
    Conflict,
}

use Row::{Allowed, Conflict, Reading};

/// Every command of a disk, one line each, with data-out where it needs some.
fn commands() -> Vec<(Vec<u8>, usize, Row)> {
    let c = |cdb: &[u8], row| (cdb.to_vec(), 0, row);
    let d = |cdb: &[u8], len, row| (cdb.to_vec(), len, row);
    let mut caw = sixteen(0x89, 0, 0, 0);
    caw[13] = 1;
    let mut list = vec![
        c(&[0x00, 0, 0, 0, 0, 0], Allowed),
        c(&[0x03, 0, 0, 0, 252, 0], Allowed),
        c(&[0x08, 0, 0, 0, 1, 0], Reading),
        d(&[0x0a, 0, 0, 0, 1, 0], 512, Conflict),
        c(&[0x12, 0, 0, 0, 96, 0], Allowed),
        d(&[0x15, 0x10, 0, 0, 4, 0], 4, Conflict),
        c(&[0x1a, 0, 0x3f, 0, 255, 0], Reading),
        c(&[0x1b, 0, 0, 0, 1, 0], Allowed),
        c(&[0x1b, 0, 0, 0, 0, 0], Conflict),
        c(&[0x1b, 0, 0, 0, 0x11, 0], Conflict),
        c(&[0x1b, 0, 0, 0, 2, 0], Conflict),
        c(&[0x1d, 4, 0, 0, 0, 0], Conflict),
        c(&[0x1e, 0, 0, 0, 0, 0], Allowed),
        c(&[0x1e, 0, 0, 0, 1, 0], Conflict),
        c(&ten(0x25, 0, 0, 0), Allowed),
        c(&ten(0x28, 0, 0, 1), Reading),
        d(&ten(0x2a, 0, 0, 1), 512, Conflict),
        d(&ten(0x2e, 0, 0, 1), 512, Conflict),
        c(&ten(0x2f, 0, 0, 1), Reading),
        c(&ten(0x34, 0, 0, 1), Reading),
        c(&ten(0x35, 0, 0, 1), Conflict),
        c(&ten(0x37, 0, 0, 8), Reading),
        d(&ten(0x41, 0, 0, 1), 512, Conflict),
        d(&ten(0x42, 0, 0, 8), 8, Conflict),
        c(&ten(0x4d, 0, 0, 255), Allowed),
        d(&[0x55, 0x10, 0, 0, 0, 0, 0, 0, 8, 0], 8, Conflict),
        c(&[0x5a, 0, 0x3f, 0, 0, 0, 0, 0, 255, 0], Reading),
        c(&sixteen(0x88, 0, 0, 1), Reading),
        d(&caw, 1024, Conflict),
        d(&sixteen(0x8a, 0, 0, 1), 512, Conflict),
        d(&sixteen(0x8b, 0, 0, 1), 512, Conflict),
        d(&sixteen(0x8e, 0, 0, 1), 512, Conflict),
        c(&sixteen(0x8f, 0, 0, 1), Reading),
        c(&sixteen(0x90, 0, 0, 1), Reading),
        c(&sixteen(0x91, 0, 0, 1), Conflict),
        d(&sixteen(0x93, 0, 0, 1), 512, Conflict),
        c(&sixteen(0x9e, 0x10, 0, 32), Allowed),
        c(&sixteen(0x9e, 0x12, 0, 32), Reading),
        c(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Allowed),
        c(&[0xa3, 0x0a, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Allowed),
        c(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Reading),
        c(&[0xa3, 0x0d, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], Reading),
        c(&twelve(0xa8, 0, 0, 1), Reading),
        d(&twelve(0xaa, 0, 0, 1), 512, Conflict),
        d(&twelve(0xae, 0, 0, 1), 512, Conflict),
        c(&twelve(0xaf, 0, 0, 1), Reading),
        c(&twelve(0xb7, 0, 0, 8), Reading),
    ];
    list.extend((0..4).map(|action| c(&reserve_in(action, 255), Allowed)));
    list
}

fn host() -> Host {
    let mut host = Host::disk(100);
    host.unit.removable = true;
    host
}

fn is_conflict(host: &mut Host, who: &scsi::Nexus, cdb: &[u8], len: usize) -> bool {
    host.out(who, cdb, &vec![0; len]).status() == Status::ReservationConflict
}

#[test]
fn every_type_command_and_role() {
    for kind in [1u8, 3, 5, 6, 7, 8] {
        let exclusive = matches!(kind, 3 | 6 | 8);
        let registrants = kind >= 5;
        for (cdb, len, row) in commands() {
            let excluded = match row {
                Allowed => false,
                Reading => exclusive,
                Conflict => true,
            };
            // (registered, holds) → conflict?
            for (registers, holds) in [(true, true), (true, false), (false, false)] {
                let mut host = host();
                let who = if holds { a() } else { b() };
                let (out, list) = reserve_out(0, 0, 0, 1, 0);
                host.out(&a(), &out, &list).good();
                if registers && !holds {
                    host.out(&b(), &out, &list).good();
                }
                let (out, list) = reserve_out(1, kind, 1, 0, 0);
                host.out(&a(), &out, &list).good();
                let want = excluded && !holds && !(registers && registrants);
                let got = is_conflict(&mut host, &who, &cdb, len);
                assert_eq!(
                    got, want,
                    "type {kind}, {cdb:02x?}, registered {registers}, holds {holds}"
                );
            }
        }
    }
}

#[test]
fn every_command_has_a_line_here() {
    let mut host = host();
    let data = host
        .send(&a(), &[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0])
        .good();
    for entry in data[4..].chunks(8) {
        let has_action = entry[5] & 1 != 0;
        let listed = commands()
            .iter()
            .any(|(cdb, ..)| cdb[0] == entry[0] && (!has_action || cdb[1] & 0x1f == entry[3]));
        let own_rules = matches!(entry[0], 0x16 | 0x17 | 0x56 | 0x57 | 0x5f);
        assert!(listed || own_rules, "{entry:02x?}");
    }
}

#[test]
fn nothing_reserved_nothing_excluded() {
    for (cdb, len, _) in commands() {
        let mut host = host();
        let (out, list) = reserve_out(0, 0, 0, 1, 0);
        host.out(&a(), &out, &list).good();
        assert!(!is_conflict(&mut host, &b(), &cdb, len), "{cdb:02x?}");
    }
}

#[test]
fn reserve_6_excludes_all_but_a_few() {
    for (cdb, len, row) in commands() {
        let mut host = host();
        host.send(&a(), &[0x16, 0, 0, 0, 0, 0]).good();
        let persistent = cdb[0] == 0x5e;
        let want = row != Allowed || persistent;
        assert_eq!(is_conflict(&mut host, &b(), &cdb, len), want, "{cdb:02x?}");
        assert_eq!(
            is_conflict(&mut host, &a(), &cdb, len),
            persistent,
            "{cdb:02x?}"
        );
    }
}

#[test]
fn reserve_and_release_of_spc_2() {
    for (reserve, release) in [([0x16; 1], [0x17; 1]), ([0x56; 1], [0x57; 1])] {
        let cdb = |code: [u8; 1]| {
            let mut cdb = [0; 10];
            cdb[0] = code[0];
            cdb
        };
        let mut host = host();
        host.send(&a(), &cdb(reserve)).good();
        host.send(&a(), &cdb(reserve)).good();
        host.send(&b(), &cdb(reserve)).conflict();
        host.send(&b(), &cdb(release)).good();
        host.send(&b(), &cdb(reserve)).conflict();
        host.send(&a(), &cdb(release)).good();
        host.send(&b(), &cdb(reserve)).good();
        // Lost with the nexus.
        assert!(scsi::change::nexus_lost(&host.unit, &a()).is_none());
        let applied = scsi::change::nexus_lost(&host.unit, &b()).unwrap();
        host.publish(applied);
        host.send(&a(), &cdb(reserve)).good();
        // And with a reset.
        let applied = scsi::change::reset(&host.unit, Some(&b()));
        host.publish(applied);
        assert_eq!(host.unit.legacy, None);
        for flags in [0x10, 0x01] {
            let mut bad = cdb(reserve);
            bad[1] = flags;
            host.send(&nexus('n', 1), &bad)
                .illegal(scsi::sense::Code::INVALID_FIELD);
        }
    }
}

#[test]
fn the_two_kinds_of_reservation_exclude_each_other() {
    let reserve = [0x16, 0, 0, 0, 0, 0];
    let release = [0x17, 0, 0, 0, 0, 0];
    let mut host = host();
    host.send(&a(), &reserve).good();
    let (out, list) = reserve_out(0, 0, 0, 1, 0);
    host.out(&a(), &out, &list).conflict();
    host.out(&b(), &out, &list).conflict();
    host.send(&a(), &release).good();
    host.out(&a(), &out, &list).good();
    // Registered, nothing reserved: RESERVE conflicts for everybody.
    for who in [a(), b()] {
        host.send(&who, &reserve).conflict();
        host.send(&who, &release).conflict();
    }
    // Compatible reservation handling: done, without effect, for those who have access anyway.
    for (kind, registrant) in [
        (1u8, false),
        (3, false),
        (5, true),
        (6, true),
        (7, true),
        (8, true),
    ] {
        let mut host = self::host();
        host.out(&a(), &out, &list).good();
        host.out(&b(), &out, &list).good();
        let (cdb, list) = reserve_out(1, kind, 1, 0, 0);
        host.out(&a(), &cdb, &list).good();
        for cdb in [reserve, release] {
            host.send(&a(), &cdb).good();
            let other = host.send(&b(), &cdb);
            assert_eq!(other.response.is_good(), registrant, "type {kind}");
            host.send(&nexus('n', 1), &cdb).conflict();
        }
        assert_eq!(host.unit.legacy, None);
    }
}
