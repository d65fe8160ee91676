//! `stele-keep-cost`: what scrub and repair cost those who read and write meanwhile.
//!
//! One run, one server, one load. Objects are put and sealed, two of the drives are taken away, so that every stripe that had a
//! shard there is mended at the highest share of the drives' time, and then phases alternate: scrub and repair paused,
//! scrub (a pass that was ordered: at its highest rate) and repair at work. A latency belongs to the phase in which its request
//! began and ended; one that saw both is left out. The ratio is of the same run, so a noisy machine disturbs both sides.

use benches::LoadError;
use benches::client::Endpoint;
use benches::data::{DataKind, DataSource, mix};
use benches::server::Server;
use clap::Parser;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const BUCKET: &str = "keep-cost";
/// Set in the phase number once the run is over.
const OVER: u64 = u64::MAX;

#[derive(Parser)]
#[command(about = "What scrub and repair cost in the foreground", version)]
struct Arguments {
    /// The `stele` program (a release build)
    #[arg(long)]
    stele: PathBuf,
    /// A directory that does not exist yet; it is removed at the end
    #[arg(long)]
    data: PathBuf,
    /// Drive directories
    #[arg(long, default_value_t = 8)]
    drives: usize,
    /// Geometry
    #[arg(long, default_value = "3+2")]
    geometry: String,
    /// Megabytes of objects to repair
    #[arg(long, default_value_t = 4000)]
    fill_mb: u64,
    /// Bytes per object
    #[arg(long, default_value_t = 256 << 10)]
    size: u64,
    /// Clients that read, and as many that write
    #[arg(long, default_value_t = 4)]
    clients: usize,
    /// Milliseconds that each client waits between two requests: the load is below what the machine can do
    #[arg(long, default_value_t = 20)]
    think_ms: u64,
    /// Seconds per phase
    #[arg(long, default_value_t = 5)]
    phase_s: u64,
    /// Pairs of phases, off and on
    #[arg(long, default_value_t = 8)]
    pairs: u64,
    /// Let repair rest too: scrub alone
    #[arg(long)]
    scrub_only: bool,
}

/// Latencies of one kind of request, keeping off and on.
#[derive(Default)]
struct Tally {
    off: Vec<Duration>,
    on: Vec<Duration>,
}

/// What all clients share.
struct Load {
    endpoint: Endpoint,
    data: DataSource,
    stored: u64,
    next: AtomicU64,
    /// Even: off. Odd: on.
    phase: AtomicU64,
    think: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let made = !arguments.data.exists();
    let result = if made { run(&arguments).await } else { Err(LoadError::Exists(arguments.data.clone())) };
    if made {
        // What could not be removed is the caller's to look at; the figures stand.
        let _ = std::fs::remove_dir_all(&arguments.data);
    }
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stele-keep-cost: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<(), LoadError> {
    let drives = arguments.drives.to_string();
    let server =
        Server::start(&arguments.stele, &arguments.data, &["--drives", &drives, "--geometry", &arguments.geometry])?;
    let stored = fill(arguments, server.endpoint()).await?;
    server.command(&["journal", "seal", "--wait"])?;
    server.stop()?;
    for drive in 0..2_usize {
        let path = arguments.data.join("drives").join(drive.to_string());
        std::fs::remove_dir_all(&path).map_err(|source| LoadError::Remove { path, source })?;
    }
    let server = Server::start(&arguments.stele, &arguments.data, &[])?;
    server.command(&["repair", "pause"])?;
    server.command(&["scrub", "pause"])?;
    let before = server.ask(&["repair", "status"])?;
    let load = Arc::new(Load {
        endpoint: server.endpoint().clone(),
        data: DataSource::load(DataKind::Random, Path::new("/"), arguments.size)?,
        stored,
        next: AtomicU64::new(stored),
        phase: AtomicU64::new(0),
        think: Duration::from_millis(arguments.think_ms),
    });
    let clients: Vec<_> = (0..2 * arguments.clients as u64).map(|n| tokio::spawn(client(load.clone(), n))).collect();
    let switched = tokio::task::block_in_place(|| phases(arguments, &server, &load));
    load.phase.store(OVER, Ordering::SeqCst);
    let (mut gets, mut puts) = (Tally::default(), Tally::default());
    for (n, client) in clients.into_iter().enumerate() {
        let tally = client.await.map_err(|_| LoadError::ClientEnded)??;
        let of = if n % 2 == 0 { &mut gets } else { &mut puts };
        of.off.extend(tally.off);
        of.on.extend(tally.on);
    }
    let on_seconds = switched?;
    print(arguments, "GET", &mut gets);
    print(arguments, "PUT", &mut puts);
    let after = server.ask(&["repair", "status"])?;
    for name in ["rebuilt_shards", "read_bytes", "written_bytes"] {
        let count = |value: &serde_json::Value| value[name].as_u64().unwrap_or(0);
        println!("repair {name}: {} in {on_seconds:.0} s at work", count(&after) - count(&before));
    }
    println!("repair left: {}", after["by_slack"]);
    let scrub = server.ask(&["scrub", "status"])?;
    let verified = scrub["drives"].as_array().into_iter().flatten().filter_map(|drive| drive["pass_bytes"].as_u64());
    println!("scrub read: {:.0} MB", verified.sum::<u64>() as f64 / 1e6);
    server.stop()
}

/// Puts what is to be repaired; returns how many objects.
async fn fill(arguments: &Arguments, endpoint: &Endpoint) -> Result<u64, LoadError> {
    let data = DataSource::load(DataKind::Random, Path::new("/"), arguments.size)?;
    endpoint.connect().await?.create_bucket(BUCKET).await?;
    let objects = (arguments.fill_mb * 1_000_000 / arguments.size).max(1);
    let next = AtomicU64::new(0);
    let fillers = (0..8).map(|_| async {
        let mut connection = endpoint.connect().await?;
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= objects {
                return Ok::<(), LoadError>(());
            }
            connection.put(BUCKET, &key(n), data.object(n)).await?;
        }
    });
    futures::future::try_join_all(fillers).await?;
    Ok(objects)
}

