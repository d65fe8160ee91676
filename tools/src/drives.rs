//! Which directories are the drives of a start.
//!
//! What is in them is for metadata's start to judge: it formats those of a first start, knows drives by their identity and
//! not by their path, and refuses another cluster's (R18). Here is only where to look.

use crate::data_dir::{Config, DataDir, DataDirError};
use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use storage_node::disk::Disk;
use storage_node::disk::real::RealDisk;
use storage_node::drive::{ProbedState, probe};
use storage_node::sabotage::SabotageSet;

/// Drives that a first start makes when nobody says how many.
const DEFAULT_DRIVES: usize = 6;
/// How long the directories of a start may take to answer.
const ASK_DEADLINE: Duration = Duration::from_secs(10);
/// More than one machine has.
const MAX_DRIVES: usize = 256;

/// Why a start can't have its drives.
#[derive(Debug, thiserror::Error)]
pub enum DrivesError {
    /// The data directory refused something.
    #[error(transparent)]
    Data(#[from] DataDirError),
    /// A directory that is named twice.
    #[error("{0} is named twice")]
    Twice(PathBuf),
    /// A number of drives that can't be.
    #[error("the number of drives must be 1 to {MAX_DRIVES}")]
    Number,
    /// `--drives` or the number of `--drive` differs from what the set-up has.
    #[error(
        "this set-up has {has} drives, not {asked}; stele drive add and stele drive remove change that while it runs"
    )]
    Differs {
        /// What it has.
        has: usize,
        /// What was asked for.
        asked: usize,
    },
}

/// What the command line says of drives.
#[derive(Clone, Debug, Default)]
pub struct Wanted {
    /// `--drives`.
    pub count: Option<usize>,
    /// `--drive`.
    pub paths: Vec<PathBuf>,
}

/// The set-up of a first start, not yet written.
pub fn plan(wanted: &Wanted, geometry: Option<String>) -> Result<Config, DrivesError> {
    let paths: Vec<PathBuf> = if wanted.paths.is_empty() {
        let count = wanted.count.unwrap_or(DEFAULT_DRIVES).min(MAX_DRIVES + 1);
        (0..count).map(|i| Path::new("drives").join(i.to_string())).collect()
    } else {
        absolute(&wanted.paths)?
    };
    if paths.is_empty() || paths.len() > MAX_DRIVES {
        return Err(DrivesError::Number);
    }
    Ok(Config::new(geometry, paths))
}

/// The paths, each once. Two names of one directory are found out, unless it does not answer: a drive that hangs keeps no start
/// from going on without it.
fn absolute(paths: &[PathBuf]) -> Result<Vec<PathBuf>, DrivesError> {
    let whole =
        |path: &PathBuf| std::path::absolute(path).map_err(|source| DataDirError::Io { path: path.clone(), source });
    let whole: Vec<PathBuf> = paths.iter().map(whole).collect::<Result<_, _>>()?;
    let real = in_time(whole.clone(), |path| path.canonicalize().ok());
    let mut seen = HashSet::new();
    for (whole, real) in whole.iter().zip(real) {
        if !seen.insert(real.flatten().unwrap_or_else(|| whole.clone())) {
            return Err(DrivesError::Twice(whole.clone()));
        }
    }
    Ok(whole)
}

/// Asks all of these at the same time, each on a thread of its own. `None` for one that does not answer: its thread is left to
/// itself.
fn in_time<Q: Send + 'static, A: Send + 'static>(asked: Vec<Q>, ask: fn(Q) -> A) -> Vec<Option<A>> {
    let begun = Instant::now();
    let begin = |question: Q| {
        let (answer, answered) = mpsc::channel();
        let asking = move || drop(answer.send(ask(question)));
        // Without a thread there is no answer.
        let _not_joined = std::thread::Builder::new().name("look".to_owned()).spawn(asking);
        answered
    };
    let answers: Vec<_> = asked.into_iter().map(begin).collect();
    let left = || ASK_DEADLINE.saturating_sub(begun.elapsed());
    answers.into_iter().map(|answered| answered.recv_timeout(left()).ok()).collect()
}

