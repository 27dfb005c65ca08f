//! Compares decoding with Pillow, and decodes malicious bytes. `goldens/make_goldens.py` and `goldens/make_odd.py` write
//! the fixtures.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

#[path = "common/goldens.rs"]
mod goldens;

use std::fs;
use std::sync::OnceLock;

use lgd_data::image::{DecodeError, DecodeLimits, MAX_SIDE, RgbImage, decode, decode_with_transparency};
use lgd_testing::pixels::{Distance, distance, peak_kib};
use proptest::prelude::*;

use goldens::bytes as golden;

fn decoded(bytes: &[u8]) -> Result<RgbImage, DecodeError> {
    decode(bytes, &DecodeLimits::default())
}

/// All encoded fixtures of ordinary images, by name.
fn fixtures() -> Vec<(String, Vec<u8>)> {
    fixtures_in("decode")
}

/// All encoded fixtures in a folder that have an expected image, by name.
fn fixtures_in(folder: &str) -> Vec<(String, Vec<u8>)> {
    let path = goldens::path(folder);
    let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| path.join(format!("{name}.png")).exists()).collect();
    names.sort();
    names.into_iter().map(|name| (name.clone(), golden(&format!("{folder}/{name}")))).collect()
}

#[test]
fn pixels_of_a_png_are_the_bytes_python_wrote() {
    let image = decoded(&golden("decode/rgb.png")).unwrap();
    assert_eq!((image.width(), image.height()), (37, 23));
    assert_eq!(image.pixels(), golden("rgb.raw"));
}

