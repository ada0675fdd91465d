import base64
import io
import json
import pathlib
import re
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from resnet_jax.__main__ import main
from resnet_jax.config import default_config, to_dict
from resnet_jax.errors import UserError
from resnet_jax.lab.report.document import Heading, Table, Text, to_html, to_markdown
from resnet_jax.lab.report.page import page
from resnet_jax.lab.report.published import read_published
from resnet_jax.lab.report.runs import Row, Study, find, read_run
from resnet_jax.lab.report.studies import draw_learning_curves

TOP1 = {"plain-20": (0.90, 0.91, 0.92), "residual-20": (0.91, 0.9125, 0.915)}


def write_run(folder, top1=0.9, epochs=10, source="cifar10", **fields):
    config = default_config()
    config.model.name = "cifar_resnet20"
    config.data.source = source
    for name, value in fields.items():
        config.training[name] = value
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(to_dict(config)))
    lines = []
    for epoch in range(1, epochs + 1):
        share = epoch / epochs
        lines.append({"step": epoch, "epoch": epoch, "split": "train", "loss": 2.0 - share, "top1": share * 0.9})
        lines.append({"step": epoch, "epoch": epoch, "split": "test", "loss": 1.0, "top1": share * (top1 or 0.5)})
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if top1 is not None:
        summary = dict(top1=top1, params=1234567, multiply_adds=40_600_000, wall_seconds=60.0, eval_examples=10_000)
        summary |= dict(hardware="1 x a machine", versions={"jax": "0.10.2"})
        (folder / "summary.json").write_text(json.dumps(summary))


@pytest.fixture
def sweep(tmp_path):
    """The folder of a sweep of two variants with three runs each."""
    folder = tmp_path / "study"
    variants = [
        dict(label=label, series=label[:-3], x=20, published=name, fields={"model.overrides.shortcut": "A"})
        for label, name in (("plain-20", ""), ("residual-20", "cifar_resnet20"))
    ]
    told = dict(title="A study", question="Why?", source="He et al. 2015 (arXiv), figure 1", finding="So.")
    folder.mkdir()
    (folder / "sweep.json").write_text(json.dumps(told | dict(axis="layers", seeds=[0, 1, 2], variants=variants)))
    for label, accuracies in TOP1.items():
        for seed, top1 in enumerate(accuracies):
            write_run(folder / label / f"seed{seed}", top1, seed=seed)
    return folder


def tables(text):
    """The cells of each row of a Markdown text's tables, by the first cell."""
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in text.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in rows}


def test_a_study_has_means_deviations_and_what_was_published(sweep, capsys):
    assert main(["report", str(sweep)]) == 0
    shown = capsys.readouterr().out
    rows = tables(shown)
    assert rows["plain-20"][:5] == ["1,234,567", "40.6 M", "3", "9.00 ± 1.00", "1 ± 0"]
    assert rows["residual-20"][3] == "8.75 ± 0.25"
    assert rows["residual-20"][5:8] == ["8.75", "+0.00", "none published"]
    assert "1 x a machine; JAX 0.10.2" in shown and "He et al. 2015 table 6" in shown


def test_whether_a_difference_is_within_the_published_spread(tmp_path):
    for top1, said in ((0.9339 + 0.0031, "yes"), (0.9339 - 0.0033, "no")):
        folder = tmp_path / said
        told = dict(title="T", question="Q?", source="S", finding="F.", axis="layers", seeds=[0])
        variant = dict(label="a", series="", x=110, published="cifar_resnet110", fields={})
        folder.mkdir()
        (folder / "sweep.json").write_text(json.dumps(told | dict(variants=[variant])))
        write_run(folder / "a" / "seed0", top1)
        text = to_markdown(page(find([folder], []), []), "")
        assert tables(text)["a"][7] == said


def test_runs_of_other_configs_and_damaged_ones_are_left_out_and_reported(sweep, capsys):
    write_run(sweep / "plain-20" / "seed3", 0.1, seed=3, batch_size=64)
    (sweep / "residual-20" / "seed0" / "metrics.jsonl").write_text("{\n{}\n")
    (sweep / "residual-20" / "seed1" / "summary.json").write_text("[")
    (sweep / "residual-20" / "seed2" / "config.json").write_text('{"model": 3}')
    assert main(["report", str(sweep)]) == 0
    told = capsys.readouterr()
    assert tables(told.out)["plain-20"][3] == "9.00 ± 1.00"
    assert "seed3 is left out: its training.batch_size is not that of the sweep's other runs" in told.err
    assert "line 1" in told.err and "summary.json is damaged" in told.err and "seed2 holds no run" in told.err
    assert told.err.strip() in re.sub(r"\. (?=\S)", ".\n", told.out)


