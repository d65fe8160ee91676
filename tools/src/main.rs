//! The `stele` program: see `stele --help`.

fn main() {
    tools::process::prepare();
    tools::process::end(tools::cli::main());
}
