//! Starts and ends the binaries, waits within bounds, cleans up.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest wait for anything; many times what a loaded machine takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// The client's binary.
pub(crate) fn sanctum_path() -> &'static str {
    env!("CARGO_BIN_EXE_sanctum")
}

/// The service's binary, beside the client's. Built where it is missing or older than its sources,
/// which cargo lists beside it.
pub(crate) fn sanctumd_path() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let path = Path::new(sanctum_path()).with_file_name("sanctumd");
        if !is_fresh(&path) {
            build(&path);
        }
        path
    })
}

fn is_fresh(binary: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let (Some(built), Ok(sources)) = (
        modified(binary),
        std::fs::read_to_string(binary.with_extension("d")),
    ) else {
        return false;
    };
    let newest = sources
        .split_whitespace()
        .skip(1)
        .map(|source| modified(Path::new(source)).unwrap_or(SystemTime::UNIX_EPOCH))
        .max();
    newest.is_some_and(|newest| newest <= built)
}

fn build(binary: &Path) {
    let profile_dir = binary.parent().expect("a binary lies in a directory");
    let target_dir = profile_dir.parent().expect("a profile lies in a directory");
    let profile = match profile_dir.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(other) => other,
    };
    let status = Command::new(env!("CARGO"))
        .args([
            "build",
            "--quiet",
            "-p",
            "sanctumd",
            "--profile",
            profile,
            "--target-dir",
        ])
        .arg(target_dir)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()
        .expect("cargo runs");
    assert!(status.success(), "sanctumd does not build");
}

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Done {
    /// It went well.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{self:?}");
        self
    }

    /// It ended with this code, saying all of this on standard error.
    #[track_caller]
    pub(crate) fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "`{word}` is missing: {self:?}");
        }
        self
    }

    /// Its output as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> Value {
        let done = self.ok();
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {done:?}"))
    }
}

/// A process that is ended when its test ends, however that ends.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child }
    }

    pub(crate) fn stdin(&mut self) -> ChildStdin {
        self.child.stdin.take().expect("piped")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(Pid::from_raw)
            .expect("a process id");
        kill_process(pid, signal).expect("the process is there");
    }

    /// Reads what it writes and waits for its end, within a bound.
    pub(crate) fn finish(mut self) -> Done {
        let out = gather(self.child.stdout.take());
        let err = gather(self.child.stderr.take());
        let out = receive(&out, "standard output to end");
        let err = receive(&err, "standard error to end");
        let code = self.wait().code();
        Done { code, out, err }
    }

    /// Its end; its output is closed by then, so that this does not wait long.
    fn wait(&mut self) -> ExitStatus {
        self.child.wait().expect("a child of this process")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already; both are harmless then.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn gather<R: Read + Send + 'static>(pipe: Option<R>) -> Receiver<String> {
    let (sender, receiver) = sync_channel(1);
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            pipe.read_to_end(&mut bytes).expect("a pipe can be read");
        }
        // Nobody waits any more when the test has failed.
        let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
    });
    receiver
}

#[track_caller]
fn receive<T>(receiver: &Receiver<T>, what: &str) -> T {
    match receiver.recv_timeout(PATIENCE) {
        Ok(value) => value,
        Err(RecvTimeoutError::Timeout) => panic!("waited in vain for {what}"),
        Err(RecvTimeoutError::Disconnected) => panic!("nothing will come: {what}"),
    }
}

/// Runs a command to its end.
pub(crate) fn run(command: &mut Command) -> Done {
    run_with(command, "")
}

/// Runs a command to its end, with this on standard input.
pub(crate) fn run_with(command: &mut Command, input: &str) -> Done {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut process = Process::spawn(command);
    // A command that does not read its input may close it; what it says is looked at all the same.
    let _ = process.stdin().write_all(input.as_bytes());
    process.finish()
}

/// `sanctum` with these words, talking to nobody in particular.
pub(crate) fn sanctum(words: &str) -> Command {
    let mut command = Command::new(sanctum_path());
    command
        .args(words.split_whitespace())
        .env_remove("SANCTUM_SOCKET")
        .env("NO_COLOR", "1");
    command
}

