//! Harness of the target's engine: the byte stream of an initiator, with a service that answers
//! everything.
//!
//! Input: one byte of choices (bits 0-1: how the stream is cut; bit 2: CHAP is asked for), then the
//! stream. The CHAP challenge is fixed, so that a recorded login opens the full feature phase.

use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iscsi::Output;
use iscsi::limits;
use iscsi::target::{
    Acceptance, Account, Authentication, ChapPolicy, Config, Connection, Event, LoginPolicy,
    LogoutStatus, ScsiStatus, Secret, TargetRecord, TmfResponse,
};

/// Events of one input; each consumes input or ends a task, so more than this means a loop.
const EVENTS_MAX: usize = 100_000;
/// Bytes of a read that the service gives at most.
const READ_MAX: u32 = 64 * 1024;

/// Counts what goes out.
#[derive(Default)]
struct Sink {
    bytes: usize,
}

impl Output for Sink {
    type Payload = Arc<[u8]>;

    fn bytes(&mut self, bytes: &[u8]) {
        self.bytes += bytes.len();
    }

    fn payload(&mut self, payload: Self::Payload, range: Range<usize>) {
        assert!(
            !range.is_empty() && range.end <= payload.len(),
            "a range outside the payload"
        );
        self.bytes += range.len();
    }
}

/// The byte stream of an initiator.
pub fn pdu(data: &[u8]) {
    let _ = drive(data);
}

/// Runs the stream; whether it came to the full feature phase.
pub(crate) fn drive(data: &[u8]) -> bool {
    let Some((choices, stream)) = data.split_first() else {
        return false;
    };
    let mut opened = false;
    // The engine's time is the harness's own: one fixed instant and what is added to it.
    let mut now = Instant::now();
    let mut service = Service {
        chap: choices & 4 != 0,
        zeroes: vec![0; READ_MAX as usize].into(),
        out: Sink::default(),
    };
    let mut connection = Connection::new(Arc::new(Config::default()), now);
    let piece = [stream.len().max(1), 1, 7, 48][usize::from(choices & 3)];
    for chunk in stream.chunks(piece) {
        now += Duration::from_millis(1);
        let goes_on = service.feed(&mut connection, now, chunk);
        opened |= connection.full_feature();
        if !goes_on || connection.closing() {
            break;
        }
        let _ = connection.tick(now, &mut service.out);
    }
    opened
}

struct Service {
    chap: bool,
    zeroes: Arc<[u8]>,
    out: Sink,
}

impl Service {
    /// Gives bytes to the engine and answers its events; `false` when the connection is to be
    /// dropped.
    fn feed(&mut self, connection: &mut Connection, now: Instant, mut input: &[u8]) -> bool {
        for _ in 0..EVENTS_MAX {
            let event = match connection.next(now, &mut input, &mut self.out) {
                Ok(Some(event)) => event,
                Ok(None) => {
                    assert!(input.is_empty(), "bytes are left, and yet no event");
                    return true;
                }
                Err(_) => return false,
            };
            self.answer(connection, event);
            assert!(
                connection.tasks() <= limits::TASKS_MAX as usize,
                "{} tasks",
                connection.tasks()
            );
            let bound = limits::HEADER_BYTES_MAX + 2 * limits::SEND_TARGETS_BYTES_MAX;
            assert!(
                connection.buffered_bytes() <= bound,
                "{} bytes gathered",
                connection.buffered_bytes()
            );
        }
        panic!("more than {EVENTS_MAX} events of one input");
    }

    fn answer(&mut self, connection: &mut Connection, event: Event<'_>) {
        let out = &mut self.out;
        match event {
            Event::LoginStart(_) => {
                let _ = connection.login_answer(LoginPolicy::Accept(acceptance(self.chap)), out);
            }
            Event::LoginReady(_) => connection.admit(1, out),
            Event::Command(command) => {
                if command.write {
                    connection.solicit(command.task, out);
                } else if command.read {
                    let len = command.read_len.min(READ_MAX);
                    let status = ScsiStatus::good(len);
                    connection.data_in(
                        command.task,
                        Arc::clone(&self.zeroes),
                        0..len as usize,
                        Some(&status),
                        out,
                    );
                } else {
                    connection.respond(command.task, &ScsiStatus::good(0), out);
                }
            }
            Event::DataComplete { task } => connection.respond(task, &ScsiStatus::good(0), out),
            Event::TaskAborted { task, .. } => {
                let sense = [0x70, 0, 0x0b, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
                connection.respond(
                    task,
                    &ScsiStatus {
                        status: 2,
                        sense: &sense,
                        transfer: 0,
                    },
                    out,
                );
            }
            Event::TaskManagement(tmf) => {
                if let Some(task) = tmf.referenced {
                    connection.forget(task);
                }
                connection.tmf_respond(tmf.itt, TmfResponse::Complete, out);
            }
            Event::SendTargets { .. } => connection.text_answer(&[listing()], out),
            Event::Logout { .. } => {
                let tasks: Vec<_> = connection.task_ids().collect();
                for task in tasks {
                    connection.forget(task);
                }
                connection.logout_done(LogoutStatus::Success, out);
            }
            Event::Data { .. } | Event::LoginRefused(_) => {}
        }
    }
}

fn listing() -> TargetRecord {
    TargetRecord {
        name: "iqn.2026-11.test:fuzz".to_owned(),
        addresses: vec!["127.0.0.1:3260,1".to_owned()],
    }
}

fn acceptance(chap: bool) -> Acceptance {
    let account = Account {
        user: "joe".to_owned(),
        secret: Secret::new(b"secret-of-16-byt".to_vec()),
    };
    let policy = ChapPolicy {
        accounts: vec![account],
        algorithms: Vec::new(),
        challenge: vec![0x5a; 16],
        identifier: 7,
        mutual: None,
        mutual_required: false,
    };
    Acceptance {
        authentication: if chap {
            Authentication::Chap(Box::new(policy))
        } else {
            Authentication::None
        },
        alias: None,
        portal_group_tag: 1,
        config: None,
    }
}
