//! The students that can reproduce a grid of teacher tokens (H-GKD).
//!
//! A masked student predicts the teacher's tokens with a decoder. It starts at the cells of the mask, 32 x 32 pixels
//! each, and doubles their rows and columns. Images are square. So a grid fits the images whose side / 32, doubled
//! repeatedly, gives both its rows and its columns.

use std::fmt;

use lgd_data::cache::TokenRecord;

/// Side of a cell of the mask, pixels.
const CELL: usize = 32;

/// Smallest number of cells along a side. A single cell would be the whole image, either visible or hidden.
const LEAST_CELLS: usize = 2;

/// Largest number of doublings of a ResNet: from its map at stride 32 to the one at stride 4.
const RESNET_DOUBLINGS: u32 = 3;

/// Largest number of doublings of the other students, whose finest map is at stride 2.
const DOUBLINGS: u32 = 4;

/// The students that fit tokens of `rows` x `columns`. `Display` lists them, or prints a hint if there are none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StudentSizes {
    /// Rows of tokens.
    pub rows: usize,
    /// Columns of tokens.
    pub columns: usize,
}

impl StudentSizes {
    /// The students that fit the tokens of a cache.
    pub fn of(tokens: &TokenRecord) -> Self {
        Self { rows: tokens.rows, columns: tokens.columns }
    }

    /// The sides of images that fit some student, ascending, in pixels.
    pub fn sides(self) -> Vec<u32> {
        (0..=DOUBLINGS).rev().filter_map(|doublings| self.side(doublings)).collect()
    }

    /// The side that `doublings` doublings turn into the grid, if there is one.
    fn side(self, doublings: u32) -> Option<u32> {
        let cells = self.rows >> doublings;
        let fits = self.rows == self.columns && cells >= LEAST_CELLS && cells << doublings == self.rows;
        u32::try_from(cells.saturating_mul(CELL)).ok().filter(|_| fits)
    }

    /// [`sides`](Self::sides) in words.
    fn words(self) -> Vec<String> {
        let word = |doublings: u32| {
            let students = if doublings > RESNET_DOUBLINGS { " (not ResNets)" } else { "" };
            self.side(doublings).map(|side| format!("{side}{students}"))
        };
        (0..=DOUBLINGS).rev().filter_map(word).collect()
    }
}

impl fmt::Display for StudentSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { rows, columns } = self;
        match self.words().split_last() {
            None => write!(
                f,
                "tokens of {rows} x {columns} fit no student: hgkd takes square grids of {LEAST_CELLS} x {LEAST_CELLS} or more\n\
                 hint: give the teacher another input size, [image] size in teacher.toml, where its model allows"
            ),
            Some((only, [])) => write!(f, "tokens of {rows} x {columns} fit students of {only} px"),
            Some((last, others)) => {
                write!(f, "tokens of {rows} x {columns} fit students of {} or {last} px", others.join(", "))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grid_fits_the_sides_that_reach_it_by_doubling() {
        for (grid, sides) in [
            (2, &[64][..]),
            (3, &[96]),
            (4, &[64, 128]),
            (5, &[160]),
            (7, &[224]),
            (14, &[224, 448]),
            (16, &[64, 128, 256, 512]),
            (32, &[64, 128, 256, 512, 1024]),
            (64, &[128, 256, 512, 1024, 2048]),
            (0, &[]),
            (1, &[]),
        ] {
            assert_eq!(StudentSizes { rows: grid, columns: grid }.sides(), sides, "{grid} x {grid}");
        }
        assert_eq!(StudentSizes { rows: 2, columns: 4 }.sides(), [0; 0]);
    }

    #[test]
    fn they_are_told_in_words() {
        let words = |rows, columns| StudentSizes { rows, columns }.to_string();
        assert_eq!(words(7, 7), "tokens of 7 x 7 fit students of 224 px");
        assert_eq!(words(16, 16), "tokens of 16 x 16 fit students of 64, 128, 256 or 512 px");
        assert_eq!(
            words(32, 32),
            "tokens of 32 x 32 fit students of 64 (not ResNets), 128, 256, 512 or 1024 px"
        );
        let none = words(1, 4);
        assert!(none.starts_with("tokens of 1 x 4 fit no student") && none.contains("\nhint: "), "{none}");
    }
}
