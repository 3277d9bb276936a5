"""What classifiers of images in stages share: their lists per stage, their blocks, their head."""

from __future__ import annotations

from planner.errors import InputError
from planner.model.assemble import MOST_LAYERS, composite
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.vision_layers import NOT_MODELLED
from planner.model.heads import labels
from planner.model.operations import Block, Tensor
from planner.model.spec import ModelSpec, Placed


def stages(c: Config, first: int, counted: str | None = None) -> list[tuple[int, int, int]]:
    """(inputs, outputs, depth) of each stage.

    counted   the field that says how many stages there are; the lists may then be longer
    """
    sizes, depths = c.sizes("hidden_sizes") or (), c.sizes("depths") or ()
    same = counted is not None or len(sizes) == len(depths)
    if not same or min(sizes, default=0) < 1 or min(depths, default=0) < 1:
        raise InputError("hidden_sizes and depths: expected as many of one as of the other, >= 1")
    c.require(sum(depths) <= MOST_LAYERS, "depths", f"at most {MOST_LAYERS} layers")
    count = len(sizes) if counted is None else c.size(counted, len(sizes))
    for name, values in (("hidden_sizes", sizes), ("depths", depths)):
        c.require(len(values) >= count, name, f"{count} numbers, one per stage")
    return list(zip((first, *sizes), sizes[:count], depths[:count], strict=False))


def last_width(c: Config, name: str = "hidden_sizes") -> int:
    """The last entry of the widths: a head is as wide, also where there are fewer stages."""
    return (c.sizes(name) or (0,))[-1]


def per_stage(c: Config, count: int, *names: str) -> list[tuple[int, ...]]:
    """For each stage its entry in each of these lists, which may be longer than `count`."""
    lists = []
    for name in names:
        values = c.sizes(name) or ()
        wanted = f"{count} whole numbers above 0, one per stage"
        c.require(len(values) >= count and min(values[:count], default=1) > 0, name, wanted)
        lists.append(values[:count])
    return list(zip(*lists, strict=True))


def factor(c: Config, name: str) -> float:
    """A number above zero that scales widths or depths."""
    value = c.number(name, 1.0)
    c.require(value > 0, name, "a number above 0")
    return value


def block(name: str, width: int) -> BlockBuilder:
    return BlockBuilder(name, width, sequence="image").part("", "other")


def finished(
    c: Config,
    first: Block,
    places: list[Placed],
    end: BlockBuilder,
    x: Tensor,
    classifier: str | None,
) -> ModelSpec:
    """The model that ends in a linear over x, or in x; c's fields are checked here."""
    if classifier is not None:
        end.part("", "output_head").linear(x, classifier, labels(c), bias=True, split="whole")
    return composite(
        c,
        hidden_size=x.width,
        embedding=first,
        layers=places,
        head=end.block(),
        not_trainable_because=NOT_MODELLED,
    )
