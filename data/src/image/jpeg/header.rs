//! Reads a JPEG's segments and rewrites the file so that a strict decoder can read it.
//!
//! libjpeg skips stray bytes between segments, and reads the color space from segments that may come in any order. The
//! rewritten file has neither: the start of the image, tables, one frame header, and the scans up to the end of the
//! image. Entropy-coded data are copied as they are.
//!
//! A decoder that reaches the end of the image too early goes on with zeros, which decode to gray. Ones that are added
//! before the end prevent that: no Huffman code is all ones, so that a decoder that still needs a code fails, and one
//! that has all its pixels never reads them.

use image::metadata::Orientation;

use super::super::{DecodeError, orientation};

/// Bytes of ones after the last scan: more than a decoder reads ahead.
const ONES: usize = 16;

/// Color space of the coded components, by libjpeg's rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Space {
    Gray,
    Rgb,
    YCbCr,
    Cmyk,
    Ycck,
}

/// A JPEG as a strict decoder expects it.
pub(super) struct Rewritten {
    /// The file: no application segments, no stray bytes, nothing after the end of the image.
    pub bytes: Vec<u8>,
    /// Width in the frame header, in pixels, before `orientation` is applied.
    pub width: u32,
    /// Height in the frame header, in pixels.
    pub height: u32,
    pub space: Space,
    pub orientation: Orientation,
}

/// What the segments before the first scan say.
#[derive(Default)]
struct Headers<'a> {
    /// Tables and frame header, with their markers.
    kept: Vec<u8>,
    frame: Option<Frame>,
    jfif: bool,
    /// The color transform in Adobe's segment.
    adobe: Option<u8>,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

struct Frame {
    progressive: bool,
    width: u32,
    height: u32,
    components: Vec<u8>,
}

/// Reads and rewrites a JPEG.
///
/// # Errors
/// [`DecodeError::Truncated`] if the end of the image is missing, [`DecodeError::Unsupported`] for codings other than
/// baseline and progressive Huffman coding of 8 bits, [`DecodeError::Corrupt`].
pub(super) fn rewrite(file: &[u8]) -> Result<Rewritten, DecodeError> {
    let mut headers = Headers::default();
    let mut at = 2;
    let first_scan = loop {
        let segment = next_segment(file, at)?;
        match segment.marker {
            0xda => break segment,
            0xd9 => return Err(DecodeError::Truncated),
            marker => headers.add(marker, segment.body, &file[segment.start..segment.end])?,
        }
        at = segment.end;
    };
    let frame =
        headers.frame.as_ref().ok_or_else(|| DecodeError::corrupt("a scan before the frame header"))?;
    let (width, height) = (frame.width, frame.height);
    let space = color_space(&headers, frame)?;
    let mut bytes = Vec::with_capacity(file.len());
    bytes.extend_from_slice(&[0xff, 0xd8]);
    if space == Space::Ycck {
        bytes.extend_from_slice(b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\x02");
    }
    bytes.extend_from_slice(&headers.kept);
    copy_scans(file, first_scan, frame, &mut bytes)?;
    Ok(Rewritten { bytes, width, height, space, orientation: orientation::find(headers.exif, headers.xmp) })
}

/// One marker, and the segment that belongs to it.
struct Segment<'a> {
    marker: u8,
    /// Offset of the marker.
    start: usize,
    /// Content without marker and length.
    body: &'a [u8],
    /// Offset after the segment.
    end: usize,
}

/// The next marker at or after `at`. Stray bytes and fill bytes before it are skipped, as libjpeg does.
fn next_segment(file: &[u8], at: usize) -> Result<Segment<'_>, DecodeError> {
    let is_marker = |pair: &[u8]| pair[0] == 0xff && !matches!(pair[1], 0x00 | 0xff);
    let rest = file.get(at..).ok_or(DecodeError::Truncated)?;
    let start = at + rest.windows(2).position(is_marker).ok_or(DecodeError::Truncated)?;
    let marker = file[start + 1];
    if matches!(marker, 0x01 | 0xd0..=0xd9) {
        return Ok(Segment { marker, start, body: &[], end: start + 2 });
    }
    let length = file[start + 2..].first_chunk::<2>().ok_or(DecodeError::Truncated)?;
    let length = usize::from(u16::from_be_bytes(*length));
    if length < 2 {
        return Err(DecodeError::corrupt(format!("a segment of {length} bytes")));
    }
    let end = start + 2 + length;
    let body = file.get(start + 4..end).ok_or(DecodeError::Truncated)?;
    Ok(Segment { marker, start, body, end })
}

impl<'a> Headers<'a> {
    fn add(&mut self, marker: u8, body: &'a [u8], whole: &'a [u8]) -> Result<(), DecodeError> {
        if let Some(coding) = unsupported(marker) {
            return Err(DecodeError::unsupported(format!("JPEG with {coding}")));
        }
        match marker {
            0xc0..=0xc2 => {
                if self.frame.is_some() {
                    return Err(DecodeError::corrupt("two frame headers"));
                }
                self.frame = Some(frame(marker, body)?);
                self.kept.extend_from_slice(whole);
            }
            0xc4 | 0xdb | 0xdd => self.kept.extend_from_slice(whole),
            0xd8 => return Err(DecodeError::corrupt("an image starts within the image")),
            0xe0 if body.starts_with(b"JFIF\0") => self.jfif = true,
            0xe1 if body.starts_with(b"Exif\0\0") => self.exif = self.exif.or(Some(body)),
            0xe1 if body.starts_with(b"http://ns.adobe.com/xap/1.0/\0") => self.xmp = self.xmp.or(Some(body)),
            0xee if body.starts_with(b"Adobe") && body.len() >= 12 => self.adobe = Some(body[11]),
            _ => {}
        }
        Ok(())
    }
}

