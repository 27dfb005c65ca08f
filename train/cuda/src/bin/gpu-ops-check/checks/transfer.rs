//! Images on their way to the device.

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

/// More batches than slots through the uploader, each read back from what the computing stream made of it.
pub(super) fn uploads(lab: &mut Lab) -> Result<(), CudaError> {
    let bytes = 3 * 1_000_000;
    let mut uploader = host::Uploader::new(lab.gpu.stream(), bytes, 2)?;
    let batch = |number: usize| vec![u8::try_from(number * 31 % 256).unwrap_or(0); bytes];
    uploader.upload(&batch(0))?;
    for number in 0..6 {
        if number < 5 {
            uploader.upload(&batch(number + 1))?;
        }
        let mut y = lab.gpu.alloc(Element::F32, bytes)?;
        let gpu = &mut lab.gpu;
        uploader
            .receive(|rgb| elementwise::images(gpu, rgb, ([0.0; 3], [1.0 / 255.0; 3]), &mut y.as_mut()))?;
        let want = f64::from(batch(number)[0]);
        let got = lab.down(y.as_slice())?;
        lab.require("uploaded batch", got.iter().all(|&v| (v - single(want)).abs() < 1e-3));
    }
    Ok(())
}
