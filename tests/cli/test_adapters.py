"""`ia3 adapters`: folders into a store and out again, what is in it, and what cannot be done in one sentence."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from ia3.adapters.adapter import Adapter
from ia3.adapters.folder import load_adapter
from ia3.adapters.store import Store
from ia3.cli import adapters
from ia3.cli.main import main
from ia3.cli.packing import find_folders, folder_name
from ia3.cli.parsing import read_arguments
from ia3.errors import AdapterError
from tests.adapters.examples import assert_same
from tests.adapters.store_examples import BASE, PLAN, damage, small

Capture = pytest.CaptureFixture[str]
FILES = ("adapter_config.json", "adapter_model.safetensors", "ia3.json")


@pytest.fixture
def runs(encoder: str, tmp_path: Path) -> Path:
    """Return a folder with three copies of an adapter, one of them as PEFT would have written it, and other things."""
    folder = tmp_path / "runs"
    for name in ("north", "south", "theirs"):
        shutil.copytree(encoder, folder / name)
    (folder / "theirs" / "ia3.json").unlink()
    (folder / "notes").mkdir()
    (folder / "notes.txt").write_text("mine")
    return folder


@pytest.fixture
def store(runs: Path, tmp_path: Path, capsys: Capture) -> str:
    """Return a packed store of two of them."""
    path = str(tmp_path / "s.ia3")
    assert main(["adapters", "pack", path, str(runs / "north"), str(runs / "south")]) == 0
    capsys.readouterr()
    return path


def in_order(adapter: Adapter) -> Adapter:
    """Return an adapter with its sites by name; the tensors of PEFT's files come in any order."""
    return replace(adapter, sites=tuple(sorted(adapter.sites, key=lambda site: site.name)))


def run(capsys: Capture, *arguments: str | Path) -> tuple[int, str, str]:
    """Run `ia3 adapters` and return the exit code, stdout and stderr."""
    code = main(["adapters", *map(str, arguments)])
    out, err = capsys.readouterr()
    return code, out, err


def test_folders_go_into_a_store_and_come_out_byte_for_byte(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "pack", tmp_path / "s.ia3", runs)
    assert code == 0
    assert re.fullmatch(rf"{tmp_path}/s\.ia3: 3 adapters of 224 numbers, [\d.]+ kB\n", out)
    assert err == (
        "'theirs' is of a base that is not recorded, as PEFT's folders are: names and widths of their modules fit; "
        "whether it is this base is not known.\n"
    )
    code, out, err = run(capsys, "unpack", tmp_path / "s.ia3", "--output", tmp_path / "out")
    assert (code, out, err) == (0, f"{tmp_path}/out: 3 adapters of {tmp_path}/s.ia3\n", "")
    for name in ("north", "south", "theirs"):
        assert_same(in_order(load_adapter(tmp_path / "out" / name)), in_order(load_adapter(runs / name)))
        for file in FILES if name != "theirs" else FILES[:2]:
            assert (tmp_path / "out" / name / file).read_bytes() == (runs / name / file).read_bytes()


def test_with_a_base_every_adapter_is_compared_with_it(
    runs: Path, home: Path, causal: str, tmp_path: Path, capsys: Capture
) -> None:
    code, _, _ = run(capsys, "pack", tmp_path / "s.ia3", runs, "--base", home / "encoder")
    assert code == 0
    store = Store.open(tmp_path / "s.ia3")
    assert store.plan.source == "family" and store.base["name"] == str(home / "encoder")
    assert store.base["fingerprint"] == load_adapter(runs / "north").record["base"]["fingerprint"]
    code, out, err = run(capsys, "pack", tmp_path / "t.ia3", causal, "--base", home / "encoder")
    assert (code, out) == (2, "")
    code, out, err = run(capsys, "add", tmp_path / "s.ia3", causal, "--base", home / "causal")
    assert (code, out) == (2, "")
    assert f"{tmp_path}/s.ia3 holds adapters of base '{home}/encoder' (fingerprint " in err
    code, out, err = run(
        capsys, "add", tmp_path / "s.ia3", runs / "theirs", "--name", "more", "--base", home / "encoder"
    )
    assert code == 0


def test_an_adapter_of_another_base_is_refused_and_both_are_named(
    store: str, causal: str, home: Path, capsys: Capture
) -> None:
    code, out, err = run(capsys, "add", store, causal)
    assert (code, out) == (2, "")
    assert err.startswith(f"ia3: Adding to {store}: adapter 'adapter-causal': it was trained on base '{home}/causal' (")
    assert f"the store holds adapters of base '{home}/encoder' (fingerprint " in err
    assert Store.open(store).names == ("north", "south")


