"""What joins an encoder of images or sound to a language model: linears over its tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from planner.model import blocks
from planner.model.assemble import layers_of
from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.families.janus_towers import aligned
from planner.model.families.qformer import qformer
from planner.model.families.sam_towers import neck, shrinking
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower
from planner.model.operations import Tensor
from planner.model.spec import Placed

# c, block, vision tower, config of the vision part, width of the text
Projector = Callable[[Config, BlockBuilder, Tower, Config, int], None]


# How many queries a picture of so many patches has (configuration_aria.py).
ARIA_QUERIES = {"1225": 128, "4900": 256}


def feature_layers(c: Config) -> int:
    """How many of the tower's layers are put side by side."""
    given = c.raw("vision_feature_layer")
    return len(given) if isinstance(given, list | tuple) else 1


def joined(b: BlockBuilder, x: Tensor, times: int) -> Tensor:
    """Several patches or layers side by side: no weights."""
    return b.opaque("join", x.width * times, (), (x,)) if times > 1 else x


def two_linears(
    b: BlockBuilder, x: Tensor, inner: int, out: int, activation: str, bias: bool
) -> None:
    y = b.activation(b.linear(x, "linear_1", inner, bias=bias), activation)
    b.linear(y, "linear_2", out, bias=bias, split="row")


def llava(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    bias = c.flag("multimodal_projector_bias", True)
    x = joined(b, b.input, feature_layers(c))
    two_linears(b, x, width, width, c.word("projector_hidden_act"), bias)


def vipllava(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, feature_layers(c))
    x = b.layer_norm(x, "projector_layernorm")
    two_linears(b, x, width, width, c.word("projector_hidden_act"), True)


def mistral3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Norm, a linear over spatial_merge_size squared patches, two linears."""
    side, layers = c.size("spatial_merge_size"), feature_layers(c)
    x = joined(b, b.rms_norm(b.input, "norm"), side * side)
    x = b.linear(x, "patch_merger.merging_layer", t.width)
    bias = c.flag("multimodal_projector_bias")
    activation = c.word("projector_hidden_act", "gelu")
    two_linears(b, joined(b, x, layers), width, width, activation, bias)


def gemma3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("mm_tokens_per_image")
    x = b.rms_norm(b.input, "mm_soft_emb_norm", cast="after_weight")
    weight = b.weight("mm_input_projection_weight", t.width, width)
    flops = 2 * t.width * width
    b.opaque("mm_input_projection", width, (weight,), (x,), flops_per_token=flops)


def paligemma(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("hidden_size", "vocab_size")
    b.linear(b.input, "linear", c.size("projection_dim"), bias=True)


def internvl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Pixels are shuffled into channels by downsample_ratio before norm and linears."""
    times = int(1 / c.number("downsample_ratio", 0.5)) ** 2
    x = b.layer_norm(joined(b, b.input, times), "layer_norm")
    two_linears(b, x, width, width, c.word("projector_hidden_act"), True)


def idefics3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, c.size("scale_factor") ** 2)
    b.linear(x, "modality_projection.proj", width)


def vbert(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, c.size("pixel_shuffle_factor") ** 2)
    x = b.linear(x, "modality_projection", width)
    if c.model_type == "ultravbert":
        b.rms_norm(x, "norm")


def idefics2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A gated linear to the text's width, then learned queries that attend to the patches."""
    p = c.sub("perceiver_config")
    same = p.size("hidden_size") == width
    c.require(same, "perceiver_config", f"hidden_size {width}, the text's")
    inner = c.sub("text_config").size("intermediate_size")
    m = b.part("modality_projection")
    gate = m.activation(m.linear(b.input, "gate_proj", inner), "silu")
    x = m.linear(m.multiply(gate, m.linear(b.input, "up_proj", inner)), "down_proj", width)
    r = b.part("perceiver_resampler")
    heads, head_dim = p.size("resampler_n_heads"), p.size("resampler_head_dim")
    h = blocks.Heads(heads, p.size("num_key_value_heads", heads), head_dim)
    latents = r.weight("latents", p.size("resampler_n_latents"), width, kind="embedding")
    y = r.opaque("latents", width, (latents,))
    for i in range(layers_of(p, "resampler_depth")):
        layer = r.part(f"layers.{i}")
        a = layer.part("self_attn", "attention")
        normed = layer.rms_norm(y, "input_latents_norm")
        context = layer.rms_norm(x, "input_context_norm")
        q = a.linear(normed, "q_proj", h.q_width)
        k, value = (a.linear(context, f"{name}_proj", h.kv_width) for name in "kv")
        out = a.attention(q, k, value, heads=h.heads, kv_heads=h.kv_heads, causal=False)
        y = layer.add(y, a.linear(out, "o_proj", width, split="row"))
        fed = blocks.gated_feed_forward(
            layer.part("mlp", "feed_forward"),
            layer.rms_norm(y, "post_attention_layernorm"),
            intermediate_size=4 * width,
            activation=p.word("hidden_act"),
        )
        y = layer.add(y, fed)
    r.rms_norm(y, "norm")
    p.finish()


