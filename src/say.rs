//! Words to people, on standard error.

use std::fmt::Display;
use std::io::Write;

/// Says a line. Where nobody listens any more, such as behind a closed pipe, the work goes on all the same.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}
