//! Finds and loads the ONNX Runtime library, once per process.
//!
//! The library is not linked. It is searched for at an explicitly given path, then at `ORT_DYLIB_PATH`, then in
//! `third_party/onnxruntime/` of the working directory, then beside the executable and in `third_party/onnxruntime/`
//! there and up to two folders above, then in the package `onnxruntime` of the Python environment that the executable is
//! installed in, then of the activated one.

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
        let path = locate(explicit, environment_variable.as_deref().map(Path::new), &default_paths())?;
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

/// Paths that are tried if none is given.
fn default_paths() -> Vec<PathBuf> {
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
    let mut paths: Vec<PathBuf> = folders.into_iter().map(|folder| folder.join(library_name())).collect();
    // bin/ on Unix, Scripts on Windows.
    let installed = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.parent()?.to_owned()));
    let activated =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    for prefix in installed.into_iter().chain(activated) {
        paths.extend(python_libraries(&prefix));
    }
    paths
}

/// ONNX Runtime's library in the Python packages of an environment: `capi/libonnxruntime.so.1.24.1` on Linux.
fn python_libraries(prefix: &Path) -> Vec<PathBuf> {
    let names = |folder: PathBuf| -> Vec<PathBuf> {
        let entries = std::fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
        let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        paths.sort();
        paths
    };
    let is_library = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let is_dylib =
            name.starts_with("libonnxruntime.") && path.extension().is_some_and(|end| end == "dylib");
        is_dylib || name.starts_with("libonnxruntime.so") || name == "onnxruntime.dll"
    };
    let versions = names(prefix.join("lib"))
        .into_iter()
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("python3")));
    versions
        .chain([prefix.join("Lib")])
        .flat_map(|lib| ["site-packages", "dist-packages"].map(|packages| lib.join(packages)))
        .flat_map(|packages| names(packages.join("onnxruntime").join("capi")))
        .filter(is_library)
        .collect()
}

/// Canonical path of the library. A path given by the user must exist: no default replaces it.
fn locate(
    explicit: Option<&Path>,
    variable: Option<&Path>,
    defaults: &[PathBuf],
) -> Result<PathBuf, ExtractError> {
    let tried = explicit.or(variable).map_or_else(|| defaults.to_vec(), |named| vec![named.to_owned()]);
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
        let paths = [default.clone()];
        assert_eq!(locate(Some(&named), Some(&default), &paths).unwrap(), named);
        assert_eq!(locate(None, Some(&named), &paths).unwrap(), named);
        assert_eq!(locate(None, None, &paths).unwrap(), default);
        let absent = root.join("absent.so");
        assert!(locate(Some(&absent), Some(&named), &paths).is_err());
        assert!(locate(None, Some(&absent), &paths).is_err());
    }

    #[test]
    fn the_library_in_a_python_environment_is_found() {
        let dir = tempfile::tempdir().unwrap();
        for (lib, library) in [
            ("lib/python3.11/site-packages", "libonnxruntime.so.1.24.1"),
            ("lib/python3.12/dist-packages", "libonnxruntime.1.24.1.dylib"),
            ("Lib/site-packages", "onnxruntime.dll"),
        ] {
            let capi = dir.path().join(lib).join("onnxruntime/capi");
            std::fs::create_dir_all(&capi).unwrap();
            for name in [library, "libonnxruntime_providers_shared.so", "onnxruntime_pybind11_state.so"] {
                std::fs::write(capi.join(name), b"").unwrap();
            }
            let found = python_libraries(dir.path());
            assert!(found.contains(&capi.join(library)), "{lib}: {found:?}");
            assert!(found.iter().all(|path| !path.display().to_string().contains("providers")), "{found:?}");
        }
        assert_eq!(python_libraries(dir.path()).len(), 3);
    }

    #[test]
    fn a_missing_library_is_named_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let text = locate(None, None, &[dir.path().join(library_name())]).unwrap_err().to_string();
        assert!(text.contains(&dir.path().join(library_name()).display().to_string()), "{text}");
    }
}
