//! Connections: one client per bucket or host, with bounded retries, on a runtime that stays inside this crate.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use object_store::aws::AmazonS3Builder;
use object_store::azure::MicrosoftAzureBuilder;
use object_store::client::{ClientConfigKey, HttpClient, HttpConnector};
use object_store::gcp::GoogleCloudStorageBuilder;
use object_store::http::HttpBuilder;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};
use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::redirect::Policy;

use crate::error::StoreError;
use crate::url::{Scheme, StoreUrl};

/// Retries of a request that failed with a 5xx status or lost its connection, the pause before the first one, the longest
/// pause, and the time after which no retry begins.
const RETRIES: usize = 6;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
const RETRY_TIME: Duration = Duration::from_secs(60);

/// Time to connect, and longest time without a byte.
const CONNECT_TIME: Duration = Duration::from_secs(5);
const SILENCE: Duration = Duration::from_secs(30);

/// Redirects of one request, all within the host.
const REDIRECTS: usize = 5;

/// Opens the bucket or host of a URL, with credentials from the environment.
///
/// # Errors
/// [`StoreError::Failed`] for settings in the environment that do not fit.
pub(crate) fn open(url: &StoreUrl) -> Result<Arc<dyn ObjectStore>, StoreError> {
    let retry = RetryConfig {
        backoff: BackoffConfig { init_backoff: FIRST_PAUSE, max_backoff: LONGEST_PAUSE, base: 2.0 },
        max_retries: RETRIES,
        retry_timeout: RETRY_TIME,
    };
    let opened: object_store::Result<Arc<dyn ObjectStore>> = match url.scheme {
        Scheme::S3 => {
            let mut builder = AmazonS3Builder::from_env().with_bucket_name(&url.base).with_retry(retry);
            if names_plain_endpoint() {
                builder = builder.with_allow_http(true);
            }
            builder.with_http_connector(Connector::default()).build().map(|store| Arc::new(store) as _)
        }
        Scheme::Gs => GoogleCloudStorageBuilder::from_env()
            .with_bucket_name(&url.base)
            .with_retry(retry)
            .with_http_connector(Connector::default())
            .build()
            .map(|store| Arc::new(store) as _),
        Scheme::Az => MicrosoftAzureBuilder::from_env()
            .with_container_name(&url.base)
            .with_retry(retry)
            .with_http_connector(Connector::default())
            .build()
            .map(|store| Arc::new(store) as _),
        Scheme::Http => {
            let query = url.query.as_ref().map(|query| format!("?{query}")).unwrap_or_default();
            let options = ClientOptions::new().with_allow_http(url.base.starts_with("http://"));
            let (base, authorization) = url.without_user();
            HttpBuilder::new()
                .with_url(format!("{base}/{query}"))
                .with_retry(retry)
                .with_client_options(options)
                .with_http_connector(Connector { authorization })
                .build()
                .map(|store| Arc::new(store) as _)
        }
    };
    opened.map_err(|error| StoreError::remote("open", &url.shown, &error))
}

/// Whether the environment names an S3 endpoint without TLS, such as a server on this machine. Only then is S3 spoken to
/// without TLS.
fn names_plain_endpoint() -> bool {
    ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL", "AWS_ENDPOINT"]
        .iter()
        .find_map(|name| std::env::var(name).ok())
        .is_some_and(|endpoint| endpoint.starts_with("http://"))
}

/// Makes clients whose requests stay on their host.
#[derive(Default)]
struct Connector {
    /// Value of the header `Authorization`, for a web server.
    authorization: Option<String>,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

impl HttpConnector for Connector {
    fn connect(&self, options: &ClientOptions) -> object_store::Result<HttpClient> {
        let setting = |key| options.get_config_value(&key);
        let connect_time = setting(ClientConfigKey::ConnectTimeout)
            .and_then(|time| humantime::parse_duration(&time).ok())
            .map_or(CONNECT_TIME, |time| time.min(CONNECT_TIME));
        let plain = setting(ClientConfigKey::AllowHttp).is_some_and(|plain| plain == "true");
        let failed = |error: Box<dyn std::error::Error + Send + Sync>| object_store::Error::Generic {
            store: "client",
            source: error,
        };
        // Another part of the process may have chosen a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let mut headers = HeaderMap::new();
        if let Some(authorization) = &self.authorization {
            let mut value = HeaderValue::from_str(authorization).map_err(|error| failed(error.into()))?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let client = reqwest::Client::builder()
            .default_headers(headers)
            .user_agent(concat!("lgd/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(connect_time)
            .read_timeout(SILENCE)
            .https_only(!plain)
            .redirect(Policy::custom(|attempt| {
                let stays =
                    attempt.previous().first().is_some_and(|first| first.origin() == attempt.url().origin());
                match stays && attempt.previous().len() <= REDIRECTS {
                    true => attempt.follow(),
                    false if stays => attempt.error("too many redirects"),
                    false => {
                        let host = attempt.url().host_str().unwrap_or_default().to_owned();
                        attempt.error(format!("it redirects to another host, {host}, which is not followed"))
                    }
                }
            }))
            .build()
            .map_err(|error| failed(error.into()))?;
        Ok(HttpClient::new(client))
    }
}
