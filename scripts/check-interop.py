"""Opens a cache, and a bank made from it, with pyarrow, polars and DuckDB, and checks their content.

    third_party/venv/bin/python scripts/check-interop.py CACHE [BANK]

The check is independent of `lgd`: it uses other readers and recomputes the targets in numpy. Prints one JSON line and exits
with 0, or prints every mismatch to stderr and exits with 1.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import duckdb
import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.numpy import load_file

VIEW_COLUMNS = {
    "key": pa.string(),
    "view": pa.uint16(),
    "label": pa.int32(),
    "width": pa.uint32(),
    "height": pa.uint32(),
    "content": pa.uint64(),
    "center_fraction": pa.float32(),
    "crop_x": pa.float32(),
    "crop_y": pa.float32(),
    "crop_w": pa.float32(),
    "crop_h": pa.float32(),
    "flip": pa.bool_(),
    "brightness": pa.float32(),
    "contrast": pa.float32(),
    "saturation": pa.float32(),
    "hue": pa.float32(),
    "jitter_order": pa.uint8(),
    "grey": pa.bool_(),
    "blur_sigma": pa.float32(),
    "norm": pa.float32(),
}
# Half precision rounds a number by at most 2^-11 of it. This bounds the error of a length or a sum.
HALF = 2.0**-11
SMALLEST_HALF = 2.0**-24
# Two f32 dot products of unit vectors, summed in different orders.
DOT = 1e-6


class Checks:
    """Counts checks and collects problems."""

    def __init__(self) -> None:
        self.done = 0
        self.problems: list[str] = []

    def that(self, holds: bool | np.bool_, otherwise: str) -> None:
        self.done += 1
        if not holds:
            self.problems.append(otherwise)

    def require(self, where: str, found: object, expected: object) -> None:
        """Like `equal`, but raises: later checks depend on it."""
        self.done += 1
        if found != expected:
            raise ValueError(f"{where}: found {found}, expected {expected}")

    def equal(self, where: str, found: object, expected: object) -> None:
        self.that(found == expected, f"{where}: found {found}, expected {expected}")


def half_list(width: int) -> pa.DataType:
    """The type of a fixed-size list of f16 without nulls."""
    return pa.list_(pa.field("item", pa.float16(), nullable=False), width)


def matrix(table: pa.Table, column: str) -> np.ndarray:
    """A column of fixed-size lists as [rows, width]."""
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False) for chunk in table[column].chunks]
    return np.concatenate(chunks).reshape(table.num_rows, table.schema.field(column).type.list_size)


def check_type(checks: Checks, where: str, found: pa.DataType, expected: pa.DataType) -> None:
    """Compares two types, ignoring the name of a list's item."""
    if pa.types.is_fixed_size_list(expected) and pa.types.is_fixed_size_list(found):
        checks.equal(f"{where}: item", found.value_type, expected.value_type)
        checks.that(not found.value_field.nullable, f"{where}: an item may be null")
        checks.equal(f"{where}: width", found.list_size, expected.list_size)
    else:
        checks.equal(where, found, expected)


def view_columns(config: dict) -> dict[str, pa.DataType]:
    """The columns of a cache's views, without the wide ones."""
    columns = dict(VIEW_COLUMNS)
    if "center_resize" in config:
        norm = columns.pop("norm")
        columns |= {"center_resize": pa.string(), "center_offset": pa.string(), "norm": norm}
    return columns


def check_views(checks: Checks, path: Path, rows: int, config: dict) -> pa.Table:
    """Checks one shard of a cache: schema, row law, keys and views, norms of the embeddings."""
    table = pq.read_table(path)
    checks.require(f"{path}: rows", table.num_rows, rows)
    views, dim = config["views"], config["dim"]
    expected = {**view_columns(config), "embedding": half_list(dim)}
    checks.require(f"{path}: columns", table.column_names, list(expected))
    for name, dtype in expected.items():
        check_type(checks, f"{path}: {name}", table.schema.field(name).type, dtype)
    keys = table["key"].to_numpy()
    checks.that(np.array_equal(table["view"].to_numpy(), np.arange(rows) % views), f"{path}: views do not cycle")
    checks.that((keys == np.repeat(keys[::views], views)).all(), f"{path}: a sample's rows are not together")
    boxed = table["crop_x"].is_valid().to_numpy()
    centered = table["center_fraction"].is_valid().to_numpy()
    checks.that((boxed != centered).all(), f"{path}: a row has both kinds of crop, or none")
    lengths = np.linalg.norm(matrix(table, "embedding").astype(np.float32), axis=1)
    checks.that((np.abs(lengths - 1) <= 2 * HALF).all(), f"{path}: lengths {lengths.min()} to {lengths.max()}, not 1")
    return table


