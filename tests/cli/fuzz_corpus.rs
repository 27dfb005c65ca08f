//! Every input in `fuzz/corpus`, seeds and former findings, given to its fuzz target without a fuzzer and a sanitizer.

use std::collections::BTreeSet;
use std::fs;
use std::panic::catch_unwind;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::common::root;

#[path = "../../fuzz/src/lib.rs"]
#[allow(clippy::expect_used, reason = "a failed step is a failed test")]
mod targets;

/// Names of the entries of a folder, without their extension.
fn stems(dir: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

#[test]
fn every_target_has_a_program_and_a_corpus() {
    let names: BTreeSet<String> = targets::TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(stems(&root().join("fuzz/src/bin")), names);
    assert_eq!(stems(&root().join("fuzz/corpus")), names);
}

#[test]
fn every_input_of_the_corpus_ends_in_a_result_or_an_error() {
    let mut failed = Vec::new();
    for (name, target) in targets::TARGETS {
        let entries = fs::read_dir(root().join("fuzz/corpus").join(name)).unwrap();
        let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        assert!(!files.is_empty(), "{name}");
        for file in files {
            let (bytes, started) = (fs::read(&file).unwrap(), Instant::now());
            let ended = catch_unwind(|| target(&bytes)).is_ok();
            if !ended || started.elapsed() > Duration::from_secs(20) {
                failed.push(file);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
}
