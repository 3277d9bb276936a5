"""`planner fit`, run as users run it: the main job, and every bad input on one clear line."""

from __future__ import annotations

import json

import pytest

from planner import cli
from planner.model import catalog

QUESTION = ("fit", "--model", "llama-3.2-1b", "--gpu", "h100")


@pytest.fixture
def config(tmp_path):
    """A config.json as the hub has it, in a folder of its own."""
    folder = tmp_path / "my-llama"
    folder.mkdir()
    fields = {**catalog.find("llama-3.1-8b").config, "architectures": ["LlamaForCausalLM"]}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def test_the_main_job(run_planner, config):
    main = (
        "fit",
        "--gpu",
        "h100-sxm-80gb",
        "--gpus",
        "8",
        "--sharding",
        "zero3",
        "--tokens",
        "1e12",
    )
    main += ("--sequence-length", "8192", "--model")
    done = run_planner(*main, config / "config.json", "--json")
    assert done.returncode == 0
    answer = json.loads(done.stdout)
    assert answer["model"]["name"] == "my-llama"
    assert answer["model"]["parameters"] == 8_030_261_248
    memory = answer["memory"]
    assert sum(memory["breakdown_bytes"].values()) == memory["peak_bytes"]
    assert set(memory["evidence"]) == set(memory["breakdown_bytes"])
    assert memory["not_modelled"]
    limits = answer["limits"]
    assert limits["fewest_gpus"] <= 8
    assert limits["longest_sequence_length"] >= 8192
    sizes = [row["micro_batch_size"] for row in answer["micro_batches"]]
    assert sizes == [2**n for n in range(len(sizes))]
    assert answer["micro_batches"][-1]["verdict"] == "does_not_fit"
    assert answer["time"]["training_seconds"] > 0
    assert answer["budget"]["cost_usd"] > 0
    text = run_planner(*main, config)
    assert text.returncode == 0
    for needed in ("my-llama", "By micro-batch", "fewest GPUs", "MFU", "GPU-hours", "Assumed:"):
        assert needed in text.stdout, needed
    assert "\x1b" not in text.stdout  # no colour where there is no terminal


def test_what_does_not_fit_has_remedies_and_status_1(run_planner):
    done = run_planner(
        *("fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--seq-len", "8k"),
        "--json",
    )
    assert done.returncode == 1
    answer = json.loads(done.stdout)
    assert answer["verdict"] == "does_not_fit"
    available = answer["memory"]["available_bytes"]
    assert answer["memory"]["headroom_bytes"] < 0
    assert answer["remedies"]
    for remedy in answer["remedies"]:
        assert remedy["verdict"] in ("fits", "tight")
        assert remedy["peak_bytes"] <= 1.1 * available
        assert isinstance(remedy["same_training"], bool)
        assert remedy["step_seconds_ratio"] > 0
    assert [r["same_training"] for r in answer["remedies"]] == sorted(
        (r["same_training"] for r in answer["remedies"]), reverse=True
    )


def test_a_remedy_that_is_followed_does_what_it_says(run_planner):
    question = ("fit", "--model", "llama-3.1-8b", "--gpu", "h100", "--gpus", "8", "--json")
    before = json.loads(run_planner(*question).stdout)
    (remedy,) = [r for r in before["remedies"] if r["change"] == "sharding zero3"]
    after = json.loads(run_planner(*question, "--sharding", "zero3").stdout)
    assert after["memory"]["peak_bytes"] == remedy["peak_bytes"]
    assert after["verdict"] == remedy["verdict"]


def test_several_gpus_are_ranked_those_that_fit_first(run_planner):
    done = run_planner(
        *("fit", "--model", "llama-3.2-1b", "--gpu", "t4", "--gpu", "h100", "--gpu", "a100"),
        *("--gpus", "1", "--json"),
    )
    assert done.returncode == 0
    verdicts = [one["verdict"] for one in json.loads(done.stdout)["estimates"]]
    assert verdicts == ["fits", "fits", "does_not_fit"]


def test_any_asks_every_profile(run_planner):
    done = run_planner("fit", "--model", "llama-3.2-1b", "--gpu", "any", "--gpus", "1", "--json")
    found = [one["hardware"]["gpu"] for one in json.loads(done.stdout)["estimates"]]
    listed = json.loads(run_planner("hardware", "list", "--json").stdout)["gpus"]
    assert sorted(found) == sorted(one["id"] for one in listed)


