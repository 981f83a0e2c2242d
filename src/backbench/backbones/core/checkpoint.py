"""Find the weights of a network in a checkpoint: their key, their prefix, raw or averaged.

Trainers wrap a network's tensors in many ways: `{"state_dict": ..., "optimizer": ...}`, names that begin with
`module.` or `model.backbone.`, a teacher beside a student, averaged weights beside raw ones. The tensor names
of the network itself decide the choice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from torch import Tensor

from backbench.errors import ModelError, nearest, shown
from backbench.wording import list_some

State = dict[str, Tensor]
Rename = Callable[[str], str]
Convert = Callable[[State], State | None]

_AVERAGED = re.compile(r"(^|[._])(ema|swa|averaged?)([._]|$)", re.IGNORECASE)
_WRAPPERS = re.compile(r"(?<=\.)(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
"""Prefix that torch gives to single layers; the layer names follow it."""
_SLOW_COPIES = {"encoder_k.": "encoder_q.", "momentum_encoder.": "base_encoder."}
"""Of MoCo; its authors evaluate the other encoder."""
_UNIFORM = ("module.", "_orig_mod.", "model.", "backbone.", "timm_model.", "net.", "network.", "encoder.")
_DEEPEST = 4
_MAX_LISTED = 5


@dataclass(frozen=True)
class Choice:
    """The place of the weights in the file, as set in a card; None: find it.

    key: the key of the tensors, nested keys joined by dots. prefix: the common start of names.
    """

    key: str | None = None
    prefix: str | None = None


@dataclass(frozen=True)
class Taken:
    """The tensors of a network by its own names, and a remark on the choice in the file, '' for all."""

    state: State
    remark: str = ""


@dataclass(frozen=True)
class _Place:
    """One place in a file where the tensors of a network could be."""

    key: str
    prefix: str
    state: State = field(repr=False)
    num_found: int
    whole: State = field(repr=False)
    is_converted: bool = False

    @property
    def is_averaged(self) -> bool:
        return _AVERAGED.search(f"{self.key}.{self.prefix}") is not None


def find_state(
    held: object,
    own: Mapping[str, Tensor],
    *,
    where: str,
    choice: Choice = Choice(),
    rename: Rename = str,
    convert: Convert | None = None,
) -> Taken:
    """Find the tensors of a network in a weights file, floating-point ones as float32.

    Unknown names below the prefix are kept, so that a wrong network is noticed.

    Args:
        held: content of the file, see `weights_file.open_weights`.
        own: tensors of the network, by name; on any device.
        where: name of the file for messages.
        choice: settings of the card.
        rename: converts names of older versions of the library.
        convert: converts names of the original code into those of the library; None if it can't.

    Raises:
        ModelError: no named tensors, none under the key or prefix of the card, or two equally suitable
            networks.
    """
    states = _choose_key(dict(_list_states(held)), choice.key, held, where)
    needed = {name for name in own if not name.endswith("num_batches_tracked")}

    def clean(name: str) -> str:
        return rename(_WRAPPERS.sub("", name))

    places = [place for key, state in states.items() for place in _list_places(key, state, needed, choice, clean)]
    if not places:
        first = sorted({name.partition(".")[0] for state in states.values() for name in state})
        raise ModelError(
            f"{where} has no tensor whose name starts with the prefix {shown(choice.prefix or '')} of the card. "
            f"Names start with {list_some(map(shown, first))}."
        )
    whole = [place for place in places if place.num_found == len(needed)]
    if not whole and convert is not None:
        whole = list(_list_converted(states, needed, choice, convert))
    fitting = [place for place in whole if _has_shapes(place.state, own)] or whole
    best = _prefer(fitting, where) if fitting else _most_like(places, len(needed))
    state = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in best.state.items()}
    return Taken(state, _remark(best, [*places, *whole], len(needed), choice))


def _list_states(held: object) -> Iterator[tuple[str, State]]:
    """(key, named tensors) of every dictionary with such in a file; without those of optimisers."""
    seen: set[int] = set()
    left: list[tuple[tuple[str, ...], object]] = [((), held)]
    while left:
        path, value = left.pop(0)
        if not isinstance(value, Mapping) or "param_groups" in value or id(value) in seen or len(path) > _DEEPEST:
            continue
        seen.add(id(value))
        tensors = {
            name: each for name, each in value.items() if isinstance(name, str) and isinstance(each, Tensor)
        }
        if tensors:
            yield ".".join(path), tensors
        left += [((*path, name), each) for name, each in value.items() if isinstance(name, str)]


def _choose_key(states: dict[str, State], key: str | None, held: object, where: str) -> dict[str, State]:
    if not states:
        what = f"a {type(held).__name__}"
        if isinstance(held, Mapping):
            what = f"{list_some(shown(str(name)) for name in held) or 'nothing'}"
        raise ModelError(
            f"{where} holds no named tensors (a state_dict); it holds {what}. Save the network's state_dict()."
        )
    if key is None:
        return states
    if key not in states:
        there = [name for name in states if name]
        near = nearest(key, there) or there
        hint = (
            f"There are tensors under {list_some(map(shown, near))}."
            if near
            else "Its tensors have no key: leave 'key' out."
        )
        raise ModelError(f"{where} holds no tensors under the key {shown(key)} of the card. {hint}")
    return {key: states[key]}


def _list_places(key: str, state: State, needed: set[str], choice: Choice, clean: Rename) -> list[_Place]:
    """Every prefix with the complete network, or the one with most of it."""
    if choice.prefix is not None:
        prefix = f"{choice.prefix.removesuffix('.')}." if choice.prefix else ""
        place = _make_place(key, prefix, state, needed, clean)
        return [place] if place.state else []
    counts: dict[str, int] = {"": 0}
    for name in state:
        for at in (0, *(match.end() for match in re.finditer(r"\.", name))):
            if clean(name[at:]) in needed:
                counts[name[:at]] = counts.get(name[:at], 0) + 1
    most = max(counts.values())
    likely = [prefix for prefix, count in counts.items() if count == most]
    return [_make_place(key, prefix, state, needed, clean) for prefix in likely[: _MAX_LISTED if most else 1]]


def _make_place(key: str, prefix: str, state: State, needed: set[str], clean: Rename) -> _Place:
    below = {clean(name[len(prefix) :]): tensor for name, tensor in state.items() if name.startswith(prefix)}
    return _Place(key, prefix, below, len(needed & below.keys()), state)


def _list_converted(
    states: Mapping[str, State], needed: set[str], choice: Choice, convert: Convert
) -> Iterator[_Place]:
    for key, state in states.items():
        prefix = choice.prefix
        if prefix is None:
            prefix = _uniform_prefix(state)
        below = {name[len(prefix) :]: tensor for name, tensor in state.items() if name.startswith(prefix)}
        converted = convert(below)
        if converted is not None and needed <= converted.keys():
            yield _Place(key, prefix, converted, len(needed), state, is_converted=True)


def _uniform_prefix(state: State) -> str:
    """The wrappers that all names begin with; or 'backbone.', beside which there may be a head."""
    prefix = ""
    while True:
        rest = [name[len(prefix) :] for name in state]
        more = next((each for each in _UNIFORM if all(name.startswith(each) for name in rest)), None)
        if more is None:
            has_backbone = any(name.startswith("backbone.") for name in rest)
            return f"{prefix}backbone." if has_backbone else prefix
        prefix += more


def _has_shapes(state: State, own: Mapping[str, Tensor]) -> bool:
    return all(state[name].shape == tensor.shape for name, tensor in own.items() if name in state)


def _prefer(places: list[_Place], where: str) -> _Place:
    """The averaged weights, as in timm; not the momentum copy of a pair. ModelError if two are left."""
    left = [place for place in places if place.is_averaged] or places
    for slow, main in _SLOW_COPIES.items():
        if any(place.prefix.endswith(main) for place in left):
            left = [place for place in left if not place.prefix.endswith(slow)]
    if len(left) == 1:
        return left[0]
    by_key = len({place.key for place in left}) == len(left)
    said = [place.key if by_key else place.prefix for place in left]
    word = "key" if by_key else "prefix"
    example = next((each for each in said if "teacher" in each), said[0])
    raise ModelError(
        f"{where} holds {len(left)} networks that fit, {'under the keys' if by_key else 'behind the prefixes'} "
        f'{list_some(map(shown, said))}. Choose one in the card, for example {word} = "{example}".'
    )


def _most_like(places: list[_Place], num_needed: int) -> _Place:
    """The place for error messages: the one with most of the network, or a whole state if nearly none fits."""
    best = max(places, key=lambda place: (place.num_found, len(place.state)))
    if best.num_found >= num_needed / 2:
        return best
    return replace(best, prefix="", state=best.whole)


def _remark(best: _Place, places: list[_Place], num_needed: int, choice: Choice) -> str:
    """Describe which tensors of the file are used."""
    parts = []
    others = [place for place in places if place.is_averaged != best.is_averaged and place.num_found]
    other = max(others, key=lambda place: place.num_found, default=None)
    if other is not None:
        there = f"the {_weights_kind(other)} ones, under '{other.key or other.prefix}', "
        num_lacking = num_needed - other.num_found
        fault = f"lack {num_lacking} tensors" if num_lacking else "are not used"
        parts.append(f"{_weights_kind(best)} weights ({there}{fault})")
    elif best.is_averaged:
        parts.append("averaged weights")
    if best.key:
        parts.append(f"key '{best.key}'" + " of the card" * (choice.key is not None))
    if best.prefix:
        parts.append(f"prefix '{best.prefix}'" + " of the card" * (choice.prefix is not None) + " removed")
    if best.is_converted:
        parts.append("names of the original code converted by timm")
    return ", ".join(parts)


def _weights_kind(place: _Place) -> str:
    return "averaged" if place.is_averaged else "raw"
