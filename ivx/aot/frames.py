"""Which function of ivx an instruction of a compiled program comes from.

HLO text begins with tables of the Python frames in which its instructions were traced; an
instruction names the innermost frame. What optax, flax or jax did is put down to the function of
ours that called them.
"""

import pathlib
import re

import ivx

_ROOT = str(pathlib.Path(ivx.__file__).parent) + "/"
# What XLA made itself, such as a copy between layouts, comes from no line.
NOWHERE = "of XLA's own"
FORWARD, AGAIN, BACKWARD = PASSES = ("forward", "again", "backward")


class Frames:
    """The tables of a program.

    Attributes:
      places: `file function`, by the number of a frame.
    """

    def __init__(self, text: str):
        files = {number: name.strip('"') for number, name in _table(text, "FileNames")}
        functions = {number: name.strip('"') for number, name in _table(text, "FunctionNames")}
        locations = {number: _numbers(entry)[:2] for number, entry in _table(text, "FileLocations")}
        self.places: dict[str, str] = {}
        # A frame stands below its caller, whose number XLA prints one too high: 1 is none.
        for number, entry in _table(text, "StackFrames"):
            location, parent = _numbers(entry)
            file, function = locations[location]
            caller = self.places.get(str(int(parent) - 1), NOWHERE)
            ours = files[file].startswith(_ROOT)
            name = functions[function].replace(".<locals>", "").replace(".<lambda>", "")
            self.places[number] = f"{files[file].removeprefix(_ROOT)} {name}" if ours else caller

    def place(self, instruction: str) -> str:
        """The innermost function of ours in which an instruction was traced."""
        found = re.search(r"stack_frame_id=(\d+)", instruction)
        return self.places.get(found[1], NOWHERE) if found else NOWHERE


def passed(instruction: str) -> str:
    """Whether an instruction is backward, made again there by remat, or neither: "forward".

    What is neither need not be of the forward pass: the optimizer's, or of no line known.
    """
    found = re.search(r'op_name="([^"]*)"', instruction)
    if not found or "transpose(" not in found[1]:
        return FORWARD
    return AGAIN if "rematted_computation" in found[1] else BACKWARD


def _table(text: str, name: str) -> list[tuple[str, str]]:
    """Rows of a table, number and entry."""
    found = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
    return [tuple(line.split(" ", 1)) for line in found[1].splitlines()] if found else []


def _numbers(entry: str) -> list[str]:
    return re.findall(r"=(\d+)", entry)
