import signal

import pytest

from resnet_jax.run.interrupts import Interrupted, Interrupts


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_and_a_second_ctrl_c_is_left_to_the_system_which_ends_the_process(number):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        interrupts.hold()
        interrupts.hold()
        assert not interrupts.requested
        signal.raise_signal(number)
        assert interrupts.requested and signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        signal.raise_signal(signal.SIGTERM)  # schedulers send it again and again
        with pytest.raises(Interrupted, match="the same command resumes") as stop:
            interrupts.stop("at step 3")
        assert stop.value.signal in (number, signal.SIGTERM)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_nothing_is_caught_before_there_is_something_to_save():
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts() as interrupts:
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
        assert not interrupts.requested
