//! Runs a finished ResNet-18 student in plain Candle. It uses none of lgd's code, only its files.
//!
//! ```text
//! cargo run --release --example candle_student -- RUN BANK IMAGE
//! ```
//!
//! RUN is a folder made by `lgd train --student resnet18`, BANK a folder made by `lgd bank` with the same teacher.
//! The output is the bank's five names most similar to the image.

use std::fs;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result, ensure};
use candle_core::{D, DType, Device, Module, Tensor};
use candle_nn::{BatchNorm, Conv2d, Conv2dConfig, Linear, VarBuilder};
use image::imageops::FilterType;
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// Width d of ResNet-18's pooled feature.
const FEATURES: usize = 512;

/// Share of the short side in the center crop of `lgd eval`: 224 of 256 pixels.
const CENTER_FRACTION: f64 = 0.875;

/// A convolution without bias, then batch normalization with the running statistics.
struct ConvNorm {
    conv: Conv2d,
    norm: BatchNorm,
}

impl ConvNorm {
    /// Loads the layers with these `names`, with `inputs` and `outputs` channels.
    fn load(
        weights: &VarBuilder<'_>,
        names: (&str, &str),
        (inputs, outputs): (usize, usize),
        (kernel, stride): (usize, usize),
    ) -> candle_core::Result<Self> {
        let config = Conv2dConfig { padding: kernel / 2, stride, ..Conv2dConfig::default() };
        Ok(Self {
            conv: candle_nn::conv2d_no_bias(inputs, outputs, kernel, config, weights.pp(names.0))?,
            norm: candle_nn::batch_norm(outputs, 1e-5, weights.pp(names.1))?,
        })
    }
}

impl Module for ConvNorm {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        x.apply(&self.conv)?.apply_t(&self.norm, false)
    }
}

/// ResNet's basic block: two 3x3 convolutions and a shortcut, which is a projection if the shape changes.
struct Block {
    first: ConvNorm,
    second: ConvNorm,
    shortcut: Option<ConvNorm>,
}

impl Block {
    fn load(
        weights: &VarBuilder<'_>,
        (inputs, outputs): (usize, usize),
        stride: usize,
    ) -> candle_core::Result<Self> {
        let projected = stride != 1 || inputs != outputs;
        let shortcut =
            || ConvNorm::load(weights, ("downsample.0", "downsample.1"), (inputs, outputs), (1, stride));
        Ok(Self {
            first: ConvNorm::load(weights, ("conv1", "bn1"), (inputs, outputs), (3, stride))?,
            second: ConvNorm::load(weights, ("conv2", "bn2"), (outputs, outputs), (3, 1))?,
            shortcut: projected.then(shortcut).transpose()?,
        })
    }
}

impl Module for Block {
    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let shortcut = self.shortcut.as_ref().map_or_else(|| Ok(x.clone()), |layers| x.apply(layers))?;
        (x.apply(&self.first)?.relu()?.apply(&self.second)? + shortcut)?.relu()
    }
}

/// torchvision's ResNet-18 with lgd's projection head: Linear(d, d), ReLU, Linear(d, D), L2 normalization.
pub(crate) struct CandleStudent {
    stem: ConvNorm,
    blocks: Vec<Block>,
    hidden: Linear,
    output: Linear,
}

impl CandleStudent {
    /// Loads the student from `weights`; its embeddings have `dim` dimensions. The tensors of `student.safetensors`
    /// have torchvision's names; those of the head are `head.0` and `head.2`.
    pub(crate) fn load(weights: &VarBuilder<'_>, dim: usize) -> candle_core::Result<Self> {
        let (mut blocks, mut inputs) = (Vec::new(), 64);
        for (stage, outputs) in (1..).zip([64, 128, 256, 512]) {
            for number in 0..2 {
                let stride = if stage > 1 && number == 0 { 2 } else { 1 };
                let weights = weights.pp(format!("layer{stage}.{number}"));
                blocks.push(Block::load(&weights, (inputs, outputs), stride)?);
                inputs = outputs;
            }
        }
        Ok(Self {
            stem: ConvNorm::load(weights, ("conv1", "bn1"), (3, 64), (7, 2))?,
            blocks,
            hidden: candle_nn::linear(FEATURES, FEATURES, weights.pp("head.0"))?,
            output: candle_nn::linear(FEATURES, dim, weights.pp("head.2"))?,
        })
    }

