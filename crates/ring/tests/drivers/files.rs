//! Files and block devices, on every driver.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use ring::{AllocateMode, Buffer, DriverKind, Event, Fd, Op, Options, Outcome, Pool, PoolLimits};

use crate::support::{self, Shard, buffer_of, fd, options, pattern};

crate::support::on_all_drivers! {
    what_is_written_is_read,
    ranges_of_buffers_are_respected,
    reads_end_at_the_end_of_the_file,
    direct_io_reads_writes_and_ends,
    space_is_reserved_punched_and_zeroed,
    extents_alternate_between_data_and_holes,
    errors_come_with_their_buffer,
    offsets_behind_every_file_are_refused,
    ten_thousand_in_flight,
    the_bound_on_what_is_in_flight_holds,
    file_flags_that_do_not_wait_serve_as_well,
    block_devices_discard_and_zero,
}

/// A file on a real file system, where the build is.
fn temporary() -> File {
    tempfile::tempfile_in(env!("CARGO_TARGET_TMPDIR")).expect("a temporary file")
}

fn read(shard: &mut Shard<()>, file: &Fd, len: usize, offset: u64) -> std::io::Result<Vec<u8>> {
    let (file, buffer) = (Arc::clone(file), Buffer::zeroed(len));
    match shard.run(Op::Read {
        file,
        buffer,
        range: 0..len,
        offset,
    }) {
        Outcome::Read { buffer, result } => result.map(|count| buffer[..count].to_vec()),
        other => panic!("{other:?}"),
    }
}

fn write(shard: &mut Shard<()>, file: &Fd, bytes: &[u8], offset: u64) -> std::io::Result<()> {
    let (file, buffer, range) = (Arc::clone(file), buffer_of(bytes), 0..bytes.len());
    match shard.run(Op::Write {
        file,
        buffer,
        range,
        offset,
        durable: offset.is_multiple_of(2),
    }) {
        Outcome::Written { result, .. } => result,
        other => panic!("{other:?}"),
    }
}

fn what_is_written_is_read(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let file = fd(temporary());
    for (number, len) in [0, 1, 511, 4096, 70_001, 3 << 20].into_iter().enumerate() {
        let (bytes, offset) = (pattern(len, number as u64), number as u64 * 77_777);
        write(&mut shard, &file, &bytes, offset).expect("written");
        assert!(read(&mut shard, &file, len, offset).expect("read") == bytes);
    }
    for data_only in [false, true] {
        let sync = Op::Sync {
            file: Arc::clone(&file),
            data_only,
        };
        assert!(matches!(shard.run(sync), Outcome::Done(Ok(()))));
    }
}

fn ranges_of_buffers_are_respected(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let file = fd(temporary());
    let (buffer, range) = (buffer_of(b"0123456789"), 3..7);
    let write = Op::Write {
        file: Arc::clone(&file),
        buffer,
        range,
        offset: 0,
        durable: false,
    };
    assert!(matches!(
        shard.run(write),
        Outcome::Written { result: Ok(()), .. }
    ));
    let buffer = buffer_of(b"..........");
    match shard.run(Op::Read {
        file,
        buffer,
        range: 5..10,
        offset: 0,
    }) {
        Outcome::Read {
            buffer,
            result: Ok(4),
        } => assert_eq!(&buffer[..], b".....3456."),
        other => panic!("{other:?}"),
    }
}

fn reads_end_at_the_end_of_the_file(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let file = temporary();
    file.write_all_at(&pattern(10_000, 3), 0).expect("written");
    let file = fd(file);
    assert!(read(&mut shard, &file, 20_000, 1000).expect("read") == pattern(10_000, 3)[1000..]);
    assert!(
        read(&mut shard, &file, 20_000, 10_000)
            .expect("read")
            .is_empty()
    );
    assert!(
        read(&mut shard, &file, 20_000, 1 << 40)
            .expect("read")
            .is_empty()
    );
}

fn direct_io_reads_writes_and_ends(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("direct");
    let file = open_direct(&path);
    let bytes = pattern(1 << 20, 9);
    write(&mut shard, &file, &bytes, 8192).expect("written directly");
    assert!(read(&mut shard, &file, 1 << 20, 8192).expect("read directly") == bytes);
    // An end that is not aligned: the read stops there and is not an error.
    File::options()
        .write(true)
        .open(&path)
        .and_then(|file| file.set_len(8192 + 5000))
        .expect("shortened");
    assert!(read(&mut shard, &file, 64 << 10, 8192).expect("up to the end") == bytes[..5000]);
    assert!(
        read(&mut shard, &file, 4096, 16_384)
            .expect("behind the end")
            .is_empty()
    );
    let error = read(&mut shard, &file, 1000, 8192).expect_err("a length that is not aligned");
    assert_eq!(error.kind(), ErrorKind::InvalidInput);
}

