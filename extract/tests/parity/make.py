"""Makes the fixtures of the parity test: tiny random teachers as the real tools save them, with the tools' own goldens.

    python -m venv .venv && .venv/bin/pip install -r requirements.txt && .venv/bin/python make.py [FAMILY ...]

Without names it makes all families that the installed transformers can: requirements.txt has 4.57, with which optimum works;
the families of transformers5_families.py need an environment of their own from requirements-5.txt. The fixtures are committed;
the files of another version may differ from them. photographs.py and processors.py are scripts of their own.
"""

import sys
import warnings

import transformers

warnings.filterwarnings("ignore")


def families():
    """Functions by family name."""
    if transformers.__version__.startswith("5"):
        import transformers5_families as last

        return last.FAMILIES
    import open_clip_families
    import optimum_families
    import timm_families
    import sentence_families

    return {**optimum_families.FAMILIES, **timm_families.FAMILIES, **open_clip_families.FAMILIES, **sentence_families.FAMILIES}


if __name__ == "__main__":
    known = families()
    for name in sys.argv[1:] or known:
        print(name)
        known[name]()