def minicpm(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Four patches become one, merger_times over."""
    c.ignore("insert_layer_id", "downsample_mode", "merge_kernel_size", "image_size")
    c.ignore("image_start_id", "image_end_id", "slice_start_id", "slice_end_id", "newline_id")
    c.require(not c.flag("drop_vision_last_layer"), "drop_vision_last_layer", "false")
    times, x = c.size("merger_times"), b.input
    for i in range(times):
        m = b.part(f"mlp.{i}")
        y = m.layer_norm(joined(m, x, 4), "pre_norm")
        y = m.activation(m.linear(y, "linear_1", y.width, bias=True), "gelu")
        out = width if i + 1 == times else x.width
        x = m.linear(y, "linear_2", out, bias=True, split="row")


def lfm2_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.input, c.size("downsample_factor") ** 2)
    if c.flag("projector_use_layernorm"):
        x = b.layer_norm(x, "layer_norm")
    inner, bias = c.size("projector_hidden_size"), c.flag("projector_bias")
    two_linears(b, x, inner, width, c.word("projector_hidden_act"), bias)


def cohere2_vision(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A gate: the first linear makes twice what the second takes."""
    inner = c.size("alignment_intermediate_size")
    c.require(inner % 2 == 0, "alignment_intermediate_size", "an even number")
    x = joined(b, b.input, c.size("downsample_factor") ** 2)
    x, gate = b.split(b.linear(x, "linear_1", inner, bias=True), inner // 2, inner // 2)
    x = b.multiply(b.activation(gate, "silu"), x)
    b.linear(x, "linear_2", width, bias=True, split="row")


def llama4(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """The tower's adapter has already joined patches and widened them."""
    x = b.opaque("adapted", v.size("vision_output_dim"), (), (b.input,))
    b.linear(x, "linear_1", width)


def got_ocr2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    channels = v.size("output_channels")
    names, widths = ("conv_upsampler1", "conv_upsampler2"), (2 * channels, width)
    b.linear(shrinking(b, b.input, names, widths), "multimodal_projector", width, bias=True)


def fuyu(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """No tower: flattened patches straight into the language model."""
    side = c.size("patch_size")
    pixels = b.opaque("patches", side * side * c.size("num_channels"), ())
    b.linear(pixels, "vision_embed_tokens", width, bias=True)


def hyperclovax(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = b.opaque("merged", v.size("out_hidden_size"), (), (b.input,))
    b.linear(x, "projector", width, bias=True)


def deepseek_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    y = b.activation(b.linear(b.input, "linear1", width, bias=True), "gelu")
    b.linear(y, "linear2", width, bias=True, split="row")


def video_llama_3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    y = b.activation(b.linear(b.input, "readout.0", width, bias=True), "gelu")
    b.linear(y, "readout.2", width, bias=True, split="row")


def kimi_k25(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    rows, columns = v.sizes("merge_kernel_size") or (2, 2)
    same = c.size("projection_hidden_size") == t.width
    c.require(same, "projection_hidden_size", f"{t.width}, the tower's width")
    x = joined(b, b.layer_norm(b.input, "pre_norm"), rows * columns)
    y = b.activation(b.linear(x, "in_proj", x.width, bias=True), "gelu")
    b.linear(y, "out_proj", width, bias=True, split="row")


def paddleocr_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.layer_norm(b.input, "pre_norm"), v.size("spatial_merge_size") ** 2)
    two_linears(b, x, x.width, width, "gelu", True)


def ovis2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A soft choice of rows of a table of visual words."""
    rows, columns = v.size("vocab_size"), c.size("hidden_size")
    if not c.flag("tie_word_embeddings"):  # the head has the sizes of the whole, not of its text
        text = c.sub("text_config")
        for name in ("hidden_size", "vocab_size"):
            size = text.size(name)
            c.require(c.size(name) == size, name, f"{size}, as text_config.{name}")
    c.ignore("vocab_size")
    table = b.weight("visual_embeddings_table.weight", rows, columns)
    flops = 2 * rows * columns
    b.opaque("visual_embeddings_table", columns, (table,), (b.input,), flops_per_token=flops)


def cosmos3_edge(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.layer_norm(b.input, "norm"), v.size("spatial_merge_size") ** 2)
    inner = c.size("projector_hidden_size")
    y = b.activation(b.linear(x, "linear_fc1", inner, bias=True), "gelu")
    b.linear(y, "linear_fc2", width, bias=True, split="row")


def minimax_m3(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Two linears for each patch, then two over spatial_merge_size squared of them."""
    inner, times = c.size("projector_hidden_size"), v.size("spatial_merge_size") ** 2
    c.ignore("merged_hidden_size")
    x = b.activation(b.linear(b.input, "linear_1", inner, bias=True), "gelu")
    x = joined(b, b.linear(x, "linear_2", width, bias=True, split="row"), times)
    y = b.activation(b.linear(x, "merge_linear_1", inner, bias=True), "gelu")
    b.linear(y, "merge_linear_2", width, bias=True, split="row")


def deepseek_vl_hybrid(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """What the fine encoder puts out goes through a second neck and is shrunk; then half of the
    text's width comes from it and half from the coarse one."""
    out, half = c.sub("high_res_vision_config").size("output_channels"), width // 2
    inside = c.sub("high_res_vision_config").size("hidden_size")
    n = b.part("high_res_vision_neck")
    fine = neck(n, n.opaque("a global layer", inside, ()), out)
    p = b.part("high_res_vision_proj")
    fine = shrinking(p, fine, ("conv1", "conv2"), (2 * out, 4 * out))
    fine = b.opaque("alpha", fine.width, (b.weight("high_res_vision_alpha", 1),), (fine,))
    a = b.part("aligner")
    coarse = a.linear(b.input, "vision_proj", half, bias=True)
    x = a.concatenate(coarse, a.linear(fine, "high_res_vision_proj", half, bias=True))
    c.require(x.width == width, "text_config", f"an even hidden_size, not {width}")
    a.linear(a.activation(x, "gelu"), "proj", width, bias=True, split="row")


def unlimited_ocr(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = b.linear(b.input, "multi_modal_projector", width, bias=True)
    b.opaque("separator", width, (b.weight("view_separator", width),), (x,))


def molmo2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Attention pools several layers' patches, a gated part brings them to the text's width."""
    a = c.sub("adapter_config")
    a.modernize({"vit_layers": "vision_feature_layer"})
    layers, inside = a.resolved("vision_feature_layer"), a.size("hidden_size")
    a.require(isinstance(layers, list), "vision_feature_layer", "a list of layer numbers")
    x = b.opaque("features", inside * len(layers), (), (b.input,))
    heads, kv_heads = a.size("num_attention_heads"), a.size("num_key_value_heads")
    h = blocks.Heads(heads, kv_heads, a.size("head_dim"))
    p, bias = b.part("image_pooling_2d", "attention"), a.flag("attention_bias")
    q, k, value = (
        p.linear(x, f"{name}_proj", wide, bias=bias)
        for name, wide in (("q", h.q_width), ("k", h.kv_width), ("v", h.kv_width))
    )
    y = p.attention(q, k, value, heads=h.heads, kv_heads=h.kv_heads, causal=False)
    y = p.linear(y, "o_proj", inside, bias=bias, split="row")
    f, inner, bias = b.part("image_projector"), a.size("intermediate_size"), a.flag("mlp_bias")
    gate = f.activation(f.linear(y, "gate_proj", inner, bias=bias), a.word("hidden_act"))
    gate = f.multiply(gate, f.linear(y, "up_proj", inner, bias=bias))
    f.linear(gate, "down_proj", a.size("text_hidden_size"), split="row")
    a.finish()


def nemotron_h_omni(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    wide, times = c.size("vision_hidden_size"), int(1 / c.number("downsample_ratio", 0.5)) ** 2
    x = joined(b, b.opaque("patches", wide, (), (b.input,)), times)
    relu2_linears(b, x, c.size("projector_hidden_size"), width)


def relu2_linears(b: BlockBuilder, x: Tensor, inner: int, out: int, bias: bool = False) -> None:
    two_linears(b, b.rms_norm(x, "layer_norm"), inner, out, "relu2", bias)


def nemotron_h_omni_beside(c: Config, width: int) -> list[Placed]:
    """Where the text part predicts further tokens, a norm of the patches; sound's projector."""
    made = []
    if c.sub("text_config").count("num_nextn_predict_layers", 0):
        b = BlockBuilder("vision end", c.size("vision_hidden_size"), sequence="image")
        b.layer_norm(b.input, "vision_final_layernorm")
        made.append(Placed("", b.block()))
    if c.raw("audio_config") is not None:
        sound = c.sub("audio_config")
        b = BlockBuilder("projector", sound.size("hidden_size"), sequence="audio")
        p, inner = b.part("embed_audio", "other"), sound.size("projection_hidden_size")
        relu2_linears(p, b.input, inner, width, sound.flag("projection_bias"))
        made.append(Placed("", b.block()))
    return made


def aria(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Learned queries attend to the patches through projections of projections."""
    counts = c.resolved("projector_patch_to_query_dict") or ARIA_QUERIES
    known = isinstance(counts, Mapping) and all(isinstance(n, int) for n in counts.values())
    c.require(known and bool(counts), "projector_patch_to_query_dict", "patches -> queries")
    inside, heads = t.width, v.size("num_attention_heads")
    query = b.weight("query", max(counts.values()), inside, kind="embedding")
    a = b.part("cross_attn", "attention")
    context = a.layer_norm(b.input, "layer_norm_kv")
    x = a.layer_norm(b.opaque("query", inside, (query,)), "layer_norm")
    q = a.linear(x, "q_proj", inside)
    k, value = (a.linear(context, f"{name}_proj", inside) for name in "kv")
    m = a.part("multihead_attn")
    weights = (m.weight("in_proj_weight", 3 * inside, inside), m.weight("in_proj_bias", 3 * inside))
    q = m.opaque("in_proj", inside, weights, (q, k, value), flops_per_token=6 * inside * inside)
    out = m.attention(q, q, q, heads=heads, kv_heads=heads, causal=False)
    out = m.linear(out, "out_proj", inside, bias=True, split="row")
    x = b.layer_norm(a.linear(out, "linear", inside, bias=True, split="row"), "layer_norm")
    f = b.part("feed_forward")
    y = f.activation(f.linear(x, "linear_in", width), "gelu_new")
    f.linear(y, "linear_out", width, split="row")


def step(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    b.linear(b.input, "multi_modal_projector", width, bias=c.flag("projector_bias"))


def lfm3_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = joined(b, b.layer_norm(b.input, "layer_norm"), v.size("spatial_merge_size") ** 2)
    inner, bias = c.size("projector_hidden_size"), c.flag("projector_bias")
    two_linears(b, x, inner, width, c.word("projector_hidden_act"), bias)


def muse(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    x = b.opaque("merged", c.size("out_hidden_size"), (), (b.input,))
    inner, activation = c.size("projector_hidden_size"), c.word("projector_hidden_act")
    x = b.activation(b.linear(x, "vision_adapter.fc1", inner), activation)
    x = b.activation(b.linear(x, "vision_adapter.fc2", inner), activation)
    b.linear(x, "vision_projection", width)


def ernie4_5_vl(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Patches side by side go through two linears, then those of several frames."""
    wide = t.width * v.size("spatial_merge_size") ** 2
    x = b.opaque("join", wide, (), (b.input,))
    for name, times in (("spatial_linear", 1), ("temporal_linear", v.size("temporal_merge_size"))):
        p = b.part(name)
        y = p.activation(p.linear(joined(p, x, times), "fc1", wide, bias=True), "gelu")
        x = p.layer_norm(p.linear(y, "fc2", wide, bias=True, split="row"), "ln")
    b.rms_norm(b.linear(x, "mlp", width, bias=True), "after_norm")


def janus(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    depth, out = v.size("depth"), v.size("projection_dim")
    aligned(b, b.input, out, depth, v.word("hidden_act"))


def blip2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Learned queries read the patches, and a linear brings them to the text's width."""
    q = c.sub("qformer_config")
    q.given["encoder_hidden_size"] = t.width  # whatever it says
    shape = (1, c.size("num_query_tokens"), q.size("hidden_size"))
    c.ignore("image_text_hidden_size", "initializer_factor")
    tokens = b.weight("query_tokens", *shape, kind="embedding")
    queries = b.opaque("query_tokens", shape[2], (tokens,))
    x = qformer(b.part("qformer"), q, queries, b.input)
    b.linear(x, "language_projection", width, bias=True, split="whole")
    q.finish()


def florence2(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """A linear and a norm; where a position lies by row and by column."""
    out, rows = v.size("projection_dim"), v.size("max_position_embeddings")
    x, half = b.input, t.width // 2
    for name, part in (("row", half), ("column", t.width - half)):
        x = learned(b, x, f"image_position_embed.{name}_embeddings.weight", rows, part)
    b.layer_norm(b.linear(x, "image_projection", out), "image_proj_norm")


def density_router(c: Config, width: int) -> list[Placed]:
    """Granite Docling may choose between its routes by how much a tile holds."""
    inner = c.optional("density_router_hidden_size")
    c.ignore("density_router_threshold")
    if inner is None:
        return []
    b = BlockBuilder("router", c.sub("vision_config").size("hidden_size"), sequence="image")
    r = b.part("model.density_router", "router")
    r.linear(r.input, "att", 1, bias=True, split="whole")
    y = r.linear(r.layer_norm(r.input, "norm"), "fc1", inner, bias=True, split="whole")
    r.linear(r.activation(y, "gelu"), "fc2", 1, bias=True, split="whole")
    return [Placed("", b.block())]