def test_adding_replacing_renaming_and_removing(store: str, runs: Path, capsys: Capture) -> None:
    assert run(capsys, "add", store, runs / "north", "--name", "Kunde 7")[0] == 0
    assert Store.open(store).names == ("north", "south", "Kunde 7")
    code, out, err = run(capsys, "add", store, runs)
    assert (code, out) == (2, "")
    assert "2 adapters cannot be added, so none was: adapter 'north': the store has one of this name." in err
    code, out, err = run(capsys, "add", store, runs, "--replace")
    assert code == 0 and "4 adapters of 224 numbers" in out and "new: 3 adapters\n" in out
    assert run(capsys, "rename", store, "south", "eu/south")[1] == f"{store}: 'south' is now 'eu/south'\n"
    assert run(capsys, "remove", store, "north", "theirs")[1] == f"{store}: 2 adapters left\n"
    assert Store.open(store).names == ("Kunde 7", "eu/south")
    code, out, _ = run(capsys, "compact", store)
    assert re.fullmatch(rf"{store}: 2 adapters, [\d.]+ kB before, [\d.]+ kB now\n", out)
    code, out, _ = run(capsys, "unpack", store, "eu/south", "--output", runs / "out")
    assert out.splitlines()[1] == "'eu/south' lies in 'eu%2Fsouth'"
    assert_same(load_adapter(runs / "out" / "eu%2Fsouth"), load_adapter(runs / "south"))


def test_the_list_says_what_is_stored_and_long_what_is_recorded(store: str, home: Path, capsys: Capture) -> None:
    code, out, err = run(capsys, "list", store)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert re.fullmatch(
        rf"{store}: {home}/encoder, encoder, fingerprint \w{{12}}; 224 numbers an adapter, [\d.]+ kB", lines[0]
    )
    assert [line.split()[:3] for line in lines[2:]] == [
        ["name", "stored", "error"], ["north", "float32", "0"], ["south", "float32", "0"],
    ]  # fmt: skip
    long = run(capsys, "list", store, "--long")[1].splitlines()
    assert "down, up" in long[3] and "table.csv" in long[3] and "%" in long[3]


def test_the_list_as_json(store: str, home: Path, capsys: Capture) -> None:
    found = json.loads(run(capsys, "list", store, "--json")[1])
    assert (found["store"], found["width"], found["base"]["name"]) == (store, 224, str(home / "encoder"))
    assert found["bytes"] == Path(store).stat().st_size
    assert [(a["name"], a["stored"], a["error"]) for a in found["adapters"]] == [
        ("north", "float32", 0), ("south", "float32", 0),
    ]  # fmt: skip
    long = json.loads(run(capsys, "list", store, "--json", "--long")[1])["adapters"][0]
    assert long["record"]["labels"] == ["down", "up"] and long["head_modules"] == ["classifier"]
    assert long["config"]["peft_type"] == "IA3" and "plan" not in long["record"]


def test_what_was_removed_is_told_by_the_list(store: str, capsys: Capture) -> None:
    run(capsys, "remove", store, "north")
    assert "kB belong to no adapter; 'ia3 adapters compact' gives them back." in run(capsys, "list", store)[1]
    run(capsys, "compact", store)
    assert "belong to no adapter" not in run(capsys, "list", store)[1]
    run(capsys, "remove", store, "south")
    assert len(run(capsys, "list", store)[1].splitlines()) == 3


def test_half_the_size_tells_its_error(runs: Path, tmp_path: Path, capsys: Capture) -> None:
    code, out, _ = run(capsys, "pack", tmp_path / "h.ia3", runs / "north", "--half")
    assert code == 0
    told = re.search(r"float16 of l − 1: 1 adapter, largest error of a vector ([\d.e-]+)\n", out)
    assert told and 0 <= float(told[1]) < 1e-3
    found = json.loads(run(capsys, "add", tmp_path / "h.ia3", runs / "south", "--half", "--json")[1])
    assert [a["stored"] for a in found["adapters"]] == ["float16"]
    assert run(capsys, "list", tmp_path / "h.ia3")[1].splitlines()[3].split()[1] == "float16"


def test_verify_reads_everything_and_names_what_is_damaged(store: str, capsys: Capture) -> None:
    assert run(capsys, "verify", store) == (0, f"{store}: 2 of 2 adapters whole\n", "")
    assert json.loads(run(capsys, "verify", store, "--json")[1]) == {"store": store, "adapters": 2, "damage": []}
    damage(Path(store), "south", "numbers")
    code, out, err = run(capsys, "verify", store)
    assert (code, out) == (2, f"{store}: 1 of 2 adapters whole\ndamaged: 'south', row\n")
    assert err.startswith(f"ia3: Verifying {store}: 1 of 2 adapters damaged. Take another copy of the file, or remove")
    assert json.loads(run(capsys, "verify", store, "--json")[1])["damage"] == [{"name": "south", "part": "row"}]
    code, _, err = run(capsys, "unpack", store, "--output", f"{store}-out")
    assert code == 2 and "Reading adapter 'south'" in err and "its row is damaged" in err


