"""CLIP's 80 ImageNet templates and 1,000 ImageNet names, from `open_clip_torch`.

The package keeps them in a Python module, the templates as functions such as
`lambda c: f'a photo of a {c}.'`. The module is parsed, never run.
"""

from __future__ import annotations

import ast
import zipfile
from pathlib import Path

from .core import REQUIREMENTS, THIRD_PARTY, SetupError, fingerprint, is_complete, make_folder, say, scratch, timed
from .packages import copy_member, pip_wheels

FOLDER = THIRD_PARTY / "clip"
NAMES = FOLDER / "imagenet_names.txt"
METADATA = "open_clip/zero_shot_metadata.py"
LICENSE = "open_clip_torch-3.3.0.dist-info/licenses/LICENSE"


def setup_clip() -> None:
    """`third_party/clip/imagenet_templates.txt` and `imagenet_names.txt`, one per line."""
    requirements = REQUIREMENTS / "clip.txt"
    mark = fingerprint(requirements)
    if is_complete(FOLDER, mark):
        return

    def fill(target: Path) -> None:
        with scratch() as downloads:
            [wheel] = pip_wheels(requirements, downloads)
            with zipfile.ZipFile(wheel) as archive:
                module = ast.parse(archive.read(METADATA))
            copy_member(wheel, LICENSE, target / "LICENSE")
        _write_lines(target / "imagenet_templates.txt", _templates(module), expected=80)
        _write_lines(target / "imagenet_names.txt", _names(module), expected=1000)

    with timed("clip"):
        say("clip", "extracts CLIP's ImageNet templates and names from open_clip_torch")
        make_folder(FOLDER, mark, fill)


def _templates(module: ast.Module) -> list[str]:
    value = _assigned(module, "OPENAI_IMAGENET_TEMPLATES")
    if not isinstance(value, ast.Tuple):
        raise SetupError("the templates are not a tuple")
    return [_template(item) for item in value.elts]


def _template(function: ast.expr) -> str:
    """`lambda c: f'a photo of a {c}.'` as `a photo of a {}.`"""
    match function:
        case ast.Lambda(args=ast.arguments(args=[ast.arg(arg=argument)]), body=ast.JoinedStr(values=pieces)):
            return "".join(_piece(piece, argument) for piece in pieces)
    raise SetupError(f"not a template: {ast.unparse(function)}")


def _piece(piece: ast.expr, argument: str) -> str:
    match piece:
        case ast.Constant(value=str(text)):
            return text
        case ast.FormattedValue(value=ast.Name(id=name), conversion=-1, format_spec=None) if name == argument:
            return "{}"
    raise SetupError(f"not a piece of a template: {ast.unparse(piece)}")


def _names(module: ast.Module) -> list[str]:
    return list(ast.literal_eval(_assigned(module, "IMAGENET_CLASSNAMES")))


def _assigned(module: ast.Module, name: str) -> ast.expr:
    for statement in module.body:
        match statement:
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value
    raise SetupError(f"{METADATA} does not define {name}")


def _write_lines(path: Path, lines: list[str], expected: int) -> None:
    if len(lines) != expected:
        raise SetupError(f"{path.name}: found {len(lines)} lines, expected {expected}")
    path.write_text("".join(f"{line}\n" for line in lines))