def softmax(logits: np.ndarray) -> np.ndarray:
    """Row by row, in f64."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


class Bank:
    """The manifest and prototypes of a bank, and the logits that they imply."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.manifest = json.loads((folder / "bank.json").read_text())
        prototypes = load_file(folder / "bank.safetensors")
        self.tsb = prototypes["tsb"].astype(np.float64)
        self.vsb = prototypes["vsb"].astype(np.float64)
        self.counts = prototypes["counts"]
        self.temperature = float(self.manifest["teacher_temperature"])
        self.masked = self.manifest["unassigned_slots"] == "masked"

    def text_logits(self, embeddings: np.ndarray) -> np.ndarray:
        return embeddings @ self.tsb.T

    def visual_logits(self, embeddings: np.ndarray) -> np.ndarray:
        """[rows, C + 1]: the view itself first; masked categories at minus infinity."""
        logits = embeddings @ self.vsb.T
        if self.masked:
            logits[:, self.counts == 0] = -np.inf
        return np.concatenate([np.ones((len(embeddings), 1)), logits], axis=1)

    def check_prototypes(self, checks: Checks, sums: np.ndarray, counts: np.ndarray) -> None:
        """Checks that TSB rows are unit vectors, and recomputes counts and VSB from the pseudo-categories of all rows."""
        where = self.folder / "bank.safetensors"
        lengths = np.linalg.norm(self.tsb, axis=1)
        checks.that((np.abs(lengths - 1) <= DOT).all(), f"{where}: tsb has rows of length other than 1")
        checks.that(np.array_equal(self.counts, counts), f"{where}: counts are not those of the targets")
        listed = [category["count"] for category in self.manifest["categories"]]
        checks.equal(f"{self.folder / 'bank.json'}: counts", listed, counts.tolist())
        means = sums / np.maximum(counts, 1)[:, None]
        error = np.abs(means - self.vsb).max()
        checks.that(error <= DOT, f"{where}: vsb is off by {error:.1e} from the mean embeddings")


def check_targets(checks: Checks, bank: Bank, path: Path, embeddings: np.ndarray) -> np.ndarray:
    """Checks one shard of the bank against the same rows of the cache; returns its pseudo-categories."""
    table = pq.read_table(path)
    checks.require(f"{path}: rows", table.num_rows, len(embeddings))
    check_type(checks, f"{path}: pseudo_category", table.schema.field("pseudo_category").type, pa.int32())
    text = bank.text_logits(embeddings)
    chosen = table["pseudo_category"].to_numpy()
    checks.require(f"{path}: categories out of range", int(((chosen < 0) | (chosen >= len(bank.tsb))).sum()), 0)
    missed = text.max(axis=1) - np.take_along_axis(text, chosen[:, None].astype(np.int64), axis=1)[:, 0]
    checks.that(
        (missed <= DOT).all(), f"{path}: pseudo_category is not the nearest name in {(missed > DOT).sum()} rows"
    )
    for name, logits in (("text", text), ("visual", bank.visual_logits(embeddings))):
        check_distribution(checks, path, table, name, softmax(logits / bank.temperature), bank.temperature)
    return chosen


def check_distribution(
    checks: Checks, path: Path, table: pa.Table, name: str, expected: np.ndarray, temperature: float
) -> None:
    """Compares a distribution, dense or top K, with the recomputed one."""
    relative = HALF + 2 * DOT / temperature
    if f"{name}_distribution" in table.column_names:
        column = f"{name}_distribution"
        check_type(checks, f"{path}: {column}", table.schema.field(column).type, half_list(expected.shape[1]))
        found = matrix(table, column).astype(np.float64)
        off = np.abs(found.sum(axis=1) - 1).max()
        checks.that(off <= HALF + expected.shape[1] * SMALLEST_HALF, f"{path}: {column}: sums are off by {off:.1e}")
    else:
        column, index = f"{name}_probability", matrix(table, f"{name}_index").astype(np.int64)
        found = matrix(table, column).astype(np.float64)
        check_type(checks, f"{path}: {column}", table.schema.field(column).type, half_list(index.shape[1]))
        distinct = (np.diff(np.sort(index, axis=1), axis=1) > 0).all()
        checks.that(distinct, f"{path}: {name}_index names an entry twice")
        checks.that((np.diff(found, axis=1) <= 0).all(), f"{path}: {column} is not the largest first")
        kth = np.partition(expected, -index.shape[1], axis=1)[:, -index.shape[1], None]
        expected = np.take_along_axis(expected, index, axis=1)
        missing = (expected < kth * (1 - relative) - SMALLEST_HALF).any()
        checks.that(not missing, f"{path}: {column} leaves out a larger one")
    error = np.abs(found - expected) - relative * expected
    checks.that(
        (error <= SMALLEST_HALF).all(), f"{path}: {column} is off by up to {np.abs(found - expected).max():.1e}"
    )


