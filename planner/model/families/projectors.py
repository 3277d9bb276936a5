"""What joins an encoder of images or sound to a language model: linears over its tokens."""

from __future__ import annotations

from collections.abc import Callable

from planner.model.builder import BlockBuilder
from planner.model.config import Config
from planner.model.convolution import convolution
from planner.model.families.janus_towers import aligned
from planner.model.families.sam_towers import neck, shrinking
from planner.model.families.vision_layers import learned
from planner.model.families.vision_towers import Tower
from planner.model.operations import Tensor
from planner.model.spec import Placed

# c, block, vision tower, config of the vision part, width of the text
Projector = Callable[[Config, BlockBuilder, Tower, Config, int], None]


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


def perception_lm(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    c.ignore("vision_use_cls_token", "projector_pooling_ratio")
    two_linears(b, b.input, width, width, "gelu", True)


def gated_linears(b: BlockBuilder, x: Tensor, inner: int, out: int) -> None:
    """A gate: the first linear makes twice what the second takes."""
    x, gate = b.split(b.linear(x, "linear_1", inner, bias=True), inner // 2, inner // 2)
    x = b.multiply(b.activation(gate, "silu"), x)
    b.linear(x, "linear_2", out, bias=True, split="row")


def cohere2_vision(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    inner = c.size("alignment_intermediate_size")
    c.require(inner % 2 == 0, "alignment_intermediate_size", "an even number")
    x = joined(b, b.input, c.size("downsample_factor") ** 2)
    gated_linears(b, x, inner, width)


def aya_vision(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Command's vision, with a norm first; its inner width may be left out."""
    inner = c.optional("alignment_intermediate_size") or width
    c.require(inner % 2 == 0, "alignment_intermediate_size", "an even number")
    x = b.layer_norm(joined(b, b.input, c.size("downsample_factor") ** 2), "layernorm")
    gated_linears(b, x, inner, width)


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


def hunyuan(c: Config, b: BlockBuilder, t: Tower, v: Config, width: int) -> None:
    """Two convolutions join spatial_merge_size squared patches, a linear brings them to the text's
    width; learned tokens stand at the ends of rows and of the picture."""
    side, inside = v.size("spatial_merge_size"), t.width
    c.ignore("im_start_id", "im_end_id", "im_newline_id")
    x = b.rms_norm(b.input, "before_rms")
    x = convolution(b, x, "proj_conv", inside, 2 * inside, side, bias=True, shrunk=side)
    x = b.activation(x, v.word("hidden_act"))
    x = convolution(b, x, "proj_out", x.width, 4 * inside, bias=True, shrunk=side)
    x = learned(b, x, "image_newline", x.width)
    x = b.linear(x, "mlp", width, bias=True, split="whole")
    for end in ("begin", "end", "sep"):
        x = learned(b, x, f"image_{end}", width)
    b.rms_norm(x, "after_rms")
