"""Maps instructions of a compiled program to the functions of ivx that traced them.

HLO text begins with tables of Python stack frames, and an instruction names its innermost frame.
Frames in optax, flax or jax count for the function of ivx that called them.
"""

import pathlib
import re

_ROOT = str(pathlib.Path(__file__).parents[1]) + "/"
# Instructions that XLA added, such as a copy between layouts, have no frame.
NOWHERE = "of XLA's own"
FORWARD, AGAIN, BACKWARD = PASSES = ("forward", "again", "backward")


class Frames:
    """The frame tables of a program.

    Attributes:
      places: `file function` of each frame, by its number.
    """

    def __init__(self, text: str) -> None:
        files = {number: name.strip('"') for number, name in _table(text, "FileNames")}
        functions = {number: name.strip('"') for number, name in _table(text, "FunctionNames")}
        locations = {number: _numbers(entry)[:2] for number, entry in _table(text, "FileLocations")}
        self.places: dict[str, str] = {}
        # A frame follows its caller, whose number XLA prints one too high: 1 means no caller.
        for number, entry in _table(text, "StackFrames"):
            location, parent = _numbers(entry)
            file, function = locations[location]
            caller = self.places.get(str(int(parent) - 1), NOWHERE)
            in_ivx = files[file].startswith(_ROOT)
            name = functions[function].replace(".<locals>", "").replace(".<lambda>", "")
            self.places[number] = f"{files[file].removeprefix(_ROOT)} {name}" if in_ivx else caller

    def place(self, instruction: str) -> str:
        """The innermost function of ivx that traced an instruction."""
        match = re.search(r"stack_frame_id=(\d+)", instruction)
        return self.places.get(match[1], NOWHERE) if match else NOWHERE


def passed(instruction: str) -> str:
    """The pass of an instruction: "backward", "again" (recomputed by remat), or "forward".

    "forward" includes the optimizer and instructions without a frame.
    """
    match = re.search(r'op_name="([^"]*)"', instruction)
    if not match or "transpose(" not in match[1]:
        return FORWARD
    return AGAIN if "rematted_computation" in match[1] else BACKWARD


def _table(text: str, name: str) -> list[tuple[str, str]]:
    """(number, entry) of each row of a table."""
    match = re.search(rf"^{name}\n((?:\d+ .*\n)+)", text, re.MULTILINE)
    return [tuple(line.split(" ", 1)) for line in match[1].splitlines()] if match else []


def _numbers(entry: str) -> list[str]:
    return re.findall(r"=(\d+)", entry)
