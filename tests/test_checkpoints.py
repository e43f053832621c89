"""A suite of checkpoints: what is found, its compute by the textbook's count, and what a second run leaves alone."""

import jax
import pytest

from relscale import cli
from relscale.core import UserError
from relscale.eval import checkpoints
from relscale.eval.checkpoints import find_checkpoints, tokens_in_name
from relscale.model.decoder import init_model
from relscale.model.hub import save_hf
from relscale.plan.spec import ModelSpec
from relscale.tables import read_folder
from relscale.text.tokenizer import train_tokenizer

SPEC = ModelSpec(32, 1, 2, 1, 16, 64, vocab=280)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("suite")
    tokenizer = train_tokenizer(["The loch lay still, and the burn ran down the brae. "] * 9, 280)
    for seed, name in enumerate(("small/step0010", "small/step20", "other-4M-tokens")):
        model = init_model(SPEC, key=jax.random.key(seed))
        save_hf(model, place / "suite" / name, tokenizer=tokenizer, max_positions=32)
    for group, text in (("loch", "The loch lay still. " * 9), ("burn", "The burn ran down.")):
        (place / "texts" / group).mkdir(parents=True)
        (place / "texts" / group / "a.txt").write_text(text)
    return place


@pytest.mark.parametrize(
    "name, tokens",
    [("stage2-ingredient1-step1000-tokens5B", 5e9), ("step143000", 143000 * 2**21), ("x-0.5t-tokens", 5e11),
     ("tokens_250M", 2.5e8), ("SmolLM2-135M", None), ("tokens5Bx", None), ("step0", None)],
)  # fmt: skip
def test_tokens_of_names(name, tokens):
    assert tokens_in_name(name, 2**21) == tokens


def test_one_command_scores_a_suite_and_skips_what_is_there(place, monkeypatch, capsys):
    command = f"eval-suite {place / 'suite'} --tasks text --items {place / 'texts'} --tokens-per-step 1000 --out {place / 'out'} --seq-len 16"
    assert cli.main(command.split()) == 0
    runs, scores = read_folder(place / "out")
    assert set(runs["run_id"]) == {"small@step0010", "small@step20", "other-4M-tokens"}
    assert runs.set_index("run_id")["num_tokens"].to_dict() == {
        "small@step0010": 10_000, "small@step20": 20_000, "other-4M-tokens": 4_000_000,
    }  # fmt: skip
    # forward: 2 FLOPs a weight of the products, and 4 S H d + 3 S H of attention; training three times as much
    weights = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 32 * 280
    one = 2 * weights + 4 * 16 * 32 + 3 * 16 * 2
    flops = runs.set_index("run_id").loc["small@step20", "train_flops"]
    assert flops == pytest.approx(3 * one * 20_000)
    assert scores.groupby("run_id").ngroups == 3 and set(scores["group"]) == {"loch", "burn", "all"}

    def opened(*_, **__):
        raise AssertionError("opened again")

    monkeypatch.setattr(checkpoints, "open_model", opened)
    assert cli.main(command.split()) == 0
    assert "3 runs" in capsys.readouterr().out
    assert cli.main([*command.replace("--seq-len 16", "").split()][:3]) == 2  # a slip is a line


def test_what_nothing_tells_is_refused_before_anything_is_scored(place, tmp_path):
    with pytest.raises(UserError, match="compute is unknown"):
        find_checkpoints(place / "suite")
    known = find_checkpoints(place / "suite", tokens={"small": 7, "other-4M-tokens": 9})
    assert [c.num_tokens for c in known] == [9, 7, 7]
    with pytest.raises(UserError, match="no checkpoint in it"):
        find_checkpoints(tmp_path)
    hub = find_checkpoints("hf:owner/toy-70m", revisions=["step1000"], tokens_per_step=2**21)
    assert (hub[0].run_id, hub[0].revision, hub[0].folder) == (
        "toy-70m@step1000",
        "step1000",
        "toy-70m=step1000",
    )
