//! Messages on standard error.

use std::fmt::Display;
use std::io::Write;

/// Prints a line to standard error. A closed standard error is not an error.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
