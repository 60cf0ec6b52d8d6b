"""Contact sheets: many small pictures on one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from starter.shapes import Picture

COLUMNS = 10
GAP = 2  # pixels between pictures


def save(images: Sequence[Picture], path: Path) -> None:
    side = images[0].shape[0] + GAP
    rows = -(-len(images) // COLUMNS)
    sheet = np.full((rows * side + GAP, COLUMNS * side + GAP, 3), 200, np.uint8)
    for number, image in enumerate(images):
        top, left = (GAP + side * place for place in divmod(number, COLUMNS))
        sheet[top : top + image.shape[0], left : left + image.shape[1]] = image
    Image.fromarray(sheet).save(path, optimize=True)
