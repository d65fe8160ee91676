//! Loses a drive, a node and a rack of a petabyte on a thousand drives, on paper, and prints how long repair takes: the table
//! in docs/OPERATIONS.md. `cargo run --release -p metadata --example petabyte [sample]`

use metadata::keep::plan::Policy;
use metadata::keep::simulate::{Cluster, Loss};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sample = std::env::args().nth(1).map_or(Ok(4000), |sample| sample.parse())?;
    let cluster = Cluster::petabyte()?;
    println!("lost: drives, TB, million stripes, TB moved, hours by the formula, hours simulated");
    for loss in [Loss::Drive, Loss::Node, Loss::Rack] {
        let report = cluster.simulate(loss, &Policy::default(), sample, 7);
        println!(
            "{loss:?}: {}, {:.1}, {:.2}, {:.0}, {:.2}, {:.2}",
            report.drives,
            report.written / 1e12,
            report.stripes / 1e6,
            (report.read + report.written) / 1e12,
            report.formula_seconds / 3600.0,
            report.seconds / 3600.0,
        );
    }
    Ok(())
}