/// Coding that the frame header with this marker declares, if it is not supported.
fn unsupported(marker: u8) -> Option<&'static str> {
    match marker {
        0xc3 => Some("lossless coding"),
        0xc5..=0xc7 | 0xde | 0xdf => Some("hierarchical coding"),
        0xc9 | 0xca => Some("arithmetic coding"),
        0xcb => Some("lossless arithmetic coding"),
        0xcd..=0xcf => Some("hierarchical arithmetic coding"),
        0xf7 => Some("JPEG-LS coding"),
        _ => None,
    }
}

fn frame(marker: u8, body: &[u8]) -> Result<Frame, DecodeError> {
    let Some(([bits, h1, h0, w1, w0, count], components)) = body.split_first_chunk() else {
        return Err(DecodeError::corrupt("a frame header that is too short"));
    };
    let components: Vec<u8> = components.chunks_exact(3).map(|component| component[0]).collect();
    if components.len() != usize::from(*count) {
        return Err(DecodeError::corrupt("a frame header of the wrong length"));
    }
    if *bits != 8 {
        return Err(DecodeError::unsupported(format!("JPEG with {bits} bits per channel")));
    }
    let (width, height) = (u16::from_be_bytes([*w1, *w0]), u16::from_be_bytes([*h1, *h0]));
    if height == 0 && width > 0 {
        return Err(DecodeError::unsupported("JPEG whose height follows the first scan"));
    }
    Ok(Frame { progressive: marker == 0xc2, width: width.into(), height: height.into(), components })
}

/// Color space by the rules of libjpeg's `default_decompress_parms`.
fn color_space(headers: &Headers<'_>, frame: &Frame) -> Result<Space, DecodeError> {
    match (&frame.components[..], headers.adobe) {
        ([_], _) => Ok(Space::Gray),
        ([_, _, _], _) if headers.jfif => Ok(Space::YCbCr),
        ([_, _, _], Some(0)) => Ok(Space::Rgb),
        ([_, _, _], Some(_)) => Ok(Space::YCbCr),
        (b"RGB", None) => Ok(Space::Rgb),
        ([_, _, _], None) => Ok(Space::YCbCr),
        ([_, _, _, _], None | Some(0)) => Ok(Space::Cmyk),
        ([_, _, _, _], Some(_)) => Ok(Space::Ycck),
        (components, _) => {
            Err(DecodeError::unsupported(format!("JPEG with {} components", components.len())))
        }
    }
}

/// Copies scans, and the tables between them, up to the end of the image.
fn copy_scans(
    file: &[u8],
    first: Segment<'_>,
    frame: &Frame,
    bytes: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let mut segment = first;
    let mut scans = 0;
    let mut missing = MissingBits::new(frame);
    loop {
        match segment.marker {
            0xd9 => {
                if frame.progressive && missing.any() {
                    return Err(DecodeError::Truncated);
                }
                if frame.progressive || scans == 1 {
                    bytes.extend_from_slice(&[0xff, 0].repeat(ONES));
                }
                bytes.extend_from_slice(&[0xff, 0xd9]);
                return Ok(());
            }
            0xda => {
                scans += 1;
                missing.remove(segment.body);
                let end = entropy_coded_end(file, segment.end)?;
                bytes.extend_from_slice(&file[segment.start..end]);
                segment = next_segment(file, end)?;
                continue;
            }
            0xc4 | 0xdb | 0xdd => bytes.extend_from_slice(&file[segment.start..segment.end]),
            // The height once more, application data and comments.
            0xdc | 0xe0..=0xef | 0xfe => {}
            marker => return Err(DecodeError::corrupt(format!("marker {marker:#x} after the first scan"))),
        }
        segment = next_segment(file, segment.end)?;
    }
}

/// Bits of the first component's coefficients that no scan of a progressive image has delivered yet. An image that was
/// cut between two scans is complete in syntax, and blurred.
struct MissingBits {
    component: u8,
    /// Missing low bits of each coefficient; all, before its first scan.
    low: [u8; 64],
}

impl MissingBits {
    fn new(frame: &Frame) -> Self {
        Self { component: frame.components[0], low: [u8::MAX; 64] }
    }

    /// Reads a scan header: components with their tables, a range of coefficients, and the lowest bit.
    fn remove(&mut self, scan: &[u8]) {
        let Some((count, rest)) = scan.split_first() else { return };
        let Some((components, [first, last, bits, ..])) = rest.split_at_checked(2 * usize::from(*count))
        else {
            return;
        };
        if components.chunks_exact(2).any(|component| component[0] == self.component) {
            let range = usize::from(*first)..usize::from(*last) + 1;
            self.low.get_mut(range).unwrap_or_default().fill(bits & 0xf);
        }
    }

    fn any(&self) -> bool {
        self.low.iter().any(|&bits| bits > 0)
    }
}

/// Offset of the marker that ends the entropy-coded data from `at` on. Stuffed and fill bytes and restart markers
/// belong to the data.
fn entropy_coded_end(file: &[u8], mut at: usize) -> Result<usize, DecodeError> {
    loop {
        at += memchr::memchr(0xff, &file[at..]).ok_or(DecodeError::Truncated)?;
        match file.get(at + 1).ok_or(DecodeError::Truncated)? {
            0x00 | 0xd0..=0xd7 => at += 2,
            0xff => at += 1,
            _ => return Ok(at),
        }
    }
}
