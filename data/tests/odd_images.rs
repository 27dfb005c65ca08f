//! Decodes the test images of Pillow's source archive, many of them odd or damaged, and compares with Pillow.
//! `scripts/setup odd-images` fetches them and lets Pillow decode them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lgd_data::image::{DecodeError, DecodeLimits, RgbImage, decode};
use lgd_testing::pixels::{distance, peak_kib};
use serde::Deserialize;

/// Largest mean difference to Pillow, in levels.
const MEAN: f64 = 2.0;

/// Files on which this decoder and Pillow differ, by the cause.
const DIFFERENT: &[(&str, &[&str])] = &[
    (
        "gray of 16 bits is scaled to 8, by the rules of this crate; Pillow clips it at 255",
        &[
            "12in16bit.tif",
            "16_bit_binary.pgm",
            "16_bit_noise.tif",
            "16bit.MM.cropped.tif",
            "16bit.MM.deflate.tif",
            "16bit.cropped.tif",
            "16bit.deflate.tif",
            "cmx3g8_wv_1998.260_0745_mcidas.tiff",
            "hopper_16bit.pgm",
            "hopper_16bit_plain.pgm",
            "ifd_tag_type.tiff",
            "uint16_1_4660.tif",
        ],
    ),
    (
        "premultiplied colors of 16 bits: Pillow divides the high bytes, and at a low alpha their rounding shows",
        &["tiff_16bit_RGBa.tiff", "tiff_strip_planar_16bit_RGBa.tiff", "tiff_tiled_planar_16bit_RGBa.tiff"],
    ),
    (
        "integers that state no white (32 bits, signed) or have an odd width or bit order: unsupported",
        &["12bit.cropped.tif", "16_bit_binary_pgm.tiff", "16bit.r.tif", "16bit.s.tif", "8bit.s.tif"],
    ),
    ("no photometric interpretation, and floats beyond 0 to 1", &["10ct_32bit_128.tiff"]),
    (
        "compression that is not read: Group 3 fax, LZMA, old JPEG, Group 4 fax in inverted bit order",
        &[
            "compression.tif",
            "g4-fillorder-test.tif",
            "hopper_lzma.tif",
            "old-style-jpeg-compression.tif",
            "old-style-jpeg-compression-no-samplesperpixel.tif",
            "total-pages-zero.tif",
        ],
    ),
    ("CIE L*a*b*: unsupported", &["hopper.Lab.tif", "lab-green.tif", "lab-red.tif", "lab.tif"]),
    ("PFM: unsupported, with its name", &["hopper.pfm", "hopper_be.pfm"]),
    (
        "damage in a transparent color, text or profile, which are not used; Pillow raises an error",
        &["1_trns.png", "i_trns.png", "png_decompression_dos.png", "unknown_compression_method.png"],
    ),
    (
        "damaged TIFF of which Pillow reads what it can: a plane without data, a tag for another number of channels, \
         directories in a circle",
        &[
            "multipage_single_frame_loop.tiff",
            "separate_planar_extra_samples.tiff",
            "tiff_wrong_bits_per_sample_2.tiff",
        ],
    ),
    ("the last byte is missing, of the padding of the last row", &["mmap_error.bmp"]),
    ("a tag of the wrong type whose value is clear", &["tiff_tiled_jpeg_oob_read.tif"]),
    ("a Huffman code that does not exist; Pillow shows stripes", &["hopper_bad_exif.jpg"]),
    ("4 x 4 pixels: libjpeg does not interpolate color planes that are 2 wide", &["app13.jpg"]),
];

/// What Pillow says about a file.
#[derive(Deserialize)]
struct Verdict {
    /// Pillow's name of the format, if it recognizes one.
    format: Option<String>,
    /// Whether Pillow decodes it. Formats that `lgd` does not read are not decoded.
    read: bool,
}

fn corpus() -> PathBuf {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../third_party/odd-images");
    assert!(
        folder.join("expected.json").exists(),
        "{} is missing: run scripts/setup odd-images",
        folder.display()
    );
    folder
}

fn verdicts() -> BTreeMap<String, Verdict> {
    serde_json::from_str(&fs::read_to_string(corpus().join("expected.json")).unwrap()).unwrap()
}

fn decode_file(path: &Path) -> Result<RgbImage, DecodeError> {
    decode(&fs::read(path).unwrap(), &DecodeLimits::default())
}

