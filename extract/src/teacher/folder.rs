//! Finds the teacher's folder for the path that a user gives. A repository in the cache of the Hugging Face Hub has its
//! files in a snapshot:
//!
//! ```text
//! models--ORG--NAME/refs/main              the hash of the current snapshot
//! models--ORG--NAME/snapshots/HASH/        the files
//! ```

use std::path::{Path, PathBuf};

use crate::error::ExtractError;

const SNAPSHOTS: &str = "snapshots";
/// How the name of a repository's folder begins.
const REPOSITORY: &str = "models--";

/// A teacher's folder.
#[derive(Debug)]
pub(super) struct Folder {
    pub dir: PathBuf,
    /// Name of the folder, or of the repository.
    pub name: String,
    /// The snapshot that was chosen, in a sentence; `None` if the path is the folder itself.
    pub note: Option<String>,
}

impl Folder {
    /// Finds the folder.
    ///
    /// # Errors
    /// [`ExtractError::TeacherSetting`] if `path` is a file, is not there, or is a repository with no or several
    /// snapshots.
    pub(super) fn of(path: &Path) -> Result<Self, ExtractError> {
        if path.is_file() {
            return Err(refuse_file(path));
        }
        if !path.is_dir() {
            return Err(refuse_absent(path));
        }
        let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        if let Some(repository) = repository(&absolute) {
            let snapshot = only_snapshot(path)?;
            let note = format!("{}: its only snapshot is used, {}", path.display(), snapshot.display());
            return Ok(Self { dir: snapshot, name: repository, note: Some(note) });
        }
        // A snapshot's own name is a hash.
        let of_snapshot = absolute.parent().filter(|above| above.ends_with(SNAPSHOTS)).and_then(Path::parent);
        let name = of_snapshot.and_then(repository).unwrap_or_else(|| {
            absolute.file_name().unwrap_or(absolute.as_os_str()).to_string_lossy().into_owned()
        });
        Ok(Self { dir: path.to_owned(), name, note: None })
    }
}

/// The folder that a user means who names a file: that of the file, or the one above `onnx/`.
fn refuse_file(path: &Path) -> ExtractError {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let above = folder.parent().filter(|_| folder.ends_with("onnx"));
    let above = above.map(|above| if above.as_os_str().is_empty() { Path::new(".") } else { above });
    let hint = format!("give its folder, {}", above.unwrap_or(folder).display());
    ExtractError::setting(path, "this is a file: expected a teacher's folder", hint)
}

/// The error for a path that does not exist, which may be the name of a repository.
fn refuse_absent(path: &Path) -> ExtractError {
    let name = path.to_string_lossy();
    let parts: Vec<&str> = name.split('/').collect();
    let is_repository = matches!(parts.as_slice(), [org, name] if !org.starts_with('.') && !name.is_empty());
    let is_local = path.parent().is_some_and(Path::is_dir);
    let hint = if is_repository && path.is_relative() && !is_local {
        format!(
            "for a model of the Hugging Face Hub, export it first: optimum-cli export onnx --model {name} --task TASK FOLDER; \
             TASK is zero-shot-image-classification for CLIP and SigLIP, feature-extraction for others"
        )
    } else {
        super::FOLDER_HINT.to_owned()
    };
    ExtractError::setting(path, "there is no such folder", hint)
}

/// Name of the repository whose folder in the Hub's cache this is, without its organization.
fn repository(dir: &Path) -> Option<String> {
    let folder = dir.file_name()?.to_string_lossy();
    let name = folder.strip_prefix(REPOSITORY)?;
    let name = name.split_once("--").map_or(name, |(_, name)| name);
    (dir.join(SNAPSHOTS).is_dir() && !name.is_empty()).then(|| name.to_owned())
}

