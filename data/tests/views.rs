//! Properties of views: a drawn view is a function of its key alone, is inside the image, and renders to the requested
//! size.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "a failed step is a failed test"
)]

use std::collections::HashMap;

use lgd_data::image::RgbImage;
use lgd_data::render::{MAX_SIZE, RenderError, Resample, render};
use lgd_data::view::{CenterCrop, Crop, Jitter, JitterOrder, Policy, View, ViewError};
use proptest::prelude::*;

fn policy() -> impl Strategy<Value = Policy> {
    prop::sample::select(Policy::ALL.to_vec())
}

fn side() -> impl Strategy<Value = u32> {
    prop_oneof![1_u32..4, 1_u32..700, Just(65_535)]
}

fn plain(width: u32, height: u32) -> RgbImage {
    let pixels = (0..width * height * 3).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    RgbImage::new(width, height, pixels).unwrap()
}

proptest! {
    #[test]
    fn drawing_depends_on_the_key_alone(
        policy in policy(), seed in any::<u64>(), keys in prop::collection::hash_set("[a-z/]{1,9}", 2..9), shuffle in any::<u64>(),
    ) {
        let keys: Vec<String> = keys.into_iter().collect();
        let jobs: Vec<(usize, u16)> = (0..keys.len()).flat_map(|at| (0..3).map(move |index| (at, index))).collect();
        let draw = |&(at, index): &(usize, u16)| policy.draw(seed, &keys[at], index, 320, 200);
        let forward: HashMap<_, _> = jobs.iter().map(|job| (*job, draw(job))).collect();
        let mut other = jobs.clone();
        other.sort_by_key(|&(at, index)| (at as u64 + 7 * u64::from(index)).wrapping_mul(shuffle | 1));
        for job in &other {
            prop_assert_eq!(draw(job), forward[job]);
        }
        // Boxes are whole numbers, so two of crop-flip's views may be equal by chance.
        let equal = jobs.iter().filter(|job| forward[job] == forward[&jobs[0]]).count();
        prop_assert!(equal <= 2, "views of different keys and numbers differ, {} are equal", equal);
    }

    #[test]
    fn drawn_boxes_are_whole_and_inside(
        policy in policy(), seed in any::<u64>(), index in any::<u16>(), width in side(), height in side(),
    ) {
        let view = policy.draw(seed, "key", index, width, height);
        prop_assert_eq!(view.validate(width, height), Ok(()));
        let Crop::Box { x, y, w, h } = view.crop else { panic!("a drawn crop is a box") };
        prop_assert!([x, y, w, h].iter().all(|value| value.fract() == 0.0) && w >= 1.0 && h >= 1.0);
    }

    #[test]
    fn rendering_gives_the_size_asked_for(
        policy in policy(), seed in any::<u64>(), width in 1_u32..90, height in 1_u32..90, size in 1_u32..70,
        resample in prop::sample::select(vec![Resample::Nearest, Resample::Bilinear, Resample::Bicubic, Resample::Lanczos]),
    ) {
        let image = plain(width, height);
        for view in [policy.draw(seed, "key", 0, width, height), View::center()] {
            let rendered = render(&image, &view, size, resample).unwrap();
            prop_assert_eq!((rendered.width(), rendered.height()), (size, size));
            prop_assert_eq!(render(&image, &view, size, resample).unwrap(), rendered);
        }
    }

    #[test]
    fn fractional_boxes_render(
        x in 0.0_f32..30.0, y in 0.0_f32..20.0, w in 0.01_f32..10.0, h in 0.01_f32..10.0, size in 1_u32..40,
        fraction in 0.01_f32..=1.0,
    ) {
        let image = plain(40, 30);
        for crop in [Crop::Box { x, y, w, h }, Crop::Center(CenterCrop::shortest(fraction))] {
            let view = View { crop, ..View::center() };
            prop_assert_eq!(render(&image, &view, size, Resample::Bicubic).unwrap().width(), size);
        }
    }
}

/// A change of the generator or of the order of draws must be detected, because it changes the contents of new caches.
#[test]
fn the_generator_is_frozen() {
    let frozen = include_str!("goldens/views.txt");
    let mut drawn = String::new();
    for policy in Policy::ALL {
        for (seed, key, index) in
            [(0, "a/b.jpg", 0), (0, "a/b.jpg", 1), (1, "a/b.jpg", 0), (u64::MAX, "ü", u16::MAX)]
        {
            drawn +=
                &format!("{policy} {seed} {key} {index} {:?}\n", policy.draw(seed, key, index, 500, 375));
        }
    }
    assert_eq!(drawn, frozen, "drawn:\n{drawn}");
}

