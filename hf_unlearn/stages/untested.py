"""What a reader may think was tested and was not: everything of the package that a run leaves out.

The one list of it: report, card and terminal show what stands here. What was run and is not judged is no part of it.
"""

from __future__ import annotations

from collections.abc import Collection

from ..attacks import ATTACKS
from ..attacks.composed import kind_of
from ..quantization import FORMATS
from ..recipe import Recipe

_NEVER_TESTED = ("membership inference", "what somebody can do who still has the target")


def not_tested(recipe: Recipe) -> list[str]:
    """Formats and attacks that the recipe does not run, and what the package does not test at all, one phrase each."""
    formats = untested_formats(recipe.export.formats)
    run = {kind_of(name, attack) for name, attack in recipe.attack.items()}
    attacks = [name for name in ATTACKS.names() if name not in run]
    return [
        f"the formats {', '.join([*formats, 'and any other'])}" if formats else "any format that is not named",
        *([f"the attacks {', '.join(attacks)}"] if attacks else []),
        *_NEVER_TESTED,
    ]


def untested_formats(tested: Collection[str]) -> list[str]:
    """Formats that this package writes, people download, and that are not among the tested ones.

    There are dozens, so they are named by family: ``all of gguf-…`` if none of them was tested, ``others of bnb-…`` if
    some were, and by name where one is left.
    """
    families: dict[str, list[str]] = {}
    for entry in FORMATS.entries():
        if entry.value.published:
            families.setdefault(entry.name.partition("-")[0], []).append(entry.name)
    whole, single = [], []
    for family, names in families.items():
        left = [name for name in names if name not in tested]
        if len(left) == 1:
            single.append(left[0])
        elif left:
            whole.append(f"{'all' if left == names else 'others'} of {family}-…")
    return [*sorted(whole), *sorted(single)]
