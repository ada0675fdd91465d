"""What docs/lessons.md and docs/analysis.md conclude from records, against the records."""

import functools
import json
import math
import pathlib
import re
import statistics
import zipfile

import pytest

from resnet_jax import list_models

ROOT = pathlib.Path(__file__).parents[1]
ANALYSIS = ROOT / "results" / "analysis"


def page(name):
    return re.sub(r"\s+", " ", ((ROOT if name == "README.md" else ROOT / "docs") / name).read_text())


def says(*sentences, of="lessons.md"):
    """Hold a page to sentences whose numbers come from the records."""
    for sentence in sentences:
        assert sentence in page(of), f"{of} does not say: {sentence}"


@functools.cache
def archived(file):
    """The files of an archive of results/ by their names."""
    with zipfile.ZipFile(ROOT / "results" / file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


@functools.cache
def runs(study, variant, results="studies"):
    """The records of each run of a variant: its summary and its metrics."""
    files = archived(f"{results}/{study}.zip")
    folders = sorted({name.rpartition("/")[0] for name in files if name.startswith(f"{variant}/seed")})
    read = [
        (
            json.loads(files[f"{folder}/summary.json"]),
            [json.loads(line) for line in files[f"{folder}/metrics.jsonl"].splitlines()],
        )
        for folder in folders
    ]
    assert read
    return read


def losses(study, variant, results="studies"):
    """The mean training loss of the last epoch of each run."""
    means = []
    for _, records in runs(study, variant, results):
        last = max(record["epoch"] for record in records)
        late = [r["loss"] for r in records if r["split"] == "train" and r["epoch"] > last - 1]
        means.append(statistics.mean(late))
    return means


def loss(study, variant, results="studies"):
    return statistics.mean(losses(study, variant, results))


def error(study, variant, results="studies"):
    return statistics.mean(100 * (1 - summary["top1"]) for summary, _ in runs(study, variant, results))


def spread(study, variant):
    return statistics.stdev(losses(study, variant))


def networks(file):
    """The networks of a measurement by name."""
    return {network["name"]: network for network in json.loads((ANALYSIS / file).read_text())["networks"]}


def without(file, name):
    """The error in percent without each block, by its place."""
    return {row["place"]: 100 * row["error"] for row in networks(file)[name]["without"]}


def changing(file, name):
    return {row["place"] for row in networks(file)[name]["without"] if not row["keeps_shape"]}


def ranked(errors):
    """The places of the blocks, the most missed one first."""
    return sorted(errors, key=errors.get, reverse=True)


def test_plain_networks_get_worse_with_depth_and_residual_ones_do_not():
    plain, residual = ([loss("degradation", f"{kind}-{n}") for n in (8, 20, 32, 56)] for kind in ("plain", "residual"))
    assert plain == sorted(plain) and max(residual) < min(plain)
    says(
        f"from {plain[0]:.2f} with 8 layers to {plain[1]:.2f}, {plain[2]:.2f} and {plain[3]:.2f} with 20, 32 and 56",
        f"from {residual[0]:.3f} to {residual[1]:.3f} and {residual[2]:.3f} and is {residual[3]:.3f} with 56",
        f"gets {error('degradation', 'plain-56'):.0f} % of the digits wrong, the residual one "
        f"{error('degradation', 'residual-56'):.0f} %, with the same parameters",
    )
    assert len({runs("degradation", f"{kind}-56")[0][0]["params"] for kind in ("plain", "residual")}) == 1


def test_so_it_is_on_cifar10():
    losses = {
        name: loss("degradation", name, "studies_cifar10")
        for name in ("plain-32", "plain-20", "residual-32", "residual-20")
    }
    errors = {name: error("degradation", name, "studies_cifar10") for name in losses}
    for found in (losses, errors):
        assert found["plain-32"] > found["plain-20"] > found["residual-20"] > found["residual-32"]
    says(
        f"{losses['plain-32']:.3f} where that of 20 layers has {losses['plain-20']:.3f}, and the higher test error, "
        f"{errors['plain-32']:.2f} and {errors['plain-20']:.2f} %",
        f"{losses['residual-32']:.3f} and {losses['residual-20']:.3f}, and {errors['residual-32']:.2f} and "
        f"{errors['residual-20']:.2f} % (published",
    )

    def before(name):
        [(_, records)] = runs("degradation", name, "studies_cifar10")
        return statistics.mean(r["loss"] for r in records if r["split"] == "train" and 71 < r["epoch"] <= 81)

    deep, shallow = before("plain-32"), before("plain-20")
    assert deep - shallow > losses["plain-32"] - losses["plain-20"]
    says(f"the plain ones is wider, {deep:.3f} and {shallow:.3f}, as in the paper's figure 6")


def test_gradients_at_initialization():
    grown = {}
    for name, network in networks("digits/gradients.json").items():
        inputs = list(network["initial"]["inputs"].values())
        assert len(inputs) == 27
        grown[name] = inputs[0] / inputs[-1]
    says(
        f"it even grows {grown['plain56']:,.0f} times from the last of 27 blocks to the first, and that of the "
        f"residual network {grown['resnet56']:.0f} times"
    )
    says(
        f"grows {grown['plain56']:,.0f} times at initialization, the residual one's {grown['resnet56']:.0f}",
        of="analysis.md",
    )
    found = {name: network["initial"]["image"][1] for name, network in networks("digits/correlation.json").items()}
    lags = networks("digits/correlation.json")["resnet56"]["lags"]
    assert round(1 / lags[1]) == 63
    says(
        f"their correlation is {found['plain56']:.2f}, where it is {found['plain20']:.2f} with 20 layers and "
        f"{found['resnet56']:.2f} with 56 layers and shortcuts",
        of="analysis.md",
    )


def test_what_is_lost_without_a_block_on_the_digits():
    plain, residual = without("digits/deletion.json", "plain20"), without("digits/deletion.json", "resnet56")
    first, second, third = ranked(residual)[:3]
    assert (first, second) == (1, 19) and changing("digits/deletion.json", "resnet56") == {10, 19}
    assert len(residual) == 27 and residual[third] < 13
    says(
        f"lost without any: {math.floor(min(plain.values()))} % error and more",
        f"without {sum(each < 5 for each in residual.values())} of its 27 blocks its error stays below 5 %",
        f"only without the first ({residual[1]:.0f} %) and the 19th ({residual[19]:.0f} %), which changes the shape",
    )
    says(
        f"the first one ({residual[1]:.0f} %) and the 19th ({residual[19]:.0f} %), which changes the shape; the other "
        f"that does, the 10th ({residual[10]:.1f} %), is missed less than the 6th ({residual[6]:.1f} %)",
        of="analysis.md",
    )


def test_what_is_lost_without_a_block_on_cifar10():
    file = "degradation_cifar10/deletion.json"
    plain = [*without(file, "plain-20/seed0").values(), *without(file, "plain-32/seed0").values()]
    residual = without(file, "residual-32/seed0")
    assert ranked(residual)[:3] == [11, 15, 6] and changing(file, "residual-32/seed0") == {6, 11}
    assert max(residual) == 15
    says(
        f"layers are lost ({min(plain):.0f} to {max(plain):.0f} % error)",
        f"stays between {min(residual.values()):.0f} and {max(residual.values()):.0f} %",
        f"the block 11, which changes the shape ({residual[11]:.1f} %), then the last one, 15 ({residual[15]:.1f} %), "
        f"and then 6, which changes the shape too ({residual[6]:.1f} %",
    )
    [theirs] = networks("cifar10/deletion.json")
    errors = without("cifar10/deletion.json", theirs)
    assert ranked(errors)[:2] == [1, 2] and not {1, 2} & changing("cifar10/deletion.json", theirs)
    others = [errors[place] for place in errors if place > 2]
    says(
        f"{min(others):.0f} to {max(others):.0f} % with {len(others)} of {len(errors)}, but most without the first "
        f"({errors[1]:.1f} %) and the second ({errors[2]:.1f} %)",
        f"ResNet-32 of {100 * networks('cifar10/deletion.json')[theirs]['whole']['error']:.2f} % error",
    )


def test_what_is_lost_without_several_blocks():
    def means(file):
        [network] = networks(file).values()
        return {row["count"]: 100 * statistics.mean(row["error"]) for row in network["without"]}

    digits, cifar = means("digits/deletion_count.json"), means("cifar10/deletion_count.json")
    some = [digits[count] for count in (1, 4, 7, 10)]
    assert some == sorted(some) and all(80 <= value <= 90 for count, value in digits.items() if count >= 13)
    says(
        "to {:.0f}, {:.0f}, {:.0f} and {:.0f} % without 1, 4, 7 and 10 of 27 blocks".format(*some),
        f"is at {cifar[1]:.0f} % without 1 of 15 and at {cifar[3]:.0f} % without 3",
    )


def test_responses_paths_and_surface():
    found = {name: network["responses"] for name, network in networks("degradation_cifar10/responses.json").items()}

    def smaller(layers):
        residual, plain = found[f"residual-{layers}/seed0"], found[f"plain-{layers}/seed0"]
        return sum(residual[name] < plain[name] for name in plain), len(plain)

    mean = {n: statistics.mean(found[f"residual-{n}/seed0"].values()) for n in (20, 32)}
    (few, all_few), (many, all_many) = smaller(20), smaller(32)
    assert few > all_few / 2 and many > all_many / 2 and mean[32] < mean[20]
    says(
        f"(in {few} of {all_few} layers with 20 layers, in {many} of {all_many} with 32)",
        f"are smaller than those of 20, {mean[32]:.2f} and {mean[20]:.2f}",
    )
    [network] = networks("digits/paths.json").values()
    share = sum(network["share"][3:11])
    assert len(network["share"]) == 28
    says(f"{100 * share:.0f} % of it through those of 3 to 10 of the 27 blocks")
    says(f"Here {100 * share:.0f} % of the gradient comes through paths of 3 to 10 of the 27 blocks", of="analysis.md")
    surface = networks("digits/surface_1d.json")
    at = {name: dict(zip(network["steps"], network["loss"], strict=True)) for name, network in surface.items()}
    says(
        f"the residual network of 56 layers has grown from {at['resnet56'][0.0]:.2f} to {at['resnet56'][0.4]:.2f}, "
        f"that of the plain one from {at['plain56'][0.0]:.1f} to {at['plain56'][0.4]:.0f}"
    )


def test_shortcuts_and_what_may_stand_on_them():
    found = {name: loss("shortcuts", name) for name in ("none", "A", "B", "C")}
    assert found["A"] < found["B"] < found["C"] < found["none"]
    assert 8 * max(found["A"], found["B"]) < found["none"]
    assert all(error("shortcuts", name) < error("shortcuts", "none") for name in "ABC")
    says(
        "A {A:.3f}, B {B:.3f}, C {C:.3f} training loss".format(**found),
        f"better than none, in training loss ({found['none']:.3f}) and in error",
    )
    others = ("constant", "exclusive", "shortcut_only", "projection", "dropout")
    losses = {name: loss("identity", name) for name in ("identity", *others)}
    assert min(losses, key=losses.get) == "identity" and ranked(losses)[-2] == "shortcut_only"
    assert losses["shortcut_only"] - losses["identity"] < spread("identity", "identity")
    assert min(losses["constant"], losses["projection"]) > 5 * losses["identity"]
    errors = {name: error("identity", name) for name in losses}
    assert ranked(errors)[:2] == ["dropout", "exclusive"]
    says(
        f"dropout on the shortcut has the highest error ({errors['dropout']:.0f} %)",
        f"15 epochs do not open it ({errors['exclusive']:.0f} %)",
    )


def test_the_order_of_activation():
    names = ("original", "bn_after_addition", "relu_before_addition", "relu_preactivation", "preactivation")
    for measure in (loss, error):
        found = {name: measure("activation_order", name) for name in names}
        assert ranked(found)[0] == "bn_after_addition" and found["preactivation"] > found["original"]
    says("BatchNorm after the sum is the worst, in training loss and in error")


def test_groups_and_widths():
    variants = ("1x64d", "2x40d", "4x24d", "8x14d")
    found, deviations = ([measure("cardinality", name) for name in variants] for measure in (loss, spread))
    assert found[3] < min(found[:3]) and found[0] == max(found)
    says(
        "is {:.4f}, {:.4f}, {:.4f} and {:.4f} with 1, 2, 4 and 8 groups".format(*found),
        f"the deviations over seeds are {min(deviations):.3f} to {max(deviations):.3f}",
    )
    kinds = [
        [loss("without_shortcuts", f"{name}_{how}") for how in ("with", "without")] for name in ("ResNet", "ResNeXt")
    ]
    assert kinds[0][1] - kinds[0][0] > kinds[1][1] - kinds[1][0] > 0
    says("from {:.3f} to {:.3f} and from {:.3f} to {:.3f}; table 5".format(*kinds[0], *kinds[1]))
    twice = [loss("capacity", name) for name in ("2x64d", "1x100d")]
    four = [loss("capacity", name) for name in ("4x64d", "1x150d")]
    apart = [spread("capacity", name) for name in ("4x64d", "1x150d")]
    assert abs(twice[0] - twice[1]) < 0.0011 and 0 < four[1] - four[0] < max(apart)
    says(
        "the same training loss ({:.3f} and {:.3f})".format(*twice),
        "the lower one ({:.3f} and {:.3f}), as in figure 7 of the paper, but by no more than the deviations over "
        "seeds, {:.3f} and {:.3f}.".format(*four, *apart),
    )


@pytest.mark.parametrize("dense, residual", [("densenet_bc34_10", "resnet20"), ("densenet_bc34_13", "resnet32")])
def test_dense_networks_have_a_third_of_the_parameters(dense, residual):
    ours, theirs = (runs("densenet", name)[0][0]["params"] for name in (dense, residual))
    assert 0.32 < ours / theirs < 0.36 and loss("densenet", dense) < loss("densenet", residual)


def test_the_table_of_the_rest():
    dense = [loss("densenet", name) for name in ("densenet_bc34_10", "densenet_bc34_13", "resnet20", "resnet32")]
    says("lower ({:.3f} and {:.3f} where ResNet has {:.3f} and {:.3f})".format(*dense))
    gates = ("reduction2", "reduction4", "reduction8")
    gated, apart = ([measure("squeeze_excitation", name) for name in gates] for measure in (loss, spread))
    plain = loss("squeeze_excitation", "none")
    assert min(gated) > plain
    says(
        f"training losses of {min(gated):.3f} to {max(gated):.3f} where it is {plain:.3f} without them, with "
        f"deviations of {min(apart):.3f} to {max(apart):.3f}"
    )
    zero = {name: loss("zero_init", name) for name in ("scale0_20", "scale1_20", "scale0_56", "scale1_56")}
    says(
        f"is {zero['scale0_20']:.2f} where it is {zero['scale1_20']:.2f}, with 20 layers; "
        f"{zero['scale0_56']:.2f} and {zero['scale1_56']:.2f} with 56"
    )
    drops = ("drop0", "drop10", "drop20", "drop50")
    dropped, errors = ([measure("stochastic_depth", name) for name in drops] for measure in (loss, error))
    assert dropped == sorted(dropped)
    each = [[100 * (1 - summary["top1"]) for summary, _ in runs("stochastic_depth", name)] for name in drops]
    assert max(errors) - min(errors) < max(max(one) - min(one) for one in each)
    says(
        f"from {dropped[0]:.3f} to {dropped[3]:.3f} at a half; "
        f"the test errors, {min(errors):.1f} to {max(errors):.1f} %"
    )
    widths = [loss("bottleneck_width", f"width{width}") for width in (16, 32, 64, 128)]
    says("training loss {:.3f}, {:.3f}, {:.3f}, {:.3f} for 16, 32, 64, 128 channels".format(*widths))
    scopes = [loss("norm_scope", f"images{images}") for images in (8, 16, 32, 64)]
    says("training loss {:.3f}, {:.3f}, {:.3f} and {:.3f} with 8, 16, 32 and 64 images".format(*scopes))


def test_the_accuracies_of_the_readme():
    def top1(archive, folder=""):
        return 100 * json.loads(archived(archive)[f"{folder}summary.json"])["top1"]

    seeds = [top1("digits.zip", f"seed{seed}/") for seed in range(6)]
    short, fast = top1("cifar10_short_resnet20.zip"), top1("cifar10_fast.zip")
    residual, plain = (
        [error("degradation", f"{kind}-{layers}", "studies_cifar10") for layers in (20, 32)]
        for kind in ("residual", "plain")
    )
    says(
        f"{min(seeds):.1f} to {max(seeds):.1f} % over six seeds",
        f"| {short:.2f} % top-1 after ten epochs, one seed",
        f"| {fast:.2f} % in",
        f"ResNet-20 {residual[0]:.2f} % error (published 8.75 %), ResNet-32 {residual[1]:.2f} %",
        f"plain networks of 20 and 32 layers {plain[0]:.2f} and {plain[1]:.2f} %",
        of="README.md",
    )
    for kind in ("bfloat16", "float16"):
        says(f"ends at {top1('digits_precision.zip', f'{kind}/'):.1f} % of the 359 test images in both", of="faults.md")


def test_the_counts_and_the_time_of_the_readme():
    sweeps = [file for file in (ROOT / "configs" / "sweeps").glob("*.py") if file.stem not in ("__init__", "scales")]
    names = {name.split("/")[0] for name in archived("studies/degradation.zip") if "/" in name}
    seconds = sum(summary["wall_seconds"] for name in names for summary, _ in runs("degradation", name))
    assert sorted(names) == sorted(f"{kind}-{depth}" for kind in ("plain", "residual") for depth in (8, 20, 32, 56))
    assert round(seconds / 60) == 6
    says(
        f"{len(list_models())} networks, weights of torchvision and timm",
        f"[{len(sweeps)} sweeps with the papers' tables beside ours]",
        "Plain and residual networks of 8 to 56 layers, three seeds: six minutes",
        of="README.md",
    )


def test_the_speed_against_the_step_before():
    record = json.loads((ROOT / "results" / "step" / "against.json").read_text())
    ratio = {row["network"].partition(":")[0]: row["ratio"] for row in record["rows"]}
    says(
        f"of the commit {record['against']}",
        f"ResNet-18 {ratio['resnet18']:.2f}, ResNet-50 {ratio['resnet50']:.2f}, ResNeXt-50 "
        f"{ratio['resnext50_32x4d']:.2f} and CIFAR ResNet-20 {ratio['cifar_resnet20']:.2f} of its speed",
        of="performance.md",
    )
