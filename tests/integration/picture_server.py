"""Pictures of ours on a loopback HTTP server: what a crawler meets, in one place."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
from PIL import Image

ORIENTATION = 0x0112  # the EXIF tag
ROTATED = 6  # its value for a picture to be turned by 90 degrees clockwise
GREY = 2  # which of twelve kinds
CAPTIONS = (
    "a flat colour, {}",
    "grün über blau, Fläche {}",
    "赤い四角 {}",
    "crème brûlée 🍮 number {}",
    'he said "{}", twice',
    "שלום {} مرحبا",
)


@dataclass(frozen=True)
class Served:
    """A picture under a path. ``shown``: the colour that fills it; ``body`` None: the server answers 404."""

    path: str
    caption: str
    shown: tuple[int, int, int]
    body: bytes | None


def pictures(count: int) -> list[Served]:
    """``count`` pictures; of every twelve, one is missing, one no picture, one cut and one without a caption."""
    rng = np.random.default_rng(5)
    served = []
    for number in range(count):
        red, green, blue = rng.integers(30, 226, 3).tolist()
        color = (red, green, blue)
        extension, body = _encoded(number % 12, color, rng)
        caption = "" if number % 12 == 11 else CAPTIONS[number % len(CAPTIONS)].format(number)
        shown = (color[0],) * 3 if number % 12 == GREY else color
        served.append(Served(f"/{number:03}.{extension}", caption, shown, body))
    return served


def _encoded(kind: int, color: tuple[int, ...], rng: np.random.Generator) -> tuple[str, bytes | None]:
    """(extension, bytes) of one of twelve kinds of picture; most sides are no multiple of a patch."""
    width, height = rng.integers(40, 200, 2).tolist()
    plain = Image.new("RGB", (width, height), color)
    match kind:
        case 0:
            return "png", _bytes(plain, "PNG")
        case 1:
            return "webp", _bytes(plain, "WEBP", quality=95)
        case 2:
            return "jpg", _bytes(Image.new("L", (width, height), color[0]), "JPEG")
        case 3:
            return "jpg", _bytes(plain.convert("CMYK"), "JPEG", quality=95)
        case 4:
            exif = Image.Exif()
            exif[ORIENTATION] = ROTATED
            return "jpg", _bytes(plain, "JPEG", quality=95, exif=exif)
        case 5:
            return "png", _bytes(plain.quantize(4), "PNG")
        case 6:
            clear = Image.new("RGBA", (width, height), (*color, 255))
            return "png", _bytes(clear, "PNG")
        case 7:
            return "jpg", None
        case 8:
            return "jpg", rng.bytes(900)
        case 9:
            noise = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
            whole = _bytes(noise, "JPEG")
            return "jpg", whole[: len(whole) // 2]
        case _:
            return "jpg", _bytes(plain, "JPEG", quality=95, progressive=kind == 10)


def _bytes(image: Image.Image, form: str, **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


@contextmanager
def serving(served: list[Served]) -> Iterator[str]:
    """Serve them from a thread; yields the address that their paths follow."""
    bodies = {picture.path: picture.body for picture in served}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802, the name http.server calls
            body = bodies.get(self.path)
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002, its name in http.server
            """Say nothing: the test's output is for failures."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
