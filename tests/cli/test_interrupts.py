from __future__ import annotations

import signal
import threading

import pytest

from ia3.cli.interrupts import Interrupts


def test_before_the_run_is_under_way_ctrl_c_stops_at_once() -> None:
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_in_a_run_the_first_signal_asks_and_the_second_stops(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with Interrupts() as interrupts:
        interrupts.begin()
        assert not interrupts.is_asked()
        signal.raise_signal(number)
        assert interrupts.is_asked()
        assert capfd.readouterr().err == "stopping after this step; once more stops at once\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)


def test_the_handlers_before_are_back_afterwards() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with Interrupts():
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_outside_the_main_thread_the_handlers_stay() -> None:
    before = signal.getsignal(signal.SIGINT)
    seen = []

    def run() -> None:
        with Interrupts() as interrupts:
            seen.append((signal.getsignal(signal.SIGINT), interrupts.is_asked()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [(before, False)]