def test_tight_is_answered_with_0_and_a_warning(run_planner):
    free = run_planner(*QUESTION, "--gpus", "1", "--json")
    room = json.loads(free.stdout)["memory"]["headroom_bytes"]
    done = run_planner(*QUESTION, "--gpus", "1", "--json", "--reserve", str(room))
    assert done.returncode == 0
    assert json.loads(done.stdout)["verdict"] == "tight"
    assert "tight" in done.stderr


def test_a_key_that_is_not_understood_is_named(run_planner, config):
    path = config / "config.json"
    fields = {**json.loads(path.read_text("utf-8")), "warp_drive": 9}
    path.write_text(json.dumps(fields), encoding="utf-8")
    done = run_planner("fit", "--model", config, "--gpu", "h100", "--gpus", "1", "--json")
    assert "warp_drive" in done.stderr
    assert any("warp_drive" in one for one in json.loads(done.stdout)["warnings"])


LLAMA = '{"model_type": "llama", '
BOMB = "a0: &a0 [x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9)
)
BAD_FILES = {
    "broken.json": (LLAMA, "is not valid JSON"),
    "empty.json": ("", "is empty, expected JSON"),
    "binary.json": ("\0\1\2", "is binary, expected text"),
    "list.json": ("[1, 2]", "expected a mapping of fields"),
    "type.json": ('{"model_type": "lama"}', "type.json:1: unknown model_type 'lama': did you mean"),
    "none.json": ('{"hidden_size": 64}', "model_type is missing"),
    "negative.json": (LLAMA + '"hidden_size": -1}', "hidden_size = -1: expected at least 1"),
    "zero.json": (LLAMA + '"vocab_size": 0}', "vocab_size = 0: expected at least 1"),
    "absurd.json": (LLAMA + '"vocab_size": 1e99}', "expected a whole number"),
    "huge.json": (LLAMA + '"hidden_size": 9999999999}', "expected at most"),
    "nan.json": (LLAMA + '"hidden_size": NaN}', "NaN is not JSON"),
    "infinite.json": (LLAMA + '"hidden_size": Infinity}', "expected a whole number"),
    "boolean.json": (LLAMA + '"hidden_size": true}', "expected a whole number"),
    "text.json": (LLAMA + '"hidden_size": "64"}', "'64': expected a whole number"),
    "heads.json": (LLAMA + '"num_attention_heads": 3}', "expected a divisor of hidden_size = 4096"),
    "groups.json": (LLAMA + '"num_key_value_heads": 5}', "expected a divisor of 32 query heads"),
    "twice.json": (LLAMA + '"vocab_size": 1, "vocab_size": 2}', "duplicate key 'vocab_size'"),
    "twice.yaml": ("vocab_size: 1\nvocab_size: 2\n", "twice.yaml:2: duplicate key 'vocab_size'"),
    "bomb.yaml": (BOMB, "more than 200,000 parts"),
    "tag.yaml": ("model_type: !!python/name:os.system x\n", "tag.yaml:1: tag "),
    "deep.json": ("[" * 100_000, "nested deeper than"),
    "deep.yaml": ("[" * 100_000, "nest"),
}


def one_line(capsys, *arguments):
    """The status, and the one line on stderr; nothing on stdout."""
    status = cli.main([str(one) for one in arguments])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("planner: ")
    assert err.count("\n") == 1
    return status, err


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_bad_model_file_is_one_line(capsys, tmp_path, name):
    text, message = BAD_FILES[name]
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    for command in (("fit", "--gpu", "h100", "--model"), ("params",), ("sensitivity",)):
        status, err = one_line(capsys, *command, path)
        assert status == 2
        assert message in err
        assert name in err


