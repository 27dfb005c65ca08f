//! Messages on standard error.

use std::fmt::Display;
use std::io::Write;

/// Prints a line. A closed standard error is no error.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
