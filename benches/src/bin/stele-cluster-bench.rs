//! `stele-cluster-bench`: what a cluster costs against one process on the same drives.
//!
//! It sets both up below one directory, on loopback addresses, keeps both running, and gives each measurement to one after the
//! other: `stele serve`, the cluster by way of one gateway, the cluster by way of all of its gateways; and that several times over.
//! So both meet the same machine, however busy it is, and what counts is the ratio. The CPU time is that of all processes of a
//! role, from /proc, without the load generator's.

use benches::LoadError;
use benches::client::{Credentials, Endpoint};
use benches::cluster::{Cluster, Layout, Role};
use benches::data::{DataKind, DataSource};
use benches::load::{Operation, Plan, Report};
use benches::process::ServerProcess;
use benches::server::Server;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "What a cluster costs against one process on the same drives", version)]
struct Arguments {
    /// The `stele` binary
    program: PathBuf,
    /// Where both live; must be empty or not exist, and is removed at the end
    #[arg(long, default_value = "stele-cluster-bench")]
    dir: PathBuf,
    /// Storage nodes, of one drive each; `stele serve` has as many drives
    #[arg(long, default_value_t = 6)]
    nodes: usize,
    /// Metadata nodes
    #[arg(long, default_value_t = 3)]
    metadata: usize,
    /// Gateways
    #[arg(long, default_value_t = 2)]
    gateways: usize,
    /// Data and parity shards
    #[arg(long, default_value = "4+2")]
    geometry: String,
    /// Object sizes
    #[arg(long, value_delimiter = ',', value_parser = benches::data::parse_size, default_value = "4k,64k,1m,16m,256m")]
    sizes: Vec<u64>,
    /// Numbers of parallel clients
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    concurrency: Vec<usize>,
    /// Operations
    #[arg(long, value_delimiter = ',', default_value = "put,get")]
    ops: Vec<Operation>,
    /// Seconds per measurement
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// At most so many bytes per measurement of PUT, in MiB
    #[arg(long, default_value_t = 2048)]
    most: u64,
    /// How often each measurement is made
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Only the commit rate: PUT of 4 KiB with 1, 16 and 64 clients
    #[arg(long)]
    commits: bool,
}

/// One of the systems that are compared.
struct System<'a> {
    name: String,
    endpoints: Vec<Endpoint>,
    cpu: Box<dyn Fn() -> [f64; 3] + 'a>,
    /// Objects of the present size and number of clients that it has, and where their contents begin.
    stored: u64,
    content: u64,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stele-cluster-bench: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(mut arguments: Arguments) -> Result<(), LoadError> {
    if arguments.commits {
        arguments.sizes = vec![4 << 10];
        arguments.concurrency = vec![1, 16, 64];
        arguments.ops = vec![Operation::Put];
    }
    let failed = |source| LoadError::Program { program: arguments.dir.clone(), source };
    std::fs::create_dir(&arguments.dir).map_err(failed)?;
    let dir = arguments.dir.canonicalize().map_err(failed)?;
    let measured = measure(&arguments, &dir).await;
    std::fs::remove_dir_all(&dir).map_err(failed)?;
    measured
}

