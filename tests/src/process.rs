//! A `stele serve` process: the real binary, on real directories, killed in the ways that processes are killed.
//!
//! The binary is built once per test program, by the cargo that runs the test and into the same target directory, so a
//! test never talks to a stale one. `STELE_BIN` names another binary instead.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

/// How long a start may take on a busy machine before a test gives up on it.
const READY_WITHIN: Duration = Duration::from_secs(180);
/// How long an ended server may take to go away: longer than it gives itself (90 s).
const GONE_WITHIN: Duration = Duration::from_secs(120);
/// How long the rest of what an ended server printed may take to be read.
const READ_WITHIN: Duration = Duration::from_secs(20);

/// The access key of servers under test, unless a test lets them make up their own.
pub const ACCESS_KEY: &str = "STELETESTACCESSKEY01";
/// Its secret.
pub const SECRET_KEY: &str = "stele-test-secret-key-0123456789abcdef01";

/// The `stele` binary, built if need be.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| std::env::var_os("STELE_BIN").map_or_else(|| build("stele", &[]), PathBuf::from))
}

/// `stele` as it would be after the next release, which knows a format level more: `STELE_NEXT_BIN`, or what lies beside
/// `STELE_BIN`, or built if need be.
pub fn next_binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let named = std::env::var_os("STELE_NEXT_BIN").map(PathBuf::from);
        let beside = || std::env::var_os("STELE_BIN").map(|bin| Path::new(&bin).with_file_name("stele-next"));
        let there = named.or_else(|| beside().filter(|path| path.is_file()));
        there.unwrap_or_else(|| build("stele-next", &["--workspace", "--features", "tests/next-release"]))
    })
}

/// The directory of the package of these tests. Cargo says it when it runs a test; what was compiled in is where the program was
/// built, which is another clone's directory when two of them share their target directory.
pub fn package() -> PathBuf {
    std::env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from)
}

/// Builds a binary of the workspace. What it is built with besides must leave the packages of others as they are, else they are all
/// compiled again.
fn build(name: &str, arguments: &[&str]) -> PathBuf {
    // target/<profile>/deps/<this test>
    let test = std::env::current_exe().expect("a test knows its own path");
    let profile = test.parent().and_then(Path::parent).expect("tests lie in target/<profile>/deps");
    let target = profile.parent().expect("profiles lie in target");
    let package = package();
    let workspace = package.parent().expect("the package lies in the workspace");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(workspace).args(["build", "--quiet", "--ignore-rust-version", "--bin", name, "--target-dir"]);
    command.arg(target).args(arguments);
    if profile.file_name() == Some(OsStr::new("release")) {
        command.arg("--release");
    }
    let status = command.status().expect("cargo can be started");
    assert!(status.success(), "the {name} binary does not build");
    profile.join(name)
}

/// How to start a server. Kept over restarts, so that the addresses stay.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// `--data`.
    pub data: PathBuf,
    /// Arguments after `serve --data .. --s3 .. --admin ..`.
    pub arguments: Vec<String>,
    /// Environment besides the inherited one; the credentials are in it.
    pub environment: Vec<(String, String)>,
    /// What is run: `stele`, unless it is another build of it.
    pub binary: PathBuf,
    s3: SocketAddr,
    admin: SocketAddr,
    _reserved: Arc<[TcpSocket; 2]>,
}

impl ServerConfig {
    /// A server on `data` with this many drive directories inside, on two ports that are its own as long as this lives.
    pub fn new(data: impl Into<PathBuf>, drives: usize) -> ServerConfig {
        let reserved = [reserve_port(), reserve_port()];
        let [s3, admin] = reserved.each_ref().map(|port| port.local_addr().expect("a bound socket has an address"));
        ServerConfig {
            data: data.into(),
            arguments: vec!["--drives".to_owned(), drives.to_string()],
            environment: vec![
                ("STELE_ACCESS_KEY".to_owned(), ACCESS_KEY.to_owned()),
                ("STELE_SECRET_KEY".to_owned(), SECRET_KEY.to_owned()),
            ],
            binary: binary().to_owned(),
            s3,
            admin,
            _reserved: Arc::new(reserved),
        }
    }

    /// The same server, with other arguments.
    #[must_use]
    pub fn arguments(mut self, arguments: &[&str]) -> ServerConfig {
        self.arguments = arguments.iter().map(|&argument| argument.to_owned()).collect();
        self
    }

