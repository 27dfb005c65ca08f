//! The nearest neighbor of every embedding.
//!
//! Up to [`EXACT`] embeddings, all pairs are compared. Beyond that, each embedding joins the cells of its two nearest
//! anchors, which are a strided sample, and is compared within them. This finds almost all near duplicates. The
//! neighbors of the embeddings that look loneliest are then searched among all.

use rayon::iter::{IntoParallelIterator, IntoParallelRefIterator, ParallelIterator};

/// Largest number of embeddings of which all pairs are compared.
const EXACT: usize = 4096;
/// Cells that an embedding joins.
const JOINED: usize = 2;
/// Largest cell that is compared at once. A larger one is compared in parts.
const LARGEST_CELL: usize = 4096;
/// Embeddings whose neighbors are searched among all.
const REFINED: usize = 64;
/// Rows of a block of products.
const BLOCK: usize = 256;

/// The nearest neighbor of an embedding.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Neighbor {
    /// Number of the neighbor.
    pub index: usize,
    /// Cosine similarity, -1 to 1.
    pub similarity: f32,
}

const NONE: Neighbor = Neighbor { index: usize::MAX, similarity: f32::NEG_INFINITY };

impl Neighbor {
    /// The nearer of two; the first of equals.
    fn or_nearer(self, other: Self) -> Self {
        let nearer = other.similarity > self.similarity
            || (other.similarity == self.similarity && other.index < self.index);
        if nearer { other } else { self }
    }
}

/// The nearest neighbor of each of the unit vectors `rows`, `[n, dim]`; empty if there are fewer than two.
pub(crate) fn nearest(rows: &[f32], dim: usize) -> Vec<Neighbor> {
    let count = rows.len() / dim.max(1);
    if count < 2 {
        return Vec::new();
    }
    let all: Vec<usize> = (0..count).collect();
    if count <= EXACT {
        return within(rows, dim, &all).into_iter().map(|(_, neighbor)| neighbor).collect();
    }
    let mut found = vec![NONE; count];
    for cell in cells(rows, dim) {
        for part in cell.chunks(LARGEST_CELL) {
            for (index, neighbor) in within(rows, dim, part) {
                found[index] = found[index].or_nearer(neighbor);
            }
        }
    }
    let mut lonely = all;
    lonely.sort_by(|&a, &b| found[a].similarity.total_cmp(&found[b].similarity).then(a.cmp(&b)));
    lonely.truncate(REFINED);
    lonely.sort_unstable();
    for (index, neighbor) in among_all(rows, dim, &lonely) {
        found[index] = found[index].or_nearer(neighbor);
    }
    found
}

/// Whether [`nearest`] compares all pairs of `count` embeddings.
pub(crate) fn is_exact(count: usize) -> bool {
    count <= EXACT
}

/// The members of each cell, in ascending order.
fn cells(rows: &[f32], dim: usize) -> Vec<Vec<usize>> {
    let count = rows.len() / dim;
    let anchors = 2 * count.isqrt();
    let chosen: Vec<usize> = (0..anchors).map(|anchor| anchor * count / anchors).collect();
    let anchor_rows = gathered(rows, dim, &chosen);
    let blocks: Vec<usize> = (0..count.div_ceil(BLOCK)).collect();
    let joined: Vec<Vec<[usize; JOINED]>> = blocks
        .par_iter()
        .map(|block| {
            let part = &rows[block * BLOCK * dim..((block + 1) * BLOCK).min(count) * dim];
            let products = products(part, &anchor_rows, dim);
            products.chunks_exact(anchors).map(two_largest).collect()
        })
        .collect();
    let mut cells = vec![Vec::new(); anchors];
    for (index, pair) in joined.into_iter().flatten().enumerate() {
        for anchor in pair {
            cells[anchor].push(index);
        }
    }
    cells
}

fn two_largest(values: &[f32]) -> [usize; JOINED] {
    let (mut first, mut second) = (0, 1);
    if values[second] > values[first] {
        (first, second) = (second, first);
    }
    for at in 2..values.len() {
        if values[at] > values[first] {
            (first, second) = (at, first);
        } else if values[at] > values[second] {
            second = at;
        }
    }
    [first, second]
}