fn open_direct(path: &Path) -> Fd {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .custom_flags(libc::O_DIRECT);
    fd(options
        .open(path)
        .expect("direct I/O on the file system of the build"))
}

fn allocate(shard: &mut Shard<()>, file: &Fd, mode: AllocateMode, offset: u64, len: u64) {
    match shard.run(Op::Allocate {
        file: Arc::clone(file),
        mode,
        offset,
        len,
    }) {
        Outcome::Done(result) => result.expect("fallocate on the file system of the build"),
        other => panic!("{other:?}"),
    }
}

fn space_is_reserved_punched_and_zeroed(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let plain = temporary();
    let file = fd(plain.try_clone().expect("a second descriptor"));
    let len = || plain.metadata().expect("metadata").len();
    allocate(&mut shard, &file, AllocateMode::Reserve, 0, 1 << 20);
    assert_eq!(len(), 0);
    allocate(&mut shard, &file, AllocateMode::Extend, 0, 1 << 20);
    assert_eq!(len(), 1 << 20);
    let bytes = pattern(1 << 20, 4);
    write(&mut shard, &file, &bytes, 0).expect("written");
    allocate(&mut shard, &file, AllocateMode::PunchHole, 65_536, 131_072);
    allocate(&mut shard, &file, AllocateMode::ZeroRange, 524_288, 4096);
    let mut expected = bytes;
    expected[65_536..65_536 + 131_072].fill(0);
    expected[524_288..524_288 + 4096].fill(0);
    assert!(read(&mut shard, &file, 1 << 20, 0).expect("read") == expected);
    assert_eq!(len(), 1 << 20);
}

fn extents_alternate_between_data_and_holes(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let plain = temporary();
    plain.set_len(1 << 20).expect("a length");
    plain.write_all_at(&[1; 65_536], 131_072).expect("written");
    let file = fd(plain);
    let mut extent = |offset| match shard.run(Op::Extent {
        file: Arc::clone(&file),
        offset,
    }) {
        Outcome::Extent(result) => result,
        other => panic!("{other:?}"),
    };
    assert_eq!(extent(0).expect("in the file"), (false, 131_072));
    assert_eq!(extent(131_072).expect("in the file"), (true, 196_608));
    assert_eq!(extent(150_000).expect("in the file"), (true, 196_608));
    assert_eq!(extent(196_608).expect("in the file"), (false, 1 << 20));
    assert_eq!(
        extent(1 << 20).expect_err("behind it").raw_os_error(),
        Some(6)
    );
}

fn errors_come_with_their_buffer(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let pool = Pool::new(PoolLimits {
        bytes_max: 1 << 20,
        idle_bytes_max: 1 << 20,
    });
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("write-only");
    let file = fd(File::create(path).expect("a file"));
    let buffer = pool.take(5000).expect("a buffer");
    let (other, range) = (Arc::clone(&file), 0..5000);
    match shard.run(Op::Read {
        file: other,
        buffer,
        range,
        offset: 0,
    }) {
        Outcome::Read {
            buffer,
            result: Err(error),
        } => {
            assert_eq!(error.raw_os_error(), Some(9), "{error}");
            assert_eq!(buffer.len(), 5000);
        }
        other => panic!("{other:?}"),
    }
    for op in [
        Op::BlockDiscard {
            file: Arc::clone(&file),
            offset: 0,
            len: 4096,
        },
        Op::BlockZero {
            file,
            offset: 0,
            len: 4096,
        },
    ] {
        let Outcome::Done(Err(error)) = shard.run(op) else {
            panic!("done to a file")
        };
        assert_eq!(error.raw_os_error(), Some(25), "{error}");
    }
    assert_eq!(pool.bytes_out(), 0);
}

fn offsets_behind_every_file_are_refused(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let file = fd(temporary());
    for offset in [u64::MAX, i64::MAX as u64 - 5] {
        let error = read(&mut shard, &file, 10, offset).expect_err("no such place");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        let error = write(&mut shard, &file, b"0123456789", offset).expect_err("no such place");
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
    }
}

fn ten_thousand_in_flight(kind: DriverKind) {
    const COUNT: u64 = 10_000;
    let mut shard = Shard::<()>::with(&Options {
        entries: 10_000,
        ..options(kind)
    });
    let file = fd(temporary());
    for number in 0..COUNT {
        let (file, buffer) = (Arc::clone(&file), buffer_of(&number.to_le_bytes()));
        let op = Op::Write {
            file,
            buffer,
            range: 0..8,
            offset: number * 8,
            durable: false,
        };
        shard.reactor.submit(number, op);
    }
    assert_eq!(shard.reactor.in_flight(), 10_000);
    let mut seen = vec![false; 10_000];
    for _ in 0..COUNT {
        let Event::Io(completion) = shard.until(Vec::pop) else {
            panic!("not an operation")
        };
        assert!(matches!(
            completion.outcome,
            Outcome::Written { result: Ok(()), .. }
        ));
        let seen = &mut seen[usize::try_from(completion.token).expect("small")];
        assert!(
            !std::mem::replace(seen, true),
            "{} ended twice",
            completion.token
        );
    }
    let bytes = read(&mut shard, &file, 80_000, 0).expect("read");
    let numbers = bytes
        .as_chunks()
        .0
        .iter()
        .map(|chunk| u64::from_le_bytes(*chunk));
    assert!(numbers.eq(0..COUNT));
}

