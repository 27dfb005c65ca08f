//! What surrounds every name of a list: quotes, keys, folders, prompts, articles, full stops. What surrounds only some
//! of them is refused by `suspect`, or told.

use super::draft::Draft;
use super::header::{Role, role};

/// Pairs of quotes and marks of emphasis.
const QUOTES: [(&str, &str); 9] = [
    ("\"", "\""),
    ("'", "'"),
    ("“", "”"),
    ("‘", "’"),
    ("«", "»"),
    ("„", "“"),
    ("**", "**"),
    ("__", "__"),
    ("`", "`"),
];

/// Words for pictures, before ` of `.
const PICTURES: [&str; 22] = [
    "photo",
    "photos",
    "photograph",
    "photographs",
    "picture",
    "pictures",
    "pic",
    "image",
    "images",
    "drawing",
    "painting",
    "sketch",
    "rendering",
    "render",
    "illustration",
    "snapshot",
    "close-up",
    "closeup",
    "itap",
    "doodle",
    "cartoon",
    "photography",
];

/// Beginnings of other prompts.
const OPENINGS: [&str; 6] =
    ["this is a photo of ", "this is a ", "this is an ", "there is a ", "there is an ", "itap of "];

/// Articles before a name.
const ARTICLES: [&str; 3] = ["a ", "an ", "the "];

impl Draft {
    /// Strips what surrounds every name. Numbers and identifiers are gone already.
    pub(super) fn undress(&mut self) {
        self.strip_letter_folders();
        self.strip_slashes();
        self.strip_folder();
        self.strip_prompts();
        self.strip_articles();
        self.strip_stops();
        self.strip_quotes();
        self.tell_dashes();
    }

    pub(super) fn strip_quotes(&mut self) -> bool {
        self.strip("quotes around the names left out", 1, |name| unwrapped(name.trim()).map(str::to_owned))
    }

    /// `name: cat`, `label = cat`.
    pub(super) fn strip_keys(&mut self) -> bool {
        self.strip("the word before every name left out", 2, |name| {
            let (word, rest) = name.split_once([':', '='])?;
            let known = matches!(role(word.trim().trim_matches(['"', '\''])), Role::Name(_));
            (known && !rest.trim().is_empty()).then(|| rest.trim().to_owned())
        })
    }

    /// `/a/airfield`, as Places365 writes it.
    fn strip_letter_folders(&mut self) {
        self.strip("the folder of the first letter left out", 1, |name| {
            let (letter, rest) = name.trim().strip_prefix('/')?.split_once('/')?;
            let lower = letter.len() == 1 && letter.bytes().all(|b| b.is_ascii_lowercase());
            (lower && rest.starts_with(letter)).then(|| rest.to_owned())
        });
    }

    /// `cat/`, as `ls -p` prints folders.
    fn strip_slashes(&mut self) {
        self.strip("slashes behind the names left out", 2, |name| {
            Some(name.trim().strip_suffix(['/', '\\'])?.to_owned())
        });
    }

    /// `train/cat`, `./cat`: a folder that all names share.
    fn strip_folder(&mut self) {
        let folder = |name: &str| name.rfind(['/', '\\']).map(|end| name[..=end].to_owned());
        let Some(shared) = self.entries.first().and_then(|entry| folder(entry.name.trim())) else { return };
        let told = format!("the folder {shared:?} before the names left out");
        self.strip(&told, 2, |name| {
            let name = name.trim();
            (folder(name).as_ref() == Some(&shared)).then(|| name[shared.len()..].to_owned())
        });
    }

    /// `a photo of a cat.`, `a photo of a cat, a type of pet.`
    fn strip_prompts(&mut self) {
        let example = self.entries.first().map(|entry| entry.name.clone()).unwrap_or_default();
        let told = format!("names taken out of prompts such as {example:?}; templates make prompts of names");
        if self.strip(&told, 2, |name| prompted(name).map(str::to_owned)) {
            self.strip_shared_end();
        }
    }

    /// The words that all prompts end in.
    fn strip_shared_end(&mut self) {
        let words = |name: &str| name.split(' ').map(str::to_owned).collect::<Vec<_>>();
        let all: Vec<Vec<String>> = self.entries.iter().map(|entry| words(&entry.name)).collect();
        let Some(first) = all.first() else { return };
        let shared = |count: usize| {
            all.iter().all(|words| {
                words.len() > count && words[words.len() - count..] == first[first.len() - count..]
            })
        };
        let longest = (1..first.len()).take_while(|count| shared(*count)).last().unwrap_or(0);
        // A word before a comma belongs to the name: `cat, a type of pet`.
        let from = (1..=longest)
            .rev()
            .find(|count| all.iter().all(|words| words[words.len() - count - 1].ends_with(',')));
        let Some(count) = from else { return };
        for (entry, words) in self.entries.iter_mut().zip(&all) {
            entry.name = words[..words.len() - count].join(" ").trim_end_matches(',').to_owned();
        }
    }