/// The nearest neighbor of each of `members` among them.
fn within(rows: &[f32], dim: usize, members: &[usize]) -> Vec<(usize, Neighbor)> {
    if members.len() < 2 {
        return members.iter().map(|&index| (index, NONE)).collect();
    }
    let others = gathered(rows, dim, members);
    search(rows, dim, members, (&others, members))
}

/// The nearest neighbor of each of `members` among all rows.
fn among_all(rows: &[f32], dim: usize, members: &[usize]) -> Vec<(usize, Neighbor)> {
    let all: Vec<usize> = (0..rows.len() / dim).collect();
    search(rows, dim, members, (rows, &all))
}

/// The nearest neighbor of each of `members` among the rows `others`, which have these numbers.
fn search(
    rows: &[f32],
    dim: usize,
    members: &[usize],
    (others, numbers): (&[f32], &[usize]),
) -> Vec<(usize, Neighbor)> {
    let blocks: Vec<&[usize]> = members.chunks(BLOCK).collect();
    let found: Vec<Vec<(usize, Neighbor)>> = blocks
        .into_par_iter()
        .map(|block| {
            let products = products(&gathered(rows, dim, block), others, dim);
            let nearest =
                block.iter().zip(products.chunks_exact(numbers.len())).map(|(&index, similarities)| {
                    let candidates = numbers.iter().zip(similarities).filter(|(number, _)| **number != index);
                    let nearest = candidates.fold(NONE, |best, (&index, &similarity)| {
                        best.or_nearer(Neighbor { index, similarity })
                    });
                    (index, nearest)
                });
            nearest.collect()
        })
        .collect();
    found.into_iter().flatten().collect()
}

/// `a . b^T`: the products of `[n, dim]` and `[m, dim]`, `[n, m]`.
pub(crate) fn products(a: &[f32], b: &[f32], dim: usize) -> Vec<f32> {
    let (n, m) = (a.len() / dim, b.len() / dim);
    let mut out = vec![0.0; n * m];
    lgd_linalg::project(b, a, &mut out, (dim, m));
    out
}

fn gathered(rows: &[f32], dim: usize, members: &[usize]) -> Vec<f32> {
    members.iter().flat_map(|&index| &rows[index * dim..(index + 1) * dim]).copied().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Unit vectors on a spiral, in an order that mixes neighbors.
    fn spiral(count: usize) -> Vec<f32> {
        (0..count)
            .flat_map(|index| {
                let angle = (index * 7919 % count) as f32 * std::f32::consts::PI / count as f32;
                [angle.cos(), angle.sin()]
            })
            .collect()
    }

    #[test]
    fn few_embeddings_have_their_exact_neighbors() {
        let rows = [1.0, 0.0, 0.0, 1.0, 0.8, 0.6];
        let found = nearest(&rows, 2);
        assert_eq!(found.iter().map(|it| it.index).collect::<Vec<_>>(), [2, 2, 0]);
        assert!((found[1].similarity - 0.6).abs() < 1e-6);
        assert!(nearest(&rows[..2], 2).is_empty());
    }

    #[test]
    fn cells_find_duplicates_and_the_loneliest_have_their_exact_neighbor() {
        let mut rows = spiral(EXACT + 500);
        let count = rows.len() / 2;
        // A duplicate of a row far away in the listing, and a vector that is alone.
        rows.copy_within(40..42, 2 * (count - 3));
        let last = rows.len() - 2;
        rows[last..].copy_from_slice(&[0.0, -1.0]);
        let found = nearest(&rows, 2);
        let pair = [found[20].index, found[count - 3].index];
        assert_eq!(pair, [count - 3, 20]);
        let exact = search(&rows, 2, &[count - 1], (&rows, &(0..count).collect::<Vec<_>>()))[0].1;
        assert_eq!(found[count - 1], exact);
    }
}