async fn measure(arguments: &Arguments, dir: &std::path::Path) -> Result<(), LoadError> {
    let credentials = Credentials {
        access_key: "STELEBENCHKEY01".to_owned(),
        secret_key: "stele-bench-secret-of-one-run".to_owned(),
        region: "us-east-1".to_owned(),
    };
    let drives = arguments.nodes.to_string();
    let flags = ["--drives", drives.as_str(), "--geometry", arguments.geometry.as_str()];
    let serve = Server::start(&arguments.program, &dir.join("serve"), &flags)?;
    let layout =
        Layout { nodes: arguments.nodes, drives: 1, metadata: arguments.metadata, gateways: arguments.gateways };
    let cluster = Cluster::start(&arguments.program, &dir.join("cluster"), layout, &arguments.geometry, &credentials)?;
    let alone = ServerProcess::new(serve.pid());
    let by_role = || [Role::Gateway, Role::Metadata, Role::Node].map(|role| cluster.cpu_seconds(role));
    let gateways = cluster.endpoints();
    let mut systems = vec![
        System {
            name: "serve".to_owned(),
            endpoints: vec![serve.endpoint().clone()],
            cpu: Box::new(|| [alone.cpu_seconds().unwrap_or(0.0), 0.0, 0.0]),
            stored: 0,
            content: 0,
        },
        System {
            name: "1 gateway".to_owned(),
            endpoints: gateways[..1].to_vec(),
            cpu: Box::new(by_role),
            stored: 0,
            content: 0,
        },
    ];
    if gateways.len() > 1 {
        let name = format!("{} gateways", gateways.len());
        systems.push(System { name, endpoints: gateways.to_vec(), cpu: Box::new(by_role), stored: 0, content: 0 });
    }
    println!("{:<11} {}   CPU s/GB (or ms/op up to 64 KiB): gateway metadata nodes  all", "system", Report::heading());
    for &size in &arguments.sizes {
        let data = Arc::new(DataSource::load(DataKind::Random, "/usr/share/doc".as_ref(), size)?);
        for &workers in &arguments.concurrency {
            for (number, system) in (0_u64..).zip(&mut systems) {
                system.stored = 0;
                // No two measurements put the same bytes.
                system.content = (number << 40) + ((workers as u64) << 32);
            }
            compare(arguments, &mut systems, size, workers, &data).await?;
        }
    }
    Ok(())
}

/// All rounds of one size and number of clients.
async fn compare(
    arguments: &Arguments,
    systems: &mut [System<'_>],
    size: u64,
    workers: usize,
    data: &Arc<DataSource>,
) -> Result<(), LoadError> {
    for &operation in &arguments.ops {
        let mut rates = vec![Vec::new(); systems.len()];
        for _ in 0..arguments.rounds {
            for (system, rates) in systems.iter_mut().zip(&mut rates) {
                let plan = Plan {
                    bucket: format!("bench-{}", system.endpoints.len()),
                    prefix: format!("{}-{size}-{workers}/", system.name.replace(' ', "-")),
                    size,
                    content: system.content,
                    workers,
                    range: size,
                    limit: Duration::from_secs(arguments.seconds),
                    max_ops: ((arguments.most << 20) / size).max(1),
                    verify: false,
                };
                system.endpoints[0].connect().await?.create_bucket(&plan.bucket).await?;
                let before = (system.cpu)();
                let report = plan.run(operation, &system.endpoints, data, &mut system.stored, None).await?;
                let after = (system.cpu)();
                let (count, gb) = (report.operations as f64, report.operations as f64 * size as f64 / 1e9);
                let per = if size > 64 << 10 { gb } else { count / 1e3 };
                let cpu: Vec<f64> = after.iter().zip(&before).map(|(after, before)| (after - before) / per).collect();
                let all: f64 = cpu.iter().sum();
                println!("{:<11} {report}   {:>7.2} {:>7.2} {:>7.2} {all:>7.2}", system.name, cpu[0], cpu[1], cpu[2]);
                rates.push((report.operations_per_second, all));
            }
        }
        summarize(systems, &rates, operation, size, workers);
    }
    Ok(())
}

/// Medians of the ratios of pairs that were measured one after the other.
fn summarize(systems: &[System<'_>], rates: &[Vec<(f64, f64)>], operation: Operation, size: u64, workers: usize) {
    let Some((alone, others)) = rates.split_first() else { return };
    for (system, rates) in systems.iter().skip(1).zip(others) {
        let ratio = |of: fn(&(f64, f64)) -> f64| median(rates.iter().zip(alone).map(|(a, b)| of(a) / of(b)).collect());
        println!(
            "= {operation:?} {size} x{workers}: {} / serve: rate {:.2}, CPU {:.2}",
            system.name,
            ratio(|pair| pair.0),
            ratio(|pair| pair.1)
        );
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