fn the_bound_on_what_is_in_flight_holds(kind: DriverKind) {
    let mut shard = Shard::<()>::with(&Options {
        entries: 8,
        ..options(kind)
    });
    let (one, _other) = support::pair();
    let sockets: Vec<_> = (0..7).map(|_| support::pair()).collect();
    for (token, (socket, _)) in sockets.iter().enumerate() {
        shard
            .reactor
            .submit(token as u64, support::recv_op(socket, 10));
    }
    shard.reactor.submit(7, support::recv_op(&one, 10));
    shard.reactor.submit(8, support::recv_op(&one, 10));
    let Outcome::Received {
        buffer,
        result: Err(error),
    } = shard.outcome(8)
    else {
        panic!("started");
    };
    assert_eq!((error.kind(), buffer.len()), (ErrorKind::WouldBlock, 10));
    assert_eq!(shard.reactor.in_flight(), 8);
    for (token, (_, other)) in sockets.iter().enumerate() {
        support::write_plain(other, b"x");
        assert!(matches!(
            shard.outcome(token as u64),
            Outcome::Received { result: Ok(1), .. }
        ));
    }
    assert_eq!(shard.reactor.in_flight(), 1);
}

fn file_flags_that_do_not_wait_serve_as_well(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("nonblocking");
    let mut options = OpenOptions::new();
    options
        .read(true)
        .write(true)
        .create_new(true)
        .custom_flags(libc::O_NONBLOCK);
    let file = fd(options.open(&path).expect("a file"));
    let bytes = pattern(2 << 20, 6);
    write(&mut shard, &file, &bytes, 0).expect("written");
    // Out of the page cache as far as the kernel does that, so that a read has to wait.
    let plain = File::open(&path).expect("the file");
    plain.sync_all().expect("synced");
    rustix::fs::fadvise(&plain, 0, None, rustix::fs::Advice::DontNeed).expect("advised");
    assert!(read(&mut shard, &file, 2 << 20, 0).expect("read") == bytes);
}

/// A loop device over a file, given back at the end. `None` where there are none to be had.
struct Loop {
    device: String,
}

impl Loop {
    fn over(path: &Path) -> Option<Self> {
        let made = Command::new("losetup")
            .args(["--find", "--show"])
            .arg(path)
            .output()
            .ok()?;
        let device = String::from_utf8(made.stdout).ok()?.trim().to_owned();
        (made.status.success() && !device.is_empty()).then_some(Self { device })
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let given_back = Command::new("losetup")
            .args(["--detach", &self.device])
            .status();
        assert!(
            given_back.is_ok_and(|status| status.success()),
            "{} is left over",
            self.device
        );
    }
}

fn block_devices_discard_and_zero(kind: DriverKind) {
    let mut shard = Shard::<()>::new(kind);
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let path = directory.path().join("disk");
    std::fs::write(&path, pattern(1 << 20, 8)).expect("written");
    let Some(device) = Loop::over(&path) else {
        eprintln!("left out: no loop device to be had");
        return;
    };
    let open = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device.device);
    let file = fd(open.expect("the loop device"));
    let zero = Op::BlockZero {
        file: Arc::clone(&file),
        offset: 4096,
        len: 8192,
    };
    assert!(matches!(shard.run(zero), Outcome::Done(Ok(()))));
    let discard = Op::BlockDiscard {
        file: Arc::clone(&file),
        offset: 65_536,
        len: 65_536,
    };
    match shard.run(discard) {
        Outcome::Done(Ok(())) => {}
        Outcome::Done(Err(error)) if error.raw_os_error() == Some(95) => {
            eprintln!("the file system under the loop device cannot discard");
        }
        other => panic!("{other:?}"),
    }
    let Outcome::Extent(Ok((true, end))) = shard.run(Op::Extent {
        file: Arc::clone(&file),
        offset: 5,
    }) else {
        panic!("a device is data to its end");
    };
    assert_eq!(end, 1 << 20);
    let bytes = read(&mut shard, &file, 1 << 20, 0).expect("read");
    let mut expected = pattern(1 << 20, 8);
    expected[4096..4096 + 8192].fill(0);
    assert!(bytes[..65_536] == expected[..65_536]);
    assert!(bytes[131_072..] == expected[131_072..]);
    drop(file);
    drop(device);
    let mut whole = Vec::new();
    File::open(path)
        .and_then(|mut file| file.read_to_end(&mut whole))
        .expect("read");
    assert!(whole[..4096] == expected[..4096]);
}
