"""Pictures of experiments as files: small, and the same bytes for the same picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weightcast.store.output import replacing

DPI = 100
PALETTE = 256  # colours of a .png


def save(figure: Any, path: str | Path, *, overwrite: bool) -> None:
    """Write a picture; a .png has a palette, which makes it a third of the size."""
    from PIL import Image  # Matplotlib needs it too

    with replacing(path, new=not overwrite) as temporary:
        figure.savefig(temporary, dpi=DPI)
        if temporary.suffix == ".png":
            picture = Image.open(temporary).convert("RGB")
            picture.quantize(PALETTE).save(temporary, optimize=True)
