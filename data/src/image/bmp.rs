//! BMP: a header that some programs write wrongly.

use std::borrow::Cow;

/// Bytes of the file header, which the image's own header follows.
const FILE_HEADER: u32 = 14;

/// The file with the true offset of the pixels. Some programs store the offset of the palette instead, which the pixels
/// follow; Pillow corrects it in the same way.
pub(super) fn with_true_offset(bytes: &[u8]) -> Cow<'_, [u8]> {
    let number = |at: usize| bytes.get(at..at + 4)?.first_chunk().map(|digits| u32::from_le_bytes(*digits));
    let true_offset = || {
        let (offset, header) = (number(10)?, number(14)?);
        let bits = number(26)? >> 16;
        let after_headers = FILE_HEADER.checked_add(header)?;
        if offset != after_headers || header < 40 || bits == 0 || bits > 8 {
            return None;
        }
        let colors = number(46).filter(|&colors| colors > 0).unwrap_or(1 << bits);
        offset.checked_add(colors.checked_mul(4)?)
    };
    match true_offset() {
        Some(offset) => {
            let mut mended = bytes.to_vec();
            mended[10..14].copy_from_slice(&offset.to_le_bytes());
            Cow::Owned(mended)
        }
        None => Cow::Borrowed(bytes),
    }
}
