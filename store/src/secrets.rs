//! Keeps credentials out of messages and files.

use std::sync::LazyLock;

/// Environment variables whose values are credentials, by their beginnings and by words in their names.
const STORES: [&str; 3] = ["AWS_", "GOOGLE_", "AZURE_"];
const SECRET_WORDS: [&str; 6] = ["KEY", "SECRET", "TOKEN", "PASSWORD", "SAS", "CREDENTIAL"];

/// The credentials in the environment. A value shorter than this is no credential, and would be found in ordinary words.
static SECRETS: LazyLock<Vec<String>> = LazyLock::new(|| {
    const SHORTEST: usize = 6;
    let is_secret = |name: &str| {
        STORES.iter().any(|store| name.starts_with(store))
            && SECRET_WORDS.iter().any(|word| name.contains(word))
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let secrets = variables.filter(|(name, value)| is_secret(name) && value.len() >= SHORTEST);
    // A path, as in AWS_SHARED_CREDENTIALS_FILE, is no credential.
    secrets.map(|(_, value)| value).filter(|value| !value.starts_with('/')).collect()
});

/// The text without credentials: passwords and query strings in URLs, and the values of the environment's credentials,
/// become `***`.
pub fn redacted(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("://") {
        let (before, after) = rest.split_at(at + 3);
        safe.push_str(before);
        let end = after.find(|letter: char| letter.is_whitespace() || "\"'<>`()".contains(letter));
        let (url, tail) = after.split_at(end.unwrap_or(after.len()));
        safe.push_str(&redacted_rest(url));
        rest = tail;
    }
    safe.push_str(rest);
    for secret in SECRETS.iter().filter(|secret| safe.contains(secret.as_str())).collect::<Vec<_>>() {
        safe = safe.replace(secret.as_str(), "***");
    }
    safe
}

/// A URL behind its `://`, without the user and the query.
fn redacted_rest(url: &str) -> String {
    let (url, query) = match url.find(['?', '#']) {
        Some(at) => (&url[..at], "?***"),
        None => (url, ""),
    };
    // A password may contain slashes; then everything before the last `@` of the whole is cut.
    let host_end = url.find('/').unwrap_or(url.len());
    let user = match url[..host_end].rfind('@') {
        Some(at) => Some(at),
        None => url[..host_end].contains(':').then(|| url.rfind('@')).flatten(),
    };
    match user {
        Some(at) => format!("***@{}{query}", &url[at + 1..]),
        None => format!("{url}{query}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_and_queries_of_urls_are_hidden_and_nothing_else() {
        for (text, expected) in [
            ("get https://me:pw@host/a?X-Amz-Signature=abc, then", "get https://***@host/a?*** then"),
            ("(https://host/a?sig=1)", "(https://host/a?***)"),
            ("http://me:p/w@host:80/a", "http://***@host:80/a"),
            ("s3://bucket/a@b/c d", "s3://bucket/a@b/c d"),
            ("http://127.0.0.1:9000/b/k", "http://127.0.0.1:9000/b/k"),
            ("no url? none", "no url? none"),
            ("https://a@h/x https://h/y?z", "https://***@h/x https://h/y?***"),
        ] {
            assert_eq!(redacted(text), expected);
        }
    }
}
