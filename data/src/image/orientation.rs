//! The orientation that a camera recorded, in EXIF or XMP.

use image::metadata::Orientation;

/// The orientation in an EXIF block, with or without the prefix `Exif\0\0`, or else in an XMP packet, as Pillow takes
/// it. A damaged block does not affect the pixels and counts as none.
pub(super) fn find(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif.and_then(|block| Orientation::from_exif_chunk(block.strip_prefix(b"Exif\0\0").unwrap_or(block)))
        .or_else(|| xmp.and_then(in_xmp))
        .unwrap_or(Orientation::NoTransforms)
}

/// The value of `tiff:Orientation`, an attribute (`="6"`) or an element (`>6<`).
fn in_xmp(packet: &[u8]) -> Option<Orientation> {
    let name = b"tiff:Orientation";
    let at = packet.windows(name.len()).position(|window| window == name)?;
    match &packet[at + name.len()..] {
        [b'=', b'"', digit, ..] | [b'>', digit, ..] => Orientation::from_exif(digit.wrapping_sub(b'0')),
        _ => None,
    }
}
