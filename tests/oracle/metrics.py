"""Figures of torch-fidelity and clean-fid on fixed random features, and Inception's features under made-up weights.

    pip install --no-deps --target build/metrics torch-fidelity==0.4.0 clean-fid==0.1.35
    python -m tests.oracle.metrics build/metrics > tests/data/oracle_metrics.json

Both import torchvision, which has no CPU build to match and which their mathematics does not use: an empty stand-in is
put in its place. `tests/test_evaluation_maths.py` compares with what is printed.
"""

import json
import sys
import tempfile
import zlib
from importlib import import_module
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

SIZES = {"full": (300, 280, 24), "singular": (40, 50, 64)}  # results, reference, features


def features(kind: str) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two sets that overlap, with correlated features."""
    n, m, dimension = SIZES[kind]
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    mixing = rng.normal(size=(dimension, dimension)) / np.sqrt(dimension)
    return rng.normal(size=(n, dimension)) @ mixing, rng.normal(0.3, 1.2, size=(m, dimension)) @ mixing


def equal(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """As many of one as of the other: those libraries compare no others by kernels."""
    count = min(len(x), len(y))
    return x[:count], y[:count]


def made_up(shapes: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Weights that follow from their names, such that features neither vanish nor explode."""
    tensors = {}
    for name, shape in shapes.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(0)
        elif name.endswith("running_var") or (".bn." in name and name.endswith("weight")):
            tensors[name] = torch.from_numpy(rng.uniform(0.5, 1.5, shape).astype(np.float32))
        else:
            scale = 0.1 if len(shape) == 1 else np.sqrt(2 / np.prod(shape[1:]))
            tensors[name] = torch.from_numpy((rng.normal(size=shape) * scale).astype(np.float32))
    return tensors


def picture() -> NDArray[np.uint8]:
    """Noise of odd sides, some of it smooth."""
    small = np.random.default_rng(3).integers(0, 256, (17, 23, 3)).astype(np.uint8)
    return np.kron(small, np.ones((7, 9, 1), np.uint8))


def stand_in(name: str) -> None:
    """Put a module in place that has whatever is asked of it, and nothing in it."""

    class Anything(type):
        def __getattr__(cls, attribute: str) -> Any:
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            return Anything(attribute, (), {"__init__": lambda *_, **__: None})

    class Empty(ModuleType):
        def __getattr__(self, attribute: str) -> Any:
            return Anything.__getattr__(Anything("Empty", (), {}), attribute)

    module = Empty(name)
    module.__path__ = []
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    sys.modules[name] = module
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)


def main(packages: Path) -> None:
    sys.path.insert(0, str(packages))
    for name in ("", ".datasets", ".transforms", ".transforms.functional", ".models", ".models.utils"):
        stand_in(f"torchvision{name}")
    fidelity, clean = import_module("torch_fidelity"), import_module("cleanfid.fid")
    fid, kid = import_module("torch_fidelity.metric_fid"), import_module("torch_fidelity.metric_kid")
    found: dict[str, Any] = {}
    for kind in SIZES:
        x, y = features(kind)
        one, two = (fid.fid_features_to_statistics(torch.from_numpy(part)) for part in (x, y))
        distance = fid.fid_statistics_to_metric(one, two, False)
        x, y = equal(x, y)
        found[kind] = {
            "torch-fidelity frechet": float(distance[fid.KEY_METRIC_FID]),
            "clean-fid frechet": float(clean.frechet_distance(one["mu"], one["sigma"], two["mu"], two["sigma"])),
            "torch-fidelity cubic": float(
                kid.kernel_mmd(x, y, kid_kernel="poly", kid_kernel_poly_degree=3, kid_kernel_poly_coef0=1)
            ),
            "clean-fid cubic": clean.kernel_distance(x, y, num_subsets=1),
            "torch-fidelity gaussian": float(kid.kernel_mmd(x, y, kid_kernel="rbf", kid_kernel_rbf_sigma=10.0)),
        }
    shapes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        # The class insists on a file, so its shapes are taken from an instance that is not finished.
        extractor = fidelity.FeatureExtractorInceptionV3
        shell = extractor.__new__(extractor)
        try:
            extractor.__init__(shell, "inception-v3", ["2048"], feature_extractor_weights_path=f"{folder}/none")
        except FileNotFoundError:
            shapes = {name: tuple(tensor.shape) for name, tensor in shell.state_dict().items()}
        torch.save(made_up(shapes), f"{folder}/weights.pth")
        network = extractor("inception-v3", ["2048"], feature_extractor_weights_path=f"{folder}/weights.pth")
        (row,) = network(torch.from_numpy(picture()).permute(2, 0, 1)[None])[0].double().numpy()
    found["inception"] = {
        "shapes": {name: list(shape) for name, shape in shapes.items() if not name.startswith("fc.")},
        "length": float(np.linalg.norm(row)),
        "first": [float(value) for value in row[:32]],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
