//! Conversions between color spaces, in 8 bits.

/// YCbCr as in JFIF (ITU-R BT.601, full range) to RGB, as libjpeg rounds it.
pub(super) fn ycbcr_to_rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
    [y + 1.402 * cr, y - 0.344_136_3 * cb - 0.714_136_3 * cr, y + 1.772 * cb].map(to_level)
}

/// CMYK, 0 for no ink, to RGB: each channel is what ink and black leave, as Pillow's `convert("RGB")` computes it.
pub(super) fn cmyk_to_rgb([c, m, y, k]: [u8; 4]) -> [u8; 3] {
    [c, m, y].map(|ink| multiply(255 - ink, 255 - k))
}

/// The color under `alpha` if `channel` was multiplied with it.
pub(super) fn unmultiply(channel: u8, alpha: u8) -> u8 {
    match alpha {
        0 | 255 => channel,
        _ => u8::try_from(u32::from(channel) * 255 / u32::from(alpha)).unwrap_or(255),
    }
}

/// Nearest of the 256 levels to a value of 0 to 65535.
pub(super) fn level_of_16(value: u16) -> u8 {
    u8::try_from((u32::from(value) + 128) / 257).unwrap_or(255)
}

/// Nearest level to a value of 0 to 255; values outside are clamped, and NaN is 0.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0 to 255; NaN becomes 0"
)]
pub(super) fn to_level(value: f32) -> u8 {
    value.round().clamp(0.0, 255.0) as u8
}

/// a * b / 255, rounded.
fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    u8::try_from((product + (product >> 8)) >> 8).unwrap_or(255)
}