/// Why the outcome for a file is not Pillow's; `None` if it is.
fn disagreement(name: &str, verdict: &Verdict) -> Option<String> {
    let outcome = decode_file(&corpus().join("files").join(name));
    let image = match (outcome, verdict.read) {
        (Ok(image), true) => image,
        (Ok(_), false) => return Some(format!("accepted, {:?}", verdict.format)),
        (Err(error), true) => return Some(format!("rejected: {error}")),
        (Err(_), false) => return None,
    };
    let expected = decode_file(&corpus().join("expected").join(format!("{name}.png"))).unwrap();
    if (image.width(), image.height()) != (expected.width(), expected.height()) {
        return Some(format!("{image:?}, expected {expected:?}"));
    }
    let mean = distance(&image, &expected).mean;
    (mean >= MEAN).then(|| format!("mean difference {mean:.1}"))
}

#[test]
fn odd_images_are_read_as_pillow_reads_them_or_rejected_as_pillow_rejects_them() {
    let found: BTreeMap<String, String> = verdicts()
        .into_iter()
        .filter_map(|(name, verdict)| disagreement(&name, &verdict).map(|what| (name, what)))
        .collect();
    let known: BTreeSet<&str> = DIFFERENT.iter().flat_map(|(_, names)| *names).copied().collect();
    let unknown: Vec<_> = found.iter().filter(|(name, _)| !known.contains(name.as_str())).collect();
    assert!(unknown.is_empty(), "{} files: {unknown:#?}", unknown.len());
    let stale: Vec<_> = known.iter().filter(|name| !found.contains_key(**name)).collect();
    assert!(stale.is_empty(), "no difference any more: {stale:?}");
}

#[test]
fn an_image_of_another_format_is_called_by_its_name() {
    let named = [
        ("AVIF", "AVIF"),
        ("JPEG2000", "JPEG 2000"),
        ("PSD", "Photoshop"),
        ("ICO", "ICO"),
        ("CUR", "CUR"),
        ("ICNS", "ICNS"),
        ("QOI", "QOI"),
        ("DDS", "DDS"),
        ("BLP", "BLP"),
        ("PCX", "PCX"),
        ("SGI", "SGI"),
        ("EPS", "PostScript"),
        ("WMF", "MF drawing"),
        ("XPM", "XPM"),
        ("FITS", "FITS"),
        ("SUN", "Sun"),
    ];
    for (name, verdict) in verdicts() {
        let Some((_, word)) = named.iter().find(|(format, _)| verdict.format.as_deref() == Some(format))
        else {
            continue;
        };
        let error = decode_file(&corpus().join("files").join(&name)).unwrap_err();
        assert!(
            error.reason() == "unsupported" && error.to_string().contains(word),
            "{name}, {:?}: {} ({error})",
            verdict.format,
            error.reason()
        );
    }
}

/// Limits so small that a header with false sizes cannot make the test slow.
const SMALL: DecodeLimits = DecodeLimits { max_bytes: 4 << 20, max_pixels: 1 << 17 };

#[test]
#[cfg(target_os = "linux")]
fn damaged_odd_images_neither_panic_nor_hang_nor_exhaust_memory() {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        usize::try_from(state >> 11).unwrap() % below
    };
    let before = peak_kib().unwrap();
    for (name, _) in verdicts() {
        let whole = fs::read(corpus().join("files").join(&name)).unwrap();
        if whole.len() > 200_000 {
            continue;
        }
        for round in 0..12 {
            let mut bytes = whole.clone();
            // Damage in the headers half of the time, anywhere otherwise; every fourth file is cut, too.
            let reach = if round % 2 == 0 { bytes.len().min(600) } else { bytes.len() };
            for _ in 0..1 + round / 2 {
                if reach > 0 {
                    bytes[random(reach)] = u8::try_from(random(256)).unwrap();
                }
            }
            if round % 4 == 3 && !bytes.is_empty() {
                bytes.truncate(random(bytes.len()));
            }
            let start = Instant::now();
            if let Ok(image) = decode(&bytes, &SMALL) {
                assert!(u64::from(image.width()) * u64::from(image.height()) <= SMALL.max_pixels, "{name}");
            }
            assert!(start.elapsed() < Duration::from_secs(5), "{name}, round {round}: {:?}", start.elapsed());
        }
    }
    let more = peak_kib().unwrap() - before;
    assert!(more < 256 << 10, "{more} KiB more");
}
