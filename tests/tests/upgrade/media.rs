//! What lies on media of the layouts that the next release brings: looked for as bytes, in whatever file it may be.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

/// What a frame of version 2 says behind its magic and version.
const FRAME: &[u8] = b"stelenxt";
/// How an entry begins whose effects are of version 5.
const EFFECTS: &[u8] = b"STLE\x01\x00\x05\x00";
/// How much is read at once.
const PIECE: usize = 1 << 20;

/// How often each was found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Frames of version 2.
    pub frames: usize,
    /// Entries whose effects are of version 5.
    pub effects: usize,
}

impl Found {
    /// In all files below these directories. What spans two blocks of a segment has a checksum between its halves and is missed:
    /// there are many of each.
    pub fn below(directories: &[PathBuf]) -> Found {
        let mut found = Found::default();
        let mut directories = directories.to_vec();
        while let Some(directory) = directories.pop() {
            // A directory that is gone, and a file, are those of a store that is in use.
            for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => directories.push(entry.path()),
                    Ok(kind) if kind.is_file() => found.look_into(&entry.path()),
                    _ => {}
                }
            }
        }
        found
    }

    fn look_into(&mut self, file: &Path) {
        let Ok(mut file) = fs::File::open(file) else { return };
        let mut piece = vec![0; PIECE];
        // What the last piece ended with: something may begin there.
        let mut rest = 0;
        while let Ok(count @ 1..) = file.read(&mut piece[rest..]) {
            let end = rest + count;
            self.frames += count_of(&piece[..end], FRAME);
            self.effects += count_of(&piece[..end], EFFECTS);
            rest = end.min(FRAME.len() - 1);
            piece.copy_within(end - rest..end, 0);
        }
    }
}

fn count_of(bytes: &[u8], what: &[u8]) -> usize {
    // Most bytes are not the first one: a search for that is fast.
    let mut count = 0;
    let mut at = 0;
    while let Some(next) = bytes[at..].iter().position(|byte| *byte == what[0]) {
        at += next;
        count += usize::from(bytes[at..].starts_with(what));
        at += 1;
    }
    count
}

#[test]
fn what_lies_across_two_pieces_is_found_once() {
    let directory = tempfile::tempdir().unwrap();
    for at in [0, 5, PIECE - 8, PIECE - 7, PIECE - 1, PIECE, PIECE + 1] {
        let file = directory.path().join(at.to_string());
        fs::write(&file, [&vec![b's'; at], FRAME, &vec![0; 3 * at], EFFECTS].concat()).unwrap();
        let mut found = Found::default();
        found.look_into(&file);
        assert_eq!(found, Found { frames: 1, effects: 1 }, "{at}");
    }
    assert_eq!(Found::below(&[directory.path().to_owned()]), Found { frames: 7, effects: 7 });
}
