//! Why a student cannot be built, or lacks an output.

use crate::StudentSizes;
use thiserror::Error;

use super::Architecture;

/// Why a student cannot be built, or lacks an output.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum StudentError {
    /// An objective needs an output that the student does not have.
    #[error("the objective needs the output {output}, which this student lacks")]
    MissingOutput {
        /// The output.
        output: &'static str,
    },
    /// The images are not whole cells of the mask, or have a single cell.
    #[error(
        "expected images whose sides are multiples of 32, with at least two cells of 32 x 32 to mask, got {height} x {width}\nhint: the smallest square is 64 x 64"
    )]
    MaskedSize {
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
    },
    /// A decoder cannot reach the token grid by doubling the coarsest map.
    #[error(
        "a decoder for images of {height} x {width} cannot make {rows} x {columns} tokens\nhint: grids that fit are {fitting}; {}",
        StudentSizes { rows: *rows, columns: *columns }
    )]
    TokenGrid {
        /// Rows of tokens.
        rows: usize,
        /// Columns of tokens.
        columns: usize,
        /// Rows of pixels.
        height: usize,
        /// Columns of pixels.
        width: usize,
        /// The grids that fit.
        fitting: String,
    },
}

/// No architecture has this name.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown student {name:?}\nhint: students are {}", Architecture::ALL.map(Architecture::name).join(", "))]
pub struct UnknownArchitecture {
    /// The name given.
    pub name: String,
}