def test_a_model_that_is_not_there_is_one_line(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    for model, message in (
        ("nothing.json", "nothing.json: no such file"),
        ("folder", "folder: the folder has no config.json"),
        ("./nothing", "no such file"),
        ("llama-3.1-9b", "unknown model 'llama-3.1-9b': did you mean llama-3.1-"),
        ("", "unknown model ''"),
    ):
        status, err = one_line(capsys, "fit", "--gpu", "h100", "--model", model)
        assert status == 2
        assert message in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--gpu h1000", "unknown gpu 'h1000': did you mean h100"),
        ("--gpu none.yaml", "none.yaml: no such file"),
        ("--gpus -1", "gpus -1: expected a whole number of at least 1"),
        ("--gpus 0", "gpus 0: expected"),
        ("--gpus 99999999999", "gpus 99999999999: expected at most"),
        ("--gpus 1.5", "'1.5' is not a valid integer"),
        ("--gpus nan", "'nan' is not a valid integer"),
        ("--gpus-per-node 0", "gpus_per_node 0: expected at least 1"),
        ("--seq-len 0", "sequence_length 0: expected"),
        ("--seq-len -5", "got '-5', expected a length"),
        ("--seq-len 1e30", "expected at most"),
        ("--mbs 0", "micro_batch_size 0: expected"),
        ("--mbs -3", "micro_batch_size -3: expected"),
        ("--gbs 0", "global_batch_size 0: expected"),
        ("--tokens 0", "tokens 0: expected"),
        ("--tokens nan", "got 'nan', expected a whole number"),
        ("--tokens inf", "got 'inf', expected a whole number"),
        ("--tokens -1", "got '-1', expected"),
        ("--steps 1e30", "expected a number from 1 to"),
        ("--usd-per-gpu-hour nan", "usd_per_gpu_hour nan: expected a price"),
        ("--usd-per-gpu-hour -1", "expected a price"),
        ("--reserve 1gig", "got '1gig', unknown unit 'gig'"),
        ("--reserve -1", "expected a memory size"),
        ("--precision bf17", "unknown precision 'bf17'"),
        ("--optimizer adam", "unknown optimizer 'adam': did you mean adamw?"),
        ("--attention flsh", "unknown attention 'flsh': did you mean flash?"),
        ("--cross-entropy fuse", "unknown cross-entropy 'fuse': did you mean fused?"),
        ("--sharding zero4", "unknown sharding 'zero4': did you mean zero"),
        ("--stack megatorn", "unknown stack 'megatorn': did you mean megatron?"),
        ("--recompute ful", "unknown recompute 'ful': did you mean full?"),
        ("--recompute full:0", "recompute full:0: expected full:N"),
        ("--offload optimiser", "unknown offload 'optimiser': did you mean optimizer?"),
        ("--offload activations,activations:2", "offload activations:2: activations is given"),
        ("--finetune lroa", "unknown finetune 'lroa': did you mean"),
        ("--finetune lora --lora-rank 0", "lora_rank 0: expected"),
        (
            "--finetune lora --lora-targets q_prj",
            "unknown lora target 'q_prj': did you mean q_proj?",
        ),
        ("--finetune qlora --quantize int9", "unknown quantize 'int9': did you mean int8?"),
        # contradictions
        ("--lora-rank 8", "lora_rank: only with finetune lora or qlora"),
        ("--quantize nf4", "quantize: only with finetune lora or qlora"),
        ("--tokens 1e9 --steps 5", "tokens and steps: give one of them"),
        ("--gpus 8 --sharding zero3 --stack ddp", "sharding zero3: stack ddp can do only none"),
        ("--gpus 8 --tp 2 --stack ddp", "tensor_parallel 2: stack ddp cannot"),
        ("--gpus 8 --tp 3", "gpus 8: not divisible by tensor x pipeline x context parallel 3"),
        ("--gpus 64 --tp 64", "tensor_parallel 64: the 32 query heads"),
        ("--gpus 99 --pp 99", "pipeline_parallel 99: more stages than the 16 layers"),
        ("--gpus 1 --virtual-pipeline 2", "virtual_pipeline 2: needs pipeline_parallel above 1"),
        ("--gpus 8 --ep 2", "expert_parallel 2: llama-3.2-1b has no experts"),
        (
            "--gpus 8 --tp 2 --expert-tensor-parallel 2",
            "expert_tensor_parallel 2: llama-3.2-1b has",
        ),
        (
            "--gpus 8 --stack megatron --moe-dispatcher deepep",
            "moe_dispatcher deepep: llama-3.2-1b",
        ),
        (
            "--gpus 1 --recompute full:17",
            "recompute full:17: a stage of llama-3.2-1b has 16 layers",
        ),
        ("--gpus 4 --pp 4 --offload activations:5", "offload activations:5: a stage of llama"),
        ("--expert-tensor-parallel 0", "expert_tensor_parallel 0: expected a whole number"),
        ("--expert-tensor-parallel -2", "expert_tensor_parallel -2: expected a whole number"),
        (
            "--gpus 8 --expert-tensor-parallel 3",
            "expert_tensor_parallel 3: x expert_parallel 1 does not divide the 8 GPUs",
        ),
        ("--gpus 3 --cp 3", "context_parallel 3: does not divide sequence_length 4096"),
        ("--gpus 8 --gbs 12", "global_batch_size 12: not divisible by micro_batch_size x data"),
        ("--gpus 8 --gbs 16 --gradient-accumulation 3", "contradict each other"),
        ("--gpus 1 --precision bf16-autocast --stack fsdp2", "bf16-autocast"),
        # usage
        ("--sequence-lenght 5", "No such option"),
        ("more", "Got unexpected extra argument (more)"),
        ("--tp true", "'true' is not a valid integer"),
        ("--hidden-size -4", "hidden_size = -4: expected at least 1"),
    ],
)
def test_a_bad_flag_is_one_line(capsys, tmp_path, monkeypatch, flags, message):
    monkeypatch.chdir(tmp_path)
    start = QUESTION[:3] if "--gpu " in flags else QUESTION
    status, err = one_line(capsys, *start, *flags.split())
    assert status == 2
    assert message in err


