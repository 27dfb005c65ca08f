//! The disk space that the large parts of a cache will take, printed before the work starts.

use std::fs;
use std::path::Path;

use anyhow::bail;
use indicatif::DecimalBytes;
use lgd_data::cache::{CacheConfig, Partition, TokenRecord};
use lgd_data::manifest::Existing;
use lgd_extract::pipeline::{OutputEstimate, StoredEstimate};
use lgd_train::StudentSizes;

use crate::say::{say, warn};

/// One large part of a cache.
struct Need {
    /// Name, one or two words.
    name: &'static str,
    /// Storage format.
    form: String,
    /// Total rows, rows per sample, and bytes per row.
    rows: u64,
    per_sample: u64,
    each: u64,
    /// Whether every row takes exactly this many bytes.
    exact: bool,
    /// How to reduce the size.
    hint: &'static str,
    /// Prefix of its file names.
    files: &'static str,
}

impl Need {
    fn bytes(&self) -> u64 {
        self.rows.saturating_mul(self.each)
    }

    fn bytes_of(&self, samples: u64) -> u64 {
        samples.saturating_mul(self.per_sample).saturating_mul(self.each)
    }
}

/// Prints the size of the stored views, features, tokens and captions of `partition`, and which students match the
/// tokens. Fails if the disk has less space, or if features and tokens of the whole cache take more than `limit`
/// bytes.
pub fn announce(
    config: &CacheConfig,
    stored: Option<&StoredEstimate>,
    partition: Partition,
    existing: Existing,
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
    require_limit(config, limit)?;
    let Some((free, last)) = free_bytes(out).zip(needs.last()) else { return Ok(()) };
    let bytes = needs.iter().map(Need::bytes).fold(0, u64::saturating_add);
    let exact = needs.iter().all(|need| need.exact);
    say(format_args!("the disk has {} free", DecimalBytes(free)));
    let stored = match existing {
        Existing::Overwrite => to_be_deleted(out, &needs),
        Existing::Refuse | Existing::Resume => already_stored(out, config, partition, &needs),
    };
    if bytes > free.saturating_add(stored) {
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

/// Fails if features and tokens of the whole cache take more than `limit` bytes.
pub fn require_limit(config: &CacheConfig, limit: u64) -> anyhow::Result<()> {
    let outputs = OutputEstimate::of(config, Partition::WHOLE).bytes();
    if outputs > limit {
        bail!(
            "features and tokens of the whole cache need {}, more than --tokens-limit {} allows\nhint: give --tokens int8 or \
             --tokens svd:DIM, or a larger --tokens-limit",
            DecimalBytes(outputs),
            DecimalBytes(limit)
        );
    }
    Ok(())
}

/// Prints which students can be trained on the tokens. Warns if the stored views match none of them.
pub fn tell_students(config: &CacheConfig, tokens: &TokenRecord) {
    let students = StudentSizes::of(tokens);
    let sides = students.sides();
    match config.stored_views.filter(|stored| !sides.contains(&stored.size)) {
        _ if sides.is_empty() => warn(format_args!("warning: {students}")),
        Some(stored) => warn(format_args!(
            "warning: {students}, the views are stored at {} px, so training on the tokens renders views from the images\nhint: give \
             a --store-size that fits",
            stored.size
        )),
        None => say(format_args!("note: {students}")),
    }
}

/// The large parts of a cache. Those that can be made smaller come last.
fn needs(config: &CacheConfig, stored: Option<&StoredEstimate>, partition: Partition) -> Vec<Need> {
    let (outputs, views) = (OutputEstimate::of(config, partition), u64::from(config.views));
    let features = outputs.features.zip(config.features.as_ref()).map(|(each, record)| Need {
        name: "features",
        form: format!("f16, {}", record.dim),
        rows: outputs.views,
        per_sample: views,
        each,
        exact: true,
        hint: "leave out --features",
        files: "views-",
    });
    let captions = outputs.captions.zip(config.captions.as_ref()).map(|(each, record)| Need {
        name: "captions",
        form: format!("f16, {}", record.dim),
        rows: outputs.samples,
        per_sample: 1,
        each,
        exact: true,
        hint: "leave out --captions",
        files: "captions-",
    });
    let stored = stored.zip(config.stored_views).map(|(stored, format)| Need {
        name: "stored views",
        form: format.to_string(),
        rows: stored.views,
        per_sample: views,
        each: stored.bytes_per_view,
        exact: stored.exact,
        hint: "give a smaller --store-size or --store-views jpeg",
        files: "pixels-",
    });
    let tokens = outputs.tokens.zip(config.tokens.as_ref()).map(|(each, record)| Need {
        name: "tokens",
        form: record.to_string(),
        rows: outputs.views,
        per_sample: views,
        each,
        exact: true,
        hint: "give --tokens int8 or --tokens svd:DIM",
        files: "tokens-",
    });
    [features, captions, stored, tokens].into_iter().flatten().collect()
}

/// Bytes of the large parts in the shards of `partition` that an earlier run has made. They count both as needed and
/// as not free, so they are added to the free space. Shards of other partitions count as neither.
fn already_stored(out: &Path, config: &CacheConfig, partition: Partition, needs: &[Need]) -> u64 {
    let shards = (0..config.shards()).filter(|&shard| partition.contains(shard));
    let stored = |(shard, need): (usize, &Need)| {
        let samples = config.shard_samples.min(config.samples - shard * config.shard_samples);
        let file = fs::metadata(out.join(format!("{}{shard:05}.parquet", need.files)));
        // The features' file also holds other columns.
        file.map_or(0, |file| file.len()).min(need.bytes_of(samples as u64))
    };
    shards.flat_map(|shard| needs.iter().map(move |need| (shard, need))).map(stored).sum()
}

/// Bytes of the old files of the large parts, which are deleted before the first new file is written.
fn to_be_deleted(out: &Path, needs: &[Need]) -> u64 {
    bytes_of(out, &needs.iter().map(|need| need.files).collect::<Vec<_>>())
}

/// Bytes of the files in `out` whose names begin with one of `kinds`.
pub fn bytes_of(out: &Path, kinds: &[&str]) -> u64 {
    let entries = fs::read_dir(out).into_iter().flatten().flatten();
    let ours = entries.filter(|entry| {
        let name = entry.file_name();
        kinds.iter().any(|kind| name.to_string_lossy().starts_with(kind))
    });
    ours.filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Free bytes on the disk of `out`, a folder that need not exist yet; `None` if the system cannot report them.
pub fn free_bytes(out: &Path) -> Option<u64> {
    let absolute = std::path::absolute(out).ok()?;
    let stat = absolute.ancestors().find_map(|dir| rustix::fs::statvfs(dir).ok())?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

#[cfg(test)]
mod tests {
    use lgd_data::cache::{CaptionRecord, FeatureRecord};

    use super::*;

    /// Ten samples of two views in shards of four samples: 200 bytes of features per view, 100 bytes of captions per
    /// sample.
    fn config() -> CacheConfig {
        CacheConfig {
            shard_samples: 4,
            features: Some(FeatureRecord { output: "features".to_owned(), dim: 100 }),
            captions: Some(CaptionRecord { dim: 50, text_encoder: None }),
            ..lgd_testing::cache_config(4, 10)
        }
    }

    #[test]
    fn only_what_this_part_has_stored_is_room_for_it() {
        let (dir, config) = (tempfile::tempdir().unwrap(), config());
        let write = |name: &str, bytes: usize| fs::write(dir.path().join(name), vec![0_u8; bytes]).unwrap();
        for shard in 0..4 {
            write(&format!("views-{shard:05}.parquet"), 10_000);
        }
        write("captions-00001.parquet", 390);
        let stored = |partition: Partition| {
            already_stored(dir.path(), &config, partition, &needs(&config, None, partition))
        };
        let part = |index| Partition::new(index, 3).unwrap();
        // The third shard has two samples. The cache has no fourth shard.
        assert_eq!([0, 1, 2].map(|index| stored(part(index))), [1_600, 1_600 + 390, 800]);
        assert_eq!(stored(Partition::WHOLE), 4_000 + 390);
        fs::remove_file(dir.path().join("views-00002.parquet")).unwrap();
        assert_eq!(stored(part(2)), 0);
        assert_eq!(to_be_deleted(dir.path(), &needs(&config, None, Partition::WHOLE)), 30_390);
    }
}
