//! `stele` as it would be after the next release: the same program with a format level more. The tests of upgrades run it beside
//! the present one.

fn main() {
    tools::process::prepare();
    tools::process::end(tools::cli::main());
}
