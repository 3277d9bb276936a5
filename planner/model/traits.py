"""The traits in which decoders differ from Llama's, as data: a family's row.

A family states Traits with an Attention, a FeedForward and, if it has experts, a Routing. Strings
that name a config field are read from the config; True and False stand for themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from planner.model import blocks, wiring
from planner.model.assemble import heads_of, rms
from planner.model.blocks import HeadNorm, Heads
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.latent import PLAIN, LatentStyle
from planner.model.operations import Tensor
from planner.model.patterns import Kinds, uniform
from planner.model.routing import Routing
from planner.model.wiring import Norm

Switch = str | bool
Step = Callable[[BlockBuilder, Tensor], Tensor]


@dataclass(frozen=True)
class Gate:
    """The attention's output times a function of a linear of the layer's input.

    each        "channel": one gate a channel; "head": one a head
    head_bias   name of a bias per head that is added before the function
    """

    name: str
    function: str = "sigmoid"
    each: str = "channel"
    bias: Switch = False
    head_bias: str | None = None


@dataclass(frozen=True)
class Attention:
    """Grouped-query attention in which a family may differ.

    bias, output_bias   of q, k, v and of the output
    head_norm           norm of queries and keys; head_norm_if: the field that switches it on
    norm_last           it comes after the rotation
    fused               the name of one linear that makes q, k and v
    rotary              "all" of a head, "partial" (a share of the config), or "none"
    rotary_by_kind      each kind of layer has its own angles
    rotates             whether layer i of a kind is rotated at all
    sinks               kinds of layers with a learned sink per head
    sink_style          "joined" (one more score, in the compute dtype, its maximum subtracted),
                        "wide" (one more score, in float32), "scaled" (the output is scaled by its
                        share of the softmax)
    heads               the heads of layer i of a kind
    scaled_query        queries are scaled by position after the rotation
    scaled_value        the field of a constant that values are multiplied by
    clip                the field that bounds q, k and v
    square              the output linear is hidden_size x hidden_size whatever the heads
    latent              multi-head latent attention instead
    """

    bias: Switch = "attention_bias"
    output_bias: Switch = "attention_bias"
    head_norm: HeadNorm | None = None
    head_norm_if: Switch = True
    head_norm_names: tuple[str, str] = ("q_norm", "k_norm")
    norm_last: bool = False
    fused: str | None = None
    names: tuple[str, str, str, str] = blocks.Q_K_V_O
    rotary: str = "all"
    rotary_fields: tuple[str, ...] = ()
    rotary_style: str = "half"
    rotary_by_kind: bool = False
    rotates: Callable[[Config, int, str], bool] = lambda c, i, kind: True
    sinks: tuple[str, ...] = ()
    sink_style: str = "joined"
    gate: Gate | None = None
    output_norm: str | None = None
    heads: Callable[[Config, int, str], Heads] = lambda c, i, kind: heads_of(c)
    scaled_query: bool = False
    scaled_value: str | None = None
    clip: str | None = None
    softcap: str | None = None
    square: bool = False
    causal: Callable[[Config], bool] = lambda c: True
    latent: Latent | None = None
    part: str = "self_attn"


@dataclass(frozen=True)
class Latent:
    """Multi-head latent attention.

    style          its traits; rotary None: as the field rope_interleave says
    direct_query   whether queries may come straight from x
    indexed        kinds of layers with an indexer: by the words of indexer_types, or all
    """

    style: LatentStyle = PLAIN
    rotary: str | None = None
    direct_query: bool = True
    indexed: bool = False


@dataclass(frozen=True)
class FeedForward:
    """The dense part. form: "gated" (three linears), "fused" (gate and up in one) or "plain".

    halved   the width field counts gate and up together
    """

    form: str = "gated"
    bias: Switch = "mlp_bias"
    names: tuple[str, ...] = ()
    width: str = "intermediate_size"
    activation: str = "hidden_act"
    halved: bool = False
    inner_norm: str | None = None
    part: str = "mlp"


@dataclass(frozen=True)
class Traits:
    """One family.

    kinds        which attention each layer has
    join         how norm, attention and feed-forward part make a layer; norms: their names
    scaled       the branches are scaled by a constant (muP)
    extra_rows   of the embedding beside the vocabulary's
    outputs      field of the head's size, where it may differ from vocab_size
    embedded, before_head, logits   what happens to embedding, last state and logits
    tied         in place of tie_word_embeddings
    ignored      fields that change neither a shape nor a FLOP here
    """

    attention: Attention = Attention()
    feed_forward: FeedForward = FeedForward()
    routing: Routing | None = None
    kinds: Kinds = uniform
    norm: Norm = rms
    join: Callable[..., Tensor] = wiring.pre_norm
    norms: tuple[str, ...] = ()
    scaled: bool = False
    extra_rows: int = 0
    outputs: str | None = None
    embedded: Step | None = None
    before_head: Step | None = None
    logits: Step | None = None
    capped: str | None = None
    final_norm: str = "model.norm"
    head_bias: Switch = False
    tied: bool | None = None
    ignored: tuple[str, ...] = ()
    not_trainable_because: str | None = None


@dataclass(frozen=True)
class Variant:
    """What may differ from layer to layer; equal variants share one block."""

    kind: str
    rotated: bool
    sparse: bool
    heads: Heads

    @property
    def name(self) -> str:
        words = [self.kind, "moe" if self.sparse else "dense", str(self.heads.heads)]
        return " ".join(words if self.rotated else [*words, "unrotated"])
