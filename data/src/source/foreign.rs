//! Recognizes data sets in formats that are not read, so that they are refused by name and with the way out.

use std::io::{self, Read};
use std::path::Path;

use super::{SourceError, names};
use crate::ordinary;

/// A format that is not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Name of the format, for messages.
    pub what: &'static str,
    /// The way out. `{path}` stands for the path, `{stem}` for the path without its last extension.
    hint: &'static str,
}

impl Foreign {
    /// The error that refuses `path`.
    pub(super) fn refuse(self, path: &Path) -> SourceError {
        let shown = path.display().to_string();
        let stem = path.with_extension("").display().to_string();
        let hint = self.hint.replace("{path}", &shown).replace("{stem}", &stem);
        SourceError::Foreign { path: path.to_owned(), what: self.what, hint }
    }
}

const GZIP: Foreign = Foreign {
    what: "compressed with gzip, and must be decompressed to be read",
    hint: "decompress it with `gzip -dk {path}`",
};
const ZSTD: Foreign = Foreign {
    what: "compressed with zstd, and must be decompressed to be read",
    hint: "decompress it with `zstd -d {path}`",
};
const BZIP2: Foreign = Foreign {
    what: "compressed with bzip2, and must be decompressed to be read",
    hint: "decompress it with `bzip2 -dk {path}`",
};
const XZ: Foreign = Foreign {
    what: "compressed with xz, and must be decompressed to be read",
    hint: "decompress it with `xz -dk {path}`",
};
const LZ4: Foreign = Foreign {
    what: "compressed with lz4, and must be decompressed to be read",
    hint: "decompress it with `lz4 -d {path}`",
};
/// The same where the file's name does not say so; the programs insist on their extensions.
const UNNAMED_GZIP: Foreign =
    Foreign { what: GZIP.what, hint: "decompress it with `gzip -dc < {path} > {stem}-plain.tar`" };
const UNNAMED_ZSTD: Foreign =
    Foreign { what: ZSTD.what, hint: "decompress it with `zstd -dc < {path} > {stem}-plain.tar`" };
const UNNAMED_BZIP2: Foreign =
    Foreign { what: BZIP2.what, hint: "decompress it with `bzip2 -dc < {path} > {stem}-plain.tar`" };
const UNNAMED_XZ: Foreign =
    Foreign { what: XZ.what, hint: "decompress it with `xz -dc < {path} > {stem}-plain.tar`" };
const UNNAMED_LZ4: Foreign =
    Foreign { what: LZ4.what, hint: "decompress it with `lz4 -dc < {path} > {stem}-plain.tar`" };
const ZIP: Foreign =
    Foreign { what: "a ZIP archive", hint: "unpack it with `unzip {path} -d {stem}` and give {stem}" };
const SEVEN_ZIP: Foreign =
    Foreign { what: "a 7-Zip archive", hint: "unpack it with `7z x {path} -o{stem}` and give {stem}" };
const RAR: Foreign =
    Foreign { what: "a RAR archive", hint: "unpack it with `unrar x {path} {stem}/` and give {stem}" };
const LFS: Foreign =
    Foreign { what: "a git-lfs pointer, not the file itself", hint: "run `git lfs pull` in its repository" };
