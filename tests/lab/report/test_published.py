from resnet_jax.config import network_fields
from resnet_jax.lab.report.published import find_published, read_published
from resnet_jax.models.registry import find, list_models


def test_published_results_name_networks_and_their_sources():
    for row in read_published():
        assert row.name in list_models() and row.source and 0.5 < row.top1 < 1
        assert row.dataset in ("imagenet", "cifar10", "cifar100")
    keys = [(row.key, row.dataset, row.source) for row in read_published()]
    assert len(keys) == len(set(keys))


def test_the_variants_of_published_results_are_fields_of_networks():
    fields = network_fields()
    for row in read_published():
        if row.variant:
            field, value = row.variant.split("=")
            assert field in fields and find(row.name)
            kind = fields.get_type(field)
            assert value in ("True", "False") if kind is bool else kind(value) is not None


def test_of_several_sources_that_of_the_study_is_taken_and_of_these_the_mean():
    assert find_published("resnext50_32x4d", "imagenet").source.startswith("torchvision")
    assert find_published("resnext50_32x4d", "imagenet", "Xie et al. 2017").top1 == 0.778
    mean = find_published("cifar_resnet110", "cifar10", "He et al. 2015")
    assert (mean.top1, mean.spread) == (0.9339, 0.0016)
    assert find_published("resnet34 shortcut=C", "imagenet").top1 == 0.7581
    assert find_published("resnet34 shortcut=C", "cifar10") is None
