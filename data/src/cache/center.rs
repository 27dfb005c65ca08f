//! The center crop in `cache.json` and `extract.json`: `center_fraction`, and `center_resize` and `center_rounding` if
//! they are not torchvision's.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::view::{CenterCrop, CropRounding, ResizeMode};

/// The keys of [`CenterCrop`]. An absent resize or rounding is the default, as in every cache of format version 1.
#[derive(Serialize, Deserialize)]
struct CenterKeys {
    center_fraction: Option<f32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    center_resize: Option<ResizeMode>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    center_rounding: Option<CropRounding>,
}

pub(super) fn serialize<S: Serializer>(crop: &Option<CenterCrop>, to: S) -> Result<S::Ok, S::Error> {
    let other = crop.filter(|crop| !crop.is_torchvisions());
    let keys = CenterKeys {
        center_fraction: crop.map(|crop| crop.fraction),
        center_resize: other.map(|crop| crop.resize),
        center_rounding: other.map(|crop| crop.rounding),
    };
    keys.serialize(to)
}

pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CenterCrop>, D::Error> {
    match CenterKeys::deserialize(from)? {
        CenterKeys { center_fraction: Some(fraction), center_resize, center_rounding } => {
            Ok(Some(CenterCrop {
                fraction,
                resize: center_resize.unwrap_or_default(),
                rounding: center_rounding.unwrap_or_default(),
            }))
        }
        CenterKeys { center_resize: None, center_rounding: None, .. } => Ok(None),
        _ => Err(serde::de::Error::custom("center_resize and center_rounding need a center_fraction")),
    }
}
