//! Targets from the cache and the banks: each row has its own, but a caption belongs to the sample.

use candle_core::Tensor;
use lgd_train::error::FailureKind;
use lgd_train::loader::targets::TargetSource;
use lgd_train::objective::{InputError, Inputs, Objectives, Setup, TargetColumns};
use lgd_train::student::Architecture;

use crate::artifacts::{everything, kdep_bank, values};
use crate::fixture::{DIM, VIEWS, World};

/// Rows out of order, in both shards, one of them twice.
const ROWS: [usize; 5] = [35, 0, 13, 12, 35];

fn flat(tensor: Option<&Tensor>) -> Vec<f32> {
    tensor.unwrap().flatten_all().unwrap().to_vec1().unwrap()
}

#[test]
fn every_row_gets_its_own_feature_tokens_and_caption() {
    let world = World::holding(20, everything);
    let bank = kdep_bank(&world.path("kdep"), &world.cache, 3);
    let objectives = "kdep,hgkd,caption".parse().unwrap();
    let inputs = Inputs::open(&world.cache, None, Some(&bank), &objectives).unwrap();
    let wanted = TargetColumns { kdep: true, tokens: true, caption: true, rows: true, ..Default::default() };
    let source = TargetSource::open(inputs, wanted, None).unwrap();
    let batch = source.gather(&ROWS).unwrap();
    let expected = |row: &dyn Fn(usize) -> usize, count: usize| -> Vec<f32> {
        ROWS.iter().flat_map(|&at| values(row(at), count)).collect()
    };
    assert_eq!(flat(batch.kdep.as_ref()), expected(&|row| row, 3));
    assert_eq!(batch.kdep.unwrap().dims(), [5, 3]);
    assert_eq!(flat(batch.tokens.as_ref()), expected(&|row| row, 4 * 4 * 6));
    assert_eq!(batch.tokens.unwrap().dims(), [5, 4, 4, 6]);
    let sample = |row: usize| row / usize::from(VIEWS);
    assert_eq!(flat(batch.caption.as_ref()), expected(&sample, DIM), "views of a sample share its caption");
    assert_eq!(batch.caption.unwrap().dims(), [5, DIM]);
    assert_eq!(batch.rows.unwrap(), ROWS.map(|row| u32::try_from(row).unwrap()));
    assert!(batch.embedding.is_none() && batch.label.is_none(), "nobody asked for them");
}

#[test]
fn columns_that_the_cache_lacks_or_has_in_another_width_are_refused_with_its_path() {
    let refused = |world: &World, objective: &str| {
        let objectives: Objectives = objective.parse().unwrap();
        let opened = Inputs::open(&world.cache, None, None, &objectives);
        let checked = opened.and_then(|inputs| {
            let settings = Default::default();
            let (student, device) = (Architecture::ResNet18, candle_core::Device::Cpu);
            objectives.check(&Setup { inputs, settings: &settings, student, seed: 0, device: &device })
        });
        let error = checked.unwrap_err();
        let path = world.cache.dir().display().to_string();
        assert!(error.to_string().starts_with(&path), "{error}");
        error
    };
    let plain = World::new(3);
    for (objective, column) in [("hgkd", "the teacher's patch tokens"), ("caption", "captions")] {
        let error = refused(&plain, objective);
        assert!(error.to_string().contains(column), "{error}");
        assert_eq!(error.kind(), FailureKind::Usage);
    }
    let narrow = World::holding(3, |config| {
        everything(config);
        config.captions.as_mut().unwrap().dim = DIM - 1;
    });
    let error = refused(&narrow, "caption");
    assert!(
        matches!(error, InputError::CaptionWidth { got, expected: DIM, .. } if got == DIM - 1),
        "{error}"
    );
    // A column that no objective declared has no input either.
    let inputs = Inputs::open(&plain.cache, None, None, &"seed".parse().unwrap()).unwrap();
    for wanted in [
        TargetColumns { tokens: true, ..Default::default() },
        TargetColumns { caption: true, ..Default::default() },
        TargetColumns { kdep: true, ..Default::default() },
        TargetColumns { pseudo_category: true, ..Default::default() },
    ] {
        assert!(TargetSource::open(inputs, wanted, None).is_err(), "{wanted:?}");
    }
}