def test_a_store_that_was_cut_off_is_told_by_every_verb_that_opens_it(store: str, capsys: Capture) -> None:
    """The store opened with one adapter fewer, and nobody said so."""
    content = Path(store).read_bytes()
    Path(store).write_bytes(content[: len(content) // 2])
    for verb in (["list", store], ["verify", store], ["unpack", store, "--output", f"{store}.out"], ["compact", store]):
        code, out, err = run(capsys, *verb)
        assert (code, out) == (2, "")
        assert err.startswith(f"ia3: Opening {store}: the file is damaged or cut off. Take another copy of it")


def test_an_adapter_that_is_missing_is_told_and_what_is_there_can_be_written_anew(store: str, capsys: Capture) -> None:
    with closing(sqlite3.connect(store)) as file:
        file.execute("DELETE FROM names WHERE name = 'south'")
        file.commit()
    code, out, err = run(capsys, "list", store)
    assert code == 0 and "south" not in out and err.count("the list of its adapters is not whole") == 1
    code, out, err = run(capsys, "verify", store)
    assert (code, out) == (2, f"{store}: 1 of 1 adapter whole\ndamaged: the list of adapters\n")
    assert "every adapter that is read is whole, and other parts of the file are damaged" in err
    assert run(capsys, "compact", store)[0] == 0
    assert run(capsys, "verify", store) == (0, f"{store}: 1 of 1 adapter whole\n", "")


def test_a_store_of_before_is_converted(tmp_path: Path, capsys: Capture) -> None:
    """Added to, changed and removed from by the ia3 that wrote it, in a format of its own."""
    old, new = tmp_path / "old.ia3", tmp_path / "new.ia3"
    content = (Path(__file__).parents[1] / "adapters" / "before.ia3").read_bytes()
    old.write_bytes(content)
    code, _, err = run(capsys, "list", old)
    assert code == 2
    told = f"it was written by an earlier ia3. Make a store of it: ia3 adapters convert {old} NEW."
    assert err == f"ia3: Opening {old}: {told}\n"
    code, out, _ = run(capsys, "convert", old, new)
    assert code == 0 and out.startswith(f"{new}: 3 adapters, ")
    store = Store.open(new)
    assert store.plan == PLAN and store.base == BASE and store.verify() == ()
    assert store.stored("d")[0].name == "FLOAT16" and 0 < store.stored("d")[1] < 1e-2
    assert_same(store.adapter("b"), small(3))
    assert_same(store.adapter("e"), small(5))
    assert store.names == ("b", "d", "e") and old.read_bytes() == content
    for place in range(0, len(content), 211):
        old.write_bytes(content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :])
        code, _, err = run(capsys, "convert", old, tmp_path / f"{place}.ia3")
        if code == 0:  # a block that is no longer read, or the space between two
            assert_same(Store.open(tmp_path / f"{place}.ia3").adapter("b"), small(3))
        else:
            assert f"Converting {old}: " in err
    code, _, err = run(capsys, "convert", new, tmp_path / "x.ia3")
    assert code == 2 and "this is no packed store of an earlier ia3" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["pack", "{store}", "{runs}"], "Packing {store}: it is there already. Add to it with 'ia3 adapters add'"),
        (
            ["pack", "{new}", "{runs}/notes"],
            "Loading adapter from {runs}/notes: it has no adapter_config.json, got",
        ),
        (
            ["pack", "{new}", "{runs}/nort"],
            "Loading adapter from {runs}/nort: there is no such folder. Did you",
        ),
        (["pack", "{new}", "{runs}", "{copy}"], "Packing {copy}: {runs}/north is called 'north' as well, expected"),
        (["add", "{store}", "{runs}", "--name", "x"], "adapters add: --name names one adapter, got 3. Add them one by"),
        (["add", "{store}", "{runs}/theirs", "--name", ""], "Adding to {store}: adapter '': its name is empty."),
        (["list", "{store}x"], "Opening {store}x: there is no such file. Did you mean 's.ia3'?"),
        (["remove", "{store}", "nort"], "Looking up adapter 'nort': {store} has no such name. Did you mean 'north'?"),
        (
            ["rename", "{store}", "north", "south"],
            "Renaming adapter 'north' to 'south' in {store}: the store has one of",
        ),
        (
            ["unpack", "{store}", "x", "--output", "{new}"],
            "Looking up adapter 'x': {store} has no such name. Known",
        ),
        (
            ["unpack", "{store}", "--output", "{runs}"],
            "Unpacking into {runs}: 'north', 'south' are there already",
        ),
        (["unpack", "{store}"], "adapters unpack: the following arguments are required: --output."),
        (
            ["pakc", "{store}"],
            "adapters: there is no verb 'pakc'. Did you mean 'pack' or 'unpack'? See 'ia3 adapters --",
        ),
        ([], "adapters: the following arguments are required: VERB. See 'ia3 adapters --help'."),
        (
            ["--half", "pack"],
            "adapters: --half stands before the verb, expected it behind: ia3 adapters VERB",
        ),
        (["list", "{store}", "--half"], "adapters list: there is no option '--half'."),
        (["list", "{store}", "--lnog"], "adapters list: there is no option '--lnog'. Did you mean '--long'?"),
        (["list", "{store}", "more"], "adapters list: 'more' is one argument too many."),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str], told: str, store: str, runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    shutil.copytree(runs / "north", tmp_path / "more" / "north")
    places = {"store": store, "runs": str(runs), "new": str(tmp_path / "new"), "copy": str(tmp_path / "more/north")}
    code, out, err = run(capsys, *(argument.format(**places) for argument in arguments))
    assert (code, out) == (2, "")
    assert err.startswith(f"ia3: {told.format(**places)}") and err.count("\n") == 1
    assert Store.open(store).names == ("north", "south")
    assert not (tmp_path / "new").exists()


