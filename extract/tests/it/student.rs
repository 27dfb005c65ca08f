//! Students in ONNX files: inputs of every form give the same rows, in any number of images.

use std::path::Path;

use lgd_data::image::RgbImage;
use lgd_extract::{EncoderOptions, ExtractError, OnnxStudent};

use crate::common::{FIXTURES, assert_close, runtime};

fn open(model: &str) -> Result<OnnxStudent, ExtractError> {
    let file = format!("{FIXTURES}/{model}.onnx");
    let known = ["image_embeds", "feature"];
    OnnxStudent::open(&runtime(), Path::new(&file), &EncoderOptions::default(), &known, "lgd.size")
}

/// An image of one color.
fn plain(color: [u8; 3]) -> RgbImage {
    RgbImage::new(8, 8, color.repeat(64)).unwrap()
}

#[test]
fn every_form_of_input_gives_the_same_rows() {
    let colors = [[255, 0, 0], [0, 255, 0], [10, 20, 30]];
    let images = colors.map(plain);
    let mut linear = open("linear").unwrap();
    assert_eq!((linear.size(), linear.outputs()), (8, &[("image_embeds".to_owned(), 4)][..]));
    let expected = linear.run(&images).unwrap().remove(0);
    assert_eq!(expected.len(), 3 * 4);
    // Pixels are from 0 to 1: the row of (10, 20, 30) is the sum of those of red, green and blue, scaled.
    let blue = linear.run(&[plain([0, 0, 255])]).unwrap().remove(0);
    let mixed: Vec<f32> =
        (0..4).map(|at| (10.0 * expected[at] + 20.0 * expected[4 + at] + 30.0 * blue[at]) / 255.0).collect();
    assert_close(&expected[8..], &mixed, 1e-5);

    for (model, scale, tolerance) in
        [("nhwc", 1.0, 1e-5), ("fixed_batch", 1.0, 1e-5), ("half", 1.0, 5e-3), ("bytes_in", 255.0, 1e-5)]
    {
        let rows = open(model).unwrap().run(&images).unwrap().remove(0);
        let rows: Vec<f32> = rows.iter().map(|value| value / scale).collect();
        assert_close(&rows, &expected, tolerance);
    }
    assert!(linear.run(&[]).unwrap().iter().all(Vec::is_empty));
    assert!(linear.run(&[RgbImage::new(9, 9, vec![0; 243]).unwrap()]).is_err());
}

#[test]
fn what_does_not_fit_is_named() {
    let error = open("free_size").unwrap_err().to_string();
    assert!(error.contains("expected an input of a fixed size") && error.contains("hint:"), "{error}");
    let error = open("image_models/output").unwrap_err().to_string();
    assert!(error.contains("one of the outputs image_embeds, feature"), "{error}");
    let error = open("absent").unwrap_err().to_string();
    assert!(error.contains("cannot read") && error.contains("absent.onnx"), "{error}");
}