fn key(n: u64) -> String {
    format!("{:02x}/{n:010}", mix(n) & 0xff)
}

/// Switches between off and on; returns the seconds that it was on.
fn phases(arguments: &Arguments, server: &Server, load: &Load) -> Result<f64, LoadError> {
    let phase = Duration::from_secs(arguments.phase_s);
    let mut on = 0.0;
    for pair in 0..arguments.pairs {
        load.phase.store(2 * pair, Ordering::SeqCst);
        std::thread::sleep(phase);
        // A pass that is under way goes on where the pause found it.
        let scrub: &[&str] = if pair == 0 { &["scrub", "start"] } else { &["scrub", "resume"] };
        server.command(scrub)?;
        if !arguments.scrub_only {
            server.command(&["repair", "resume"])?;
        }
        let begun = Instant::now();
        load.phase.store(2 * pair + 1, Ordering::SeqCst);
        std::thread::sleep(phase);
        on += begun.elapsed().as_secs_f64();
        // What was begun ends after the pause was given: the requests of that time belong to neither phase.
        load.phase.store(OVER - 1, Ordering::SeqCst);
        server.command(&["repair", "pause"])?;
        server.command(&["scrub", "pause"])?;
        std::thread::sleep(Duration::from_secs(1));
    }
    Ok(on)
}

/// Even numbers read what was put before the run, odd ones put new objects.
async fn client(load: Arc<Load>, number: u64) -> Result<Tally, LoadError> {
    let mut connection = load.endpoint.connect().await?;
    let mut tally = Tally::default();
    for turn in 0_u64.. {
        let phase = load.phase.load(Ordering::SeqCst);
        if phase == OVER {
            break;
        }
        let begun = if number.is_multiple_of(2) {
            let n = mix(turn << 8 | number) % load.stored;
            let begun = Instant::now();
            connection.get(BUCKET, &key(n), None, |_| ()).await?;
            begun
        } else {
            let n = load.next.fetch_add(1, Ordering::Relaxed);
            let body = load.data.object(n);
            let begun = Instant::now();
            connection.put(BUCKET, &key(n), body).await?;
            begun
        };
        if load.phase.load(Ordering::SeqCst) == phase && phase != OVER - 1 {
            let side = if phase.is_multiple_of(2) { &mut tally.off } else { &mut tally.on };
            side.push(begun.elapsed());
        }
        tokio::time::sleep(load.think).await;
    }
    Ok(tally)
}

fn print(arguments: &Arguments, name: &str, tally: &mut Tally) {
    tally.off.sort_unstable();
    tally.on.sort_unstable();
    let quantile = |of: &[Duration], q: f64| {
        let at = ((of.len() as f64 * q) as usize).min(of.len().saturating_sub(1));
        of.get(at).map_or(f64::NAN, |latency| latency.as_secs_f64() * 1e3)
    };
    for (title, q) in [("p50", 0.5), ("p99", 0.99)] {
        let (off, on) = (quantile(&tally.off, q), quantile(&tally.on, q));
        println!(
            "{name} {} bytes {title}: off {off:.2} ms ({} requests), on {on:.2} ms ({} requests), ratio {:.2}",
            arguments.size,
            tally.off.len(),
            tally.on.len(),
            on / off
        );
    }
}
