"""The stages of any backbone, from input to output: the units of freezing, unfreezing and learning rates.

    [stage.name for stage in stages_of(body)]     # ResNet: stem, layer1, layer2, layer3, layer4
                                                  # ViT-B: stem, blocks.0, ..., blocks.11

Derived from names and order of a network's modules, without cost or a list of families. Correct for networks that
register their modules in the order of execution, as nearly all in timm do.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

from backbench.backbones.core.parts import is_norm, parts_of

__all__ = ["STEM", "Stage", "parts_of", "stages_of"]

STEM = "stem"
NUMBERED = re.compile(r"(.*?)_?(\d+)[a-z]?")
"""layer1, block_2, Mixed_5b, or the 0 of a list."""
NO_STAGE = re.compile(r"_?(conv|bn|norm|ln|fc|act|pool|drop|downsample|head)\w*", re.IGNORECASE)
"""Names, numbered or not, of modules that are not stages: conv1, bn1, norm5, fc2."""
EARLY = re.compile(r"stem|embed|patch", re.IGNORECASE)
"""Modules that turn an image into the first maps or tokens."""
MIN_SIDE_BY_SIDE = 3


@dataclass(frozen=True)
class Stage:
    """A piece of a network that is frozen or trained as a whole.

    Args:
        name: 'stem', or the path of its main module, as in 'layer3' or 'blocks.11'.
        prefixes: paths of its modules or single parameters, including everything below them.
        parameters: names as in `body.named_parameters()`, in that order; never empty.
    """

    name: str
    prefixes: tuple[str, ...]
    parameters: tuple[str, ...]


@dataclass(frozen=True)
class _Unit:
    """A module that is not divided further, or a parameter held directly by an outer module.

    Args:
        kind: 'stage' for a numbered module, 'norm', 'own' for a parameter, 'other'.
        row: the name of the numbered series: 'blocks' for blocks.3, 'layer' for layer3.
        size: number of parameters.
    """

    path: str
    kind: str
    size: int = 0
    row: str = ""


def stages_of(body: nn.Module) -> list[Stage]:
    """The stages of a backbone from input to output; each parameter is in exactly one of them.

    The stem comes first: the first convolutions, or patch embedding, class token, registers and position
    embedding. Each block of a plain transformer is a stage, and so is each stage of a network that narrows its
    maps on the way (ResNet, ConvNeXt, Swin, PVT). A norm after a stage belongs to it, the last norm to the last
    stage; other layers after the numbered ones (EfficientNet's last convolution, the hidden layers of VGG) are
    separate stages. A network without numbered modules is divided at its top level. Empty without parameters.
    """
    units = _divide(body, "")
    modules = _join_rows([unit for unit in units if unit.kind != "own"])
    numbered = [index for index, group in enumerate(modules) if group[0].kind == "stage"]
    first = max(
        1, numbered[0] if numbered else 0
    )  # without modules before the numbered ones, the first is the stem
    stem = [unit for unit in units if unit.kind == "own"] + [unit for group in modules[:first] for unit in group]
    groups = [stem]
    for group in modules[first:]:
        if group[0].kind == "norm":
            groups[-1] += group
        else:
            groups.append(group)
    return _name_stages(body, groups)


def _name_stages(body: nn.Module, groups: list[list[_Unit]]) -> list[Stage]:
    stage_of = {unit.path: index for index, group in enumerate(groups) for unit in group}
    names: list[list[str]] = [[] for _ in groups]
    for name, _ in body.named_parameters():
        parts = name.split(".")
        holders = (".".join(parts[:length]) for length in range(len(parts), 0, -1))
        names[next(stage_of[path] for path in holders if path in stage_of)].append(name)
    return [
        Stage(group[0].path if index else STEM, tuple(unit.path for unit in group), tuple(own))
        for index, (group, own) in enumerate(zip(groups, names, strict=True))
        if own
    ]


def _divide(module: nn.Module, path: str) -> list[_Unit]:
    """The units of a module in the order they are registered; every parameter belongs to exactly one."""
    start = f"{path}." if path else ""
    units = [_Unit(start + name, "own") for name, _ in module.named_parameters(recurse=False)]
    children = _children(module)
    rows = _rows_of(children)
    if rows:
        return units + [_make_unit(start, name, child, rows.get(name), path) for name, child in children.items()]
    divided = _divisible(children, _size(module))
    for name, child in children.items():
        if name in divided:
            units += _divide(child, start + name)
        else:
            units.append(_make_unit(start, name, child, None, path))
    return units


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Direct children that hold parameters."""
    return {name: child for name, child in module.named_children() if _size(child)}


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _rows_of(children: dict[str, nn.Module]) -> dict[str, str]:
    """The series of each numbered child ('' for members of a list); empty unless a series has two."""
    rows = {}
    for name, child in children.items():
        match = NUMBERED.fullmatch(name)
        is_list_member = match is not None and match[1] == ""
        if match and (is_list_member or (not NO_STAGE.fullmatch(name) and _children(child))):
            rows[name] = match[1]
    counts = Counter(row for row in rows.values() if not EARLY.search(row))
    return rows if counts and max(counts.values()) >= 2 else {}


def _divisible(children: dict[str, nn.Module], total: int) -> set[str]:
    """The children to divide: lists of stages, and the child with most of the parameters."""
    lists = {
        name: len(rows)
        for name, child in children.items()
        if not NO_STAGE.fullmatch(name) and len(rows := _rows_of(_children(child))) == len(_children(child)) > 0
    }
    main = {name for name in lists if not EARLY.search(name)}
    lengths = {lists[name] for name in main if lists[name] >= MIN_SIDE_BY_SIDE}
    beside = {name for name in lists if lists[name] in lengths}  # patch embeddings, one for each stage
    largest = {name for name, child in children.items() if 2 * _size(child) > total and _children(child)}
    return main | beside | {name for name in largest if not EARLY.search(name)}


def _make_unit(start: str, name: str, module: nn.Module, row: str | None, path: str) -> _Unit:
    holders = [part for part in module.modules() if any(True for _ in part.parameters(recurse=False))]
    if all(is_norm(part) for part in holders):
        kind = "norm"
    elif row is None or EARLY.search(row or path.rpartition(".")[2]):
        kind = "other"
    else:
        kind = "stage"
    return _Unit(start + name, kind, _size(module), "" if row is None else start + row)


def _join_rows(units: list[_Unit]) -> list[list[_Unit]]:
    """Join series of equal length, first with first: such series run side by side.

    As in Twins (patch_embeds.1 runs right before blocks.1) and CoaT. The first patch embedding stays by itself.
    """
    rows: dict[str, list[_Unit]] = {}
    for unit in units:
        if unit.row and unit.kind != "norm":
            rows.setdefault(unit.row, []).append(unit)
    partners: dict[str, list[_Unit]] = {}
    moved = set()
    for row in sorted(rows, key=lambda row: -sum(unit.size for unit in rows[row])):
        main = next((unit for unit in rows[row]), None)
        if main is None or main.kind != "stage" or len(rows[row]) < MIN_SIDE_BY_SIDE or main.path in moved:
            continue
        for other in rows:
            if other == row or len(rows[other]) != len(rows[row]) or rows[other][0].path in moved:
                continue
            skip = 1 if rows[other][0].kind == "other" else 0
            for unit, partner in list(zip(rows[row], rows[other], strict=True))[skip:]:
                partners.setdefault(unit.path, []).append(partner)
                moved.add(partner.path)
    return [[unit, *partners.get(unit.path, [])] for unit in units if unit.path not in moved]