#[test]
fn frequencies_and_ranges_are_mocos() {
    let views: Vec<View> = (0..8_000).map(|i| Policy::MocoV2.draw(5, "k", i, 500, 375)).collect();
    let share =
        |test: &dyn Fn(&View) -> bool| views.iter().filter(|view| test(view)).count() as f64 / 8_000.0;
    // Four standard deviations of a share of 8,000 draws are less than 0.023.
    for (name, got, expected) in [
        ("flip", share(&|v| v.flip), 0.5),
        ("jitter", share(&|v| v.jitter.is_some()), 0.8),
        ("grey", share(&|v| v.gray), 0.2),
        ("blur", share(&|v| v.blur_sigma.is_some()), 0.5),
        ("blur above its middle", share(&|v| v.blur_sigma.is_some_and(|s| s > 1.05)), 0.25),
        ("darker", share(&|v| v.jitter.is_some_and(|j| j.brightness < 1.0)), 0.4),
        (
            "hue above half its range",
            share(&|v| v.jitter.and_then(|j| j.hue).is_some_and(|hue| hue > 0.05)),
            0.2,
        ),
        ("first order", share(&|v| v.jitter.is_some_and(|j| j.order.index() == 0)), 0.8 / 24.0),
    ] {
        assert!((got - expected).abs() < 0.023, "{name}: {got}, expected {expected}");
    }
    for jitter in views.iter().filter_map(|view| view.jitter) {
        for factor in [jitter.brightness, jitter.contrast, jitter.saturation] {
            assert!((0.6..=1.4).contains(&factor), "{factor}");
        }
        assert!(jitter.hue.is_some_and(|hue| (-0.1..=0.1).contains(&hue)), "{:?}", jitter.hue);
    }
}

#[test]
fn an_extreme_image_falls_back_to_the_central_crop() {
    for (width, height, w, h, x, y) in
        [(1_000, 10, 13.0, 10.0, 493.0, 0.0), (10, 1_000, 10.0, 13.0, 0.0, 493.0)]
    {
        let view = Policy::CropFlip.draw(0, "k", 0, width, height);
        assert_eq!(view.crop, Crop::Box { x, y, w, h });
    }
}

#[test]
fn views_that_do_not_fit_are_errors() {
    let base = View::center();
    let boxed = |x, y, w, h| View { crop: Crop::Box { x, y, w, h }, ..base };
    for view in [
        boxed(-0.5, 0.0, 4.0, 4.0),
        boxed(0.0, 0.0, 8.5, 4.0),
        boxed(5.0, 0.0, 4.0, 4.0),
        boxed(0.0, 3.0, 4.0, 4.0),
        boxed(0.0, 0.0, 0.0, 4.0),
        boxed(f32::NAN, 0.0, 4.0, 4.0),
        boxed(0.0, 0.0, f32::INFINITY, 4.0),
    ] {
        assert!(matches!(view.validate(8, 6), Err(ViewError::Box { .. })), "{view:?}");
        assert!(render(&plain(8, 6), &view, 4, Resample::Bilinear).is_err(), "{view:?}");
    }
    let order = JitterOrder::new(0).unwrap();
    let jitter = Jitter { brightness: 1.0, contrast: 1.0, saturation: 1.0, hue: None, order };
    let jittered = |jitter| View { jitter: Some(jitter), ..base };
    for (field, view) in [
        ("crop fraction", View::of_center(CenterCrop::shortest(100.5))),
        ("crop fraction", View::of_center(CenterCrop::shortest(f32::NAN))),
        ("blur sigma", View { blur_sigma: Some(f32::INFINITY), ..base }),
        ("blur sigma", View { blur_sigma: Some(-1.0), ..base }),
        ("brightness", jittered(Jitter { brightness: -0.1, ..jitter })),
        ("contrast", jittered(Jitter { contrast: f32::NAN, ..jitter })),
        ("saturation", jittered(Jitter { saturation: 1e9, ..jitter })),
        ("lighting", View { lighting: Some([0.0, f32::NAN, 0.0]), ..base }),
        ("lighting", View { lighting: Some([0.0, 0.0, -1.5]), ..base }),
        ("hue", jittered(Jitter { hue: Some(0.6), ..jitter })),
    ] {
        let error = view.validate(8, 6).unwrap_err().to_string();
        assert!(error.contains(field), "{error}");
    }
    for size in [0, MAX_SIZE + 1] {
        let refused = render(&plain(8, 6), &base, size, Resample::Bilinear).unwrap_err();
        assert!(matches!(refused, RenderError::Size(got) if got == size), "{refused}");
    }
}
