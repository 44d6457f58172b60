//! What a nexus is told before its next command: unit attentions, deferred errors, REQUEST SENSE.

use scsi::sense::{Code, Format, Key};
use scsi::{Attention, NexusState, Sense};

use crate::harness::{Host, TEST_UNIT_READY, a, inquiry, ten};

const REPORT_LUNS: [u8; 12] = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

fn request_sense(descriptor: bool, allocation: u8) -> [u8; 6] {
    [0x03, u8::from(descriptor), 0, 0, allocation, 0]
}

#[test]
fn attentions_come_by_precedence_once_each() {
    let mut host = Host::disk(100);
    let mut state = NexusState::new();
    for attention in [
        Attention::LunsChanged,
        Attention::ReservationsReleased,
        Attention::CapacityChanged,
        Attention::CapacityChanged,
        Attention::RegistrationsPreempted,
    ] {
        state.establish(attention);
    }
    host.states.insert(a(), state);
    for code in [0x2900, 0x2a05, 0x2a04, 0x2a09, 0x3f0e] {
        host.send(&a(), &TEST_UNIT_READY)
            .check(Key::UnitAttention, Code(code));
    }
    host.send(&a(), &TEST_UNIT_READY).good();
}

#[test]
fn a_greater_reset_takes_the_place_of_a_lesser() {
    let pending = |order: &[Attention]| {
        let mut state = NexusState::default();
        order
            .iter()
            .for_each(|attention| state.establish(*attention));
        state.pending().collect::<Vec<_>>()
    };
    use Attention::{ModeChanged, NexusLoss, PowerOn, TargetReset, UnitReset};
    assert_eq!(pending(&[UnitReset, PowerOn]), [PowerOn]);
    assert_eq!(pending(&[PowerOn, UnitReset]), [PowerOn]);
    assert_eq!(
        pending(&[NexusLoss, UnitReset, ModeChanged]),
        [UnitReset, ModeChanged]
    );
    assert_eq!(pending(&[UnitReset, TargetReset, NexusLoss]), [TargetReset]);
    assert!(NexusState::default().is_quiet());
    assert_eq!(pending(&[NexusLoss]), [NexusLoss]);
}

#[test]
fn some_commands_run_in_spite_of_an_attention() {
    let mut host = Host::disk(100);
    host.states.insert(a(), NexusState::new());
    host.send(&a(), &inquiry(None, 96)).good();
    host.send(&a(), &REPORT_LUNS).good();
    assert_eq!(host.pending(&a()), [Attention::PowerOn]);
    // An attention goes before everything that is wrong with a command.
    host.send(&a(), &[0xff; 10])
        .check(Key::UnitAttention, Code(0x2900));
    host.send(&a(), &[0xff; 10]).illegal(Code::INVALID_OPCODE);
}

#[test]
fn reading_the_list_of_luns_settles_its_change() {
    let mut host = Host::disk(100);
    let mut state = NexusState::default();
    state.establish(Attention::LunsChanged);
    host.states.insert(a(), state);
    host.send(&a(), &REPORT_LUNS).good();
    host.send(&a(), &TEST_UNIT_READY).good();
}

#[test]
fn request_sense_tells_and_takes_away() {
    let mut host = Host::disk(100);
    host.states.insert(a(), NexusState::new());
    let data = host.send(&a(), &request_sense(false, 252)).good();
    assert_eq!(
        data,
        [0x70, 0, 6, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x29, 0, 0, 0, 0, 0]
    );
    let data = host.send(&a(), &request_sense(true, 252)).good();
    assert_eq!(data, [0x72, 0, 0, 0, 0, 0, 0, 0]);
    host.send(&a(), &TEST_UNIT_READY).good();
}

#[test]
fn request_sense_gives_no_byte_more_than_there_is() {
    let mut host = Host::disk(100);
    let whole = host.send(&a(), &request_sense(false, 255)).good();
    for allocation in 0..=255u8 {
        host.send(&a(), &ten(0x28, 0, 0, 8)).good();
        let data = host.send(&a(), &request_sense(false, allocation)).good();
        assert_eq!(data, whole[..usize::from(allocation).min(18)]);
    }
}

#[test]
fn deferred_errors_come_after_attentions_and_are_bounded() {
    let mut host = Host::disk(100);
    let mut state = NexusState::new();
    for lba in 0..10 {
        let sense = Sense::new(Key::MediumError, Code::WRITE_ERROR).with_information(lba);
        state.establish_deferred(sense.clone());
        state.establish_deferred(sense);
    }
    host.states.insert(a(), state);
    host.send(&a(), &TEST_UNIT_READY)
        .check(Key::UnitAttention, Code(0x2900));
    for lba in 0..4 {
        let sense = host
            .send(&a(), &ten(0x35, 0, 0, 0))
            .check(Key::MediumError, Code::WRITE_ERROR);
        assert_eq!(sense.to_bytes()[..7], [0xf1, 0, 3, 0, 0, 0, lba]);
    }
    assert!(host.log.is_empty(), "no flush before the errors were told");
    host.send(&a(), &ten(0x35, 0, 0, 0)).good();
}

#[test]
fn sense_in_both_formats() {
    let mut sense = Sense::invalid_cdb(0x0123, Some(5));
    assert_eq!(
        sense.to_bytes(),
        [
            0x70, 0, 5, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0x24, 0, 0, 0xcd, 0x01, 0x23
        ]
    );
    sense.format = Format::Descriptor;
    sense.information = Some(0x1_0000_0002);
    let want = [
        0x72, 5, 0x24, 0, 0, 0, 0, 20, // header
        0x00, 10, 0x80, 0, 0, 0, 0, 1, 0, 0, 0, 2, // information
        0x02, 6, 0, 0, 0xcd, 0x01, 0x23, 0, // sense key specific
    ];
    assert_eq!(sense.to_bytes(), want);
    // An address of more than 32 bits cannot be told in the fixed format.
    sense.format = Format::Fixed;
    assert_eq!(sense.to_bytes()[..7], [0x70, 0, 5, 0, 0, 0, 0]);
    let parameter = Sense::invalid_parameter(8, None);
    assert_eq!(parameter.to_bytes()[12..], [0x26, 0, 0, 0x80, 0, 8]);
}

#[test]
fn the_control_page_chooses_the_format() {
    let mut host = Host::disk(100);
    host.unit.mode.descriptor_sense = true;
    let sense = host
        .send(&a(), &ten(0x28, 0, 1000, 1))
        .illegal(Code::LBA_RANGE);
    assert_eq!(sense.to_bytes()[0], 0x72);
    // REQUEST SENSE goes by its own bit.
    assert_eq!(host.send(&a(), &request_sense(false, 252)).good()[0], 0x70);
}
