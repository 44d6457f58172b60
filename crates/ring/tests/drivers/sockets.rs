//! Sockets, on every driver.

use std::io::{ErrorKind, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use ring::{Buffer, DriverKind, Event, Fd, Op, Outcome, SendList, op};
use socket2::{Domain, SockRef, Socket, Type};

use crate::support::{Shard, buffer_of, fd, listen, pair, pattern, recv_op, send_op, tcp_pair};

crate::support::on_all_drivers! {
    echo_over_ipv4,
    echo_over_ipv6,
    several_accepts_wait_at_once,
    a_cancelled_accept_ends_and_the_listener_lives,
    shutdown_of_a_listener_ends_its_accept,
    shutdown_ends_a_pending_receive,
    a_big_list_of_many_parts_arrives_whole,
    both_directions_of_many_sockets_at_once,
    what_came_before_the_end_is_received_before_it,
    a_receive_writes_into_its_range_only,
    sending_to_a_closed_peer_fails,
    a_refused_connection_fails,
    wrong_ranges_are_refused,
    descriptors_that_do_not_block_serve_as_well,
    reused_descriptor_numbers_are_new_sockets,
    a_descriptor_stays_open_while_it_is_used,
    not_a_socket_fails,
}

fn echo_over_ipv4(kind: DriverKind) {
    echo(kind, "127.0.0.1:0");
}

fn echo_over_ipv6(kind: DriverKind) {
    echo(kind, "[::1]:0");
}

/// Both ends in one reactor: connect, accept, there and back.
fn echo(kind: DriverKind, address: &str) {
    let mut shard = Shard::<()>::new(kind);
    let (listener, address) = listen(address);
    shard.reactor.submit(1, Op::Accept { listener });
    let (socket, source) = connect(&mut shard, address);
    let Outcome::Accepted(Ok((accepted, peer))) = shard.outcome(1) else {
        panic!("not accepted")
    };
    assert_eq!(peer, source);
    let accepted = fd(accepted);
    for round in 0..20 {
        let message = pattern(1 + round * 977, round as u64);
        shard.send(&socket, &message).expect("sent");
        let there = receive_exactly(&mut shard, &accepted, message.len());
        shard.send(&accepted, &there).expect("sent back");
        assert_eq!(receive_exactly(&mut shard, &socket, message.len()), message);
    }
    drop(socket);
    assert_eq!(shard.recv(&accepted, 10).expect("the end").len(), 0);
}

/// A new connection, and its own address.
fn connect(shard: &mut Shard<()>, address: SocketAddr) -> (Fd, SocketAddr) {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).expect("a socket");
    let socket = fd(socket);
    match shard.run(Op::Connect {
        socket: Arc::clone(&socket),
        address,
    }) {
        Outcome::Connected(result) => result.expect("connected"),
        other => panic!("{other:?}"),
    }
    let source = SockRef::from(&socket).local_addr().expect("an address");
    (socket, source.as_socket().expect("of the internet"))
}

fn receive_exactly(shard: &mut Shard<()>, socket: &Fd, len: usize) -> Vec<u8> {
    let mut received = Vec::new();
    while received.len() < len {
        let more = shard.recv(socket, len - received.len()).expect("received");
        assert!(
            !more.is_empty(),
            "the end after {} of {len}",
            received.len()
        );
        received.extend(more);
    }
    received
}

fn several_accepts_wait_at_once(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (listener, address) = listen("127.0.0.1:0");
    for token in 0..4 {
        shard.reactor.submit(
            token,
            Op::Accept {
                listener: Arc::clone(&listener),
            },
        );
    }
    let clients: Vec<_> = (0..4)
        .map(|_| TcpStream::connect(address).expect("a connection"))
        .collect();
    let mut peers: Vec<_> = (0..4)
        .map(|token| match shard.outcome(token) {
            Outcome::Accepted(Ok((_, peer))) => peer,
            other => panic!("{other:?}"),
        })
        .collect();
    let mut sources: Vec<_> = clients
        .iter()
        .map(|client| client.local_addr().expect("an address"))
        .collect();
    peers.sort();
    sources.sort();
    assert_eq!(peers, sources);
}

fn a_cancelled_accept_ends_and_the_listener_lives(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (listener, address) = listen("127.0.0.1:0");
    shard.reactor.submit(
        7,
        Op::Accept {
            listener: Arc::clone(&listener),
        },
    );
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    assert!(shard.reactor.cancel(7));
    assert!(!shard.reactor.cancel(8));
    let Outcome::Accepted(Err(error)) = shard.outcome(7) else {
        panic!("accepted")
    };
    assert_eq!(error.raw_os_error(), Some(125), "{error}");
    assert_eq!(shard.reactor.in_flight(), 0);
    shard.reactor.submit(9, Op::Accept { listener });
    let _client = TcpStream::connect(address).expect("a connection");
    assert!(matches!(shard.outcome(9), Outcome::Accepted(Ok(_))));
}