/// The only snapshot of a repository.
fn only_snapshot(repository: &Path) -> Result<PathBuf, ExtractError> {
    let snapshots = repository.join(SNAPSHOTS);
    let entries = std::fs::read_dir(&snapshots).map_err(|source| ExtractError::TeacherFile {
        path: snapshots.clone(),
        source,
        hint: "",
    })?;
    let folders = entries.filter_map(|entry| Some(entry.ok()?.path())).filter(|path| path.is_dir());
    let mut found: Vec<PathBuf> = folders.collect();
    found.sort();
    match found.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(ExtractError::setting(
            &snapshots,
            "expected a snapshot of the repository, the folder is empty",
            "the download is not complete: run `hf download` again",
        )),
        [first, ..] => {
            let main = std::fs::read_to_string(repository.join("refs/main")).ok();
            let current = main.map(|hash| snapshots.join(hash.trim())).filter(|path| path.is_dir());
            let names: Vec<_> =
                found.iter().map(|path| path.file_name().unwrap_or_default().to_string_lossy()).collect();
            let reason = format!("expected one snapshot, got {}: {}", names.len(), names.join(", "));
            let hint = match &current {
                Some(current) => format!("give the folder of one; the current one is {}", current.display()),
                None => format!("give the folder of one, such as {}", first.display()),
            };
            Err(ExtractError::setting(&snapshots, reason, hint))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_only_snapshot_of_a_repository_is_the_teacher() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--openai--clip-vit-base-patch32");
        std::fs::create_dir_all(repository.join("snapshots/3d74ac")).unwrap();
        let folder = Folder::of(&repository).unwrap();
        assert_eq!(folder.dir, repository.join("snapshots/3d74ac"));
        assert_eq!(folder.name, "clip-vit-base-patch32");
        assert!(folder.note.unwrap().contains("snapshots/3d74ac"));
        let named = Folder::of(&repository.join("snapshots/3d74ac")).unwrap();
        assert_eq!((named.name.as_str(), named.note), ("clip-vit-base-patch32", None));

        std::fs::create_dir_all(repository.join("snapshots/9f2c10")).unwrap();
        let text = Folder::of(&repository).unwrap_err().to_string();
        assert!(text.contains("got 2: 3d74ac, 9f2c10") && text.contains("such as"), "{text}");
        std::fs::create_dir_all(repository.join("refs")).unwrap();
        std::fs::write(repository.join("refs/main"), "9f2c10\n").unwrap();
        let text = Folder::of(&repository).unwrap_err().to_string();
        assert!(text.ends_with("snapshots/9f2c10") && text.contains("the current one is"), "{text}");

        let empty = dir.path().join("models--gpt");
        std::fs::create_dir_all(empty.join(SNAPSHOTS)).unwrap();
        assert!(Folder::of(&empty).unwrap_err().to_string().contains("hint: the download is not complete"));
    }

    #[test]
    fn any_other_folder_is_the_teacher_itself() {
        let dir = tempfile::tempdir().unwrap();
        // A folder of this name elsewhere is no cache.
        for name in ["clip", "snapshots", "models--clip"] {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.join("onnx")).unwrap();
            let folder = Folder::of(&path).unwrap();
            assert_eq!((folder.dir, folder.name.as_str(), folder.note), (path, name, None));
        }
    }

    #[test]
    fn a_file_is_refused_with_the_folder_to_give() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("onnx")).unwrap();
        for (name, folder) in [("model.onnx", ""), ("onnx/vision_model.onnx", ""), ("teacher.toml", "")] {
            let path = dir.path().join(name);
            std::fs::write(&path, "").unwrap();
            let text = Folder::of(&path).unwrap_err().to_string();
            let hint = format!("hint: give its folder, {}", dir.path().join(folder).display());
            assert_eq!(text.lines().last().unwrap().trim_end_matches('/'), hint.trim_end_matches('/'));
            assert!(text.contains("this is a file: expected a teacher's folder"), "{text}");
        }
    }

    #[test]
    fn the_name_of_a_repository_is_told_from_a_folder_that_is_missing() {
        let text = |path: &str| Folder::of(Path::new(path)).unwrap_err().to_string();
        let repository = text("openai/clip-vit-base-patch32");
        assert!(
            repository.contains("optimum-cli export onnx --model openai/clip-vit-base-patch32"),
            "{repository}"
        );
        for path in ["/nowhere/at/all", "./clip", "clip", "models/of/mine"] {
            assert!(text(path).contains("there is no such folder\nhint: a teacher is a folder"), "{path}");
        }
    }
}
