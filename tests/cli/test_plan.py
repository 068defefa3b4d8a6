from __future__ import annotations

import json
from pathlib import Path

import pytest

from ia3.cli.main import main
from ia3.cli.plan import group_sites, read_names
from ia3.core.sites import Channels, Site

MT0_LARGE = {
    "architectures": ["MT5ForConditionalGeneration"], "model_type": "mt5", "d_model": 1024, "d_kv": 64, "d_ff": 2816,
    "num_layers": 24, "num_decoder_layers": 24, "num_heads": 16, "vocab_size": 250112, "is_encoder_decoder": True,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 4, "vocab_size": 48, "n_positions": 32}


def _config(folder: Path, content: dict[str, object]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return str(folder)


def test_the_shape_of_mt0_large_needs_its_config_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = _config(tmp_path / "mt0", MT0_LARGE)
    assert main(["plan", base]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"{base}: mt5, seq2seq; 192 sites, found by the table of known families\n")
    assert "trainable parameters: 282,624 (0.029 % of all)" in out
    assert "973,749,248  with the output matrix tied to the embeddings" in out
    assert "1,229,863,936  with an output matrix of the checkpoint's own" in out
    row = next(line.split() for line in out.splitlines() if line.startswith("encoder.block.*.layer.*.SelfAttention.k "))
    assert row[1:6] == ["24", "key", "output", "1,024", "24,576"]
    assert next(line for line in out.splitlines() if line.startswith("lm_head")).endswith("1  output head")


def test_json_holds_every_site_and_both_totals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", _config(tmp_path / "mt0", MT0_LARGE), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["parameters"] == {
        "trainable": 282624,
        "total": 973749248,
        "total_with_own_head": 1229863936,
        "has_own_head": None,
        "head": None,
    }
    assert (found["kind"], found["model_type"], found["width"], len(found["sites"])) == ("seq2seq", "mt5", 282624, 192)
    assert sum(site["width"] for site in found["sites"]) == 282624
    assert {entry["reason"] for entry in found["left_out"]} >= {"output head"}


def test_a_checkpoint_that_is_there_tells_whether_its_head_is_its_own(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", str(home / "seq2seq")]) == 0
    assert capsys.readouterr().out.endswith("this checkpoint has its own\n")


def test_fused_projections_show_their_slices_and_where_peft_holds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = _config(tmp_path / "gpt2", GPT2)
    assert main(["plan", base]) == 0
    lines = capsys.readouterr().out.splitlines()
    key = next(line for line in lines if line.startswith("transformer.h.*.attn.c_attn[key]"))
    assert key.endswith("c_attn (output), ones elsewhere")
    assert "2  key          output     16       32" in key


def test_every_site_has_its_own_row_where_that_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", _config(tmp_path / "gpt2", GPT2), "--all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[3:9]] == [
        f"transformer.h.{layer}.{end}"
        for layer in (0, 1)
        for end in ("attn.c_attn[key]", "attn.c_attn[value]", "mlp.c_proj[input]")
    ]


def test_an_encoder_counts_its_head_apart(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(home / "encoder")]) == 0
    out = capsys.readouterr().out
    assert "trainable parameters: 224 (" in out
    assert "and a head where the checkpoint has none: 66 for two labels (classifier)\n" in out


def test_own_targets_have_pefts_meaning(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = str(home / "causal")
    names = ["--target-modules", "k_proj", "down_proj", "--feedforward-modules", "down_proj"]
    assert main(["plan", base, *names, "--exclude-modules", r".*\.1\..*", "--json"]) == 0
    sites = json.loads(capsys.readouterr().out)["sites"]
    assert [(site["module"].removeprefix("model.layers."), site["side"]) for site in sites] == [
        ("0.self_attn.k_proj", "output"),
        ("0.mlp.down_proj", "input"),
    ]
    assert main(["plan", base, "--targets", r".*\.(k|v)_proj"]) == 0
    assert "; 4 sites, found by the targets given" in capsys.readouterr().out


def test_a_target_that_matches_nothing_is_an_error(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(home / "causal"), "--targets", "k_proj", "v_porj"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == (
        "ia3: Finding the plan: 'v_porj' of target_modules matches no linear module. Did you mean 'v_proj' or 'q_proj'"
        " or 'o_proj'?\n"
    )


@pytest.mark.parametrize(
    ("given", "names"),
    [
        (None, None),
        (["k", "v"], ["k", "v"]),
        (["0.output.dense"], ["0.output.dense"]),
        ([r".*\.k"], r".*\.k"),
        (["all-linear"], "all-linear"),
    ],
)
def test_one_name_with_signs_is_an_expression(given: list[str] | None, names: object) -> None:
    assert read_names(given) == names


def test_sites_are_grouped_by_all_but_the_layer() -> None:
    def site(module: str, width: int) -> Site:
        return Site(module, "output", "key", Channels.span(0, width, width), width)

    groups = group_sites([site("h.0.k", 4), site("h.1.k", 4), site("h.2.k", 8), site("h2.k", 4)])
    assert [(group.pattern, group.width, group.count) for group in groups] == [
        ("h.*.k", 4, 2),
        ("h.*.k", 8, 1),
        ("h2.k", 4, 1),
    ]