fn shutdown_of_a_listener_ends_its_accept(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (listener, _) = listen("127.0.0.1:0");
    shard.reactor.submit(
        7,
        Op::Accept {
            listener: Arc::clone(&listener),
        },
    );
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    op::shutdown(&listener).expect("shut down");
    assert!(matches!(shard.outcome(7), Outcome::Accepted(Err(_))));
}

fn shutdown_ends_a_pending_receive(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, other) = tcp_pair();
    shard.reactor.submit(1, recv_op(&one, 100));
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    assert!(shard.events.is_empty());
    op::shutdown(&one).expect("shut down");
    assert!(matches!(
        shard.outcome(1),
        Outcome::Received { result: Ok(0), .. }
    ));
    assert_eq!(shard.recv(&other, 10).expect("the end").len(), 0);
    let error = shard.send(&one, b"more").expect_err("shut down");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

/// More parts than one call takes, more bytes than the socket holds.
fn a_big_list_of_many_parts_arrives_whole(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    // Not TCP, which waits for its own timers when buffers are this small.
    let (one, other) = pair();
    for socket in [&one, &other] {
        SockRef::from(socket)
            .set_send_buffer_size(4096)
            .expect("a small buffer");
    }
    let shared = buffer_of(&pattern(300_000, 1)).share();
    let mut list = SendList::new();
    for part in 0..3000 {
        list.push_bytes(&pattern(part % 97, part as u64));
        list.push_shared(shared.clone(), part..part + 500);
    }
    list.push_shared(shared.clone(), 0..300_000);
    let whole = list.gather();
    assert_eq!(whole.len(), list.len());
    assert!(list.parts().len() > 3000);
    shard.reactor.submit(1, Op::Send { socket: one, list });
    let received = receive_exactly(&mut shard, &other, whole.len());
    assert!(received == whole);
    let Outcome::Sent { list, result } = shard.outcome(1) else {
        panic!("not a send")
    };
    result.expect("sent");
    assert!(list.is_empty() && list.parts().is_empty());
    assert!(shared.try_unique().is_ok(), "the list let its buffers go");
}

/// What one end of a socket has still to receive.
struct Incoming {
    expected: Vec<u8>,
    received: Vec<u8>,
    socket: Fd,
}

fn both_directions_of_many_sockets_at_once(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let mut ends = Vec::new();
    for number in 0..8 {
        let (one, other) = if number % 2 == 0 { pair() } else { tcp_pair() };
        let (there, back) = (
            pattern(1 << 20, number * 2),
            pattern(900_000, number * 2 + 1),
        );
        shard
            .reactor
            .submit(1000 + number * 2, send_op(&one, &there));
        shard
            .reactor
            .submit(1001 + number * 2, send_op(&other, &back));
        ends.push(Incoming {
            expected: back,
            received: Vec::new(),
            socket: one,
        });
        ends.push(Incoming {
            expected: there,
            received: Vec::new(),
            socket: other,
        });
    }
    for (token, end) in ends.iter().enumerate() {
        shard
            .reactor
            .submit(token as u64, recv_op(&end.socket, 65_536));
    }
    let (mut open, mut sent) = (ends.len(), 0);
    while open > 0 || sent < 16 {
        let Event::Io(completion) = shard.until(Vec::pop) else {
            panic!("not an operation")
        };
        match completion.outcome {
            Outcome::Sent { result, .. } => {
                result.expect("sent");
                sent += 1;
            }
            Outcome::Received { buffer, result } => {
                let end = &mut ends[usize::try_from(completion.token).expect("small")];
                let count = result.expect("received");
                assert!(count > 0);
                end.received.extend_from_slice(&buffer[..count]);
                if end.received.len() < end.expected.len() {
                    shard
                        .reactor
                        .submit(completion.token, recv_op(&end.socket, 65_536));
                } else {
                    open -= 1;
                }
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(ends.iter().all(|end| end.received == end.expected));
    assert_eq!(shard.reactor.in_flight(), 0);
}

fn what_came_before_the_end_is_received_before_it(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, other) = tcp_pair();
    // A first receive that waits, so that the socket is being watched.
    shard.reactor.submit(1, recv_op(&one, 4));
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    shard.send(&other, b"firstsecond").expect("sent");
    drop(other);
    let Outcome::Received {
        buffer,
        result: Ok(4),
    } = shard.outcome(1)
    else {
        panic!("not 4")
    };
    assert_eq!(&buffer[..], b"firs");
    assert_eq!(shard.recv(&one, 100).expect("the rest"), b"tsecond");
    assert_eq!(shard.recv(&one, 100).expect("the end"), b"");
    assert_eq!(shard.recv(&one, 100).expect("still the end"), b"");
}

fn a_receive_writes_into_its_range_only(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, other) = pair();
    shard.send(&other, &[7; 100]).expect("sent");
    let mut buffer = Buffer::zeroed(64);
    buffer.fill(1);
    let outcome = shard.run(Op::Recv {
        socket: one,
        buffer,
        range: 10..20,
    });
    let Outcome::Received {
        buffer,
        result: Ok(10),
    } = outcome
    else {
        panic!("{outcome:?}")
    };
    let expected: Vec<u8> = (0..64)
        .map(|at| if (10..20).contains(&at) { 7 } else { 1 })
        .collect();
    assert_eq!(&buffer[..], &expected[..]);
}

fn sending_to_a_closed_peer_fails(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, other) = pair();
    drop(other);
    // And no SIGPIPE: the process is still here to see it.
    let error = shard.send(&one, b"nobody").expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::BrokenPipe);
}

