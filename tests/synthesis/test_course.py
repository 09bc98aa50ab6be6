from __future__ import annotations

import threading

import pytest
from torch.distributed import HashStore

from cake_cli.errors import DataError
from cake_cli.events import SILENT, Figure
from cake_cli.ranks import OtherRankFailed, Ranks, SharedBoard
from cake_cli.synthesis import course as course_module
from cake_cli.synthesis.course import Course, TimeIsUp

SILENCE = SILENT.stage("", 1, "")


class Seen:
    """A stage that remembers."""

    def __init__(self) -> None:
        self.done = 0.0
        self.figures: dict[str, Figure] = {}

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def advance(self, amount: float = 1, **figures: Figure) -> None:
        self.done += amount
        self.figures |= figures

    def conclude(self, summary: str) -> None:
        pass


@pytest.fixture(autouse=True)
def always_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(course_module, "LOOK_SECONDS", 0.0)


@pytest.fixture
def pair() -> list[Ranks]:
    store = HashStore()
    return [Ranks(rank, 2, board=SharedBoard(store)) for rank in range(2)]


def test_a_turn_is_given_once(pair: list[Ranks]) -> None:
    courses = [Course(SILENCE, ranks) for ranks in pair]
    assert sorted(course.next_turn() for course in courses for _ in range(3)) == list(range(6))
    alone = Course(SILENCE, Ranks())
    assert [alone.next_turn(), alone.next_turn()] == [0, 1]


def test_the_first_rank_shows_what_all_have_done(pair: list[Ranks]) -> None:
    seen = Seen()
    first, second = Course(seen, pair[0]), Course(Seen(), pair[1])
    second.advance(30)
    first.advance(10)
    assert seen.done == pytest.approx(40)
    second.begin_wave()
    second.advance(7.5)
    first.advance(0)
    assert seen.done == pytest.approx(47.5)
    second.take_back()
    first.advance(0)
    assert seen.done == pytest.approx(40)


def test_the_first_waits_for_the_others(pair: list[Ranks]) -> None:
    first, second = (Course(SILENCE, ranks) for ranks in pair)
    waiting = threading.Thread(target=first.wait_for_all)
    waiting.start()
    waiting.join(0.15)
    assert waiting.is_alive()
    second.wait_for_all()
    waiting.join(10)
    assert not waiting.is_alive()


def test_the_fault_of_another_rank_stops_the_first(pair: list[Ranks]) -> None:
    first = Course(SILENCE, pair[0])
    pair[1]._announce(DataError("the shard is gone", "copy it again"))
    with pytest.raises(OtherRankFailed, match="rank 1 of 2: the shard is gone") as caught:
        first.advance(1)
    assert (caught.value.exit_code, caught.value.fix) == (4, "copy it again")
    Course(SILENCE, pair[1]).advance(1)


def test_time_is_up_over_all_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(course_module.time, "monotonic", lambda: now[0])
    course = Course(SILENCE, Ranks(), spent=5.0, budget=20.0)
    now[0] += 14.0
    course.advance(1)
    assert (course.spent, course.is_over_time) == (19.0, False)
    now[0] += 1.0
    with pytest.raises(TimeIsUp):
        course.advance(1)
    with pytest.raises(TimeIsUp):
        course.next_turn()
    course.wait_for_all()
    assert course.is_over_time


def test_what_is_watched_can_stop_it_and_figures_are_shown() -> None:
    seen = Seen()
    course = Course(seen, Ranks())
    course.shows(on_target="98 %")
    course.advance(1)
    assert seen.figures == {"on_target": "98 %"}

    def full() -> None:
        raise OSError(28, "No space left on device")

    course.watch(full)
    with pytest.raises(OSError, match="No space"):
        course.advance(1)
