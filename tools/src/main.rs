//! The `stele` program: see `stele --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    tools::process::prepare();
    tools::cli::main()
}
