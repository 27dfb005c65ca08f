//! Detects the format of a file from its first bytes.

/// What the first bytes of a file say about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    Jpeg,
    Png,
    Gif,
    WebP,
    Bmp,
    Tiff,
    Pnm,
    /// An image, or a file with images, of a format that is not read: its name with an article.
    Foreign(&'static str),
    /// A pointer of Git LFS.
    LfsPointer,
    /// Not an image: what it is.
    NotAnImage(&'static str),
    Unknown,
}

use Format::{Bmp, Foreign, Gif, Jpeg, LfsPointer, NotAnImage, Png, Tiff, Unknown};

/// Signatures at the start of a file. Longer ones come before their prefixes.
const SIGNATURES: &[(&[u8], Format)] = &[
    (b"\xff\xd8\xff", Jpeg),
    (b"\x89PNG\r\n\x1a\n", Png),
    (b"GIF87a", Gif),
    (b"GIF89a", Gif),
    (b"BMF\0", Unknown), // a bitmap font
    (b"BM", Bmp),
    (b"II*\0", Tiff),
    (b"MM\0*", Tiff),
    (b"II+\0", Tiff),
    (b"MM\0+", Tiff),
    (b"\0\0\0\x0cjP  \r\n\x87\n", Foreign("a JPEG 2000 image")),
    (b"\xff\x4f\xff\x51", Foreign("a JPEG 2000 image")),
    (b"\0\0\0\x0cJXL \r\n\x87\n", Foreign("a JPEG XL image")),
    (b"\xff\x0a", Foreign("a JPEG XL image")),
    (b"II\xbc", Foreign("a JPEG XR image")),
    (b"IIRO", Foreign("an ORF camera raw file")),
    (b"IIU\0", Foreign("an RW2 camera raw file")),
    (b"FUJIFILMCCD-RAW", Foreign("an RAF camera raw file")),
    (b"8BPS", Foreign("a Photoshop document")),
    (b"gimp xcf", Foreign("a GIMP document")),
    (b"%PDF", Foreign("a PDF document")),
    (b"%!PS", Foreign("a PostScript document")),
    (b"\xc5\xd0\xd3\xc6", Foreign("a PostScript document")),
    (b"AT&TFORM", Foreign("a DjVu document")),
    (b"qoif", Foreign("a QOI image")),
    (b"DDS ", Foreign("a DDS texture")),
    (b"BLP1", Foreign("a BLP texture")),
    (b"BLP2", Foreign("a BLP texture")),
    (b"\xabKTX ", Foreign("a KTX texture")),
    (b"v/1\x01", Foreign("an OpenEXR image")),
    (b"#?RADIANCE", Foreign("a Radiance HDR image")),
    (b"#?RGBE", Foreign("a Radiance HDR image")),
    (b"farbfeld", Foreign("a farbfeld image")),
    (b"PF\n", Foreign("a PFM image")),
    (b"Pf\n", Foreign("a PFM image")),
    (b"P7 332", Foreign("an XV thumbnail")),
    (b"icns", Foreign("an ICNS icon")),
    (b"\0\0\x01\0", Foreign("an ICO icon")),
    // A cursor has a count of images where a TGA image without a palette has zeros.
    (b"\0\0\x02\0\0\0\0\0", Foreign("a TGA image")),
    (b"\0\0\x03\0\0\0\0\0", Foreign("a TGA image")),
    (b"\0\0\x0a\0\0\0\0\0", Foreign("a TGA image")),
    (b"\0\0\x0b\0\0\0\0\0", Foreign("a TGA image")),
    (b"\0\0\x02\0", Foreign("a CUR cursor")),
    (b"\x0a\x00", Foreign("a PCX image")),
    (b"\x0a\x02", Foreign("a PCX image")),
    (b"\x0a\x03", Foreign("a PCX image")),
    (b"\x0a\x05", Foreign("a PCX image")),
    (b"\x01\xda", Foreign("an SGI image")),
    (b"\x59\xa6\x6a\x95", Foreign("a Sun raster image")),
    (b"\xd7\xcd\xc6\x9a", Foreign("a WMF drawing")),
    (b"/* XPM */", Foreign("an XPM image")),
    (b"#define", Foreign("an XBM image")),
    (b"SIMPLE  =", Foreign("a FITS image")),
    (b"FLIF", Foreign("a FLIF image")),
    (b"BPG\xfb", Foreign("a BPG image")),
    (b"\x8aMNG", Foreign("an MNG animation")),
    (b"\x8bJNG", Foreign("a JNG image")),
    (b"\x93NUMPY", NotAnImage("a NumPy array")),
    (b"\x89HDF", NotAnImage("an HDF5 file")),
    (b"PAR1", NotAnImage("a Parquet file")),
    (b"PK\x03\x04", NotAnImage("a ZIP archive")),
    (b"\x1f\x8b", NotAnImage("gzip-compressed data")),
    (b"\x1a\x45\xdf\xa3", NotAnImage("a video")),
    (b"version https://git-lfs", LfsPointer),
];

/// Bytes in which the start of a text document is searched.
const TEXT: usize = 1024;

pub(super) fn detect(bytes: &[u8]) -> Format {
    if let Some((_, format)) = SIGNATURES.iter().find(|(signature, _)| bytes.starts_with(signature)) {
        return *format;
    }
    match bytes {
        [b'R', b'I', b'F', b'F', _, _, _, _, kind @ ..] => riff(kind),
        [_, _, _, _, b'f', b't', b'y', b'p', ..] => iso_media(bytes),
        [b'P', b'1'..=b'6', space, ..] if space.is_ascii_whitespace() || *space == b'#' => Format::Pnm,
        [b'P', b'7', b'\n', ..] => Format::Pnm,
        _ if bytes.get(40..44) == Some(b" EMF") => Foreign("an EMF drawing"),
        _ if bytes.get(128..132) == Some(b"DICM") => Foreign("a DICOM image"),
        _ if bytes.ends_with(b"TRUEVISION-XFILE.\0") => Foreign("a TGA image"),
        _ => text(&bytes[..bytes.len().min(TEXT)]),
    }
}

fn riff(kind: &[u8]) -> Format {
    match kind {
        [b'W', b'E', b'B', b'P', ..] => Format::WebP,
        [b'A', b'V', b'I', b' ', ..] => NotAnImage("a video"),
        _ => Unknown,
    }
}

/// A file of the ISO base media format. Its major brand or one of the compatible brands names the codec.
fn iso_media(bytes: &[u8]) -> Format {
    let length = bytes.first_chunk().map_or(0, |length| u32::from_be_bytes(*length));
    let end = usize::try_from(length).unwrap_or(usize::MAX).min(bytes.len());
    let brands = bytes.get(8..end).unwrap_or_default();
    let has = |wanted: &[&[u8; 4]]| brands.chunks_exact(4).any(|brand| wanted.iter().any(|w| brand == *w));
    if has(&[b"avif", b"avis"]) {
        Foreign("an AVIF image")
    } else if has(&[b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"hevm", b"hevs"]) {
        Foreign("a HEIC image")
    } else if has(&[b"mif1", b"msf1"]) {
        Foreign("a HEIF image")
    } else if has(&[b"crx "]) {
        Foreign("a CR3 camera raw file")
    } else {
        NotAnImage("a video")
    }
}

/// A text document: an SVG drawing, or the web page that a failed download leaves.
fn text(start: &[u8]) -> Format {
    let start = start.strip_prefix(b"\xef\xbb\xbf").unwrap_or(start).trim_ascii_start().to_ascii_lowercase();
    let contains = |word: &[u8]| start.windows(word.len()).any(|window| window == word);
    if !start.starts_with(b"<") {
        Unknown
    } else if start.starts_with(b"<!doctype html") || start.starts_with(b"<html") {
        NotAnImage("a web page")
    } else if contains(b"<svg") {
        Foreign("an SVG drawing")
    } else if contains(b"<html") {
        NotAnImage("a web page")
    } else if start.starts_with(b"<?xml") {
        NotAnImage("an XML document")
    } else {
        Unknown
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textures_are_told_from_cursors() {
        let tga = [0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 32, 0, 24, 0];
        let cursor = [0, 0, 2, 0, 1, 0, 32, 32, 0, 0, 0, 0, 0, 0, 48, 1, 0, 0];
        assert_eq!(detect(&tga), Foreign("a TGA image"));
        assert_eq!(detect(&cursor), Foreign("a CUR cursor"));
    }
}
