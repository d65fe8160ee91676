//! `stele-load`: a load generator for any S3 endpoint.
//!
//! It signs with SigV4 (`UNSIGNED-PAYLOAD`), keeps one connection per worker, and reports MB/s, operations per second,
//! p50 and p99 latency and, when told the server's process id, its CPU seconds per GB and its peak resident memory.
//! Every GET is checked against the length (and, with `--verify`, the bytes) of what was put.

use benches::client::{Credentials, Endpoint};
use benches::data::{DataKind, DataSource};
use benches::load::{Operation, Plan, Report};
use benches::process::ServerProcess;
use clap::Parser;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

#[derive(Parser)]
#[command(about = "A load generator for any S3 endpoint", version)]
struct Arguments {
    /// Endpoint, such as http://127.0.0.1:9000
    #[arg(long, default_value = "http://127.0.0.1:9000")]
    endpoint: String,
    /// Access key
    #[arg(long, env = "AWS_ACCESS_KEY_ID")]
    access_key: String,
    /// Secret key
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: String,
    /// Region of the signature
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1")]
    region: String,
    /// Bucket; created when it does not exist
    #[arg(long, default_value = "stele-load")]
    bucket: String,
    /// Operations, run one after the other
    #[arg(long, value_delimiter = ',', default_value = "put,get,range,list")]
    ops: Vec<Operation>,
    /// Object sizes, such as 4k,64k,1m,64m
    #[arg(long, value_delimiter = ',', value_parser = benches::data::parse_size, default_value = "4k,64k,1m,64m")]
    sizes: Vec<u64>,
    /// Numbers of parallel clients
    #[arg(long, value_delimiter = ',', default_value = "1,16")]
    concurrency: Vec<usize>,
    /// Kind of data
    #[arg(long, value_enum, default_value = "random")]
    data: DataKind,
    /// Folder whose files make the text of `--data text`
    #[arg(long, default_value = "/usr/share/doc")]
    corpus: PathBuf,
    /// Seconds per measurement
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    /// At most so many operations per measurement
    #[arg(long, default_value_t = 200_000)]
    max_ops: u64,
    /// Bytes of each ranged GET
    #[arg(long, value_parser = benches::data::parse_size, default_value = "64k")]
    range: u64,
    /// Compare every byte of each GET with what was put
    #[arg(long)]
    verify: bool,
    /// Process id of the server, for CPU seconds per GB and peak memory
    #[arg(long)]
    pid: Option<u32>,
    /// Print one JSON object per measurement
    #[arg(long)]
    json: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stele-load: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<(), benches::LoadError> {
    let credentials =
        Credentials { access_key: arguments.access_key, secret_key: arguments.secret_key, region: arguments.region };
    let endpoint = Endpoint::parse(&arguments.endpoint, credentials)?;
    let server = arguments.pid.map(ServerProcess::new);
    endpoint.connect().await?.create_bucket(&arguments.bucket).await?;
    if !arguments.json {
        println!("{}", Report::heading());
    }
    for &size in &arguments.sizes {
        let data = std::sync::Arc::new(DataSource::load(arguments.data, &arguments.corpus, size)?);
        for &workers in &arguments.concurrency {
            let plan = Plan {
                bucket: arguments.bucket.clone(),
                prefix: format!("{:?}-{size}-{workers}/", arguments.data).to_lowercase(),
                size,
                content: 0,
                workers,
                range: arguments.range.min(size),
                limit: Duration::from_secs(arguments.seconds),
                max_ops: arguments.max_ops,
                verify: arguments.verify,
            };
            let mut stored = 0;
            for &operation in &arguments.ops {
                let report =
                    plan.run(operation, std::slice::from_ref(&endpoint), &data, &mut stored, server.as_ref()).await?;
                if arguments.json {
                    println!("{}", serde_json::to_string(&report)?);
                } else {
                    println!("{report}");
                }
            }
        }
    }
    Ok(())
}
