//! The outcome of loading a file's tensors into a student.

use std::fmt;

use serde::Serialize;

/// The outcome of loading a file's tensors into a student, by tensor name.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub struct LoadReport {
    /// Tensors that were loaded.
    pub applied: Vec<String>,
    /// In the student, not in the file: the student's value is unchanged.
    pub missing: Vec<String>,
    /// In the file, not in the student.
    pub unused: Vec<String>,
    /// In both, with different shapes: the student's value is unchanged.
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
    /// Whether every parameter and buffer of the student was loaded, as from a checkpoint.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty()
    }
}

/// Names per kind that the displayed report shows; the fields hold all of them.
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
