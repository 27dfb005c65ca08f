//! Finds and loads the ONNX Runtime library, once per process.
//!
//! The library is not linked. It is searched for at an explicitly given path, then at `ORT_DYLIB_PATH`, then beside the
//! executable, then in the package `onnxruntime` of the Python environment that the executable is installed in, then of
//! the activated one. A library runs with the user's rights, so none is ever taken from the working directory, which may
//! hold somebody else's files.

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
    origin: Origin,
}

/// How the library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    /// By a path that the user gave.
    Named,
    /// Beside the executable.
    Beside,
    /// In a package of a Python environment.
    Package,
}

impl Runtime {
    /// Loads the library, or returns the loaded one.
    ///
    /// # Errors
    /// [`ExtractError::RuntimeMissing`] if there is no library, [`ExtractError::RuntimeLoad`] if the file is not ONNX
    /// Runtime or its version is too old, [`ExtractError::RuntimeConflict`] if another library is loaded.
    pub fn load(explicit: Option<&Path>) -> Result<Self, ExtractError> {
        let environment_variable = std::env::var_os("ORT_DYLIB_PATH").filter(|value| !value.is_empty());
        let (path, origin) =
            locate(explicit, environment_variable.as_deref().map(Path::new), &default_paths())?;
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
        let runtime = Self { environment, path, origin };
        *loaded = Some(runtime.clone());
        Ok(runtime)
    }

    /// Path of the library file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A note with the library's path if it belongs to a Python package, which the user may not expect.
    pub fn note(&self) -> Option<String> {
        let path = self.path.display();
        (self.origin == Origin::Package)
            .then(|| format!("ONNX Runtime is the one of a Python package, {path}"))
    }

    pub(crate) fn environment(&self) -> &Environment {
        &self.environment
    }
}

/// Paths that are tried if none is given.
fn default_paths() -> Vec<(PathBuf, Origin)> {
    let executable = std::env::current_exe().ok();
    let beside = executable.as_deref().and_then(Path::parent);
    let mut paths: Vec<(PathBuf, Origin)> =
        beside.iter().map(|folder| (folder.join(library_name()), Origin::Beside)).collect();
    // bin/ on Unix, Scripts on Windows.
    let installed = beside.and_then(Path::parent).map(Path::to_owned);
    let activated =
        ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(std::env::var_os).map(PathBuf::from);
    paths.extend(package_paths(installed.into_iter().chain(activated)));
    paths
}

/// The libraries in the packages of these Python environments. A relative path of an environment would be one in the
/// working directory.
fn package_paths(prefixes: impl Iterator<Item = PathBuf>) -> Vec<(PathBuf, Origin)> {
    let libraries =
        prefixes.filter(|prefix| prefix.is_absolute()).flat_map(|prefix| python_libraries(&prefix));
    libraries.map(|path| (path, Origin::Package)).collect()
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
    defaults: &[(PathBuf, Origin)],
) -> Result<(PathBuf, Origin), ExtractError> {
    let named = explicit.or(variable).map(|named| vec![(named.to_owned(), Origin::Named)]);
    let tried = named.as_deref().unwrap_or(defaults);
    let found = tried.iter().find_map(|(path, origin)| {
        path.canonicalize().ok().filter(|path| path.is_file()).map(|path| (path, *origin))
    });
    found.ok_or_else(|| ExtractError::RuntimeMissing {
        tried: tried.iter().map(|(path, _)| path.clone()).collect(),
    })
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
        let paths = [(default.clone(), Origin::Beside)];
        assert_eq!(locate(Some(&named), Some(&default), &paths).unwrap(), (named.clone(), Origin::Named));
        assert_eq!(locate(None, Some(&named), &paths).unwrap(), (named.clone(), Origin::Named));
        assert_eq!(locate(None, None, &paths).unwrap(), (default, Origin::Beside));
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
    fn no_library_of_the_working_directory_is_tried() {
        let working = std::env::current_dir().unwrap();
        let beside = std::env::current_exe().unwrap();
        let below =
            |path: &Path| path.starts_with(&working) && Some(path.parent().unwrap()) != beside.parent();
        let paths = default_paths();
        assert!(paths.iter().all(|(path, _)| path.is_absolute()), "{paths:?}");
        let mut kept = paths.iter().filter(|(_, origin)| *origin == Origin::Beside);
        assert!(kept.all(|(path, _)| !below(path)), "{paths:?}");
        assert_eq!(package_paths(["", ".", "venv"].into_iter().map(PathBuf::from)), []);
    }

    #[test]
    fn a_missing_library_is_named_with_its_folder() {
        let dir = tempfile::tempdir().unwrap();
        let tried = [(dir.path().join(library_name()), Origin::Beside)];
        let text = locate(None, None, &tried).unwrap_err().to_string();
        assert!(text.contains(&dir.path().join(library_name()).display().to_string()), "{text}");
    }
}
