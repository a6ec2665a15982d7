"""Everything that takes input from outside, by the name that ``--only`` takes."""

from tests.fuzz import api, data, pictures, weights
from tests.fuzz.judge import Target

TARGETS: dict[str, type[Target]] = {
    "pictures": pictures.Pictures,
    "masks": pictures.Masks,
    "arrays": pictures.Arrays,
    "weights": weights.Weights,
    "ldm": weights.Ldm,
    "folders": weights.Folders,
    "checkpoints": weights.Checkpoints,
    "tables": data.Tables,
    "records": data.Records,
    "libraries": data.Libraries,
    "lance": data.LanceLibraries,
    "indexes": data.Indexes,
    "requests": api.Requests,
    "schema": api.Schema,
}
