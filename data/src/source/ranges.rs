//! Brace ranges and sets in paths, as WebDataset's tools write them: `shards-{000..127}.tar`, `{a,b}/{00..03}.tar`.

use std::path::{Path, PathBuf};

/// Maximum number of paths that one pattern may stand for.
const MOST: usize = 1_000_000;

/// The paths that a pattern with braces stands for, in order, such as `shards-{000..127}.tar`. `None` if `path` has no pair
/// of braces that holds a range or a set, or stands for too many paths.
pub fn expand(path: &Path) -> Option<Vec<PathBuf>> {
    let mut paths = Vec::new();
    // WebDataset separates several patterns by two colons.
    for pattern in path.to_str()?.split("::") {
        paths.extend(expand_text(pattern)?);
    }
    (paths.len() > 1 || path.to_str()?.contains('{')).then(|| paths.into_iter().map(PathBuf::from).collect())
}

/// The texts that `pattern` stands for: itself if it has no braces.
fn expand_text(pattern: &str) -> Option<Vec<String>> {
    let Some(open) = pattern.find('{') else { return Some(vec![pattern.to_owned()]) };
    let close = open + closing(&pattern[open..])?;
    let (before, inside, after) = (&pattern[..open], &pattern[open + 1..close], &pattern[close + 1..]);
    let mut middles = Vec::new();
    match parts(inside).as_slice() {
        [single] => middles.extend(range(single)?),
        several => {
            for part in several {
                middles.extend(expand_text(part)?);
            }
        }
    }
    let ends = expand_text(after)?;
    if middles.len().checked_mul(ends.len()).is_none_or(|count| count > MOST) {
        return None;
    }
    Some(
        middles
            .iter()
            .flat_map(|middle| ends.iter().map(move |end| format!("{before}{middle}{end}")))
            .collect(),
    )
}

/// The position of the brace that closes the first one.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return Some(at),
            b'}' => depth -= 1,
            _ => {}
        }
    }
    None
}

/// The parts between the commas that are not inside further braces.
fn parts(inside: &str) -> Vec<&str> {
    let (mut depth, mut start, mut parts) = (0_usize, 0, Vec::new());
    for (at, byte) in inside.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            b',' if depth == 0 => {
                parts.push(&inside[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&inside[start..]);
    parts
}

/// The numbers of `first..last` or `first..last..step`, padded to the width of the longer end if one begins with a zero.
fn range(text: &str) -> Option<Vec<String>> {
    let mut ends = text.split("..");
    let (first, last) = (ends.next()?, ends.next()?);
    let step = ends.next().map_or(Some(1), |step| step.parse::<usize>().ok().filter(|&step| step > 0))?;
    if ends.next().is_some()
        || ![first, last].iter().all(|end| end.bytes().all(|digit| digit.is_ascii_digit()))
    {
        return None;
    }
    let padded = [first, last].iter().any(|end| end.len() > 1 && end.starts_with('0'));
    let width = if padded { first.len().max(last.len()) } else { 0 };
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    if usize::try_from(first.abs_diff(last)).ok()? / step >= MOST {
        return None;
    }
    let format = |number: u64| format!("{number:0width$}");
    Some(if first <= last {
        (first..=last).step_by(step).map(format).collect()
    } else {
        (last..=first).rev().step_by(step).map(format).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expanded(text: &str) -> Option<Vec<String>> {
        expand(Path::new(text)).map(|paths| paths.iter().map(|path| path.display().to_string()).collect())
    }

    #[test]
    fn braces_expand_as_in_a_shell() {
        for (text, expected) in [
            ("s-{008..011}.tar", &["s-008.tar", "s-009.tar", "s-010.tar", "s-011.tar"][..]),
            ("s{9..11}.tar", &["s9.tar", "s10.tar", "s11.tar"]),
            ("s{2..0}", &["s2", "s1", "s0"]),
            ("s{0..4..2}", &["s0", "s2", "s4"]),
            ("{a,b}/{0..1}.tar", &["a/0.tar", "a/1.tar", "b/0.tar", "b/1.tar"]),
            ("{a{0..1},b}.tar", &["a0.tar", "a1.tar", "b.tar"]),
            ("{a,}.tar", &["a.tar", ".tar"]),
            ("a-{0..1}.tar::b.tar", &["a-0.tar", "a-1.tar", "b.tar"]),
        ] {
            assert_eq!(expanded(text).unwrap(), expected, "{text}");
        }
    }

    #[test]
    fn other_braces_are_no_pattern() {
        for text in
            ["a.tar", "{a.tar", "a}.tar", "{a}.tar", "{a..b}.tar", "{0..}.tar", "{0..1..0}", "{0..99999999}"]
        {
            assert_eq!(expanded(text), None, "{text}");
        }
    }
}