def test_unpacking_over_what_is_there_is_asked_for(store: str, runs: Path, capsys: Capture) -> None:
    (runs / "south" / "adapter_config.json").unlink()
    assert run(capsys, "unpack", store, "--output", runs, "--overwrite")[0] == 0
    assert_same(load_adapter(runs / "south"), load_adapter(runs / "north"))


def test_a_half_written_folder_among_others_is_told_and_nothing_is_packed(
    runs: Path, tmp_path: Path, capsys: Capture
) -> None:
    (runs / "south" / "adapter_config.json").unlink()
    code, out, err = run(capsys, "pack", tmp_path / "s.ia3", runs)
    assert (code, out) == (2, "") and "adapter_config.json is missing" in err and "adapter 'south': " in err
    assert not (tmp_path / "s.ia3").exists()


def test_a_folder_given_twice_is_one_adapter(runs: Path) -> None:
    assert list(find_folders([str(runs / "north"), str(runs)])) == ["north", "south", "theirs"]
    with pytest.raises(AdapterError, match="expected another name"):
        find_folders([str(runs / "north"), str(shutil.copytree(runs / "north", runs / "deep" / "north"))])


@pytest.mark.parametrize(
    ("name", "folder"),
    [("a b", "a b"), ("客户", "客户"), ("a/b", "a%2Fb"), ("..", "%2E%2E"), ("100%", "100%25"), ("a\n", "a%0A")],
)
def test_a_name_that_no_folder_can_have_is_written_another_way(name: str, folder: str) -> None:
    assert folder_name(name) == folder


def test_help_names_the_verbs_and_each_has_its_own(capsys: Capture) -> None:
    code, out, _ = run(capsys, "--help")
    assert code == 0 and all(f"  {verb.name} " in out and verb.summary in out for verb in adapters.VERBS)
    for verb in adapters.VERBS:
        code, out, _ = run(capsys, verb.name, "--help")
        assert code == 0 and out.startswith(f"usage: ia3 adapters {verb.name} {verb.usage}\n")
        for example in verb.examples:
            assert example.startswith(f"ia3 adapters {verb.name} ")


def test_examples_in_the_help_are_read() -> None:
    for verb in (adapters.VERB, *adapters.VERBS):
        for example in verb.examples:
            words = example.split(" > ")[0].split()
            if "--help" not in words:
                assert read_arguments(adapters.VERB, words[2:]).verb.name == f"adapters {words[2]}"


def test_what_reads_no_vectors_imports_no_torch(store: str) -> None:
    code = (
        "import sys; from ia3.cli.main import main; s = sys.argv[1]\n"
        "for words in (['--help'], ['list', s, '--long'], ['rename', s, 'north', 'n'], ['remove', s, 'n'],"
        " ['verify', s], ['compact', s]):\n"
        "    assert main(['adapters', *words]) == 0, words\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'safetensors') if m in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, store], capture_output=True, text=True, check=True)
    assert done.stderr == "[]\n"
    assert Store.open(store).names == ("south",)
