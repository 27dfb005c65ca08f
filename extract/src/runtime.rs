//! Finds and loads the ONNX Runtime library, once per process.
//!
//! The library is not linked. It is searched for at an explicitly given path, then at `ORT_DYLIB_PATH`, then in
//! `third_party/onnxruntime/` of the working directory, then beside the executable and in `third_party/onnxruntime/`
//! there and up to two folders above.

use std::path::{Path, PathBuf};
use std::sync::Mutex;

use ort::environment::Environment;
use ort::logging::LogLevel;

use crate::error::{Cause, ExtractError, library_name};

/// The only loaded runtime. The library can neither be unloaded nor loaded twice.
static LOADED: Mutex<Option<Runtime>> = Mutex::new(None);

/// The loaded ONNX Runtime library. It is cheap to clone and lives as long as the process.
#[derive(Clone, Debug)]
pub struct Runtime {
    environment: Environment,
    path: PathBuf,
}

impl Runtime {
    /// Loads the library, or returns the loaded one.
    ///
    /// # Errors
    /// [`ExtractError::RuntimeMissing`] if there is no library, [`ExtractError::RuntimeLoad`] if the file is not ONNX
    /// Runtime or its version is too old, [`ExtractError::RuntimeConflict`] if another library is loaded.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ExtractError> {
        let environment_variable = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty());
        let path = locate(explicit, environment_variable.as_deref().map(Path::new), &default_folders())?;
        let mut loaded = LOADED.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some(runtime) = &*loaded {
            if explicit.is_some() && runtime.path != path {
                return Err(ExtractError::RuntimeConflict { loaded: runtime.path.clone(), asked: path });
            }
            return Ok(runtime.clone());
        }
        let load_error = |source: Cause| ExtractError::RuntimeLoad { path: path.clone(), source };
        let environment = ort::init_from(&path)
            .map_err(|error| load_error(error.into()))?
            .with_name("lgd")
            .with_telemetry(false)
            .build()
            .map_err(|error| load_error(error.into()))?;
        // What fails is returned and reported once; the log would repeat it for every shape that is tried.
        environment.set_log_level(LogLevel::Fatal);
        let runtime = Self { environment, path };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Path of the library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// Folders that are searched if no path is given.
fn default_folders() -> Vec<PathBuf> {
    let below = Path::new("third_party").join("onnxruntime");
    let mut folders = Vec::new();
    if let Ok(working) = std::env::current_dir() {
        folders.push(working.join(&below));
    }
    if let Some(beside) = std::env::current_exe().ok().as_deref().and_then(Path::parent) {
        folders.push(beside.to_owned());
        // For a build in target/release, this finds the library that scripts/setup puts in the repository root.
        folders.extend(beside.ancestors().take(3).map(|folder| folder.join(&below)));
    }
    folders
}

/// Canonical path of the library. A path given by the user must exist: no default replaces it.
fn locate(
    explicit: Option<&Path>,
    variable: Option<&Path>,
    folders: &[PathBuf],
) -> Result<PathBuf, ExtractError> {
    let tried: Vec<PathBuf> = match explicit.or(variable) {
        Some(named) => vec![named.to_owned()],
        None => folders.iter().map(|folder| folder.join(library_name())).collect(),
    };
    match tried.iter().find_map(|path| path.canonicalize().ok().filter(|path| path.is_file())) {
        Some(path) => Ok(path),
        None => Err(ExtractError::RuntimeMissing { tried }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_named_path_wins_and_is_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let (named, default) = (root.join("named.so"), root.join(library_name()));
        std::fs::write(&named, b"").unwrap();
        std::fs::write(&default, b"").unwrap();
        let folders = [root.clone()];
        assert_eq!(locate(Some(&named), Some(&default), &folders).unwrap(), named);
        assert_eq!(locate(None, Some(&named), &folders).unwrap(), named);
        assert_eq!(locate(None, None, &folders).unwrap(), default);
        let absent = root.join("absent.so");
        assert!(locate(Some(&absent), Some(&named), &folders).is_err());
        assert!(locate(None, Some(&absent), &folders).is_err());
    }

    #[test]
    fn a_missing_library_is_named_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let text = locate(None, None, &[dir.path().to_owned()]).unwrap_err().to_string();
        assert!(text.contains(&dir.path().join(library_name()).display().to_string()), "{text}");
    }
}