/// `sanctumd` with these words.
pub(crate) fn sanctumd(words: &str) -> Command {
    let mut command = Command::new(sanctumd_path());
    command
        .args(words.split_whitespace())
        .env_remove("NOTIFY_SOCKET");
    command
}

/// A port that nobody listens on right now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("bound").port()
}

/// A data directory that `sanctum setup` made.
#[derive(Debug)]
pub(crate) struct Site {
    home: TempDir,
    pub(crate) report: Value,
}

impl Site {
    pub(crate) fn new() -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        // Built before setup looks for it.
        sanctumd_path();
        let mut site = Self {
            home,
            report: Value::Null,
        };
        site.report = site.set_up(free_port()).json();
        site
    }

    /// Runs `sanctum setup` with a small image.
    pub(crate) fn set_up(&self, port: u16) -> Done {
        let mut command = sanctum("setup --non-interactive --output json --size 64M --address");
        command
            .arg(format!("127.0.0.1:{port}"))
            .arg("--data-dir")
            .arg(self.dir());
        run(&mut command)
    }

    pub(crate) fn dir(&self) -> PathBuf {
        self.home.path().join("data")
    }

    /// A place for files beside the data directory.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.home.path().join(name)
    }

    pub(crate) fn target(&self) -> &str {
        self.report["target"]
            .as_str()
            .expect("setup names a target")
    }

    pub(crate) fn current(&self) -> PathBuf {
        self.dir().join("settings/current.toml")
    }

    /// `sanctumd run` on this directory, not started.
    pub(crate) fn service(&self) -> Command {
        let mut command = sanctumd("run --shards 1 --log warn");
        command.arg("--data-dir").arg(self.dir());
        command
    }

    /// Starts the service and waits until it is ready.
    pub(crate) fn start(&self) -> Running {
        Running::start(&mut self.service())
    }
}

/// A service that is ready.
#[derive(Debug)]
pub(crate) struct Running {
    process: Process,
    out: Receiver<String>,
    err: Receiver<String>,
    pub(crate) ready: String,
    pub(crate) socket: PathBuf,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut process = Process::spawn(command);
        let err = gather(process.child.stderr.take());
        let stdout = process.child.stdout.take().expect("piped");
        let (sender, out) = sync_channel(16);
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let ready = match out.recv_timeout(PATIENCE) {
            Ok(line) => line,
            Err(_) => panic!(
                "the service is not ready: {}",
                receive(&err, "its standard error to end")
            ),
        };
        let socket = ready
            .split_once(" socket=")
            .expect("the ready line names the socket")
            .1;
        Self {
            socket: socket.into(),
            process,
            out,
            err,
            ready,
        }
    }

    /// `sanctum` with these words, talking to this service.
    pub(crate) fn command(&self, words: &str) -> Command {
        let mut command = sanctum(words);
        command.env("SANCTUM_SOCKET", &self.socket);
        command
    }

    /// Runs `sanctum` with these words.
    pub(crate) fn run(&self, words: &str) -> Done {
        run(&mut self.command(words))
    }

    /// Runs `sanctum` with these words for JSON.
    #[track_caller]
    pub(crate) fn json(&self, words: &str) -> Value {
        self.run(&format!("--output json {words}")).json()
    }

    /// The generation in force.
    pub(crate) fn generation(&self) -> u64 {
        self.json("status")["generation"]
            .as_u64()
            .expect("a number")
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }

    /// Ends it in good order; what it said on standard error.
    pub(crate) fn stop(self) -> String {
        self.process.signal(Signal::TERM);
        let done = self.end();
        assert_eq!(done.code, Some(0), "{done:?}");
        done.err
    }

    /// Ends it like a crash.
    pub(crate) fn kill(self) {
        self.process.signal(Signal::KILL);
        assert_eq!(self.end().code, None);
    }

    pub(crate) fn signal(&self, signal: Signal) {
        self.process.signal(signal);
    }

    fn end(mut self) -> Done {
        let err = receive(&self.err, "the service to end");
        let out = self.out.iter().collect::<Vec<_>>().join("\n");
        Done {
            code: self.process.wait().code(),
            out,
            err,
        }
    }
}
