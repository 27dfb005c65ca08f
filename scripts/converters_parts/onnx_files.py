"""Converts ONNX files of `lgd export` with every converter and compares its outputs with ONNX Runtime's, by position.

    python onnx_files.py CONVERTER,... SCRATCH IMAGE FILE.onnx...

Runs in the environment of scripts/converters. The files have a fixed batch. Prints one line per file and converter.
"""

from __future__ import annotations

import contextlib
import io
import re
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image

Outputs = list[np.ndarray]
BIN = Path(sys.executable).parent
# L2 over a tensor, relative. Runtimes in f32 differ in the order of sums; ncnn and LiteRT fuse and reorder more.
TOLERANCE = 1e-3


def onnx_runtime(model: Path | bytes, images: np.ndarray) -> Outputs:
    """The outputs of a file, in its order."""
    source = model if isinstance(model, bytes) else str(model)
    session = onnxruntime.InferenceSession(source, providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: images})


def onnxslim(path: Path, images: np.ndarray, _: Path) -> Outputs:
    import onnxslim

    return onnx_runtime(onnxslim.slim(onnx.load(path)).SerializeToString(), images)


def onnxsim(path: Path, images: np.ndarray, _: Path) -> Outputs:
    import onnxsim

    simplified, holds = onnxsim.simplify(onnx.load(path))
    assert holds, "onnxsim's own comparison failed"
    return onnx_runtime(simplified.SerializeToString(), images)