const ARROW: Foreign = Foreign {
    what: "an Arrow file, as Dataset.save_to_disk and the cache of Hugging Face's datasets write it",
    hint: "write Parquet with `python -c \"import datasets; \
           datasets.Dataset.from_file('{path}').to_parquet('{stem}.parquet')\"`",
};
const SAVED: Foreign = Foreign {
    what: "a data set of Arrow files, written by Dataset.save_to_disk",
    hint: "write Parquet with `python -c \"import datasets; \
           datasets.load_from_disk('{path}').to_parquet('{path}.parquet')\"`",
};
const SAVED_SPLITS: Foreign = Foreign {
    what: "a data set of several splits of Arrow files, written by DatasetDict.save_to_disk",
    hint: "write one split as Parquet with `python -c \"import datasets; \
           datasets.load_from_disk('{path}')['train'].to_parquet('{path}.parquet')\"`",
};
const TFRECORD: Foreign = Foreign {
    what: "a TFRecord file",
    hint: "write its images as files into class folders, or as Parquet or WebDataset archives, with TensorFlow",
};
const LMDB: Foreign = Foreign {
    what: "an LMDB database",
    hint: "write its values as files into class folders, or as WebDataset archives, with Python's lmdb",
};
const HDF5: Foreign = Foreign {
    what: "an HDF5 file",
    hint: "write its images as files into class folders, or as Parquet, with Python's h5py",
};
const NUMPY: Foreign = Foreign {
    what: "a NumPy array",
    hint: "write each image of it as a PNG file into a class folder, with `PIL.Image.fromarray(image).save(...)`",
};
const BETON: Foreign = Foreign {
    what: "an FFCV data set",
    hint: "give the images that it was written from; only FFCV can read its pixels",
};
const IDX: Foreign = Foreign {
    what: "an IDX file, the format of MNIST",
    hint: "write each image as a PNG file into a class folder, for example from `torchvision.datasets.MNIST`",
};
const CIFAR: Foreign = Foreign {
    what: "a part of CIFAR in its own format",
    hint: "write each image as a PNG file into a class folder, for example from `torchvision.datasets.CIFAR10`",
};
const PICKLE: Foreign = Foreign {
    what: "a Python pickle, which is not opened because it can run code",
    hint: "write each image of it as a PNG file into a class folder",
};
const MATLAB: Foreign = Foreign {
    what: "a MATLAB file",
    hint: "write each image of it as a PNG file into a class folder, for example from `scipy.io.loadmat`",
};
const RECORDIO: Foreign = Foreign {
    what: "an MXNet RecordIO file",
    hint: "write its images as files into class folders, with `mxnet.recordio`",
};
const MDS: Foreign = Foreign {
    what: "a shard of MosaicML's streaming",
    hint: "write its images as files into class folders, or as WebDataset archives, with `streaming.StreamingDataset`",
};
const ADDRESS: Foreign = Foreign {
    what: "an address, not a file",
    hint: "download it first, or mount the bucket, and give the path",
};
const LIST: Foreign = Foreign {
    what: "not a list of images that can be read",
    hint: "write a .csv file with the columns path[,label]",
};
pub(super) const ONE_IMAGE: Foreign =
    Foreign { what: "a single image", hint: "give the folder that holds it" };

/// Formats by the extension of their files.
const BY_EXTENSION: [(&[&str], Foreign); 20] = [
    (&["tgz", "gz"], GZIP),
    (&["tzst", "zst"], ZSTD),
    (&["tbz2", "tbz", "bz2"], BZIP2),
    (&["txz", "xz"], XZ),
    (&["lz4"], LZ4),
    (&["zip"], ZIP),
    (&["7z"], SEVEN_ZIP),
    (&["rar"], RAR),
    (&["arrow", "feather"], ARROW),
    (&["tfrecord", "tfrecords", "tfrec"], TFRECORD),
    (&["mdb", "lmdb"], LMDB),
    (&["h5", "hdf5", "hdf"], HDF5),
    (&["npy", "npz"], NUMPY),
    (&["beton"], BETON),
    (&["pkl", "pickle", "pt", "pth"], PICKLE),
    (&["mat"], MATLAB),
    (&["rec"], RECORDIO),
    (&["mds"], MDS),
    (&["json", "xlsx", "xls"], LIST),
    (&["idx1-ubyte", "idx3-ubyte"], IDX),
];

/// Formats by the first bytes of their files.
const BY_CONTENT: [(&[u8], Foreign); 12] = [
    (b"version https://git-lfs", LFS),
    (b"\x1f\x8b", UNNAMED_GZIP),
    (b"\x28\xb5\x2f\xfd", UNNAMED_ZSTD),
    (b"BZh", UNNAMED_BZIP2),
    (b"\xfd7zXZ\0", UNNAMED_XZ),
    (b"\x04\x22\x4d\x18", UNNAMED_LZ4),
    (b"PK\x03\x04", ZIP),
    (b"7z\xbc\xaf\x27\x1c", SEVEN_ZIP),
    (b"Rar!\x1a\x07", RAR),
    (b"ARROW1", ARROW),
    (b"\x89HDF\r\n\x1a\n", HDF5),
    (b"\x93NUMPY", NUMPY),
];

