//! The teacher built by `scripts/setup teacher`, a real network: tests the properties that identical bytes rely on.

use lgd_extract::encoder::PixelBuffer;
use lgd_extract::{EncoderOptions, ImageEncoder, Teacher};

use crate::common::{pixels, root, runtime};

fn encoder(threads: usize) -> ImageEncoder {
    let teacher = Teacher::open(&root().join("third_party/teacher")).unwrap_or_else(|error| {
        panic!("this test needs the demo's teacher: run scripts/setup teacher\n{error}")
    });
    let options = EncoderOptions { batch: Some(6), threads, ..EncoderOptions::default() };
    teacher.image_encoder(&runtime(), &options).unwrap()
}

fn batch(encoder: &ImageEncoder, order: &[usize]) -> PixelBuffer {
    let len = encoder.image_len();
    let all = pixels(7 * len);
    let mut batch = encoder.new_batch();
    for (row, &image) in order.iter().enumerate() {
        batch.copy_from(row * len, &PixelBuffer::F32(all[image * len..][..len].to_vec()), 0, len);
    }
    batch
}

#[test]
fn neither_neighbors_nor_position_nor_threads_change_an_embedding() {
    let mut single = encoder(1);
    let straight = single.encode(&batch(&single, &[0, 1, 2, 3, 4, 5]), 6).unwrap();
    for threads in [1, 2, 3] {
        let mut other = encoder(threads);
        let order = [3, 6, 0, 5, 1, 6];
        let shuffled = other.encode(&batch(&other, &order), 6).unwrap();
        for (row, image) in order.into_iter().enumerate().filter(|(_, image)| *image < 6) {
            assert!(
                shuffled.row(row) == straight.row(image),
                "{threads} threads, image {image} in row {row}"
            );
        }
        let padded = other.encode(&batch(&other, &[2]), 1).unwrap();
        assert!(padded.row(0) == straight.row(2), "{threads} threads, padded batch");
    }
}

#[test]
fn prompts_are_encoded_to_unit_vectors_of_the_image_width() {
    let teacher = Teacher::open(&root().join("third_party/teacher")).unwrap();
    let mut text = teacher.text_encoder(&runtime(), &EncoderOptions::default()).unwrap();
    assert_eq!(text.dim(), encoder(1).dim());
    let prompts: Vec<String> =
        ["a photo of a cat.", "a photo of a kitten.", "a photo of a lorry."].map(str::to_owned).into();
    let rows = text.encode(&prompts).unwrap();
    let row = |i: usize| &rows[i * text.dim()..][..text.dim()];
    let dot = |a: usize, b: usize| row(a).iter().zip(row(b)).map(|(x, y)| x * y).sum::<f32>();
    assert!((dot(0, 0) - 1.0).abs() < 1e-5);
    assert!(dot(0, 1) > dot(0, 2) + 0.1, "{} {}", dot(0, 1), dot(0, 2));
}
