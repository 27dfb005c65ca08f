"""Parquet files as Hugging Face's datasets and as pyarrow write them.

    pip install datasets==5.2.0 pyarrow==26.0.1
    python make_parquet.py         writes hub-*-of-00002.parquet and table-*.parquet beside this file

Every image holds the number of its row in all files together.
"""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from datasets import ClassLabel, Dataset, Features, Image

HERE = Path(__file__).resolve().parent


def hub() -> None:
    """Nine rows in two files; row 3 has no image, row 5 hides its label."""
    features = Features({"pixels": Image(), "kind": ClassLabel(names=["dog", "cat", "äffle"])})
    images = [None if row == 3 else {"bytes": f"image {row}".encode(), "path": "same.png"} for row in range(9)]
    kinds = [-1 if row == 5 else row % 3 for row in range(9)]
    whole = Dataset.from_dict({"pixels": images, "kind": kinds}, features=features)
    for shard in range(2):
        whole.shard(2, shard, contiguous=True).to_parquet(HERE / f"hub-{shard:05}-of-00002.parquet")


def tables() -> None:
    """Seven rows with names of classes and captions, as different writers would store them."""
    rows = range(7)
    table = pa.table(
        {
            "label": pa.array(["dog", "cat", None, "dog", "cat", "äffle", "dog"]).dictionary_encode(),
            "caption": pa.array([f" thing {row} " if row % 4 else ["", None][row // 4] for row in rows]),
            "caption_embedding": pa.array([[3.0, -4.0 * (row + 1)] if row != 2 else None for row in rows], pa.list_(pa.float32())),
            "jpg": pa.array([f"image {row}".encode() * 50 for row in rows], pa.large_binary()),
        }
    )
    plain = {"use_dictionary": False, "compression": "none", "store_schema": False}
    settings = {
        "plain": plain,
        "snappy": {"compression": "snappy", "row_group_size": 3},
        "zstd": {"compression": "zstd", "data_page_version": "2.0", "write_page_index": True, "row_group_size": 4},
        "pages": {**plain, "data_page_size": 1, "write_batch_size": 2, "write_page_index": True},
        "lz4": {"compression": "lz4"},
        "delta": {**plain, "column_encoding": {"jpg": "DELTA_BYTE_ARRAY", "caption": "DELTA_LENGTH_BYTE_ARRAY"}},
    }
    for name, keywords in settings.items():
        pq.write_table(table, HERE / f"table-{name}.parquet", **keywords)


if __name__ == "__main__":
    hub()
    tables()
