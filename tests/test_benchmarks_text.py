"""Fairer text models: twins, and a quick run on made sentences, without a pretrained model."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np
import pandas as pd
import pytest

from benchmarks import _runner
from benchmarks.experiments import _text_data, text
from benchmarks.experiments._text_heads import FAIRNESS, JOINT, UTILITY
from benchmarks.experiments._text_twins import AXES, perturb, twins
from skinfluence.methods import METHODS


@pytest.mark.parametrize(
    ("axis", "sentence", "twin"),
    [
        ("gender", "He gave her his book.", "She gave him her book."),
        ("gender", "HER book is hers, and I saw her.", "HIS book is his, and I saw him."),
        ("gender", "The book is his.", "The book is hers."),
        ("gender", "Mary saw herself; Mr. X's wife is a waiter.", "John saw himself; Ms. X's husband is a waitress."),
        ("gender", "The Father Brown stories are old.", "The Father Brown stories are old."),
        ("ethnicity", "A black man drove a black car.", "A white man drove a black car."),
        ("ethnicity", "An Italian lawyer met a Nigerian.", "An Ethiopian lawyer met a British."),
        ("ethnicity", "An American met an African-American.", "A Mexican met an Asian-American."),
        ("ethnicity", "They learn French.", "They learn French."),
        ("religion", "The Muslims left the mosque.", "The Christians left the church."),
        ("age", "A 44-year-old man, aged 44, has 44 cars.", "A 79-year-old man, aged 79, has 44 cars."),
        ("age", "Young people buy old houses.", "Old people buy old houses."),
        ("name", "The bill was paid in Lake Mary.", "The bill was paid in Lake Mary."),
    ],
)  # fmt: skip
def test_a_twin_changes_one_thing(axis, sentence, twin):
    assert perturb((sentence,), axis) == (twin,)


def test_names_are_changed_alike_in_both_sentences_and_stay_apart():
    first, second = twins(["John and Peter met Mary.", "Peter met John."])["name"]
    john, _, peter, _, mary = first.rstrip(".").split()
    assert second == f"{peter} met {john}."
    assert len({john, peter, mary, "John", "Peter", "Mary"}) == 6


def test_a_row_without_words_of_an_axis_has_no_twin_on_it():
    assert twins(["The weather is fine.", "It rains."]) == {}
    assert list(twins(["She is a Muslim."])) == ["gender", "religion"]


@pytest.mark.parametrize("axis", AXES)
def test_what_is_no_word_of_an_axis_stays(axis):
    odd = "  Ünïcode — 3.5 % of  it's\t“fine”\n"
    assert perturb((odd,), axis) == (odd,)


@pytest.fixture
def data_home(tmp_path):
    """Made sentences in the form of RTE, CoLA and CrowS-Pairs."""
    (tmp_path / "glue").mkdir()
    rng = np.random.default_rng(0)
    people, things = ["Mary", "John", "he", "she", "the man", "a boy"], ["a dog", "the sun", "a car", "rain"]

    def write(name: str, n: int, columns: list[str]) -> None:
        label = rng.integers(2, size=n)
        made = {
            column: [
                f"{rng.choice(people)} {'likes' if one else 'lost'} {rng.choice(things)} {k}"
                for k, one in enumerate(label)
            ]
            for column in columns
        }
        pd.DataFrame(made).assign(label=label).to_csv(tmp_path / "glue" / f"{name}.csv.gz", index=False)

    for part, n in (("train", 80), ("dev", 48)):
        write(f"rte_{part}", n, ["sentence1", "sentence2"])
        write(f"cola_{part}", n, ["sentence"])
    pairs = pd.DataFrame({"sent_more": [f"women like {k}" for k in range(12)], "sent_less": ["men do"] * 12})
    pairs.to_csv(tmp_path / "glue" / "crows_pairs.csv.gz", index=False)
    return tmp_path


def test_development_rows_are_cut_in_halves_with_their_twins(data_home):
    task = _text_data.load_task("rte", data_home)
    val, test = task.halves(0)
    assert sorted([*val, *test]) == list(range(48))
    assert not np.array_equal(val, task.halves(1)[0])
    of_val, of_test = (_text_data.of_rows(task.twins, rows) for rows in (val, test))
    assert len(of_val) + len(of_test) == len(task.twins)
    assert {task.twins[i].row for i in of_val} <= set(val)
    assert task.shares()["any"] == len({twin.row for twin in task.twins}) / 48


def test_a_quick_run_needs_no_pretrained_model_and_says_so(data_home, tmp_path):
    pytest.importorskip("skorch")
    pytest.importorskip("matplotlib")
    result = _runner.run("text", quick=True, data_home=str(data_home))
    assert "tiny encoder with random weights" in result["about"]
    assert "no pretrained model" in result["about"]
    rows = {(row["task"], row["method"], row["objective"]): row for row in result["rows"]}
    baselines = set(text.heads.BASELINES) - (set() if find_spec("cleanlab") else {text.heads.CLEANLAB})
    selfish = {(name, "self") for name in text.heads.SELF}
    by_objective = {(name, objective) for name in ("ip", "ekfac") for objective in (UTILITY, FAIRNESS, JOINT)}
    alone = {(name, "") for name in baselines} | selfish | {(text.heads.NEIGHBOURS, UTILITY)}
    assert {row[1:] for row in rows if row[0] == "rte"} == by_objective | alone
    on_crows = {("ip", text.heads.CROWS), ("ip", text.heads.JOINT_CROWS)}
    assert {row[1:] for row in rows if row[0] == "cola"} == by_objective | alone | on_crows
    kept = rows["rte", text.heads.NONE, ""]
    assert kept["removed"]["mean"] == 0
    for objective in (UTILITY, FAIRNESS, JOINT):
        assert rows["rte", "ip", objective]["removed"]["mean"] == pytest.approx(0.05)
        assert 0 <= rows["rte", "ip", objective]["fair"]["mean"] <= 1
    assert rows["cola", "ip", text.heads.JOINT_CROWS]["fair_crows"] is not None
    assert kept["fair_crows"] is None
    assert [row["engine"] for row in result["times"]] == ["forward_math", "forward"] * 2
    assert {row["rows"] for row in result["whole_agreement"]} == {40, 60}
    of_whole = [(row["task"], row["method"], row["objective"]) for row in result["tuned_rows"]]
    alone = [(name, "") for name in text.heads.BASELINES if name in baselines]
    of_ip = [("ip", UTILITY), ("ip", FAIRNESS), ("ip", JOINT), ("ip, last layer", JOINT)]
    others = [(name, objective) for name in ("ip_ensemble", "datainf") for objective in (FAIRNESS, JOINT)]
    assert of_whole == [
        (task, *line)
        for task, lines in (("cola", [*of_ip, *others]), ("rte", [("ip", JOINT)]))
        for line in [*alone, *lines]
    ]
    by_ip = next(row for row in result["tuned_rows"] if row["method"] == "ip")
    assert by_ip["removed"]["mean"] == pytest.approx(0.05)
    assert by_ip["seconds"]["mean"] > 0

    means = {row["removed by"]: row["runs"] for row in text.tables(result)["Objectives, over methods"]}
    assert means[UTILITY] == means[JOINT] == 2  # ip and ekfac: what has no fairness is not in a mean beside fairness
    assert means.keys() >= baselines - {text.heads.NONE}

    _, made = _runner.save(result, tmp_path)
    assert "text (quick)" in made.read_text(encoding="utf-8")
    for name in ("text", "text_whole"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000


def test_every_method_that_needs_no_refits_has_a_line_on_the_heads():
    scored = {*text.heads.METHODS, text.heads.NEIGHBOURS, *(method for _, method in text.heads.SELF.values())}
    left_out = set(METHODS) - scored
    assert left_out == {"cg", "leave_one_out", "data_shapley", "beta_shapley"}
    assert all(f'"{name}"' in (text.__doc__ or "") for name in left_out)


def test_stored_tables_of_the_heads_have_all_methods_and_baselines():
    result = _runner.load("text")
    assert len(result["seeds"]) >= 5
    made = text.tables(result)
    wanted = {*text.heads.BASELINES, *text.heads.METHODS, text.heads.NEIGHBOURS, *text.heads.SELF}
    for title in _text_data.TASKS.values():
        assert {row["method"] for row in made[f"{title}, fixed encoder"]} == wanted
    assert set(text.heads.BASELINES[1:]) < {row["removed by"] for row in made["Objectives, over methods"]}


def test_stored_tables_of_the_whole_encoder_have_noise_beside_removal():
    made = text.tables(_runner.load("text"))
    lines = {
        task: {(row["method"], row["objective"]) for row in made[f"{task}, whole encoder"]}
        for task in _text_data.TASKS.values()
    }
    for found in lines.values():
        assert {(name, None) for name in text.heads.BASELINES} | {("ip", JOINT)} <= found
    of_cola = ("ip, last layer", "ip_ensemble", "datainf")
    assert {(name, JOINT) for name in of_cola} <= lines["CoLA"]
    # As the documentation says of each seed.
    rows = [row for row in _runner.load("text")["tuned_rows"] if row["task"] == "cola"]
    gaps = {(row["method"], row["objective"]): np.array(row["gap"]["seeds"]) for row in rows}
    for noise in (text.heads.NONE, text.heads.RESTART, text.heads.RANDOM):
        assert (gaps["ip", FAIRNESS] < gaps[noise, ""]).all()
        assert (gaps["datainf", FAIRNESS] < gaps[noise, ""]).all()
        assert (gaps[text.heads.CLEANLAB, ""] < gaps[noise, ""]).all()
    assert not (gaps["ip_ensemble", FAIRNESS] < gaps[text.heads.RANDOM, ""]).all()
    seeds = {row["task"]: row["seeds"] for row in made["Whole encoder: how it was fine-tuned"]}
    assert min(seeds.values()) >= 3


@pytest.fixture
def of_whole(data_home):
    """A tiny encoder, made sentences, and how the whole of it is tuned."""
    pytest.importorskip("skorch")
    from benchmarks.experiments import _text_tuned as tuned
    from benchmarks.experiments._text_encoder import Tiny

    return tuned, Tiny(), _text_data.load_task("cola", data_home), tuned.QUICK["cola"]


def test_batches_of_like_length_hold_every_row_once_and_little_padding(of_whole):
    torch = pytest.importorskip("torch")
    tuned, *_ = of_whole
    lengths = np.random.default_rng(0).integers(4, 40, size=203)
    torch.manual_seed(0)
    drawn = tuned.LikeLengths(lengths, 8)
    first, second = list(drawn), list(drawn)
    assert sorted(first) == list(range(203))
    assert first != second

    def padded(order):
        return sum(8 * lengths[order[start : start + 8]].max() for start in range(0, 200, 8))

    assert padded(first) < 0.8 * padded(list(range(203)))


def test_what_is_trimmed_off_a_batch_changes_no_prediction(of_whole):
    tuned, encoder, task, recipe = of_whole
    drawn, _ = tuned.draw(task, encoder, recipe, 0)
    net = tuned.fine_tuned(encoder, recipe, drawn.train, drawn.y, 0)
    width = drawn.dev["attention_mask"].sum(axis=1).max()
    assert width < recipe.length  # there is something to trim
    plain = net.module_.eval()(
        **{name: net.module_.head.weight.new_tensor(part).long() for name, part in drawn.dev.items()}
    )
    wanted = plain.softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(net.predict_proba(drawn.dev), wanted, atol=1e-5)
    np.testing.assert_allclose(tuned.InOrderOfLength(net).predict_proba(drawn.dev), wanted, atol=1e-5)


def test_rows_are_left_out_of_the_nets_that_predict_them(of_whole, monkeypatch):
    from benchmarks._stored_parts import Parts

    tuned, encoder, task, recipe = of_whole
    drawn, _ = tuned.draw(task, encoder, recipe, 0)
    n = len(drawn.y)
    drawn.train["row"] = np.arange(n)
    predicted = []

    class Net:
        def __init__(self, X, y):
            self.rows = X["row"]
            np.testing.assert_array_equal(y, drawn.y[self.rows])

        def predict_proba(self, X):
            assert not np.intersect1d(self.rows, X["row"]).size
            assert len(self.rows) + len(X["row"]) == n
            predicted.append(X["row"])
            return np.column_stack([1 - X["row"] / n, X["row"] / n])

    monkeypatch.setattr(tuned, "fine_tuned", lambda encoder, recipe, X, y, seed: Net(X, y))
    found = tuned._Seed(drawn, encoder, recipe, 0, Parts(None), "seed", {})._out_of_fold()
    assert len(predicted) == tuned.N_FOLDS
    assert sorted(np.concatenate(predicted)) == list(range(n))
    np.testing.assert_allclose(found[:, 1], np.arange(n) / n)  # in the rows' own order


def test_a_seed_of_the_whole_encoder_is_taken_from_its_parts(of_whole, tmp_path, monkeypatch):
    from benchmarks._stored_parts import Parts

    tuned, encoder, task, recipe = of_whole
    first = tuned.one_seed(task, encoder, recipe, 0, Parts(tmp_path))
    monkeypatch.setattr(tuned, "fine_tuned", None)
    monkeypatch.setattr(tuned, "influence_scores", None)
    assert tuned.one_seed(task, encoder, recipe, 0, Parts(tmp_path)) == first
    with pytest.raises(TypeError):  # another recipe is another run
        tuned.one_seed(task, encoder, tuned.replace(recipe, lr=1.0), 0, Parts(tmp_path))


def test_a_run_that_was_cut_off_goes_on(tmp_path):
    from benchmarks._stored_parts import Parts

    made = []

    def make() -> dict[str, np.ndarray]:
        made.append(1)
        return {"X": np.arange(3.0)}

    for _ in range(2):
        parts = Parts(tmp_path)
        np.testing.assert_array_equal(parts.arrays("x", make)["X"], [0, 1, 2])
        assert parts.rows("y", lambda: [{"a": 1}]) == [{"a": 1}]
        assert set(parts.seconds) == {"x", "y"}
    assert len(made) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.npz", "y.json"]
    Parts(None).arrays("x", make)
    assert len(made) == 2


def test_names_stand_away_from_a_neighbour_at_their_height():
    from benchmarks.experiments._text_figures import _names_left

    points = np.array([[0.5, 0.1], [0.51, 0.1], [0.6, 0.3]])
    assert _names_left(points, (0.5, 0.1), False)  # the neighbour is to its right
    assert not _names_left(points, (0.51, 0.1), True)
    assert [_names_left(points, (0.6, 0.3), otherwise) for otherwise in (True, False)] == [True, False]
