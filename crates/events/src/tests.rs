//! The store as a whole: restarts, damage, failing disks, followers, rates.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use proptest::prelude::*;

use crate::journal::{Medium, Restored};
use crate::*;

/// A clock that a test moves.
#[derive(Debug, Default)]
struct Hand {
    millis: AtomicU64,
}

impl Hand {
    fn forward(&self, by: Duration) {
        let millis = u64::try_from(by.as_millis()).expect("a short time");
        self.millis.fetch_add(millis, Ordering::SeqCst);
    }
}

impl Clock for Hand {
    fn now(&self) -> Timestamp {
        let millis = i64::try_from(self.millis.load(Ordering::SeqCst)).expect("a short time");
        Timestamp::from_millisecond(1_795_000_000_000 + millis).expect("in range")
    }

    fn elapsed(&self) -> Duration {
        Duration::from_millis(self.millis.load(Ordering::SeqCst))
    }
}

/// A disk of so many bytes.
#[derive(Clone, Debug, Default)]
struct Small(Arc<Mutex<(Vec<u8>, usize)>>);

impl Small {
    fn of(bytes: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), bytes))))
    }

    fn resize(&self, bytes: usize) {
        self.0.lock().1 = bytes;
    }

    fn ids(&self) -> Vec<u64> {
        let guard = self.0.lock();
        let text = std::str::from_utf8(&guard.0).expect("lines are text");
        text.lines()
            .map(|line| serde_json::from_str::<Event>(line).expect("whole lines").id)
            .collect()
    }
}

impl Medium for Small {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        let mut guard = self.0.lock();
        if guard.0.len() + lines.len() > guard.1 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        guard.0.extend_from_slice(lines);
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn options() -> (Options, Arc<Hand>) {
    let hand = Arc::new(Hand::default());
    let options = Options {
        clock: Arc::clone(&hand) as Arc<dyn Clock>,
        ..Options::default()
    };
    (options, hand)
}

fn note(n: u64) -> Draft {
    Draft::info("note", "test", &format!("number {n}"))
}

fn ids(events: &[Event]) -> Vec<u64> {
    events.iter().map(|event| event.id).collect()
}

fn with_medium(options: Options, medium: &(impl Medium + Clone + 'static)) -> Store {
    let medium = Box::new(medium.clone());
    Store::with_medium(options, medium, Restored::default()).expect("a thread")
}

fn all() -> Filter {
    Filter {
        limit: Some(limits::MEMORY_EVENTS),
        ..Filter::default()
    }
}

fn open(directory: &Path) -> Store {
    Store::open(directory, options().0).expect("opens")
}

#[test]
fn numbers_and_contents_go_on_after_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let first = open(dir.path());
    let draft = Draft::critical("device-failed", "disk1", "device disk1 failed")
        .cause("Input/output error")
        .next_step("look at the disk's own log");
    assert_eq!(first.record(draft), Recorded::As(1));
    assert_eq!(first.record(note(2)), Recorded::As(2));
    let before = first.query(&all());
    drop(first);

    let second = open(dir.path());
    assert_eq!(second.query(&all()), before);
    assert_eq!(second.record(note(3)), Recorded::As(3));
    assert_eq!(before[0].cause.as_deref(), Some("Input/output error"));
    second.settle();
    assert!(second.health().saved);
}

#[test]
fn files_are_private() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().expect("a directory");
    let inner = dir.path().join("new");
    open(&inner).record(note(1));
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&inner), 0o700);
    assert_eq!(mode(&inner.join("events.jsonl")), 0o600);
}

#[test]
fn a_torn_last_line_is_dropped_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = open(dir.path());
    for n in 1..=3 {
        store.record(note(n));
    }
    drop(store);
    let path = dir.path().join("events.jsonl");
    let whole = fs::read(&path).expect("readable");
    let second_end = whole
        .iter()
        .enumerate()
        .filter(|(_, byte)| **byte == b'\n')
        .map(|(at, _)| at + 1)
        .nth(1)
        .expect("two lines");
    for cut in second_end..whole.len() - 1 {
        fs::write(&path, &whole[..cut]).expect("writable");
        let store = open(dir.path());
        assert_eq!(ids(&store.query(&all())), [1, 2], "cut at {cut}");
        assert_eq!(store.record(note(3)), Recorded::As(3));
        drop(store);
        assert_eq!(
            ids(&open(dir.path()).query(&all())),
            [1, 2, 3],
            "cut at {cut}"
        );
    }
    // Only the line feed is missing: the event is whole.
    fs::write(&path, &whole[..whole.len() - 1]).expect("writable");
    let store = open(dir.path());
    assert_eq!(store.record(note(4)), Recorded::As(4));
    drop(store);
    assert_eq!(ids(&open(dir.path()).query(&all())), [1, 2, 3, 4]);
}

