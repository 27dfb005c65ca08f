#!/usr/bin/env python3
"""nvcc, except for Candle's quantized kernels, which take minutes to compile and which nothing here calls.

Installed as `third_party/cuda/nvcc` and named by NVCC; the real one lies below CUDA_HOME. Those
sources become functions that say so and abort.
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

QUANTIZED = re.compile(r"mmq_|mmvq_|moe")
# The file in whose object all the stand-ins lie: one definition for each.
HOLDER = "moe_gguf.cu"


def main() -> int:
    real = os.path.join(os.environ["CUDA_HOME"], "bin", "nvcc")
    arguments = sys.argv[1:]
    source = next((Path(word).resolve() for word in arguments if word.endswith(".cu")), None)
    if source is None or "-c" not in arguments or not QUANTIZED.search(source.name):
        os.execv(real, [real, *arguments])
    output = arguments[arguments.index("-o") + 1]
    text = "#include <stdio.h>\n#include <stdlib.h>\n"
    if source.name == HOLDER:
        bindings = next(folder / "ffi.rs" for folder in source.parents if (folder / "ffi.rs").exists())
        for name in re.findall(r"pub fn (\w+)\(", bindings.read_text()):
            text += f'void {name}(void) {{ fputs("{name}: left out of this build\\n", stderr); abort(); }}\n'
    with tempfile.TemporaryDirectory() as folder:
        stand_in = Path(folder) / "left_out.c"
        stand_in.write_text(text)
        return subprocess.call(["gcc", "-O1", "-fPIC", "-c", "-o", output, str(stand_in)])


if __name__ == "__main__":
    sys.exit(main())
