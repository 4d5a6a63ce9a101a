"""Record what a command shows on a terminal as an animated GIF.

    pip install pyte pillow
    python docs/record_terminal.py docs/terminal.gif wavlm-live transcribe --realtime RECORDING

The command runs for real in a pseudo-terminal of 80 x 16; a picture is taken ten times a second.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
import time

import pyte  # type: ignore[import-not-found]
from PIL import Image, ImageDraw, ImageFont  # type: ignore[import-not-found]

COLUMNS, LINES, PICTURE_S = 80, 16, 0.1
FONT = "/usr/share/fonts/truetype/dejavu/DejaVuSansMono.ttf"
BACKGROUND, PLAIN, DIM = (24, 26, 31), (222, 225, 230), (130, 137, 148)
COLOURS = {
    "green": (130, 200, 120), "red": (230, 110, 105), "brown": (225, 190, 110), "yellow": (225, 190, 110),
    "blue": (110, 165, 235), "magenta": (200, 140, 220), "cyan": (100, 195, 205),
}  # fmt: skip


class Screen(pyte.Screen):
    """pyte forgets dim text; here it is kept as italics, which nothing else uses."""

    def select_graphic_rendition(self, *attributes: int, **_: object) -> None:
        super().select_graphic_rendition(*(3 if a == 2 else a for a in attributes))


def draw(screen: Screen, font: ImageFont.FreeTypeFont) -> Image.Image:
    width = font.getlength("M")
    height = 20
    image = Image.new("RGB", (int(COLUMNS * width) + 24, LINES * height + 24), BACKGROUND)
    pen = ImageDraw.Draw(image)
    for row in range(LINES):
        for column in range(COLUMNS):
            cell = screen.buffer[row][column]
            if cell.data.strip():
                colour = COLOURS.get(cell.fg, PLAIN) if not cell.italics else DIM
                pen.text((12 + column * width, 12 + row * height), cell.data, colour, font)
    return image.quantize(32)


def main() -> None:
    target, command = sys.argv[1], sys.argv[2:]
    screen = Screen(COLUMNS, LINES)
    stream = pyte.ByteStream(screen)
    stream.feed(b"$ " + " ".join(command).encode() + b"\r\n")
    process, terminal = pty.fork()
    if process == 0:
        os.environ["TERM"] = "xterm-256color"
        os.execvp(command[0], command)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))
    font = ImageFont.truetype(FONT, 15)
    pictures, durations, last = [draw(screen, font)], [0], time.monotonic()
    while True:
        ready, _, _ = select.select([terminal], [], [], PICTURE_S / 4)
        if ready:
            try:
                data = os.read(terminal, 65536)
            except OSError:
                break
            if not data:
                break
            stream.feed(data)
        now = time.monotonic()
        if now - last >= PICTURE_S:
            picture = draw(screen, font)
            passed = int(1000 * (now - last))
            if picture.tobytes() == pictures[-1].tobytes():
                durations[-1] += passed
            else:
                pictures.append(picture)
                durations.append(passed)
            last = now
    pictures.append(draw(screen, font))
    durations.append(4000)
    durations = [min(d, 4000) for d in durations]  # nobody watches an import
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=True)
    pictures[-1].convert("RGB").save(target.removesuffix(".gif") + "_last.png")


if __name__ == "__main__":
    main()
