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
    /// What was changed or looked for so that the names fit, such as a prefix.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
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

impl fmt::Display for ShapeMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, expected, got } = self;
        write!(f, "{name}: expected {expected:?}, got {got:?}")
    }
}

impl LoadReport {
    /// Whether every parameter and buffer of the student was loaded, as from a checkpoint.
    pub fn is_complete(&self) -> bool {
        self.missing.is_empty() && self.mismatched.is_empty()
    }
}

/// Names per kind that the displayed report shows; the fields hold all of them.
const NAMED: usize = 5;

/// One line: how many tensors were loaded, and which were not.
impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let applied = self.applied.len();
        write!(f, "loaded {applied} of {} tensors", applied + self.missing.len() + self.mismatched.len())?;
        if !self.notes.is_empty() {
            write!(f, " ({})", self.notes.join(", "))?;
        }
        let mismatched: Vec<String> = self.mismatched.iter().map(ToString::to_string).collect();
        for (what, names) in
            [("unused", &self.unused), ("of another shape", &mismatched), ("not in the file", &self.missing)]
        {
            if !names.is_empty() {
                let more =
                    if names.len() > NAMED { format!(", ... ({})", names.len()) } else { String::new() };
                write!(f, "; {what}: {}{more}", names[..names.len().min(NAMED)].join(", "))?;
            }
        }
        Ok(())
    }
}