    /// The same server, with one more environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> ServerConfig {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The same server, of another build.
    #[must_use]
    pub fn of(&self, binary: &Path) -> ServerConfig {
        ServerConfig { binary: binary.to_owned(), ..self.clone() }
    }

    /// `http://host:port` of the S3 API.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.s3)
    }

    /// The S3 API's address.
    pub fn s3(&self) -> SocketAddr {
        self.s3
    }

    /// The admin API's address.
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// The directory of drive `n`.
    pub fn drive(&self, n: usize) -> PathBuf {
        self.data.join("drives").join(n.to_string())
    }

    /// The index's directory.
    pub fn index(&self) -> PathBuf {
        self.data.join("index")
    }

    /// Starts the process and does not wait for it.
    pub fn spawn(&self) -> ServerProcess {
        let mut command = Command::new(&self.binary);
        command.arg("serve").arg("--data").arg(&self.data);
        command.args(["--s3", &self.s3.to_string(), "--admin", &self.admin.to_string()]);
        command.args(&self.arguments);
        clean_environment(&mut command);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the stele binary can be started");
        let output = Captured::default();
        output.follow(child.stdout.take().expect("piped"));
        output.follow(child.stderr.take().expect("piped"));
        ServerProcess { child, output, admin: self.admin, gone: None }
    }

    /// Starts the process and waits until it is ready. `Err`: it ended instead, or took longer than [`READY_WITHIN`].
    pub async fn try_start(&self) -> Result<ServerProcess, NotReady> {
        let mut server = self.spawn();
        server.ready().await?;
        Ok(server)
    }

    /// [`ServerConfig::try_start`], which must succeed.
    pub async fn start(&self) -> ServerProcess {
        self.try_start().await.unwrap_or_else(|failed| panic!("{failed}"))
    }

    /// Runs another `stele` command to its end, outside the runtime's threads.
    pub async fn stele(&self, arguments: &[&str]) -> Output {
        let mut command = self.command(arguments);
        tokio::task::spawn_blocking(move || command.output())
            .await
            .expect("commands do not panic")
            .expect("the stele binary can be started")
    }

    /// Another `stele` command on the same data directory, not yet started.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.binary);
        command.args(arguments).arg("--data").arg(&self.data);
        clean_environment(&mut command);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// `stele journal seal --wait`, which must succeed.
    pub async fn seal(&self) {
        let output = self.stele(&["journal", "seal", "--wait"]).await;
        assert!(output.status.success(), "seal: {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
}

/// What the tests' own surroundings must not decide.
fn clean_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("STELE_") || text.starts_with("AWS_") || text == "RUST_LOG" {
            command.env_remove(&name);
        }
    }
}

/// A socket that keeps a port for a server. It never listens and, like the server, asks for SO_REUSEADDR, so both may be
/// bound to the port. Without it the port would be anybody's while the server is not running: another test's, or that of some
/// client's outgoing connection, and the next start would find it in use.
pub fn reserve_port() -> TcpSocket {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR can be set on a new socket");
    socket.bind((Ipv4Addr::LOCALHOST, 0).into()).expect("a free port");
    socket
}

/// Why a server is not ready.
#[derive(Debug)]
pub struct NotReady {
    /// How it ended; `None` when it runs on without becoming ready.
    pub status: Option<ExitStatus>,
    /// All that it printed.
    pub output: String,
}

impl std::fmt::Display for NotReady {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.status {
            Some(status) => write!(f, "the server ended instead of becoming ready: {status}\n{}", self.output),
            None => write!(f, "the server is not ready after {READY_WITHIN:?}\n{}", self.output),
        }
    }
}

/// What a process printed so far, both streams, line by line.
#[derive(Clone, Debug, Default)]
struct Captured {
    lines: Arc<Mutex<Vec<String>>>,
    /// Streams that have not ended.
    open: Arc<AtomicUsize>,
}

