"""Values that are made when they are asked for."""

from __future__ import annotations

from collections.abc import Callable

from ia3.core.deferred import Deferred, Held


def test_a_value_to_come_is_made_when_it_is_asked_for_and_may_turn_out_not_to_be_there() -> None:
    made: list[str] = []

    def making(value: str | None) -> Callable[[], str | None]:
        return lambda: made.append(str(value)) or value

    held: Held[str] = Held({1: "here"}).also({2: Deferred(making("later")), 3: Deferred(making(None))})
    assert held.without(1).also({4: "four"}).given.keys() == {2, 3, 4} and held.also({}) is held
    assert held[1] == "here" and 1 in held and 5 not in held and made == []
    assert held[2] == "later" and made == ["later"]
    assert held.get(3) is None and 3 not in held
    assert dict(held) == {1: "here", 2: "later"} and len(held) == 2
