//! Libraries that are not ONNX Runtime, or are too old, give errors that name the file and the remedy.

use std::path::Path;
use std::process::Command;

use lgd_extract::{ExtractError, Runtime};

use crate::common;

#[test]
fn a_file_that_is_no_library_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("libonnxruntime.so");
    std::fs::write(&path, b"not a library").unwrap();
    refused(&path, "expected the library of ONNX Runtime 1.24 or later");
}

#[test]
fn another_library_and_an_old_version_are_errors() {
    let dir = tempfile::tempdir().unwrap();
    refused(&build(dir.path(), "other", "int other(void) { return 1; }"), "OrtGetApiBase");
    let old = r#"
        static const void *api(unsigned version) { return 0; }
        static const char *version(void) { return "1.17.3"; }
        static const struct { const void *(*api)(unsigned); const char *(*version)(void); } base = { api, version };
        const void *OrtGetApiBase(void) { return &base; }"#;
    refused(&build(dir.path(), "old", old), "1.17.3");
}

#[test]
fn the_first_library_stays_and_another_is_a_conflict() {
    let runtime = common::runtime();
    let again = Runtime::load(Some(runtime.path())).unwrap();
    assert_eq!(again.path(), runtime.path());
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("libonnxruntime.so");
    std::fs::write(&copy, b"x").unwrap();
    assert!(matches!(Runtime::load(Some(&copy)), Err(ExtractError::RuntimeConflict { .. })));
}

fn refused(path: &Path, part: &str) {
    let text = Runtime::load(Some(path)).unwrap_err().to_string();
    assert!(text.contains(&path.display().to_string()) && text.contains(part), "{text}");
}

/// Compiles a shared library with the C compiler that Rust uses for linking.
fn build(dir: &Path, name: &str, source: &str) -> std::path::PathBuf {
    let (code, library) = (dir.join(format!("{name}.c")), dir.join(format!("lib{name}.so")));
    std::fs::write(&code, source).unwrap();
    let status =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&code).status().unwrap();
    assert!(status.success());
    library.canonicalize().unwrap()
}
