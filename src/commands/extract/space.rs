//! The disk space that the large parts of a cache will take, told before the work begins.

use std::path::Path;

use anyhow::bail;
use indicatif::DecimalBytes;
use lgd_data::cache::{CacheConfig, Partition, TokenRecord};
use lgd_extract::pipeline::{OutputEstimate, StoredEstimate};

use crate::say::say;

/// One large part of a cache.
struct Need {
    /// What it is, in one or two words.
    name: &'static str,
    /// How it is stored.
    form: String,
    /// Rows, and bytes of each.
    rows: u64,
    each: u64,
    /// Whether every row takes exactly that.
    exact: bool,
    /// How to need less.
    hint: &'static str,
    /// How the names of its files begin.
    files: &'static str,
}

impl Need {
    fn bytes(&self) -> u64 {
        self.rows.saturating_mul(self.each)
    }
}

/// States what stored views, features, tokens and captions of `partition` will take, and which students fit the tokens. Refuses where
/// the disk has less than that, or where the features and tokens of the whole cache take more than `limit`.
pub fn announce(
    config: &CacheConfig,
    stored: Option<&StoredEstimate>,
    partition: Partition,
    limit: u64,
    out: &Path,
) -> anyhow::Result<()> {
    let needs = needs(config, stored, partition);
    let about = |exact: bool| if exact { "" } else { "about " };
    for need in &needs {
        let Need { name, form, rows, each, exact, .. } = need;
        let all = DecimalBytes(need.bytes());
        say(format_args!(
            "{name} ({form}): {rows} x {about}{each} bytes = {about}{all}",
            about = about(*exact)
        ));
    }
    if let Some(tokens) = &config.tokens {
        tell_students(config, tokens);
    }
    let outputs = OutputEstimate::of(config, Partition::WHOLE).bytes();
    if outputs > limit {
        bail!(
            "features and tokens of the whole cache need {}, more than --tokens-limit {} allows\nhint: give --tokens int8 or \
             --tokens svd:DIM, or raise --tokens-limit",
            DecimalBytes(outputs),
            DecimalBytes(limit)
        );
    }
    let Some((free, last)) = free_bytes(out).zip(needs.last()) else { return Ok(()) };
    let bytes = needs.iter().map(Need::bytes).fold(0, u64::saturating_add);
    let exact = needs.iter().all(|need| need.exact);
    say(format_args!("the disk has {} free", DecimalBytes(free)));
    // What an earlier run has stored is both among the bytes and no longer free.
    if bytes > free.saturating_add(already_stored(out, &needs)) {
        let names: Vec<_> = needs.iter().map(|need| need.name).collect();
        bail!(
            "the {} need {}{}, {} has {} free\nhint: make room, or {}",
            names.join(" and "),
            about(exact),
            DecimalBytes(bytes),
            out.display(),
            DecimalBytes(free),
            last.hint
        );
    }
    Ok(())
}

/// Tells which students can be trained to make the tokens, and warns of stored views that are for none of them.
fn tell_students(config: &CacheConfig, tokens: &TokenRecord) {
    let students = tokens.student_sizes();
    let sides = students.sides();
    match config.stored_views.filter(|stored| !sides.contains(&stored.size)) {
        _ if sides.is_empty() => say(format_args!("warning: {students}")),
        Some(stored) => say(format_args!(
            "warning: {students}, the views are stored at {} px\nhint: hgkd will render its views from the images, unless --store-size \
             is one that fits",
            stored.size
        )),
        None => say(format_args!("note: {students}")),
    }
}

/// The large parts of a cache; those that can be made smaller come last.
fn needs(config: &CacheConfig, stored: Option<&StoredEstimate>, partition: Partition) -> Vec<Need> {
    let outputs = OutputEstimate::of(config, partition);
    let features = outputs.features.zip(config.features.as_ref()).map(|(each, record)| Need {
        name: "features",
        form: format!("f16, {}", record.dim),
        rows: outputs.views,
        each,
        exact: true,
        hint: "do without --features",
        files: "views-",
    });
    let captions = outputs.captions.zip(config.captions.as_ref()).map(|(each, record)| Need {
        name: "captions",
        form: format!("f16, {}", record.dim),
        rows: outputs.samples,
        each,
        exact: true,
        hint: "do without --captions",
        files: "captions-",
    });
    let stored = stored.zip(config.stored_views).map(|(stored, format)| Need {
        name: "stored views",
        form: format.to_string(),
        rows: stored.views,
        each: stored.bytes_per_view,
        exact: stored.exact,
        hint: "give a smaller --store-size or --store-views jpeg",
        files: "pixels-",
    });
    let tokens = outputs.tokens.zip(config.tokens.as_ref()).map(|(each, record)| Need {
        name: "tokens",
        form: record.to_string(),
        rows: outputs.views,
        each,
        exact: true,
        hint: "give --tokens int8 or --tokens svd:DIM",
        files: "tokens-",
    });
    [features, captions, stored, tokens].into_iter().flatten().collect()
}

/// Bytes of the large parts that the folder holds already.
fn already_stored(out: &Path, needs: &[Need]) -> u64 {
    let entries = std::fs::read_dir(out).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        needs.iter().any(|need| name.to_string_lossy().starts_with(need.files))
    });
    ours.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Bytes that may be written to the disk of `out`, a folder that need not exist yet; `None` where the system does not tell.
#[cfg(unix)]
fn free_bytes(out: &Path) -> Option<u64> {
    let absolute = std::path::absolute(out).ok()?;
    let stat = absolute.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

/// Bytes that may be written to the disk of `out`; `None` where the system does not tell.
#[cfg(not(unix))]
fn free_bytes(_out: &Path) -> Option<u64> {
    None
}
