//! Runs all tests again with fewer instructions than the machine has.

use std::process::Command;

#[test]
fn every_instruction_set_passes_these_tests() {
    if std::env::var_os("LGD_SIMD").is_some() {
        return;
    }
    for set in ["portable", "avx2"] {
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--test-threads", "2", "-q"])
            .env("LGD_SIMD", set)
            .output()
            .unwrap();
        assert!(output.status.success(), "{set}:\n{}", String::from_utf8_lossy(&output.stdout));
    }
}