def test_what_is_missing_is_asked_for(capsys):
    assert "--gpu is missing" in one_line(capsys, *QUESTION[:3])[1]
    assert "--model is missing" in one_line(capsys, "fit", "--gpu", "h100")[1]


def test_a_misspelt_option_has_a_near_match(capsys):
    _, err = one_line(capsys, *QUESTION, "--sequence-lenght", "5")
    assert "--sequence-length" in err


def test_a_profile_with_a_missing_field_is_named(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("id: mine\nname: Mine\n", encoding="utf-8")
    status, err = one_line(capsys, *QUESTION[:3], "--gpu", path)
    assert status == 2
    assert "mine.yaml:1: missing fields 'vendor'" in err


def test_no_driver_is_one_line_and_status_3(capsys, monkeypatch):
    from planner.errors import MissingPartError
    from planner.hardware import live

    def absent(*_args, **_settings):
        raise MissingPartError("no NVIDIA driver")

    monkeypatch.setattr(live, "plan_gpu", absent)
    assert one_line(capsys, *QUESTION[:3], "--gpu", "live") == (3, "planner: no NVIDIA driver\n")


def test_options_are_grouped_and_each_says_what_it_is(run_planner):
    text = run_planner("fit", "--help").stdout
    groups = ("Model:", "Hardware:", "Recipe:", "Fine-tuning:", "Layout:", "Options:")
    places = [text.index(f"\n{group}\n") for group in groups]
    assert places == sorted(places)


@pytest.mark.parametrize(
    ("gpu", "precision", "message"),
    [
        ("v100-sxm2-32gb", "bf16-pure", "has no bf16 matrix units: the products of bf16-pure are"),
        ("a100", "fp8-mixed", "has no fp8 matrix units: the products of fp8-mixed are counted as"),
        ("h100", "nvfp4-mixed", "has no fp4 matrix units: the products of nvfp4-mixed are counted"),
        ("h100", "fp8-mixed", None),
        ("v100-sxm2-32gb", "fp32", None),
    ],
)
def test_a_format_that_the_gpu_lacks_is_warned_of(capsys, gpu, precision, message):
    flags = ("--gpu", gpu, "--gpus", "2", "--sharding", "zero2", "--stack", "deepspeed")
    cli.main([*QUESTION[:3], *flags, "--precision", precision, "--json"])
    out, err = capsys.readouterr()
    warnings = json.loads(out)["warnings"]
    if message is None:
        assert not any("matrix units" in one for one in warnings)
    else:
        assert any(message in one for one in warnings)
        assert message in err
