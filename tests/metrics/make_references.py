# pyright: reportMissingImports=false
"""Makes references.npz with torch-fidelity. Run it by hand, in an environment of its own.

    pip install torch==2.13.0 numpy scipy tqdm pillow && pip install --no-deps torch-fidelity==0.4.0
    python tests/metrics/make_references.py

torch is not a dependency of this project. So this file and the tests draw the same inputs (`inputs.py`), and
only the outputs are stored.
"""

import json
import sys
from collections import OrderedDict
from pathlib import Path
from unittest.mock import MagicMock

import numpy as np
import torch

# torch-fidelity imports torchvision for features that are not used here.
for part in ("", ".transforms", ".transforms.functional", ".models", ".datasets"):
    sys.modules[f"torchvision{part}"] = MagicMock()
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3  # noqa: E402
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric  # noqa: E402
from torch_fidelity.metric_isc import isc_features_to_metric  # noqa: E402
from torch_fidelity.metric_kid import kid_features_to_metric  # noqa: E402
from torch_fidelity.metric_prc import prc_features_to_metric  # noqa: E402

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import inputs  # noqa: E402


def network() -> FeatureExtractorInceptionV3:
    """The network with the drawn weights. Nothing is downloaded."""
    FeatureExtractorInceptionV3.load_state_dict, original = (
        lambda *_, **__: None,
        FeatureExtractorInceptionV3.load_state_dict,
    )
    torch.load, load = lambda *_, **__: {}, torch.load
    made = FeatureExtractorInceptionV3(
        "inception", ["2048", "logits_unbiased"], feature_extractor_weights_path="none"
    )
    FeatureExtractorInceptionV3.load_state_dict, torch.load = original, load
    shapes = {
        name: list(value.shape) for name, value in made.state_dict().items() if "num_batches" not in name
    }
    (HERE / "inception_shapes.json").write_text(json.dumps(shapes, indent=0))
    weights = {name: torch.from_numpy(value) for name, value in inputs.weights(shapes).items()}
    made.load_state_dict(weights, strict=False)
    return made.eval()


def main() -> None:
    found = {}
    net = network()
    for side in inputs.SIDES:
        images = torch.from_numpy(inputs.images(side).transpose(0, 3, 1, 2).copy())
        with torch.no_grad():
            features, logits = net(images)
        found[f"features/{side}"], found[f"logits/{side}"] = features.numpy(), logits.numpy()

    a, b = inputs.features()
    one, other = (fid_features_to_statistics(torch.from_numpy(x)) for x in (a, b))
    found |= fid_statistics_to_metric(one, other, False)
    settings = {"verbose": False, "kid_subsets": 20, "kid_subset_size": 300, "save_cpu_ram": False}
    found |= kid_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **settings)
    found |= prc_features_to_metric(torch.from_numpy(a), torch.from_numpy(b), **settings)
    found |= isc_features_to_metric(torch.from_numpy(inputs.logits()))
    tiny = {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.tiny().items()}
    tiny["part"] = tiny["a.weight"][1:]  # a view, which shares its storage
    torch.save(OrderedDict(tiny), HERE / "tiny.pth")
    torch.save(OrderedDict(tiny), HERE / "tiny_legacy.pth", _use_new_zipfile_serialization=False)
    np.savez(HERE / "references.npz", **found)
    print({name: value for name, value in found.items() if "/" not in name})


if __name__ == "__main__":
    main()
