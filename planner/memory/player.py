"""Plays a block's operations onto a tape with the kernels of one code base and one precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from planner.memory import primitives as p
from planner.memory.movement import launches, moved_backward, moved_forward
from planner.memory.recompute import computed_again, repeated_operations
from planner.memory.sizes import ZERO, Size, plus, size
from planner.memory.tape import BlockProfile, Storage, Tape, Value
from planner.model.adapters import adapter_weights, is_adapted
from planner.model.operations import Block, Operation, Tensor, Weight

SPLIT_COLUMN = {
    "sequence": "tokens_sequence",
    "tensor": "tokens_tensor",
    "whole": "tokens_whole",
    "expert": "tokens_expert",
}


@dataclass(frozen=True)
class Numerics:
    """Element sizes of one precision policy [bytes].

    compute    matrix products and the activations between them
    parameter  the weights that elementwise kernels read; under autocast wider than `compute`
    gradient   of a weight as the backward pass makes it
    residual   what the embedding puts on the residual stream
    autocast   torch.autocast around the forward pass: products in `compute`, norms, powers and
               softmax in float32
    """

    compute: int
    parameter: int
    residual: int
    autocast: bool = False


@dataclass(frozen=True)
class Adapters:
    """LoRA as the kernels see it (peft): y = x W + scale (x A) B beside a frozen W.

    rank        width of A's output
    targets     last names of the linears that have adapters
    itemsize    element size of the adapters' products [bytes]
    own_input   each adapter casts its input to a tensor of its own (peft, float32 adapters)
    dequantise  the frozen matrices are 4-bit and unpacked for each product (bitsandbytes)
    """

    rank: int
    targets: tuple[str, ...]
    itemsize: int
    own_input: bool = False
    dequantise: bool = False

    def on(self, operation: Operation) -> bool:
        return is_adapted(operation, self.targets)

    def weights(self, operation: Operation) -> tuple[Weight, ...]:
        return adapter_weights(operation, self.rank)


@dataclass(frozen=True)
class Setting:
    """What the kernels need to know beside the operations; one value per call, never an array.

    gathered: parameters are gathered in the compute dtype, also those that are stored wider
    """

    numerics: Numerics
    sequence_length: int
    attention: str = "flash"
    cross_entropy: str = "standard"
    adapters: Adapters | None = None
    input_requires_grad: bool = True
    tensor_parallel: bool = False
    sequence_parallel: bool = True
    gathered: bool = False
    own_attention: bool = False
    quantised_input: float = 0.0
    recompute: tuple[str, ...] = ()
    compiled: bool = False

    @property
    def frozen(self) -> bool:
        return self.adapters is not None


Kernel = Callable[["Player", Operation, list[Value]], list[Value]]


@dataclass
class Player:
    """The state of one play: the tape, the setting, and where each tensor of the block is."""

    setting: Setting
    kernels: Mapping[str, Kernel]
    tape: Tape = field(default_factory=Tape)
    values: dict[int, Value] = field(default_factory=dict)
    gathered: dict[Storage, Value] = field(default_factory=dict)
    wholes: dict[Storage, Storage] = field(default_factory=dict)
    held: list[Value] = field(default_factory=list)
    tables: dict[str, tuple[Storage, Storage]] = field(default_factory=dict)
    multiplied: frozenset[int] = frozenset()  # tensors that an elementwise product reads

    @property
    def numerics(self) -> Numerics:
        return self.setting.numerics

    def trainable(self) -> bool:
        return not self.setting.frozen

    def new(self, tensor: Tensor, itemsize: int) -> Value:
        return self.tape.value(tensor.width, itemsize, SPLIT_COLUMN[tensor.split])

    def gradient(self, *weights: Weight) -> Size:
        """The gradients of these weights, as elements by column."""
        return plus(ZERO, *(size(gradient_column(w), w.elements) for w in weights))

    def weight_copy(self, *weights: Weight) -> Value | None:
        """Autocast's copy of the first weight; the gradients of all are made where it is cast back.

        None without autocast.
        """
        if not self.numerics.autocast or not self.trainable():
            return None
        gradient = self.gradient(*weights)
        return p.copied_weight(self.tape, weights[0].elements, self.numerics.compute, gradient)

    def run(self, operation: Operation) -> None:
        kernel = self.kernels[operation.kind]
        outputs = kernel(self, operation, [self.values[x.number] for x in operation.inputs])
        for tensor, value in zip(operation.outputs, outputs, strict=True):
            self.values[tensor.number] = value


def gradient_column(weight: Weight) -> str:
    if weight.kind == "expert":
        return "gradient_expert"
    return "gradient_whole" if weight.split == "whole" else "gradient_tensor"


def unmodelled(block: Block, kernels: Mapping[str, Kernel]) -> list[str]:
    """Kinds of this block that these kernels cannot play."""
    return sorted({op.kind for op in block.operations} - set(kernels))


def record(
    block: Block, width: int, setting: Setting, kernels: Mapping[str, Kernel]
) -> tuple[Tape, Value, Value]:
    """The tape of one block whose input is `width` wide on the residual stream; input, output."""
    multiplied = (x.number for op in block.operations if op.kind == "multiply" for x in op.inputs)
    player = Player(setting, kernels, multiplied=frozenset(multiplied))
    start = player.tape.value(
        width, setting.numerics.residual, "tokens_sequence", setting.input_requires_grad
    )
    player.values[0] = start
    for index, operation in enumerate(block.operations):
        player.tape.operation = index
        player.run(operation)
    return player.tape, start, player.values[block.operations[-1].outputs[-1].number]


def play(block: Block, width: int, setting: Setting, kernels: Mapping[str, Kernel]) -> BlockProfile:
    """The profile of one block."""
    tape, start, end = record(block, width, setting, kernels)
    repeated = repeated_operations(block, setting.recompute)
    again = [step for step in tape.steps if step.operation in repeated]
    return replace(
        tape.profile(start, end, computed_again(block, setting.recompute)),
        moved=(moved_forward(tape.steps), moved_backward(tape.steps)),
        moved_again=moved_forward(again),
        launches=launches(tape.steps),
        launches_again=launches(again)[0],
    )
