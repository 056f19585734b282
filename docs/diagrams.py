"""Draws the diagrams of the documents again: an MBConv block, and the package.

    python docs/diagrams.py

The shapes are those of a real block, from the same list that the network is built of.
"""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.sax.saxutils import escape

from keras_efficientnet import plots, scaling

BLOCK = "block3b"
TIMES = "\u00d7"


class Diagram:
    """An SVG image of boxes and arrows that follows the reader's choice of light or dark."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self.parts: list[str] = []

    def box(self, x: float, y: float, width: float, height: float, lines: Sequence[str], kind=""):
        """Draws a box around its centre: the first line is its name, the others say more."""
        self.parts.append(
            f'<rect class="box {kind}" x="{x - width / 2:g}" y="{y - height / 2:g}" '
            f'width="{width:g}" height="{height:g}" rx="6"/>'
        )
        first = y + 4 - 6.5 * (len(lines) - 1)
        for index, line in enumerate(lines):
            self.text(x, first + 13 * index, line, "small" if index else "name")

    def node(self, x: float, y: float, sign: str):
        """Draws an operation of two inputs."""
        self.parts.append(f'<circle class="box node" cx="{x:g}" cy="{y:g}" r="12"/>')
        self.text(x, y + 5, sign, "sign")

    def text(self, x: float, y: float, line: str, kind: str = "small"):
        """Writes a line around its middle, with 3x3 in proper type."""
        line = re.sub(r"(?<=\d)x(?=\d)", TIMES, line)
        self.parts.append(f'<text class="{kind}" x="{x:g}" y="{y:g}">{escape(line)}</text>')

    def arrow(self, *points: tuple[float, float], label: str = ""):
        """Draws a line through points with a head at the last one, and names its first part."""
        path = "M" + " L".join(f"{x:g} {y:g}" for x, y in points)
        self.parts.append(f'<path class="line" marker-end="url(#head)" d="{path}"/>')
        (x, y), (next_x, next_y) = points[:2]
        if label:
            self.text((x + next_x) / 2, (y + next_y) / 2 - 8, label, "shape")

    def svg(self) -> str:
        """Returns the content of the file."""
        light, dark = (self._rules(plots.THEMES[name]) for name in ("light", "dark"))
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width} {self.height}" '
            f'width="{self.width}" height="{self.height}">\n'
            "<style>text{font-family:'DejaVu Sans',Verdana,sans-serif;text-anchor:middle;"
            "font-size:10.5px}.name{font-size:12px;font-weight:bold}.sign{font-size:15px}"
            ".box{stroke-width:1.2}.line{fill:none;stroke-width:1.3}"
            f".left{{text-anchor:start}}{light}@media (prefers-color-scheme:dark){{{dark}}}"
            "</style>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
            'markerHeight="7" orient="auto"><path class="head" d="M0 0.5 L8 4 L0 7.5z"/></marker>'
            f'</defs>\n<rect class="surface" width="{self.width}" height="{self.height}"/>\n'
            + "\n".join(self.parts)
            + "\n</svg>\n"
        )

    @staticmethod
    def _rules(theme) -> str:
        blue, orange, green, _ = theme.series
        return (
            f".surface{{fill:{theme.surface}}}.name,.sign{{fill:{theme.ink}}}"
            f".small,.shape{{fill:{theme.muted}}}.left{{fill:{theme.ink}}}"
            f".line{{stroke:{theme.muted}}}.head{{fill:{theme.muted}}}"
            f".box{{fill:{theme.surface};stroke:{blue}}}.node{{stroke:{theme.ink}}}"
            f".excite,.record{{stroke:{orange}}}.frame{{fill:none;stroke:{theme.peers}}}"
            f".outside{{stroke:{green}}}"
        )


def block() -> Diagram:
    """Returns an MBConv block with squeeze-and-excitation, with the shapes of B0's `BLOCK`."""
    variant = scaling.get_variant("B0")
    blocks = {block.name: block for block in scaling.expand_blocks(variant)}
    strides = [found.stride for name, found in blocks.items() if name <= BLOCK]
    found, side = blocks[BLOCK], variant.resolution // math.prod([2, *strides])  # 2 of the stem
    outside, inside = (
        f"{side}x{side}x{filters}" for filters in (found.out_filters, found.expanded_filters)
    )
    kernel, every = f"{found.kernel_size}x{found.kernel_size}", f"1x1x{found.expanded_filters}"
    image, y, turn, below = Diagram(880, 244), 100, 140, 200

    image.text(16, 22, f"MBConv with squeeze-and-excitation: {BLOCK} of B0", "name left")
    image.arrow((12, y), (98, y), label=outside)
    image.box(150, y, 104, 56, ["expand", "1x1 convolution", "BN, swish"])
    image.arrow((202, y), (276, y), label=inside)
    image.box(334, y, 118, 56, [f"depthwise {kernel}", "one per channel", "BN, swish"])
    image.arrow((392, y), (468, y), label=inside)
    image.node(480, y, TIMES)
    image.arrow((492, y), (566, y), label=inside)
    image.box(618, y, 104, 56, ["project", "1x1 convolution", "BN, no activation"])
    image.arrow((670, y), (692, y))
    image.box(742, y, 100, 56, ["drop", "stochastic depth,", "in training"])
    image.arrow((792, y), (808, y))
    image.node(820, y, "+")
    image.arrow((832, y), (872, y))
    image.text(836, y + 30, outside, "shape")
    image.arrow((20, y), (20, 46), (820, 46), (820, y - 12))
    image.text(420, 40, "skip, where the stride is 1 and the channels stay")

    image.arrow((408, y), (408, turn), (122, turn), (122, below - 22))
    image.box(122, below, 120, 44, ["squeeze", "mean over the pixels"], "excite")
    image.arrow((182, below), (252, below), label=every)
    image.box(312, below, 120, 44, ["reduce", "1x1, bias, swish"], "excite")
    image.arrow((372, below), (442, below), label=f"1x1x{found.se_filters}")
    image.box(502, below, 120, 44, ["excite", "1x1, bias, sigmoid"], "excite")
    image.arrow((562, below), (600, below), (600, turn), (480, turn), (480, y + 12))
    image.text(612, 172, f"{every}: a factor in 0 to 1 for every channel", "shape left")
    image.text(312, 236, "as wide as a quarter of the block's input")
    return image


