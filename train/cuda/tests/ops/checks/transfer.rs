//! Uploads of images to the device.

use lgd_cuda::{Buffer, CudaError, Element, elementwise, host};

use crate::lab::{Lab, single};

pub(super) fn images(lab: &mut Lab) -> Result<(), CudaError> {
    let (mean, deviation) = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]);
    let rgb: Vec<u8> = (0..3 * 1_237_usize).map(|at| u8::try_from(at * 7 % 256).unwrap_or(0)).collect();
    let expected: Vec<f64> = rgb
        .iter()
        .enumerate()
        .map(|(at, &byte)| (f64::from(byte) / 255.0 - f64::from(mean[at % 3])) / f64::from(deviation[at % 3]))
        .collect();
    let on_rgb = Buffer::from_host(lab.gpu.stream(), &rgb)?;
    let mut on_y = lab.room(rgb.len())?;
    elementwise::images(&mut lab.gpu, on_rgb.as_slice(), (mean, deviation), &mut on_y.as_mut())?;
    lab.expect("images", &on_y, &expected)?;
    let mut half = lab.gpu.alloc(Element::Bf16, rgb.len())?;
    elementwise::images(&mut lab.gpu, on_rgb.as_slice(), (mean, deviation), &mut half.as_mut())?;
    lab.expect_within("images in bf16", half.as_slice(), &expected, 300.0)
}

/// Uploads more batches than there are slots. The host reads no result before all batches are issued, so a copy or a
/// kernel that starts too early changes the values.
pub(super) fn uploads(lab: &mut Lab) -> Result<(), CudaError> {
    const BATCHES: usize = 6;
    let bytes = 3 * 1_000_000;
    let mut uploader = host::Uploader::new(lab.gpu.stream(), bytes, 2)?;
    let byte = |batch: usize| u8::try_from(batch * 31 % 256).unwrap_or(0);
    let mut made = Vec::new();
    uploader.upload(&vec![byte(0); bytes])?;
    for batch in 0..BATCHES {
        if batch + 1 < BATCHES {
            uploader.upload(&vec![byte(batch + 1); bytes])?;
        }
        let mut y = lab.gpu.alloc(Element::F32, bytes)?;
        let gpu = &mut lab.gpu;
        uploader
            .receive(|rgb| elementwise::images(gpu, rgb, ([0.0; 3], [1.0 / 255.0; 3]), &mut y.as_mut()))?;
        made.push(y);
    }
    for (batch, y) in made.iter().enumerate() {
        let want = single(f64::from(byte(batch)));
        let got = lab.down(y.as_slice())?;
        lab.require("uploaded batch", got.iter().all(|value| (value - want).abs() < 1e-3));
    }
    Ok(())
}
