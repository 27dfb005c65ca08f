//! Decodes the test images of Pillow's source archive, many of them odd or damaged, and compares with Pillow.
//! `scripts/setup odd-images` fetches them and lets Pillow decode them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a failed step is a failed test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lgd_data::image::{DecodeError, DecodeLimits, RgbImage, decode};
use serde::Deserialize;

/// Largest mean difference to Pillow, in levels.
const MEAN: f64 = 2.0;

/// Files on which this decoder and Pillow differ, and why.
const DIFFERENT: &[(&str, &str)] = &[];

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
    let pairs = image.pixels().iter().zip(expected.pixels());
    let sum: u64 = pairs.map(|(a, b)| u64::from(a.abs_diff(*b))).sum();
    let mean = sum as f64 / image.pixels().len() as f64;
    (mean >= MEAN).then(|| format!("mean difference {mean:.1}"))
}

#[test]
fn odd_images_are_read_as_pillow_reads_them_or_rejected_as_pillow_rejects_them() {
    let found: BTreeMap<String, String> = verdicts()
        .into_iter()
        .filter_map(|(name, verdict)| disagreement(&name, &verdict).map(|what| (name, what)))
        .collect();
    let known: BTreeSet<&str> = DIFFERENT.iter().map(|(name, _)| *name).collect();
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
        ("WMF", "WMF"),
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

/// Peak address space of this process in KiB, including memory that was allocated but never touched.
#[cfg(target_os = "linux")]
fn peak_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmPeak")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

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
    let before = peak_kib();
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
    assert!(peak_kib() - before < 256 << 10, "{} KiB more", peak_kib() - before);
}
