"""Small operations on boolean pictures. Pure; numpy only."""

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


def _grown(mask: Mask, *, corners: bool) -> Mask:
    """The mask and its neighbours: four, or eight with corners."""
    padded = np.pad(mask, 1)
    middle = padded[:, 1:-1] | padded[:, :-2] | padded[:, 2:]
    sides = middle if corners else padded[:, 1:-1]
    grown: Mask = sides[:-2] | sides[2:] | middle[1:-1]
    return grown


def _flood(seed: Mask, allowed: Mask, *, corners: bool) -> Mask:
    while True:
        grown = _grown(seed, corners=corners) & allowed
        if np.array_equal(grown, seed):
            return seed
        seed = grown


def largest(mask: Mask) -> Mask:
    """The largest connected part, contact at corners included."""
    best, rest = np.zeros_like(mask), mask
    while rest.sum() > best.sum():
        seed = np.zeros_like(mask)
        seed.flat[int(rest.argmax())] = True
        part = _flood(seed, rest, corners=True)
        rest = rest & ~part
        best = part if part.sum() > best.sum() else best
    return best


def filled(mask: Mask) -> Mask:
    """The mask with every hole that does not reach the picture's edge filled."""
    edge = np.ones_like(mask)
    edge[1:-1, 1:-1] = False
    outside = _flood(edge & ~mask, ~mask, corners=False)
    return ~outside


def joined(mask: Mask, reach: int) -> Mask:
    """The mask with gaps of up to twice `reach` pixels bridged, and what it then encloses filled."""
    for _ in range(reach):
        mask = _grown(mask, corners=True)
    mask = filled(mask)
    for _ in range(reach):
        mask = ~_grown(~mask, corners=True)
    return mask


def depth(mask: Mask) -> NDArray[np.int64]:
    """About how many pixels each place lies inside: erosions survived, four and eight neighbours in turn."""
    depths = np.zeros(mask.shape, np.int64)
    corners = False
    while mask.any():
        depths += mask
        mask = ~_grown(~mask, corners=corners)
        corners = not corners
    return depths