#[test]
fn the_file_rotates_and_two_are_kept() {
    let dir = tempfile::tempdir().expect("a directory");
    let (mut options, _) = options();
    options.rotate_bytes = limits::LINE_BYTES as u64;
    let store = Store::open(dir.path(), options.clone()).expect("opens");
    for n in 1..=1000 {
        store.record(note(n));
    }
    drop(store);
    let names: Vec<_> = fs::read_dir(dir.path())
        .expect("readable")
        .map(|entry| entry.expect("an entry"))
        .map(|entry| (entry.file_name(), entry.metadata().expect("there").len()))
        .collect();
    assert_eq!(names.len(), 2, "{names:?}");
    assert!(
        names
            .iter()
            .all(|(_, len)| *len <= limits::LINE_BYTES as u64),
        "{names:?}"
    );
    let store = Store::open(dir.path(), options).expect("opens");
    let kept = ids(&store.query(&all()));
    assert_eq!(kept.last(), Some(&1000));
    assert!(
        kept.len() > 200,
        "one and a half files at least: {}",
        kept.len()
    );
    assert!(kept.windows(2).all(|pair| pair[1] == pair[0] + 1));
}

#[test]
fn a_full_disk_is_told_and_caught_up() {
    let (options, hand) = options();
    let disk = Small::of(300);
    let store = with_medium(options, &disk);
    for n in 1..=10 {
        assert_eq!(store.record(note(n)), Recorded::As(n));
        store.settle();
    }
    let health = store.health();
    assert!(!health.saved);
    assert!(health.fault.expect("told").contains("memory only"));
    assert!(health.unsaved > 0);
    assert_eq!(store.query(&all()).len(), 10);

    disk.resize(1 << 20);
    store.record(note(11));
    store.settle();
    assert!(!store.health().saved, "left alone until the retry is due");
    hand.forward(limits::RETRY_AFTER);
    store.tick();
    store.settle();
    assert!(store.health().saved);
    assert_eq!(store.health().lost, 0);
    assert_eq!(disk.ids(), (1..=11).collect::<Vec<_>>());
}

#[test]
fn what_left_memory_unsaved_is_counted() {
    let (mut options, hand) = options();
    options.capacity = 4;
    let disk = Small::of(0);
    let store = with_medium(options, &disk);
    for n in 1..=10 {
        store.record(note(n));
        store.settle();
    }
    disk.resize(1 << 20);
    hand.forward(limits::RETRY_AFTER);
    store.record(note(11));
    store.settle();
    assert_eq!(disk.ids(), [8, 9, 10, 11, 12]);
    assert_eq!(store.health().lost, 7);
    let told = store.query(&all()).pop().expect("an event");
    assert_eq!(told.code, "events-lost");
    assert!(told.message.starts_with("7 events"), "{}", told.message);
}

/// A disk that does not answer until the test has sent it a word, and then does for good.
#[derive(Clone, Debug)]
struct Hanging {
    disk: Small,
    reached: mpsc::SyncSender<()>,
    go_on: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Medium for Hanging {
    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        // Told once is enough, and the other end may be gone: the test is past that.
        let _ = self.reached.try_send(());
        let _ = self.go_on.lock().recv();
        self.disk.append(lines)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.sync()
    }
}

#[test]
fn a_disk_that_does_not_answer_keeps_nobody() {
    let (mut options, hand) = options();
    options.capacity = 4;
    let (reached, is_reached) = mpsc::sync_channel(1);
    let (go_on, wait) = mpsc::sync_channel(1);
    let disk = Hanging {
        disk: Small::of(1 << 20),
        reached,
        go_on: Arc::new(Mutex::new(wait)),
    };
    let store = with_medium(options, &disk);
    let mut follower = store.subscribe(None).expect("room");
    assert_eq!(store.record(note(1)), Recorded::As(1));
    is_reached.recv().expect("the writer is at it");

    // All of it in a thread, so that a wait fails the test and does not hang it.
    let (done, is_done) = mpsc::sync_channel(1);
    let asking = store.clone();
    let asked = std::thread::spawn(move || {
        for n in 2..=9 {
            assert_eq!(asking.record(note(n)), Recorded::As(n));
        }
        assert_eq!(ids(&asking.query(&all())), [6, 7, 8, 9]);
        assert_eq!(follower.try_next(), Some(Delivery::Lagged { missed: 5 }));
        asking.tick();
        assert_eq!(asking.health().fault, None, "it may still answer");
        hand.forward(limits::ANSWER_TIME_MAX);
        let health = asking.health();
        let fault = health.fault.expect("told");
        assert!(fault.contains("has not answered for 5 s"), "{fault}");
        assert!(!health.saved);
        let synced = asking.sync(Duration::from_millis(1));
        let kind = synced.map_err(|error| error.kind());
        assert_eq!(kind, Err(io::ErrorKind::TimedOut));
        done.send(()).expect("the test waits");
    });
    let in_time = is_done.recv_timeout(Duration::from_secs(60));
    assert_eq!(in_time, Ok(()), "somebody waits for the disk");
    asked.join().expect("no panic");

    drop(go_on);
    store.settle();
    // The first was with the disk already; four of the others left memory unsaved.
    assert_eq!(disk.disk.ids(), [1, 6, 7, 8, 9, 10]);
    let health = store.health();
    assert_eq!((health.lost, health.saved, health.fault), (4, true, None));
}