    /// Features `[B, 512]` and embeddings `[B, D]` of normalized images `[B, 3, H, W]`.
    pub(crate) fn forward(&self, images: &Tensor) -> candle_core::Result<(Tensor, Tensor)> {
        let x = images.apply(&self.stem)?.relu()?;
        // No value is negative, so zero padding does not change a maximum.
        let x = x.pad_with_zeros(D::Minus2, 1, 1)?.pad_with_zeros(D::Minus1, 1, 1)?;
        let x = x.max_pool2d_with_stride(3, 2)?;
        let x = self.blocks.iter().try_fold(x, |x, block| x.apply(block))?;
        let features = x.mean(D::Minus1)?.mean(D::Minus1)?;
        let projected = features.apply(&self.hidden)?.relu()?.apply(&self.output)?;
        let norms = projected.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?;
        Ok((features, projected.broadcast_div(&norms)?))
    }
}

/// The fields of `run.json` that this example reads.
#[derive(Deserialize)]
struct Run {
    config: Config,
    teacher: Teacher,
    dim: usize,
}

#[derive(Deserialize)]
struct Config {
    student: String,
    size: u32,
}

#[derive(Deserialize)]
struct Teacher {
    normalization: Normalization,
}

/// Per-channel mean and standard deviation of values in [0, 1].
#[derive(Deserialize)]
struct Normalization {
    mean: [f32; 3],
    std: [f32; 3],
}

/// The fields of `bank.json` that this example reads.
#[derive(Deserialize)]
struct Bank {
    categories: Vec<Category>,
}

#[derive(Deserialize)]
struct Category {
    name: String,
}

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [run, bank, image] = &args[..] else { anyhow::bail!("usage: candle_student RUN BANK IMAGE") };
    for (name, score) in score(Path::new(run), Path::new(bank), Path::new(image))?.iter().take(5) {
        writeln!(io::stdout(), "{score:+.4}  {name}")?;
    }
    Ok(())
}

/// Returns every name of the bank with its cosine similarity to the image, most similar first.
pub(crate) fn score(run: &Path, bank: &Path, image: &Path) -> Result<Vec<(String, f32)>> {
    let device = Device::Cpu;
    let Run { config, teacher, dim } = read_json(&run.join("run.json"))?;
    ensure!(config.student == "resnet18", "the student is a {}, expected a resnet18", config.student);
    let weights = fs::read(run.join("student.safetensors"))?;
    let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &device)?;
    let student = CandleStudent::load(&weights, dim)?;

    let Bank { categories } = read_json(&bank.join("bank.json"))?;
    let prototypes = candle_core::safetensors::load(bank.join("bank.safetensors"), &device)?;
    // The text prototypes, unit vectors [C, D].
    let text = prototypes.get("tsb").context("bank.safetensors has no tensor tsb")?;

    let (_, embedding) = student.forward(&load_image(image, config.size, &teacher.normalization)?)?;
    let scores = embedding.matmul(&text.t()?)?.squeeze(0)?.to_vec1::<f32>()?;
    let mut named: Vec<_> = categories.into_iter().map(|category| category.name).zip(scores).collect();
    named.sort_by(|a, b| b.1.total_cmp(&a.1));
    Ok(named)
}

/// The center crop of an image as a normalized batch of one, `[1, 3, size, size]`.
fn load_image(path: &Path, size: u32, normalization: &Normalization) -> Result<Tensor> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "sides are small and positive"
    )]
    let side = (f64::from(size) / CENTER_FRACTION).round() as u32;
    let border = (side - size) / 2;
    let image = image::open(path)?.resize_to_fill(side, side, FilterType::CatmullRom);
    let pixels = image.crop_imm(border, border, size, size).to_rgb8().into_raw();
    let size = usize::try_from(size)?;
    let channel = |values: [f32; 3]| Tensor::from_slice(&values, (3, 1, 1), &Device::Cpu);
    let pixels = Tensor::from_vec(pixels, (size, size, 3), &Device::Cpu)?.permute((2, 0, 1))?;
    let pixels = (pixels.to_dtype(DType::F32)? / 255.0)?;
    let centered = pixels.broadcast_sub(&channel(normalization.mean)?)?;
    Ok(centered.broadcast_div(&channel(normalization.std)?)?.unsqueeze(0)?)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| format!("read {}", path.display()))?;
    serde_json::from_slice(&text).with_context(|| format!("parse {}", path.display()))
}
