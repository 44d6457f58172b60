//! Serves: start, wait for a signal, stop.
//!
//! Three runtimes, so that nothing that one of them waits for keeps another:
//!
//! | runtime | what it runs |
//! |---|---|
//! | the main thread's | start, signals, stop; what the data path tells becomes events |
//! | `api` | the management socket |
//! | `control` | the data path's control plane, and what is asked of it |
//!
//! None of their workers waits for a disk; what does has a thread of its own ([`admin::blocking`]).

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::Duration;

use api::{Code, Problem};
use events::Draft;
use sd_notify::NotifyState;
use settings::{Document, Loaded, Secrets, Store};
use target::{Driver, Notice, Opener, Options, Service};
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};

use crate::admin::{self, Admin, Parts, StopBounds};
use crate::cli::{Ring, Run};
use crate::data_dir::DataDir;
use crate::door::Door;
use crate::socket::Socket;
use crate::{limits, notices, server, trouble};

/// Serves until a signal ends it.
///
/// # Errors
/// What kept it from starting.
pub(crate) fn run(flags: &Run) -> Result<(), Problem> {
    let dir = DataDir::open(&flags.data_dir)?;
    let _lock = dir.lock()?;
    let store = Store::open(dir.path()).map_err(|error| trouble::internal(&error))?;
    let loaded = store
        .load()
        .map_err(|error| trouble::load(&error, dir.path()))?;
    let secrets = Secrets::load(dir.path()).map_err(|error| trouble::secrets(&error))?;
    usable(&loaded.document, &secrets, dir.path())?;
    let events = events::Store::open(&dir.events(), events::Options::default())
        .map_err(|error| trouble::internal(&error))?;
    let main = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| trouble::internal(&error))?;
    let (api, control) = (workers("api")?, workers("control")?);
    let opened = Opened {
        dir,
        store,
        secrets,
        events,
        api: api.handle().clone(),
        control: control.handle().clone(),
    };
    let result = main.block_on(Box::pin(serve(flags, opened, &loaded)));
    // A disk that does not answer must not keep the process: what waits for it is left behind, here
    // and (threads of the data path) when the process ends.
    main.shutdown_background();
    api.shutdown_timeout(limits::LEAVE_TIME_MAX);
    control.shutdown_timeout(limits::LEAVE_TIME_MAX);
    result
}

fn workers(name: &str) -> Result<Runtime, Problem> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name(name)
        .enable_all()
        .build()
        .map_err(|error| trouble::internal(&error))
}

/// What the settings name must be there; a secret that was removed by hand is found here.
fn usable(document: &Document, secrets: &Secrets, dir: &Path) -> Result<(), Problem> {
    admin::check(document, &|name| secrets.contains(name)).map_err(|error| {
        Problem::new(
            Code::InvalidSettings,
            format!("the settings in {} cannot be served", dir.join("settings/current.toml").display()),
        )
        .detail(error.to_string())
        .next(format!(
            "correct the file, then: sanctumd adopt --data-dir {}; a secret that is missing goes into {}",
            api::quoted(dir),
            secrets.path().display()
        ))
    })
}

fn options(flags: &Run, dir: &DataDir, document: &Document) -> Options {
    let own = dir.clone();
    let service = &document.service;
    let driver = match (flags.ring, service.ring) {
        (Some(Ring::Uring), _) | (None, settings::Ring::Uring) => Some(Driver::Uring),
        (Some(Ring::Epoll), _) | (None, settings::Ring::Epoll) => Some(Driver::Epoll),
        (Some(Ring::Auto), _) | (None, settings::Ring::Auto) => None,
    };
    Options {
        shards: usize::from(flags.shards.unwrap_or(service.shards)),
        driver,
        spin: Duration::from_micros(service.spin_us.into()),
        opener: Opener::default().checked(move |path, file| own.may_serve(path, file)),
        ..Options::new(dir.path())
    }
}

