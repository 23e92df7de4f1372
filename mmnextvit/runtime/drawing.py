"""What was found, drawn on the image by OpenCV: boxes, masks, classes and scores."""

from pathlib import Path

import cv2
import numpy as np

from .detections import Objects
from .images import Image, read
from .sinks import encode_image, name_image

COVER = 0.45  # how much of a mask's pixels its colour takes
TURN = 0.618034  # of the circle of hues, from one label to the next
WHITE, BLACK = (255, 255, 255), (0, 0, 0)


def choose_colour(label: int) -> tuple[int, int, int]:
    """A label's colour, B, G, R; neighbours are unlike each other."""
    hue = np.uint8([[[label * TURN % 1 * 180, 200, 235]]])
    blue, green, red = cv2.cvtColor(hue, cv2.COLOR_HSV2BGR)[0, 0].tolist()
    return blue, green, red


def draw_objects(image: Image, objects: Objects) -> np.ndarray:
    """An image (H, W, 3), BGR, uint8, with the objects that were found in it.

    Args:
        image: As of :func:`~.images.read`.
        objects: Of the same image; the last ones are drawn first.
    """
    drawn = read(image).copy()
    height, width = drawn.shape[:2]
    line = max(1, round((height + width) / 600))
    size = max(0.35, (height + width) / 2400)
    found = list(zip(objects, objects.labels.tolist(), objects.boxes.tolist()))[::-1]
    if objects.each_mask is not None:
        for mask, (_, label, _) in zip(objects.each_mask[::-1], found):
            draw_mask(drawn, mask, choose_colour(label))
    for one, label, box in found:
        x1, y1, x2, y2 = (round(side) for side in box)
        colour = choose_colour(label)
        cv2.rectangle(drawn, (x1, y1), (x2, y2), colour, line, cv2.LINE_AA)
        text = f'{one["class"]} {one["score"]:.2f}'
        if one.get('track') is not None:
            text += f' #{one["track"]}'
        (w, h), below = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, size, line)
        left = max(0, min(x1, width - w))
        bottom = max(y1, h + below)  # inside of the image, above the box if it can be
        corner = (left, bottom - h - below)
        cv2.rectangle(drawn, corner, (left + w, bottom), colour, cv2.FILLED)
        dark = float(np.dot(colour, (0.114, 0.587, 0.299))) < 128
        cv2.putText(
            drawn,
            text,
            (left, bottom - below // 2),
            cv2.FONT_HERSHEY_SIMPLEX,
            size,
            WHITE if dark else BLACK,
            line,
            cv2.LINE_AA,
        )
    return drawn


def draw_mask(
    image: np.ndarray, mask: np.ndarray, colour: tuple[int, int, int]
) -> None:
    """Colours the pixels of a mask (H, W), bool, with a white line around its parts.

    Args:
        image: (H, W, 3), BGR, uint8, which is drawn on.
        mask: The mask.
        colour: B, G, R.
    """
    values = (1 - COVER) * image[mask] + COVER * np.float32(colour)
    image[mask] = values.astype(np.uint8)
    outlines, _ = cv2.findContours(
        mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
    )
    cv2.drawContours(image, outlines, -1, WHITE, 1)


def write_drawing(folder: Path, source: str, drawn: np.ndarray) -> Path:
    """Writes what was drawn on an image file into a folder, under that file's name.

    A file that is there already stays: the name gets a number. What is too long for a
    JPEG becomes a PNG.

    Raises:
        OSError: It cannot be written; half of it does not stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    kind = name_image(Path(f'{Path(source).stem}.jpg'), drawn)
    content = encode_image(kind, drawn)
    number = 1
    while True:
        ending = f'_{number}' if number > 1 else ''
        path = folder / f'{Path(source).stem}{ending}{kind.suffix}'
        try:
            with path.open('xb') as file:
                file.write(content)
            return path
        except FileExistsError:
            number += 1
        except BaseException:  # Ctrl-C, too
            path.unlink(missing_ok=True)
            raise
