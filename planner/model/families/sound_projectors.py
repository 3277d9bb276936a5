"""What joins an encoder of sound to a language model: linears over its frames."""

from __future__ import annotations

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.projectors import joined, two_linears
from planner.model.families.qformer import qformer
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower


def one_linear(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    b.linear(b.input, "linear", width, bias=True)


def bare_linear(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    b.linear(b.input, "multi_modal_projector", width, bias=True)


def granite_speech(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A Q-Former with a few queries for each window of frames."""
    c.ignore("has_lora_adapter")
    queries = c.size("window_size") // c.size("downsample_rate")
    c.require(queries > 0, "downsample_rate", f"at most window_size = {c.size('window_size')}")
    q = c.sub("projector_config")
    x = learned(b, b.make(q.size("hidden_size")), "query", 1, queries, q.size("hidden_size"))
    x = qformer(b.part("qformer"), q, x, b.input)
    b.linear(x, "linear", width, bias=True)
    q.finish()


def voxtral_realtime(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("audio_length_per_tok", "default_num_delay_tokens", "hidden_size")
    x = joined(b, b.input, c.size("downsample_factor"))
    two_linears(b, x, width, width, c.word("projector_hidden_act"), False)


def voxtral(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """As many frames side by side as fill the encoder's inner width."""
    x = b.opaque("join", v.size("intermediate_size"), (), (b.input,))
    two_linears(b, x, width, width, c.word("projector_hidden_act"), False)


def audioflamingo3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("audio_frame_step")
    bias = c.flag("projector_bias")
    two_linears(b, b.input, width, width, c.word("projector_hidden_act"), bias)


def glmasr(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = b.opaque("join", v.size("intermediate_size"), (), (b.input,))
    two_linears(b, x, 2 * width, width, c.word("projector_hidden_act"), True)


def qwen3_asr(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("token_classification_bias")
    two_linears(b, b.input, t.width, v.size("output_dim"), v.word("activation_function"), True)


def moss_diarize(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("audio_chunk_size")
    x = joined(b, b.input, c.size("audio_merge_size"))
    bias = c.flag("projector_bias")
    y = b.activation(b.linear(x, "linear_1", width, bias=bias), c.word("projector_hidden_act"))
    b.layer_norm(b.linear(y, "linear_2", width, bias=bias, split="row"), "norm")
