"""The inputs of one forward: rows padded on the right, or texts with a common beginning as trees of tokens.

The answer, the options and the variants of a question all follow the same prompt. A tree holds every distinct
beginning of its texts once, so shared parts are fed once; a token sees the tokens on its way from the root and
stands at its depth. That is exact wherever attention is the only thing that mixes positions: each token gets the
numbers it would get in its own text.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

# Masks are square.
_MOST_NODES = 4096
# How many multiplications of attention take the time of one in a matrix product.
_ATTENTION_COST = 2


@dataclass(frozen=True)
class Batch:
    """Right-padded inputs.

    Attributes:
        input_ids: ``[rows, time]``.
        attention_mask: ``[rows, time]``, 1 where there is a token; or, where rows are trees of tokens,
            ``[rows, 1, time, time]``, true where one token sees another.
        position_ids: ``[rows, time]`` if rows are trees; otherwise ``None``: positions are as usual.
    """

    input_ids: torch.Tensor
    attention_mask: torch.Tensor
    position_ids: torch.Tensor | None = None


def padded_batch(rows: Sequence[Sequence[int]], device: torch.device) -> Batch:
    """Rows of tokens, padded on the right and masked from their real lengths."""
    width = max(map(len, rows))
    # Id 0 is only filler: padding comes after everything that is read, and is masked.
    ids = torch.zeros((len(rows), width), dtype=torch.long)
    mask = torch.zeros_like(ids)
    for place, row in enumerate(rows):
        ids[place, : len(row)] = torch.tensor(row)
        mask[place, : len(row)] = 1
    return Batch(ids.to(device), mask.to(device))


@dataclass(frozen=True)
class TokenTree:
    """A tree of tokens, parents before children.

    Attributes:
        tokens: Token ids of the nodes.
        depths: Position of each node in the texts it belongs to.
        paths: For each text, its nodes from the first token on.
        members: For each text, its index in the list that the trees were made from.
    """

    tokens: tuple[int, ...]
    depths: tuple[int, ...]
    paths: tuple[tuple[int, ...], ...]
    members: tuple[int, ...]

    @property
    def is_chain(self) -> bool:
        """Whether all texts are beginnings of the longest, so that ordinary causal attention serves."""
        return len(self.tokens) == max(self.depths) + 1


class _Growing:
    def __init__(self) -> None:
        self.nodes: dict[tuple[int, int], int] = {}  # (parent, token) to node
        self.tokens: list[int] = []
        self.depths: list[int] = []
        self.paths: list[tuple[int, ...]] = []
        self.members: list[int] = []

    def shared(self, text: Sequence[int]) -> int:
        """How many of the text's first tokens are there."""
        node = -1
        for depth, token in enumerate(text):
            found = self.nodes.get((node, token))
            if found is None:
                return depth
            node = found
        return len(text)

    def add(self, text: Sequence[int], member: int) -> None:
        path = []
        node = -1
        for depth, token in enumerate(text):
            key = (node, token)
            if key not in self.nodes:
                self.nodes[key] = len(self.tokens)
                self.tokens.append(token)
                self.depths.append(depth)
            node = self.nodes[key]
            path.append(node)
        self.paths.append(tuple(path))
        self.members.append(member)

    def finished(self) -> TokenTree:
        return TokenTree(tuple(self.tokens), tuple(self.depths), tuple(self.paths), tuple(self.members))


def grow_trees(
    texts: Sequence[Sequence[int]], keys: Sequence[Hashable], width: int, longest_branching: int
) -> list[TokenTree]:
    """Trees of the texts that have the same key.

    A text joins a tree of its key if that saves more than it costs: the tokens it shares are not fed again, but
    attention is computed between all nodes of a tree, whether they see each other or not.

    Args:
        texts: Token ids that are fed.
        keys: Texts of different keys never share a tree.
        width: The model's hidden size, which decides what attention costs relative to everything else.
        longest_branching: Longest text of a tree that is not a chain; 0 for no such trees.

    Returns:
        Trees in which every text is once.
    """
    open_trees: dict[Hashable, list[_Growing]] = {}
    for member, (text, key) in enumerate(zip(texts, keys, strict=True)):
        trees = open_trees.setdefault(key, [])
        tree = next((tree for tree in trees if _joins(tree, text, width, longest_branching)), None)
        if tree is None:
            tree = _Growing()
            trees.append(tree)
        tree.add(text, member)
    return [tree.finished() for trees in open_trees.values() for tree in trees]


_MOST_KEPT = 500_000
"""Tokens of texts whose trees are kept until others are asked for: an attack asks the same texts after every epoch."""


def kept_trees(
    texts: Sequence[tuple[int, ...]], keys: Sequence[Hashable], width: int, longest_branching: int
) -> Sequence[TokenTree]:
    """What :func:`grow_trees` gives, which is remembered for the texts that were asked for last."""
    if sum(map(len, texts)) > _MOST_KEPT:
        return grow_trees(texts, keys, width, longest_branching)
    return _grown(tuple(texts), tuple(keys), width, longest_branching)


@lru_cache(maxsize=1)
def _grown(
    texts: tuple[tuple[int, ...], ...], keys: tuple[Hashable, ...], width: int, longest_branching: int
) -> tuple[TokenTree, ...]:
    return tuple(grow_trees(texts, keys, width, longest_branching))


def _joins(tree: _Growing, text: Sequence[int], width: int, longest_branching: int) -> bool:
    shared = tree.shared(text)
    new, there = len(text) - shared, len(tree.tokens)
    deepest = max(len(text), max(tree.depths) + 1)
    if there + new == deepest:  # still a chain
        return True
    if deepest > longest_branching or there + new > _MOST_NODES:
        return False
    # Per layer: a token costs about 12 width**2 multiplications, a pair in attention 2 width.
    saved = shared * 6 * width
    pairs = (2 * there + new) * new - len(text) ** 2 // 2
    return saved > _ATTENTION_COST * pairs


def tree_batch(trees: Sequence[TokenTree], device: torch.device) -> Batch:
    """Right-padded trees, with masks if one of them is not a chain."""
    width = max(len(tree.tokens) for tree in trees)
    # Id 0 is only filler: padding comes after everything that is read, and is masked.
    ids = torch.zeros((len(trees), width), dtype=torch.long)
    seen = torch.zeros_like(ids)
    for place, tree in enumerate(trees):
        ids[place, : len(tree.tokens)] = torch.tensor(tree.tokens)
        seen[place, : len(tree.tokens)] = 1
    if all(tree.is_chain for tree in trees):
        return Batch(ids.to(device), seen.to(device))
    positions = torch.zeros_like(ids)
    for place, tree in enumerate(trees):
        positions[place, : len(tree.tokens)] = torch.tensor(tree.depths)
    masks = torch.from_numpy(np.stack([_mask(tree, width) for tree in trees])).unsqueeze(1)
    return Batch(ids.to(device), masks.to(device), positions.to(device))


def _mask(tree: TokenTree, width: int) -> np.ndarray:
    """Which nodes each node sees: itself and those above it; padding sees itself."""
    mask = np.eye(width, dtype=bool)
    for path in _branches(tree.paths):
        nodes = np.array(path)
        mask[nodes[:, None], nodes[None, :]] |= np.tri(len(nodes), dtype=bool)
    return mask


def _branches(paths: Iterable[tuple[int, ...]]) -> Iterable[tuple[int, ...]]:
    return dict.fromkeys(paths)
