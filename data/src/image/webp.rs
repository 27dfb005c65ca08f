//! WebP: the container is reduced to what the pixels need, because a decoder that finds a flag for missing metadata
//! refuses the file.

use std::io::Cursor;

use image::{DynamicImage, RgbImage as RgbBuffer, RgbaImage as RgbaBuffer};
use image_webp::{DecodingError, WebPDecoder};

use super::{DecodeError, DecodeLimits, Decoded, admit, finish, orientation};

const ALPHA: u8 = 0x10;
const ANIMATION: u8 = 0x02;

/// Chunks of a file, without the ones that are not used.
#[derive(Default)]
struct Container<'a> {
    /// Flags and canvas size of the extended format.
    extended: Option<&'a [u8]>,
    /// Chunks with their headers: the first `VP8 ` or `VP8L`, `ALPH` before it, or `ANIM` and all `ANMF`.
    bitstream: Option<&'a [u8]>,
    alpha: Option<&'a [u8]>,
    animation: Vec<&'a [u8]>,
    exif: Option<&'a [u8]>,
    xmp: Option<&'a [u8]>,
}

pub(super) fn decode(bytes: &[u8], limits: &DecodeLimits) -> Result<Decoded, DecodeError> {
    let container = Container::read(bytes)?;
    let reduced = container.reduced()?;
    let mut decoder = WebPDecoder::new(Cursor::new(reduced)).map_err(decode_error)?;
    let (width, height) = decoder.dimensions();
    let _memory = admit(width, height, limits)?;
    if let Some(canvas) = container.canvas().filter(|&canvas| canvas != (width, height)) {
        return Err(DecodeError::corrupt(format!(
            "an image of {width} x {height} on a canvas of {canvas:?}"
        )));
    }
    let length = decoder.output_buffer_size().ok_or(DecodeError::NoPixels)?;
    decoder.set_memory_limit(length);
    let mut pixels = vec![0; length];
    decoder.read_image(&mut pixels).map_err(decode_error)?;
    let image = if decoder.has_alpha() {
        RgbaBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgba8)
    } else {
        RgbBuffer::from_raw(width, height, pixels).map(DynamicImage::ImageRgb8)
    };
    let image = image.ok_or_else(|| DecodeError::corrupt("unexpected channels"))?;
    finish(image, orientation::find(container.exif, container.xmp))
}

impl<'a> Container<'a> {
    /// Reads the chunks up to the end of the data, whatever length the header states: libwebp reads such files too.
    fn read(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let mut container = Self::default();
        let mut rest = bytes.get(12..).unwrap_or_default();
        while let Some((header, content)) = rest.split_first_chunk::<8>() {
            let [a, b, c, d, length @ ..] = *header;
            let length = usize::try_from(u32::from_le_bytes(length)).unwrap_or(usize::MAX);
            let Some(body) = content.get(..length) else {
                container.take(&[a, b, c, d], None, rest)?;
                break;
            };
            container.take(&[a, b, c, d], Some(body), &rest[..8 + length])?;
            // A chunk of odd length is padded. The padding of the last one may be missing.
            rest = content.get(length + length % 2..).unwrap_or_default();
        }
        Ok(container)
    }

    /// Keeps a chunk. `body` is `None` if the data end within it.
    fn take(&mut self, kind: &[u8; 4], body: Option<&'a [u8]>, whole: &'a [u8]) -> Result<(), DecodeError> {
        let needed = match kind {
            b"VP8X" | b"ANIM" => true,
            b"VP8 " | b"VP8L" | b"ALPH" => self.bitstream.is_none(),
            b"ANMF" => self.animation.len() < 2,
            _ => false,
        };
        if body.is_none() && needed {
            return Err(DecodeError::Truncated);
        }
        match kind {
            b"VP8X" => self.extended = self.extended.or(body),
            b"VP8 " | b"VP8L" => self.bitstream = self.bitstream.or(Some(whole)),
            b"ALPH" if self.bitstream.is_none() => self.alpha = self.alpha.or(Some(whole)),
            // Only the first frame is shown.
            b"ANIM" | b"ANMF" if needed => self.animation.push(whole),
            b"EXIF" => self.exif = self.exif.or(body),
            b"XMP " => self.xmp = self.xmp.or(body),
            _ => {}
        }
        Ok(())
    }

    fn is_animated(&self) -> bool {
        self.extended.and_then(|body| body.first()).is_some_and(|flags| flags & ANIMATION != 0)
    }

    /// Size of the canvas, in pixels.
    fn canvas(&self) -> Option<(u32, u32)> {
        let [_, _, _, _, w0, w1, w2, h0, h1, h2] = *self.extended?.first_chunk()?;
        Some((u32::from_le_bytes([w0, w1, w2, 0]) + 1, u32::from_le_bytes([h0, h1, h2, 0]) + 1))
    }

    /// A file with only the chunks that the pixels need, and flags that match them.
    fn reduced(&self) -> Result<Vec<u8>, DecodeError> {
        let mut chunks = Vec::new();
        let mut extended = |flags: u8| {
            let mut body = self.extended?.first_chunk::<10>().copied()?;
            body[0] = flags;
            chunks.extend_from_slice(b"VP8X\x0a\0\0\0");
            chunks.extend_from_slice(&body);
            Some(())
        };
        let kept: Vec<&[u8]> = if self.is_animated() {
            extended(ALPHA | ANIMATION);
            self.animation.clone()
        } else {
            // Only a lossy bitstream has its alpha in another chunk.
            let lossy = self.bitstream.is_some_and(|chunk| chunk.starts_with(b"VP8 "));
            let alpha = self.alpha.filter(|_| lossy).filter(|_| extended(ALPHA).is_some());
            alpha.into_iter().chain(Some(self.bitstream.ok_or(DecodeError::Truncated)?)).collect()
        };
        for chunk in kept {
            chunks.extend_from_slice(chunk);
            chunks.resize(chunks.len().next_multiple_of(2), 0);
        }
        let length = u32::try_from(chunks.len() + 4).map_err(DecodeError::corrupt)?;
        Ok([b"RIFF", &length.to_le_bytes()[..], b"WEBP", &chunks].concat())
    }
}

fn decode_error(error: DecodingError) -> DecodeError {
    match error {
        DecodingError::IoError(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            DecodeError::Truncated
        }
        DecodingError::UnsupportedFeature(what) => DecodeError::Unsupported(what),
        error => DecodeError::corrupt(error),
    }
}
