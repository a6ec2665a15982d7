"""Print what an installed package needs, as a tree with sizes: ``python tests/dependencies.py paint-by-example``.

Only what is needed without extras. A package that was printed before is named again without its own.
"""

import sys
from importlib.metadata import Distribution, distribution, distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def needed(package: Distribution) -> list[str]:
    """Names of what it needs here, without extras."""
    wanted = [Requirement(text) for text in package.requires or []]
    return sorted(
        {canonicalize_name(one.name) for one in wanted if not one.marker or one.marker.evaluate({"extra": ""})}
    )


def megabytes(package: Distribution) -> float:
    """What its files take on disk; scripts are left out."""
    files = [Path(str(package.locate_file(file))) for file in package.files or []]
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


def print_tree(name: str, depth: int, seen: set[str]) -> None:
    package = distribution(name)
    again = name in seen
    size = "above" if again else f"{megabytes(package):.1f} MB"
    print(f"{'  ' * depth}{name} {package.version} ({size})")
    seen.add(name)
    if not again:
        for other in needed(package):
            print_tree(other, depth + 1, seen)


def main() -> None:
    seen: set[str] = set()
    print_tree(canonicalize_name(sys.argv[1]), 0, seen)
    size = sum(megabytes(distribution(name)) for name in seen)
    others = {canonicalize_name(one.name) for one in distributions()} - seen
    print(f"{len(seen)} packages, {size:.0f} MB; beside them {', '.join(sorted(others)) or 'nothing'}")


if __name__ == "__main__":
    main()