def test_runs_that_are_not_done_are_counted_and_not_averaged(sweep, capsys):
    (sweep / "plain-20" / "seed0" / "summary.json").unlink()
    (sweep / "plain-20" / "seed1" / "summary.json").unlink()
    (sweep / "plain-20" / "seed1" / "diverged.json").write_text("{}")
    assert main(["report", str(sweep)]) == 0
    row = tables(capsys.readouterr().out)["plain-20"]
    assert row[2:4] == ["1, 1 unfinished, 1 diverged", "8.00"]


def test_the_page_needs_nothing_beside_it(sweep, tmp_path, capsys):
    write_run(tmp_path / "alone", None)
    page = tmp_path / "pages" / "report.html"
    assert main(["report", str(sweep), str(tmp_path / "alone"), f"--out={page}"]) == 0
    html = page.read_text()
    assert html.count('src="data:image/png;base64,') == 2 and 'src="http' not in html and "<script" not in html
    markdown = page.with_suffix(".md").read_text()
    assert "unfinished" in markdown
    linked = re.findall(r"\]\((\S+)\)", markdown)
    assert len(linked) == 2 and all((page.parent / file).read_bytes().startswith(b"\x89PNG") for file in linked)


def test_the_imagenet_table_has_a_row_for_each_published_result_and_ours_beside_it(tmp_path, capsys):
    write_run(tmp_path / "r", 0.76, source="tfds:imagenet2012")
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    config["model"] |= {"name": "resnet50", "overrides": {"zero_init_last": False}}  # as it is anyway
    (tmp_path / "r" / "config.json").write_text(json.dumps(config))
    assert main(["report", str(tmp_path)]) == 0
    rows = tables(capsys.readouterr().out)
    assert rows["resnet50"] == ["76.13", "", "90", "torchvision 0.28 IMAGENET1K_V1", "76.00", "1", "10", "-0.13"]
    assert rows["resnet50 zero_init_last=False"][4:] == ["76.00", "1", "10", "-0.16"]
    assert rows["resnet101"][4:] == rows["resnet50 zero_init_last=True"][4:] == ["", "", "", ""]
    assert {row.key for row in read_published() if row.dataset == "imagenet"} <= set(rows)


def test_a_report_has_no_published_table_of_data_that_no_run_is_of(tmp_path, capsys):
    write_run(tmp_path / "r", source="digits")
    assert main(["report", str(tmp_path)]) == 0
    assert "top-1" not in capsys.readouterr().out.lower().replace("top-1 error", "")


def test_sweeps_of_one_name_in_two_folders_have_figures_of_their_own(sweep, tmp_path, capsys):
    shutil.copytree(sweep, tmp_path / "elsewhere" / sweep.name)
    for file in (tmp_path / "elsewhere").rglob("summary.json"):
        file.write_text(json.dumps(json.loads(file.read_text()) | {"top1": 0.5}))
    out = tmp_path / "page.html"
    assert main(["report", str(sweep), str(tmp_path / "elsewhere"), f"--out={out}"]) == 0
    linked = re.findall(r"\]\((\S+)\)", out.with_suffix(".md").read_text())
    assert len(set(linked)) == len(linked) == 4
    shown = re.findall('base64,([^"]+)', out.read_text())
    assert [base64.b64decode(picture) for picture in shown] == [(tmp_path / file).read_bytes() for file in linked]


def test_the_curves_of_a_run_with_one_evaluation_show_it(tmp_path):
    write_run(tmp_path / "r")
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    once = [next(record for record in records if record["split"] == split) for split in ("train", "test")]
    (tmp_path / "r" / "metrics.jsonl").write_text(
        "".join(json.dumps(record | {"epoch": 1.0}) + "\n" for record in once)
    )
    run = read_run(tmp_path / "r")
    shown = Study(tmp_path, "", "", "", "", "", [Row("r", "digits", None, "", [run])])
    with_points = np.asarray(Image.open(io.BytesIO(draw_learning_curves(shown))).convert("RGB"), int)
    blue = np.abs(with_points - (0x1B, 0x4F, 0x8A)).sum(-1) < 30
    half = blue.shape[1] // 2
    assert blue[:, :half].sum() > 30 < blue[:, half : half + 400].sum()