/// What is there before anything serves.
struct Opened {
    dir: DataDir,
    store: Store,
    secrets: Secrets,
    events: events::Store,
    api: Handle,
    control: Handle,
}

/// Each connection is a descriptor: takes as many as the system allows this process.
fn raise_descriptor_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    if let Err(error) = setrlimit(Resource::Nofile, limit) {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
}

/// Serves; an error may be what had not ended at the stop.
async fn serve(flags: &Run, opened: Opened, loaded: &Loaded) -> Result<(), Problem> {
    raise_descriptor_limit();
    let mut signals = Signals::catch()?;
    let (events, api) = (opened.events.clone(), opened.api.clone());
    let (sender, receiver) = mpsc::channel(limits::NOTICES_WAITING);
    let recorder = tokio::spawn(notices::record(receiver, events.clone()));
    let ticker = tokio::spawn(tick(events.clone()));
    let opening = Box::pin(open(flags, opened, loaded, sender));
    let (admin, listener) = match unless_stopped(&mut signals, opening).await {
        Ok(opened) => opened?,
        Err(cause) => {
            // What waits for a disk is left behind; nothing was served yet.
            tracing::info!(cause, "stopping before the service was up");
            record_last(&events, last_words(cause, None));
            return Ok(());
        }
    };
    let (stop, stopping) = watch::channel(false);
    let serving = api.spawn(server::serve(admin.clone(), listener, stopping));
    started(&admin, loaded);

    let cause = signals.wait().await;
    tracing::info!(cause, "stopping");
    notify(&[NotifyState::Stopping]);
    stop.send_replace(true);
    // Who follows the events is answered now, and does not hold up the end.
    events.close();
    // It has a bound of its own; a second one here hears of no excuse.
    match timeout(2 * limits::REQUESTS_END_MAX, serving).await {
        Ok(Ok(Ok(()))) => {}
        left => tracing::error!(?left, "the management socket's server broke off"),
    }
    let stopped = admin.stop(StopBounds::default()).await;
    // The last of it removes the socket, which lies on a disk, too.
    let gone = tokio::task::spawn_blocking(move || drop(admin));
    if timeout(limits::LEAVE_TIME_MAX, gone).await.is_err() {
        tracing::warn!("the management socket stays; the next start replaces it");
    }
    // The data path's notices are all recorded before the last event; it held the sender.
    let recorded = timeout(limits::REQUESTS_END_MAX, recorder);
    if recorded.await.is_err() {
        tracing::warn!("the data path still holds on; its last notices are not recorded");
    }
    ticker.abort();
    record_last(&events, last_words(cause, stopped.as_ref().err()));
    stopped
}

/// Does `work` unless a signal ends the service before; gives the signal then.
async fn unless_stopped<T>(
    signals: &mut Signals,
    work: impl Future<Output = T>,
) -> Result<T, &'static str> {
    tokio::select! {
        done = work => Ok(done),
        cause = signals.wait() => Err(cause),
    }
}

/// Records the last event. A data directory on a stuck disk must not keep the process.
fn record_last(events: &events::Store, last: Draft) {
    events.record(last);
    if let Err(error) = events.sync(limits::EVENTS_SYNC_MAX) {
        tracing::warn!(%error, "the last events are not on disk");
    }
}

fn last_words(cause: &str, left: Option<&Problem>) -> Draft {
    let message = format!("The service stopped: {cause}");
    match left {
        None => Draft::info("service-stopped", "sanctumd", &message),
        Some(left) => Draft::new(
            events::Severity::Error,
            "service-stopped",
            "sanctumd",
            &message,
        )
        .cause(&left.what)
        .next_step(&left.next_step),
    }
}