fn a_refused_connection_fails(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    // A port that was just given up: nobody listens there.
    let address = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .expect("an address");
    let socket = fd(Socket::new(Domain::IPV6, Type::STREAM, None).expect("a socket"));
    let Outcome::Connected(Err(error)) = shard.run(Op::Connect { socket, address }) else {
        panic!("connected");
    };
    assert_eq!(error.kind(), ErrorKind::ConnectionRefused);
}

fn wrong_ranges_are_refused(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, _other) = pair();
    for range in [0..0, 0..65, 70..80] {
        let buffer = Buffer::zeroed(64);
        match shard.run(Op::Recv {
            socket: Arc::clone(&one),
            buffer,
            range,
        }) {
            Outcome::Received {
                buffer,
                result: Err(error),
            } => {
                assert_eq!(error.kind(), ErrorKind::InvalidInput);
                assert_eq!(buffer.len(), 64);
            }
            other => panic!("{other:?}"),
        }
    }
    let mut list = SendList::new();
    list.push_bytes(b"not sent either");
    list.push_shared(Buffer::zeroed(10).share(), 5..11);
    match shard.run(Op::Send { socket: one, list }) {
        Outcome::Sent {
            result: Err(error), ..
        } => {
            assert_eq!(error.kind(), ErrorKind::InvalidInput);
        }
        other => panic!("{other:?}"),
    }
}

fn descriptors_that_do_not_block_serve_as_well(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    listener.set_nonblocking(true).expect("set");
    let address = listener.local_addr().expect("an address");
    shard.reactor.submit(
        1,
        Op::Accept {
            listener: fd(listener),
        },
    );
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_nonblocking(true).expect("set");
    let socket = fd(socket);
    let connect = Op::Connect {
        socket: Arc::clone(&socket),
        address,
    };
    assert!(matches!(shard.run(connect), Outcome::Connected(Ok(()))));
    let Outcome::Accepted(Ok((accepted, _))) = shard.outcome(1) else {
        panic!("not accepted")
    };
    SockRef::from(&accepted).set_nonblocking(true).expect("set");
    let accepted = fd(accepted);
    let message = pattern(3 << 20, 5);
    shard.reactor.submit(2, recv_op(&socket, 10));
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    shard.reactor.submit(3, send_op(&accepted, &message));
    let Outcome::Received {
        buffer,
        result: Ok(10),
    } = shard.outcome(2)
    else {
        panic!("not 10")
    };
    let mut received = buffer.to_vec();
    received.extend(receive_exactly(&mut shard, &socket, message.len() - 10));
    assert!(received == message);
    assert!(matches!(
        shard.outcome(3),
        Outcome::Sent { result: Ok(()), .. }
    ));
}

fn reused_descriptor_numbers_are_new_sockets(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    for round in 0..300u64 {
        let (one, other) = pair();
        shard.reactor.submit(round, recv_op(&one, 8));
        shard
            .reactor
            .turn(Some(std::time::Duration::ZERO), &mut shard.events)
            .expect("a turn");
        shard.send(&other, &round.to_le_bytes()).expect("sent");
        match shard.outcome(round) {
            Outcome::Received {
                buffer,
                result: Ok(8),
            } => {
                assert_eq!(&buffer[..], &round.to_le_bytes());
            }
            other => panic!("{other:?}"),
        }
    }
}

fn a_descriptor_stays_open_while_it_is_used(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let (one, other) = UnixStream::pair().expect("a socket pair");
    let one = fd(one);
    shard.reactor.submit(1, recv_op(&one, 8));
    shard
        .reactor
        .turn(Some(std::time::Duration::ZERO), &mut shard.events)
        .expect("a turn");
    drop(one);
    (&other).write_all(b"still on").expect("written");
    match shard.outcome(1) {
        Outcome::Received {
            buffer,
            result: Ok(8),
        } => assert_eq!(&buffer[..], b"still on"),
        other => panic!("{other:?}"),
    }
    shard.settle();
    assert_eq!(
        (&other).write_all(b"gone").expect_err("closed").kind(),
        ErrorKind::BrokenPipe
    );
}

fn not_a_socket_fails(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let file = fd(tempfile::tempfile().expect("a file"));
    let error = shard.recv(&file, 10).expect_err("not a socket");
    assert_eq!(error.raw_os_error(), Some(88), "{error}");
}
