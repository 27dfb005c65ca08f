//! A few samples of a source, to measure on.

use super::{ImageSource, Listing, SourceError};

/// Some samples of another source, with its class names and their captions.
pub struct Subset<'a> {
    source: &'a dyn ImageSource,
    positions: Vec<usize>,
    listing: Listing,
}

impl<'a> Subset<'a> {
    /// The samples of `source` at `positions`, in that order and without duplicates. Positions past its end are left out.
    pub fn new(source: &'a dyn ImageSource, mut positions: Vec<usize>) -> Self {
        let all = source.listing();
        positions.retain(|&position| position < all.samples.len());
        let listing = Listing {
            samples: positions.iter().map(|&position| all.samples[position].clone()).collect(),
            class_names: all.class_names.clone(),
            captions: all.captions.as_ref().map(|captions| captions.select(&positions)),
            fields: all.fields.clone(),
            ..Listing::default()
        };
        Self { source, positions, listing }
    }
}

impl ImageSource for Subset<'_> {
    fn listing(&self) -> &Listing {
        &self.listing
    }

    fn read(&self, index: usize, max_bytes: u64) -> Result<Vec<u8>, SourceError> {
        let samples = self.positions.len();
        let position = *self.positions.get(index).ok_or(SourceError::Index { index, samples })?;
        self.source.read(position, max_bytes)
    }
}

#[cfg(test)]
mod tests {
    use half::f16;

    use super::*;
    use crate::source::{Captions, Sample};

    /// Three samples; the bytes of each are its position.
    struct Three(Listing);

    impl ImageSource for Three {
        fn listing(&self) -> &Listing {
            &self.0
        }

        fn read(&self, index: usize, _: u64) -> Result<Vec<u8>, SourceError> {
            self.0.sample(index)?;
            Ok(vec![u8::try_from(index).unwrap()])
        }
    }

    fn three(captions: Captions) -> Three {
        let samples = ["a", "b", "c"].map(|key| Sample { key: key.to_owned(), label: Some(1) });
        Three(Listing { samples: samples.to_vec(), captions: Some(captions), ..Listing::default() })
    }

    #[test]
    fn a_subset_has_its_own_order_captions_and_bytes() {
        let source = three(Captions::Texts(["x", "y", "z"].map(str::to_owned).to_vec()));
        let subset = Subset::new(&source, vec![2, 0, 3]);
        let keys: Vec<&str> = subset.samples().iter().map(|sample| &*sample.key).collect();
        assert_eq!(keys, ["c", "a"]);
        assert_eq!([subset.read(0, 9).unwrap(), subset.read(1, 9).unwrap()], [[2], [0]]);
        assert!(matches!(subset.read(2, 9), Err(SourceError::Index { index: 2, samples: 2 })));
        let texts = Captions::Texts(vec!["z".to_owned(), "x".to_owned()]);
        assert_eq!(subset.listing().captions, Some(texts));
        let values = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0].map(f16::from_f32).to_vec();
        let source = three(Captions::Embeddings { dim: 2, values });
        let values = [5.0, 6.0, 1.0, 2.0].map(f16::from_f32).to_vec();
        let selected = Subset::new(&source, vec![2, 0]).listing().captions.clone();
        assert_eq!(selected, Some(Captions::Embeddings { dim: 2, values }));
    }
}
