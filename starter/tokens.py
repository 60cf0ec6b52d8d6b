"""The starter models' own vocabulary: every word of the prompt grammar is one token.

Anything else falls back to bytes, so any text tokenizes. Pure: nothing is downloaded.
"""

import itertools

from transformers import CLIPTokenizer

from starter.palettes import COLOURS, GROUNDS, SHAPES

MAX_TOKENS = 16
WORDS = ("a", "on", "background", "small", "big", *COLOURS, *GROUNDS, *SHAPES)
BOS = "<|startoftext|>"
EOS = "<|endoftext|>"
END = "</w>"


def byte_letters() -> list[str]:
    """One printable letter for each byte, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return [chr(byte) for byte in printable] + [chr(256 + rank) for rank in range(len(others))]


def merges() -> list[tuple[str, str]]:
    """Pairs to join, best first. Later pairs never disturb the words that came before."""
    pairs: list[tuple[str, str]] = []
    for word in WORDS:
        pieces = _split(word, pairs)
        while len(pieces) > 1:
            pairs.append((pieces[0], pieces[1]))
            pieces = _split(word, pairs)
    return pairs


def _split(word: str, pairs: list[tuple[str, str]]) -> list[str]:
    rank = {pair: number for number, pair in enumerate(pairs)}
    pieces = [*word[:-1], word[-1] + END]
    while True:
        known = [(rank[pair], at) for at, pair in enumerate(itertools.pairwise(pieces)) if pair in rank]
        if not known:
            return pieces
        _, at = min(known)
        pieces[at : at + 2] = [pieces[at] + pieces[at + 1]]


def vocabulary() -> dict[str, int]:
    letters = byte_letters()
    joined = dict.fromkeys(left + right for left, right in merges())
    tokens = [*letters, *(letter + END for letter in letters), *joined, BOS, EOS]
    return {token: number for number, token in enumerate(tokens)}


def build() -> CLIPTokenizer:
    return CLIPTokenizer(vocab=vocabulary(), merges=merges(), model_max_length=MAX_TOKENS)