#[test]
fn every_format_decodes_as_in_pillow() {
    let fixtures = fixtures();
    assert_eq!(fixtures.len(), 51, "all fixtures are there");
    for (name, bytes) in fixtures {
        let expected = goldens::image(&format!("decode/{name}.png"));
        let image = decoded(&bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let Distance { max, mean, .. } = distance(&image, &expected);
        // Only JPEG decoders differ: they use another inverse transform and another interpolation of the color planes.
        let allowed = if name.ends_with("jpg") { (4, 0.5) } else { (0, 0.0) };
        assert!(max <= allowed.0 && mean <= allowed.1, "{name}: max {max}, mean {mean}");
    }
}

#[test]
fn odd_images_decode_as_in_pillow() {
    let fixtures = fixtures_in("odd/read");
    assert_eq!(fixtures.len(), 130, "all fixtures are there");
    let wrong: Vec<String> = fixtures
        .into_iter()
        .filter_map(|(name, bytes)| {
            let expected = goldens::image(&format!("odd/read/{name}.png"));
            let image = match decoded(&bytes) {
                Ok(image) => image,
                Err(error) => return Some(format!("{name}: {error}")),
            };
            if (image.width(), image.height()) != (expected.width(), expected.height()) {
                return Some(format!("{name}: {image:?}, expected {expected:?}"));
            }
            let Distance { max, mean, .. } = distance(&image, &expected);
            let allowed = if is_jpeg(&name) {
                (4, 0.5)
            } else if name.contains("-100.") {
                (1, 0.1) // a PNM with a maximum of 100, which is rounded differently
            } else {
                (0, 0.0)
            };
            (max > allowed.0 || mean > allowed.1).then(|| format!("{name}: max {max}, mean {mean}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Whether a file holds JPEG data, whose decoders differ slightly: another inverse transform, another interpolation of
/// the color planes.
fn is_jpeg(name: &str) -> bool {
    [".jpg", ".mpo", "jpeg.tif"].iter().any(|end| name.ends_with(end))
}

#[test]
fn what_cannot_be_read_is_rejected_with_its_reason() {
    let mut files: Vec<_> =
        fs::read_dir(goldens::path("odd/rejected")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert_eq!(files.len(), 20, "all fixtures are there");
    let wrong: Vec<String> = files
        .iter()
        .filter_map(|path| {
            let name = path.file_name().unwrap().to_str().unwrap();
            let reason = decoded(&fs::read(path).unwrap()).map_err(|error| error.reason().to_owned());
            let expected = name.split('-').next().unwrap();
            (reason != Err(expected.to_owned())).then(|| format!("{name}: {reason:?}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn transparency_is_found_where_it_shows() {
    let transparent =
        |name: &str| decode_with_transparency(&golden(name), &DecodeLimits::default()).unwrap().transparent;
    for name in [
        "decode/rgba.png",
        "decode/gray-alpha.png",
        "decode/palette-transparent.png",
        "decode/rgba16.png",
        "decode/transparent.gif",
        "decode/alpha.webp",
        "decode/rgba.tiff",
        "odd/read/rgb-alpha.tif",
        "odd/read/rgb-associated.tif",
        "odd/read/gray-alpha.tif",
        "odd/read/rgb-clear-color.png",
        "odd/read/lossy-alpha-stripped.webp",
        "odd/read/animated-partial.webp",
        "odd/read/partial-clear.gif",
    ] {
        assert!(transparent(name), "{name}");
    }
    for name in [
        "decode/rgb.png",
        "decode/palette.png",
        "decode/palette.gif",
        "decode/lossless.webp",
        "decode/444.jpg",
        "odd/read/rgb-unused.tif",
        "odd/read/partial-plain.gif",
        "odd/read/animated-lossy-stripped.webp",
    ] {
        assert!(!transparent(name), "{name}");
    }
}

#[test]
fn other_formats_are_called_by_their_names() {
    let unsupported = |bytes: &[u8]| {
        let error = decoded(bytes).unwrap_err();
        assert_eq!(error.reason(), "unsupported", "{error}");
        error.to_string()
    };
    for (bytes, name) in [
        (&b"qoif\0\0\0\x01\0\0\0\x01\x03\0"[..], "QOI"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic\0\0", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1heicmiaf\0\0", "HEIC"),
        (b"\0\0\0\x1cftypmif1\0\0\0\0mif1avifmiaf\0\0", "AVIF"),
        (b"\0\0\0\x0cJXL \r\n\x87\n", "JPEG XL"),
        (b"\xff\x0a\0", "JPEG XL"),
        (b"\xff\x4f\xff\x51\0", "JPEG 2000"),
        (b"%PDF-1.7", "PDF"),
        (b"8BPS\0\x01", "Photoshop"),
        (b"<?xml version=\"1.0\"?>\n<!-- a drawing -->\n<svg xmlns=\"x\"/>", "SVG"),
        (b"\xef\xbb\xbf <SVG/>", "SVG"),
        (b"\0\0\x01\0\x01\0", "ICO"),
    ] {
        let message = unsupported(bytes);
        assert!(message.contains(name) && message.contains("convert it"), "{message}");
    }
    for (bytes, name) in [
        (&b"<!DOCTYPE html><title>404</title>"[..], "web page"),
        (b"\0\0\0\x18ftypmp42\0\0\0\0isom", "video"),
        (b"PK\x03\x04", "ZIP"),
    ] {
        let error = decoded(bytes).unwrap_err();
        assert!(error.reason() == "unknown-format" && error.to_string().contains(name), "{error}");
    }
}

#[test]
fn a_jpeg_cut_anywhere_is_a_reject() {
    for (name, bytes) in fixtures().into_iter().filter(|(name, _)| name.ends_with(".jpg")) {
        for end in 0..bytes.len() - 1 {
            assert!(decoded(&bytes[..end]).is_err(), "{name} cut after {end} of {} bytes", bytes.len());
        }
    }
}

#[test]
fn any_format_cut_in_half_is_a_reject() {
    // The first half of an animation may contain its complete first frame.
    for (name, bytes) in fixtures().into_iter().filter(|(name, _)| !name.starts_with("animated")) {
        let outcome = decoded(&bytes[..bytes.len() / 2]);
        let reason = outcome.map(|_| ()).expect_err(&name).reason();
        assert!(["truncated", "corrupt"].contains(&reason), "{name}: {reason}");
    }
}

#[test]
fn stray_bytes_around_jpeg_segments_are_skipped_as_libjpeg_does() {
    let whole = golden("decode/444.jpg");
    let expected = decoded(&whole).unwrap();
    let tables = whole.windows(2).position(|pair| pair == [0xff, 0xdb]).unwrap();
    let mut stray = whole.clone();
    stray.splice(tables..tables, [1, 2, 3, 4, 5, 6]);
    assert_eq!(decoded(&stray).unwrap(), expected);
    let trailing = [&whole[..], b"trailing text"].concat();
    assert_eq!(decoded(&trailing).unwrap(), expected);
}

#[test]
fn what_is_appended_to_a_jpeg_does_not_make_it_truncated() {
    // A motion photo: a video follows the image and contains bytes that resemble a scan without an end.
    let film = [&b"\0\0\0\x18ftypmp42"[..], &[0xff, 0xda, 0, 12, 3, 1, 0xff]].concat();
    for (name, bytes) in fixtures().into_iter().filter(|(name, _)| name.ends_with(".jpg")) {
        let photo = [&bytes[..], &film].concat();
        assert_eq!(decoded(&photo).unwrap(), decoded(&bytes).unwrap(), "{name}");
        let scan = bytes.windows(2).rposition(|pair| pair == [0xff, 0xda]).unwrap();
        let cut = [&bytes[..scan + 16], &film].concat();
        assert_eq!(decoded(&cut).unwrap_err(), DecodeError::Truncated, "{name} cut, and then the film");
    }
}

#[test]
fn a_jpeg_that_an_end_marker_cuts_short_is_a_reject() {
    let names = [
        "444.jpg",
        "420.jpg",
        "422.jpg",
        "gray.jpg",
        "progressive.jpg",
        "restarts.jpg",
        "cmyk.jpg",
        "ycck.jpg",
    ];
    for name in names {
        let whole = golden(&format!("decode/{name}"));
        let scan = whole.windows(2).position(|pair| pair == [0xff, 0xda]).unwrap();
        // The last bytes may be no more than the rest of a code, or of a scan that only refines.
        for end in scan + 16..whole.len() - 8 {
            let cut = [&whole[..end], &[0xff, 0xd9]].concat();
            assert!(decoded(&cut).is_err(), "{name} cut after {end} of {} bytes", whole.len());
        }
    }
}

#[test]
fn a_broken_huffman_code_is_a_reject() {
    let mut bytes = golden("photo-500x375.jpg");
    let middle = bytes.len() / 2;
    // A run of ones is not a Huffman code. Byte stuffing keeps it from being a marker.
    bytes[middle..middle + 20].copy_from_slice(&[0xff, 0].repeat(10));
    assert_eq!(decoded(&bytes).unwrap_err().reason(), "corrupt");
}

#[test]
fn reasons_are_stable() {
    let small = DecodeLimits { max_bytes: 100, max_pixels: 850 };
    let png = golden("decode/rgb.png");
    assert_eq!(decoded(b"").unwrap_err(), DecodeError::Empty);
    assert_eq!(decoded(b"hello, this is no image").unwrap_err(), DecodeError::UnknownFormat);
    let too_long = DecodeError::TooManyBytes { bytes: png.len() as u64, limit: 100 };
    assert_eq!(decode(&png, &small).unwrap_err(), too_long);
    let limits = DecodeLimits { max_bytes: 1 << 20, ..small };
    let too_large = DecodeError::TooManyPixels { width: 37, height: 23, limit: 850 };
    for name in ["rgb.png", "444.jpg", "palette.gif", "rgb.bmp", "rgb.tiff", "lossy.webp", "rgb.ppm"] {
        assert_eq!(decode(&golden(&format!("decode/{name}")), &limits).unwrap_err(), too_large, "{name}");
    }
    let exact = DecodeLimits { max_pixels: 851, ..limits };
    assert!(decode(&png, &exact).is_ok());
    let reasons = [too_long.reason(), too_large.reason(), DecodeError::Empty.reason()];
    assert_eq!(reasons, ["too-many-bytes", "too-many-pixels", "empty"]);
}

#[test]
#[cfg(target_os = "linux")]
fn a_header_that_promises_too_much_costs_no_memory() {
    let patched = |name: &str, offset: usize, with: &[u8]| {
        let mut bytes = golden(&format!("decode/{name}"));
        bytes[offset..offset + with.len()].copy_from_slice(with);
        bytes
    };
    let jpeg = golden("decode/444.jpg");
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).unwrap();
    let bombs = [
        golden("bomb.png"),
        patched("444.jpg", frame + 5, &[0xff; 4]),
        patched("palette.gif", 6, &[0xff; 4]),
        patched("rgb.bmp", 18, &[0x60, 0xea, 0, 0, 0x60, 0xea, 0, 0]),
        patched("lossless.webp", 21, &[0xfe, 0xbf, 0xff, 0x0f]),
        b"P6\n60000 60000\n255\nabc".to_vec(),
    ];
    let before = peak_kib().unwrap();
    for (index, bomb) in bombs.iter().enumerate() {
        assert_eq!(decoded(bomb).unwrap_err().reason(), "too-many-pixels", "bomb {index}");
    }
    assert_eq!(
        decoded(&golden("long.png")).unwrap_err(),
        DecodeError::SideTooLong { width: 100_000, height: 2 }
    );
    let more = peak_kib().unwrap() - before;
    assert!(more < 32 << 10, "{more} KiB more");
}

#[test]
fn an_image_has_the_pixels_it_says() {
    assert!(RgbImage::new(2, 1, vec![0; 6]).is_ok());
    for (width, height, bytes) in
        [(2, 1, 5), (0, 1, 0), (1, 0, 0), (MAX_SIDE + 1, 1, (MAX_SIDE as usize + 1) * 3)]
    {
        assert!(RgbImage::new(width, height, vec![0; bytes]).is_err(), "{width} x {height}");
    }
}

/// Limits so small that a header with false sizes cannot make the test slow.
const SMALL: DecodeLimits = DecodeLimits { max_bytes: 1 << 20, max_pixels: 1 << 18 };

/// Any result except a panic is correct, as long as a decoded image is within the limits.
fn check(bytes: &[u8]) -> Result<(), TestCaseError> {
    match decode(bytes, &SMALL) {
        Ok(image) => prop_assert!(u64::from(image.width()) * u64::from(image.height()) <= SMALL.max_pixels),
        Err(error) => prop_assert!(!error.reason().is_empty() && !error.to_string().is_empty()),
    }
    Ok(())
}

/// All readable fixtures.
static ALL: OnceLock<Vec<(String, Vec<u8>)>> = OnceLock::new();

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn random_bytes_never_panic(
        magic in prop::sample::select(vec![
            &b""[..], b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"GIF89a", b"RIFF\0\0\0\0WEBP", b"II*\0", b"MM\0*", b"BM",
            b"P1", b"P3\n", b"P4", b"P6 3 3 255\n", b"P7",
        ]),
        tail in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        check(&[magic, &tail].concat())?;
    }

    #[test]
    fn damaged_files_never_panic(
        which in any::<prop::sample::Index>(),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..12),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let files = ALL.get_or_init(|| [fixtures(), fixtures_in("odd/read")].concat());
        let (_, mut bytes) = files[which.index(files.len())].clone();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        check(&bytes)?;
    }
}

/// The largest size in memory that this process has had, in bytes.
fn peak_resident() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024
}

#[test]
fn threads_that_decode_large_images_share_one_budget_of_memory() {
    // By its budget, an image of 81 million pixels is decoded alone. It takes about 0.4 GB.
    let side = 9000;
    let mut bytes = format!("P5 {side} {side} 255\n").into_bytes();
    bytes.resize(bytes.len() + side * side, 7);
    let before = peak_resident();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| assert_eq!(decoded(&bytes).unwrap().pixels()[0], 7));
        }
    });
    let more = peak_resident() - before;
    assert!(more < 1_300_000_000, "eight threads took {more} bytes");
}