def package() -> Diagram:
    """Returns the package: how the papers' tables and images become a file on a phone."""
    image, y = Diagram(900, 322), 190
    image.parts.append('<rect class="frame box" x="214" y="84" width="546" height="228" rx="8"/>')
    image.box(487, 30, 250, 40, ["cli", "parses, calls one function, prints"])
    image.arrow((487, 50), (487, 82))
    image.text(228, 106, "run: from data to report (ke.train)", "name left")
    stations = (
        (60, 88, ["spec", "the papers'", "tables"]),
        (160, 72, ["scaling", "a flat list", "of blocks"]),
        (288, 118, ["model, variants", "the functional", "graph"]),
        (472, 104, ["training", "recipe, fit,", "checkpoints"]),
        (672, 116, ["deploy", "export, int8,", "verification"]),
        (838, 112, ["phone, server", ".tflite, .onnx,", "SavedModel"]),
    )
    for (x, width, lines), (after, after_width, _) in itertools.pairwise(stations):
        image.box(x, y, width, 62, lines)
        image.arrow((x + width / 2, y), (after - after_width / 2, y))
    x, width, lines = stations[-1]
    image.box(x, y, width, 62, lines, "outside")
    image.text(383, y - 8, "keras.Model", "shape")
    image.text(569, y - 8, "keras.Model", "shape")

    image.box(110, 106, 160, 40, ["cost", "parameters, multiply-adds"])
    image.arrow((160, y - 31), (160, 128))
    image.box(110, 280, 172, 44, ["task, description", "Task, ModelDescription"], "record")
    image.box(288, 280, 118, 44, ["weights", "PretrainedWeights"], "record")
    image.arrow((288, 258), (288, y + 33))
    image.box(472, 280, 104, 44, ["data", "Dataset"], "record")
    image.arrow((472, 258), (472, y + 33))
    image.arrow((524, 280), (614, 280))
    image.box(672, 280, 116, 44, ["calibration", "CalibrationSet"], "record")
    image.arrow((672, 258), (672, y + 33))
    image.box(672, 118, 116, 40, ["report", "RunReport"])
    image.arrow((672, y - 31), (672, 140))
    image.box(838, 106, 112, 40, ["study", "scaling, searches"])
    image.box(838, 280, 112, 44, ["explain, plots", "pictures"])
    return image


def main():
    folder = Path(__file__).parent / "pictures"
    for name, diagram in (("block", block()), ("package", package())):
        (folder / f"{name}.svg").write_text(diagram.svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