#[test]
fn a_store_is_dropped_though_the_disk_does_not_answer() {
    let (reached, is_reached) = mpsc::sync_channel(1);
    let (go_on, wait) = mpsc::sync_channel(1);
    let disk = Hanging {
        disk: Small::of(1 << 20),
        reached,
        go_on: Arc::new(Mutex::new(wait)),
    };
    let store = with_medium(options().0, &disk);
    store.record(note(1));
    is_reached.recv().expect("the writer is at it");
    let (dropped, is_dropped) = mpsc::sync_channel(1);
    std::thread::spawn(move || {
        drop(store);
        dropped.send(())
    });
    let bound = Duration::from_secs(60);
    assert_eq!(is_dropped.recv_timeout(bound), Ok(()));
    drop(go_on);
}

#[test]
fn a_real_full_device_leaves_memory_working() {
    // /dev/full answers every write with "no space left".
    let dir = tempfile::tempdir().expect("a directory");
    let link = dir.path().join("events.jsonl");
    // The link comes after the start: reading /dev/full never ends.
    let store = open(dir.path());
    std::os::unix::fs::symlink("/dev/full", &link).expect("a link");
    assert_eq!(store.record(note(1)), Recorded::As(1));
    store.settle();
    let health = store.health();
    assert_eq!(health.unsaved, 1);
    assert!(health.fault.expect("told").contains("No space left"));
    assert!(store.sync(Duration::from_secs(60)).is_err());
    fs::remove_file(&link).expect("removable");
}

#[test]
fn followers_get_all_in_order_and_learn_of_a_lag() {
    let (mut options, _) = options();
    options.capacity = 5;
    let store = Store::in_memory(options);
    store.record(note(1));
    let mut new = store.subscribe(None).expect("room");
    let mut back = store.subscribe(Some(0)).expect("room");
    assert_eq!(new.try_next(), None);
    assert!(matches!(back.try_next(), Some(Delivery::Event(event)) if event.id == 1));
    for n in 2..=9 {
        store.record(note(n));
    }
    assert_eq!(new.try_next(), Some(Delivery::Lagged { missed: 3 }));
    for id in 5..=9 {
        assert!(matches!(new.try_next(), Some(Delivery::Event(event)) if event.id == id));
    }
    store.close();
    assert_eq!(new.try_next(), Some(Delivery::Closed));
    assert_eq!(store.subscribe(None).err(), Some(SubscribeError::Closed));
}

#[test]
fn an_asynchronous_follower_is_woken() {
    #[derive(Default)]
    struct Woken(AtomicU64);
    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::SeqCst);
        }
    }
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(Arc::clone(&woken));
    let mut context = Context::from_waker(&waker);
    let store = Store::in_memory(options().0);
    let mut follower = store.subscribe(None).expect("room");
    assert!(follower.poll_next(&mut context).is_pending());
    assert_eq!(woken.0.load(Ordering::SeqCst), 0);
    store.record(note(1));
    assert_eq!(woken.0.load(Ordering::SeqCst), 1);
    assert!(matches!(
        follower.poll_next(&mut context),
        Poll::Ready(Delivery::Event(_))
    ));
    assert!(follower.poll_next(&mut context).is_pending());
    store.close();
    assert_eq!(woken.0.load(Ordering::SeqCst), 2);
    assert_eq!(
        follower.poll_next(&mut context),
        Poll::Ready(Delivery::Closed)
    );
}