    /// `a cat`, `an owl`.
    fn strip_articles(&mut self) {
        let bare = |name: &str| without_article(name.trim()).map(str::to_owned);
        if self.strip("articles before the names left out", 2, bare) {
            return;
        }
        let mut with =
            self.entries.iter().map(|entry| entry.name.trim()).filter(|name| without_article(name).is_some());
        if let Some(first) = with.next() {
            let count = 1 + with.count();
            let told = format!("an article before {count} of the names kept ({first:?} first)");
            self.tell(told);
        }
    }

    /// `cat.`
    fn strip_stops(&mut self) {
        self.strip("full stops behind the names left out", 2, |name| {
            let bare = name.trim().strip_suffix(['.', '。'])?;
            (!bare.is_empty() && !bare.ends_with('.')).then(|| bare.to_owned())
        });
    }

    /// `cat - a small animal`: perhaps a name and a description.
    fn tell_dashes(&mut self) {
        let dashed = |name: &str| [" - ", " – ", " — ", ": "].iter().any(|dash| name.contains(dash));
        if self.entries.len() > 1 && self.entries.iter().all(|entry| dashed(&entry.name)) {
            self.tell("every name holds a dash or a colon, and all of it is the name".to_owned());
        }
    }

    /// Replaces every name by what `strip` makes of it, if there are `least` names or more and it applies to all.
    pub(super) fn strip(&mut self, told: &str, least: usize, strip: impl Fn(&str) -> Option<String>) -> bool {
        if self.entries.len() < least.max(1) {
            return false;
        }
        let stripped: Option<Vec<String>> = self.entries.iter().map(|entry| strip(&entry.name)).collect();
        let Some(stripped) = stripped else { return false };
        for (entry, name) in self.entries.iter_mut().zip(stripped) {
            entry.name = name;
        }
        self.tell(told.to_owned());
        true
    }

    /// Notes what was understood, once.
    pub(super) fn tell(&mut self, told: String) {
        if !self.told.contains(&told) {
            self.told.push(told);
        }
    }
}

/// Whether `text` is in quotes.
pub(super) fn is_wrapped(text: &str) -> bool {
    unwrapped(text).is_some()
}

/// The text within quotes.
fn unwrapped(text: &str) -> Option<&str> {
    let letter = |letter: Option<char>| letter.is_some_and(char::is_alphanumeric);
    // `it's` has a quote between letters; `"cat", "dog"` is more than one text in quotes.
    let inner = |(open, close): &(&str, &str)| {
        let inner = text.strip_prefix(open)?.strip_suffix(close)?;
        let one = inner.match_indices(close).all(|(at, mark)| {
            letter(inner[..at].chars().next_back()) && letter(inner[at + mark.len()..].chars().next())
        });
        (one && !inner.trim().is_empty()).then_some(inner)
    };
    QUOTES.iter().find_map(inner)
}

/// The name in a prompt such as `a photo of a cat.`
pub(super) fn prompted(text: &str) -> Option<&str> {
    let text = text.trim();
    let lower = text.to_ascii_lowercase();
    let opening = OPENINGS.iter().find(|opening| lower.starts_with(*opening)).map(|opening| opening.len());
    let picture = || {
        let at = lower.find(" of ")?;
        let word = lower[..at].rsplit(' ').next()?;
        PICTURES.contains(&word).then_some(at + " of ".len())
    };
    let name = text.get(picture().or(opening)?..)?.trim().trim_end_matches('.');
    let name = without_article(name).unwrap_or(name);
    (!name.is_empty()).then_some(name)
}

/// `text` behind its article.
fn without_article(text: &str) -> Option<&str> {
    let article = ARTICLES
        .iter()
        .find(|article| text.get(..article.len()).is_some_and(|start| start.eq_ignore_ascii_case(article)))?;
    let name = text[article.len()..].trim_start();
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_in_a_prompt_is_found() {
        for text in [
            "a photo of a cat.",
            "A photo of the cat",
            "a bad photo of a cat.",
            "itap of a cat.",
            "This is a photo of cat.",
            "there is a cat",
            "a close-up photo of a cat.",
            "Photos of cat",
            "a rendering of an cat",
        ] {
            assert_eq!(prompted(text), Some("cat"), "{text}");
        }
        for text in ["cat", "bird of prey", "a cat", "photo of", "out of focus", "image"] {
            assert_eq!(prompted(text), None, "{text}");
        }
    }

    #[test]
    fn quotes_belong_to_one_name() {
        assert_eq!(unwrapped("'jack-o'-lantern'"), None);
        assert_eq!(unwrapped("\"cat\""), Some("cat"));
        assert_eq!(unwrapped("'it's'"), Some("it's"));
        assert_eq!(unwrapped("“cat”"), Some("cat"));
        assert_eq!(unwrapped("\"cat\", \"dog\""), None);
        assert_eq!(unwrapped("\"\""), None);
    }
}
