import jax
import numpy as np

from resnet_jax.lab.analysis.scoring import Score, scorer
from resnet_jax.lab.analysis.surface import filter_direction, loss_surface, moved
from tests.lab.analysis.networks import small


def test_a_direction_has_the_norms_of_the_filters():
    _, variables, _, _ = small("post-activation", (1,))
    params = variables["params"]
    direction = filter_direction(params, jax.random.key(0))
    kernel, other = params["stage1_block1"]["conv1"]["kernel"], direction["stage1_block1"]["conv1"]["kernel"]
    for out in range(4):
        np.testing.assert_allclose(np.linalg.norm(other[..., out]), np.linalg.norm(kernel[..., out]), rtol=1e-5)
    assert not np.allclose(other, kernel)
    np.testing.assert_allclose(
        np.linalg.norm(direction["head"]["kernel"], axis=0), np.linalg.norm(params["head"]["kernel"], axis=0), rtol=1e-5
    )
    for one_axis in (direction["head"]["bias"], direction["stem_bn"]["scale"], direction["stem_bn"]["bias"]):
        assert not np.any(one_axis)


def test_the_surface_of_a_quadratic_is_a_parabola():
    start, directions = {"w": np.zeros(2)}, ({"w": np.array([1.0, 0.0])}, {"w": np.array([0.0, 3.0])})

    def score(*shares):
        w = moved(start, directions[: len(shares)], shares)["w"]
        return Score(0.25, float(np.sum(np.square(w))))

    steps = np.array([-1.0, 0.0, 0.5])
    loss, error = loss_surface(score, steps, 2)
    np.testing.assert_allclose(loss, [[10, 1, 3.25], [9, 0, 2.25], [9.25, 0.25, 2.5]])
    assert error.shape == (3, 3)
    np.testing.assert_allclose(loss_surface(score, steps, 1)[0], [1, 0, 0.25])


def test_the_centre_has_the_loss_of_the_network_and_statistics_stay():
    model, variables, images, labels = small("post-activation", (1,))
    direction = filter_direction(variables["params"], jax.random.key(0))

    def logits_of(step, images):
        return model.apply(variables | {"params": moved(variables["params"], [direction], [step])}, images)

    loss, _ = loss_surface(scorer(logits_of, images, labels), np.array([-0.5, 0.0]), 1)
    whole = scorer(lambda images: model.apply(variables, images), images, labels)()
    assert loss[1] == whole.loss
    assert abs(loss[0] - whole.loss) > 1e-3