/// Starts the data path, then opens the socket: who can connect finds everything there.
async fn open(
    flags: &Run,
    opened: Opened,
    loaded: &Loaded,
    notices: mpsc::Sender<Notice>,
) -> Result<(Admin, UnixListener), Problem> {
    let Opened {
        dir,
        store,
        secrets,
        events,
        api: _,
        control,
    } = opened;
    let options = options(flags, &dir, &loaded.document);
    let config = loaded.document.iscsi.clone();
    let handed = admin::handed_over(secrets.iter());
    let service = control.spawn(Service::start(options, config, handed, notices));
    let service = service.await.map_err(|error| trouble::internal(&error))?;
    let service = service.map_err(|error| trouble::service(&error))?;
    let document = loaded.document.clone();
    let path = flags.socket.clone().unwrap_or_else(|| dir.socket());
    let (at, heard) = (dir.clone(), events.clone());
    let door = admin::blocking(move || open_door(&path, &at, &document, &heard));
    let (door, listener) = match door.await.and_then(|opened| opened) {
        Ok(opened) => opened,
        Err(problem) => {
            let stopped = control.spawn(async move { service.shutdown().await });
            if let Ok(Err(left)) = stopped.await {
                tracing::error!(%left, "stopping");
            }
            return Err(problem);
        }
    };
    let parts = Parts {
        data_dir: dir,
        service,
        store,
        events,
        door,
        control,
    };
    Ok((Admin::new(parts, secrets), listener))
}

/// Waits for the disk that the socket lies on.
fn open_door(
    path: &Path,
    dir: &DataDir,
    document: &Document,
    events: &events::Store,
) -> Result<(Door, UnixListener), Problem> {
    let group = document.service.api_group.as_deref();
    let mut socket = Socket::listen(path)?;
    if group.is_some() && socket.path().starts_with(dir.path()) {
        tracing::warn!(
            socket = %socket.path().display(),
            "the group of service.api_group cannot reach a socket inside the data directory; use --socket {}",
            api::SHARED_SOCKET
        );
    }
    let listener = socket
        .take_listener()
        .ok_or_else(|| Problem::new(Code::Internal, "the management socket was taken already"))?;
    let door = Door::new(socket);
    // A group that went must not keep the disks from being served: root and this user come in.
    if let Err(problem) = door.open_to(group) {
        let message = "The management socket is not open to the group of service.api_group";
        let draft = Draft::warning("group-not-admitted", "service.api_group", message);
        let causes = [std::slice::from_ref(&problem.what), &problem.details].concat();
        events.record(
            draft
                .cause(&causes.join(": "))
                .next_step(&problem.next_step),
        );
    }
    Ok((door, listener))
}

/// Says on every way that the service is up: events, service manager, standard output.
fn started(admin: &Admin, loaded: &Loaded) {
    let socket = admin.door().socket().path();
    let status = admin.service().status();
    let portals: Vec<SocketAddr> = admin
        .service()
        .portals()
        .into_iter()
        .filter(|portal| portal.listening)
        .map(|portal| portal.address)
        .collect();
    let message = format!(
        "The service started with generation {} of the settings, {} shards on {}",
        loaded.generation.number, status.shards, status.ring
    );
    admin
        .events()
        .record(Draft::info("service-started", "sanctumd", &message));
    tracing::info!(?portals, socket = %socket.display(), generation = loaded.generation.number, "ready");
    notify(&[NotifyState::Ready]);
    let mut out = std::io::stdout().lock();
    // Whoever started us may have closed our output; the service serves all the same.
    let _ = writeln!(out, "{}", ready_line(&portals, socket)).and_then(|()| out.flush());
}

fn ready_line(portals: &[SocketAddr], socket: &Path) -> String {
    let portals: Vec<String> = portals.iter().map(ToString::to_string).collect();
    format!(
        "ready portal={} socket={}",
        portals.join(","),
        socket.display()
    )
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "the service manager was not told");
    }
}

async fn tick(events: events::Store) {
    let mut interval = tokio::time::interval(limits::EVENT_TICK);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        events.tick();
    }
}

