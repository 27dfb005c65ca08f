//! The JSON report of `lgd extract`.

use lgd_data::cache::{CacheManifest, CaptionRecord, FeatureRecord, StoredFormat, TokenRecord};
use lgd_extract::ExtractSummary;
use serde::Serialize;

/// The report that the command prints.
#[derive(Serialize)]
pub struct Report {
    /// Samples cached by this run, K views each.
    samples: u64,
    rejected: u64,
    views: u64,
    seconds: f64,
    views_per_second: f64,
    /// The whole cache, if it is complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    cache: Option<CacheReport>,
}

#[derive(Serialize)]
struct CacheReport {
    samples: usize,
    rows: usize,
    rejected: usize,
    bytes: u64,
    bytes_per_view: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored_views: Option<StoredReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    features: Option<FeatureRecord>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<TokenReport>,
    #[serde(skip_serializing_if = "Option::is_none")]
    captions: Option<CaptionRecord>,
}

#[derive(Serialize)]
struct StoredReport {
    #[serde(flatten)]
    format: StoredFormat,
    bytes: u64,
    bytes_per_view: f64,
}

#[derive(Serialize)]
struct TokenReport {
    #[serde(flatten)]
    record: TokenRecord,
    bytes: u64,
    bytes_per_view: f64,
    /// Share of the variance that the projection keeps.
    #[serde(skip_serializing_if = "Option::is_none")]
    explained: Option<f64>,
}

/// Builds the report of this run, and of the whole cache if it is complete.
pub fn report(summary: &ExtractSummary, manifest: Option<&CacheManifest>) -> Report {
    let seconds = summary.elapsed.as_secs_f64();
    let cache = manifest.map(|manifest| {
        let (bytes, stored) = manifest.bytes();
        let per_view = |bytes: u64| bytes as f64 / manifest.rows.max(1) as f64;
        let stored_report = |format| StoredReport { format, bytes: stored, bytes_per_view: per_view(stored) };
        let token_report = |record: &TokenRecord| TokenReport {
            record: record.clone(),
            bytes: manifest.token_bytes(),
            bytes_per_view: per_view(manifest.token_bytes()),
            explained: manifest.token_projection.as_ref().map(|projection| projection.explained),
        };
        let config = &manifest.config;
        CacheReport {
            samples: manifest.samples(),
            rows: manifest.rows,
            rejected: manifest.rejected,
            bytes,
            bytes_per_view: per_view(bytes),
            stored_views: config.stored_views.map(stored_report),
            features: config.features.clone(),
            tokens: config.tokens.as_ref().map(token_report),
            captions: config.captions.clone(),
        }
    });
    Report {
        samples: summary.samples,
        rejected: summary.rejected,
        views: summary.views,
        seconds,
        views_per_second: summary.views as f64 / seconds.max(f64::MIN_POSITIVE),
        cache,
    }
}