def openvino(path: Path, images: np.ndarray, _: Path) -> Outputs:
    import openvino

    compiled = openvino.Core().compile_model(openvino.Core().read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return list(compiled([images]).values())


def tract(path: Path, images: np.ndarray, _: Path) -> Outputs:
    import tract

    runnable = tract.onnx().load(path).into_model().into_runnable()
    return [value.to_numpy() for value in runnable.run([images])]


def mnn(path: Path, images: np.ndarray, scratch: Path) -> Outputs:
    import MNN

    converted = scratch / f"{path.stem}.mnn"
    run(BIN / "mnnconvert", "-f", "ONNX", "--modelFile", path, "--MNNModel", converted, "--bizCode", "lgd")
    names = [output.name for output in onnxruntime.InferenceSession(path).get_outputs()]
    network = MNN.nn.load_module_from_file(str(converted), ["images"], names)
    kind = MNN.expr.uint8 if images.dtype == np.uint8 else MNN.expr.float
    given = MNN.expr.const(images, list(images.shape), MNN.expr.NCHW, kind)
    return [np.array(MNN.expr.convert(value, MNN.expr.NCHW).read()) for value in network.onForward([given])]


def ncnn(path: Path, images: np.ndarray, scratch: Path) -> Outputs:
    import ncnn

    # pnnx replaces dashes in the names of its files.
    copied = scratch / path.name.replace("-", "_")
    copied.write_bytes(path.read_bytes())
    kind = {"float32": "f32", "uint8": "u8"}[images.dtype.name]
    shape = ",".join(str(side) for side in images.shape)
    # The package imports PyTorch; the program inside does not need it.
    pnnx = Path(find_spec("pnnx").origin).with_name("pnnx")
    run(pnnx, copied, f"inputshape=[{shape}]{kind}", "fp16=0", "device=cpu", cwd=scratch)
    network = ncnn.Net()
    network.opt.use_fp16_packed = network.opt.use_fp16_storage = network.opt.use_fp16_arithmetic = False
    stem = copied.with_suffix("")
    assert network.load_param(f"{stem}.ncnn.param") == 0, "ncnn does not load the network"
    assert network.load_model(f"{stem}.ncnn.bin") == 0, "ncnn does not load the weights"
    extractor = network.create_extractor()
    extractor.input("in0", ncnn.Mat(np.ascontiguousarray(images[0])).clone())
    # pnnx numbers the outputs. Other names without a reader are leftovers of its rewriting.
    names = sorted((name for name in network.output_names() if re.fullmatch(r"out\d+", name)), key=lambda name: int(name[3:]))
    return [np.array(extractor.extract(name)[1])[None] for name in names]


def litert(path: Path, images: np.ndarray, scratch: Path) -> Outputs:
    from ai_edge_litert.interpreter import Interpreter

    folder = scratch / f"{path.stem}-tf"
    # onnx2tf runs the model on images that it looks for here, and would fetch from outside the package registries.
    np.save(scratch / "calibration_image_sample_data_20x128x128x3_float32.npy", np.zeros((20, 128, 128, 3), np.float32))
    # onnx2tf takes every input for NCHW and transposes it, unless the shape is to be kept.
    keep = ["-kat", "images"] if images.dtype == np.uint8 else []
    run(BIN / "onnx2tf", "-i", path, "-o", folder, "-n", *keep, cwd=scratch)
    interpreter = Interpreter(str(next(folder.glob("*_float32.tflite"))))
    interpreter.allocate_tensors()
    (given,) = interpreter.get_input_details()
    # LiteRT's images are NHWC.
    if images.dtype == np.float32:
        images = images.transpose(0, 2, 3, 1)
    interpreter.set_tensor(given["index"], images)
    interpreter.invoke()
    return [interpreter.get_tensor(output["index"]) for output in interpreter.get_output_details()]


CONVERTERS: dict[str, Callable[[Path, np.ndarray, Path], Outputs]] = {
    "onnxslim": onnxslim,
    "onnxsim": onnxsim,
    "OpenVINO": openvino,
    "tract": tract,
    "MNN": mnn,
    "ncnn by pnnx": ncnn,
    "LiteRT by onnx2tf": litert,
}
# What a converter does not take, whoever wrote the file, and why.
UNSUPPORTED = {
    ("ncnn by pnnx", "u8"): "ncnn has no 8-bit input",
}


def run(*command: object, cwd: Path | None = None) -> None:
    """Runs a program; its output is the error if it fails."""
    text = [str(part) for part in command]
    done = subprocess.run(text, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{text[0]}: exit code {done.returncode}: {done.stdout[-1000:]}")


def images_for(path: Path, image: Path) -> np.ndarray:
    """A photograph, of the input's type and shape. Noise would not do: it is nothing like the few images that the students were
    trained on, and rounding errors of 1e-7 grow to 1e-2 in EfficientNet."""
    given = onnxruntime.InferenceSession(path).get_inputs()[0]
    as_bytes = given.type == "tensor(uint8)"
    side = given.shape[1 if as_bytes else 2]
    with Image.open(image) as opened:
        pixels = np.asarray(opened.convert("RGB").resize((side, side), Image.Resampling.BICUBIC))[None]
    return pixels if as_bytes else np.ascontiguousarray(pixels.transpose(0, 3, 1, 2), np.float32) / 255


def compare(found: Outputs, expected: Outputs, names: list[str]) -> str:
    """What differs; empty if nothing does."""
    if len(found) != len(expected):
        return f"{len(found)} outputs, expected {len(expected)}"
    problems = []
    for name, got, wanted in zip(names, found, expected, strict=True):
        got = np.asarray(got, np.float64)
        if got.size != wanted.size:
            problems.append(f"{name} has shape {got.shape}, expected {wanted.shape}")
            continue
        if got.ndim == 4 and got.shape != wanted.shape:
            got = got.transpose(0, 3, 1, 2)
        error = np.linalg.norm(got.ravel() - wanted.ravel()) / np.linalg.norm(wanted)
        if not error < TOLERANCE:
            problems.append(f"{name} is off by {error:.1e}")
    return "; ".join(problems)


def main() -> int:
    """Convert and compare; 1 if anything differs."""
    chosen = sys.argv[1].split(",")
    scratch, image, *files = (Path(name).resolve() for name in sys.argv[2:])
    problems = 0
    for path in files:
        images = images_for(path, image)
        expected = onnx_runtime(path, images)
        names = [output.name for output in onnxruntime.InferenceSession(path).get_outputs()]
        for converter in chosen:
            kind = "u8" if images.dtype == np.uint8 else "f32"
            if (converter, kind) in UNSUPPORTED:
                print(f"{path.stem}: {converter}: left out: {UNSUPPORTED[converter, kind]}", flush=True)
                continue
            folder = scratch / converter.replace(" ", "-")
            folder.mkdir(parents=True, exist_ok=True)
            printed = io.StringIO()
            try:
                with contextlib.redirect_stdout(printed):
                    difference = compare(CONVERTERS[converter](path, images, folder), expected, names)
            except Exception as error:  # noqa: BLE001 - a converter may raise anything; the next one is still tried
                difference = f"{type(error).__name__}: {error}"
            problems += bool(difference)
            print(f"{path.stem}: {converter}: {difference or 'the same'}", flush=True)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