/// The drives of a set-up. Directories are made only while there is no cluster; `config` takes up new paths.
pub fn find(data: &DataDir, config: &mut Config, wanted: &Wanted) -> Result<Vec<Arc<dyn Disk>>, DrivesError> {
    let has = config.drives.len();
    if !wanted.paths.is_empty() {
        let paths = absolute(&wanted.paths)?;
        let known: Vec<PathBuf> = config.drives.iter().chain(&config.removed).map(|e| data.drive_path(e)).collect();
        // A command line from before drives were added or removed says nothing new.
        if !(config.changed && paths.iter().all(|path| known.contains(path))) {
            if paths.len() != has {
                return Err(DrivesError::Differs { has, asked: paths.len() });
            }
            if paths != config.drives {
                config.drives = paths;
                data.write_config(config)?;
            }
        }
    } else if let Some(asked) = wanted.count.filter(|asked| *asked != has && !config.changed) {
        return Err(DrivesError::Differs { has, asked });
    }
    let paths: Vec<PathBuf> = config.drives.iter().map(|entry| data.drive_path(entry)).collect();
    if config.cluster.is_none() {
        for path in &paths {
            std::fs::create_dir_all(path).map_err(|source| DataDirError::Io { path: path.clone(), source })?;
            sync_parents(path);
        }
    }
    Ok(paths.into_iter().map(|path| Arc::new(RealDisk::new(path, SabotageSet::default())) as Arc<dyn Disk>).collect())
}

/// A drive's directory must survive a crash like what is in it. A parent that can't be opened is somebody else's, who has
/// made it long ago.
pub(crate) fn sync_parents(path: &Path) {
    for directory in path.ancestors().take(3).filter_map(|parent| std::fs::File::open(parent).ok()) {
        let _somebody_elses = directory.sync_all();
    }
}

/// Writes down whose drives they are, once a first start has made a cluster of them.
pub fn record_cluster(data: &DataDir, config: &mut Config, disks: &[Arc<dyn Disk>]) -> Result<(), DrivesError> {
    if config.cluster.is_some() {
        return Ok(());
    }
    let looked = in_time(disks.to_vec(), |disk| probe(disk, None));
    let ours = looked.into_iter().flatten().find(|drive| drive.state == ProbedState::Ours);
    if let Some(identity) = ours.and_then(|drive| drive.identity) {
        config.cluster = Some(identity.cluster.to_string());
        data.write_config(config)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use codec::id::ClusterId;

    #[test]
    fn directories_are_made_only_before_there_is_a_cluster() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        let mut config = plan(&Wanted { count: Some(3), ..Wanted::default() }, None).unwrap();
        assert_eq!(find(&data, &mut config, &Wanted::default()).unwrap().len(), 3);
        let lost = data.root().join("drives/1");
        std::fs::remove_dir(&lost).unwrap();
        config.cluster = Some(ClusterId([1; 16]).to_string());
        assert_eq!(find(&data, &mut config, &Wanted::default()).unwrap().len(), 3);
        assert!(!lost.exists());
    }

    #[test]
    fn a_directory_that_does_not_answer_is_left_out_and_the_others_are_in_order() {
        let answers = in_time(vec![1, 2, 3, 4], |n: u32| if n == 2 { panic!("no answer of its own") } else { 10 * n });
        assert_eq!(answers, [Some(10), None, Some(30), Some(40)]);
    }

    #[test]
    fn drives_may_move_but_not_change_in_number() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(&dir.path().join("data"), true).unwrap();
        let mut config = plan(&Wanted { count: Some(2), ..Wanted::default() }, None).unwrap();
        let paths = vec![dir.path().join("a"), dir.path().join("b")];
        find(&data, &mut config, &Wanted { paths: paths.clone(), ..Wanted::default() }).unwrap();
        assert_eq!(data.config().unwrap().map(|c| c.drives), Some(paths.clone()));
        let three = Wanted { count: Some(3), ..Wanted::default() };
        assert!(matches!(find(&data, &mut config, &three), Err(DrivesError::Differs { has: 2, asked: 3 })));
        // Once the set has changed, the command line of the first start is history; another list is still refused.
        config.changed = true;
        config.drives.push(dir.path().join("c"));
        config.removed.push(config.drives.remove(0));
        assert_eq!(find(&data, &mut config, &three).unwrap().len(), 2);
        let before = config.clone();
        find(&data, &mut config, &Wanted { paths: paths.clone(), ..Wanted::default() }).unwrap();
        assert_eq!(config, before);
        let other = Wanted { paths: vec![dir.path().join("d")], ..Wanted::default() };
        assert!(matches!(find(&data, &mut config, &other), Err(DrivesError::Differs { has: 2, asked: 1 })));
        let twice = Wanted { paths: vec![paths[0].clone(), paths[0].clone()], ..Wanted::default() };
        assert!(matches!(plan(&twice, None), Err(DrivesError::Twice(_))));
        assert!(matches!(plan(&Wanted { count: Some(0), ..Wanted::default() }, None), Err(DrivesError::Number)));
    }
}
