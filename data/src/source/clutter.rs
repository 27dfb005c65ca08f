//! Files and folders that systems and programs add to folders of images. They are never samples or classes.

/// Names that systems give to files and folders of their own, in any case.
const NAMES: [&str; 22] = [
    "__MACOSX",
    ".DS_Store",
    ".AppleDouble",
    ".Spotlight-V100",
    ".Trashes",
    ".fseventsd",
    ".TemporaryItems",
    "Icon\r",
    "Network Trash Folder",
    "Thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    "@eaDir",
    "#recycle",
    "#snapshot",
    "lost+found",
    ".ipynb_checkpoints",
    "__pycache__",
    ".nomedia",
];

/// Beginnings of such names: resource forks of macOS, wastebaskets of Linux, deleted files on NFS.
const BEGINNINGS: [&str; 3] = ["._", ".Trash-", ".nfs"];

/// The kind of system files in [`LeftAside`](super::LeftAside).
pub(super) const SYSTEM: &str = "of the system";

/// The kind of other hidden files.
pub(super) const HIDDEN: &str = "hidden";

/// Whether a system gives this name to a file or folder.
pub(super) fn is_system(name: &str) -> bool {
    NAMES.iter().any(|system| name.eq_ignore_ascii_case(system))
        || BEGINNINGS.iter().any(|beginning| name.starts_with(beginning))
}

/// The kind of what is left aside if a file or folder of this name is: [`SYSTEM`], [`HIDDEN`], or `None` for a name that
/// is neither.
pub(super) fn kind(name: &str) -> Option<&'static str> {
    let hidden = name.starts_with('.') && !matches!(name, "." | "..");
    if is_system(name) { Some(SYSTEM) } else { hidden.then_some(HIDDEN) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn system_files_are_told_from_hidden_and_plain_ones() {
        for (path, expected) in [
            ("__MACOSX/cat/0.png", Some(SYSTEM)),
            ("cat/._0.png", Some(SYSTEM)),
            ("cat/THUMBS.DB", Some(SYSTEM)),
            ("a/.Trash-1000/b.jpg", Some(SYSTEM)),
            ("a/@eaDir/b.jpg", Some(SYSTEM)),
            (".git/config", Some(HIDDEN)),
            ("./a/../b.jpg", None),
            ("lost+found+again/b.jpg", None),
            ("a/b.jpg", None),
        ] {
            assert_eq!(path.split('/').find_map(kind), expected, "{path}");
        }
    }
}