impl Captured {
    fn follow(&self, stream: impl std::io::Read + Send + 'static) {
        let Captured { lines, open } = self.clone();
        open.fetch_add(1, Ordering::SeqCst);
        std::thread::spawn(move || {
            let mut stream = BufReader::new(stream);
            let mut line = Vec::new();
            while stream.read_until(b'\n', &mut line).is_ok_and(|n| n > 0) {
                let text = String::from_utf8_lossy(&line).trim_end_matches('\n').to_owned();
                lines.lock().unwrap_or_else(PoisonError::into_inner).push(text);
                line.clear();
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }

    /// Waits until all is read that a process, which has ended, has printed.
    async fn whole(&self) {
        let start = Instant::now();
        while self.open.load(Ordering::SeqCst) > 0 && start.elapsed() < READ_WITHIN {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}

/// A running server. Dropped, it is killed.
#[derive(Debug)]
pub struct ServerProcess {
    child: Child,
    output: Captured,
    admin: SocketAddr,
    gone: Option<ExitStatus>,
}

impl ServerProcess {
    /// Process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it printed so far on both streams.
    pub fn output(&self) -> String {
        self.output.text()
    }

    /// How it ended, if it has.
    pub fn status(&mut self) -> Option<ExitStatus> {
        if self.gone.is_none() {
            self.gone = self.child.try_wait().expect("our own child can be waited for");
        }
        self.gone
    }

    /// Waits until /health/ready says 200: reads and writes are served.
    pub async fn ready(&mut self) -> Result<(), NotReady> {
        self.answers("/health/ready").await
    }

    /// Waits until reads are served, and perhaps writes.
    pub async fn readable(&mut self) -> Result<(), NotReady> {
        self.answers("/health/ready?for=reads").await
    }

    async fn answers(&mut self, path: &str) -> Result<(), NotReady> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status() {
                self.output.whole().await;
                return Err(NotReady { status: Some(status), output: self.output() });
            }
            if matches!(get(self.admin, path).await, Ok((200, _))) {
                return Ok(());
            }
            if start.elapsed() > READY_WITHIN {
                return Err(NotReady { status: None, output: self.output() });
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// `kill -9`, and waits until the process is gone.
    pub async fn kill(mut self) -> ExitStatus {
        self.signal("KILL");
        self.ended().await
    }

    /// SIGTERM, and waits until the process is gone.
    pub async fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended().await
    }

    /// Sends a signal, by the name that `kill` has for it. The child has not been waited for, so its id is still its own.
    pub fn signal(&mut self, name: &str) {
        if self.status().is_none() {
            let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
            assert!(status.is_ok_and(|status| status.success()) || self.status().is_some(), "kill -s {name}");
        }
    }

    /// Waits for the end that someone else brings about.
    pub async fn ended(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.status() {
                self.output.whole().await;
                return status;
            }
            assert!(start.elapsed() < GONE_WITHIN, "the server does not end:\n{}", self.output());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The most memory it ever had resident, in MiB: VmHWM of proc(5).
    pub fn peak_resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).expect("the server runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("proc(5) has VmHWM");
        let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("proc(5): in kB");
        kib / 1024
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        if self.status().is_none() {
            // An error means that it has just ended.
            drop(self.child.kill());
            drop(self.child.wait());
        }
    }
}

/// GET without a signature; status and body.
pub async fn get(address: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    exchange(address, "GET", path, None, "").await
}

/// A request to an admin port: with a token, and a body of JSON unless that is empty; status and body.
pub async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    token: Option<&str>,
    body: &str,
) -> std::io::Result<(u16, String)> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n");
    if let Some(token) = token {
        request.push_str(&format!("authorization: Bearer {token}\r\n"));
    }
    if !body.is_empty() {
        request.push_str(&format!("content-type: application/json\r\ncontent-length: {}\r\n", body.len()));
    }
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(format!("{request}\r\n{body}").as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split_whitespace().nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| std::io::Error::other("not an HTTP answer"))?;
        let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
        Ok((status, body))
    };
    tokio::time::timeout(Duration::from_secs(120), exchange).await.map_err(|_| std::io::Error::other("no answer"))?
}

/// Flips a bit in the middle of the largest data segment of a drive: in a payload, as good as certainly.
pub fn flip(drive: &Path) {
    let segments = std::fs::read_dir(drive.join("segments")).expect("a drive has segments");
    let paths = segments.map(|entry| entry.expect("a directory is read").path());
    let largest = paths.max_by_key(|path| std::fs::metadata(path).expect("a segment is there").len());
    let path = largest.expect("a drive has a segment");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).expect("a segment is opened");
    let mut byte = [0];
    file.read_exact_at(&mut byte, 300_000).expect("a segment is read");
    file.write_all_at(&[byte[0] ^ 4], 300_000).expect("a segment is written");
    file.sync_all().expect("a segment is synced");
}
