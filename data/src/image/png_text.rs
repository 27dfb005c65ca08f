//! EXIF in a text chunk of a PNG, where ImageMagick stored it before PNG had a chunk of its own.

use std::io::Cursor;

const KEYWORD: &str = "Raw profile type exif";

/// The EXIF block, from hexadecimal digits after a line with a name and a line with the length.
pub(super) fn exif(png: &[u8]) -> Option<Vec<u8>> {
    // Most files have none. The chunks before the pixels are searched before they are read a second time.
    let end = png.windows(4).position(|name| name == b"IDAT")?;
    png[..end].windows(KEYWORD.len()).find(|window| *window == KEYWORD.as_bytes())?;
    let reader = png::Decoder::new(Cursor::new(png)).read_info().ok()?;
    let info = reader.info();
    let compressed = info.compressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let plain = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == KEYWORD);
    let text = match compressed {
        Some(chunk) => chunk.get_text().ok()?,
        None => plain?.text.clone(),
    };
    let digits: Vec<u8> = text.splitn(4, '\n').nth(3)?.bytes().filter(|digit| *digit != b'\n').collect();
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    digits.chunks_exact(2).map(byte).collect()
}
