//! Wall clocks that jump, for one process at a time and without privileges: a small library (`clock.c`, built with the C compiler that
//! the server's own build needs) is loaded into each process and adds to the time of day what stands in a file.

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = include_str!("clock.c");

/// The clocks of a cluster's processes.
#[derive(Clone, Debug)]
pub struct Clocks {
    root: PathBuf,
    library: PathBuf,
}

impl Clocks {
    /// Builds the library below `root`. `None`, with a word on the terminal, where there is no C compiler.
    pub fn new(root: &Path) -> Option<Clocks> {
        let (source, library) = (root.join("clock.c"), root.join("clock.so"));
        std::fs::write(&source, SOURCE).expect("a file below our own directory can be written");
        let compiler = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
        let built = Command::new(compiler).args(["-shared", "-fPIC", "-O1", "-o"]).args([&library, &source]).output();
        match built {
            Ok(built) if built.status.success() => Some(Clocks { root: root.to_owned(), library }),
            other => {
                println!("no clock can be made to jump here: {other:?}");
                None
            }
        }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.clock"))
    }

    /// What the process needs in its environment; its clock is right at first.
    pub fn environment(&self, name: &str) -> Vec<(String, String)> {
        let file = self.file(name);
        std::fs::write(&file, 0i64.to_ne_bytes()).expect("a file below our own directory can be written");
        let text = |path: &Path| path.to_str().expect("our paths are text").to_owned();
        vec![("LD_PRELOAD".to_owned(), text(&self.library)), ("STELE_TEST_CLOCK".to_owned(), text(&file))]
    }

    /// From now on the process's clock is so many seconds ahead.
    pub fn set(&self, name: &str, seconds: i64) {
        // In place: the process has it mapped.
        let file = std::fs::OpenOptions::new().write(true).open(self.file(name)).expect("the clock was made");
        file.write_all_at(&seconds.to_ne_bytes(), 0).expect("a file below our own directory can be written");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_takes_its_clock_for_the_time() {
        let directory = tempfile::tempdir().unwrap();
        let Some(clocks) = Clocks::new(directory.path()) else { return };
        let environment = clocks.environment("date");
        let read = || {
            let output = Command::new("date").arg("+%s").envs(environment.iter().cloned()).output().unwrap();
            String::from_utf8_lossy(&output.stdout).trim().parse::<i64>().unwrap()
        };
        let now = read();
        clocks.set("date", 86_400);
        assert!((86_400..86_500).contains(&(read() - now)));
        clocks.set("date", -600);
        assert!((-600..-500).contains(&(read() - now)));
    }
}
