//! Bounds on connections that are not sessions, and on the sessions of one initiator.

use std::io::Read;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{HANG, Initiator, World, read10, settings};
use iscsi::initiator::SessionType;
use target::limits::{DISCOVERIES_PER_PEER_MAX, LOGINS_PER_PEER_MAX, SESSIONS_PER_INITIATOR_MAX};

fn is_closed(stream: &mut TcpStream) -> bool {
    stream
        .set_read_timeout(Some(Duration::from_millis(1)))
        .unwrap();
    // A connection that is kept says nothing before it is spoken to.
    match stream.read(&mut [0]) {
        Ok(count) => count == 0,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn an_address_that_opens_connections_and_leaves_them_is_turned_away() {
    let world = World::start(HANG);
    let mut a = world.initiator("a");
    let connect = || TcpStream::connect(world.address).unwrap();
    let idle: Vec<TcpStream> = (0..LOGINS_PER_PEER_MAX).map(|_| connect()).collect();
    let mut more = connect();
    world.wait_for("the end of one too many", || is_closed(&mut more));
    // The others are kept.
    world.wait_for("all that are let in", || {
        world.service.portals()[0].connections == LOGINS_PER_PEER_MAX + 1
    });
    assert_eq!(a.run(read10(0, 1), None, 512).status, 0);
    drop(idle);
    world.wait_for("room for a login", || {
        world.service.portals()[0].connections == 1
    });
    Initiator::connect(world.address, "b", 1).unwrap();
}

#[test]
fn an_address_has_a_bounded_number_of_discovery_sessions() {
    let world = World::start(HANG);
    let discover = || {
        let mut settings = settings("curious", 1);
        settings.target_name = None;
        settings.session_type = SessionType::Discovery;
        let mut curious = Initiator::begin_with(world.address, settings);
        curious.outcome().map(|()| curious)
    };
    let mut kept: Vec<Initiator> = (0..DISCOVERIES_PER_PEER_MAX)
        .map(|_| discover().unwrap())
        .collect();
    let refused = discover().err().unwrap();
    assert!(refused.contains("0x0302"), "{refused}");
    // Sessions do not count among them, and one that ends makes room.
    world.initiator("a");
    kept.pop();
    world.wait_for("room for another one", || discover().is_ok());
}

#[test]
fn an_initiator_has_a_bounded_number_of_sessions() {
    let world = World::start(HANG);
    let most = u8::try_from(SESSIONS_PER_INITIATOR_MAX).unwrap();
    let connect = |isid| Initiator::connect(world.address, "a", isid);
    let mut kept: Vec<Initiator> = (0..most).map(|isid| connect(isid).unwrap()).collect();
    let refused = connect(most).err().unwrap();
    assert!(refused.contains("0x0302"), "{refused}");
    // Another one has its own, a reinstated one is none more, and one that ends makes room.
    Initiator::connect(world.address, "b", 1).unwrap();
    let again = connect(0).unwrap();
    kept.pop();
    world.wait_for("room for another one", || connect(most).is_ok());
    drop(again);
}
