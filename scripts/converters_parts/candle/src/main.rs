//! The features of a ResNet of candle-transformers: `candle-layout ARCHITECTURE WEIGHTS IMAGES SIZE OUT`.
//!
//! IMAGES: f32 `[N, 3, SIZE, SIZE]`, normalized. OUT: f32 `[N, d]`.

use std::env::args;
use std::error::Error;
use std::fs;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Module, VarBuilder};
use candle_transformers::models::resnet;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = args().skip(1).collect();
    let [architecture, weights, images, size, out] = &arguments[..] else { return Err("five arguments".into()) };
    let size: usize = size.parse()?;
    let values: Vec<f32> =
        fs::read(images)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let images = values.len() / (3 * size * size);
    let images = Tensor::from_vec(values, (images, 3, size, size), &Device::Cpu)?;
    let weights = VarBuilder::from_buffered_safetensors(fs::read(weights)?, DType::F32, &Device::Cpu)?;
    let network = match &architecture[..] {
        "resnet18" => resnet::resnet18_no_final_layer(weights),
        "resnet34" => resnet::resnet34_no_final_layer(weights),
        "resnet50" => resnet::resnet50_no_final_layer(weights),
        other => return Err(format!("candle-transformers has no {other} of torchvision's").into()),
    }?;
    let features: Vec<f32> = network.forward(&images)?.flatten_all()?.to_vec1()?;
    fs::write(out, features.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<u8>>())?;
    Ok(())
}