#[test]
fn followers_are_bounded_and_leave_their_place() {
    let store = Store::in_memory(options().0);
    let mut all: Vec<_> = (0..limits::SUBSCRIBERS)
        .map(|_| store.subscribe(None).expect("room"))
        .collect();
    assert_eq!(store.subscribe(None).err(), Some(SubscribeError::TooMany));
    all.pop();
    assert!(store.subscribe(None).is_ok());
}

#[test]
fn provoked_events_are_held_to_a_rate_and_summed_up() {
    let (options, hand) = options();
    let store = Store::in_memory(options);
    let refused = || Draft::warning("login-refused", "iqn.2026.x:a", "refused").provoked();
    let recorded = (0..1000)
        .filter(|_| store.record(refused()) != Recorded::Suppressed)
        .count();
    assert_eq!(recorded, limits::SUBJECT_BURST as usize);
    assert_eq!(store.health().suppressed, 990);
    store.record(note(1));
    store.tick();
    let summaries = Filter {
        code: Some("events-suppressed".to_owned()),
        ..Filter::default()
    };
    assert!(store.query(&summaries).is_empty(), "not due yet");
    hand.forward(limits::SUMMARY_AFTER);
    store.tick();
    store.tick();
    let found = store.query(&summaries);
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].subject, "iqn.2026.x:a");
    assert_eq!(
        found[0].message,
        "suppressed 990 more `login-refused` events within 60 s"
    );
}

#[test]
fn an_export_is_json_that_reads_back() {
    let store = Store::in_memory(options().0);
    store.record(note(1));
    store.record(Draft::error("e", "s", "m").cause("c"));
    let filter = Filter {
        severity_min: Some(Severity::Error),
        ..Filter::default()
    };
    let text = serde_json::to_string_pretty(&store.query(&filter)).expect("plain data");
    let read: Vec<Event> = serde_json::from_str(&text).expect("JSON");
    assert_eq!(read, store.query(&filter));
    assert!(text.contains("\"severity\": \"error\""), "{text}");
    assert!(!text.contains("next_step"), "{text}");
}

proptest! {
    /// Whatever the files hold, the store opens, numbers grow, and what was whole is still there.
    #[test]
    fn any_bytes_in_the_files_are_survived(
        older in prop::collection::vec(any::<u8>(), 0..600),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
    ) {
        let dir = tempfile::tempdir().expect("a directory");
        fs::write(dir.path().join("events.1.jsonl"), &older).expect("writable");
        let store = open(dir.path());
        for n in 1..=5 {
            store.record(note(n));
        }
        drop(store);
        let path = dir.path().join("events.jsonl");
        let mut bytes = fs::read(&path).expect("readable");
        for (at, byte) in damage {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        fs::write(&path, &bytes).expect("writable");
        let store = open(dir.path());
        let before = ids(&store.query(&all()));
        prop_assert!(before.windows(2).all(|pair| pair[0] < pair[1]));
        let Recorded::As(id) = store.record(note(6)) else { panic!("not provoked") };
        prop_assert!(before.last().is_none_or(|last| *last < id));
        drop(store);
        let after = ids(&open(dir.path()).query(&all()));
        prop_assert_eq!(after.last(), Some(&id));
        prop_assert_eq!(&after[..after.len() - 1], &before[..]);
    }

    /// Queries agree with the plain definition.
    #[test]
    fn queries_agree_with_a_model(
        severities in prop::collection::vec(0u8..4, 0..60),
        since in prop::option::of(0u64..70),
        least in prop::option::of(0u8..4),
        limit in prop::option::of(0usize..70),
        capacity in 1usize..70,
    ) {
        let severity = |n: u8| match n {
            0 => Severity::Info,
            1 => Severity::Warning,
            2 => Severity::Error,
            _ => Severity::Critical,
        };
        let (mut options, _) = options();
        options.capacity = capacity;
        let store = Store::in_memory(options);
        for n in &severities {
            store.record(Draft::new(severity(*n), "c", "s", "m"));
        }
        let filter = Filter {
            since_id: since,
            severity_min: least.map(severity),
            limit,
            ..Filter::default()
        };
        let mut model: Vec<u64> = (1u64..)
            .zip(&severities)
            .skip(severities.len().saturating_sub(capacity))
            .filter(|(id, n)| since.is_none_or(|s| *id > s) && least.is_none_or(|l| **n >= l))
            .map(|(id, _)| id)
            .collect();
        let most = limit.unwrap_or(limits::QUERY_DEFAULT);
        if since.is_some() {
            model.truncate(most);
        } else {
            model.drain(..model.len().saturating_sub(most));
        }
        prop_assert_eq!(ids(&store.query(&filter)), model);
    }
}
