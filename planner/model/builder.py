"""Writes a block down as one writes its forward pass.

    b = BlockBuilder("decoder", hidden_size)
    x = b.rms_norm(b.input, "input_layernorm")
    attention = b.part("self_attn", "attention")
    q = attention.linear(x, "q_proj", q_width)

Each method records one operation with its weights and FLOPs and hands back what it makes. FLOPs
are counted as 2 per multiply-add of matrix products; elementwise work has none (it is priced by
the bytes that it moves).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from planner.model.operations import Block, Operation, Tensor, Weight


class BlockBuilder:
    """Collects the operations of one block."""

    def __init__(self, name: str, width: int, *, sequence: str = "text") -> None:
        self.name = name
        self.sequence = sequence
        self.input = Tensor(0, width)
        self._operations: list[Operation] = []
        self._tensors = [self.input]
        self._prefix = ""
        self._group = "other"

    def part(self, prefix: str = "", group: str | None = None) -> BlockBuilder:
        """The same block seen from a module inside it: names get its prefix, work its group."""
        inner = object.__new__(BlockBuilder)
        inner.__dict__.update(self.__dict__)
        inner._prefix = f"{self._prefix}{prefix}." if prefix else self._prefix
        inner._group = group or self._group
        return inner

    def block(self) -> Block:
        return Block(self.name, tuple(self._operations), self.sequence)

    # ---- the recorder -------------------------------------------------------------------------

    def make(self, width: int, split: str = "sequence") -> Tensor:
        tensor = Tensor(len(self._tensors), width, split)
        self._tensors.append(tensor)
        return tensor

    def weight(self, name: str, *shape: int, kind: str | None = None, **extra: Any) -> Weight:
        default = "vector" if len(shape) == 1 else "matrix"
        return Weight(self._prefix + name, shape, kind or default, **extra)

    def record(
        self,
        kind: str,
        name: str,
        inputs: Iterable[Tensor] = (),
        outputs: Iterable[Tensor] = (),
        weights: Iterable[Weight] = (),
        *,
        group: str | None = None,
        flops_per_token: int = 0,
        flops_per_pair: int = 0,
        **facts: Any,
    ) -> None:
        self._operations.append(
            Operation(
                kind,
                (self._prefix + name).rstrip("."),
                group or self._group,
                tuple(inputs),
                tuple(outputs),
                tuple(weights),
                flops_per_token,
                flops_per_pair,
                facts,
            )
        )

    # ---- matrix products ----------------------------------------------------------------------

    def linear(
        self,
        x: Tensor,
        name: str,
        outputs: int,
        *,
        bias: bool = False,
        split: str = "column",
        transposed: bool = False,
        group: str | None = None,
        tied_to: str | None = None,
        **facts: Any,
    ) -> Tensor:
        """x @ weight.T (+ bias). `transposed`: the weight is stored (inputs, outputs)."""
        shape = (x.width, outputs) if transposed else (outputs, x.width)
        weights = [self.weight(f"{name}.weight", *shape, split=split, tied_to=tied_to)]
        if bias:
            bias_split = "column" if split == "column" else "whole"
            weights.append(self.weight(f"{name}.bias", outputs, split=bias_split))
        out = self.make(outputs, "tensor" if split in ("column", "vocabulary") else "sequence")
        self.record(
            "linear",
            name,
            (x,),
            (out,),
            weights,
            group=group,
            flops_per_token=2 * x.width * outputs,
            transposed=transposed,
            bias=bias,
            **facts,
        )
        return out

    def embedding(
        self, name: str, rows: int, width: int, *, split: str = "vocabulary", **facts: Any
    ) -> Tensor:
        """Row look-up by token id; fact positions=True: by position, once for all sequences."""
        out = self.make(width)
        weight = self.weight(f"{name}.weight", rows, width, kind="embedding", split=split)
        self.record("embedding", name, (), (out,), (weight,), **facts)
        return out

    # ---- norms and elementwise work -------------------------------------------------------------

    def rms_norm(
        self,
        x: Tensor,
        name: str,
        *,
        cast: str = "before_weight",
        heads: int = 0,
        weight: bool = True,
    ) -> Tensor:
        """x / rms(x) * weight, over the width or, with `heads`, over each head's width.

        cast: whether the float32 result is cast back "before_weight" (Llama) or "after_weight"
        (Gemma, OLMo-2).
        """
        size = x.width // heads if heads else x.width
        weights = (self.weight(f"{name}.weight", size),) if weight else ()
        return self._norm("rms_norm", x, name, weights, cast=cast, heads=heads)

    def layer_norm(
        self,
        x: Tensor,
        name: str,
        *,
        bias: bool = True,
        weight: bool = True,
        heads: int = 0,
        **facts: Any,
    ) -> Tensor:
        """The fused layer norm of the framework, with weight and bias unless told otherwise.

        heads: over each head's width; fact float32=True: cast to float32 before and back after.
        """
        size = x.width // heads if heads else x.width
        weights = []
        if weight:
            weights.append(self.weight(f"{name}.weight", size))
        if bias:
            weights.append(self.weight(f"{name}.bias", size))
        return self._norm("layer_norm", x, name, tuple(weights), heads=heads, **facts)

    def python_layer_norm(self, x: Tensor, name: str, *, heads: int = 0) -> Tensor:
        """A layer norm written out in float32 steps, with a weight and no bias (Cohere)."""
        shape = (heads, x.width // heads) if heads else (x.width,)
        weight = self.weight(f"{name}.weight", *shape, kind="vector")
        return self._norm("python_layer_norm", x, name, (weight,), heads=heads)

    def _norm(
        self, kind: str, x: Tensor, name: str, weights: tuple[Weight, ...], **facts: Any
    ) -> Tensor:
        out = self.make(x.width, x.split)
        self.record(kind, name, (x,), (out,), weights, group="norm", **facts)
        return out

    def activation(self, x: Tensor, function: str, weights: Iterable[Weight] = ()) -> Tensor:
        out = self.make(x.width, x.split)
        self.record("activation", function, (x,), (out,), weights, function=function)
        return out

    def multiply(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.make(max(a.width, b.width), a.split)
        self.record("multiply", "multiply", (a, b), (out,))
        return out

    def scale(self, x: Tensor, name: str = "scale") -> Tensor:
        """x times a constant that is no parameter."""
        out = self.make(x.width, x.split)
        self.record("scale", name, (x,), (out,))
        return out

    def add_constant(self, x: Tensor) -> Tensor:
        """x plus a table that is no parameter (sinusoidal positions)."""
        out = self.make(x.width, x.split)
        self.record("add_constant", "add_constant", (x,), (out,))
        return out

    def add_bias(self, x: Tensor, name: str, size: int = 0) -> Tensor:
        """x plus a vector of weights (of `size`, each for several channels) in its own step."""
        out = self.make(x.width, x.split)
        self.record("add_bias", name, (x,), (out,), (self.weight(name, size or x.width),))
        return out

    def multiply_vector(self, x: Tensor, name: str, size: int = 0) -> Tensor:
        """x times a vector of weights (of `size`, each for several channels)."""
        out = self.make(x.width, x.split)
        self.record("multiply_vector", name, (x,), (out,), (self.weight(name, size or x.width),))
        return out

    def softcap(self, x: Tensor) -> Tensor:
        """tanh(x / cap) * cap."""
        out = self.make(x.width, x.split)
        self.record("softcap", "softcap", (x,), (out,))
        return out

    def add(self, a: Tensor, b: Tensor) -> Tensor:
        out = self.make(max(a.width, b.width), a.split)
        self.record("add", "add", (a, b), (out,))
        return out

    def split(self, x: Tensor, *widths: int) -> tuple[Tensor, ...]:
        """Views of parts of a tensor: no memory of their own."""
        outs = tuple(self.make(width, x.split) for width in widths)
        self.record("split", "split", (x,), outs)
        return outs

    def concatenate(self, *parts: Tensor, width: int | None = None) -> Tensor:
        """Parts side by side; with `width`, a part that all heads share is repeated to fill it."""
        out = self.make(width or sum(part.width for part in parts), parts[0].split)
        self.record("concatenate", "concatenate", parts, (out,))
        return out

    def copy(self, x: Tensor) -> Tensor:
        """The same values in memory of their own (a reshape that cannot be a view)."""
        out = self.make(x.width, x.split)
        self.record("copy", "copy", (x,), (out,))
        return out

    def repeat_heads(self, x: Tensor, times: int) -> Tensor:
        """Each head of x written out `times` times."""
        out = self.make(x.width * times, x.split)
        self.record("repeat_heads", "repeat_heads", (x,), (out,), times=times)
        return out

    # ---- attention ------------------------------------------------------------------------------

    def rotary(
        self,
        x: Tensor,
        *,
        heads: int,
        fraction: float = 1.0,
        style: str = "half",
        own_tables: str | None = None,
    ) -> Tensor:
        """Rotary position embedding of each head's first `fraction` of its width.

        own_tables: the kind of layer that has cosine and sine tables of its own.
        """
        out = self.make(x.width, x.split)
        self.record(
            "rotary",
            "rotary",
            (x,),
            (out,),
            heads=heads,
            fraction=fraction,
            style=style,
            own_tables=own_tables,
        )
        return out

    def attention(
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        *,
        heads: int,
        kv_heads: int,
        window: int | None = None,
        causal: bool = True,
        weights: Iterable[Weight] = (),
        **facts: Any,
    ) -> Tensor:
        """softmax(q k^T) v over each head; `window`: how many tokens back each token sees.

        facts: softcap=True (scores capped by tanh), sinks (how a learned score takes part in the
        softmax: traits.Attention.sink_style), eager_only=True (no fused kernel exists), masks (how
        many masks the model writes out). How scores are written out: alibi (a linear bias,
        "in_product", "added" or "widened"), scaled_in_place, scores_float32, softmax_float32=False
        (in their own dtype), broadcast_keys (each product writes its keys or values out to all
        heads), clamped_scores=True (to the least number of their dtype).
        """
        value_head = v.width // kv_heads
        head = q.width // heads
        out = self.make(heads * value_head, q.split)
        self.record(
            "attention",
            "attention",
            (q, k, v),
            (out,),
            weights,
            flops_per_pair=2 * heads * (head + value_head),
            heads=heads,
            kv_heads=kv_heads,
            head_dim=head,
            value_head_dim=value_head,
            window=window,
            causal=causal,
            **facts,
        )
        return out

    # ---- the loss -------------------------------------------------------------------------------

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Log-softmax and negative log-likelihood over the vocabulary, in float32."""
        loss = self.make(0, "whole")
        self.record("cross_entropy", "loss", (logits,), (loss,), group="output_head")
        return loss

    # ---- what is counted but has no memory model yet ---------------------------------------------

    def opaque(
        self,
        name: str,
        width: int,
        weights: Iterable[Weight],
        inputs: Iterable[Tensor] = (),
        *,
        group: str | None = None,
        flops_per_token: int = 0,
    ) -> Tensor:
        """A module whose parameters are known exactly and whose training memory is not modelled."""
        out = self.make(width)
        self.record(
            "opaque",
            name,
            inputs,
            (out,),
            weights,
            group=group,
            flops_per_token=flops_per_token,
        )
        return out
