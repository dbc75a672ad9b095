"""Progress out, cancel in."""

import threading
from collections.abc import Iterator

import pytest

from engine.job import Cancelled, Job


def test_a_new_job_knows_neither_its_amount_nor_its_stage() -> None:
    job = Job()
    assert (job.text, job.done, job.total, job.fraction, job.cancelled) == ("", 0, 0, None, False)


def test_fraction_follows_the_steps_and_never_passes_one() -> None:
    job = Job()
    job.begin("Rounding", total=4)
    seen = [job.fraction]
    for _ in range(5):
        job.advance()
        seen.append(job.fraction)
    assert seen == [0, 0.25, 0.5, 0.75, 1, 1]


def test_a_new_stage_starts_from_nothing() -> None:
    job = Job()
    job.begin("First", total=2)
    job.advance(2)
    job.begin("Second")
    assert (job.text, job.done, job.total, job.fraction) == ("Second", 0, 0, None)


def test_cancelling_stops_at_every_check() -> None:
    job = Job()
    job.begin("Working", total=2)
    job.check()
    job.cancel()
    assert job.cancelled
    for step in (job.check, job.advance, lambda: job.begin("More")):
        with pytest.raises(Cancelled):
            step()
    assert job.text == "Working"
    assert job.done == 1, "the step that was done is counted"


def test_another_thread_may_cancel() -> None:
    job = Job()
    thread = threading.Thread(target=job.cancel)
    thread.start()
    thread.join()
    with pytest.raises(Cancelled):
        job.check()


def test_track_counts_what_has_been_dealt_with() -> None:
    job = Job()
    done = [(item, job.done) for item in job.track(["a", "b", "c"], "Reading")]
    assert done == [("a", 0), ("b", 1), ("c", 2)]
    assert (job.text, job.done, job.total) == ("Reading", 3, 3)


def test_track_takes_the_amount_of_what_has_no_length() -> None:
    job = Job()
    assert list(job.track(iter("ab"), "Reading")) == ["a", "b"]
    assert job.fraction is None
    assert list(job.track(iter("ab"), "Reading", total=2)) == ["a", "b"]
    assert job.fraction == 1


def test_track_asks_for_no_further_item_once_cancelled() -> None:
    asked = []

    def items() -> Iterator[int]:
        for item in range(5):
            asked.append(item)
            yield item

    job = Job()
    tracked = job.track(items(), "Reading")
    assert (next(tracked), next(tracked)) == (0, 1)
    job.cancel()
    with pytest.raises(Cancelled):
        next(tracked)
    assert asked == [0, 1]
