"""What a data set may ask for, computed from what its files say, before anything of that size is allocated."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

from PIL import Image

from trainables.data.spec import DataError
from trainables.reading import open_regular

FORMATS = ("PNG", "JPEG", "PPM", "BMP", "GIF", "WEBP", "TIFF")  # others may start programs (EPS runs Ghostscript)
IMAGE_PIXELS = 50_000_000  # of one image: a decoded one takes at most 150 MB
ROWS = 2**25  # images of one file
EXPANSION = 500  # bytes decoded for each byte of a file; PNGs of real photos expand 2 times, of drawings 40 times
SMALL = 2**26  # bytes that are decoded whatever the files' size


def open_image(source: bytes | str, place: str) -> Image.Image:
    """The opened, not yet decoded image, from its bytes or the name of its file. ``DataError`` where it is none of
    ``FORMATS``, larger than ``IMAGE_PIXELS``, or no regular file."""
    try:
        file = io.BytesIO(source) if isinstance(source, bytes) else open_regular(source)
        with warnings.catch_warnings():  # Pillow's own limit is a warning; ours is an error, and smaller
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(file, formats=FORMATS)
    except Exception as problem:
        reason = "empty" if not source else type(problem).__name__
        raise DataError(
            f"{place} is no image that Pillow can decode ({reason}; it takes {', '.join(FORMATS)})"
        ) from problem
    if image.width * image.height > IMAGE_PIXELS:
        raise DataError(f"{place} has {image.width}x{image.height} pixels; at most {IMAGE_PIXELS:,} are read")
    return image


def check_rows(rows: int, file: Path) -> None:
    """``DataError`` where a file says that it has more rows than are read."""
    if rows > ROWS:
        raise DataError(f"{file} has {rows:,} rows; at most {ROWS:,} are read")


def check_expansion(images: int, channels: int, size: tuple[int, int], stored: int, what: str) -> None:
    """``DataError`` where so many ``images`` of ``size`` (W, H) would take more memory than ``stored`` bytes of files
    can honestly hold."""
    wanted = images * channels * size[0] * size[1]
    if wanted > max(SMALL, EXPANSION * stored):
        raise DataError(
            f"{what} has {stored:,} bytes and would decode into {wanted / 2**30:.1f} GiB ({images:,} images of "
            f"{size[0]}x{size[1]}); at most {EXPANSION} times its bytes are decoded"
        )
