//! A `stele serve` process of the benchmark's own, and the operator's commands given to it.

use crate::LoadError;
use crate::client::{Credentials, Endpoint};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long a start may take.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// A server on a data directory. It ends with the value, hard.
pub struct Server {
    child: Child,
    program: PathBuf,
    data: PathBuf,
    endpoint: Endpoint,
}

impl Server {
    /// Starts `program serve` on `data` with these further arguments, on free loopback ports, and waits until it is ready.
    pub fn start(program: &Path, data: &Path, arguments: &[&str]) -> Result<Server, LoadError> {
        let (s3, admin) = (free_port()?, free_port()?);
        let credentials = Credentials {
            access_key: "STELEBENCHKEY01".to_owned(),
            secret_key: "stele-bench-secret-of-one-run".to_owned(),
            region: "us-east-1".to_owned(),
        };
        let mut command = Command::new(program);
        command.arg("serve").arg("--data").arg(data).args(arguments);
        command.args(["--s3", &format!("127.0.0.1:{s3}"), "--admin", &format!("127.0.0.1:{admin}")]);
        command.env("STELE_ACCESS_KEY", &credentials.access_key).env("STELE_SECRET_KEY", &credentials.secret_key);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let failed = |source| LoadError::Program { program: program.to_owned(), source };
        let child = command.spawn().map_err(failed)?;
        let endpoint = Endpoint::parse(&format!("http://127.0.0.1:{s3}"), credentials)?;
        let mut server = Server { child, program: program.to_owned(), data: data.to_owned(), endpoint };
        let begun = Instant::now();
        while server.status().is_err() {
            if server.child.try_wait().map_err(failed)?.is_some() || begun.elapsed() > READY_WITHIN {
                return Err(LoadError::NotReady(data.to_owned()));
            }
            std::thread::sleep(Duration::from_millis(100));
        }
        Ok(server)
    }

    /// Where the S3 API is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Runs `stele ARGUMENTS --data DIR`, which must end with 0 or, where something was found, with 2.
    pub fn command(&self, arguments: &[&str]) -> Result<Vec<u8>, LoadError> {
        let mut command = Command::new(&self.program);
        command.args(arguments).arg("--data").arg(&self.data).stdin(Stdio::null());
        let output = command.output().map_err(|source| LoadError::Program { program: self.program.clone(), source })?;
        match output.status.code() {
            Some(0 | 2) => Ok(output.stdout),
            _ => Err(LoadError::Command {
                command: arguments.join(" "),
                message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            }),
        }
    }

    /// What `stele status --json` says.
    pub fn status(&self) -> Result<serde_json::Value, LoadError> {
        Ok(serde_json::from_slice(&self.command(&["status", "--json"])?)?)
    }

    /// What `stele COMMAND --json` says.
    pub fn ask(&self, command: &[&str]) -> Result<serde_json::Value, LoadError> {
        Ok(serde_json::from_slice(&self.command(&[command, &["--json"]].concat())?)?)
    }

    /// Ends it as an operator would, so that the next start has nothing to recover.
    pub fn stop(mut self) -> Result<(), LoadError> {
        let failed = |source| LoadError::Program { program: self.program.clone(), source };
        Command::new("kill").arg(self.child.id().to_string()).status().map_err(failed)?;
        self.child.wait().map_err(failed)?;
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A loopback port that nobody has at the moment.
pub(crate) fn free_port() -> Result<u16, LoadError> {
    let failed = |source| LoadError::Connect { address: "127.0.0.1:0".to_owned(), source };
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed)?;
    Ok(listener.local_addr().map_err(failed)?.port())
}
