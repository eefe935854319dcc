"""Worker processes: what they return, print and raise, and what becomes of one that is killed."""

import operator
import os
import signal
import threading
import time

import pytest

from fedsim.parallel import workers

run = workers.run_in_workers


def test_results_by_number_from_processes_that_stay_alive():
    taken = []

    def pieces():
        for number in range(5):
            taken.append(number)
            yield number

    assert run(operator.neg, pieces(), 2) == ({number: -number for number in range(5)}, [])
    assert taken == [0, 1, 2, 3, 4]
    found, _ = run(eval, ["__import__('os').getpid()"] * 5, 2)  # Python's own: a test's functions are not importable
    assert len(set(found.values())) <= 2
    assert os.getpid() not in found.values()


def test_what_is_printed_is_printed_here(capsys):
    run(print, ["one", "two"], 1)
    run(eval, ["__import__('sys').stderr.write('three\\n')"], 1)
    assert tuple(capsys.readouterr()) == ("one\ntwo\n", "three\n")


@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [
        (os.listdir, FileNotFoundError, "no such place"),
        (int, RuntimeError, "ValueError: invalid literal for int"),
    ],
)
def test_an_exception_is_raised_here(work, kind, words):
    with pytest.raises(kind, match=words):
        run(work, ["no such place"], 2)


def test_a_killed_worker_takes_no_other_with_it():
    pieces = ["1", "__import__('os').kill(__import__('os').getpid(), 9)", "3", "4"]
    assert run(eval, pieces, 2) == ({0: 1, 2: 3, 3: 4}, [1])
    assert run(eval, pieces, 1) == ({0: 1}, [1])  # there is nobody left for the others


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_passed_on_once_and_nothing_is_begun_after_it(number, tmp_path, capsys):
    """Each piece sleeps until Ctrl-C; the signal comes when two have begun. Workers heed nobody else's SIGTERM."""
    code = "__import__('os').mknod({!r}), __import__('time').sleep(60)"

    def send():
        deadline = time.monotonic() + 60
        while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        for child in workers.multiprocessing.active_children():
            os.kill(child.pid, signal.SIGTERM)
        time.sleep(0.3)
        os.kill(os.getpid(), number)

    thread = threading.Thread(target=send)
    thread.start()
    begun = time.monotonic()
    with pytest.raises(workers.Interrupted) as raised:
        run(eval, [code.format(str(tmp_path / name)) for name in "abcd"], 2)
    thread.join()
    assert raised.value.number == number
    assert time.monotonic() - begun < 50
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
    assert capsys.readouterr().err.startswith("note: ending after the rounds that are running")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not workers.multiprocessing.active_children()