def check_other_readers(checks: Checks, files: list[Path], column: str, rows: int, total: float) -> None:
    """Checks that polars and DuckDB read the same rows and numbers from the column of vectors."""
    frame = pl.read_parquet(files)
    checks.equal(f"polars: {files[0].parent}: rows", frame.height, rows)
    dtype = frame.schema[column]
    checks.that(isinstance(dtype, pl.Array) and dtype.inner == pl.Float16, f"polars: {column} is read as {dtype}")
    found = float(frame[column].to_numpy().astype(np.float64).sum())
    checks.that(abs(found - total) <= 1e-6 * max(1.0, abs(total)), f"polars: {column} sums to {found}, not {total}")
    names = [str(file) for file in files]
    query = f"select count(*), sum(list_sum({column}::double[])) from read_parquet(?)"
    ((count, found),) = duckdb.connect().execute(query, [names]).fetchall()
    checks.equal(f"DuckDB: {files[0].parent}: rows", count, rows)
    checks.that(abs(found - total) <= 1e-6 * max(1.0, abs(total)), f"DuckDB: {column} sums to {found}, not {total}")


def check(checks: Checks, cache: Path, bank_folder: Path | None) -> dict[str, object]:
    """Checks a cache and, if given, its bank; returns a summary."""
    manifest = json.loads((cache / "cache.json").read_text())
    views, dim = manifest["config"]["views"], manifest["config"]["dim"]
    view_files = [cache / shard["file"]["name"] for shard in manifest["shards"]]
    checks.equal(f"{cache}: shards", view_files, sorted(cache.glob("views-*.parquet")))
    bank = Bank(bank_folder) if bank_folder else None
    target_files = [bank.folder / entry["name"] for entry in bank.manifest["targets"]] if bank else []
    if bank:
        checks.require(f"{bank.folder}: shards", len(target_files), len(view_files))
        counts, sums = np.zeros(len(bank.tsb), np.int64), np.zeros_like(bank.tsb)
    embedding_total = target_total = 0.0
    target_column = ""
    keys = 0
    for position, (path, shard) in enumerate(zip(view_files, manifest["shards"], strict=True)):
        table = check_views(checks, path, shard["rows"], manifest["config"])
        keys += len(set(table["key"].to_pylist()))
        embeddings = matrix(table, "embedding").astype(np.float64)
        embedding_total += embeddings.sum()
        if bank:
            chosen = check_targets(checks, bank, target_files[position], embeddings)
            counts += np.bincount(chosen, minlength=len(counts))
            np.add.at(sums, chosen, embeddings)
            targets = pq.read_table(target_files[position])
            target_column = next(
                name for name in ("text_distribution", "text_probability") if name in targets.column_names
            )
            target_total += matrix(targets, target_column).astype(np.float64).sum()
    checks.equal(f"{cache}: distinct keys", keys * views, manifest["rows"])
    check_other_readers(checks, view_files, "embedding", manifest["rows"], embedding_total)
    if bank:
        bank.check_prototypes(checks, sums, counts)
        checks.equal(f"{bank.folder}: rows", bank.manifest["rows"], manifest["rows"])
        check_other_readers(checks, target_files, target_column, manifest["rows"], target_total)
    return {"rows": manifest["rows"], "shards": len(view_files), "dim": dim, "checks": checks.done}


def main() -> int:
    """Check and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cache", type=Path)
    parser.add_argument("bank", type=Path, nargs="?")
    args = parser.parse_args()
    checks = Checks()
    try:
        summary = check(checks, args.cache, args.bank)
    except (OSError, KeyError, ValueError, pa.ArrowException, pl.exceptions.PolarsError, duckdb.Error) as error:
        checks.problems.append(f"{type(error).__name__}: {error}")
    for problem in checks.problems:
        print(f"check-interop: {problem}", file=sys.stderr)
    if checks.problems:
        return 1
    print(json.dumps({**summary, "duckdb": duckdb.__version__, "polars": pl.__version__, "pyarrow": pa.__version__}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