/// The format of a file with this name. `None` for a name that says nothing.
pub(super) fn of_name(name: &str) -> Option<Foreign> {
    let lower = name.to_ascii_lowercase();
    let starts = |beginnings: &[&str]| beginnings.iter().any(|beginning| lower.starts_with(beginning));
    if lower.contains("-ubyte") {
        return Some(IDX);
    }
    if lower.contains(".tfrecord-") || lower.contains(".tfrec-") {
        return Some(TFRECORD);
    }
    if starts(&["data_batch_", "test_batch", "cifar-10-", "cifar-100-"]) || lower == "batches.meta" {
        return Some(CIFAR);
    }
    let extension = names::extension(name);
    let known = BY_EXTENSION.iter().find(|(extensions, _)| extensions.contains(&&*extension));
    known.map(|(_, foreign)| *foreign)
}

/// The format of a file that begins with these bytes.
pub(super) fn of_content(head: &[u8]) -> Option<Foreign> {
    BY_CONTENT.iter().find(|(magic, _)| head.starts_with(magic)).map(|(_, foreign)| *foreign)
}

/// The format of the file at `path`, by its content, which is opened, else by its name. `None` for a file that may be
/// readable.
///
/// # Errors
/// The system's error if the file cannot be opened.
pub(super) fn of_file(path: &Path) -> io::Result<Option<Foreign>> {
    let mut head = Vec::new();
    ordinary::open(path)?.take(64).read_to_end(&mut head)?;
    let name = names::file_name(path);
    let by_name = || match names::is_image(&name) {
        true => Some(ONE_IMAGE),
        false => of_name(&name),
    };
    Ok(match (of_content(&head), by_name()) {
        // The name's hint is shorter.
        (Some(content), Some(name)) if content.what == name.what => Some(name),
        (content, name) => content.or(name),
    })
}

/// Fails if the file at `path`, whose name is that of a TAR archive or a Parquet file, has the content of another format.
///
/// # Errors
/// [`SourceError::Foreign`]. A file that cannot be opened is left to its reader, which names it too.
pub(super) fn require_content(path: &Path) -> Result<(), SourceError> {
    let mut head = Vec::new();
    let read = ordinary::open(path).and_then(|file| file.take(64).read_to_end(&mut head));
    match of_content(&head).filter(|_| read.is_ok()) {
        Some(foreign) => Err(foreign.refuse(path)),
        None => Ok(()),
    }
}

/// The format of a path that does not exist: an address instead of a path.
pub(super) fn of_missing(path: &Path) -> Option<Foreign> {
    let text = path.to_str()?;
    (text.contains("://") || text.starts_with("pipe:")).then_some(ADDRESS)
}

/// The format of a folder by its description or its parts: a saved data set, or an unpacked CIFAR.
pub(super) fn of_folder(folder: &Path) -> Option<Foreign> {
    let has = |name: &str| folder.join(name).is_file();
    if has("dataset_dict.json") {
        return Some(SAVED_SPLITS);
    }
    if has("state.json") && has("dataset_info.json") {
        return Some(SAVED);
    }
    // CIFAR-100 calls its files train, test and meta, without extensions.
    (has("batches.meta") || (has("train") && has("test") && has("meta"))).then_some(CIFAR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_are_known_by_name_and_by_content() {
        for (name, expected) in [
            ("a.TAR.GZ", Some(GZIP)),
            ("a.tgz", Some(GZIP)),
            ("a.tar.zst", Some(ZSTD)),
            ("train-images-idx3-ubyte", Some(IDX)),
            ("train-images.idx3-ubyte", Some(IDX)),
            ("train.tfrecord-00000-of-00010", Some(TFRECORD)),
            ("data_batch_1", Some(CIFAR)),
            ("data.mdb", Some(LMDB)),
            ("train.beton", Some(BETON)),
            ("0a1b2c", None),
            ("a.jpg", None),
            ("a.tar", None),
        ] {
            assert_eq!(of_name(name), expected, "{name}");
        }
        assert_eq!(of_content(b"\x1f\x8b\x08"), Some(UNNAMED_GZIP));
        assert_eq!(of_content(b"PAR1"), None);
        let error = ZIP.refuse(Path::new("in/a.zip")).to_string();
        assert_eq!(
            error,
            "in/a.zip is a ZIP archive\nhint: unpack it with `unzip in/a.zip -d in/a` and give in/a"
        );
    }
}