def test_one_figure_is_one(tmp_path, capsys):
    write_run(tmp_path / "r")
    assert main(["report", str(tmp_path / "r"), f"--out={tmp_path / 'page.html'}"]) == 0
    assert "page.md and 1 figure are written." in capsys.readouterr().out


def test_measurements_are_drawn_from_their_records_and_damaged_ones_named(tmp_path, capsys):
    write_run(tmp_path / "run")
    (tmp_path / "run" / "analysis").mkdir()
    network = dict(name="r20", whole=dict(error=0.1), without=[dict(block="b", place=1, keeps_shape=True, error=0.2)])
    record = dict(what="deletion", settings={}, networks=[network | dict(blocks=1)])
    record["networks"][0]["without"][0]["loss"] = record["networks"][0]["whole"]["loss"] = 1.0
    (tmp_path / "run" / "analysis" / "deletion.json").write_text(json.dumps(record))
    (tmp_path / "run" / "analysis" / "paths.json").write_text(json.dumps(record | dict(what="paths")))
    assert main(["report", str(tmp_path), f"--out={tmp_path / 'page.html'}"]) == 0
    assert "paths.json is left out" in capsys.readouterr().err
    assert "deletion (r20)" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page_figures" / "run_analysis_deletion.png").exists()


def test_the_published_tables_are_printed_with_sources(capsys):
    assert main(["report", "--published"]) == 0
    rows = tables(capsys.readouterr().out)
    assert rows["resnet50"] == ["76.13", "", "90", "torchvision 0.28 IMAGENET1K_V1"]
    assert {row.key for row in read_published()} <= set(rows)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "no runs are named"),
        (["nowhere"], "there is no folder nowhere"),
        (["."], "there is no run in ."),
        (["bad"], "sweep.json is damaged"),
        ([".", "--out=page.pdf"], "name a file that ends with .html"),
    ],
)
def test_wrong_use_is_refused_in_a_sentence(arguments, said, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if arguments == ["bad"]:
        pathlib.Path("bad").mkdir()
        pathlib.Path("bad", "sweep.json").write_text('{"variants": 3}')
        assert main(["report", *arguments]) == 0
    else:
        assert main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_texts_are_escaped():
    parts = [Heading("<b>", 1), Text("a & b"), Table(("x", "#y"), [("<i>|", "1")])]
    assert "<b>" not in to_html(parts, "t") and "&lt;i&gt;|" in to_html(parts, "t")
    assert "&lt;i>\\|" in to_markdown(parts, "") and "<" not in to_markdown(parts, "")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@hypothesis.given(data=st.data())
@hypothesis.settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_whatever_is_in_the_files_of_runs_there_is_a_page_or_a_sentence(sweep, data, monkeypatch):
    """A value anywhere in one of the files is replaced by any other; figures are drawn in a few cases only."""
    drawn = data.draw(st.integers(0, 9)) == 0
    if not drawn:
        monkeypatch.setattr("resnet_jax.lab.report.page.draw_results", lambda study, known: b"")
        monkeypatch.setattr("resnet_jax.lab.report.page.draw_learning_curves", lambda study: b"")
    run = sweep / "plain-20" / "seed0"
    file = data.draw(
        st.sampled_from([sweep / "sweep.json", run / "config.json", run / "summary.json", run / "metrics.jsonl"])
    )
    kept = file.read_text()
    lines = kept.splitlines() if file.suffix == ".jsonl" else [kept]
    whole = json.loads(lines[-1])
    here = whole
    while True:
        key = data.draw(st.sampled_from(list(here) if isinstance(here, dict) else list(range(len(here)))))
        if isinstance(here[key], dict | list) and here[key] and data.draw(st.booleans()):
            here = here[key]
        else:
            here[key] = data.draw(JSON)
            break
    file.write_text("\n".join([*lines[:-1], json.dumps(whole)]))
    try:
        parts = page(find([sweep], notes := []), notes)
        assert to_html(parts, "") and to_markdown(parts, "")
    except UserError as error:
        assert str(error)
    finally:
        file.write_text(kept)
