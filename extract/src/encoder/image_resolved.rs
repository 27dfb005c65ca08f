//! The settings of an opened image encoder, each with its source, in the words of `teacher.toml`.

use lgd_data::render::PixelLayout;
use lgd_data::view::CenterCrop;

use super::image_output::ImageOutput;
use crate::teacher::{ImageSettings, Pooling, Resolved};

/// Lists the settings. `size` is the side of the input, px.
pub(super) fn list(
    settings: &ImageSettings,
    input: &str,
    layout: PixelLayout,
    size: u32,
    output: &ImageOutput,
) -> Vec<Resolved> {
    let mut list = settings.resolved.clone();
    if !list.iter().any(|setting| setting.key == "size") {
        list.push(Resolved::new("size", i64::from(size), "the model"));
    }
    list.extend(center(settings, size));
    let from = |set: bool| if set { "teacher.toml" } else { "the model" };
    list.push(Resolved::new("input", input, from(settings.input.is_some())));
    let layout = match layout {
        PixelLayout::Nchw => "nchw",
        PixelLayout::Nhwc => "nhwc",
    };
    list.push(Resolved::new("layout", layout, from(settings.layout.is_some())));
    list.push(Resolved::new("output", output.name.as_str(), output.source.as_str()));
    list.push(Resolved::new("pooling", output.pooling.name(), output.pooling_source.as_str()));
    // teacher.toml refuses the key where nothing reads it.
    if output.prefix_tokens > 0 && (output.pooling == Pooling::Mean || settings.tokens.is_some()) {
        let source =
            if settings.prefix_tokens.is_some() { "teacher.toml" } else { output.pooling_source.as_str() };
        list.push(Resolved::new("prefix_tokens", whole(output.prefix_tokens), source));
    }
    let named = [("features", &settings.features), ("tokens", &settings.tokens)];
    for (key, name) in named {
        list.extend(name.as_ref().map(|name| Resolved::new(key, name.as_str(), "teacher.toml")));
    }
    if let Some(grid) = settings.token_grid {
        list.push(Resolved::new("token_grid", grid.map(whole).to_vec(), "teacher.toml"));
    }
    list
}

/// Resize and crop: the mode, and the length in pixels if it is whole, else the share that the crop keeps.
fn center(settings: &ImageSettings, size: u32) -> [Resolved; 2] {
    let crop = settings.center.unwrap_or_default();
    let source = settings.center_source.clone().unwrap_or_else(|| "assumed".to_owned());
    let length = crop.length(size);
    let exact = CenterCrop::of_lengths(size, length, crop.resize, crop.rounding) == crop;
    let extent = if exact {
        Resolved::new("resize", i64::from(length), source.as_str())
    } else {
        let share = crop.fraction.to_string().parse().unwrap_or(f64::from(crop.fraction));
        Resolved::new("center_fraction", share, source.as_str())
    };
    [Resolved::new("resize_mode", crop.resize.name(), source), extent]
}

fn whole(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
