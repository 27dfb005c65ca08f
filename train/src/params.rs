//! What becomes of a file's tensors and a student's parameters.

use std::fmt;

use serde::Serialize;

/// What became of a file's tensors and a student's parameters.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Loaded.
    pub applied: Vec<String>,
    /// The student has it, the file does not: the value was left as it was.
    pub missing: Vec<String>,
    /// The file has it, the student does not.
    pub unused: Vec<String>,
    /// Both have it, with different shapes: the value was left as it was.
    pub mismatched: Vec<ShapeMismatch>,
}
/// A tensor whose shape in the file is not the student's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ShapeMismatch {
    /// Name.
    pub name: String,
    /// The student's shape.
    pub expected: Vec<usize>,
    /// The file's shape.
    pub got: Vec<usize>,
}

impl LoadReport {
    /// Whether every parameter and buffer was loaded, as a checkpoint must.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty()
    }
}

/// Names that a report in words shows of each kind; its fields have them all.
const NAMED: usize = 5;

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [&self.missing, &self.unused].map(Vec::len);
        write!(f, "{} applied, {} missing, {} unused", self.applied.len(), counts[0], counts[1])?;
        write!(f, ", {} of another shape", self.mismatched.len())?;
        for (what, names) in [("missing", &self.missing), ("unused", &self.unused)] {
            if !names.is_empty() {
                let more = if names.len() > NAMED { ", ..." } else { "" };
                write!(f, "\n{what}: {}{more}", names[..names.len().min(NAMED)].join(", "))?;
            }
        }
        for ShapeMismatch { name, expected, got } in &self.mismatched {
            write!(f, "\n{name}: expected {expected:?}, the file has {got:?}")?;
        }
        Ok(())
    }
}
