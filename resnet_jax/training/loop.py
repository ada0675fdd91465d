"""The loop: steps, measurements, evaluations and checkpoints, in this order.

What is measured at step k is logged before the checkpoint of step k is saved: a run that was killed in between finds
every measurement up to its newest checkpoint, and takes those that come after once more.
"""

import collections
import contextlib
import math
from collections.abc import Iterator
from typing import Any, cast

import jax

from resnet_jax.data.pipeline import EvaluationOrder, StepRange
from resnet_jax.run.checkpoints import Checkpoints
from resnet_jax.run.interrupts import Interrupts
from resnet_jax.training.log import Log
from resnet_jax.training.metrics import Sums
from resnet_jax.training.optimizers import averages, evaluation_params
from resnet_jax.training.state import TrainState
from resnet_jax.training.trainer import Trainer

# Dispatches that the host may be ahead by: the next batch is read and travels while the devices compute, and no more of
# them lie on the devices than these and one.
MAX_IN_FLIGHT = 2


def train(
    trainer: Trainer, state: TrainState, first: int, log: Log, checkpoints: Checkpoints, interrupts: Interrupts
) -> None:
    """Train `state`, which has done `first` steps, to the last step.

    Raises:
      Diverged: the loss or the gradient became NaN or infinite.
      Interrupted: the user or the system asked to stop; the state is saved.
      UserError: the disk takes no more.
    """
    key = trainer.key()
    data = trainer.devices.replicate(trainer.train_loader.data)
    evaluate = evaluator(trainer, interrupts)
    evaluate(state, 1)  # compiled here, where an interrupt has nothing to save and need not wait for the compiler
    # A transfer between host and device that nobody asked for is slow and silent: here it is an error.
    with jax.transfer_guard("disallow"):
        if first and is_due(first, trainer.evaluate_every, trainer.total_steps) and not log.evaluation_at(first):
            log.evaluated(first, evaluate(state))

        ranges, running = list(dispatches(trainer, first)), collections.deque()
        with contextlib.closing(trainer.train_loader.batches(ranges)) as batches:
            for (start, end), rows in zip(ranges, batches, strict=True):
                dispatch = trainer.devices.shard(rows, trainer.steps_per_call)
                state, means = trainer.train_program(state, data, dispatch, key)
                interrupts.hold()
                running.append(means)
                if len(running) > MAX_IN_FLIGHT:
                    jax.block_until_ready(running.popleft())
                log.trained(start, end, means)
                stops = interrupts.requested
                evaluates = is_due(end, trainer.evaluate_every, trainer.total_steps)
                if stops or evaluates or is_due(end, trainer.save_every, trainer.total_steps):
                    log.flush(end)
                    results = evaluate(state) if evaluates and not stops else {}
                    log.evaluated(end, results)
                    checkpoints.save(end, state, results.get("test"))
                    if interrupts.requested:
                        checkpoints.wait()
                        interrupts.stop(f"at step {end}")
        checkpoints.wait()


def evaluator(trainer: Trainer, interrupts: Interrupts):
    """Return a function of a train state to the metrics of every split: "test", and "test_ema" of its moving averages.

    Each example counts exactly once: the metrics hold their number as "examples". An interrupt ends it with no result.
    The function's second argument is how many dispatches to make, if not all.
    """
    loader = trainer.eval_loader
    data = trainer.devices.replicate(loader.data)
    last = cast(EvaluationOrder, loader.order).steps
    most_steps = min(trainer.steps_per_call, last)
    ranges = [(step, min(step + most_steps, last)) for step in range(0, last, most_steps)]
    own_params = jax.jit(evaluation_params)

    def measure(params, batch_stats, most):
        sums = []
        with contextlib.closing(loader.batches(ranges[:most])) as batches:
            for rows in batches:
                dispatch = trainer.devices.shard(rows, most_steps)
                sums.append(trainer.eval_program(params, batch_stats, data, dispatch))
                if len(sums) > MAX_IN_FLIGHT:
                    jax.block_until_ready(sums[-1 - MAX_IN_FLIGHT])
                if interrupts.requested:
                    return None
        total = sum(jax.device_get(sums), start=Sums.none())
        return total.means() | {"examples": int(total.examples)}

    def evaluate(state, most=None) -> dict[str, dict[str, Any]]:
        params = own_params(state.params, state.opt_state) if averages(state.opt_state) else state.params
        results: dict[str, Any] = {"test": measure(params, state.batch_stats, most)}
        if state.average is not None:
            results["test_ema"] = measure(state.average.params, state.average.batch_stats, most)
        return {} if None in results.values() else results

    return evaluate


def dispatches(trainer: Trainer, first: int) -> Iterator[StepRange]:
    """Yield the steps of each dispatch. Where they end depends on the step alone, not on where the run was started."""
    step = first
    while step < trainer.total_steps:
        ends = [(step // every + 1) * every for every in (trainer.steps_per_call, trainer.log_every)]
        ends += [next_due(step, period) for period in (trainer.evaluate_every, trainer.save_every)]
        end = min(*ends, trainer.total_steps)
        yield step, end
        step = end


def next_due(step: int, period: float) -> int:
    """Return the first step after `step` at which a multiple of `period` steps is done."""
    count = math.floor(step / period + 1e-9) + 1
    return math.ceil(count * period - 1e-6)


def is_due(step: int, period: float, last: int) -> bool:
    """Return whether `step` is the last one, or the first at which a multiple of `period` steps is done."""
    return step == last or next_due(step - 1, period) == step