/// Signals that end the service. SIGHUP does nothing: settings come through the socket.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn catch() -> Result<Self, Problem> {
        let catch = |kind| signal(kind).map_err(|error| trouble::internal(&error));
        Ok(Self {
            terminate: catch(SignalKind::terminate())?,
            interrupt: catch(SignalKind::interrupt())?,
            hangup: catch(SignalKind::hangup())?,
        })
    }

    async fn wait(&mut self) -> &'static str {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return "SIGTERM",
                _ = self.interrupt.recv() => return "SIGINT",
                _ = self.hangup.recv() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_start_that_is_stuck_can_be_stopped() {
        use rustix::process::{Signal, getpid, kill_process};
        let mut signals = Signals::catch().unwrap();
        kill_process(getpid(), Signal::TERM).unwrap();
        let stopped = unless_stopped(&mut signals, std::future::pending::<()>());
        let stopped = tokio::time::timeout(Duration::from_secs(60), stopped).await;
        assert_eq!(stopped, Ok(Err("SIGTERM")));
        let done = unless_stopped(&mut signals, std::future::ready(7)).await;
        assert_eq!(done, Ok(7));
    }

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        run: Run,
    }

    fn image(path: &Path, size: u64) -> target::config::Device {
        use target::config::{Backing, Device, Provisioning};
        let backing = Backing::Image {
            path: path.into(),
            size,
            provisioning: Provisioning::Thin,
            block_size: 512,
            read_only: false,
        };
        Device::new("a", backing)
    }

    /// Put there while the service was down.
    #[tokio::test(flavor = "multi_thread", worker_threads = 1)]
    async fn secrets_in_the_place_of_an_image_are_not_served() {
        use target::info::DeviceState;
        const SIZE: u64 = 1 << 20;
        let temporary = tempfile::tempdir().unwrap();
        let dir = DataDir::make(&temporary.path().join("data")).unwrap();
        let secrets = dir.path().join("secrets/secrets.toml");
        std::fs::create_dir(secrets.parent().unwrap()).unwrap();
        // As long as the image was, so that nothing else keeps it from being opened.
        std::fs::write(&secrets, vec![b'x'; 1 << 20]).unwrap();
        let path = temporary.path().join("a.img");
        let mut document = Document::default();
        document.iscsi.devices.push(image(&path, SIZE));
        let line = ["run", "--data-dir", "/d", "--shards", "1"];
        let flags = <Line as clap::Parser>::parse_from(line).run;
        let link: fn(&Path, &Path) -> std::io::Result<()> =
            |own, name| std::os::unix::fs::symlink(own, name);
        for plant in [link, |own, name| std::fs::hard_link(own, name)] {
            plant(&secrets, &path).unwrap();
            let (sender, _notices) = mpsc::channel(16);
            let options = options(&flags, &dir, &document);
            let config = document.iscsi.clone();
            let started = Service::start(options, config, target::Secrets::new(), sender);
            let service = Box::pin(started).await.unwrap();
            let DeviceState::NotReady { reason } = service.devices().remove(0).state else {
                panic!("it is served");
            };
            assert!(reason.contains(secrets.to_str().unwrap()), "{reason}");
            let again = service.load_device("a").await.unwrap_err().to_string();
            assert!(again.contains(path.to_str().unwrap()), "{again}");
            std::fs::remove_file(&path).unwrap();
            let file = std::fs::File::create(&path).unwrap();
            file.set_len(SIZE).unwrap();
            service.load_device("a").await.unwrap();
            service.shutdown().await.unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn the_line_that_scripts_wait_for() {
        let portals = [
            "127.0.0.1:3260".parse().unwrap(),
            "[::1]:3260".parse().unwrap(),
        ];
        assert_eq!(
            ready_line(&portals, Path::new("/d/api.sock")),
            "ready portal=127.0.0.1:3260,[::1]:3260 socket=/d/api.sock"
        );
    }
}
